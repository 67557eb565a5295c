//! What can be wrong with an LLC message.

/// Why bytes are no LLC message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LlcError {
    /// Fewer bytes than the shortest message has.
    Truncated {
        /// How many there are.
        bytes: usize,
    },
    /// It announces a length that no message of its version has, or more bytes than there are.
    Length {
        /// The length field, big-endian.
        announced: u16,
        /// How many bytes there are.
        bytes: usize,
    },
    /// The first byte names no message that is known in this version.
    UnknownType(u8),
    /// The first byte is that of a CDC message.
    Cdc,
    /// It announces more items than it has room for.
    Count {
        /// How many.
        announced: u16,
    },
}

/// What RFC 7609 §A.3 and §C.7.1 want done about bytes that are no message. Linux drops all of
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing: the message is optional.
    Drop,
    /// The peer does not keep to the protocol: the link that it came over is taken down.
    LinkDown,
}

impl LlcError {
    /// What the RFC wants done. This library drops *unknown types* all the same, as Linux does, and
    /// counts them: a peer that has learned something new is still a good peer.
    pub const fn disposition(self) -> Disposition {
        match self {
            // The two top bits: 10 is optional, 11 is CDC, the rest has to be known.
            Self::UnknownType(value) if value >> 6 == 0b10 => Disposition::Drop,
            _ => Disposition::LinkDown,
        }
    }
}

impl std::fmt::Display for LlcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated { bytes } => {
                write!(f, "an LLC message cannot be {bytes} bytes long")
            }
            Self::Length { announced, bytes } => {
                write!(f, "an LLC message of {bytes} bytes announces {announced}")
            }
            Self::UnknownType(value) => write!(f, "unknown LLC message type 0x{value:02x}"),
            Self::Cdc => f.write_str("a CDC message where an LLC message was expected"),
            Self::Count { announced } => {
                write!(
                    f,
                    "an LLC message announces {announced} items too many for it"
                )
            }
        }
    }
}

impl std::error::Error for LlcError {}
