//! First contact over RDMA, after the Confirm: LLC messages run over the new link, and the TCP
//! stream is silent but for a Decline (RFC 7609 §C.2, §C.3).
//!
//! Both sides do the same here. A Decline of ours goes out until our own CONFIRM LINK was sent
//! (§C.2); the peer's is taken until the LLC exchange is over (§C.3). After that a broken link means
//! a broken connection.
//!
//! A Decline that comes late does harm. Linux looks for one when its own timers have run out, which
//! is 3 s after the Confirm at a server and 5 s at a client; then it declines by itself, and hands
//! to its program whatever comes over the stream, a Decline of ours that crosses its own too. So
//! ours goes out well before that, or not at all: then the peer's is waited for.

use std::time::{Duration, Instant};

use super::machine::Channel;
use super::{Fabric, HandshakeError};
use crate::Reason;
use crate::clc::{Header, Kind, Message, may_be_clc};

/// What the stream's next bytes are after a Decline of ours that the peer's may have crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// Too few to tell: look again when there are more, until `poll_timeout`.
    Wait,
    /// So many bytes are the peer's own Decline: read them and throw them away. What follows is
    /// the application's.
    Discard(usize),
    /// They are the application's.
    Leave,
}

/// How long after the Confirm a client may decline, and a server.
pub(super) const CLIENT_DECLINES: Duration = Duration::from_secs(2);
pub(super) const SERVER_DECLINES: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug)]
pub(super) struct LinkPhase {
    step: Step,
    /// No Decline of ours from here on.
    last_decline: Option<Instant>,
    /// No Decline of the peer is waited for from here on.
    give_up: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The LLC exchange runs.
    Running {
        /// Our CONFIRM LINK was sent: no Decline of ours from here on.
        committed: bool,
        /// The peer ended its stream: no Decline of its from here on.
        ended: bool,
    },
    /// The LLC exchange failed; the peer may know that, too, and say so until the deadline.
    Failed { committed: bool, reason: Reason },
    /// Our Decline is out; the peer may have sent one before it read ours.
    Crossing { reason: Reason },
}

/// What comes of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    Stay,
    Tcp,
    Fail(HandshakeError),
}

impl LinkPhase {
    /// The Confirm is said; the time for the LLC exchange runs. We may decline for so long
    /// ([`CLIENT_DECLINES`], [`SERVER_DECLINES`]).
    pub(super) fn start<F: Fabric>(
        channel: &mut Channel<F>,
        now: Option<Instant>,
        declines: Duration,
    ) -> Self {
        let after = |time| now.and_then(|now| now.checked_add(time));
        channel.deadline = after(channel.timeouts.link);
        Self {
            step: Step::Running {
                committed: false,
                ended: false,
            },
            last_decline: after(declines),
            give_up: channel.deadline,
        }
    }

    /// Instead of a link phase: the Confirm was read, and it cannot be used.
    pub(super) fn refuse<F: Fabric>(
        reason: Reason,
        channel: &mut Channel<F>,
        now: Instant,
    ) -> Self {
        let mut phase = Self::start(channel, Some(now), SERVER_DECLINES);
        phase.decline(reason, channel, now);
        phase
    }

    pub(super) const fn is_running(&self) -> bool {
        matches!(self.step, Step::Running { .. })
    }

    pub(super) const fn is_crossing(&self) -> bool {
        matches!(self.step, Step::Crossing { .. })
    }

    /// Is a Decline of the peer to be read?
    pub(super) const fn listens(&self) -> bool {
        match self.step {
            Step::Running { ended, .. } => !ended,
            Step::Failed { .. } => true,
            // What comes may be the application's: it is only looked at.
            Step::Crossing { .. } => false,
        }
    }

    pub(super) fn confirm_link_sent(&mut self) {
        if let Step::Running { committed, .. } = &mut self.step {
            *committed = true;
        }
    }

