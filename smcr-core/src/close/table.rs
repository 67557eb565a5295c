//! The table.

use super::CloseEvent as Event;
use super::CloseState as State;
use super::{Actions, CloseEvent, CloseState};

/// What follows from `event` in `state`: the next state, and what to do.
///
/// Numbers like 3A are those of the flows in RFC 7609 §4.8.1 (Figure 22), "abort 1A" those of §4.8.2
/// (Figure 23). Where more is done than the RFC says, a comment has the reason.
pub const fn table(state: CloseState, event: CloseEvent) -> (CloseState, Actions) {
    match state {
        State::Init => init(event),
        State::Active => active(event),
        State::PeerCloseWait1 => half_closed(state, event),
        State::PeerCloseWait2 => half_closed(state, event),
        State::PeerCloseWait1Closed => closed_first(state, event),
        State::PeerCloseWait2Closed => closed_first(state, event),
        State::PeerFinCloseWait => closed_first(state, event),
        State::AppCloseWait1 => peer_done(state, event),
        State::AppCloseWait2 => peer_done(state, event),
        State::AppCloseWait1Closed => peer_closed(state, event),
        State::AppCloseWait2Closed => peer_closed(state, event),
        State::AppFinCloseWait => peer_closed(state, event),
        State::PeerAbortWait => peer_abort_wait(event),
        State::ProcessAbort => process_abort(event),
        State::Closed => (State::Closed, Actions::NONE),
    }
}

const DISCARD_ALL: Actions = Actions::DISCARD_UNSENT.and(Actions::DISCARD_RECEIVED);

/// Abort 1A: we give up. The RST and A go out together.
const ACTIVE_ABORT: (State, Actions) = (
    State::PeerAbortWait,
    DISCARD_ALL
        .and(Actions::SEND_ABORTED)
        .and(Actions::RESET_TCP),
);

/// Abort 2A: the peer gave up; what has not been read is lost, and A is answered at once.
const PASSIVE_ABORT: (State, Actions) = (
    State::ProcessAbort,
    DISCARD_ALL
        .and(Actions::SEND_ABORTED)
        .and(Actions::FAIL_RESET),
);

/// 4A, second half: the peer has closed, and data for it are left. The connection is reset, but as
/// after a TCP reset, what came before it can be read. The peer has promised to write no more, so
/// there is nothing to wait for except that A goes out.
const PEER_LEFT_TOO_SOON: (State, Actions) = (
    State::ProcessAbort,
    Actions::DISCARD_UNSENT
        .and(Actions::SEND_ABORTED)
        .and(Actions::FAIL_RESET)
        .and(Actions::RESET_TCP),
);

/// §4.8.2: a RST without a word from the peer. The TCP connection is gone; A still goes out.
const RST_CAME: (State, Actions) = (
    State::PeerAbortWait,
    DISCARD_ALL
        .and(Actions::SEND_ABORTED)
        .and(Actions::FAIL_RESET),
);

/// §4.8.3: no way to the peer is left. Nor has the peer one to us, so the element is free; what came
/// before can be read.
const NO_WAY_LEFT: (State, Actions) = (
    State::Closed,
    Actions::DISCARD_UNSENT
        .and(Actions::FAIL_RESET)
        .and(Actions::RESET_TCP)
        .and(Actions::FREE),
);

const fn init(event: Event) -> (State, Actions) {
    match event {
        Event::Established => (State::Active, Actions::NONE),
        // Not connected: no call for it is made.
        Event::ShutdownWrite | Event::Sent | Event::Timeout => (State::Init, Actions::NONE),
        // The handshake breaks off; the peer learns it on the TCP connection.
        Event::Close | Event::CloseUnread => (State::Closed, Actions::FREE_UNCONFIRMED),
        Event::Abort => (
            State::Closed,
            Actions::RESET_TCP.and(Actions::FREE_UNCONFIRMED),
        ),
        // A message that overtook the end of the handshake (§3.5.2.4).
        Event::PeerDone => (State::AppCloseWait1, Actions::END_OF_DATA),
        Event::PeerClosed | Event::PeerClosedUnsent => (
            State::AppCloseWait1Closed,
            Actions::END_OF_DATA.and(Actions::FAIL_WRITES),
        ),
        Event::PeerAborted => PASSIVE_ABORT,
        Event::TcpReset => (
            State::Closed,
            Actions::FAIL_RESET.and(Actions::FREE_UNCONFIRMED),
        ),
        Event::LinkLost => NO_WAY_LEFT,
    }
}

