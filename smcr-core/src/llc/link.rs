//! The messages about links: CONFIRM LINK, ADD LINK and its continuation, DELETE LINK, REQUEST ADD
//! LINK.

use super::frame::{self, Frame, either_order};
use super::types::{Item, MovedRtoken};
use super::{
    Batch, DeleteReason, LEN, LinkNumber, LinkUserId, LlcError, MAX_LEN, RESPONSE, RejectReason,
    kind,
};
use crate::clc::{Bounded, Gid, Mac, MtuCode, Psn, QpNumber, Version};

/// Most RTokens in the extension of ADD LINK.
pub const MAX_EXTENSION_RTOKENS: usize = (MAX_LEN - extension::RTOKENS - LEN) / MovedRtoken::LEN;

/// The address of one end of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LinkEnd {
    /// MAC address of the port.
    pub mac: Mac,
    /// GID of the port.
    pub gid: Gid,
    /// The queue pair.
    pub qp_number: QpNumber,
}

/// The server asks, over a new link, whether it works; the client says that it does. Each tells
/// which end it is (RFC 7609 §A.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfirmLink {
    /// The client's answer.
    pub response: bool,
    /// The sender's elements have no eye catcher in front of the data. Linux sends and demands it;
    /// the RFC does not know the bits. What comes of it: [`EyeCatcher`](crate::cdc::EyeCatcher).
    pub no_eye_catcher: bool,
    /// The sender's end.
    pub end: LinkEnd,
    /// The number that the server gives to the link; the client repeats it.
    pub link: LinkNumber,
    /// The sender's own name for the link.
    pub user_id: LinkUserId,
    /// How many links the sender can have in a group; 0 is not told. The smaller one counts.
    pub max_links: u8,
    /// How many connections the sender can have in a group (release 1), else 0.
    pub max_conns: u8,
}

/// What an ADD LINK message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddLinkKind {
    /// From the server: a new link. From the client: asks for such a message.
    Request,
    /// The client takes it.
    Accepted,
    /// The client does not.
    Rejected(RejectReason),
}

/// The sender's end of a new link (RFC 7609 §A.3.2, in the layout that Linux uses).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddLink {
    /// Request or answer.
    pub kind: AddLinkKind,
    /// The sender's end.
    pub end: LinkEnd,
    /// The number that the server gives to the link; the client repeats it.
    pub link: LinkNumber,
    /// The path MTU of the sender's queue pair.
    pub mtu: MtuCode,
    /// The first packet sequence number that the sender will use.
    pub psn: Psn,
    /// What version 1 has continuations for. Only sent in version 2, and not with a rejection.
    pub extension: Option<AddLinkExtension>,
}

/// The end of ADD LINK in version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddLinkExtension {
    /// No router in between.
    pub direct: bool,
    /// The end of the client that the server means.
    pub target_gid: Gid,
    /// The sender's RMBs over the new link.
    pub rtokens: Bounded<MovedRtoken, MAX_EXTENSION_RTOKENS>,
}

/// The sender's RMBs over the new link (RFC 7609 §A.3.3). The server begins, and goes on until both
/// have nothing left to say; a side that is through says so with empty ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddLinkContinuation {
    /// The client's.
    pub response: bool,
    /// The new link.
    pub link: LinkNumber,
    /// RMBs over it.
    pub rtokens: Batch<MovedRtoken, 2>,
}

/// Which link goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteTarget {
    /// This one.
    One(LinkNumber),
    /// All of them: the group ends.
    All,
}

/// A link goes away; from the client: asks for such a message (RFC 7609 §A.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteLink {
    /// The client's answer.
    pub response: bool,
    /// Not at once: what is under way may end first.
    pub orderly: bool,
    /// Which one.
    pub target: DeleteTarget,
    /// Why; in an answer: how it went.
    pub reason: DeleteReason,
}

/// The client has found another device and asks for an ADD LINK (Linux, version 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestAddLink {
    /// The server's answer: no.
    pub response: bool,
    /// The GIDs that the client could use.
    pub gids: Bounded<Gid, 255>,
}

