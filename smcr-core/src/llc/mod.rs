//! LLC messages (RFC 7609 §3.3, §A.3): how two peers set up, test and take down the links of a
//! group, and tell each other which memory may be written over which link.
//!
//! Nine types, gathered in [`Llc`], in the form of version 1 (the RFC) and in that of version 2 as
//! Linux speaks it. A message knows nothing of its form; [`Llc::parse`] tells it, [`Llc::emit`] is
//! told. Two exist in one form only and are always sent in that one: ADD LINK CONTINUATION and
//! CONFIRM RKEY CONTINUATION in version 1, REQUEST ADD LINK in version 2.
//!
//! # Contract
//!
//! * No input makes this module panic or allocate more than [`MAX_LEN`] bytes.
//! * `emit` is the inverse of `parse`, but for what a form cannot carry: version 2 has no room for
//!   the reason of a rejected ADD LINK, version 1 none for the extension of ADD LINK.
//! * Version 2 has two 16-bit numbers that Linux on x86 writes in the host's byte order: the length
//!   of the message, and the number of RTokens in ADD LINK. They are sent big-endian, and read in
//!   the order that fits the number of bytes at hand, big-endian if both do.
//! * Reserved fields and unknown flags are sent as zero and not looked at.
//!
//! All other integers are big-endian on the wire.

mod error;
pub mod flow;
mod frame;
mod link;
mod rkey;
mod types;

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
pub(crate) mod strategies;
#[cfg(test)]
mod tests;

pub use error::{Disposition, LlcError};
pub use link::{
    AddLink, AddLinkContinuation, AddLinkExtension, AddLinkKind, ConfirmLink, DeleteLink,
    DeleteTarget, LinkEnd, MAX_EXTENSION_RTOKENS, RequestAddLink,
};
pub use rkey::{ConfirmRkey, ConfirmRkeyContinuation, DeleteRkey, MAX_DELETED_RKEYS, Verdict};
pub use types::{
    Batch, DeleteReason, LinkNumber, LinkRtoken, LinkUserId, MovedRtoken, RejectReason, Rtoken,
};

use crate::clc::Version;
use frame::Frame;

/// Bytes of every version 1 message, and of the shortest of version 2. Never send more on a link of
/// version 1: the peer has posted receives of this size, and the queue pair fails.
pub const LEN: usize = 44;

/// Bytes of the longest message of version 2; receives of a version 2 link have to have room for
/// it.
pub const MAX_LEN: usize = 8192;

/// Any LLC message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Llc {
    /// This link works (RFC 7609 §A.3.1).
    ConfirmLink(ConfirmLink),
    /// Another link (RFC 7609 §A.3.2).
    AddLink(AddLink),
    /// The RTokens for another link (RFC 7609 §A.3.3). Version 1 only.
    AddLinkContinuation(AddLinkContinuation),
    /// Away with a link, or with all (RFC 7609 §A.3.4).
    DeleteLink(DeleteLink),
    /// The client has found another device. Version 2 only.
    RequestAddLink(RequestAddLink),
    /// A new RMB (RFC 7609 §A.3.5).
    ConfirmRkey(ConfirmRkey),
    /// More about a new RMB (RFC 7609 §A.3.6). Version 1 only.
    ConfirmRkeyContinuation(ConfirmRkeyContinuation),
    /// RMBs that are no more (RFC 7609 §A.3.7).
    DeleteRkey(DeleteRkey),
    /// Is anybody there? (RFC 7609 §A.3.8)
    TestLink(TestLink),
}

/// Asks for an answer with the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestLink {
    /// The answer, not the question.
    pub response: bool,
    /// Of the asking side's choice.
    pub data: [u8; 16],
}

/// Types of messages, without the digit of the version.
mod kind {
    pub(super) const CONFIRM_LINK: u8 = 1;
    pub(super) const ADD_LINK: u8 = 2;
    pub(super) const ADD_LINK_CONTINUATION: u8 = 3;
    pub(super) const DELETE_LINK: u8 = 4;
    pub(super) const REQUEST_ADD_LINK: u8 = 5;
    pub(super) const CONFIRM_RKEY: u8 = 6;
    pub(super) const TEST_LINK: u8 = 7;
    pub(super) const CONFIRM_RKEY_CONTINUATION: u8 = 8;
    pub(super) const DELETE_RKEY: u8 = 9;

