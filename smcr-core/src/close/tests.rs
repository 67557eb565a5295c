use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::CloseEvent as Event;
use super::CloseState as State;
use super::*;

/// The whole table as text; `table.txt` beside this file is what it has to be. Set
/// `SMCR_WRITE_SNAPSHOTS` to write it anew, and read the difference before you take it.
#[test]
fn the_table_is_as_it_was() {
    let mut text = String::new();
    for state in State::ALL {
        let timer = match state.timer() {
            Some(timer) => format!(" (timer: {timer:?})"),
            None => String::new(),
        };
        writeln!(text, "{state:?}{timer}").unwrap();
        for event in Event::ALL {
            let (next, actions) = table(state, event);
            if next == state && actions.is_empty() {
                writeln!(text, "  {event:?}: ignored").unwrap();
            } else {
                writeln!(text, "  {event:?}: {next:?}; {actions:?}").unwrap();
            }
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/close/tests/table.txt");
    if std::env::var_os("SMCR_WRITE_SNAPSHOTS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap();
    for (line, (found, expected)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "line {} of table.txt", line + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count());
}

/// All pairs of a state and an event.
fn pairs() -> impl Iterator<Item = (State, Event, State, Actions)> {
    State::ALL.into_iter().flat_map(|state| {
        Event::ALL.into_iter().map(move |event| {
            let (next, actions) = table(state, event);
            (state, event, next, actions)
        })
    })
}

#[test]
fn nothing_is_left_to_chance() {
    for (state, event, next, actions) in pairs() {
        let here = format!("{event:?} in {state:?}");
        let frees = [Actions::FREE, Actions::FREE_UNCONFIRMED].map(|free| actions.has(free));
        // The element is given back once, when the connection is over.
        let ends = next == State::Closed && state != State::Closed;
        assert_eq!(ends, frees[0] || frees[1], "{here}");
        assert!(!(frees[0] && frees[1]), "{here}");
        // At most one message.
        let sends = [
            Actions::SEND_DONE,
            Actions::SEND_CLOSED,
            Actions::SEND_ABORTED,
        ];
        let sends = sends.iter().filter(|send| actions.has(**send)).count();
        assert!(sends <= 1, "{here}");
        // A wait that nobody ends.
        if state.timer().is_some() {
            assert_ne!(table(state, Event::Timeout).0, state, "{state:?}");
        } else {
            assert_eq!(
                table(state, Event::Timeout),
                (state, Actions::NONE),
                "{state:?}"
            );
        }
        // Unread data are only dropped by a reset, or by the program itself.
        if actions.has(Actions::DISCARD_RECEIVED) {
            assert!(
                matches!(
                    event,
                    Event::CloseUnread
                        | Event::Abort
                        | Event::PeerAborted
                        | Event::TcpReset
                        | Event::Timeout
                ),
                "{here}"
            );
        }
        // Whoever may still be in a call is told.
        let was_open = !matches!(
            state,
            State::PeerCloseWait1Closed
                | State::PeerCloseWait2Closed
                | State::PeerFinCloseWait
                | State::PeerAbortWait
                | State::ProcessAbort
                | State::Closed
        );
        let by_itself = matches!(event, Event::Close | Event::CloseUnread);
        let init_aborts = state == State::Init && event == Event::Abort;
        let has_ended = matches!(
            state,
            State::AppCloseWait1Closed | State::AppCloseWait2Closed | State::AppFinCloseWait
        ) && event == Event::LinkLost;
        if was_open
            && !by_itself
            && !init_aborts
            && !has_ended
            && matches!(
                next,
                State::Closed | State::ProcessAbort | State::PeerAbortWait
            )
        {
            assert!(
                actions.has(Actions::FAIL_RESET) || actions.has(Actions::FAIL_ABORTED),
                "{here}"
            );
        }
    }
}

#[test]
fn all_states_are_reached_and_all_end() {
    let mut reached = HashSet::from([State::Init]);
    let mut queue = VecDeque::from([State::Init]);
    while let Some(state) = queue.pop_front() {
        for event in Event::ALL {
            let (next, _) = table(state, event);
            if reached.insert(next) {
                queue.push_back(next);
            }
        }
    }
    assert_eq!(reached.len(), State::ALL.len());
    for state in State::ALL {
        assert_eq!(table(state, Event::LinkLost).0, State::Closed);
    }
}

#[test]
fn flags_of_the_peer() {
    let (d, c, a) = (
        ConnState::DONE_WRITING,
        ConnState::CLOSED,
        ConnState::ABORTED,
    );
    for (flags, event) in [
        (ConnState::NONE, None),
        (d, Some(Event::PeerDone)),
        (c, Some(Event::PeerClosed)),
        (d | c, Some(Event::PeerClosed)),
        (a, Some(Event::PeerAborted)),
        (a | d, Some(Event::PeerAborted)),
        (a | c, Some(Event::PeerAborted)),
        (a | c | d, Some(Event::PeerAborted)),
    ] {
        assert_eq!(Event::of_peer(flags, false), event, "{flags:?}");
        let event = match event {
            Some(Event::PeerClosed) => Some(Event::PeerClosedUnsent),
            event => event,
        };
        assert_eq!(Event::of_peer(flags, true), event, "{flags:?}, unsent");
    }
}

/// Two ends and the messages between them, delivered in order.
struct Pair {
    ends: [Close; 2],
    /// What each end has put into its messages so far.
    sent: [ConnState; 2],
    /// Messages on their way to each end.
    wire: [VecDeque<ConnState>; 2],
    freed: [Option<Actions>; 2],
    errors: [Actions; 2],
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let mut ends = [(); 2].map(|()| Close::new(CloseTimeouts::default()));
        for end in &mut ends {
            assert_eq!(end.handle(Event::Established, now), Actions::NONE);
        }
        Self {
            ends,
            sent: [ConnState::NONE; 2],
            wire: Default::default(),
            freed: [None; 2],
            errors: [Actions::NONE; 2],
            now,
        }
    }

    fn happens(&mut self, end: usize, event: Event) {
        let actions = self.ends[end].handle(event, self.now);
        self.carry_out(end, actions);
    }

    fn carry_out(&mut self, end: usize, actions: Actions) {
        for (action, flag) in [
            (Actions::SEND_DONE, ConnState::DONE_WRITING),
            (Actions::SEND_CLOSED, ConnState::CLOSED),
            (Actions::SEND_ABORTED, ConnState::ABORTED),
        ] {
            // Nothing follows C or A.
            let is_last = ConnState::CLOSED | ConnState::ABORTED;
            if actions.has(action) && !self.sent[end].intersects(is_last) {
                self.sent[end] = self.sent[end].with(flag);
                self.wire[1 - end].push_back(self.sent[end]);
            }
        }
        for free in [Actions::FREE, Actions::FREE_UNCONFIRMED] {
            if actions.has(free) {
                assert_eq!(self.freed[end].replace(free), None, "freed twice");
            }
        }
        for error in [Actions::FAIL_RESET, Actions::FAIL_ABORTED] {
            if actions.has(error) {
                self.errors[end] = self.errors[end].and(error);
            }
        }
        if actions.has(Actions::SEND_ABORTED) {
            self.happens(end, Event::Sent);
        }
    }

    fn deliver(&mut self) {
        while let Some(end) = (0..2).find(|end| !self.wire[*end].is_empty()) {
            let flags = self.wire[end].pop_front().unwrap();
            // The first end that is free has to be able to rely on the other's promise.
            let event = Event::of_peer(flags, false).unwrap();
            self.happens(end, event);
        }
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    #[track_caller]
    fn is_over(&self, errors: [Actions; 2]) {
        assert_eq!(self.states(), [State::Closed; 2]);
        assert_eq!(self.freed, [Some(Actions::FREE); 2]);
        assert_eq!(self.errors, errors);
        assert!(self.ends.iter().all(|end| end.poll_timeout().is_none()));
    }
}

#[test]
fn one_closes_then_the_other() {
    let mut pair = Pair::new();
    pair.happens(0, Event::Close);
    assert_eq!(pair.states(), [State::PeerCloseWait1Closed, State::Active]);
    pair.deliver();
    assert_eq!(pair.states()[1], State::AppCloseWait1Closed);
    pair.happens(1, Event::Close);
    assert_eq!(pair.freed, [None, Some(Actions::FREE)]);
    pair.deliver();
    pair.is_over([Actions::NONE; 2]);
}

#[test]
fn half_close_both_ways() {
    let mut pair = Pair::new();
    pair.happens(0, Event::ShutdownWrite);
    pair.deliver();
    assert_eq!(pair.states(), [State::PeerCloseWait1, State::AppCloseWait1]);
    pair.happens(1, Event::ShutdownWrite);
    pair.deliver();
    assert_eq!(pair.states(), [State::PeerCloseWait2, State::AppCloseWait2]);
    pair.happens(1, Event::Close);
    pair.deliver();
    assert_eq!(
        pair.states(),
        [State::AppFinCloseWait, State::PeerFinCloseWait]
    );
    pair.happens(0, Event::Close);
    pair.deliver();
    pair.is_over([Actions::NONE; 2]);
}

#[test]
fn both_close_at_once() {
    let mut pair = Pair::new();
    pair.happens(0, Event::Close);
    pair.happens(1, Event::Close);
    pair.deliver();
    pair.is_over([Actions::NONE; 2]);
}

#[test]
fn closing_with_unread_data_resets() {
    let mut pair = Pair::new();
    pair.happens(0, Event::CloseUnread);
    assert_eq!(pair.states(), [State::PeerAbortWait, State::Active]);
    pair.deliver();
    pair.is_over([Actions::NONE, Actions::FAIL_RESET]);
}

#[test]
fn both_abort_at_once() {
    let mut pair = Pair::new();
    pair.happens(0, Event::Abort);
    pair.happens(1, Event::Abort);
    pair.deliver();
    pair.is_over([Actions::FAIL_ABORTED; 2]);
}

#[test]
fn a_close_meets_an_abort() {
    let mut pair = Pair::new();
    pair.happens(0, Event::Close);
    pair.happens(1, Event::Abort);
    pair.deliver();
    pair.is_over([Actions::NONE, Actions::FAIL_ABORTED]);
}

/// Whatever two programs do in whatever order: both ends come to their end as soon as both have
/// closed, without any timer, and each knows that the other writes no more.
#[test]
fn every_order_of_local_events() {
    let local = [
        Event::ShutdownWrite,
        Event::Close,
        Event::CloseUnread,
        Event::Abort,
    ];
    let mut seen = HashMap::<[State; 2], usize>::new();
    for code in 0..(2 * 4 * 2usize).pow(4) {
        let mut pair = Pair::new();
        let mut rest = code;
        for _ in 0..4 {
            let (end, event, deliver) = (rest % 2, local[rest / 2 % 4], rest / 8 % 2 == 0);
            rest /= 16;
            pair.happens(end, event);
            if deliver {
                pair.deliver();
            }
            *seen.entry(pair.states()).or_default() += 1;
        }
        for end in 0..2 {
            pair.happens(end, Event::Close);
            pair.deliver();
        }
        assert_eq!(pair.states(), [State::Closed; 2], "{code}");
        assert_eq!(pair.freed, [Some(Actions::FREE); 2], "{code}");
    }
    assert!(seen.len() > 20, "{} combinations of states", seen.len());
}

#[test]
fn a_peer_that_is_gone_costs_a_deadline() {
    let timeouts = CloseTimeouts::default();
    for (events, steps) in [
        (
            &[Event::ShutdownWrite][..],
            &[timeouts.half_closed, timeouts.aborted][..],
        ),
        (&[Event::Close], &[timeouts.closed]),
        (&[Event::PeerDone, Event::Close], &[timeouts.closed]),
        (&[Event::CloseUnread], &[timeouts.aborted]),
        (&[Event::Abort], &[timeouts.aborted]),
    ] {
        let mut now = Instant::now();
        let mut close = Close::new(timeouts);
        close.handle(Event::Established, now);
        for event in events {
            close.handle(*event, now);
        }
        let mut last = Actions::NONE;
        for step in steps {
            assert_eq!(close.poll_timeout(), Some(now + *step), "{events:?}");
            assert_eq!(
                close.handle_timeout(now + *step - Duration::from_nanos(1)),
                Actions::NONE
            );
            now += *step;
            last = close.handle_timeout(now);
        }
        assert_eq!(close.state(), State::Closed);
        assert!(last.has(Actions::FREE_UNCONFIRMED));
        assert_eq!(close.poll_timeout(), None);
    }
}

#[test]
fn signs_of_life_prolong_a_wait_but_not_an_abort() {
    let start = Instant::now();
    let later = start + Duration::from_secs(3);
    for (event, prolonged) in [
        (Event::ShutdownWrite, true),
        (Event::Close, true),
        (Event::Abort, false),
    ] {
        let mut close = Close::new(CloseTimeouts::default());
        close.handle(Event::Established, start);
        assert_eq!(close.poll_timeout(), None);
        close.handle(event, start);
        let before = close.poll_timeout().unwrap();
        close.restart_timer(later);
        let after = close.poll_timeout().unwrap();
        assert_eq!(after > before, prolonged, "{event:?}");
    }
    // Nor does it start one where the program is waited for.
    let mut close = Close::new(CloseTimeouts::default());
    close.handle(Event::PeerDone, start);
    close.restart_timer(later);
    assert_eq!(close.poll_timeout(), None);
}

/// Events that come again change nothing and prolong nothing.
#[test]
fn repeated_events_change_nothing() {
    for (state, event, next, _) in pairs() {
        if event == Event::Timeout || state == next {
            continue;
        }
        let (again, actions) = table(next, event);
        let moves_on = matches!(
            (next, event),
            // D, then C for the same call; a second refusal to read; the answer to our own abort.
            (State::ProcessAbort | State::PeerAbortWait, _)
        );
        if !moves_on {
            assert_eq!(
                (again, actions),
                (next, Actions::NONE),
                "{event:?} in {next:?}"
            );
        }
    }
}
