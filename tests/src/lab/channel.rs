//! The host's end of the control channel: starting programs in a guest.

use std::collections::HashMap;
use std::io::BufReader;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::wire::{self, Frame, Kind, Start};

const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// A connection to the agent in a guest.
#[derive(Clone)]
pub struct Channel(Arc<Shared>);

struct Shared {
    stream: Mutex<UnixStream>,
    state: Mutex<State>,
}

struct State {
    jobs: HashMap<u32, Sender<Frame>>,
    next: u32,
    /// Why there are no more frames.
    ended: Option<String>,
}

impl Channel {
    /// Takes a connected stream and waits for the agent to show up. `alive` is asked now and
    /// then, and gives up with an error.
    pub fn open(
        stream: UnixStream,
        deadline: Instant,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        // A paused guest reads nothing.
        stream.set_write_timeout(Some(WRITE_DEADLINE))?;
        let reader = BufReader::new(stream.try_clone()?);
        // What is left from an earlier conversation on the port has other numbers.
        let first = std::process::id().wrapping_mul(0x9e37_79b9) | 1;
        let (hello, greeted) = mpsc::channel();
        let channel = Self(Arc::new(Shared {
            stream: Mutex::new(stream),
            state: Mutex::new(State {
                jobs: HashMap::from([(0, hello)]),
                next: first,
                ended: None,
            }),
        }));
        let shared = Arc::clone(&channel.0);
        std::thread::spawn(move || dispatch(reader, &shared));
        loop {
            match greeted.recv_timeout(Duration::from_millis(100)) {
                Ok(_) => return Ok(channel),
                Err(RecvTimeoutError::Disconnected) => bail!("{}", channel.why_ended()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            alive()?;
            if Instant::now() > deadline {
                bail!("no sign of the agent in the guest");
            }
        }
    }

    /// Starts a program.
    pub fn start(&self, start: &Start) -> Result<Job> {
        let (sender, frames) = mpsc::channel();
        let id = {
            let mut state = self.state();
            if let Some(why) = &state.ended {
                bail!("{why}");
            }
            let id = state.next;
            // Zero is the agent itself.
            state.next = id.wrapping_add(1).max(1);
            state.jobs.insert(id, sender);
            id
        };
        self.send(id, Kind::Start, &serde_json::to_vec(start)?)?;
        Ok(Job {
            channel: self.clone(),
            id,
            frames,
            stdout: Vec::new(),
            stderr: Vec::new(),
            status: None,
        })
    }

    /// Has the guest power off.
    pub(super) fn power_off(&self) -> Result<()> {
        self.send(0, Kind::PowerOff, &[])
    }

    /// Ends the conversation.
    pub(super) fn close(&self) {
        let stream = self.0.stream.lock();
        let stream = stream.unwrap_or_else(PoisonError::into_inner);
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn send(&self, job: u32, kind: Kind, payload: &[u8]) -> Result<()> {
        let stream = self.0.stream.lock();
        let mut stream = stream.unwrap_or_else(PoisonError::into_inner);
        wire::send(&mut *stream, job, kind, payload).context("the guest is gone")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why_ended(&self) -> String {
        let why = self.state().ended.clone();
        why.unwrap_or_else(|| "the guest is gone".to_owned())
    }
}

/// Hands every frame to its job until the stream ends.
fn dispatch(mut reader: BufReader<UnixStream>, shared: &Shared) {
    let error = loop {
        match wire::receive(&mut reader) {
            Ok(frame) => {
                let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                let last = matches!(frame.kind, Kind::Exit | Kind::Refused);
                let id = frame.job;
                if let Some(job) = state.jobs.get(&id) {
                    // Nobody may be interested any more.
                    let _ = job.send(frame);
                }
                if last {
                    state.jobs.remove(&id);
                }
            }
            Err(error) => break error,
        }
    };
    let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    state.ended = Some(format!("the guest is gone ({error})"));
    // Whoever waits for a frame is woken.
    state.jobs.clear();
}

/// A program in a guest. Dropping it ends it.
pub struct Job {
    channel: Channel,
    id: u32,
    frames: Receiver<Frame>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: Option<ExitStatus>,
}

impl Job {
    /// Waits for its end; `None` if the deadline comes first, and then it goes on.
    pub fn wait_until(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        while self.status.is_none() {
            if !self.step(deadline)? {
                return Ok(None);
            }
        }
        Ok(self.status)
    }

    /// Waits until what it has written to stdout and stderr satisfies the condition, or it ends.
    /// True if the condition is met.
    pub fn wait_for(
        &mut self,
        deadline: Instant,
        mut met: impl FnMut(&str, &str) -> bool,
    ) -> Result<bool> {
        loop {
            if met(&self.stdout(), &self.stderr()) {
                return Ok(true);
            }
            if self.status.is_some() || !self.step(deadline)? {
                return Ok(false);
            }
        }
    }

    /// Takes in what has arrived; its status if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.wait_until(Instant::now())
    }

    /// Takes in one frame; false at the deadline.
    fn step(&mut self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let frame = match self.frames.recv_timeout(left) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => bail!("{}", self.channel.why_ended()),
        };
        self.take(frame)?;
        Ok(true)
    }

    fn take(&mut self, frame: Frame) -> Result<()> {
        match frame.kind {
            Kind::Stdout => self.stdout.extend(frame.payload),
            Kind::Stderr => self.stderr.extend(frame.payload),
            Kind::Exit => self.status = Some(ExitStatus::from_raw(frame.number()?)),
            Kind::Refused => {
                // The shell's status for what it cannot start.
                self.status = Some(ExitStatus::from_raw(127 << 8));
                self.stderr.extend(frame.payload);
            }
            _ => {}
        }
        Ok(())
    }

    /// The next piece of output, for those who show it as it comes; `None` at its end.
    pub fn next_output(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if self.status.is_some() {
                return Ok(None);
            }
            let frame = self.frames.recv();
            let frame = frame.map_err(|_| anyhow::anyhow!(self.channel.why_ended()))?;
            if frame.kind == Kind::Stdout || frame.kind == Kind::Stderr {
                return Ok(Some(frame.payload));
            }
            self.take(frame)?;
        }
    }

    /// What feeds its standard input and its terminal, also from another thread.
    pub fn input(&self) -> Input {
        Input {
            channel: self.channel.clone(),
            id: self.id,
        }
    }

    /// Sends its process group a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.channel
            .send(self.id, Kind::Signal, &signal.to_le_bytes())
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The same as bytes.
    pub fn stdout_bytes(&self) -> &[u8] {
        &self.stdout
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Its status, if it has ended as far as we know.
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.signal(libc::SIGKILL);
        }
    }
}

/// The standard input of a program in a guest.
#[derive(Clone)]
pub struct Input {
    channel: Channel,
    id: u32,
}

impl Input {
    /// Writes bytes.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(wire::CHUNK) {
            self.channel.send(self.id, Kind::Stdin, chunk)?;
        }
        Ok(())
    }

    /// Closes it.
    pub fn close(&self) -> Result<()> {
        self.channel.send(self.id, Kind::Stdin, &[])
    }

    /// Tells its terminal a new size.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let [a, b] = rows.to_le_bytes();
        let [c, d] = columns.to_le_bytes();
        self.channel.send(self.id, Kind::Resize, &[a, b, c, d])
    }
}