    /// Does the type exist in the form of that version?
    pub(super) const fn exists(kind: u8, v2: bool) -> bool {
        match kind {
            REQUEST_ADD_LINK => v2,
            ADD_LINK_CONTINUATION | CONFIRM_RKEY_CONTINUATION => !v2,
            CONFIRM_LINK..=DELETE_RKEY => true,
            _ => false,
        }
    }
}

/// In the flags of every message: an answer.
const RESPONSE: u8 = 0x80;

impl Llc {
    /// Reads one message, and tells in which form it came; an answer goes out in the same one.
    /// `bytes` is what one receive completed with; more than the message's own length is ignored.
    ///
    /// # Errors
    /// Why the bytes are no message, and by [`LlcError::disposition`] what the RFC wants done about
    /// it.
    pub fn parse(bytes: &[u8]) -> Result<(Version, Self), LlcError> {
        let frame = Frame::parse(bytes)?;
        let message = match frame.kind() {
            kind::CONFIRM_LINK => Self::ConfirmLink(ConfirmLink::parse(&frame)),
            kind::ADD_LINK => Self::AddLink(AddLink::parse(&frame)?),
            kind::ADD_LINK_CONTINUATION => {
                Self::AddLinkContinuation(AddLinkContinuation::parse(&frame))
            }
            kind::DELETE_LINK => Self::DeleteLink(DeleteLink::parse(&frame)),
            kind::REQUEST_ADD_LINK => Self::RequestAddLink(RequestAddLink::parse(&frame)?),
            kind::CONFIRM_RKEY => Self::ConfirmRkey(ConfirmRkey::parse(&frame)),
            kind::TEST_LINK => Self::TestLink(TestLink::parse(&frame)),
            kind::CONFIRM_RKEY_CONTINUATION => {
                Self::ConfirmRkeyContinuation(ConfirmRkeyContinuation::parse(&frame))
            }
            kind::DELETE_RKEY => Self::DeleteRkey(DeleteRkey::parse(&frame)?),
            _ => return Err(LlcError::UnknownType(frame.type_byte())),
        };
        Ok((frame.version(), message))
    }

    /// The bytes of the message in the form of `version`, or in the only one that it has. 44 bytes,
    /// except for ADD LINK and REQUEST ADD LINK of version 2.
    pub fn emit(&self, version: Version) -> Vec<u8> {
        match self {
            Self::ConfirmLink(message) => message.emit(version),
            Self::AddLink(message) => message.emit(version),
            Self::AddLinkContinuation(message) => message.emit(),
            Self::DeleteLink(message) => message.emit(version),
            Self::RequestAddLink(message) => message.emit(),
            Self::ConfirmRkey(message) => message.emit(version),
            Self::ConfirmRkeyContinuation(message) => message.emit(),
            Self::DeleteRkey(message) => message.emit(version),
            Self::TestLink(message) => message.emit(version),
        }
    }

    /// Is it an answer?
    pub const fn is_response(&self) -> bool {
        match self {
            Self::ConfirmLink(message) => message.response,
            Self::AddLink(message) => !matches!(message.kind, AddLinkKind::Request),
            Self::AddLinkContinuation(message) => message.response,
            Self::DeleteLink(message) => message.response,
            Self::RequestAddLink(message) => message.response,
            Self::ConfirmRkey(message) => !matches!(message.verdict, Verdict::Request),
            Self::ConfirmRkeyContinuation(message) => !matches!(message.verdict, Verdict::Request),
            Self::DeleteRkey(message) => message.failed.is_some(),
            Self::TestLink(message) => message.response,
        }
    }
}

impl TestLink {
    fn parse(frame: &Frame<'_>) -> Self {
        Self {
            response: frame.has(RESPONSE),
            data: frame.array(4),
        }
    }

    fn emit(&self, version: Version) -> Vec<u8> {
        let flags = if self.response { RESPONSE } else { 0 };
        let mut bytes = frame::start(kind::TEST_LINK, version, LEN, flags);
        frame::put(&mut bytes, 4, &self.data);
        bytes
    }
}
