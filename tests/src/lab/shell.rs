//! A person in a guest.

use std::io::{IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::channel::{Channel, Input};
use super::cmd::Cmd;
use super::kernel::{self, Kernel};
use super::pair::Pair;
use super::wire::PORTS;
use crate::scenario::paths;

/// A person may forget the guests; they do not stay for ever.
const LIFETIME: Duration = Duration::from_secs(8 * 3600);

/// Boots a pair and gives the terminal to a shell in guest 1, until that ends.
pub fn first(kernel: &Kernel, logs: &Path) -> Result<i32> {
    println!("booting two guests (logs and captures: {})", logs.display());
    let mut pair = Pair::boot(kernel, logs, Some(LIFETIME))?;
    for guest in pair.guests() {
        let file = logs.join(format!("{}.pcap", guest.name()));
        guest.begin_capture(&file, 65_535)?;
    }
    let marker = marker();
    std::fs::write(&marker, pair.sockets().display().to_string())?;
    println!(
        "guest 1 (server, 10.77.0.1); guest 2 (client, 10.77.0.2): `cargo xtask lab shell 2` in \
         another terminal\nboth power off when this shell ends\n"
    );
    let status = enter(pair.sockets(), 1);
    let _ = std::fs::remove_file(marker);
    pair.power_off();
    status
}

/// Gives the terminal to a shell in a guest of the pair that [`first`] has booted.
pub fn another(guest: usize) -> Result<i32> {
    let marker = marker();
    let Ok(sockets) = std::fs::read_to_string(&marker) else {
        bail!("there is no running pair: `cargo xtask lab shell` in another terminal starts one");
    };
    enter(Path::new(sockets.trim()), guest)
}

/// Names the directory of the running pair's sockets.
fn marker() -> PathBuf {
    kernel::directory().join("shell")
}

/// Runs a shell in a guest; its status.
fn enter(sockets: &Path, guest: usize) -> Result<i32> {
    let path = sockets.join(format!("{guest}.{}", PORTS[1]));
    let stream = UnixStream::connect(&path).with_context(|| {
        format!(
            "no guest answers at {}: was its pair ended?",
            path.display()
        )
    })?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let channel = Channel::open(stream, deadline, || Ok(()))
        .context("somebody else may be in this guest already")?;

    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut start = Cmd::new("").start();
    start.argv = ["/bin/bash", "--norc"].map(String::from).to_vec();
    start.directory = paths::workspace().display().to_string();
    let type_of_terminal = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
    start.env.extend([
        ("TERM".to_owned(), type_of_terminal),
        ("PS1".to_owned(), "\\h:\\w# ".to_owned()),
    ]);
    start.terminal = terminal.then(size);
    let raw = if terminal { Some(Raw::begin()?) } else { None };
    let mut job = channel.start(&start)?;
    feed(job.input(), terminal);
    let mut stdout = std::io::stdout();
    while let Some(bytes) = job.next_output()? {
        stdout.write_all(&bytes)?;
        stdout.flush()?;
    }
    drop(raw);
    Ok(job.status().and_then(|status| status.code()).unwrap_or(1))
}

/// Passes on what is typed, and the terminal's size when it has changed.
fn feed(input: Input, terminal: bool) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut known = size();
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            let now = size();
            if terminal && now != known {
                known = now;
                let _ = input.resize(now.0, now.1);
            }
            if input.write(&buffer[..count]).is_err() {
                return;
            }
        }
        let _ = input.close();
    });
}

/// Rows and columns of our terminal.
fn size() -> (u16, u16) {
    let mut size = libc::winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request writes one structure of this type.
    unsafe { libc::ioctl(0, libc::TIOCGWINSZ, &mut size) };
    match (size.ws_row, size.ws_col) {
        (0, _) | (_, 0) => (24, 80),
        known => known,
    }
}

/// While it lives our terminal passes on every key as it is.
struct Raw(libc::termios);

impl Raw {
    fn begin() -> Result<Self> {
        // SAFETY: a plain structure, for which all zeroes is a valid value and which the calls
        // below fill in, change and read.
        unsafe {
            let mut before: libc::termios = std::mem::zeroed();
            if libc::tcgetattr(0, &mut before) != 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            let mut raw = before;
            libc::cfmakeraw(&mut raw);
            libc::tcsetattr(0, libc::TCSANOW, &raw);
            Ok(Self(before))
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: reads a structure of ours.
        unsafe { libc::tcsetattr(0, libc::TCSANOW, &self.0) };
    }
}
