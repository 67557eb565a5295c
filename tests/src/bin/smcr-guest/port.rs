//! The agent's two ports, each a session of its own.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use smcr_tests::lab::wire::{self, Frame, Kind, PORTS};

use crate::job::Job;

/// How long the host may take to connect to the control port.
const PATIENCE: Duration = Duration::from_secs(60);

/// The writing side of a port, shared by all that report.
#[derive(Clone)]
pub(crate) struct Reports(Arc<Mutex<File>>);

impl Reports {
    /// Sends a frame. An error means that the host is gone, which the reading side notices.
    pub(crate) fn send(&self, job: u32, kind: Kind, payload: &[u8]) {
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = wire::send(&mut *port, job, kind, payload);
    }
}

/// Serves both ports until the host closes the control port or says so.
pub(crate) fn serve() -> ExitCode {
    raise_limits();
    let [control, shell] = PORTS;
    std::thread::spawn(move || {
        // A person may come, go and come again.
        loop {
            if let Err(error) = open(shell).and_then(session) {
                eprintln!("lab: {shell}: {error}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    match open(control).and_then(session) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {control}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// RDMA pins memory, and many connections need many descriptors.
fn raise_limits() {
    let files = 1 << 16;
    let limits = [
        (libc::RLIMIT_MEMLOCK, libc::RLIM_INFINITY),
        (libc::RLIMIT_NOFILE, files),
        (libc::RLIMIT_CORE, 0),
    ];
    for (resource, value) in limits {
        let limit = libc::rlimit {
            rlim_cur: value,
            rlim_max: value,
        };
        // SAFETY: plain system call that reads a structure of ours.
        if unsafe { libc::setrlimit(resource, &limit) } != 0 {
            let error = io::Error::last_os_error();
            eprintln!("lab: cannot raise limit {resource}: {error}");
        }
    }
}

/// Opens the port of this name once the host is connected.
fn open(name: &str) -> io::Result<File> {
    let device = device(name)?;
    let file = OpenOptions::new().read(true).write(true).open(device)?;
    let start = Instant::now();
    loop {
        let mut poll = libc::pollfd {
            fd: file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: plain system call on one structure of ours.
        unsafe { libc::poll(&mut poll, 1, 1000) };
        if poll.revents & libc::POLLHUP == 0 {
            return Ok(file);
        }
        if name == PORTS[0] && start.elapsed() > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no host"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn device(name: &str) -> io::Result<PathBuf> {
    for entry in std::fs::read_dir("/sys/class/virtio-ports")?.flatten() {
        let port = std::fs::read_to_string(entry.path().join("name"));
        if port.is_ok_and(|port| port.trim() == name) {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no such port"))
}

/// Does what the host says until it is gone. Its programs are ended then.
fn session(port: File) -> io::Result<()> {
    let reports = Reports(Arc::new(Mutex::new(port.try_clone()?)));
    let mut port = io::BufReader::new(port);
    let mut jobs: HashMap<u32, Job> = HashMap::new();
    reports.send(0, Kind::Hello, env!("CARGO_PKG_VERSION").as_bytes());
    let ended = loop {
        let frame = match wire::receive(&mut port) {
            Ok(frame) => frame,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break Ok(()),
            Err(error) => break Err(error),
        };
        jobs.retain(|_, job| !job.ended());
        match frame.kind {
            Kind::PowerOff => break Ok(()),
            Kind::Start => match Job::start(&frame, reports.clone()) {
                Ok(job) => {
                    jobs.insert(frame.job, job);
                }
                Err(error) => {
                    reports.send(frame.job, Kind::Refused, error.to_string().as_bytes());
                }
            },
            _ => {
                if let Some(job) = jobs.get_mut(&frame.job) {
                    tell(job, frame);
                }
            }
        }
    };
    for job in jobs.values() {
        job.signal(libc::SIGKILL);
    }
    ended
}

fn tell(job: &mut Job, frame: Frame) {
    match frame.kind {
        Kind::Stdin => job.stdin(frame.payload),
        Kind::Resize => {
            if let [a, b, c, d] = frame.payload[..] {
                job.resize(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
            }
        }
        Kind::Signal => {
            if let Ok(signal) = frame.number() {
                job.signal(signal);
            }
        }
        _ => {}
    }
}
