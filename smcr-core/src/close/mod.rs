//! How a connection ends (RFC 7609 §4.8): a state machine without I/O and without a clock.
//!
//! ```text
//!                  Active ───────── the peer says it is done or closed ──▶ AppCloseWait1
//!   the program     │                                                       │  shutdown(WR)
//!   shuts down or   ▼                                                       ▼
//!   closes        PeerCloseWait1 ── peer is done ──▶ PeerCloseWait2       AppCloseWait2
//!                   │                                 │                     │  close()
//!                   ├──── peer closed ◀───────────────┘                     ▼
//!                   ▼                                                     PeerFinCloseWait
//!                 Closed, or AppFinCloseWait until close()                  │ peer closed
//!                                                                           ▼
//!                                                                         Closed
//! ```
//!
//! and from anywhere to `PeerAbortWait` (we gave up) or `ProcessAbort` (the peer did). [`table`] has
//! all of it, one row per state and event.
//!
//! # How to drive one
//!
//! [`Close::handle`] takes an event and gives the [`Actions`] to carry out, in the order in which
//! they are listed there. Of a CDC message, take the cursors first and then the flags, since the
//! last data may come with them; [`CloseEvent::of_peer`] makes one event of them. Call
//! [`Close::handle_timeout`] when [`Close::poll_timeout`] has come.
//!
//! # Time
//!
//! Every state that waits for the peer has a timer (RFC 7609 §4.8.1 and §4.8.2 demand it, Linux has
//! none); no state that waits for the program has one. A connection that is closed in one direction
//! only may be used for hours, and TCP puts no limit on that; so the timer of the two half-closed
//! states is there to find a peer that is gone: call [`Close::restart_timer`] at each sign of life.

mod table;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use crate::cdc::ConnState;
pub use table::table;

/// The states of RFC 7609 §4.8, Figures 22 and 23, with Linux's names. Four of them come in two
/// forms: what follows depends on whether the side that closed first has closed or only said that it
/// is done writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseState {
    /// The handshake is not over yet; the peer may know the token already.
    Init,
    /// Data may flow both ways.
    Active,
    /// We are done writing; nothing from the peer yet.
    PeerCloseWait1,
    /// As before, and the program has closed.
    PeerCloseWait1Closed,
    /// Both are done writing, we were first; neither has closed.
    PeerCloseWait2,
    /// As before, and the program has closed.
    PeerCloseWait2Closed,
    /// The peer is done writing; we are not.
    AppCloseWait1,
    /// The peer has closed; the program has not.
    AppCloseWait1Closed,
    /// Both are done writing, the peer was first; neither has closed.
    AppCloseWait2,
    /// We are done writing, and the peer, which was first, has closed.
    AppCloseWait2Closed,
    /// We were done writing first, and the peer has closed; the program has not.
    AppFinCloseWait,
    /// The peer was done writing first, and the program has closed; the peer has not.
    PeerFinCloseWait,
    /// We gave up; the peer has not confirmed it.
    PeerAbortWait,
    /// The peer gave up, or there is nothing to wait for; our last message is on its way.
    ProcessAbort,
    /// Over.
    Closed,
}

