//! What sysfs says about RoCE devices.
//!
//! Devices come and go while it is read: what cannot be read is as good as not there.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::names::PnetId;
use crate::rawfs;

/// Longest attribute that is read, in bytes; all that are of interest are shorter.
const MAX_ATTRIBUTE: usize = 256;
/// RDMA devices that are looked at.
const MAX_DEVICES: usize = 256;
/// Ports of a device that SMC uses, as Linux has it (SMC_MAX_PORTS).
const PORTS: std::ops::RangeInclusive<u8> = 1..=2;
/// Entries of a GID table that are read; adapters have up to 256.
const MAX_GIDS: u32 = 1024;
/// So many empty entries in a row are taken for the end of those in use: the kernel gives a new
/// address the first free place. Reading all of a long table takes milliseconds, in a connect().
const MAX_FREE: u32 = 64;
/// Length of a PNETID in the string of a port's hardware, in bytes.
const HARDWARE_ID: usize = 16;

/// A tree in the form of sysfs.
#[derive(Clone, Debug)]
pub(super) struct Sysfs {
    root: PathBuf,
}

/// An entry of a port's GID table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawGid {
    pub(super) index: u32,
    pub(super) gid: Ipv6Addr,
    pub(super) kind: String,
    pub(super) netdev: String,
}

impl Sysfs {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The names of all RDMA devices, in their natural order: `mlx5_2` is before `mlx5_10`.
    ///
    /// # Errors
    /// If there is a directory of them that cannot be read.
    pub(super) fn devices(&self) -> Result<Vec<String>, Errno> {
        let mut names = match rawfs::list(self.path("class/infiniband"), MAX_DEVICES) {
            // No RDMA device ever, or no sysfs.
            Err(Errno::NOENT) => Vec::new(),
            other => other?,
        };
        names.sort_by_cached_key(|name| natural(name));
        Ok(names)
    }

    /// The ports that a device has, of those that SMC uses.
    pub(super) fn ports(&self, device: &str) -> Vec<u8> {
        let has = |port: &u8| self.port(device, *port, "state").is_some();
        PORTS.filter(has).collect()
    }

    /// `CA` for RDMA adapters, `RNIC` for iWARP.
    pub(super) fn node_type(&self, device: &str) -> Option<String> {
        self.read(&format!("class/infiniband/{device}/node_type"))
            .map(|text| after_number(&text))
    }

    /// `Ethernet` for RoCE, or `InfiniBand`.
    pub(super) fn link_layer(&self, device: &str, port: u8) -> Option<String> {
        self.port(device, port, "link_layer")
    }

    /// `ACTIVE`, `DOWN`, ...
    pub(super) fn state(&self, device: &str, port: u8) -> Option<String> {
        self.port(device, port, "state")
            .map(|text| after_number(&text))
    }

    /// The hardware that an RDMA device is a function of, as `0000:01:00.0`.
    pub(super) fn parent(&self, device: &str) -> Option<String> {
        let link = self.path(&format!("class/infiniband/{device}/device"));
        let target = rustix::fs::readlink(link, Vec::new()).ok()?;
        let name = target.to_str().ok()?.rsplit('/').next()?;
        Some(name.to_owned())
    }

    /// The valid entries of a port's GID table, in its order.
    pub(super) fn gids(&self, device: &str, port: u8) -> Vec<RawGid> {
        let mut gids = Vec::new();
        let mut last_used = 0;
        for index in 0..MAX_GIDS {
            if index - last_used > MAX_FREE {
                break;
            }
            let read = |what: &str| self.port(device, port, &format!("{what}/{index}"));
            let entry = read("gids");
            let Some(text) = entry.as_deref() else {
                // The end of the table, or of the device.
                break;
            };
            let Ok(gid) = text.parse::<Ipv6Addr>() else {
                continue;
            };
            if gid.is_unspecified() {
                continue;
            }
            last_used = index;
            let (Some(kind), Some(netdev)) = (read("gid_attrs/types"), read("gid_attrs/ndevs"))
            else {
                continue;
            };
            // The place was not given to another address in between.
            if read("gids") == entry {
                gids.push(RawGid {
                    index,
                    gid,
                    kind,
                    netdev,
                });
            }
        }
        gids
    }

