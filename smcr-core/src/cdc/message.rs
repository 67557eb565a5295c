//! The message itself, 44 bytes.

use super::{Cursor, LEN, TYPE};
use crate::clc::Token;

/// The sequence number of a CDC message: 1 in the first of a connection, 0 after 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CdcSeq(pub u16);

impl CdcSeq {
    /// Of the first message in each direction.
    pub const FIRST: Self = Self(1);
    /// What counts as the last one before any came.
    pub const BEFORE_FIRST: Self = Self(0);

    /// The one that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Was a message with this number sent before one with `other`? Right as long as the two are
    /// less than 2^15 messages apart. A receiver drops a message that is older than the last one it
    /// took (RFC 7609 §4.3, §A.4); it takes an equal one, as Linux does.
    pub const fn is_older_than(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i16) < 0
    }
}

macro_rules! flags {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $bit_doc:literal])* $bit:ident = $value:literal;)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name(u8);

        impl $name {
            /// No flag.
            pub const NONE: Self = Self(0);
            $($(#[doc = $bit_doc])* pub const $bit: Self = Self($value);)*
            const KNOWN: u8 = $($value)|*;

            /// The flags in a byte from the wire; unknown bits are left out.
            pub const fn from_bits(bits: u8) -> Self {
                Self(bits & Self::KNOWN)
            }

            /// The byte for the wire.
            pub const fn bits(self) -> u8 {
                self.0
            }

            /// Are all of `flags` set?
            pub const fn contains(self, flags: Self) -> bool {
                self.0 & flags.0 == flags.0
            }

            /// Is one of `flags` set?
            pub const fn intersects(self, flags: Self) -> bool {
                self.0 & flags.0 != 0
            }

            /// These and those.
            #[must_use]
            pub const fn with(self, flags: Self) -> Self {
                Self(self.0 | flags.0)
            }

            /// These but not those.
            #[must_use]
            pub const fn without(self, flags: Self) -> Self {
                Self(self.0 & !flags.0)
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.with(other)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut first = true;
                $(if self.contains(Self::$bit) {
                    if !std::mem::replace(&mut first, false) {
                        f.write_str("|")?;
                    }
                    f.write_str(stringify!($bit))?;
                })*
                if first { f.write_str("NONE") } else { Ok(()) }
            }
        }
    };
}

flags! {
    /// What the sender says about its producer. States, not events: each is repeated in every
    /// message until it no longer holds. (The fifth flag of the RFC, F, is [`FailoverValidation`].)
    ProducerFlags {
        /// B: there is no room left in the receiver's element; tell of every byte consumed (RFC
        /// 7609 §4.5.1).
        WRITER_BLOCKED = 0x80;
        /// P: urgent data are on their way (RFC 7609 §4.7.5).
        URGENT_PENDING = 0x40;
        /// U: the byte before the producer cursor is urgent. In one message only.
        URGENT_PRESENT = 0x20;
        /// R: tell the consumer cursor at once.
        CURSOR_REQUESTED = 0x10;
    }
}

flags! {
    /// What the sender says about its side of the connection. Only ever added to.
    ConnState {
        /// D: the sender will write no more (RFC 7609 §4.8, `PeerDoneWriting`).
        DONE_WRITING = 0x80;
        /// C: the sender has closed; no write and no CDC message follows (`PeerConnectionClosed`).
        CLOSED = 0x40;
        /// A: the sender has given up; no write and no CDC message follows (`PeerConnAbort`).
        ABORTED = 0x20;
    }
}

/// A CDC message as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cdc {
    /// Cursors and flags.
    Message(CdcMessage),
    /// The first message on a new link.
    Validation(FailoverValidation),
}

/// Cursors and flags of the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CdcMessage {
    /// One more than in the message before.
    pub seq: CdcSeq,
    /// The connection: the token that the *receiver* gave to it.
    pub token: Token,
    /// The next byte that the sender will write into the receiver's element.
    pub producer: Cursor,
    /// The next byte that the sender will read from its own element.
    pub consumer: Cursor,
    /// About the sender's writes.
    pub flags: ProducerFlags,
    /// About the sender's end of the connection.
    pub state: ConnState,
}

/// Sent before anything else when a connection moves to another link: says which message is the last
/// one whose writes are known to be complete (RFC 7609 §4.6). Takes no sequence number of its own. A
/// receiver that has not seen this number has lost data and resets the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailoverValidation {
    /// The last message whose writes were completed.
    pub seq: CdcSeq,
    /// The connection, as in [`CdcMessage`].
    pub token: Token,
}

