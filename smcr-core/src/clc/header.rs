//! The eight bytes before every message, and the four behind it (RFC 7609 §A.2).

use super::{ClcError, Field};

/// Bytes of the longest message that is read. The longest that can be built here is the Proposal
/// with all lists full, 652 bytes; the rest is room for later releases.
pub const MAX_LEN: usize = 4096;

/// "SMCR" in EBCDIC.
pub(super) const EYE_SMCR: [u8; 4] = [0xe2, 0xd4, 0xc3, 0xd9];
/// "SMCD" in EBCDIC; Linux writes it into the SMC-D forms of Accept and Confirm.
pub(super) const EYE_SMCD: [u8; 4] = [0xe2, 0xd4, 0xc3, 0xc4];

const TRAILER: usize = 4;

/// Can bytes that start like this be a CLC message? For whoever peeks at a stream before taking
/// anything out of it; fewer than four bytes are judged by what is there, none at all may be.
pub fn may_be_clc(start: &[u8]) -> bool {
    let eye = &start[..start.len().min(4)];
    EYE_SMCR.starts_with(eye) || EYE_SMCD.starts_with(eye)
}

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Client to server, first.
    Proposal = 1,
    /// Server to client.
    Accept = 2,
    /// Client to server.
    Confirm = 3,
    /// Either way, instead of any of the others.
    Decline = 4,
}

impl Kind {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Proposal, Self::Accept, Self::Confirm, Self::Decline];
}

impl TryFrom<u8> for Kind {
    type Error = ClcError;

    fn try_from(value: u8) -> Result<Self, ClcError> {
        Self::ALL
            .into_iter()
            .find(|kind| *kind as u8 == value)
            .ok_or(ClcError::Kind(value))
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Proposal => "Proposal",
            Self::Accept => "Accept",
            Self::Confirm => "Confirm",
            Self::Decline => "Decline",
        })
    }
}

/// The version of a message's layout. A higher one than 2 is read as 2, as Linux does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Version {
    /// RFC 7609.
    V1 = 1,
    /// Enterprise IDs, RoCEv2, ISMv2.
    V2 = 2,
}

/// The header of a message, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Which message.
    pub kind: Kind,
    /// Which layout.
    pub version: Version,
    flags: u8,
    len: usize,
}

impl Header {
    /// Bytes of a header: so many are read first.
    pub const LEN: usize = 8;

    /// Reads the first eight bytes of a message.
    ///
    /// # Errors
    /// A wrong eye catcher, an unknown type, version 0, path bits that no Accept or Confirm may
    /// carry, and a length that this kind of message cannot have.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, ClcError> {
        let [e0, e1, e2, e3, kind, len_high, len_low, last] = *bytes;
        if !is_eye([e0, e1, e2, e3]) {
            return Err(ClcError::EyeCatcher(Field::EyeCatcher));
        }
        let header = Self {
            kind: Kind::try_from(kind)?,
            version: match last >> 4 {
                0 => return Err(ClcError::Version(0)),
                1 => Version::V1,
                _ => Version::V2,
            },
            flags: last & 0x0f,
            len: u16::from_be_bytes([len_high, len_low]).into(),
        };
        header.check_len()?;
        Ok(header)
    }

    /// Bytes of the whole message, this header and the trailer included; 28 to [`MAX_LEN`].
    #[expect(clippy::len_without_is_empty, reason = "a message is never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Bits 1..0 of byte 7: the version 1 path of a Proposal, the chosen path of Accept and Confirm.
    pub(super) const fn path(&self) -> u8 {
        self.flags & 0x03
    }

    /// Bits 3..2 of byte 7: the version 2 path of a Proposal.
    pub(super) const fn path_v2(&self) -> u8 {
        self.flags >> 2
    }

    /// Bit 3 of byte 7: first contact in Accept and Confirm, out of sync in Decline.
    pub(super) const fn flag(&self) -> bool {
        self.flags & FLAG != 0
    }

    /// The bytes between header and trailer, once both eye catchers and the length are right.
    pub(super) fn body<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], ClcError> {
        if bytes.len() != self.len {
            return Err(self.bad_len());
        }
        let (rest, trailer) = bytes
            .split_last_chunk()
            .ok_or(ClcError::Truncated(Field::Trailer))?;
        if !is_eye(*trailer) {
            return Err(ClcError::EyeCatcher(Field::Trailer));
        }
        rest.get(Self::LEN..)
            .ok_or(ClcError::Truncated(Field::Header))
    }

    const fn bad_len(&self) -> ClcError {
        ClcError::Length {
            kind: self.kind,
            announced: self.len,
        }
    }

    /// Lengths are judged as early as here so that a hostile peer cannot make a reader wait for, or
    /// swallow, more than a message can have.
    fn check_len(&self) -> Result<(), ClcError> {
        let (min, max) = match (self.kind, self.version) {
            (Kind::Proposal, Version::V1) => (52, MAX_LEN),
            (Kind::Proposal, Version::V2) => (80 + TRAILER, MAX_LEN),
            (Kind::Decline, Version::V1) => (28, 28),
            (Kind::Decline, Version::V2) => (44, 44),
            (Kind::Accept | Kind::Confirm, version) => match (self.path(), version) {
                (0, Version::V1) => (68, 68),
                (1, Version::V1) => (48, 48),
                (0, Version::V2) => (108, MAX_LEN),
                (1, Version::V2) => (78, MAX_LEN),
                (path, _) => {
                    return Err(ClcError::Value {
                        field: Field::Path,
                        value: path.into(),
                    });
                }
            },
        };
        if (min..=max).contains(&self.len) {
            Ok(())
        } else {
            Err(self.bad_len())
        }
    }
}

/// Bit 3 of byte 7.
pub(super) const FLAG: u8 = 0x08;

/// Linux takes either eye catcher in any message, and so must whoever talks to it.
fn is_eye(bytes: [u8; 4]) -> bool {
    bytes == EYE_SMCR || bytes == EYE_SMCD
}
