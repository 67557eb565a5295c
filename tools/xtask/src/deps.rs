//! The programs that scenarios run, installed where they are missing.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use smcr_tests::scenario::process;

use crate::ui;

/// A program or file, and the Debian package that has it.
const NEEDED: [(&str, &str); 20] = [
    ("iperf3", "iperf3"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("redis-cli", "redis-tools"),
    ("nginx", "nginx"),
    ("wrk", "wrk"),
    ("memcached", "memcached"),
    ("memcslap", "libmemcached-tools"),
    ("sockperf", "sockperf"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("valgrind", "valgrind"),
    ("ip", "iproute2"),
    (
        "/usr/lib/python3.11/test/test_socket.py",
        "libpython3.11-testsuite",
    ),
    ("gcc", "gcc"),
    ("/usr/include/stdio.h", "libc6-dev"),
    // What the library is built with: the headers of RDMA, and what reads them.
    ("/usr/include/infiniband/verbs.h", "libibverbs-dev"),
    ("/usr/include/rdma/rdma_cma.h", "librdmacm-dev"),
    ("/usr/lib/*/lib/libclang.so", "libclang-dev"),
    ("pkg-config", "pkg-config"),
];

/// The same for the lab: the emulator, what guests are made of, and what runs in them.
const LAB: [(&str, &str); 13] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("modprobe", "kmod"),
    ("xz", "xz-utils"),
    ("ip", "iproute2"),
    ("ibv_devinfo", "ibverbs-utils"),
    ("/etc/libibverbs.d/rxe.driver", "ibverbs-providers"),
    ("ib_write_lat", "perftest"),
    ("rstream", "rdmacm-utils"),
    ("tshark", "tshark"),
    ("strace", "strace"),
    ("/usr/lib/postgresql/*/bin/postgres", "postgresql"),
    ("/usr/lib/postgresql/*/bin/pgbench", "postgresql"),
];

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# Made by `cargo xtask deps` while it installs; may be removed.\nexit 101\n";

/// Installs what is missing of what tests and demo run on this machine.
pub(crate) fn install() -> Result<()> {
    install_missing(&NEEDED)
}

/// Installs what is missing for the lab, too.
pub(crate) fn install_with_lab() -> Result<()> {
    let all = [NEEDED.as_slice(), LAB.as_slice()].concat();
    install_missing(&all)
}

fn install_missing(needed: &[(&str, &'static str)]) -> Result<()> {
    let mut packages = missing(needed);
    if packages.is_empty() {
        println!("all programs are installed");
        return Ok(());
    }
    packages.dedup();
    let list = packages.join(" ");
    println!("missing packages: {list}");
    let by_hand = format!(
        "install them by hand: apt-get install {list}\n\
         (their services need not run: scenarios start servers of their own, on other ports)"
    );
    ensure!(
        process::find(OsStr::new("apt-get")).is_some(),
        "there is no apt-get here; install what Debian calls: {list}"
    );
    // SAFETY: plain system call without arguments.
    ensure!(unsafe { libc::geteuid() } == 0, "not root: {by_hand}");

    let start = Instant::now();
    let _no_services = NoServices::begin()?;
    // Without package lists nothing can be found; with old ones it may still work.
    if !apt_get(&["update", "-q"])? {
        println!("apt-get update failed; trying with the package lists that are here");
    }
    let mut arguments = vec![
        "install",
        "-q",
        "-o=Dpkg::Use-Pty=0",
        "--yes",
        "--no-install-recommends",
    ];
    arguments.extend(&packages);
    ensure!(apt_get(&arguments)?, "apt-get install failed; {by_hand}");
    let still = missing(needed);
    if !still.is_empty() {
        bail!("installed, but still missing: {}", still.join(" "));
    }
    println!("installed in {}", ui::seconds(start.elapsed()));
    Ok(())
}

/// The packages of what is missing, in order.
fn missing(needed: &[(&str, &'static str)]) -> Vec<&'static str> {
    needed
        .iter()
        .filter(|(name, _)| !is_there(name))
        .map(|(_, package)| *package)
        .collect()
}

/// Is the program or file there? `*` stands for a directory of any name.
fn is_there(name: &str) -> bool {
    let Some((base, rest)) = name.split_once("/*/") else {
        return process::find(OsStr::new(name)).is_some();
    };
    let directories = std::fs::read_dir(base).into_iter().flatten().flatten();
    directories
        .into_iter()
        .any(|entry| entry.path().join(rest).exists())
}

fn apt_get(arguments: &[&str]) -> Result<bool> {
    println!("apt-get {}", arguments.join(" "));
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("cannot run apt-get")?;
    Ok(status.success())
}

/// While it lives, installing a daemon does not start its service. (Debian's own way: package
/// scripts ask policy-rc.d.) A policy that the machine has already is left alone.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let policy = Path::new(POLICY);
        let left_over = std::fs::read_to_string(policy).is_ok_and(|text| text == POLICY_TEXT);
        if policy.exists() && !left_over {
            return Ok(Self { ours: false });
        }
        std::fs::write(policy, POLICY_TEXT).with_context(|| POLICY.to_owned())?;
        std::fs::set_permissions(policy, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = std::fs::remove_file(POLICY);
        }
    }
}
