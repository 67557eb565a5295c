//! Proposal: what the client can do (RFC 7609 §A.2.2, and Linux for version 2).
//!
//! ```text
//! header | peer ID, GID, MAC, X | X bytes: SMC-D area | IP area | v2 extension | SMC-Dv2 extension | trailer
//! 0        8                40    40                    40+X
//! ```
//!
//! Version 1 has an IP area and, if X is 40, an SMC-D area. Version 2 always has the SMC-D area, an
//! IP area if it offers version 1 too, and a version 2 extension if it offers version 2.

use super::codec::{Reader, Writer};
use super::{
    Bounded, Capabilities, Chid, ClcError, Field, Gid, Header, IsmGid, Kind, Mac, PeerId, Version,
    WireEid,
};

/// Most enterprise IDs in a Proposal.
pub const MAX_EIDS: usize = 8;
/// Most pairs of ISM GID and CHID in a Proposal.
pub const MAX_ISM_GIDS: usize = 8;
/// Most IPv6 prefixes in a Proposal.
pub const MAX_PREFIXES: usize = 8;

/// Where the SMC-D area begins, and how long it is.
const AREA: usize = 40;
/// Offset 0 of the version 2 extension's own offset field.
const V2_OFFSET_BASE: usize = 52;

/// The client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The client; zero if a Linux client offers version 2 only.
    pub peer_id: PeerId,
    /// The GID that the client prefers for version 1 (no promise), else zero.
    pub gid: Gid,
    /// The MAC address to that GID, or zero.
    pub mac: Mac,
    /// What is offered.
    pub offer: Offer,
}

/// Which fabrics are offered in one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fabrics {
    /// RDMA: SMC-R.
    R,
    /// Memory shared through ISM devices, real or emulated: SMC-D.
    D,
    /// Either.
    Both,
}

impl Fabrics {
    /// Is SMC-R among them?
    pub const fn has_r(self) -> bool {
        matches!(self, Self::R | Self::Both)
    }

    /// Is SMC-D among them?
    pub const fn has_d(self) -> bool {
        matches!(self, Self::D | Self::Both)
    }

    /// `None`: neither of them.
    const fn from_wire(path: u8) -> Option<Self> {
        match path & 3 {
            0 => Some(Self::R),
            1 => Some(Self::D),
            2 => None,
            _ => Some(Self::Both),
        }
    }

    const fn to_wire(this: Option<Self>) -> u8 {
        match this {
            Some(Self::R) => 0,
            Some(Self::D) => 1,
            None => 2,
            Some(Self::Both) => 3,
        }
    }
}

/// What a Proposal offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// A message in the version 1 layout.
    V1 {
        /// The offer.
        v1: OfferV1,
        /// The client's native ISM device, if there is an SMC-D area.
        native_ism: Option<(IsmGid, Chid)>,
    },
    /// A message in the version 2 layout. Linux uses it also to offer version 1 only.
    V2 {
        /// The offer of version 1, if any.
        v1: Option<OfferV1>,
        /// The client's native ISM device, or zeros.
        native_ism: (IsmGid, Chid),
        /// The offer of version 2, if any.
        v2: Option<OfferV2>,
    },
}

/// The offer of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferV1 {
    /// With which fabrics.
    pub fabrics: Fabrics,
    /// Where the client is: version 1 does not cross routers.
    pub ip: IpArea,
}

/// The offer of version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferV2 {
    /// With which fabrics.
    pub fabrics: Fabrics,
    /// The details; `None` if the message says that it has none, which is to be declined.
    pub extension: Option<V2Extension>,
}

/// The subnet of the client's address, and its IPv6 prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpArea {
    /// IPv4 address AND mask; zero over IPv6.
    pub subnet: [u8; 4],
    /// Bits in the mask.
    pub mask_bits: u8,
    /// The prefixes of the interface; empty over IPv4.
    pub prefixes: Bounded<Ipv6Prefix, MAX_PREFIXES>,
}

/// An IPv6 prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv6Prefix {
    /// The prefix.
    pub prefix: [u8; 16],
    /// Its bits.
    pub bits: u8,
}

/// The details of an offer of version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V2Extension {
    /// The enterprise IDs of the client, in its order.
    pub eids: Bounded<WireEid, MAX_EIDS>,
    /// What the client can do.
    pub capabilities: Capabilities,
    /// The RoCEv2 GID of the client's queue pair (Linux takes it from here, not from Confirm).
    pub roce_gid: Gid,
    /// The ISM devices; only sent if the fabrics of the offer include SMC-D.
    pub smcd: Option<SmcdV2Extension>,
}