    /// What tells a port's GID table from that of a device which was made anew under the same
    /// name: the kernel never gives a number of these twice.
    pub(super) fn table_number(&self, device: &str, port: u8) -> Option<u64> {
        let path = self.path(&format!("class/infiniband/{device}/ports/{port}/gids"));
        Some(rustix::fs::stat(path).ok()?.st_ino)
    }

    /// The ports of a bond, in the order in which they joined; none for other interfaces.
    pub(super) fn bond_ports(&self, bond: &str) -> Vec<String> {
        let text = self.read(&format!("class/net/{bond}/bonding/slaves"));
        let text = text.unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// The PNETID that the hardware of a netdev has: `hardware` is its bus and name.
    pub(super) fn netdev_id(&self, netdev: &str, hardware: &(String, String)) -> Option<PnetId> {
        let (bus, name) = hardware;
        let directory = format!("bus/{bus}/devices/{name}");
        let port = self.read(&format!("{directory}/net/{netdev}/dev_port"));
        let port = port.and_then(|port| port.parse().ok()).unwrap_or(0);
        self.hardware_id(&directory, port)
    }

    /// The PNETID that the hardware of an RDMA port has.
    pub(super) fn roce_id(&self, device: &str, port: u8) -> Option<PnetId> {
        let port = usize::from(port.checked_sub(1)?);
        self.hardware_id(&format!("class/infiniband/{device}/device"), port)
    }

    /// PCI functions of mainframes have a string with an id for each of their ports, in EBCDIC.
    fn hardware_id(&self, directory: &str, port: usize) -> Option<PnetId> {
        let mut buf = [0; MAX_ATTRIBUTE];
        let path = self.path(&format!("{directory}/util_string"));
        let string = rawfs::read_once(path, &mut buf).ok()?;
        let begin = port.checked_mul(HARDWARE_ID)?;
        let id = string.get(begin..begin.checked_add(HARDWARE_ID)?)?;
        let id: String = id.iter().map(|byte| from_ebcdic(*byte)).collect();
        id.trim_end_matches(' ').parse().ok()
    }

    fn port(&self, device: &str, port: u8, attribute: &str) -> Option<String> {
        self.read(&format!(
            "class/infiniband/{device}/ports/{port}/{attribute}"
        ))
    }

    /// A short attribute without the line's end; `None` if it cannot be read, as empty entries of
    /// GID tables cannot.
    fn read(&self, attribute: &str) -> Option<String> {
        let mut buf = [0; MAX_ATTRIBUTE];
        let text = rawfs::read_once(self.path(attribute), &mut buf).ok()?;
        Some(std::str::from_utf8(text).ok()?.trim().to_owned())
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }
}

/// `ACTIVE` of `4: ACTIVE`.
fn after_number(text: &str) -> String {
    let word = text.split_once(": ").map_or(text, |(_, word)| word);
    word.to_owned()
}

/// Orders names by their text, and by the number at the end where that is the same.
fn natural(name: &str) -> (String, u64, String) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = name[stem.len()..].parse().unwrap_or(0);
    (stem.to_owned(), number, name.to_owned())
}

/// Letters, digits and blanks of EBCDIC; other characters, which no PNETID has, become `?`.
fn from_ebcdic(byte: u8) -> char {
    let letter = |first: u8, base: u8| char::from(first + (byte - base));
    match byte {
        0x00 | 0x40 => ' ',
        0x81..=0x89 => letter(b'a', 0x81),
        0x91..=0x99 => letter(b'j', 0x91),
        0xa2..=0xa9 => letter(b's', 0xa2),
        0xc1..=0xc9 => letter(b'A', 0xc1),
        0xd1..=0xd9 => letter(b'J', 0xd1),
        0xe2..=0xe9 => letter(b'S', 0xe2),
        0xf0..=0xf9 => letter(b'0', 0xf0),
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::{from_ebcdic, natural};

    #[test]
    fn ebcdic_is_read() {
        let text = [0xd5, 0xc5, 0xe3, 0xf1, 0x81, 0xa9, 0x40, 0x00, 0x4b];
        let text: String = text.into_iter().map(from_ebcdic).collect();
        assert_eq!(text, "NET1az  ?");
    }

    #[test]
    fn devices_are_counted() {
        let mut names = ["mlx5_10", "rxe0", "mlx5_2", "mlx4_0"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["mlx4_0", "mlx5_2", "mlx5_10", "rxe0"]);
    }
}
