//! A program that enters another network namespace finds the listeners there.

use std::time::Duration;

use anyhow::{Result, ensure};
use smcr_tests::scenario::process::Program;
use smcr_tests::scenario::{Preload, paths};

/// Connects before and after, and says which connections are streams of the library.
const SCRIPT: &str = r#"
import ctypes, fcntl, os, socket, struct, sys
CLONE_NEWNET, SIOCSIFFLAGS = 0x40000000, 0x8914
def moved():
    with socket.create_server(('127.0.0.1', 0)) as l:
        c = socket.create_connection(l.getsockname()); s = l.accept()[0]
        c.sendall(b'x'); assert s.recv(1) == b'x'
        unix = open('/proc/thread-self/net/unix').read()
        return [f' {os.fstat(x.fileno()).st_ino}' in unix for x in (c, s)]
before = moved()
if ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
    print('not permitted'); sys.exit()
with socket.socket() as s: fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack('16sh14x', b'lo', 1))
print(before, moved())
"#;

#[test]
fn a_program_that_enters_another_namespace() -> Result<()> {
    paths::ensure_built()?;
    let program = Program::new(paths::python())?.preload(Preload::Library);
    let finished = program.arg("-c").arg(SCRIPT).run(Duration::from_secs(30))?;
    let said = finished.success()?.stdout;
    if said.trim() == "not permitted" {
        println!("needs the right to make a network namespace");
        return Ok(());
    }
    ensure!(said == "[True, True] [True, True]\n", "{said}");
    Ok(())
}