/// The ISM devices of a client. An emulated one takes two entries with the same CHID, the second
/// one with the upper half of its GID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SmcdV2Extension {
    /// The system's own enterprise ID.
    pub system_eid: Option<WireEid>,
    /// The devices.
    pub gids: Bounded<(IsmGid, Chid), MAX_ISM_GIDS>,
}

impl Proposal {
    /// The bytes of the message.
    pub fn emit(&self) -> Vec<u8> {
        let (version, v1, area, v2) = match &self.offer {
            Offer::V1 { v1, native_ism } => (Version::V1, Some(v1), *native_ism, None),
            Offer::V2 { v1, native_ism, v2 } => {
                (Version::V2, v1.as_ref(), Some(*native_ism), v2.as_ref())
            }
        };
        let path_v2 = match version {
            Version::V1 => 0, // reserved
            Version::V2 => Fabrics::to_wire(v2.map(|v2| v2.fabrics)) << 2,
        };
        let mut writer = Writer::new(
            Kind::Proposal,
            version,
            path_v2 | Fabrics::to_wire(v1.map(|v1| v1.fabrics)),
        );
        writer.put(&self.peer_id.0);
        writer.put(&self.gid.0);
        writer.put(&self.mac.0);
        // Without an IP area there is nothing for the offset to point at, and Linux leaves it zero.
        writer.u16(if area.is_some() && v1.is_some() {
            AREA as u16
        } else {
            0
        });
        let extension = v2.and_then(|v2| {
            v2.extension
                .as_ref()
                .map(|extension| (v2.fabrics, extension))
        });
        if let Some((gid, chid)) = area {
            writer.u64(gid.0);
            writer.u16(chid.0);
            let ip_len = v1.map_or(0, |v1| v1.ip.len());
            writer.u16(if extension.is_some() {
                v2_offset(ip_len)
            } else {
                0
            });
            writer.zeros(28);
        }
        if let Some(v1) = v1 {
            v1.ip.emit(&mut writer);
        }
        if let Some((fabrics, extension)) = extension {
            extension.emit(fabrics, &mut writer);
        }
        writer.finish()
    }

    pub(super) fn parse(header: &Header, reader: &mut Reader<'_>) -> Result<Self, ClcError> {
        let peer_id = PeerId(reader.array(Field::PeerId)?);
        let gid = Gid(reader.array(Field::Gid)?);
        let mac = Mac(reader.array(Field::Mac)?);
        let ip_offset = reader.u16(Field::IpAreaOffset)?;
        let bad_offset = ClcError::Value {
            field: Field::IpAreaOffset,
            value: ip_offset.into(),
        };
        if usize::from(ip_offset) > AREA {
            return Err(bad_offset);
        }
        let v1 = Fabrics::from_wire(header.path());
        let offer = match header.version {
            Version::V1 => {
                let fabrics = v1.ok_or_else(|| ClcError::Value {
                    field: Field::Path,
                    value: header.path().into(),
                })?;
                // RFC 7609 wants the offset honoured, whatever a later peer puts in between.
                let mut area = reader.sub(ip_offset.into(), Field::SmcdArea)?;
                let native_ism = if area.left() == AREA {
                    Some(SmcdArea::parse(&mut area)?.native_ism)
                } else {
                    None
                };
                Offer::V1 {
                    v1: OfferV1 {
                        fabrics,
                        ip: IpArea::parse(reader)?,
                    },
                    native_ism,
                }
            }
            Version::V2 => {
                let area = SmcdArea::parse(reader)?;
                let v1 = match v1 {
                    Some(_) if usize::from(ip_offset) != AREA => return Err(bad_offset),
                    Some(fabrics) => Some(OfferV1 {
                        fabrics,
                        ip: IpArea::parse(reader)?,
                    }),
                    None => None,
                };
                let ip_len = v1.as_ref().map_or(0, |v1| v1.ip.len());
                let v2 = match Fabrics::from_wire(header.path_v2()) {
                    None => None,
                    Some(fabrics) => Some(OfferV2 {
                        fabrics,
                        extension: match area.v2_offset {
                            0 => None,
                            offset if offset == v2_offset(ip_len) => {
                                Some(V2Extension::parse(fabrics, reader)?)
                            }
                            offset => {
                                return Err(ClcError::Value {
                                    field: Field::V2Offset,
                                    value: offset.into(),
                                });
                            }
                        },
                    }),
                };
                Offer::V2 {
                    v1,
                    native_ism: area.native_ism,
                    v2,
                }
            }
        };
        reader.finish()?;
        Ok(Self {
            peer_id,
            gid,
            mac,
            offer,
        })
    }
}

/// The distance of the version 2 extension from offset 52, behind an IP area of `ip_len` bytes.
const fn v2_offset(ip_len: usize) -> u16 {
    (2 * AREA - V2_OFFSET_BASE + ip_len) as u16
}

