//! What libibverbs does not tell.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use crate::clc::Mac;
use crate::rawfs;

/// The MAC of a port: that of the network interface of its first GID.
pub(super) fn mac(device: &str, port: u8, gids: i32) -> Option<Mac> {
    // A name with a slash would lead elsewhere.
    let is_name = |name: &str| !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    if !is_name(device) {
        return None;
    }
    let base = format!("/sys/class/infiniband/{device}/ports/{port}/gid_attrs/ndevs");
    (0..gids).find_map(|index| {
        // Places without a GID cannot be read.
        let interface = rawfs::read_all(format!("{base}/{index}"), 64).ok()?;
        let interface = str::from_utf8(&interface).ok()?.trim_end();
        let address = format!("/sys/class/net/{interface}/address");
        let address = rawfs::read_all(is_name(interface).then_some(address)?, 128).ok()?;
        parse_mac(str::from_utf8(&address).ok()?.trim_end())
    })
}

/// A file of the device `uverbsN`, open. It outlives a chroot() of the program.
pub(super) fn witness(device: &CStr) -> Option<OwnedFd> {
    let device = device.to_str().ok()?;
    rawfs::open(format!("/sys/class/infiniband_verbs/{device}/ibdev")).ok()
}

/// Whether the kernel shows any RDMA device to user space.
pub(super) fn has_device() -> bool {
    let Ok(directory) = rawfs::open("/sys/class/infiniband_verbs") else {
        return false;
    };
    let Ok(mut entries) = rustix::fs::Dir::read_from(directory) else {
        return false;
    };
    entries
        .any(|entry| entry.is_ok_and(|entry| entry.file_name().to_bytes().starts_with(b"uverbs")))
}

/// `02:00:5e:00:53:0a`.
fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac != [0; 6]).then_some(Mac(mac))
}

/// Whether the running kernel is 5.12 or later, by its name.
pub(super) fn kernel_is_5_12() -> bool {
    let name = rustix::system::uname();
    name.release().to_str().is_ok_and(is_5_12)
}

fn is_5_12(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        assert_eq!(
            parse_mac("02:00:5e:00:53:0a"),
            Some(Mac([2, 0, 0x5e, 0, 0x53, 0x0a]))
        );
        for wrong in [
            "",
            "02:00:5e:00:53",
            "02:00:5e:00:53:0a:00",
            "2:0:5e:0:53:a",
            "02:00:5e:00:53:zz",
            "00:00:00:00:00:00",
            "80:00:00:48:fe:80:00:00:00:00:00:00:00:02:c9:03:00:01:12:f1",
        ] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_has_no_mac() {
        assert_eq!(mac("../net", 1, 16), None);
        assert_eq!(mac("", 1, 16), None);
    }

    #[test]
    fn releases() {
        for new in [
            "5.12.0",
            "5.12",
            "6.1.0-30-amd64",
            "6.12.117+deb12-amd64",
            "10.0",
        ] {
            assert!(is_5_12(new), "{new}");
        }
        for old in ["5.11.22", "4.19.0-27-amd64", "5.4", "5", "", "odd"] {
            assert!(!is_5_12(old), "{old}");
        }
    }
}