impl CloseState {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Init,
        Self::Active,
        Self::PeerCloseWait1,
        Self::PeerCloseWait1Closed,
        Self::PeerCloseWait2,
        Self::PeerCloseWait2Closed,
        Self::AppCloseWait1,
        Self::AppCloseWait1Closed,
        Self::AppCloseWait2,
        Self::AppCloseWait2Closed,
        Self::AppFinCloseWait,
        Self::PeerFinCloseWait,
        Self::PeerAbortWait,
        Self::ProcessAbort,
        Self::Closed,
    ];

    /// The name that tools show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "INIT",
            Self::Active => "ACTIVE",
            Self::PeerCloseWait1 | Self::PeerCloseWait1Closed => "PEERCLOSEWAIT1",
            Self::PeerCloseWait2 | Self::PeerCloseWait2Closed => "PEERCLOSEWAIT2",
            Self::AppCloseWait1 | Self::AppCloseWait1Closed => "APPCLOSEWAIT1",
            Self::AppCloseWait2 | Self::AppCloseWait2Closed => "APPCLOSEWAIT2",
            Self::AppFinCloseWait => "APPFINCLOSEWAIT",
            Self::PeerFinCloseWait => "PEERFINCLOSEWAIT",
            Self::PeerAbortWait => "PEERABORTWAIT",
            Self::ProcessAbort => "PROCESSABORT",
            Self::Closed => "CLOSED",
        }
    }

    /// May new data be written? (What was written before may still have to go out.)
    pub const fn can_send(self) -> bool {
        matches!(self, Self::Active | Self::AppCloseWait1)
    }

    /// May new data of the peer come?
    pub const fn can_receive(self) -> bool {
        matches!(
            self,
            Self::Init | Self::Active | Self::PeerCloseWait1 | Self::PeerCloseWait1Closed
        )
    }

    /// Which timer runs in it.
    pub const fn timer(self) -> Option<CloseTimer> {
        match self {
            Self::PeerCloseWait1 | Self::PeerCloseWait2 => Some(CloseTimer::HalfClosed),
            Self::PeerCloseWait1Closed | Self::PeerCloseWait2Closed | Self::PeerFinCloseWait => {
                Some(CloseTimer::Closed)
            }
            Self::PeerAbortWait | Self::ProcessAbort => Some(CloseTimer::Aborted),
            Self::Init
            | Self::Active
            | Self::AppCloseWait1
            | Self::AppCloseWait1Closed
            | Self::AppCloseWait2
            | Self::AppCloseWait2Closed
            | Self::AppFinCloseWait
            | Self::Closed => None,
        }
    }
}

/// What a timer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseTimer {
    /// That the peer does something, while the program can still read.
    HalfClosed,
    /// That the peer closes too; no program waits for it.
    Closed,
    /// That an abort is confirmed, or sent.
    Aborted,
}

/// How long to wait. All are above zero; none may be so long that no clock reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseTimeouts {
    /// [`CloseTimer::HalfClosed`]: since the last sign of life of the peer. Too short, and a program
    /// that waits for a slow answer gets a reset.
    pub half_closed: Duration,
    /// [`CloseTimer::Closed`]. Too short, and a peer that reads slowly loses what is still unsent;
    /// too long, and its buffer is not free for others.
    pub closed: Duration,
    /// [`CloseTimer::Aborted`]. Costs nobody anything but the buffer.
    pub aborted: Duration,
}

impl Default for CloseTimeouts {
    /// Two hours, as TCP's keepalive; one minute, as TCP's FIN-WAIT-2; five seconds.
    fn default() -> Self {
        Self {
            half_closed: Duration::from_secs(2 * 60 * 60),
            closed: Duration::from_secs(60),
            aborted: Duration::from_secs(5),
        }
    }
}

impl CloseTimeouts {
    const fn of(&self, timer: CloseTimer) -> Duration {
        match timer {
            CloseTimer::HalfClosed => self.half_closed,
            CloseTimer::Closed => self.closed,
            CloseTimer::Aborted => self.aborted,
        }
    }
}

/// What can happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseEvent {
    /// The handshake is over.
    Established,
    /// `shutdown(SHUT_WR)`. (`SHUT_RD` is no event: nothing is sent and nothing changes.)
    ShutdownWrite,
    /// `close()` or `shutdown(SHUT_RDWR)`, and everything that came was read.
    Close,
    /// The same, with received data unread.
    CloseUnread,
    /// We give up: the peer does not keep to the protocol, the program asks for a reset, the process
    /// ends.
    Abort,
    /// The peer is done writing (D).
    PeerDone,
    /// The peer has closed (C).
    PeerClosed,
    /// The same, while data of ours are not sent yet: they never will be.
    PeerClosedUnsent,
    /// The peer gave up (A).
    PeerAborted,
    /// A RST came on the TCP connection.
    TcpReset,
    /// The last link of the group is gone; nothing can be sent and nothing can come.
    LinkLost,
    /// The last message that was asked for is sent, or will never be.
    Sent,
    /// The timer of the state has come.
    Timeout,
}

impl CloseEvent {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Established,
        Self::ShutdownWrite,
        Self::Close,
        Self::CloseUnread,
        Self::Abort,
        Self::PeerDone,
        Self::PeerClosed,
        Self::PeerClosedUnsent,
        Self::PeerAborted,
        Self::TcpReset,
        Self::LinkLost,
        Self::Sent,
        Self::Timeout,
    ];

    /// The event in the flags of a CDC message. The strongest flag counts: A before C before D.
    /// `unsent` says whether data of ours wait to be sent, or are not known to have arrived.
    pub const fn of_peer(state: ConnState, unsent: bool) -> Option<Self> {
        if state.contains(ConnState::ABORTED) {
            Some(Self::PeerAborted)
        } else if state.contains(ConnState::CLOSED) {
            Some(if unsent {
                Self::PeerClosedUnsent
            } else {
                Self::PeerClosed
            })
        } else if state.contains(ConnState::DONE_WRITING) {
            Some(Self::PeerDone)
        } else {
            None
        }
    }
}

