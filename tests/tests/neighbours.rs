//! Preloaded programs with a malicious neighbour, who plays the protocol by hand; and calls that
//! sleep while it is decided that their connection stays on TCP.

#[path = "../../smcr-core/tests/hostile/attacker.rs"]
#[allow(dead_code)]
mod attacker;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use attacker::{Client, rmb};
use smcr_tests::scenario::process::{Program, Running};
use smcr_tests::scenario::{Preload, paths, ports, stat};

/// Echoes to everybody, each in a thread of its own, by blocking calls.
const ECHO: &str = "
import socket, sys, threading
def echo(c):
    try:
        while (b := c.recv(65536)): c.sendall(b)
    except OSError: pass
    c.close()
l = socket.create_server(('127.0.0.1', int(sys.argv[1])))
while True:
    threading.Thread(target=echo, args=(l.accept()[0],), daemon=True).start()
";

/// The same with one thread, poll and non-blocking calls.
const POLLED: &str = "
import select, socket, sys
l = socket.create_server(('127.0.0.1', int(sys.argv[1])))
p = select.poll(); p.register(l, select.POLLIN); cs = {}
while True:
    for fd, _ in p.poll():
        if fd == l.fileno():
            c = l.accept()[0]; c.setblocking(False); cs[c.fileno()] = c
            p.register(c, select.POLLIN); continue
        try: b = cs[fd].recv(65536)
        except BlockingIOError: continue
        except OSError: b = b''
        if b: cs[fd].sendall(b)
        else: p.unregister(fd); cs.pop(fd).close()
";

fn python(script: &str, preload: Preload) -> Result<Program> {
    let program = Program::new(paths::python())?.preload(preload);
    Ok(program.arg("-c").arg(script))
}

fn start(script: &str) -> Result<(Running, SocketAddr)> {
    let port = ports::free()?;
    let mut running = python(script, Preload::Library)?
        .arg(port.to_string())
        .start()?;
    ports::wait_for_listener(&mut running, port)?;
    Ok((running, SocketAddr::from(([127, 0, 0, 1], port))))
}

fn fallbacks(pid: u32, reason: &str) -> Result<u64> {
    let snapshot = stat::snapshot()?;
    let process = snapshot.processes.iter().find(|process| process.pid == pid);
    let process = process.context("the victim is not listed")?;
    let found = process.fallbacks.iter().find(|f| f.name == reason);
    Ok(found.map_or(0, |fallback| fallback.count))
}

/// An honest client, under the library: its connection is on SMC and works.
fn serves(addr: SocketAddr) -> Result<()> {
    let script = format!(
        "import socket\ns = socket.create_connection(('127.0.0.1', {}))\ns.settimeout(10)\n\
         s.sendall(b'ping'); assert s.recv(4) == b'ping'",
        addr.port()
    );
    let honest = python(&script, Preload::Library)?;
    honest.run(Duration::from_secs(20))?.success()?;
    Ok(())
}

/// The connection ends at the attacker, too.
fn ends(mut tcp: TcpStream) {
    let _ = tcp.set_read_timeout(Some(Duration::from_secs(10)));
    let mut rest = Vec::new();
    if let Err(error) = tcp.read_to_end(&mut rest) {
        let kind = error.kind();
        assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "{error}");
    }
}

fn attacks(script: &str) -> Result<()> {
    paths::ensure_built()?;
    let (mut victim, addr) = start(script)?;
    let pid = victim.group();

    // Garbage instead of a Proposal.
    let mut client = Client::connect(addr);
    let kept = client.commit(&rmb());
    client.send(Some(vec![0x55; 600]));
    ends(client.tcp);
    drop(kept);
    serves(addr)?;
    ensure!(fallbacks(pid, "clc-invalid")? == 1);

    // No Proposal at all.
    let client = Client::connect(addr);
    let kept = client.commit(&rmb());
    let began = Instant::now();
    ends(client.tcp);
    ensure!(began.elapsed() < Duration::from_secs(6), "no deadline");
    drop(kept);
    serves(addr)?;
    ensure!(fallbacks(pid, "clc-timeout")? == 1);

    // Silence before it is known that we speak SMC: plain TCP.
    let client = Client::connect(addr);
    let kept = client.take_call();
    std::thread::sleep(Duration::from_millis(400));
    let mut tcp = client.tcp;
    tcp.write_all(b"over TCP")?;
    let mut heard = [0; 8];
    tcp.read_exact(&mut heard)?;
    ensure!(&heard == b"over TCP");
    drop((tcp, kept));
    serves(addr)?;

    // Cursors and flags of all kinds.
    let before = fallbacks(pid, "bad-cursor")?;
    for (i, prod) in [1 << 63, u64::MAX, 1 << 30, 10].into_iter().enumerate() {
        let own = rmb();
        let connected = Client::connect(addr).shake_hands(&own, 1);
        let (victims, index) = &connected.victims;
        let control = victims.control(*index);
        control.bells.store(prod as u32, Ordering::Relaxed);
        control.urgent.store(prod, Ordering::Relaxed);
        control.prod.store(prod, Ordering::Release);
        let bell = || rustix::net::send(&connected.end, b"", rustix::net::SendFlags::DONTWAIT);
        let _ = bell();
        if i < 3 {
            let counted = attacker::until(|| {
                let count = fallbacks(pid, "bad-cursor").ok()?;
                (count > before + i as u64).then_some(())
            });
            ensure!(counted.is_some(), "prod {prod:x} was not counted");
        }
        // A flood of bells that mean nothing.
        for _ in 0..1000 {
            let _ = bell();
        }
        drop(connected);
        serves(addr)?;
    }
    ensure!(victim.exited().is_none(), "{}", victim.stop());
    let finished = victim.stop();
    ensure!(!finished.stderr.contains("panicked"), "{finished}");
    Ok(())
}

#[test]
fn a_threaded_server() -> Result<()> {
    attacks(ECHO)
}

#[test]
fn a_polled_server() -> Result<()> {
    attacks(POLLED)
}

/// A poll, a select and a receive sleep on a connection that nobody accepts; then the program sends
/// more than may go out before a handshake, so that the connection stays on TCP. What comes over
/// TCP later wakes them.
#[test]
fn sleepers_do_not_miss_that_the_stream_stays_on_tcp() -> Result<()> {
    const SERVER: &str = "
import socket, sys, time
l = socket.create_server(('127.0.0.1', int(sys.argv[1])))
for i in range(3):
    time.sleep(0.6); c = l.accept()[0]
    c.settimeout(10); n = 0
    while n < 40000: n += len(c.recv(65536))
    time.sleep(0.2); c.sendall(b'x'); time.sleep(0.1)
";
    const CLIENT: &str = "
import select, socket, sys, threading, time
def polls(s):
    p = select.poll(); p.register(s, select.POLLIN); assert p.poll(8000)
def selects(s): assert select.select([s], [], [], 8)[0]
def receives(s): assert s.recv(1, socket.MSG_PEEK) == b'x'
for how in polls, selects, receives:
    s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
    failed = []
    def run():
        began = time.monotonic()
        how(s)
        if time.monotonic() - began > 4: failed.append(how)
    t = threading.Thread(target=run); t.start()
    time.sleep(0.1)
    s.sendall(b'y' * 40000)
    t.join(); assert not failed, failed
    assert s.recv(1) == b'x'; s.close()
";
    paths::ensure_built()?;
    let (mut server, addr) = start(SERVER)?;
    let client = python(CLIENT, Preload::Library)?.arg(addr.port().to_string());
    client.run(Duration::from_secs(60))?.success()?;
    server.stop();
    Ok(())
}
