//! The initramfs of a guest: busybox, the modules that the root file system needs, and `init`.
//!
//! It is an archive in cpio's "newc" form, which the kernel unpacks into its first file system.

use std::path::Path;

use anyhow::{Context, Result};

use super::kernel::Kernel;

/// Modules without which there is no root file system and no network.
const MODULES: [&str; 4] = ["9pnet_virtio", "9p", "overlay", "virtio_net"];

const INIT: &str = include_str!("../../lab/init.sh");

/// Makes the archive. `settings` are variables that `init` finds.
pub(super) fn build(kernel: &Kernel, settings: &[(&str, String)]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "host", "rw", "root", "modules"] {
        archive.directory(directory);
    }
    // The kernel opens it for init before anything is mounted.
    archive.add("dev/console", 0o020_600, &[], (5, 1));
    let busybox = Path::new("/usr/bin/busybox");
    let busybox = if busybox.exists() {
        busybox
    } else {
        Path::new("/bin/busybox")
    };
    let bytes = std::fs::read(busybox).context("busybox is missing: run `cargo xtask deps`")?;
    archive.file("bin/busybox", 0o755, &bytes);
    let mut order = String::new();
    for path in kernel.dependencies(&MODULES)? {
        let name = path.file_name().context("a module without a name")?;
        let name = name.to_string_lossy();
        let module = std::fs::read(&path).with_context(|| path.display().to_string())?;
        archive.file(&format!("modules/{name}"), 0o644, &module);
        order += &format!("{name}\n");
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    let mut text = String::new();
    for (name, value) in settings {
        text += &format!("{name}={}\n", super::quote(value));
    }
    archive.file("settings", 0o644, text.as_bytes());
    archive.file("init", 0o755, INIT.as_bytes());
    Ok(archive.finish())
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn directory(&mut self, name: &str) {
        self.add(name, 0o040_755, &[], (0, 0));
    }

    fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.add(name, 0o100_000 | permissions, content, (0, 0));
    }

    fn add(&mut self, name: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.entries += 1;
        let length = content.len() as u32;
        let name_length = name.len() as u32 + 1;
        let fields = [
            self.entries, // inode
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            length,
            0,
            0,
            device.0,
            device.1,
            name_length,
            0, // checksum, not used in this form
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn the_archive_is_what_busybox_lists() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.file("bin/odd", 0o755, b"12345");
        archive.file("empty", 0o600, b"");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("archive");
        std::fs::write(&file, archive.finish()).unwrap();
        // A reader written by others; where it is missing there is no lab either.
        let Ok(output) = std::process::Command::new("busybox")
            .args(["cpio", "-tv"])
            .stdin(std::fs::File::open(&file).unwrap())
            .output()
        else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_whitespace().last())
            .collect();
        assert_eq!(names, ["bin", "bin/odd", "empty"], "{text}");
        assert!(text.contains("-rwxr-xr-x"), "{text}");
    }
}
