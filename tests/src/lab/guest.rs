//! One guest: running programs in it, and doing to it what only its host can.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::channel::{Channel, Job};
use super::cmd::{Cmd, quote};
use super::emulator::{Emulator, Hardware};
use super::wire;
use crate::scenario::process::Finished;

/// How long a guest may take until its agent answers. It takes 5 s on an idle machine; others may
/// use this one.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);

/// Deadline of small commands: set-up, looking at files.
const SMALL: Duration = Duration::from_secs(30);

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// A running guest. Dropping it powers it off.
pub struct Guest {
    number: usize,
    name: String,
    emulator: Emulator,
    channel: Channel,
    log: Log,
    captures: u32,
}

/// Where a guest's commands and their output are written down.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Option<File>>>);

impl Log {
    fn write(&self, text: &str) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = file.as_mut() {
            // A log that cannot be written is no reason to fail.
            let _ = file.write_all(text.as_bytes());
        }
    }
}

impl Guest {
    /// Waits for a guest whose emulator was started with this hardware, and sets it up.
    pub(super) fn boot(mut emulator: Emulator, hardware: &Hardware<'_>) -> Result<Self> {
        let deadline = Instant::now() + BOOT_DEADLINE;
        let stream = emulator.connect(wire::PORTS[0])?;
        let channel = Channel::open(stream, deadline, || emulator.check());
        let channel = channel.with_context(|| emulator.console_tail())?;
        let mut guest = Self {
            number: hardware.number,
            name: hardware.name.to_owned(),
            emulator,
            channel,
            log: Log::default(),
            captures: 0,
        };
        guest.log_to(&hardware.logs.join(format!("{}.log", guest.name)))?;
        let setup = Cmd::new(include_str!("../../lab/setup.sh"));
        guest
            .run(setup.env("NUMBER", guest.number.to_string()), SMALL)?
            .success()
            .with_context(|| format!("setting up guest {}", guest.number))?;
        Ok(guest)
    }

    /// Its name, which is also its host name: `server` or `client`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    pub fn address(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    /// Its IPv6 address.
    pub fn address6(&self) -> String {
        format!("fd77::{}", self.number)
    }

    /// Runs a command to its end. At the deadline it is ended, and that is an error; a status
    /// that tells of failure is not (see [`Finished::success`]).
    pub fn run(&self, command: impl Into<Cmd>, deadline: Duration) -> Result<Finished> {
        self.spawn(command)?.wait(deadline)
    }

    /// Runs a small command that has to succeed, and gives its stdout.
    pub fn sh(&self, command: impl Into<Cmd>) -> Result<String> {
        Ok(self.run(command, SMALL)?.success()?.stdout)
    }

    /// Starts a command and lets it run.
    pub fn spawn(&self, command: impl Into<Cmd>) -> Result<Process> {
        let command = command.into();
        let mut start = command.start();
        start.env.extend([("TERM".to_owned(), "dumb".to_owned())]);
        Ok(Process {
            job: self.channel.start(&start)?,
            what: format!("{}: {}", self.name, first_line(&command.line)),
            line: command.line,
            begun: Instant::now(),
            log: self.log.clone(),
            logged: false,
        })
    }

