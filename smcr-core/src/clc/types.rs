//! The numbers in CLC messages, each a type of its own so that none is taken for another.

use std::num::NonZeroU8;

use super::codec::{Reader, Writer};
use super::{ClcError, Field};

macro_rules! newtypes {
    ($($(#[doc = $doc:literal])* $name:ident($inner:ty);)*) => {
        $($(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);)*
    };
}

newtypes! {
    /// Names a peer for as long as it runs: two free bytes (an instance number), then the MAC
    /// address of one of its ports (RFC 7609 §2.2.4, §A.2.1). Nobody takes it apart; all zero in
    /// the Proposals of a Linux client that offers only version 2.
    PeerId([u8; 8]);
    /// A RoCE GID; in version 2 an IPv4 address mapped to IPv6.
    Gid([u8; 16]);
    /// A MAC address.
    Mac([u8; 6]);
    /// The remote key of an RMB.
    Rkey(u32);
    /// The alert token of a connection: what its CDC messages carry, opaque to the peer, unique in
    /// the link group (RFC 7609 §A.2.3). Senders do not use 0.
    Token(u32);
    /// The token of an SMC-D buffer (DMB).
    DmbToken(u64);
    /// The GID of an ISM device, or the second half of the GID of an emulated one.
    IsmGid(u64);
    /// The channel ID of an ISM device: devices of one CHID reach each other.
    Chid(u16);
}

impl Chid {
    /// CHIDs from 0xff00 name emulated ISM devices, whose GIDs are 128 bits wide.
    pub const fn is_emulated(self) -> bool {
        self.0 >= 0xff00
    }
}

macro_rules! u24 {
    ($($(#[doc = $doc:literal])* $name:ident, $field:ident;)*) => {
        $($(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// The largest value.
            pub const MAX: Self = Self(0x00ff_ffff);

            /// `None` above 24 bits.
            pub const fn new(value: u32) -> Option<Self> {
                if value <= Self::MAX.0 { Some(Self(value)) } else { None }
            }

            /// The value, below 2^24.
            pub const fn get(self) -> u32 {
                self.0
            }

            pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, ClcError> {
                let [a, b, c] = reader.array(Field::$field)?;
                Ok(Self(u32::from_be_bytes([0, a, b, c])))
            }

            pub(super) fn emit(self, writer: &mut Writer) {
                writer.put(&self.0.to_be_bytes()[1..]);
            }
        })*
    };
}

u24! {
    /// The number of a queue pair, 24 bits.
    QpNumber, QpNumber;
    /// A packet sequence number, 24 bits.
    Psn, Psn;
}

/// Which element of an RMB, or which buffer, 1..=255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RmbeIndex(pub NonZeroU8);

impl RmbeIndex {
    /// `None` for 0.
    pub const fn new(index: u8) -> Option<Self> {
        match NonZeroU8::new(index) {
            Some(index) => Some(Self(index)),
            None => None,
        }
    }

    /// The index, 1..=255.
    pub const fn get(self) -> u8 {
        self.0.get()
    }

    /// 0 is refused here: the offset of an element is `(index - 1) * size`.
    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, ClcError> {
        let value = reader.u8(Field::RmbeIndex)?;
        Self::new(value).ok_or_else(|| ClcError::Value {
            field: Field::RmbeIndex,
            value: value.into(),
        })
    }
}

/// The size of an RMB element as a power of two: code `c` is `16 KiB << c` (RFC 7609 §A.2.3, which
/// stops at 5 = 512 KiB; newer Linux goes on to 15 = 512 MiB).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RmbeSize(u8);

impl RmbeSize {
    /// The smallest element, 16 KiB.
    pub const MIN: Self = Self(0);
    /// The largest element that the wire can express, 512 MiB.
    pub const MAX: Self = Self(15);

    /// `None` above 15.
    pub const fn new(code: u8) -> Option<Self> {
        if code <= Self::MAX.0 {
            Some(Self(code))
        } else {
            None
        }
    }

    /// The smallest element that holds `bytes`; `None` above 512 MiB.
    pub const fn holding(bytes: usize) -> Option<Self> {
        let mut size = Self::MIN;
        while size.bytes() < bytes {
            if size.0 == Self::MAX.0 {
                return None;
            }
            size.0 += 1;
        }
        Some(size)
    }

    /// The code, 0..=15.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The size in bytes, 16 KiB to 512 MiB.
    pub const fn bytes(self) -> usize {
        1 << (self.0 + 14)
    }

    pub(super) const fn from_high_nibble(byte: u8) -> Self {
        Self(byte >> 4)
    }

    pub(super) const fn to_high_nibble(self) -> u8 {
        self.0 << 4
    }
}

/// The path MTU of a queue pair as sent, a number of four bits: 1..=5 is 256..=4096 bytes, the
/// rest is reserved. A reserved value is no error here, since it is to be answered by a Decline,
/// and to be looked at in first contact only (RFC 7609 §A.2.3, §C.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MtuCode(u8);

impl MtuCode {
    /// `None` above 15.
    pub const fn new(code: u8) -> Option<Self> {
        if code <= 15 { Some(Self(code)) } else { None }
    }

    /// The code, 0..=15.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The MTU in bytes; `None` for the reserved codes.
    pub const fn bytes(self) -> Option<u16> {
        match self.0 {
            1..=5 => Some(128 << self.0),
            _ => None,
        }
    }

    pub(super) const fn from_low_nibble(byte: u8) -> Self {
        Self(byte & 0x0f)
    }
}

/// What an end of a version 2 link group can do. In release 0 only the release is sent and read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities {
    release: u8,
    /// Connections per link group, 16..=255; 0 where it does not apply (SMC-D).
    pub max_conns: u8,
    /// Links per link group, 1..=2; 0 where it does not apply (SMC-D).
    pub max_links: u8,
    /// Bit 0: emulated ISM devices are understood.
    pub features: u16,
}

impl Capabilities {
    /// Bit 0 of [`Self::features`].
    pub const EMULATED_ISM: u16 = 0x0001;

    /// Release 0: nothing but the release travels.
    pub const RELEASE_0: Self = Self {
        release: 0,
        max_conns: 0,
        max_links: 0,
        features: 0,
    };

    /// Release 1.
    pub const fn release_1(max_conns: u8, max_links: u8, features: u16) -> Self {
        Self {
            release: 1,
            max_conns,
            max_links,
            features,
        }
    }

    /// The release, 0..=15.
    pub const fn release(&self) -> u8 {
        self.release
    }

    pub(super) fn parse(
        release: u8,
        reader: &mut Reader<'_>,
        field: Field,
    ) -> Result<Self, ClcError> {
        let sent = Self {
            release,
            max_conns: reader.u8(field)?,
            max_links: reader.u8(field)?,
            features: reader.u16(field)?,
        };
        Ok(if release == 0 { Self::RELEASE_0 } else { sent })
    }

    pub(super) fn emit(self, writer: &mut Writer) {
        let sent = if self.release == 0 {
            Self::RELEASE_0
        } else {
            self
        };
        writer.u8(sent.max_conns);
        writer.u8(sent.max_links);
        writer.u16(sent.features);
    }
}

/// A list of at most `N` items, so that a message that holds it always fits on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounded<T, const N: usize>(Vec<T>);

impl<T, const N: usize> Bounded<T, N> {
    /// `None` if there are more than `N` items.
    pub fn new(items: Vec<T>) -> Option<Self> {
        (items.len() <= N).then_some(Self(items))
    }

    /// The list that `next` gives when called `count` times; the caller has checked the count.
    pub(super) fn read(
        count: usize,
        mut next: impl FnMut() -> Result<T, ClcError>,
    ) -> Result<Self, ClcError> {
        (0..count.min(N))
            .map(|_| next())
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The number of items as the wire wants it.
    pub(super) fn count(&self) -> u8 {
        self.0.len() as u8
    }
}

impl<T, const N: usize> Default for Bounded<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const N: usize> std::ops::Deref for Bounded<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'a, T, const N: usize> IntoIterator for &'a Bounded<T, N> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
