//! The part of libibverbs for one kind of adapter, its provider.
//!
//! libibverbs loads all the providers that are installed, some twenty, if it meets a device that
//! none of those loaded knows. That is most of the time that a first connection takes. With the
//! right one loaded before it looks, it finds every device served and loads no other. Whatever
//! fails here is left to libibverbs.

use std::ffi::{CStr, CString, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::rawfs;

/// Drivers of the kernel, as sysfs names that of an RDMA device's hardware, and their providers.
const PROVIDERS: &[(&str, &str)] = &[
    ("be2net", "ocrdma"),
    ("bnxt_en", "bnxt_re"),
    ("efa", "efa"),
    ("erdma", "erdma"),
    ("hns3", "hns"),
    ("i40e", "irdma"),
    ("ice", "irdma"),
    ("irdma", "irdma"),
    ("mana", "mana"),
    ("mlx4_core", "mlx4"),
    ("mlx5_core", "mlx5"),
    ("qede", "qedr"),
    ("vmw_pvrdma", "vmw_pvrdma"),
];

/// Loads the provider of a device, if that can be told. `function` is any of libibverbs's, beside
/// which its providers lie.
///
/// Not to be called where the program may use libibverbs, too: providers enter themselves in a list
/// of its own, without its lock.
pub(super) fn load(device: &str, function: *const c_void) {
    let Some(name) = name(device) else { return };
    let Some(directory) = directory(function) else {
        return;
    };
    for path in files(&directory, name) {
        let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
            continue;
        };
        // SAFETY: loads a library by its path; what its constructors do is theirs. One that is of
        // another version than libibverbs does not find what it refers to, and is not loaded.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if !handle.is_null() {
            log::debug!("{device}: {name} is its provider");
            return;
        }
    }
}

/// The name of a device's provider.
fn name(device: &str) -> Option<&'static str> {
    // A name with a slash would lead elsewhere.
    if device.is_empty() || device.contains('/') || device.starts_with('.') {
        return None;
    }
    let device = Path::new("/sys/class/infiniband").join(device);
    match rustix::fs::readlink(device.join("device/driver"), Vec::new()) {
        Ok(driver) => of_driver(driver.to_str().ok()?),
        // Soft-RoCE has no hardware, and tells the network interface that it is on.
        Err(_) => rawfs::open(device.join("parent")).ok().map(|_| "rxe"),
    }
}

/// The provider for a driver, of which sysfs gives the path.
fn of_driver(path: &str) -> Option<&'static str> {
    let driver = path.rsplit('/').next()?;
    let known = PROVIDERS.iter().find(|(known, _)| *known == driver);
    known.map(|(_, provider)| *provider)
}

/// Where the providers are.
fn directory(function: *const c_void) -> Option<PathBuf> {
    // SAFETY: all zero is a valid value.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the address is only looked up; `info` is for the linker to fill.
    let found = unsafe { libc::dladdr(function, &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the linker's string, as long as the library is loaded, which it is for good.
    let library = unsafe { CStr::from_ptr(info.dli_fname) };
    let library = Path::new(OsStr::from_bytes(library.to_bytes()));
    let directory = library.parent().filter(|parent| parent.is_absolute())?;
    Some(directory.join("libibverbs"))
}

/// The files of a provider, the newest version first: there is a number in their names.
fn files(directory: &Path, name: &str) -> Vec<PathBuf> {
    let entries = rawfs::open(directory).ok().map(rustix::fs::Dir::new);
    let Some(Ok(entries)) = entries else {
        return Vec::new();
    };
    let mut versions: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| version(entry.file_name().to_str().ok()?, name))
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions
        .iter()
        .map(|version| directory.join(format!("lib{name}-rdmav{version}.so")))
        .collect()
}

/// The version in the name of a provider's file: of `librxe-rdmav34.so`, 34.
fn version(file: &str, name: &str) -> Option<u32> {
    let rest = file.strip_prefix("lib")?.strip_prefix(name)?;
    rest.strip_prefix("-rdmav")?
        .strip_suffix(".so")?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::{directory, files, name, of_driver, version};

    #[test]
    fn drivers_have_their_providers() {
        let path = "../../../../bus/pci/drivers/mlx5_core";
        assert_eq!(of_driver(path), Some("mlx5"));
        assert_eq!(of_driver("../drivers/nvme"), None);
        for wrong in ["", "../net/lo", "..", "no-such-device"] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn versions_are_told() {
        assert_eq!(version("librxe-rdmav34.so", "rxe"), Some(34));
        for other in [
            "libmlx5-rdmav34.so",
            "librxe-rdmav34.so.1",
            "librxe.so",
            "librxe-rdmav.so",
        ] {
            assert_eq!(version(other, "rxe"), None, "{other}");
        }
    }

    #[test]
    fn they_lie_beside_the_library() {
        let Ok(library) = super::super::library::load() else {
            eprintln!("LEFT OUT: there is no libibverbs");
            return;
        };
        let directory = directory(library.get_device_list as *const _).unwrap();
        let found = files(&directory, "rxe");
        assert!(!found.is_empty(), "none in {}", directory.display());
        assert!(files(&directory, "no-such-provider").is_empty());
    }
}