/// Offsets in CONFIRM LINK.
mod confirm {
    pub(super) const MAC: usize = 4;
    pub(super) const GID: usize = 10;
    pub(super) const QP_NUMBER: usize = 26;
    pub(super) const LINK: usize = 29;
    pub(super) const USER_ID: usize = 30;
    pub(super) const MAX_LINKS: usize = 34;
    pub(super) const MAX_CONNS: usize = 35;

    /// Either bit means that there is no eye catcher; both are sent.
    pub(super) const NO_EYE_CATCHER: u8 = 0x03;
}

/// Offsets in ADD LINK. Two bytes behind the MAC address are not in the RFC's figure, but in what
/// Linux sends and expects.
mod add {
    pub(super) const MAC: usize = 4;
    pub(super) const GID: usize = 12;
    pub(super) const QP_NUMBER: usize = 28;
    pub(super) const LINK: usize = 31;
    pub(super) const MTU: usize = 32;
    pub(super) const PSN: usize = 33;

    pub(super) const REJECTED: u8 = 0x40;
}

/// Offsets behind the first 44 bytes of ADD LINK in version 2.
mod extension {
    pub(super) const DIRECT: usize = 0;
    pub(super) const TARGET_GID: usize = 2;
    pub(super) const COUNT: usize = 26;
    pub(super) const RTOKENS: usize = 28;
}

/// Offsets in ADD LINK CONTINUATION.
mod continuation {
    pub(super) const LINK: usize = 4;
    pub(super) const COUNT: usize = 5;
    pub(super) const RTOKENS: usize = 8;
}

/// Offsets in DELETE LINK.
mod delete {
    pub(super) const LINK: usize = 4;
    pub(super) const REASON: usize = 5;

    pub(super) const ALL: u8 = 0x40;
    pub(super) const ORDERLY: u8 = 0x20;
}

/// Offsets in REQUEST ADD LINK.
mod request {
    pub(super) const COUNT: usize = 24;
    pub(super) const GIDS: usize = 28;
}

fn u24([a, b, c]: [u8; 3]) -> u32 {
    u32::from_be_bytes([0, a, b, c])
}

fn qp_number(bytes: [u8; 3]) -> QpNumber {
    QpNumber::new(u24(bytes)).expect("three bytes are 24 bits")
}

impl ConfirmLink {
    pub(super) fn parse(frame: &Frame<'_>) -> Self {
        Self {
            response: frame.has(RESPONSE),
            no_eye_catcher: frame.has(confirm::NO_EYE_CATCHER),
            end: LinkEnd {
                mac: Mac(frame.array(confirm::MAC)),
                gid: Gid(frame.array(confirm::GID)),
                qp_number: qp_number(frame.array(confirm::QP_NUMBER)),
            },
            link: LinkNumber(frame.u8(confirm::LINK)),
            user_id: LinkUserId(frame.u32(confirm::USER_ID)),
            max_links: frame.u8(confirm::MAX_LINKS),
            max_conns: frame.u8(confirm::MAX_CONNS),
        }
    }

    pub(super) fn emit(&self, version: Version) -> Vec<u8> {
        let mut flags = if self.response { RESPONSE } else { 0 };
        if self.no_eye_catcher {
            flags |= confirm::NO_EYE_CATCHER;
        }
        let mut bytes = frame::start(kind::CONFIRM_LINK, version, LEN, flags);
        frame::put(&mut bytes, confirm::MAC, &self.end.mac.0);
        frame::put(&mut bytes, confirm::GID, &self.end.gid.0);
        let qp_number = self.end.qp_number.get().to_be_bytes();
        frame::put(&mut bytes, confirm::QP_NUMBER, &qp_number[1..]);
        bytes[confirm::LINK] = self.link.0;
        frame::put(&mut bytes, confirm::USER_ID, &self.user_id.0.to_be_bytes());
        bytes[confirm::MAX_LINKS] = self.max_links;
        bytes[confirm::MAX_CONNS] = self.max_conns;
        bytes
    }
}

