//! An end that survives, and one that is killed.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::traffic::{End, exchange};
use crate::{Outcome, control};

/// What became of the survivor's connections.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);
static EOFS: AtomicU64 = AtomicU64::new(0);
static RESETS: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

fn note(result: std::io::Result<End>) {
    match result {
        Ok(End::Eof) => EOFS.fetch_add(1, Ordering::Relaxed),
        Ok(End::Reset) => RESETS.fetch_add(1, Ordering::Relaxed),
        Err(error) => {
            eprintln!("survivor: {error}");
            WRONG.fetch_add(1, Ordering::Relaxed)
        }
    };
}

/// Lives through all rounds: as a server for whoever comes, and as a client when told so.
pub(crate) fn survivor(path: &str) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => start(move || exchange(&stream, None)),
                Err(error) => note(Err(error)),
            }
        }
    });
    control::serve(path, |words| match words {
        ["port"] => Ok(port.to_string()),
        ["connect", port, seed, connections] => {
            let port: u16 = port.parse()?;
            let seed: u64 = seed.parse()?;
            for i in 0..connections.parse()? {
                start(move || match TcpStream::connect(("127.0.0.1", port)) {
                    Ok(stream) => exchange(&stream, Some(seed + i)),
                    // It was killed before.
                    Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Ok(End::Reset),
                    Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(End::Reset),
                    Err(e) => Err(e),
                });
            }
            Ok("ok".into())
        }
        // The other end is dead: all connections have to come to their ends.
        ["settle"] => {
            let began = Instant::now();
            while ACTIVE.load(Ordering::Acquire) > 0 {
                if began.elapsed() > Duration::from_secs(10) {
                    return Err("connections hang".into());
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            Ok(format!(
                "eofs {} resets {} wrong {}",
                EOFS.load(Ordering::Relaxed),
                RESETS.load(Ordering::Relaxed),
                WRONG.load(Ordering::Relaxed)
            ))
        }
        ["usage"] => control::usage(),
        _ => Err("unknown command".into()),
    })
}

fn start(work: impl FnOnce() -> std::io::Result<End> + Send + 'static) {
    ACTIVE.fetch_add(1, Ordering::AcqRel);
    std::thread::spawn(move || {
        note(work());
        ACTIVE.fetch_sub(1, Ordering::AcqRel);
    });
}

/// Does the same, and kills itself in the middle.
pub(crate) fn victim(
    role: &str,
    port: &str,
    seed: &str,
    connections: &str,
    kill_us: &str,
) -> Outcome<()> {
    let port: u16 = port.parse()?;
    let seed: u64 = seed.parse()?;
    let connections: u64 = connections.parse()?;
    let after = Duration::from_micros(kill_us.parse()?);
    if role == "client" {
        kill_myself(after);
        for i in 0..connections {
            std::thread::spawn(move || {
                let stream = TcpStream::connect(("127.0.0.1", port));
                stream.and_then(|stream| exchange(&stream, Some(seed + i)))
            });
        }
    } else {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        println!("{}", listener.local_addr()?.port());
        let mut streams = listener.incoming();
        // The time counts from the first connection, or the accept of it, at the latest.
        let mut wait = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(&listener),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid entry.
        unsafe { libc::poll(&mut wait, 1, 10_000) };
        kill_myself(after);
        for _ in 0..connections {
            if let Some(Ok(stream)) = streams.next() {
                std::thread::spawn(move || exchange(&stream, None));
            }
        }
    }
    std::thread::sleep(Duration::from_secs(20));
    Err("still alive".into())
}

fn kill_myself(after: Duration) {
    let began = Instant::now();
    std::thread::spawn(move || {
        if after > Duration::from_micros(300) {
            std::thread::sleep(after);
        }
        while began.elapsed() < after {
            std::hint::spin_loop();
        }
        // SAFETY: ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    });
}
