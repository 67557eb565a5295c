//! Accept and Confirm: each side tells the other where its buffer is (RFC 7609 §A.2.3, §A.2.4; Linux
//! for version 2 and for SMC-D).
//!
//! Both have one layout: the sender's [`Endpoint`], which depends on the fabric, and the [`Terms`]
//! of the connection, which depend on the version.

use super::codec::{Reader, Writer};
use super::header::{EYE_SMCD, EYE_SMCR, FLAG};
use super::{
    Bounded, Capabilities, Chid, ClcError, DmbToken, Field, Gid, Header, HostName, IsmGid, Kind,
    Mac, MtuCode, PeerId, Psn, QpNumber, Rkey, RmbeIndex, RmbeSize, Token, Version, WireEid,
};

/// Most GIDs in a first-contact Confirm (Linux sends one or two).
pub const MAX_LINK_GIDS: usize = 8;

/// The server's answer to a Proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// The server's end.
    pub endpoint: Endpoint,
    /// What the server chose.
    pub terms: Terms,
}

/// The client's answer to an Accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// The client's end.
    pub endpoint: Endpoint,
    /// The terms of the Accept, repeated.
    pub terms: Terms,
    /// The GIDs over which the client can have links, the first link's first. Only sent with
    /// SMC-R, version 2, first contact.
    pub link_gids: Bounded<Gid, MAX_LINK_GIDS>,
}

/// One end of a connection, by fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// SMC-R: an element of a registered buffer behind a queue pair.
    Rdma(RdmaEndpoint),
    /// SMC-D: a buffer of an ISM device, real or emulated.
    Ism(IsmEndpoint),
}

/// One end of an SMC-R connection. Without first contact, GID, MAC and queue pair name a link that
/// both sides know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaEndpoint {
    /// The sender.
    pub peer_id: PeerId,
    /// The GID of its end of the link.
    pub gid: Gid,
    /// The MAC address of its end of the link.
    pub mac: Mac,
    /// The queue pair of its end of the link.
    pub qp_number: QpNumber,
    /// The key of its RMB.
    pub rkey: Rkey,
    /// The element of the RMB that is the connection's.
    pub rmbe_index: RmbeIndex,
    /// Names the connection in CDC messages to the sender.
    pub token: Token,
    /// The size of the element, eye catcher (if the peers use one) included.
    pub rmbe_size: RmbeSize,
    /// The path MTU; both take the smaller one.
    pub mtu: MtuCode,
    /// Where the RMB starts.
    pub address: u64,
    /// The first packet sequence number that the sender will use.
    pub psn: Psn,
}

/// One end of an SMC-D connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsmEndpoint {
    /// The sender's GID, or the first half of it.
    pub gid: IsmGid,
    /// The second half of the GID of an emulated device, else zero. Version 2 only.
    pub gid_extension: IsmGid,
    /// The device's channel; only sent in version 2.
    pub chid: Chid,
    /// The sender's buffer.
    pub token: DmbToken,
    /// The element of the buffer that is the connection's; Linux sends 1.
    pub index: RmbeIndex,
    /// The size of the element.
    pub size: RmbeSize,
    /// For people who compare traces.
    pub link_id: u32,
}

/// The terms of a connection, by version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Terms {
    /// Version 1.
    V1 {
        /// There is no link group yet. Reserved in the Confirm of the RFC; Linux repeats it there.
        first_contact: bool,
    },
    /// Version 2.
    V2(TermsV2),
}

/// The terms of a version 2 connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermsV2 {
    /// The enterprise ID that both have.
    pub eid: WireEid,
    /// The extension that goes with first contact.
    pub first_contact: Option<FirstContact>,
}

/// What two peers tell each other when they start a link group of version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstContact {
    /// No router in between.
    pub direct: bool,
    /// The sender's operating system.
    pub os: OsType,
    /// The sender's host name.
    pub host_name: HostName,
    /// What was negotiated, or what the sender can do.
    pub capabilities: Capabilities,
}

/// The number of an operating system, 0..=15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OsType(u8);

impl OsType {
    /// Not told.
    pub const NONE: Self = Self(0);
    /// z/OS.
    pub const ZOS: Self = Self(1);
    /// Linux.
    pub const LINUX: Self = Self(2);
    /// AIX.
    pub const AIX: Self = Self(3);

    pub(super) const fn from_high_nibble(byte: u8) -> Self {
        Self(byte >> 4)
    }

    pub(super) const fn to_high_nibble(self) -> u8 {
        self.0 << 4
    }
}

