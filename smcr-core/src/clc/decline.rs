//! Decline: this connection stays on TCP (RFC 7609 §A.2.5).

use super::codec::{Reader, Writer};
use super::header::FLAG;
use super::{ClcError, Field, Header, Kind, OsType, PeerId, Version};
use crate::Reason;

/// Why a peer declined. The numbers are each system's own business; those of Linux and of this
/// library are known here.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Diagnosis(pub u32);

impl Diagnosis {
    /// The reason of this library that has the code, if any.
    pub fn reason(self) -> Option<Reason> {
        Reason::ALL
            .iter()
            .copied()
            .find(|reason| reason.code() == self.0)
    }
}

impl From<Reason> for Diagnosis {
    fn from(reason: Reason) -> Self {
        Self(reason.code())
    }
}

impl std::fmt::Debug for Diagnosis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{:08x}", self.0)
    }
}

/// The fourth message, sent instead of any other one. The TCP stream continues right behind it
/// with the application's data; it is never answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decline {
    /// The link group that the other side wants to use does not exist here: it is to forget it.
    pub out_of_sync: bool,
    /// The sender.
    pub peer_id: PeerId,
    /// Why.
    pub diagnosis: Diagnosis,
    /// The sender's operating system; travels in version 2 only.
    pub os: OsType,
    /// Version 2 only: four more codes, which Linux leaves zero.
    pub more: Option<[u32; 4]>,
}

impl Decline {
    /// The Decline of this library, in the layout of `version`; with [`Reason::OutOfSync`] the peer
    /// is told to forget the link group (RFC 7609 §C.4).
    pub fn new(version: Version, peer_id: PeerId, reason: Reason) -> Self {
        let (os, more) = match version {
            Version::V1 => (OsType::NONE, None),
            Version::V2 => (OsType::LINUX, Some([0; 4])),
        };
        Self {
            out_of_sync: reason == Reason::OutOfSync,
            peer_id,
            diagnosis: reason.into(),
            os,
            more,
        }
    }

    /// The bytes of the message: 28 in version 1, 44 in version 2.
    pub fn emit(&self) -> Vec<u8> {
        let version = if self.more.is_some() {
            Version::V2
        } else {
            Version::V1
        };
        // Kernels before a fix of 2025 insist that the path bits are zero, also in version 2.
        let mut writer = Writer::new(
            Kind::Decline,
            version,
            if self.out_of_sync { FLAG } else { 0 },
        );
        writer.put(&self.peer_id.0);
        writer.u32(self.diagnosis.0);
        writer.u8(if self.more.is_some() {
            self.os.to_high_nibble()
        } else {
            0
        });
        writer.zeros(3);
        for code in self.more.iter().flatten() {
            writer.u32(*code);
        }
        writer.finish()
    }

    pub(super) fn parse(header: &Header, reader: &mut Reader<'_>) -> Result<Self, ClcError> {
        let peer_id = PeerId(reader.array(Field::PeerId)?);
        let diagnosis = Diagnosis(reader.u32(Field::Diagnosis)?);
        let os = OsType::from_high_nibble(reader.u8(Field::Diagnosis)?);
        reader.skip(3, Field::Diagnosis)?;
        let (os, more) = match header.version {
            Version::V1 => (OsType::NONE, None), // the byte is reserved there
            Version::V2 => {
                let mut code = || reader.u32(Field::Diagnosis);
                (os, Some([code()?, code()?, code()?, code()?]))
            }
        };
        reader.finish()?;
        Ok(Self {
            out_of_sync: header.flag(),
            peer_id,
            diagnosis,
            os,
            more,
        })
    }
}
