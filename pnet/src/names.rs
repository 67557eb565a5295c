//! Ids and devices.

use std::fmt;
use std::str::FromStr;

use crate::error::Problem;

/// Longest PNETID, as in Linux (SMC_MAX_PNETID_LEN).
const MAX_ID: usize = 16;
/// Longest name of a netdev (IFNAMSIZ without the NUL).
const MAX_NETDEV: usize = 15;
/// Longest name of an RDMA device (IB_DEVICE_NAME_MAX without the NUL).
const MAX_ROCE: usize = 63;
/// Ports that Linux's SMC uses of a device (SMC_MAX_PORTS).
const MAX_PORT: u8 = 2;

/// The id of a physical network: 1 to 16 letters and digits, held in capitals.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PnetId(String);

impl PnetId {
    /// The id in capitals.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PnetId {
    type Err = Problem;

    /// Blanks around the id do not count.
    fn from_str(text: &str) -> Result<Self, Problem> {
        let text = text.trim_matches(' ');
        let fits = (1..=MAX_ID).contains(&text.len());
        if fits && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            Ok(Self(text.to_ascii_uppercase()))
        } else {
            Err(Problem::BadId(text.to_owned()))
        }
    }
}

impl fmt::Display for PnetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A port of a RoCE device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RocePort {
    /// Name of the RDMA device, as `mlx5_0`; or, as Linux takes it too, of the device that it is a
    /// function of, as `0000:01:00.0`.
    pub device: String,
    /// Port, from 1.
    pub port: u8,
}

/// What is attached to a physical network.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Device {
    /// A network interface, by name.
    Netdev(String),
    /// A port of a RoCE device.
    Roce(RocePort),
}

impl Device {
    /// A network interface.
    ///
    /// # Errors
    /// If the kernel could not have an interface of this name.
    pub fn netdev(name: &str) -> Result<Self, Problem> {
        check_name(name, MAX_NETDEV, &['/', ':', '#'])?;
        Ok(Self::Netdev(name.to_owned()))
    }

    /// A port of a RoCE device; ports are 1 and 2.
    ///
    /// # Errors
    /// If the kernel could not have a device of this name, or the port is out of range.
    pub fn roce(name: &str, port: u8) -> Result<Self, Problem> {
        // Colons for the addresses of PCI functions.
        check_name(name, MAX_ROCE, &['/', '#'])?;
        if !(1..=MAX_PORT).contains(&port) {
            return Err(Problem::BadPort(port.to_string()));
        }
        Ok(Self::Roce(RocePort {
            device: name.to_owned(),
            port,
        }))
    }

    /// The name, without the port.
    pub fn name(&self) -> &str {
        match self {
            Self::Netdev(name) => name,
            Self::Roce(roce) => &roce.device,
        }
    }

    /// Whether both stand for the same netdev or the same RoCE device, whatever the port.
    pub(crate) fn shares_name(&self, other: &Self) -> bool {
        matches!(self, Self::Netdev(_)) == matches!(other, Self::Netdev(_))
            && self.name() == other.name()
    }
}

impl fmt::Display for RocePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.device, self.port)
    }
}

/// As a line of the table has it, behind the id.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netdev(name) => write!(f, "netdev  {name}"),
            Self::Roce(roce) => write!(f, "roce    {}  {}", roce.device, roce.port),
        }
    }
}

/// The kernel's rules for both kinds of names. `#` it allows, but this file cannot hold it.
fn check_name(name: &str, longest: usize, barred: &[char]) -> Result<(), Problem> {
    let fits = (1..=longest).contains(&name.len()) && name != "." && name != "..";
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !barred.contains(&c);
    if fits && name.chars().all(plain) {
        Ok(())
    } else {
        Err(Problem::BadName(name.to_owned(), longest))
    }
}
