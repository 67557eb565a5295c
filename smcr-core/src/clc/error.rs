//! What can be wrong with a CLC message.

use super::Kind;

/// Why bytes are no CLC message.
///
/// Every one of these is a protocol error that ends the TCP connection (RFC 7609 §C.6): bytes that
/// do not parse are somebody's application data, and falling back would corrupt them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClcError {
    /// The four bytes at the start or at the end are neither `SMCR` nor `SMCD`.
    EyeCatcher(Field),
    /// The type byte is none of the four messages.
    Kind(u8),
    /// The version nibble is 0.
    Version(u8),
    /// The announced length is impossible for this message, above the maximum, or not the number of
    /// bytes at hand.
    Length {
        /// The message.
        kind: Kind,
        /// What its header announces, in bytes.
        announced: usize,
    },
    /// The message ends inside of this field.
    Truncated(Field),
    /// There are bytes between the last field and the trailer of a message whose length is fixed.
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The field has a value that it must not have.
    Value {
        /// The field.
        field: Field,
        /// Its value.
        value: u32,
    },
}

impl std::fmt::Display for ClcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::EyeCatcher(field) => write!(f, "{field} is neither SMCR nor SMCD"),
            Self::Kind(value) => write!(f, "unknown message type {value}"),
            Self::Version(value) => write!(f, "unknown version {value}"),
            Self::Length { kind, announced } => {
                write!(f, "a {kind} cannot be {announced} bytes long")
            }
            Self::Truncated(field) => write!(f, "the message ends inside of {field}"),
            Self::Trailing { bytes } => write!(f, "{bytes} bytes too many before the trailer"),
            Self::Value { field, value } => write!(f, "{field} is {value}"),
        }
    }
}

impl std::error::Error for ClcError {}

macro_rules! fields {
    ($($variant:ident = $name:literal;)*) => {
        /// The part of a message that an error is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Field {
            $(#[doc = concat!("The ", $name, ".")] $variant,)*
        }

        impl std::fmt::Display for Field {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => concat!("the ", $name),)* })
            }
        }
    };
}

fields! {
    Header = "header";
    EyeCatcher = "leading eye catcher";
    Trailer = "trailing eye catcher";
    Version = "version";
    Path = "path bits of the header";
    PeerId = "peer ID";
    Gid = "GID";
    Mac = "MAC address";
    IpAreaOffset = "offset of the IP area";
    IpArea = "IP area";
    PrefixCount = "number of IPv6 prefixes";
    Prefixes = "IPv6 prefixes";
    SmcdArea = "SMC-D area";
    V2Offset = "offset of the version 2 extension";
    V2Extension = "version 2 extension";
    EidCount = "number of enterprise IDs";
    Eids = "enterprise IDs";
    Eid = "enterprise ID";
    IsmGidCount = "number of ISM GIDs";
    IsmGids = "ISM GIDs";
    SmcdV2Offset = "offset of the SMC-D version 2 extension";
    SmcdV2Extension = "SMC-D version 2 extension";
    QpNumber = "queue pair number";
    Rkey = "rkey";
    RmbeIndex = "RMB element index";
    Token = "alert token";
    RmbeSize = "RMB element size";
    Mtu = "path MTU";
    Address = "RMB address";
    Psn = "initial packet sequence number";
    Chid = "CHID";
    FirstContact = "first contact extension";
    LinkGidCount = "number of link GIDs";
    LinkGids = "link GIDs";
    Diagnosis = "diagnosis code";
}
