//! Malicious neighbours: what a peer of the same host (and user) may do to the other end of its
//! connections is to spoil them. It gets no crash, no hang, no other connection and no memory
//! beyond its own; where SMC has not begun, the connection goes on over TCP.
//!
//! The victim is the native API in this process; the attacker plays the protocol by hand.

mod as_client;
mod as_server;
mod attacker;
mod cursors;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use smcr_core::Reason;
use smcr_core::config::Config;
use smcr_core::engine::{self, PUBLISHER};
use smcr_core::net::{Mode, SmcListener, SmcStream};

use attacker::PATIENCE;

/// How long a peer may take in the handshake, here.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(300);

/// One test at a time: they compare counters of the process.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    static START: Once = Once::new();
    START.call_once(|| {
        let text = format!("handshake_timeout_ms = {}\n", TIMEOUT.as_millis());
        let config = Config::parse(&text, std::path::Path::new("test")).unwrap();
        engine::start(config).unwrap();
    });
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one attack, which has to end in time, and be counted as `reason` if that is given.
pub(crate) fn attack(name: &str, reason: Option<Reason>, run: impl FnOnce()) {
    let count = || reason.map_or(0, |reason| PUBLISHER.fallbacks(reason));
    let (before, began) = (count(), Instant::now());
    run();
    let took = began.elapsed();
    assert!(took < PATIENCE, "{name}: took {took:?}");
    if let Some(reason) = reason {
        // The other end of the process's statistics may be a moment behind.
        let counted = attacker::until(|| (count() > before).then_some(()));
        assert!(counted.is_some(), "{name}: {reason} was not counted");
    }
}

/// The listener still serves others.
pub(crate) fn serves(listener: &SmcListener) {
    let addr = listener.local_addr().unwrap();
    let client = std::thread::spawn(move || {
        let mut stream = SmcStream::connect(addr)?;
        stream.write_all(b"ping")?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        io::Result::Ok((answer, stream.mode()))
    });
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = [0; 4];
    stream.read_exact(&mut request).unwrap();
    stream.write_all(&request).unwrap();
    assert_eq!(client.join().unwrap().unwrap(), (*b"ping", Mode::Shm));
}

pub(crate) fn listener() -> (SmcListener, SocketAddr) {
    let listener = SmcListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A stream whose waits end.
pub(crate) fn patient(stream: SmcStream) -> SmcStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The stream ended with a reset, or an end of file; nothing was received.
pub(crate) fn ended(stream: &SmcStream) -> bool {
    let mut rest = [0; 64];
    match (&*stream).read(&mut rest) {
        Ok(n) => n == 0,
        Err(e) => matches!(
            e.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
    }
}
