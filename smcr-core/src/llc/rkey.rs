//! The messages about RMBs: CONFIRM RKEY and its continuation, DELETE RKEY.

use super::frame::{self, Frame};
use super::types::{Item, LinkRtoken, Rtoken};
use super::{Batch, LEN, LlcError, RESPONSE, kind};
use crate::clc::{Bounded, Rkey, Version};

/// Most RMBs in one DELETE RKEY.
pub const MAX_DELETED_RKEYS: usize = 8;

/// Question or answer of a CONFIRM RKEY exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The question.
    Request,
    /// The RMB may be used.
    Confirmed,
    /// It may not: the set of links is not the one that the receiver knows, or it has no room.
    Refused {
        /// Ask again as soon as the change of the group's links is through; else only when there is
        /// another reason to.
        retry: bool,
    },
}

/// A new RMB: how it is reached over each link (RFC 7609 §A.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfirmRkey {
    /// Request or answer; the answer is the request otherwise unchanged.
    pub verdict: Verdict,
    /// Over the link that carries the message.
    pub rtoken: Rtoken,
    /// Over the others; what does not fit goes into continuations.
    pub others: Batch<LinkRtoken, 2>,
}

/// More of a CONFIRM RKEY (RFC 7609 §A.3.6). Linux neither sends nor understands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfirmRkeyContinuation {
    /// As in [`ConfirmRkey`].
    pub verdict: Verdict,
    /// The next part.
    pub others: Batch<LinkRtoken, 3>,
}

/// RMBs that are not used any more (RFC 7609 §A.3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRkey {
    /// In an answer, those that the answering side did not know: one bit each, the first RMB's is
    /// 0x80. (In version 2, Linux sends their number instead.) `None` in the request.
    pub failed: Option<u8>,
    /// Their keys on the link that carries the message. Linux leaves them zero in answers of version
    /// 2.
    pub rkeys: Bounded<Rkey, MAX_DELETED_RKEYS>,
}

const NEGATIVE: u8 = 0x20;
const RETRY: u8 = 0x10;

/// Offsets in CONFIRM RKEY.
mod confirm {
    pub(super) const COUNT: usize = 4;
    pub(super) const RTOKEN: usize = 5;
    pub(super) const OTHERS: usize = 17;
}

/// Offsets in CONFIRM RKEY CONTINUATION. The RFC's figure draws the first item a byte too short.
mod continuation {
    pub(super) const COUNT: usize = 4;
    pub(super) const OTHERS: usize = 5;
}

/// Offsets in DELETE RKEY.
mod delete {
    pub(super) const COUNT: usize = 4;
    pub(super) const FAILED: usize = 5;
    pub(super) const RKEYS: usize = 8;
}

impl Verdict {
    fn parse(frame: &Frame<'_>) -> Self {
        match (frame.has(RESPONSE), frame.has(NEGATIVE)) {
            (false, _) => Self::Request,
            (true, false) => Self::Confirmed,
            (true, true) => Self::Refused {
                retry: frame.has(RETRY),
            },
        }
    }

    const fn flags(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Confirmed => RESPONSE,
            Self::Refused { retry: false } => RESPONSE | NEGATIVE,
            Self::Refused { retry: true } => RESPONSE | NEGATIVE | RETRY,
        }
    }
}

impl ConfirmRkey {
    pub(super) fn parse(frame: &Frame<'_>) -> Self {
        Self {
            verdict: Verdict::parse(frame),
            rtoken: Rtoken::parse(frame.array(confirm::RTOKEN)),
            others: Batch::parse(
                frame.u8(confirm::COUNT),
                &frame.array::<{ 2 * LinkRtoken::LEN }>(confirm::OTHERS),
            ),
        }
    }

    pub(super) fn emit(&self, version: Version) -> Vec<u8> {
        let mut bytes = frame::start(kind::CONFIRM_RKEY, version, LEN, self.verdict.flags());
        bytes[confirm::COUNT] = self.others.announced();
        frame::put(&mut bytes, confirm::RTOKEN, &self.rtoken.emit());
        self.others.emit(&mut bytes[confirm::OTHERS..]);
        bytes
    }
}

impl ConfirmRkeyContinuation {
    pub(super) fn parse(frame: &Frame<'_>) -> Self {
        Self {
            verdict: Verdict::parse(frame),
            others: Batch::parse(
                frame.u8(continuation::COUNT),
                &frame.array::<{ 3 * LinkRtoken::LEN }>(continuation::OTHERS),
            ),
        }
    }

    pub(super) fn emit(&self) -> Vec<u8> {
        let kind = kind::CONFIRM_RKEY_CONTINUATION;
        let mut bytes = frame::start(kind, Version::V1, LEN, self.verdict.flags());
        bytes[continuation::COUNT] = self.others.announced();
        self.others.emit(&mut bytes[continuation::OTHERS..]);
        bytes
    }
}

impl DeleteRkey {
    pub(super) fn parse(frame: &Frame<'_>) -> Result<Self, LlcError> {
        let count = frame.u8(delete::COUNT);
        let rkeys = (0..usize::from(count).min(MAX_DELETED_RKEYS))
            .map(|index| Rkey(frame.u32(delete::RKEYS + 4 * index)))
            .collect();
        if usize::from(count) > MAX_DELETED_RKEYS {
            return Err(LlcError::Count {
                announced: count.into(),
            });
        }
        Ok(Self {
            failed: match (frame.has(RESPONSE), frame.has(NEGATIVE)) {
                (false, _) => None,
                (true, false) => Some(0),
                // A negative answer that accuses no RMB still is one.
                (true, true) => Some(frame.u8(delete::FAILED).max(1)),
            },
            rkeys: Bounded::new(rkeys).expect("not above the maximum"),
        })
    }

    pub(super) fn emit(&self, version: Version) -> Vec<u8> {
        let flags = match self.failed {
            None => 0,
            Some(0) => RESPONSE,
            Some(_) => RESPONSE | NEGATIVE,
        };
        let mut bytes = frame::start(kind::DELETE_RKEY, version, LEN, flags);
        bytes[delete::COUNT] = self.rkeys.len() as u8;
        bytes[delete::FAILED] = self.failed.unwrap_or(0);
        for (rkey, part) in self
            .rkeys
            .iter()
            .zip(bytes[delete::RKEYS..].chunks_exact_mut(4))
        {
            part.copy_from_slice(&rkey.0.to_be_bytes());
        }
        bytes
    }
}