struct SmcdArea {
    native_ism: (IsmGid, Chid),
    v2_offset: u16,
}

impl SmcdArea {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, ClcError> {
        let area = Self {
            native_ism: parse_device(reader)?,
            v2_offset: reader.u16(Field::V2Offset)?,
        };
        reader.skip(28, Field::SmcdArea)?; // a vendor's options, else reserved
        Ok(area)
    }
}

fn parse_device(reader: &mut Reader<'_>) -> Result<(IsmGid, Chid), ClcError> {
    Ok((
        IsmGid(reader.u64(Field::IsmGids)?),
        Chid(reader.u16(Field::IsmGids)?),
    ))
}

impl Offer {
    /// The layout of the message.
    pub const fn version(&self) -> Version {
        match self {
            Self::V1 { .. } => Version::V1,
            Self::V2 { .. } => Version::V2,
        }
    }
}

impl IpArea {
    const PREFIX_LEN: usize = 17;

    fn len(&self) -> usize {
        8 + Self::PREFIX_LEN * self.prefixes.len()
    }

    fn emit(&self, writer: &mut Writer) {
        writer.put(&self.subnet);
        writer.u8(self.mask_bits);
        writer.zeros(2);
        writer.u8(self.prefixes.count());
        for prefix in &self.prefixes {
            writer.put(&prefix.prefix);
            writer.u8(prefix.bits);
        }
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, ClcError> {
        let subnet = reader.array(Field::IpArea)?;
        let mask_bits = reader.u8(Field::IpArea)?;
        reader.skip(2, Field::IpArea)?;
        let count = reader.count(Field::PrefixCount, MAX_PREFIXES)?;
        let prefixes = Bounded::read(count, || {
            Ok(Ipv6Prefix {
                prefix: reader.array(Field::Prefixes)?,
                bits: reader.u8(Field::Prefixes)?,
            })
        })?;
        Ok(Self {
            subnet,
            mask_bits,
            prefixes,
        })
    }
}

impl V2Extension {
    /// Where the SMC-D extension is, counted from byte 8 of this one.
    const fn smcd_offset(eids: usize) -> u16 {
        (32 + 32 * eids) as u16
    }

    fn emit(&self, fabrics: Fabrics, writer: &mut Writer) {
        let smcd = self.smcd.as_ref().filter(|_| fabrics.has_d());
        writer.u8(self.eids.count());
        writer.u8(smcd.map_or(0, |smcd| smcd.gids.count()));
        writer.zeros(1);
        let system_eid = smcd.and_then(|smcd| smcd.system_eid);
        writer.u8(self.capabilities.release() << 4 | u8::from(system_eid.is_some()));
        writer.zeros(2);
        writer.u16(smcd.map_or(0, |_| Self::smcd_offset(self.eids.len())));
        writer.put(&self.roce_gid.0);
        self.capabilities.emit(writer);
        writer.zeros(12);
        for eid in &self.eids {
            writer.put(&eid.0);
        }
        if let Some(smcd) = smcd {
            writer.put(&system_eid.map_or([0; 32], |eid| eid.0));
            writer.zeros(16);
            for (gid, chid) in &smcd.gids {
                writer.u64(gid.0);
                writer.u16(chid.0);
            }
        }
    }

    fn parse(fabrics: Fabrics, reader: &mut Reader<'_>) -> Result<Self, ClcError> {
        let field = Field::V2Extension;
        let eid_count = reader.count(Field::EidCount, MAX_EIDS)?;
        let gid_count = reader.count(Field::IsmGidCount, MAX_ISM_GIDS)?;
        reader.skip(1, field)?;
        let flags = reader.u8(field)?;
        reader.skip(2, field)?;
        let smcd_offset = reader.u16(Field::SmcdV2Offset)?;
        let roce_gid = Gid(reader.array(field)?);
        let capabilities = Capabilities::parse(flags >> 4, reader, field)?;
        reader.skip(12, field)?;
        let eids = Bounded::read(eid_count, || Ok(WireEid(reader.array(Field::Eids)?)))?;
        let smcd = match smcd_offset {
            _ if !fabrics.has_d() => None,
            0 => None,
            offset if offset == Self::smcd_offset(eid_count) => {
                let system_eid = WireEid(reader.array(Field::SmcdV2Extension)?);
                reader.skip(16, Field::SmcdV2Extension)?;
                let gids = Bounded::read(gid_count, || parse_device(reader))?;
                Some(SmcdV2Extension {
                    system_eid: (flags & 1 != 0).then_some(system_eid),
                    gids,
                })
            }
            offset => {
                return Err(ClcError::Value {
                    field: Field::SmcdV2Offset,
                    value: offset.into(),
                });
            }
        };
        Ok(Self {
            eids,
            capabilities,
            roce_gid,
            smcd,
        })
    }
}
