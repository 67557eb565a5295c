//! The CLC messages (RFC 7609 §3.2, §A.2): what two peers say on the TCP connection before its
//! data, to agree on a fabric or to agree that they stay on TCP.
//!
//! Four types, [`Proposal`], [`Accept`], [`Confirm`] and [`Decline`], gathered in [`Message`]. They
//! cover version 1 (the RFC), version 2 as Linux speaks it (releases 0 and 1, first contact
//! extension), and the SMC-D forms, which Linux uses for memory shared within one host.
//!
//! # Contract
//!
//! * No input makes this module panic or allocate more than [`MAX_LEN`] bytes.
//! * [`Header::parse`] takes eight bytes and gives the exact length of the message, at most
//!   [`MAX_LEN`]. A reader that reads eight bytes and then the rest of the announced length never
//!   takes a byte of the application's data, which may follow a Decline at once.
//! * `emit` is the inverse of `parse`: for every message `m`, `parse(emit(m)) == m`, and for all
//!   bytes that are valid and whose reserved fields are zero, `emit(parse(bytes)) == bytes`, with
//!   two exceptions: versions above 2 are read as 2, and bytes that a newer release put behind the
//!   fields known here are skipped.
//! * Reserved fields are sent as zero and not looked at (RFC 7609 §A.2). Both eye catchers are
//!   checked in all four types.
//! * What an endpoint may *say* is only restricted where a message would be ambiguous otherwise;
//!   what it *means* (does the enterprise ID match, is the MTU a reserved value) is for the
//!   handshake to judge, since the answer to it is a Decline and not the end of the connection
//!   (RFC 7609 §C.6).
//!
//! All integers are big-endian on the wire.

mod accept;
mod codec;
mod decline;
mod error;
mod header;
mod ids;
mod proposal;
mod types;

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
pub(crate) mod strategies;
#[cfg(test)]
mod tests;

pub use accept::{
    Accept, Confirm, Endpoint, FirstContact, IsmEndpoint, MAX_LINK_GIDS, OsType, RdmaEndpoint,
    Terms, TermsV2,
};
pub use decline::{Decline, Diagnosis};
pub use error::{ClcError, Field};
pub use header::{Header, Kind, MAX_LEN, Version, may_be_clc};
pub use ids::{Eid, HostName, WireEid};
pub use proposal::{
    Fabrics, IpArea, Ipv6Prefix, MAX_EIDS, MAX_ISM_GIDS, MAX_PREFIXES, Offer, OfferV1, OfferV2,
    Proposal, SmcdV2Extension, V2Extension,
};
pub use types::{
    Bounded, Capabilities, Chid, DmbToken, Gid, IsmGid, Mac, MtuCode, PeerId, Psn, QpNumber, Rkey,
    RmbeIndex, RmbeSize, Token,
};

use codec::Reader;

/// Any CLC message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The client's first message.
    Proposal(Proposal),
    /// The server's answer.
    Accept(Accept),
    /// The client's answer to that.
    Confirm(Confirm),
    /// Instead of any of them: this connection stays on TCP.
    Decline(Decline),
}

impl Message {
    /// Reads one whole message; `bytes` must be exactly as long as its header announces.
    ///
    /// # Errors
    /// What was wrong with which field. By RFC 7609 §C.6 the TCP connection has to end then.
    pub fn parse(bytes: &[u8]) -> Result<Self, ClcError> {
        let Some((first, _)) = bytes.split_first_chunk() else {
            return Err(ClcError::Truncated(Field::Header));
        };
        let header = Header::parse(first)?;
        let body = header.body(bytes)?;
        let mut reader = Reader::new(body);
        let message = match header.kind {
            Kind::Proposal => Self::Proposal(Proposal::parse(&header, &mut reader)?),
            Kind::Accept => Self::Accept(Accept::parse(&header, &mut reader)?),
            Kind::Confirm => Self::Confirm(Confirm::parse(&header, &mut reader)?),
            Kind::Decline => Self::Decline(Decline::parse(&header, &mut reader)?),
        };
        Ok(message)
    }

    /// The bytes of the message, header and trailer included.
    pub fn emit(&self) -> Vec<u8> {
        match self {
            Self::Proposal(message) => message.emit(),
            Self::Accept(message) => message.emit(),
            Self::Confirm(message) => message.emit(),
            Self::Decline(message) => message.emit(),
        }
    }

    /// Which of the four it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Proposal(_) => Kind::Proposal,
            Self::Accept(_) => Kind::Accept,
            Self::Confirm(_) => Kind::Confirm,
            Self::Decline(_) => Kind::Decline,
        }
    }
}
