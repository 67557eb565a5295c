//! A server that forks for each connection, and whose children die in the middle of theirs: what
//! the connections took is used again, at both ends.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use smcr_tests::scenario::process::Program;
use smcr_tests::scenario::{Preload, paths, ports};

/// What the rings of one connection take when they are full, in KiB.
const EACH: u64 = 2 * 64;

/// Accepts, forks, closes; half of the children are killed, half exit without closing.
const SERVER: &str = r#"
import os, signal, socket, sys
port, rounds = int(sys.argv[1]), int(sys.argv[2])
def shmem():
    return next(l.split()[1] for l in open('/proc/self/status') if l.startswith('RssShmem'))
l = socket.create_server(('127.0.0.1', port))
for i in range(rounds):
    c = l.accept()[0]
    pid = os.fork()
    if pid == 0:
        n = 0
        while n < 65536: n += len(c.recv(65536))
        c.sendall(b'y' * 65536)
        c.recv(1)
        if i % 2: os._exit(0)
        signal.pause()
    c.close()
    if i % 2 == 0:
        # The child has begun when the client says so.
        l.accept()[0].close(); os.kill(pid, signal.SIGKILL)
    # Some stay zombies for a while.
    if i % 8 == 7:
        for _ in range(8): os.wait()
print(shmem())
"#;

const CLIENT: &str = r#"
import os, socket, sys
port, rounds = int(sys.argv[1]), int(sys.argv[2])
moved = 0
for i in range(rounds):
    s = socket.create_connection(('127.0.0.1', port)); s.settimeout(20)
    s.sendall(b'x' * 65536)
    n = 0
    while n < 65536: n += len(s.recv(65536))
    moved += f' {os.fstat(s.fileno()).st_ino} ' in open('/proc/self/net/unix').read().replace('\n', ' ')
    s.sendall(b'.')
    if i % 2 == 0: socket.create_connection(('127.0.0.1', port)).close()
    try: assert s.recv(1) == b''
    except ConnectionResetError: pass
    s.close()
shmem = next(l.split()[1] for l in open('/proc/self/status') if l.startswith('RssShmem'))
print(moved, shmem)
"#;

#[test]
fn what_dead_children_had_is_used_again() -> Result<()> {
    const ROUNDS: u64 = 504;
    paths::ensure_built()?;
    let port = ports::free()?;
    let python = |script| -> Result<Program> {
        let program = Program::new(paths::python())?.preload(Preload::Library);
        let program = program.arg("-c").arg(script);
        Ok(program.args(&format!("{port} {ROUNDS}")))
    };
    let mut server = python(SERVER)?.start()?;
    ports::wait_for_listener(&mut server, port)?;
    let client = python(CLIENT)?.run(Duration::from_secs(120))?.success()?;
    let server = server.wait(Duration::from_secs(20))?.success()?;
    println!("client: {}server: {}", client.stdout, server.stdout);
    let (moved, client) = client.stdout.trim().split_once(' ').context("client")?;
    ensure!(moved.parse::<u64>()? >= ROUNDS * 9 / 10, "{moved} moved");
    for shmem in [client, server.stdout.trim()] {
        // Some dozens may be waiting for somebody to look; not hundreds.
        ensure!(shmem.parse::<u64>()? < 64 * EACH, "{shmem} KiB");
    }
    Ok(())
}