/// What to do, in this order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Actions(u16);

macro_rules! actions {
    ($($(#[doc = $doc:literal])* $name:ident = $bit:literal;)*) => {
        impl Actions {
            /// Nothing.
            pub const NONE: Self = Self(0);
            $($(#[doc = $doc])* pub const $name: Self = Self(1 << $bit);)*
        }

        impl std::fmt::Debug for Actions {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let names = [$((Self::$name, stringify!($name))),*];
                let mut names = names.iter().filter(|(action, _)| self.has(*action));
                let Some((_, first)) = names.next() else {
                    return f.write_str("-");
                };
                f.write_str(first)?;
                names.try_for_each(|(_, name)| write!(f, " {name}"))
            }
        }
    };
}

actions! {
    /// What the program wrote and what has not gone out yet is dropped; nothing is written to the
    /// peer any more.
    DISCARD_UNSENT = 0;
    /// What has come and was not read is dropped (RFC 7609 §4.8.2, 2A).
    DISCARD_RECEIVED = 1;
    /// Send a CDC message with D, when everything that was written has been sent.
    SEND_DONE = 2;
    /// Send a CDC message with C, when everything that was written has been sent. It has D too if
    /// that was sent before: these flags are only ever added to.
    SEND_CLOSED = 3;
    /// Send a CDC message with A, at once, in the place of any other that waits. If C has gone out
    /// already, nothing may follow it, and there is nothing to send.
    SEND_ABORTED = 4;
    /// Readers get what is there and then the end of the stream.
    END_OF_DATA = 5;
    /// Writers get `ECONNRESET`: nobody is there to read.
    FAIL_WRITES = 6;
    /// Calls get `ECONNRESET`, readers after what was not discarded.
    FAIL_RESET = 7;
    /// Calls get `ECONNABORTED`.
    FAIL_ABORTED = 8;
    /// The TCP connection is reset; otherwise it is closed when the connection is freed.
    RESET_TCP = 9;
    /// The peer has said that it writes no more: the element can be used again, as soon as the
    /// program has read what it may still read.
    FREE = 10;
    /// The connection is over, but the peer has not said that it writes no more. The element must
    /// not become another connection's before the peer has lost the right to write there (DELETE
    /// RKEY, end of the link).
    FREE_UNCONFIRMED = 11;
}

impl Actions {
    /// Is `action` among them?
    pub const fn has(self, action: Self) -> bool {
        self.0 & action.0 == action.0
    }

    /// Is there nothing to do?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    const fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }
}

/// The end of one connection.
#[derive(Clone, Debug)]
pub struct Close {
    state: CloseState,
    timeouts: CloseTimeouts,
    deadline: Option<Instant>,
}

impl Close {
    /// A connection whose handshake is not over yet.
    pub const fn new(timeouts: CloseTimeouts) -> Self {
        Self {
            state: CloseState::Init,
            timeouts,
            deadline: None,
        }
    }

    /// Takes what happened, and gives what to do about it.
    pub fn handle(&mut self, event: CloseEvent, now: Instant) -> Actions {
        let (next, actions) = table(self.state, event);
        if next != self.state {
            self.state = next;
            self.deadline = None;
            self.restart(now);
        }
        actions
    }

    /// As [`handle`](Self::handle) with [`CloseEvent::Timeout`], if the deadline has come.
    pub fn handle_timeout(&mut self, now: Instant) -> Actions {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.handle(CloseEvent::Timeout, now)
        } else {
            Actions::NONE
        }
    }

    /// The peer is alive: its cursors moved, or (while half closed) its link was tested. An abort
    /// is not prolonged.
    pub fn restart_timer(&mut self, now: Instant) {
        if self.state.timer() != Some(CloseTimer::Aborted) {
            self.restart(now);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout). Ask again after every call that takes
    /// `&mut self`.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Where the connection is.
    pub const fn state(&self) -> CloseState {
        self.state
    }

    fn restart(&mut self, now: Instant) {
        self.deadline = self
            .state
            .timer()
            .map(|timer| now + self.timeouts.of(timer));
    }
}
