//! The guests' kernel: Debian's, fetched and unpacked under the target directory, never installed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::scenario::{paths, process};

/// Which kernels do: rxe and net/smc work together, and are modules.
const SERIES: &str = "6.12";

/// Directories of modules that guests load from, which are stored uncompressed: unpacking takes
/// much longer in an emulated processor than here.
const UNCOMPRESSED: [&str; 12] = [
    "arch",
    "crypto",
    "lib",
    "net",
    "fs/9p",
    "fs/netfs",
    "fs/overlayfs",
    "fs/configfs",
    "drivers/infiniband/core",
    "drivers/infiniband/sw",
    "drivers/net/*",
    "drivers/virtio",
];

/// A kernel for guests.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// The image.
    pub image: PathBuf,
    root: PathBuf,
}

/// Where kernels and runs are kept.
pub fn directory() -> PathBuf {
    paths::target().join("lab")
}

impl Kernel {
    /// The newest one that was fetched, if there is any.
    pub fn fetched() -> Option<Self> {
        let mut kernels: Vec<Self> = std::fs::read_dir(directory().join("kernel"))
            .ok()?
            .flatten()
            .filter_map(|entry| Self::unpacked(&entry.path()))
            .collect();
        kernels.sort_by_key(|kernel| version(&kernel.release));
        kernels.pop()
    }

    /// Fetches Debian's newest kernel of the series, if there is none yet, and unpacks it.
    /// Says on stdout what it does.
    pub fn fetch() -> Result<Self> {
        if let Some(kernel) = Self::fetched() {
            return Ok(kernel);
        }
        let package = newest_package()?;
        let kernels = directory().join("kernel");
        std::fs::create_dir_all(&kernels)?;
        // Made beside its place, so that what is in place is complete.
        let work = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&kernels)?;
        println!(
            "fetching {package} into {} (not installed)",
            kernels.display()
        );
        run(Command::new("apt-get")
            .args(["download", "-q", &package])
            .current_dir(work.path()))?;
        let archive = std::fs::read_dir(work.path())?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension() == Some(OsStr::new("deb")))
            .context("apt-get download brought no package")?;
        println!("unpacking it, and its modules for quick loading");
        let root = work.path().join("root");
        run(Command::new("dpkg").arg("-x").arg(&archive).arg(&root))?;
        std::fs::remove_file(&archive)?;
        let release = package.trim_start_matches("linux-image-").to_owned();
        uncompress(&root.join("lib/modules").join(&release).join("kernel"))?;
        run(Command::new(tool("depmod")?)
            .arg("-b")
            .arg(&root)
            .arg(&release))?;
        let place = kernels.join(&release);
        if !place.exists() {
            std::fs::rename(&root, &place).with_context(|| place.display().to_string())?;
        }
        Self::unpacked(&place).context("the package has no kernel in it")
    }

    fn unpacked(root: &Path) -> Option<Self> {
        let release = root.file_name()?.to_str()?.to_owned();
        let kernel = Self {
            image: root.join("boot").join(format!("vmlinuz-{release}")),
            root: root.to_path_buf(),
            release,
        };
        let usable = kernel.image.exists() && kernel.modules().join("modules.dep").exists();
        usable.then_some(kernel)
    }

    /// The directory of its modules.
    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    /// The files of these modules and of all that they need, in the order to load them. Modules
    /// that are built in have none.
    pub fn dependencies(&self, modules: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> = Vec::new();
        for module in modules {
            let output = Command::new(tool("modprobe")?)
                .arg("-d")
                .arg(&self.root)
                .args(["-S", &self.release, "--show-depends", module])
                .output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(
                output.status.success(),
                "modprobe --show-depends {module}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            for line in text.lines() {
                if let Some(file) = line.strip_prefix("insmod ") {
                    let file = PathBuf::from(file.trim());
                    if !files.contains(&file) {
                        files.push(file);
                    }
                }
            }
        }
        Ok(files)
    }
}

/// The newest package of the series that has the plain kernel.
fn newest_package() -> Result<String> {
    if process::find(OsStr::new("apt-get")).is_none() {
        bail!("there is no apt-get here, by which the guests' kernel is fetched");
    }
    let pattern = format!(
        "^linux-image-{}\\.[0-9.a-z+]*-amd64$",
        SERIES.replace('.', "\\.")
    );
    let output = Command::new("apt-cache")
        .args(["search", "--names-only", &pattern])
        .output()
        .context("cannot run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .max_by_key(|name| version(name))
        .map(str::to_owned)
        .with_context(|| {
            format!(
                "apt offers no package linux-image-{SERIES}.*-amd64: `apt-get update`, or add \
                 Debian's security repository"
            )
        })
}

/// The numbers in a version, for comparing.
fn version(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn uncompress(modules: &Path) -> Result<()> {
    let mut files = Vec::new();
    for directory in UNCOMPRESSED {
        match directory.strip_suffix("/*") {
            Some(directory) => compressed(&modules.join(directory), false, &mut files),
            None => compressed(&modules.join(directory), true, &mut files),
        }
    }
    if !files.is_empty() {
        run(Command::new(tool("xz")?).arg("--decompress").args(&files))?;
    }
    Ok(())
}

fn compressed(directory: &Path, deep: bool, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && deep {
            compressed(&path, deep, files);
        } else if path.extension() == Some(OsStr::new("xz")) {
            files.push(path);
        }
    }
}

fn tool(name: &str) -> Result<PathBuf> {
    process::find(OsStr::new(name))
        .with_context(|| format!("{name} is not installed: run `cargo xtask deps`"))
}

/// Runs a command, whose output is shown only if it fails.
fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(version("linux-image-6.12.117+deb12") > version("linux-image-6.12.94+deb12"));
        assert!(version("6.12.9") < version("6.12.10"));
    }
}
