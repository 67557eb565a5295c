//! One emulator: how QEMU is started, and the sockets by which it is reached.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::kernel::Kernel;
use super::qmp::Qmp;
use super::{initramfs, wire};
use crate::scenario::paths;
use crate::scenario::process::{Program, Running};

/// Nobody attacks these guests, and mitigations cost an emulated processor a lot. On a busy host
/// timer interrupts come late, which the kernel would take for a broken board.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable";

/// How long an emulator may take to make its sockets.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// What an emulator is started with.
pub(super) struct Hardware<'a> {
    pub(super) kernel: &'a Kernel,
    /// 1 or 2.
    pub(super) number: usize,
    /// The guest's host name.
    pub(super) name: &'a str,
    pub(super) memory_mib: u32,
    /// The guest powers off after this, whatever happens.
    pub(super) lifetime: Duration,
    /// Where the console's output and the initramfs go.
    pub(super) logs: &'a Path,
    /// Where the sockets go; both guests' are in one directory.
    pub(super) sockets: &'a Path,
}

impl Hardware<'_> {
    /// The initramfs, which is needed until the guest is up.
    pub(super) fn initramfs(&self) -> PathBuf {
        self.logs.join(format!("{}.initramfs", self.name))
    }

    fn socket(&self, what: &str) -> PathBuf {
        self.sockets.join(format!("{}.{what}", self.number))
    }
}

/// A running emulator.
pub(super) struct Emulator {
    process: Running,
    console: PathBuf,
    sockets: PathBuf,
    number: usize,
    qmp: Option<Qmp>,
}

impl Emulator {
    /// Starts it; the guest boots from then on.
    pub(super) fn start(hardware: &Hardware<'_>) -> Result<Self> {
        let guest = hardware.name;
        let initramfs = hardware.initramfs();
        std::fs::write(
            &initramfs,
            initramfs::build(hardware.kernel, &settings(hardware))?,
        )?;
        let console = hardware.logs.join(format!("{guest}.console"));
        let number = hardware.number;
        let shown = |path: PathBuf| path.display().to_string().replace(',', ",,");

        let mut qemu = Program::new("qemu-system-x86_64")?
            .args("-nodefaults -no-user-config -display none -no-reboot")
            .args("-machine pc -accel tcg,thread=multi -cpu max -smp 1")
            .args(&format!("-name {guest} -m {}", hardware.memory_mib))
            .arg("-kernel")
            .arg(&hardware.kernel.image)
            .arg("-initrd")
            .arg(&initramfs)
            .arg("-append")
            .arg(KERNEL_ARGUMENTS)
            .arg("-serial")
            .arg(format!("file:{}", shown(console.clone())))
            .arg("-qmp")
            .arg(format!(
                "unix:{},server=on,wait=off",
                shown(hardware.socket("qmp"))
            ))
            .arg("-fsdev")
            .arg("local,id=root,path=/,security_model=none,readonly=on,multidevs=remap")
            .args("-device virtio-9p-pci,fsdev=root,mount_tag=host")
            .args("-device virtio-serial-pci");
        for port in wire::PORTS {
            qemu = qemu
                .arg("-chardev")
                .arg(format!(
                    "socket,id={port},path={},server=on,wait=off",
                    shown(hardware.socket(port))
                ))
                .arg("-device")
                .arg(format!("virtserialport,chardev={port},name={port}"));
        }
        // Like the fabric that RoCE is made for the wire loses nothing: a datagram socket would,
        // whenever a busy host lets its buffer fill up.
        let wire = hardware.sockets.join("wire");
        let end = if number == 1 { "on" } else { "off" };
        qemu = qemu
            .arg("-netdev")
            .arg(format!(
                "stream,id=net0,server={end},addr.type=unix,addr.path={}",
                shown(wire.clone())
            ))
            .arg("-device")
            .arg(format!(
                "virtio-net-pci,id=nic0,netdev=net0,romfile=,mac=52:54:00:77:00:0{number}"
            ));
        let mut emulator = Self {
            process: qemu.start()?,
            console,
            sockets: hardware.sockets.to_path_buf(),
            number,
            qmp: None,
        };
        // The second one connects once, when it starts.
        let deadline = Instant::now() + START_DEADLINE;
        while !wire.exists() {
            emulator.check()?;
            ensure!(Instant::now() < deadline, "the emulator does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(emulator)
    }

    /// Connects to one of its sockets, which it makes when it starts.
    pub(super) fn connect(&mut self, what: &str) -> Result<UnixStream> {
        let path = self.sockets.join(format!("{}.{what}", self.number));
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("no socket at {}", path.display()));
                }
                Err(_) => self.check()?,
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// An error if it has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        if self.process.exited().is_some() {
            let finished = self.process.stop();
            bail!("the emulator ended: {finished}\n{}", self.console_tail());
        }
        Ok(())
    }

    /// The last lines of the guest's console.
    pub(super) fn console_tail(&self) -> String {
        let text = std::fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n  ");
        format!("its console ({}):\n  {tail}", self.console.display())
    }

    /// Executes a command of the machine protocol.
    pub(super) fn execute(
        &mut self,
        command: &str,
        arguments: serde_json::Value,
    ) -> Result<serde_json::Value> {
        if self.qmp.is_none() {
            self.qmp = Some(Qmp::new(self.connect("qmp")?)?);
        }
        let qmp = self.qmp.as_mut().context("connected above")?;
        qmp.execute(command, arguments)
    }

    /// Waits for the guest to power off by itself; after `patience` the emulator is ended. True
    /// if the guest did it.
    pub(super) fn finish(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.process.exited().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let by_itself = self.process.exited().is_some();
        if !by_itself {
            let _ = self.execute("quit", json!({}));
        }
        self.process.stop();
        by_itself
    }
}

/// The variables that `init` finds.
fn settings(hardware: &Hardware<'_>) -> Vec<(&'static str, String)> {
    let absolute = |path: PathBuf| {
        let path = path.canonicalize().unwrap_or(path);
        path.display().to_string()
    };
    let places = [paths::workspace(), paths::target()]
        .map(absolute)
        .join(" ");
    vec![
        ("AGENT", absolute(paths::guest_agent())),
        ("HOST_NAME", hardware.name.to_owned()),
        ("MODULES", absolute(hardware.kernel.modules())),
        ("PLACES", places),
        ("LIFETIME", hardware.lifetime.as_secs().to_string()),
    ]
}
