//! How a handshake can fail.

use std::ffi::c_int;

use crate::Reason;
use crate::clc::{ClcError, Field, Kind};

/// The handshake failed in a way that leaves no way back to TCP: the connection has to end (RFC
/// 7609 §C.5, §C.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// What came is no CLC message.
    Invalid(ClcError),
    /// A sound message, but not the one that was due (nor a Decline).
    Unexpected {
        /// The one that was due.
        expected: Kind,
        /// The one that came.
        got: Kind,
    },
    /// The Confirm does not say what was agreed.
    Mismatch(Field),
    /// The message did not come in time, or not all of it.
    Timeout(Kind),
    /// The stream ended where this message was due, or inside of it.
    Ended(Kind),
}

impl HandshakeError {
    /// The reason to show and to count.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Invalid(_) | Self::Unexpected { .. } | Self::Mismatch(_) => Reason::ClcInvalid,
            Self::Timeout(_) => Reason::ClcTimeout,
            Self::Ended(_) => Reason::Ended,
        }
    }

    /// The errno that the application gets, the same as from a Linux kernel.
    pub const fn errno(&self) -> c_int {
        match self {
            Self::Invalid(_) | Self::Unexpected { .. } | Self::Mismatch(_) => libc::EPROTO,
            Self::Timeout(_) => libc::ETIMEDOUT,
            Self::Ended(_) => libc::ECONNRESET,
        }
    }
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(error) => write!(f, "invalid CLC message: {error}"),
            Self::Unexpected { expected, got } => write!(f, "CLC {got} where {expected} was due"),
            Self::Mismatch(field) => {
                write!(f, "the CLC Confirm contradicts what was agreed in {field}")
            }
            Self::Timeout(kind) => write!(f, "no CLC {kind} in time"),
            Self::Ended(kind) => write!(f, "the stream ended where a CLC {kind} was due"),
        }
    }
}

impl std::error::Error for HandshakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Invalid(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ClcError> for HandshakeError {
    fn from(error: ClcError) -> Self {
        Self::Invalid(error)
    }
}

/// The owner of a handshake asked for something that cannot be done; nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// Not in this phase.
    Phase,
    /// The buffer has another GID than the one that this handshake was started with.
    Gid,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Phase => "not possible in this phase of the handshake",
            Self::Gid => "the buffer's GID is not the one of the handshake",
        })
    }
}

impl std::error::Error for CallError {}