impl Accept {
    /// The bytes of the message.
    pub fn emit(&self) -> Vec<u8> {
        emit(Kind::Accept, &self.endpoint, &self.terms).finish()
    }

    /// A longer message of version 2 is fine: Linux only asks for a minimum there.
    pub(super) fn parse(header: &Header, reader: &mut Reader<'_>) -> Result<Self, ClcError> {
        let (endpoint, terms) = parse(header, reader)?;
        Ok(Self { endpoint, terms })
    }
}

impl Confirm {
    /// The bytes of the message.
    pub fn emit(&self) -> Vec<u8> {
        let mut writer = emit(Kind::Confirm, &self.endpoint, &self.terms);
        if has_link_gids(&self.endpoint, &self.terms) {
            writer.u8(self.link_gids.count());
            writer.zeros(3);
            for gid in &self.link_gids {
                writer.put(&gid.0);
            }
        }
        writer.finish()
    }

    pub(super) fn parse(header: &Header, reader: &mut Reader<'_>) -> Result<Self, ClcError> {
        let (endpoint, terms) = parse(header, reader)?;
        let link_gids = if has_link_gids(&endpoint, &terms) {
            let count = reader.count(Field::LinkGidCount, MAX_LINK_GIDS)?;
            reader.skip(3, Field::LinkGidCount)?;
            Bounded::read(count, || Ok(Gid(reader.array(Field::LinkGids)?)))?
        } else {
            Bounded::default()
        };
        Ok(Self {
            endpoint,
            terms,
            link_gids,
        })
    }
}

const fn has_link_gids(endpoint: &Endpoint, terms: &Terms) -> bool {
    matches!(
        (endpoint, terms),
        (
            Endpoint::Rdma(_),
            Terms::V2(TermsV2 {
                first_contact: Some(_),
                ..
            })
        )
    )
}

fn emit(kind: Kind, endpoint: &Endpoint, terms: &Terms) -> Writer {
    let (version, first_contact) = match terms {
        Terms::V1 { first_contact } => (Version::V1, *first_contact),
        Terms::V2(terms) => (Version::V2, terms.first_contact.is_some()),
    };
    let (eye, path) = match endpoint {
        Endpoint::Rdma(_) => (EYE_SMCR, 0),
        Endpoint::Ism(_) => (EYE_SMCD, 1),
    };
    let mut writer = Writer::with_eye(
        eye,
        kind,
        version,
        path | if first_contact { FLAG } else { 0 },
    );
    match endpoint {
        Endpoint::Rdma(rdma) => rdma.emit(&mut writer),
        Endpoint::Ism(ism) => ism.emit(&mut writer),
    }
    match (endpoint, terms) {
        (Endpoint::Rdma(_), Terms::V1 { .. }) => {}
        (Endpoint::Rdma(_), Terms::V2(terms)) => {
            writer.put(&terms.eid.0);
            writer.zeros(8);
        }
        (Endpoint::Ism(_), Terms::V1 { .. }) => writer.zeros(12),
        (Endpoint::Ism(ism), Terms::V2(terms)) => {
            writer.u16(ism.chid.0);
            writer.put(&terms.eid.0);
            writer.u64(ism.gid_extension.0);
        }
    }
    if let Terms::V2(TermsV2 {
        first_contact: Some(first_contact),
        ..
    }) = terms
    {
        first_contact.emit(path == 0, &mut writer);
    }
    writer
}

fn parse(header: &Header, reader: &mut Reader<'_>) -> Result<(Endpoint, Terms), ClcError> {
    let rdma = header.path() == 0; // the header admits 0 and 1 only
    let mut endpoint = if rdma {
        Endpoint::Rdma(RdmaEndpoint::parse(reader)?)
    } else {
        Endpoint::Ism(IsmEndpoint::parse(reader)?)
    };
    if header.version == Version::V1 {
        if !rdma {
            reader.skip(12, Field::Eid)?;
        }
        reader.finish()?;
        return Ok((
            endpoint,
            Terms::V1 {
                first_contact: header.flag(),
            },
        ));
    }
    let eid = match &mut endpoint {
        Endpoint::Rdma(_) => {
            let eid = reader.array(Field::Eid)?;
            reader.skip(8, Field::Eid)?;
            eid
        }
        Endpoint::Ism(ism) => {
            ism.chid = Chid(reader.u16(Field::Chid)?);
            let eid = reader.array(Field::Eid)?;
            ism.gid_extension = IsmGid(reader.u64(Field::Gid)?);
            eid
        }
    };
    let first_contact = if header.flag() {
        Some(FirstContact::parse(rdma, reader)?)
    } else {
        None
    };
    Ok((
        endpoint,
        Terms::V2(TermsV2 {
            eid: WireEid(eid),
            first_contact,
        }),
    ))
}