impl AddLink {
    pub(super) fn parse(frame: &Frame<'_>) -> Result<Self, LlcError> {
        let kind = match (frame.has(RESPONSE), frame.has(add::REJECTED)) {
            (false, _) => AddLinkKind::Request,
            (true, false) => AddLinkKind::Accepted,
            (true, true) => AddLinkKind::Rejected(match frame.version() {
                Version::V1 => RejectReason(frame.u8(2) & 0x0f),
                Version::V2 => RejectReason::NONE, // the length is there
            }),
        };
        let extension = match kind {
            AddLinkKind::Rejected(_) => None,
            _ if frame.rest().is_empty() => None,
            _ => Some(AddLinkExtension::parse(frame.rest())?),
        };
        Ok(Self {
            kind,
            end: LinkEnd {
                mac: Mac(frame.array(add::MAC)),
                gid: Gid(frame.array(add::GID)),
                qp_number: qp_number(frame.array(add::QP_NUMBER)),
            },
            link: LinkNumber(frame.u8(add::LINK)),
            mtu: MtuCode::new(frame.u8(add::MTU) & 0x0f).expect("four bits"),
            psn: Psn::new(u24(frame.array(add::PSN))).expect("three bytes are 24 bits"),
            extension,
        })
    }

    pub(super) fn emit(&self, version: Version) -> Vec<u8> {
        let flags = match self.kind {
            AddLinkKind::Request => 0,
            AddLinkKind::Accepted => RESPONSE,
            AddLinkKind::Rejected(_) => RESPONSE | add::REJECTED,
        };
        let extension = match (version, self.kind) {
            (Version::V1, _) | (_, AddLinkKind::Rejected(_)) => None,
            (Version::V2, _) => self.extension.as_ref(),
        };
        let len = LEN + extension.map_or(0, AddLinkExtension::len);
        let mut bytes = frame::start(kind::ADD_LINK, version, len, flags);
        if let (Version::V1, AddLinkKind::Rejected(reason)) = (version, self.kind) {
            bytes[2] = reason.0 & 0x0f;
        }
        frame::put(&mut bytes, add::MAC, &self.end.mac.0);
        frame::put(&mut bytes, add::GID, &self.end.gid.0);
        let qp_number = self.end.qp_number.get().to_be_bytes();
        frame::put(&mut bytes, add::QP_NUMBER, &qp_number[1..]);
        bytes[add::LINK] = self.link.0;
        bytes[add::MTU] = self.mtu.code();
        frame::put(&mut bytes, add::PSN, &self.psn.get().to_be_bytes()[1..]);
        if let Some(extension) = extension {
            extension.emit(&mut bytes[LEN..]);
        }
        bytes
    }
}

impl AddLinkExtension {
    fn parse(bytes: &[u8]) -> Result<Self, LlcError> {
        let Some((head, list)) = bytes.split_at_checked(extension::RTOKENS) else {
            return Err(LlcError::Truncated {
                bytes: LEN + bytes.len(),
            });
        };
        let count = [head[extension::COUNT], head[extension::COUNT + 1]];
        let room = list.len() / MovedRtoken::LEN;
        let count =
            either_order(count, room, |count| count <= room).ok_or_else(|| LlcError::Count {
                announced: u16::from_be_bytes(count),
            })?;
        let mut gid = [0; 16];
        gid.copy_from_slice(&head[extension::TARGET_GID..][..16]);
        let rtokens = list
            .chunks_exact(MovedRtoken::LEN)
            .take(count)
            .map(MovedRtoken::parse)
            .collect();
        Ok(Self {
            direct: head[extension::DIRECT] & 0x80 != 0,
            target_gid: Gid(gid),
            rtokens: Bounded::new(rtokens).expect("no message has room for more"),
        })
    }

    fn len(&self) -> usize {
        extension::RTOKENS + self.rtokens.len() * MovedRtoken::LEN
    }

