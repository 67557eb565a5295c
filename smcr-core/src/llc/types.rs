//! The numbers in LLC messages, and the lists that go on in the next message.

use crate::clc::Rkey;

macro_rules! newtypes {
    ($($(#[doc = $doc:literal])* $name:ident($inner:ty);)*) => {
        $($(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);)*
    };
}

newtypes! {
    /// Names a link within its group; the server gives it (RFC 7609 §2.2.4). 0 is only used by old
    /// kernels.
    LinkNumber(u8);
    /// What a side calls a link for its own people; says nothing to the other side.
    LinkUserId(u32);
    /// Why a client rejects ADD LINK, four bits. Lost in the form of version 2.
    RejectReason(u8);
    /// Why a link goes away, or how its deletion went.
    DeleteReason(u32);
}

impl RejectReason {
    /// Not told.
    pub const NONE: Self = Self(0);
    /// It would be parallel to a link that is there.
    pub const NO_ALTERNATE_PATH: Self = Self(1);
    /// The MTU has a reserved value.
    pub const INVALID_MTU: Self = Self(2);
}

impl DeleteReason {
    /// In a response: done.
    pub const NONE: Self = Self(0);
    /// The path failed.
    pub const LOST_PATH: Self = Self(0x0001_0000);
    /// Somebody wants it so.
    pub const OPERATOR: Self = Self(0x0002_0000);
    /// A program ends, or the group was idle for long.
    pub const PROGRAM: Self = Self(0x0003_0000);
    /// The peer does not keep to the protocol.
    pub const PROTOCOL_VIOLATION: Self = Self(0x0004_0000);
    /// There is a better link now than this asymmetric one.
    pub const ASYMMETRIC: Self = Self(0x0005_0000);
    /// In a response: there is no such link.
    pub const UNKNOWN_LINK: Self = Self(0x0010_0000);
}

impl std::fmt::Display for LinkNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "link {}", self.0)
    }
}

impl std::fmt::Display for DeleteReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match *self {
            Self::NONE => "no reason",
            Self::LOST_PATH => "lost path",
            Self::OPERATOR => "operator",
            Self::PROGRAM => "program or inactivity",
            Self::PROTOCOL_VIOLATION => "protocol violation",
            Self::ASYMMETRIC => "asymmetric link not needed",
            Self::UNKNOWN_LINK => "unknown link",
            Self(other) => return write!(f, "reason 0x{other:08x}"),
        })
    }
}

/// How an RMB is reached over one link (RFC 7609 §2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rtoken {
    /// Its key there.
    pub rkey: Rkey,
    /// Where it starts.
    pub address: u64,
}

impl Rtoken {
    /// Bytes on the wire.
    pub(super) const LEN: usize = 12;

    pub(super) fn parse(bytes: [u8; Self::LEN]) -> Self {
        let [k0, k1, k2, k3, address @ ..] = bytes;
        Self {
            rkey: Rkey(u32::from_be_bytes([k0, k1, k2, k3])),
            address: u64::from_be_bytes(address),
        }
    }

    pub(super) fn emit(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.rkey.0.to_be_bytes());
        bytes[4..].copy_from_slice(&self.address.to_be_bytes());
        bytes
    }
}

/// How an RMB is reached over the link of that number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LinkRtoken {
    /// The link.
    pub link: LinkNumber,
    /// The RMB over it.
    pub rtoken: Rtoken,
}

impl Item for LinkRtoken {
    const LEN: usize = 1 + Rtoken::LEN;

    fn parse(bytes: &[u8]) -> Self {
        let (link, rtoken) = bytes.split_at(1);
        Self {
            link: LinkNumber(link[0]),
            rtoken: Rtoken::parse(rtoken.try_into().expect("LEN bytes")),
        }
    }

    fn emit(self, bytes: &mut [u8]) {
        bytes[0] = self.link.0;
        bytes[1..].copy_from_slice(&self.rtoken.emit());
    }
}

/// How an RMB that is known on one link is reached over a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MovedRtoken {
    /// Its key on the link that carries the message.
    pub known: Rkey,
    /// The RMB over the new link.
    pub new: Rtoken,
}

impl Item for MovedRtoken {
    const LEN: usize = 4 + Rtoken::LEN;

    fn parse(bytes: &[u8]) -> Self {
        let (known, new) = bytes.split_at(4);
        Self {
            known: Rkey(u32::from_be_bytes(known.try_into().expect("four bytes"))),
            new: Rtoken::parse(new.try_into().expect("LEN bytes")),
        }
    }

    fn emit(self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.known.0.to_be_bytes());
        bytes[4..].copy_from_slice(&self.new.emit());
    }
}

/// Something of fixed size in a list.
pub(super) trait Item: Copy + Default {
    /// Bytes on the wire.
    const LEN: usize;

    /// `bytes` are [`Self::LEN`] many.
    fn parse(bytes: &[u8]) -> Self;

    /// `bytes` are [`Self::LEN`] many.
    fn emit(self, bytes: &mut [u8]);
}

/// The part of a list that is in one message: at most `N` items, and how many are in the messages
/// that follow. Only a full part has others behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<T, const N: usize> {
    items: [T; N],
    len: u8,
    more: u8,
}

impl<T: Copy + Default, const N: usize> Batch<T, N> {
    /// The first part of `list`: at most `N` of its items, and how many that leaves. A list has at
    /// most 255 items; further ones are left out.
    pub fn first_of(list: &[T]) -> Self {
        let list = &list[..list.len().min(usize::from(u8::MAX))];
        let len = list.len().min(N);
        let mut items = [T::default(); N];
        items[..len].copy_from_slice(&list[..len]);
        Self {
            items,
            len: len as u8,
            more: (list.len() - len) as u8,
        }
    }

    /// The items of this part.
    pub fn items(&self) -> &[T] {
        &self.items[..self.len.into()]
    }

    /// How many items follow in other messages.
    pub const fn more(&self) -> u8 {
        self.more
    }

    /// How many items there are, this part included: the number on the wire.
    pub const fn announced(&self) -> u8 {
        self.len + self.more
    }
}

impl<T: Copy + Default, const N: usize> Default for Batch<T, N> {
    fn default() -> Self {
        Self::first_of(&[])
    }
}

impl<T: Copy + Default, const N: usize> Batch<T, N> {
    /// Reads what a message has that announces `count` items; `bytes` are those of `N`.
    pub(super) fn parse(count: u8, bytes: &[u8]) -> Self
    where
        T: Item,
    {
        let mut batch = Self {
            len: count.min(N as u8),
            ..Self::default()
        };
        batch.more = count - batch.len;
        let parts = bytes.chunks_exact(T::LEN);
        for (item, part) in batch.items[..batch.len.into()].iter_mut().zip(parts) {
            *item = T::parse(part);
        }
        batch
    }

    /// Writes the items; what is not used of `bytes` stays as it is.
    pub(super) fn emit(&self, bytes: &mut [u8])
    where
        T: Item,
    {
        for (item, part) in self.items().iter().zip(bytes.chunks_exact_mut(T::LEN)) {
            item.emit(part);
        }
    }
}