    pub(super) fn failed<F: Fabric>(
        &mut self,
        reason: Reason,
        channel: &mut Channel<F>,
        now: Instant,
    ) -> Next {
        let Step::Running { committed, ended } = self.step else {
            return Next::Stay;
        };
        if channel.outbox.is_some() {
            // The Confirm was never sent: the Decline takes its place, as it may.
            channel.refuse(reason);
            return Next::Tcp;
        }
        let may_decline = !committed && self.may_decline(now);
        if may_decline && reason != Reason::LinkTimeout && channel.inbox.is_empty() {
            self.decline(reason, channel, now);
            return Next::Stay;
        }
        // Where a timer ran out, and where we may not decline any more, the peer is the one who
        // knows what happened.
        self.step = Step::Failed { committed, reason };
        let soon = now.checked_add(channel.timeouts.decline);
        channel.deadline = match ended {
            true => Some(now),
            false if committed || may_decline => soon,
            false => self.give_up.max(soon),
        };
        Next::Stay
    }

    fn may_decline(&self, now: Instant) -> bool {
        self.last_decline.is_some_and(|last| now < last)
    }

    pub(super) fn timeout<F: Fabric>(&mut self, channel: &mut Channel<F>, now: Instant) -> Next {
        let (committed, reason) = match self.step {
            // The peer is in the middle of its Decline: some more time, once.
            Step::Running { committed, .. } if !channel.inbox.is_empty() => {
                let reason = Reason::LinkTimeout;
                self.step = Step::Failed { committed, reason };
                channel.deadline = now.checked_add(channel.timeouts.decline);
                return Next::Stay;
            }
            Step::Running { committed, .. } => (committed, Reason::LinkTimeout),
            Step::Failed { committed, reason } => (committed, reason),
            Step::Crossing { reason } => {
                channel.refused(reason);
                return Next::Tcp;
            }
        };
        // With half a Decline taken out of the stream there is no telling what follows.
        if committed || !channel.inbox.is_empty() {
            return Next::Fail(HandshakeError::Link(reason));
        }
        if channel.outbox.is_some() {
            channel.refuse(reason);
            return Next::Tcp;
        }
        if self.may_decline(now) {
            self.decline(reason, channel, now);
            return Next::Stay;
        }
        if self.give_up.is_some_and(|at| now < at) {
            self.step = Step::Failed { committed, reason };
            channel.deadline = self.give_up;
            return Next::Stay;
        }
        Next::Fail(HandshakeError::Link(reason))
    }

    pub(super) fn end<F: Fabric>(&mut self, channel: &mut Channel<F>) -> Next {
        match &mut self.step {
            // The peer may have done its part and be gone already, before we know that ours has
            // arrived; LLC decides, which has timers of its own.
            Step::Running { ended, .. } => {
                *ended = true;
                Next::Stay
            }
            Step::Failed { reason, .. } => Next::Fail(HandshakeError::Link(*reason)),
            Step::Crossing { reason } => {
                channel.refused(*reason);
                Next::Tcp
            }
        }
    }

    pub(super) fn peek<F: Fabric>(&self, bytes: &[u8], channel: &mut Channel<F>) -> Peeked {
        let Step::Crossing { reason } = self.step else {
            return Peeked::Leave;
        };
        let peeked = crossed_decline(bytes);
        if peeked != Peeked::Wait {
            channel.refused(reason);
        }
        peeked
    }

    fn decline<F: Fabric>(&mut self, reason: Reason, channel: &mut Channel<F>, now: Instant) {
        channel.send_decline(reason);
        channel.deadline = now.checked_add(channel.timeouts.decline);
        self.step = Step::Crossing { reason };
    }
}

/// Is this the peer's Decline, or what its application said behind ours?
fn crossed_decline(bytes: &[u8]) -> Peeked {
    let Some((first, _)) = bytes.split_first_chunk() else {
        return if may_be_clc(bytes) {
            Peeked::Wait
        } else {
            Peeked::Leave
        };
    };
    match Header::parse(first) {
        Ok(header) if header.kind == Kind::Decline => match bytes.get(..header.len()) {
            None => Peeked::Wait,
            Some(whole) if Message::parse(whole).is_ok() => Peeked::Discard(whole.len()),
            Some(_) => Peeked::Leave,
        },
        _ => Peeked::Leave,
    }
}