impl Terms {
    /// The layout of the message.
    pub const fn version(&self) -> Version {
        match self {
            Self::V1 { .. } => Version::V1,
            Self::V2(_) => Version::V2,
        }
    }
}

impl RdmaEndpoint {
    fn emit(&self, writer: &mut Writer) {
        writer.put(&self.peer_id.0);
        writer.put(&self.gid.0);
        writer.put(&self.mac.0);
        self.qp_number.emit(writer);
        writer.u32(self.rkey.0);
        writer.u8(self.rmbe_index.get());
        writer.u32(self.token.0);
        writer.u8(self.rmbe_size.to_high_nibble() | self.mtu.code());
        writer.zeros(1);
        writer.u64(self.address);
        writer.zeros(1);
        self.psn.emit(writer);
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, ClcError> {
        let peer_id = PeerId(reader.array(Field::PeerId)?);
        let gid = Gid(reader.array(Field::Gid)?);
        let mac = Mac(reader.array(Field::Mac)?);
        let qp_number = QpNumber::parse(reader)?;
        let rkey = Rkey(reader.u32(Field::Rkey)?);
        let rmbe_index = RmbeIndex::parse(reader)?;
        let token = Token(reader.u32(Field::Token)?);
        let size_and_mtu = reader.u8(Field::RmbeSize)?;
        reader.skip(1, Field::RmbeSize)?;
        let address = reader.u64(Field::Address)?;
        reader.skip(1, Field::Psn)?;
        let psn = Psn::parse(reader)?;
        Ok(Self {
            peer_id,
            gid,
            mac,
            qp_number,
            rkey,
            rmbe_index,
            token,
            rmbe_size: RmbeSize::from_high_nibble(size_and_mtu),
            mtu: MtuCode::from_low_nibble(size_and_mtu),
            address,
            psn,
        })
    }
}

impl IsmEndpoint {
    fn emit(&self, writer: &mut Writer) {
        writer.u64(self.gid.0);
        writer.u64(self.token.0);
        writer.u8(self.index.get());
        writer.u8(self.size.to_high_nibble());
        writer.zeros(2);
        writer.u32(self.link_id);
    }

    /// The part that both versions have.
    fn parse(reader: &mut Reader<'_>) -> Result<Self, ClcError> {
        let gid = IsmGid(reader.u64(Field::Gid)?);
        let token = DmbToken(reader.u64(Field::Token)?);
        let index = RmbeIndex::parse(reader)?;
        let size = RmbeSize::from_high_nibble(reader.u8(Field::RmbeSize)?);
        reader.skip(2, Field::RmbeSize)?;
        let link_id = reader.u32(Field::Token)?;
        Ok(Self {
            gid,
            gid_extension: IsmGid(0),
            chid: Chid(0),
            token,
            index,
            size,
            link_id,
        })
    }
}

impl FirstContact {
    /// With SMC-D and release 0 the last 16 bytes are missing, as Linux does it.
    const fn is_short(rdma: bool, release: u8) -> bool {
        !rdma && release == 0
    }

    fn emit(&self, rdma: bool, writer: &mut Writer) {
        let release = self.capabilities.release();
        writer.u8(u8::from(self.direct) << 7);
        writer.u8(self.os.to_high_nibble() | release);
        writer.zeros(2);
        writer.put(&self.host_name.0);
        if !Self::is_short(rdma, release) {
            self.capabilities.emit(writer);
            writer.zeros(12); // a vendor's options, reserved
        }
    }

    fn parse(rdma: bool, reader: &mut Reader<'_>) -> Result<Self, ClcError> {
        let field = Field::FirstContact;
        let direct = reader.u8(field)? & 0x80 != 0;
        let os_and_release = reader.u8(field)?;
        let release = os_and_release & 0x0f;
        reader.skip(2, field)?;
        let host_name = HostName(reader.array(field)?);
        let capabilities = if Self::is_short(rdma, release) {
            Capabilities::RELEASE_0
        } else {
            let capabilities = Capabilities::parse(release, reader, field)?;
            reader.skip(12, field)?;
            capabilities
        };
        Ok(Self {
            direct,
            os: OsType::from_high_nibble(os_and_release),
            host_name,
            capabilities,
        })
    }
}