    /// The content of a file in the guest.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        let cat = Cmd::new(format!("cat {}", quote(path)));
        let mut job = self.channel.start(&cat.start())?;
        let status = job.wait_until(Instant::now() + SMALL)?;
        ensure!(
            status.is_some_and(|status| status.success()),
            "{}: cannot read {path}: {}",
            self.name,
            job.stderr()
        );
        Ok(job.stdout_bytes().to_vec())
    }

    /// Writes a file in the guest.
    pub fn write_file(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let cat = Cmd::new(format!("cat >{}", quote(path)));
        let mut job = self.channel.start(&cat.start())?;
        job.input().write(content.as_ref())?;
        job.input().close()?;
        let status = job.wait_until(Instant::now() + SMALL)?;
        ensure!(
            status.is_some_and(|status| status.success()),
            "{}: cannot write {path}: {}",
            self.name,
            job.stderr()
        );
        self.log.write(&format!("\n(wrote {path})\n"));
        Ok(())
    }

    /// Waits until a program in the guest listens on this TCP port. Looks it up: a connection made
    /// for the sake of looking would be the first client of a one-shot server.
    pub fn wait_for_listener(&self, port: u16) -> Result<()> {
        let line = format!(
            "for _ in $(seq 200); do \
             grep -q ':{port:04X} [0-9A-F:]* 0A ' /proc/net/tcp /proc/net/tcp6 && exit 0; \
             sleep 0.1; done; echo nobody listens on port {port} >&2; exit 1"
        );
        self.sh(line).map(drop)
    }

    /// Loads kernel modules.
    pub fn load(&self, modules: &[&str]) -> Result<()> {
        self.sh(format!("modprobe -a {}", modules.join(" ")))
            .map(drop)
    }

    /// Stops its processor, and its clock. What is sent to it meanwhile waits; once the buffers of
    /// the wire are full, the sender's network interface stands still, too.
    pub fn pause(&mut self) -> Result<()> {
        self.emulator.execute("stop", json!({})).map(drop)
    }

    /// Lets it go on.
    pub fn resume(&mut self) -> Result<()> {
        self.emulator.execute("cont", json!({})).map(drop)
    }

    /// Pulls the cable of its network interface, or puts it back. The guest sees the carrier go.
    pub fn set_link(&mut self, up: bool) -> Result<()> {
        self.emulator
            .execute("set_link", json!({"name": "nic0", "up": up}))
            .map(drop)
    }

    /// From now on what its network interface sends and receives goes to this file of the host,
    /// the first `bytes` of each packet. Gives the capture's name, for [`Self::end_capture`].
    pub fn begin_capture(&mut self, file: &Path, bytes: u32) -> Result<String> {
        self.captures += 1;
        let id = format!("capture{}", self.captures);
        let arguments = json!({
            "qom-type": "filter-dump", "id": id, "netdev": "net0",
            "file": file.display().to_string(), "maxlen": bytes,
        });
        self.emulator.execute("object-add", arguments)?;
        Ok(id)
    }

    /// Ends a capture; its file is complete then.
    pub fn end_capture(&mut self, name: &str) -> Result<()> {
        self.emulator
            .execute("object-del", json!({"id": name}))
            .map(drop)
    }

    /// Writes down commands and their output in this file from now on.
    pub(super) fn log_to(&mut self, file: &Path) -> Result<()> {
        let opened = File::create(file).with_context(|| file.display().to_string())?;
        let mut log = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        *log = Some(opened);
        Ok(())
    }

    /// An error if the guest is gone.
    pub(super) fn check(&mut self) -> Result<()> {
        self.emulator.check()
    }

    /// Powers it off, saving its kernel's messages first. True if it did so by itself.
    pub(super) fn power_off(&mut self, kernel_log: &Path) -> bool {
        // Not among the last scenario's commands.
        self.log = Log::default();
        if let Ok(messages) = self.run("dmesg", Duration::from_secs(10)) {
            let _ = std::fs::write(kernel_log, messages.stdout);
        }
        let asked = self.channel.power_off().is_ok();
        let patience = Duration::from_secs(if asked { 8 } else { 0 });
        let by_itself = self.emulator.finish(patience);
        self.channel.close();
        by_itself
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.channel.close();
    }
}

/// A program in a guest. Dropping it ends it.
pub struct Process {
    job: Job,
    what: String,
    line: String,
    begun: Instant,
    log: Log,
    logged: bool,
}

impl Process {
    /// Waits for its end. At the deadline it is ended, and that is an error.
    pub fn wait(&mut self, deadline: Duration) -> Result<Finished> {
        if self.job.wait_until(Instant::now() + deadline)?.is_none() {
            let finished = self.stop()?;
            bail!(
                "no end after {} s, stopped it: {finished}",
                deadline.as_secs()
            );
        }
        Ok(self.finished())
    }

    /// Ends it (SIGTERM, then SIGKILL, to its group) and says what it left.
    pub fn stop(&mut self) -> Result<Finished> {
        if self.job.exited()?.is_none() {
            self.job.signal(libc::SIGTERM)?;
            if self.job.wait_until(Instant::now() + GRACE)?.is_none() {
                self.job.signal(libc::SIGKILL)?;
                let ended = self.job.wait_until(Instant::now() + GRACE)?;
                ensure!(ended.is_some(), "{} cannot be killed", self.what);
            }
        }
        Ok(self.finished())
    }

    /// Sends its process group a signal.
    pub fn kill(&mut self, signal: i32) -> Result<()> {
        self.job.signal(signal)
    }

    /// Waits so long at most; its status if it has ended.
    pub fn wait_a_while(&mut self, time: Duration) -> Result<Option<ExitStatus>> {
        self.job.wait_until(Instant::now() + time)
    }

    /// Its status, if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.job.exited()
    }

    /// Waits until it has written this text to stdout or stderr.
    pub fn wait_for(&mut self, text: &str, deadline: Duration) -> Result<()> {
        let seen = self.job.wait_for(Instant::now() + deadline, |out, err| {
            out.contains(text) || err.contains(text)
        })?;
        if !seen {
            let finished = self.stop()?;
            bail!("never said {text:?}: {finished}");
        }
        Ok(())
    }

    /// Writes to its standard input.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        self.job.input().write(bytes)
    }

    /// Closes its standard input.
    pub fn close_stdin(&self) -> Result<()> {
        self.job.input().close()
    }

    /// What it has written to stdout up to the last look.
    pub fn stdout(&self) -> String {
        self.job.stdout()
    }

    fn finished(&mut self) -> Finished {
        let status = self.job.status().unwrap_or_default();
        let finished = Finished {
            name: self.what.clone(),
            status,
            stdout: self.job.stdout(),
            stderr: self.job.stderr(),
        };
        self.log(&format!("{status}"));
        finished
    }

    fn log(&mut self, end: &str) {
        if std::mem::replace(&mut self.logged, true) {
            return;
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        self.log.write(&format!(
            "\n$ {}\n{}{}[{end}, {seconds:.2} s]\n",
            self.line.trim_end(),
            self.job.stdout(),
            self.job.stderr()
        ));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.log("left running, ended");
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