    fn emit(&self, bytes: &mut [u8]) {
        bytes[extension::DIRECT] = u8::from(self.direct) << 7;
        frame::put(bytes, extension::TARGET_GID, &self.target_gid.0);
        let count = self.rtokens.len() as u16;
        frame::put(bytes, extension::COUNT, &count.to_be_bytes());
        let parts = bytes[extension::RTOKENS..].chunks_exact_mut(MovedRtoken::LEN);
        for (rtoken, part) in self.rtokens.iter().zip(parts) {
            rtoken.emit(part);
        }
    }
}

impl AddLinkContinuation {
    pub(super) fn parse(frame: &Frame<'_>) -> Self {
        Self {
            response: frame.has(RESPONSE),
            link: LinkNumber(frame.u8(continuation::LINK)),
            rtokens: Batch::parse(
                frame.u8(continuation::COUNT),
                &frame.array::<{ 2 * MovedRtoken::LEN }>(continuation::RTOKENS),
            ),
        }
    }

    pub(super) fn emit(&self) -> Vec<u8> {
        let flags = if self.response { RESPONSE } else { 0 };
        let mut bytes = frame::start(kind::ADD_LINK_CONTINUATION, Version::V1, LEN, flags);
        bytes[continuation::LINK] = self.link.0;
        bytes[continuation::COUNT] = self.rtokens.announced();
        self.rtokens.emit(&mut bytes[continuation::RTOKENS..]);
        bytes
    }
}

impl DeleteLink {
    pub(super) fn parse(frame: &Frame<'_>) -> Self {
        Self {
            response: frame.has(RESPONSE),
            orderly: frame.has(delete::ORDERLY),
            target: if frame.has(delete::ALL) {
                DeleteTarget::All
            } else {
                DeleteTarget::One(LinkNumber(frame.u8(delete::LINK)))
            },
            reason: DeleteReason(frame.u32(delete::REASON)),
        }
    }

    pub(super) fn emit(&self, version: Version) -> Vec<u8> {
        let mut flags = if self.response { RESPONSE } else { 0 };
        if self.orderly {
            flags |= delete::ORDERLY;
        }
        if self.target == DeleteTarget::All {
            flags |= delete::ALL;
        }
        let mut bytes = frame::start(kind::DELETE_LINK, version, LEN, flags);
        if let DeleteTarget::One(link) = self.target {
            bytes[delete::LINK] = link.0;
        }
        frame::put(&mut bytes, delete::REASON, &self.reason.0.to_be_bytes());
        bytes
    }
}

impl RequestAddLink {
    pub(super) fn parse(frame: &Frame<'_>) -> Result<Self, LlcError> {
        let count = frame.u8(request::COUNT);
        // The first one is within the 44 bytes, the others are behind them.
        let gids: Vec<_> = std::iter::once(frame.array::<16>(request::GIDS))
            .chain(frame.rest().chunks_exact(16).map(|chunk| {
                let mut gid = [0; 16];
                gid.copy_from_slice(chunk);
                gid
            }))
            .take(count.into())
            .map(Gid)
            .collect();
        if gids.len() < count.into() {
            return Err(LlcError::Count {
                announced: count.into(),
            });
        }
        Ok(Self {
            response: frame.has(RESPONSE),
            gids: Bounded::new(gids).expect("the count is a byte"),
        })
    }

    pub(super) fn emit(&self) -> Vec<u8> {
        let flags = if self.response { RESPONSE } else { 0 };
        let len = LEN.max(request::GIDS + 16 * self.gids.len());
        let mut bytes = frame::start(kind::REQUEST_ADD_LINK, Version::V2, len, flags);
        bytes[request::COUNT] = self.gids.len() as u8;
        for (gid, part) in self
            .gids
            .iter()
            .zip(bytes[request::GIDS..].chunks_exact_mut(16))
        {
            part.copy_from_slice(&gid.0);
        }
        bytes
    }
}