const fn active(event: Event) -> (State, Actions) {
    match event {
        Event::Established | Event::Sent | Event::Timeout => (State::Active, Actions::NONE),
        Event::ShutdownWrite => (State::PeerCloseWait1, Actions::SEND_DONE), // 3A
        Event::Close => (State::PeerCloseWait1Closed, Actions::SEND_CLOSED), // 3A
        Event::CloseUnread => ACTIVE_ABORT,                                  // 3A
        Event::Abort => with(ACTIVE_ABORT, Actions::FAIL_ABORTED),
        Event::PeerDone => (State::AppCloseWait1, Actions::END_OF_DATA), // 4A
        Event::PeerClosed => (
            State::AppCloseWait1Closed,
            Actions::END_OF_DATA.and(Actions::FAIL_WRITES),
        ), // 4A
        Event::PeerClosedUnsent => PEER_LEFT_TOO_SOON,
        Event::PeerAborted => PASSIVE_ABORT,
        Event::TcpReset => RST_CAME,
        Event::LinkLost => NO_WAY_LEFT,
    }
}

/// `PeerCloseWait1` and 2, the program has not closed: it may read.
const fn half_closed(state: State, event: Event) -> (State, Actions) {
    match event {
        Event::Established | Event::ShutdownWrite | Event::Sent => (state, Actions::NONE),
        Event::Close => match state {
            State::PeerCloseWait1 => (State::PeerCloseWait1Closed, Actions::SEND_CLOSED),
            _ => (State::PeerCloseWait2Closed, Actions::SEND_CLOSED),
        },
        Event::CloseUnread => ACTIVE_ABORT,
        Event::Abort => with(ACTIVE_ABORT, Actions::FAIL_ABORTED),
        Event::PeerDone => match state {
            State::PeerCloseWait1 => (State::PeerCloseWait2, Actions::END_OF_DATA), // 3B
            _ => (state, Actions::NONE),
        },
        Event::PeerClosed => (State::AppFinCloseWait, Actions::END_OF_DATA), // 3C, 3D
        Event::PeerClosedUnsent => PEER_LEFT_TOO_SOON,
        Event::PeerAborted => PASSIVE_ABORT,
        Event::TcpReset => RST_CAME,
        Event::LinkLost => NO_WAY_LEFT,
        // "When this timeout occurs, the local peer performs TCP reset processing": as for any
        // other reset, A goes out with it.
        Event::Timeout => with(ACTIVE_ABORT, Actions::FAIL_RESET),
    }
}

/// The program has closed, the peer has not: `PeerCloseWait1` and 2, `PeerFinCloseWait`.
const fn closed_first(state: State, event: Event) -> (State, Actions) {
    match event {
        // close() after shutdown(SHUT_RDWR), and the like.
        Event::Established
        | Event::ShutdownWrite
        | Event::Close
        | Event::CloseUnread
        | Event::Sent => (state, Actions::NONE),
        Event::PeerDone => match state {
            State::PeerCloseWait1Closed => (State::PeerCloseWait2Closed, Actions::NONE), // 3B
            _ => (state, Actions::NONE),
        },
        Event::PeerClosed => (State::Closed, Actions::FREE), // 3C, 4D
        // The C waited behind data, so A can take its place.
        Event::PeerClosedUnsent => (
            State::ProcessAbort,
            Actions::DISCARD_UNSENT
                .and(Actions::SEND_ABORTED)
                .and(Actions::RESET_TCP),
        ),
        Event::PeerAborted => (
            State::ProcessAbort,
            Actions::DISCARD_UNSENT.and(Actions::SEND_ABORTED),
        ),
        Event::Abort => (
            State::PeerAbortWait,
            Actions::DISCARD_UNSENT
                .and(Actions::SEND_ABORTED)
                .and(Actions::RESET_TCP),
        ),
        Event::TcpReset => (
            State::PeerAbortWait,
            Actions::DISCARD_UNSENT.and(Actions::SEND_ABORTED),
        ),
        Event::LinkLost => (
            State::Closed,
            Actions::DISCARD_UNSENT
                .and(Actions::RESET_TCP)
                .and(Actions::FREE),
        ),
        Event::Timeout => (
            State::Closed,
            Actions::DISCARD_UNSENT
                .and(Actions::SEND_ABORTED)
                .and(Actions::RESET_TCP)
                .and(Actions::FREE_UNCONFIRMED),
        ),
    }
}