/// Why bytes are no CDC message. They are dropped then; Linux does so too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CdcError {
    /// There are not 44 bytes.
    Size {
        /// How many there are.
        bytes: usize,
    },
    /// The first byte is not [`TYPE`].
    Type(u8),
    /// The length byte is not 44.
    Length(u8),
}

/// F, in the byte of the producer flags.
const FAILOVER_VALIDATION: u8 = 0x08;

/// Offsets of the fields.
mod at {
    pub(super) const SEQ: usize = 2;
    pub(super) const TOKEN: usize = 4;
    pub(super) const PRODUCER: usize = 8;
    pub(super) const CONSUMER: usize = 16;
    pub(super) const FLAGS: usize = 24;
    pub(super) const STATE: usize = 25;
}

impl Cdc {
    /// Reads one message; `bytes` must be exactly as long as one.
    ///
    /// # Errors
    /// What was wrong. Such a message is to be dropped.
    pub fn parse(bytes: &[u8]) -> Result<Self, CdcError> {
        let bytes: &[u8; LEN] = bytes
            .try_into()
            .map_err(|_| CdcError::Size { bytes: bytes.len() })?;
        if bytes[0] != TYPE {
            return Err(CdcError::Type(bytes[0]));
        }
        if usize::from(bytes[1]) != LEN {
            return Err(CdcError::Length(bytes[1]));
        }
        let seq = CdcSeq(u16::from_be_bytes(field(bytes, at::SEQ)));
        let token = Token(u32::from_be_bytes(field(bytes, at::TOKEN)));
        // In this form only the bytes up to the token mean anything.
        if bytes[at::FLAGS] & FAILOVER_VALIDATION != 0 {
            return Ok(Self::Validation(FailoverValidation { seq, token }));
        }
        Ok(Self::Message(CdcMessage {
            seq,
            token,
            producer: Cursor::parse(field(bytes, at::PRODUCER)),
            consumer: Cursor::parse(field(bytes, at::CONSUMER)),
            flags: ProducerFlags::from_bits(bytes[at::FLAGS]),
            state: ConnState::from_bits(bytes[at::STATE]),
        }))
    }

    /// The bytes of the message.
    pub fn emit(&self) -> [u8; LEN] {
        match self {
            Self::Message(message) => message.emit(),
            Self::Validation(validation) => validation.emit(),
        }
    }

    /// The connection it is for.
    pub const fn token(&self) -> Token {
        match self {
            Self::Message(message) => message.token,
            Self::Validation(validation) => validation.token,
        }
    }
}

impl CdcMessage {
    /// The bytes of the message.
    pub fn emit(&self) -> [u8; LEN] {
        let mut bytes = start(self.seq, self.token);
        bytes[at::PRODUCER..][..8].copy_from_slice(&self.producer.emit());
        bytes[at::CONSUMER..][..8].copy_from_slice(&self.consumer.emit());
        bytes[at::FLAGS] = self.flags.bits();
        bytes[at::STATE] = self.state.bits();
        bytes
    }
}

impl FailoverValidation {
    /// The bytes of the message; everything that means nothing in it is zero.
    pub fn emit(&self) -> [u8; LEN] {
        let mut bytes = start(self.seq, self.token);
        bytes[at::FLAGS] = FAILOVER_VALIDATION;
        bytes
    }
}

impl Cursor {
    /// Two reserved bytes, the wrap count, the count.
    const fn parse([_, _, w0, w1, c0, c1, c2, c3]: [u8; 8]) -> Self {
        Self {
            wrap: u16::from_be_bytes([w0, w1]),
            count: u32::from_be_bytes([c0, c1, c2, c3]),
        }
    }

    const fn emit(self) -> [u8; 8] {
        let [w0, w1] = self.wrap.to_be_bytes();
        let [c0, c1, c2, c3] = self.count.to_be_bytes();
        [0, 0, w0, w1, c0, c1, c2, c3]
    }
}

fn start(seq: CdcSeq, token: Token) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[0] = TYPE;
    bytes[1] = LEN as u8;
    bytes[at::SEQ..][..2].copy_from_slice(&seq.0.to_be_bytes());
    bytes[at::TOKEN..][..4].copy_from_slice(&token.0.to_be_bytes());
    bytes
}

fn field<const N: usize>(bytes: &[u8; LEN], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

impl std::fmt::Display for CdcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Size { bytes } => write!(f, "a CDC message cannot be {bytes} bytes long"),
            Self::Type(value) => write!(f, "type 0x{value:02x} is not that of a CDC message"),
            Self::Length(value) => write!(f, "a CDC message announces {value} bytes"),
        }
    }
}

impl std::error::Error for CdcError {}
