//! How a handshake can fail, and whose fault that is.

use std::ffi::c_int;

use crate::Reason;
use crate::clc::{ClcError, Field, Kind};

/// Whose fault it is that a connection does not come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer's: it broke the protocol.
    Peer,
    /// Nobody's: the two ends are sound, but set up so that they do not fit.
    Setup,
    /// The network's, or a peer's that is stopped or gone.
    Network,
}

/// What is wrong with a message that parsed.
///
/// As long as a message of ours is due, the answer is a Decline, and the connection goes on over
/// TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Objection {
    /// The Proposal offers no kind of SMC that this end has here.
    NothingInCommon,
    /// The Proposal offers SMC-R, and this end has no device for it.
    NoDevice,
    /// The Proposal offers SMC-R, but in no version that this end has here.
    NoCommonVersion,
    /// The Proposal says that it offers version 2, and has no extension for it.
    NoV2Extension,
    /// None of our enterprise IDs is among the peer's.
    NoCommonEid,
    /// Version 1 does not cross routers, and the client is in another subnet.
    OtherSubnet,
    /// The Accept chooses a kind or a version that was not offered.
    NotOffered,
    /// This release was not offered, or is not the one agreed on.
    Release(u8),
    /// So many connections per link group are too few, too many or not what was agreed.
    MaxConns(u8),
    /// So many links per link group are too few, too many or not what was agreed.
    MaxLinks(u8),
    /// A reserved code for the path MTU: the peer can do something that this end cannot.
    ReservedMtu(u8),
    /// The field has a value that leads nowhere.
    Value(Field),
    /// The Confirm contradicts the Proposal or the Accept. Always ends the connection.
    Contradiction(Field),
}

impl Objection {
    /// The reason to show, to count, and to tell the peer.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NothingInCommon => Reason::NoCommonFabric,
            Self::NoDevice => Reason::NoRdmaDevice,
            Self::NoCommonVersion => Reason::VersionMismatch,
            Self::NoV2Extension => Reason::NoV2Extension,
            Self::NoCommonEid => Reason::NoCommonEid,
            Self::OtherSubnet => Reason::OtherSubnet,
            Self::NotOffered => Reason::NotOffered,
            Self::Release(_) => Reason::ReleaseMismatch,
            Self::MaxConns(_) => Reason::MaxConnsMismatch,
            Self::MaxLinks(_) => Reason::MaxLinksMismatch,
            Self::ReservedMtu(_) => Reason::ReservedMtu,
            Self::Value(_) | Self::Contradiction(_) => Reason::ClcInvalid,
        }
    }

    /// Whose fault it is.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::NothingInCommon
            | Self::NoDevice
            | Self::NoCommonVersion
            | Self::NoCommonEid
            | Self::OtherSubnet
            | Self::ReservedMtu(_) => Fault::Setup,
            Self::NoV2Extension
            | Self::NotOffered
            | Self::Release(_)
            | Self::MaxConns(_)
            | Self::MaxLinks(_)
            | Self::Value(_)
            | Self::Contradiction(_) => Fault::Peer,
        }
    }
}

impl std::fmt::Display for Objection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NothingInCommon => f.write_str("no kind of SMC in common"),
            Self::NoDevice => f.write_str("no RDMA device"),
            Self::NoCommonVersion => f.write_str("no version of SMC-R in common"),
            Self::NoV2Extension => f.write_str("version 2 is offered without its extension"),
            Self::NoCommonEid => f.write_str("no enterprise ID in common"),
            Self::OtherSubnet => f.write_str("the client is in another subnet"),
            Self::NotOffered => f.write_str("the server chose what was not offered"),
            Self::Release(release) => write!(f, "release {release} was not agreed on"),
            Self::MaxConns(conns) => write!(f, "{conns} connections per link group"),
            Self::MaxLinks(links) => write!(f, "{links} links per link group"),
            Self::ReservedMtu(code) => write!(f, "path MTU code {code} is reserved"),
            Self::Value(field) => write!(f, "{field} leads nowhere"),
            Self::Contradiction(field) => write!(f, "{field} contradicts what was said before"),
        }
    }
}

impl std::error::Error for Objection {}

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
    /// The Confirm cannot be used, and it is too late for a Decline.
    Unusable(Objection),
    /// First contact over RDMA: the link was not confirmed, and it is too late for a Decline (RFC
    /// 7609 §C.3).
    Link(Reason),
}

impl HandshakeError {
    /// The reason to show and to count.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Invalid(_) | Self::Unexpected { .. } | Self::Mismatch(_) => Reason::ClcInvalid,
            Self::Timeout(_) => Reason::ClcTimeout,
            Self::Ended(_) => Reason::Ended,
            Self::Unusable(objection) => objection.reason(),
            Self::Link(reason) => *reason,
        }
    }

    /// Whose fault it is.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Invalid(_) | Self::Unexpected { .. } | Self::Mismatch(_) => Fault::Peer,
            Self::Timeout(_) | Self::Ended(_) | Self::Link(_) => Fault::Network,
            Self::Unusable(objection) => objection.fault(),
        }
    }

    /// The errno that the application gets, the same as from a Linux kernel.
    pub const fn errno(&self) -> c_int {
        match self {
            Self::Invalid(_) | Self::Unexpected { .. } | Self::Mismatch(_) => libc::EPROTO,
            Self::Timeout(_) | Self::Link(Reason::LinkTimeout) => libc::ETIMEDOUT,
            Self::Ended(_) | Self::Link(_) => libc::ECONNRESET,
            Self::Unusable(_) => libc::EPROTO,
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
            Self::Unusable(objection) => write!(f, "the CLC Confirm cannot be used: {objection}"),
            Self::Link(reason) => write!(f, "the first link was not confirmed: {reason}"),
        }
    }
}

impl std::error::Error for HandshakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Invalid(error) => Some(error),
            Self::Unusable(objection) => Some(objection),
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
    /// This field of our endpoint is not what the handshake was started with, or nothing that a
    /// peer would take.
    Endpoint(Field),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Phase => f.write_str("not possible in this phase of the handshake"),
            Self::Gid => f.write_str("the buffer's GID is not the one of the handshake"),
            Self::Endpoint(field) => write!(f, "{field} of our endpoint does not fit"),
        }
    }
}

impl std::error::Error for CallError {}