/// The peer is done writing: `AppCloseWait1` and 2. It waits for the program, so no timer runs.
const fn peer_done(state: State, event: Event) -> (State, Actions) {
    match event {
        Event::Established | Event::PeerDone | Event::Sent | Event::Timeout => {
            (state, Actions::NONE)
        }
        Event::ShutdownWrite => match state {
            State::AppCloseWait1 => (State::AppCloseWait2, Actions::SEND_DONE), // 4B
            _ => (state, Actions::NONE),
        },
        Event::Close => (State::PeerFinCloseWait, Actions::SEND_CLOSED), // 4C
        Event::CloseUnread => ACTIVE_ABORT,
        Event::Abort => with(ACTIVE_ABORT, Actions::FAIL_ABORTED),
        Event::PeerClosed => match state {
            State::AppCloseWait1 => (State::AppCloseWait1Closed, Actions::FAIL_WRITES),
            _ => (State::AppCloseWait2Closed, Actions::NONE),
        },
        Event::PeerClosedUnsent => PEER_LEFT_TOO_SOON,
        Event::PeerAborted => PASSIVE_ABORT,
        Event::TcpReset => RST_CAME,
        Event::LinkLost => NO_WAY_LEFT,
    }
}

/// The peer has closed, the program has not: `AppCloseWait1` and 2, `AppFinCloseWait`. The peer
/// writes no more; whatever becomes of it and of the way to it, what came can be read.
const fn peer_closed(state: State, event: Event) -> (State, Actions) {
    match event {
        Event::Established
        | Event::PeerDone
        | Event::PeerClosed
        | Event::PeerClosedUnsent
        | Event::TcpReset
        | Event::Sent
        | Event::Timeout => (state, Actions::NONE),
        Event::ShutdownWrite => match state {
            State::AppCloseWait1Closed => (State::AppCloseWait2Closed, Actions::SEND_DONE), // 4B
            _ => (state, Actions::NONE),
        },
        Event::Close => (State::Closed, Actions::SEND_CLOSED.and(Actions::FREE)), // 3D, 4C
        // The peer needs no more than to know that we are through; nor do we.
        Event::CloseUnread => (
            State::Closed,
            Actions::DISCARD_RECEIVED
                .and(Actions::SEND_ABORTED)
                .and(Actions::RESET_TCP)
                .and(Actions::FREE),
        ),
        Event::Abort => (
            State::ProcessAbort,
            DISCARD_ALL
                .and(Actions::SEND_ABORTED)
                .and(Actions::FAIL_ABORTED)
                .and(Actions::RESET_TCP),
        ),
        Event::PeerAborted => PASSIVE_ABORT,
        Event::LinkLost => (State::Closed, Actions::FREE),
    }
}

/// Abort 1B: all but the peer's answer is ignored.
const fn peer_abort_wait(event: Event) -> (State, Actions) {
    match event {
        // A peer that closed at the same moment takes our A for the end, and has no A for us.
        Event::PeerAborted | Event::PeerClosed | Event::PeerClosedUnsent | Event::LinkLost => {
            (State::Closed, Actions::FREE)
        }
        Event::Timeout => (State::Closed, Actions::FREE_UNCONFIRMED),
        Event::Established
        | Event::ShutdownWrite
        | Event::Close
        | Event::CloseUnread
        | Event::Abort
        | Event::PeerDone
        | Event::TcpReset
        | Event::Sent => (State::PeerAbortWait, Actions::NONE),
    }
}

/// Abort 2B: our A is the last message.
const fn process_abort(event: Event) -> (State, Actions) {
    match event {
        Event::Sent | Event::LinkLost | Event::Timeout => (State::Closed, Actions::FREE),
        Event::Established
        | Event::ShutdownWrite
        | Event::Close
        | Event::CloseUnread
        | Event::Abort
        | Event::PeerDone
        | Event::PeerClosed
        | Event::PeerClosedUnsent
        | Event::PeerAborted
        | Event::TcpReset => (State::ProcessAbort, Actions::NONE),
    }
}

const fn with((state, actions): (State, Actions), more: Actions) -> (State, Actions) {
    (state, actions.and(more))
}
