//! One program that the agent runs for the host.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use smcr_tests::lab::wire::{CHUNK, Frame, Kind, Start};

use crate::port::Reports;

/// How long after its end we wait for output that its children may still hold open.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// A program that was started.
pub(crate) struct Job {
    group: u32,
    ended: Arc<AtomicBool>,
    stdin: Sender<Vec<u8>>,
    terminal: Option<File>,
}

impl Job {
    /// Starts what the frame says; from then on threads report about it.
    pub(crate) fn start(frame: &Frame, reports: Reports) -> io::Result<Self> {
        let start: Start = serde_json::from_slice(&frame.payload)?;
        let (program, arguments) = start
            .argv
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program"))?;
        let mut command = Command::new(program);
        command.args(arguments).envs(start.env.iter().cloned());
        command.current_dir(match start.directory.as_str() {
            "" => "/",
            directory => directory,
        });
        let terminal = start.terminal.map(open_terminal).transpose()?;
        match &terminal {
            Some((_, slave)) => on_terminal(&mut command, slave)?,
            None => {
                command
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .process_group(0);
            }
        }
        let mut child = command.spawn()?;
        // Only programs keep the other end of the terminal open.
        drop(command);
        let terminal = terminal.map(|(master, _slave)| master);

        let (stdin, input) = mpsc::channel();
        let (done, readers) = mpsc::channel::<()>();
        let id = frame.job;
        if let Some(master) = &terminal {
            copy_in(input, master.try_clone()?);
            let output = master.try_clone()?;
            copy_out(output, id, Kind::Stdout, reports.clone(), done.clone());
        } else {
            if let Some(pipe) = child.stdin.take() {
                copy_in(input, pipe);
            }
            if let Some(pipe) = child.stdout.take() {
                copy_out(pipe, id, Kind::Stdout, reports.clone(), done.clone());
            }
            if let Some(pipe) = child.stderr.take() {
                copy_out(pipe, id, Kind::Stderr, reports.clone(), done.clone());
            }
        }
        drop(done);
        let ended = Arc::new(AtomicBool::new(false));
        let group = child.id();
        let flag = Arc::clone(&ended);
        thread::spawn(move || await_end(child, id, &flag, &readers, &reports));
        Ok(Self {
            group,
            ended,
            stdin,
            terminal,
        })
    }

    /// True once its end was reported.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Passes bytes on to its standard input; none closes it.
    pub(crate) fn stdin(&self, bytes: Vec<u8>) {
        // An error means that it no longer reads.
        let _ = self.stdin.send(bytes);
    }

    /// Tells its terminal the size of the host's.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = &self.terminal {
            set_size(terminal, rows, columns);
        }
    }

    /// Sends a signal to its process group.
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: plain system call; the worst that a number in use again could do is end another
        // program of this guest.
        unsafe { libc::kill(-(self.group as libc::pid_t), signal) };
    }
}

fn await_end(
    mut child: Child,
    id: u32,
    ended: &AtomicBool,
    readers: &Receiver<()>,
    reports: &Reports,
) {
    let status = child.wait().map_or(0xff00, ExitStatusExt::into_raw);
    // Nothing is ever sent: it ends when the last reader has.
    while readers.recv_timeout(LAST_WORDS) == Ok(()) {}
    ended.store(true, Ordering::Relaxed);
    reports.send(id, Kind::Exit, &status.to_le_bytes());
}

fn copy_out(
    mut pipe: impl Read + Send + 'static,
    id: u32,
    kind: Kind,
    reports: Reports,
    done: Sender<()>,
) {
    thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        // A terminal whose last program has ended gives an error in place of the end.
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            reports.send(id, kind, &buffer[..count]);
        }
        drop(done);
    });
}

fn copy_in(input: Receiver<Vec<u8>>, mut pipe: impl Write + Send + 'static) {
    thread::spawn(move || {
        // Ends, and with it the pipe, at an empty message or when the job is forgotten.
        while let Ok(bytes) = input.recv() {
            if bytes.is_empty() || pipe.write_all(&bytes).is_err() {
                break;
            }
        }
    });
}

/// Both ends of a new terminal: the one that the host sees, and the program's.
fn open_terminal((rows, columns): (u16, u16)) -> io::Result<(File, OwnedFd)> {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: the call writes two integers; the optional arguments are left out.
    let failed = unsafe {
        libc::openpty(
            &mut master,
            &mut slave,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both descriptors are new and nobody else's.
    let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    set_size(&master, rows, columns);
    Ok((master, slave))
}

fn set_size(terminal: &File, rows: u16, columns: u16) {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request reads one structure of this type.
    unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) };
}

/// Makes the terminal the program's standard streams and its controlling terminal.
fn on_terminal(command: &mut Command, slave: &OwnedFd) -> io::Result<()> {
    command
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave.try_clone()?);
    // SAFETY: between fork and exec the closure only makes system calls.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    Ok(())
}
