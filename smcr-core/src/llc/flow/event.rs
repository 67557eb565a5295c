//! What a group tells its owner.

use super::{LinkId, RmbId, Rtoken};
use crate::cdc::EyeCatcher;
use crate::llc::{DeleteReason, Disposition, LinkNumber, LlcError};

/// What a group tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Client: the server asks whether the link works. Make the queue pair ready to send, then call
    /// `activated`.
    Activate {
        /// The link.
        link: LinkId,
    },
    /// The link works; data may flow over it.
    LinkConfirmed {
        /// The link.
        link: LinkId,
        /// Its number.
        number: LinkNumber,
        /// Whether the elements of this group have eye catchers.
        eye_catcher: EyeCatcher,
        /// How many connections the peer can have in the group; 0 is not told.
        max_conns: u8,
    },
    /// The first contact is over: it is known that no second link comes.
    Settled,
    /// The link is not used any more. Its queue pair can go as soon as its last messages are sent.
    LinkDeleted {
        /// The link.
        link: LinkId,
        /// The reason that was given.
        reason: DeleteReason,
    },
    /// The link does not work. Its queue pair can go.
    LinkFailed {
        /// The link.
        link: LinkId,
        /// Why.
        reason: LinkFailure,
    },
    /// The group is over, with all its links: their queue pairs can go as soon as the last messages
    /// are sent, and all its connections are lost. What was asked about RMBs gets no answer.
    Ended {
        /// Why.
        reason: EndReason,
    },
    /// The peer has taken note of an RMB of ours.
    RmbConfirmed {
        /// The RMB.
        rmb: RmbId,
    },
    /// The peer does not want the RMB. Ask again when there is another reason to, or decline.
    RmbRefused {
        /// The RMB.
        rmb: RmbId,
    },
    /// The peer has forgotten an RMB of ours, as far as it can be known.
    RmbDeleted {
        /// The RMB.
        rmb: RmbId,
        /// How it went.
        outcome: RmbDeletion,
    },
    /// The peer has an RMB that connections to come may name.
    PeerAddedRmb {
        /// How it is reached over each link.
        rtokens: Vec<(LinkId, Rtoken)>,
    },
    /// The peer has an RMB no more: nothing may be written there. Connections that use it are not
    /// to be trusted any longer.
    PeerDeletedRmb {
        /// How it was reached over each link.
        rtokens: Vec<(LinkId, Rtoken)>,
    },
    /// The peer has answered TEST LINK.
    LinkTested {
        /// The link.
        link: LinkId,
    },
    /// A message made no sense. It was dropped; to be counted.
    Violation {
        /// The link that it came over.
        link: LinkId,
        /// What was wrong.
        violation: Violation,
    },
}

/// Why a link failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkFailure {
    /// CONFIRM LINK, or the response to it, did not come.
    NotConfirmed,
    /// CONFIRM LINK named another link than the CLC messages.
    WrongLink,
    /// No response to TEST LINK.
    NoTestResponse,
    /// A response to TEST LINK with other data.
    WrongTestResponse,
    /// No response to CONFIRM RKEY or DELETE LINK.
    NoResponse,
    /// The peer has an RMB that is not reached over it.
    NotInConfirmRkey,
    /// More questions than answers could be sent.
    Flood,
    /// A message that made no sense, and [`strict`](super::Config::strict) is set.
    Violation(Violation),
    /// The owner said so.
    Reported,
}

/// Why a group is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The owner wanted it.
    Local(DeleteReason),
    /// The peer wanted it.
    Peer(DeleteReason),
    /// The last link was deleted.
    LastLinkDeleted(DeleteReason),
    /// The last link failed.
    LastLinkFailed(LinkFailure),
}

/// How a DELETE RKEY went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RmbDeletion {
    /// The peer has forgotten it.
    Done,
    /// The peer did not know it. To be logged, no more (RFC 7609 §A.3.7).
    Unknown,
    /// The peer did not answer. It may still take the RMB for ours.
    NoResponse,
}

/// What was wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// It is none.
    Malformed(LlcError),
    /// Nobody asked for this response.
    UnexpectedResponse,
    /// This message is not due now, or not from this side.
    OutOfPlace,
    /// CONFIRM LINK with link data that cannot be.
    WrongLink,
    /// CONFIRM RKEY or DELETE RKEY with content that cannot be.
    WrongRkey,
    /// A kind of message that is not used in groups of one link.
    NotSupported,
}

impl Violation {
    /// By RFC 7609 §C.7.1. Unknown types do not count: a peer that has learned something new is
    /// still a good peer.
    pub(super) fn takes_link_down(self) -> bool {
        match self {
            Self::Malformed(LlcError::UnknownType(_)) | Self::NotSupported => false,
            Self::Malformed(error) => error.disposition() == Disposition::LinkDown,
            Self::UnexpectedResponse | Self::OutOfPlace | Self::WrongLink | Self::WrongRkey => true,
        }
    }
}

impl std::fmt::Display for LinkFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotConfirmed => "CONFIRM LINK or its response did not come",
            Self::WrongLink => "CONFIRM LINK names another link",
            Self::NoTestResponse => "no response to TEST LINK",
            Self::WrongTestResponse => "wrong response to TEST LINK",
            Self::NoResponse => "no response to an LLC message",
            Self::NotInConfirmRkey => "an RMB of the peer is not reached over it",
            Self::Flood => "more LLC messages than could be answered",
            Self::Violation(_) => "LLC message that makes no sense",
            Self::Reported => "send, queue pair or port failed",
        })
    }
}
