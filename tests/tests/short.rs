//! Where descriptors are short, streams do without the TCP sockets behind them: more of them are
//! possible, and a program sees no difference.

use std::time::Duration;

use anyhow::{Result, ensure};
use smcr_tests::scenario::process::Program;
use smcr_tests::scenario::{Preload, paths};

/// Both ends of many connections. What it prints to stdout must not depend on the library; the
/// last line of stderr says how many descriptors are streams, and how many TCP sockets there are.
const SCRIPT: &str = r#"
import ctypes, errno, os, resource, socket, struct, subprocess, sys

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET
count, family = int(sys.argv[1]), getattr(socket, sys.argv[2])
host = '::1' if family == socket.AF_INET6 else '127.0.0.1'
listener = socket.socket(family)
listener.bind((host, 0)); listener.listen(64)
address = listener.getsockname()

def error(call, *args):
    try: return call(*args)
    except OSError as e: return errno.errorcode[e.errno]

def state(s): return s.getsockopt(TCP, socket.TCP_INFO, 104)[0]

def connect():
    client = socket.socket(family)
    client.setsockopt(TCP, socket.TCP_NODELAY, 1)
    client.setsockopt(SOL, socket.SO_KEEPALIVE, 1)
    client.connect(address)
    server, name = listener.accept()
    assert name == client.getsockname(), name
    client.setsockopt(TCP, socket.TCP_USER_TIMEOUT, 4321)
    server.setsockopt(TCP, socket.TCP_KEEPIDLE, 77)
    server.settimeout(20); client.settimeout(20)
    return client, server

pairs = [connect() for _ in range(count)]
print('soft limit', resource.getrlimit(resource.RLIMIT_NOFILE))
for i, (c, s) in enumerate(pairs):
    c.sendall(b'%08d' % i); s.sendall(b'%08d' % ~i)
for i, (c, s) in enumerate(pairs):
    assert s.recv(99) == b'%08d' % i and c.recv(99) == b'%08d' % ~i
    for one, other in (c, s), (s, c):
        assert one.getsockname() == other.getpeername()
        assert one.getpeername() == other.getsockname()
        assert state(one) == 1, (i, state(one))
        assert error(one.connect, address) == 'EISCONN'
        assert one.getsockopt(SOL, socket.SO_ERROR) == 0
        assert one.getsockopt(SOL, socket.SO_PROTOCOL) == TCP
        assert one.getsockopt(SOL, socket.SO_DOMAIN) == family
        one.setsockopt(TCP, socket.TCP_KEEPCNT, 5)
        assert one.getsockopt(TCP, socket.TCP_KEEPCNT) == 5
        assert error(one.setsockopt, TCP, socket.TCP_KEEPCNT, -1) == 'EINVAL'
        assert error(one.getsockopt, TCP, 999) == 'ENOPROTOOPT'
    values = [c.getsockopt(TCP, socket.TCP_NODELAY), c.getsockopt(SOL, socket.SO_KEEPALIVE),
              c.getsockopt(TCP, socket.TCP_USER_TIMEOUT), s.getsockopt(TCP, socket.TCP_KEEPIDLE),
              s.getsockopt(TCP, socket.TCP_CONGESTION, 16)]
    if i in (0, 1, count - 1): print(i, values)

# Half closed, reset, over.
c, s = pairs[0]
c.shutdown(socket.SHUT_WR)
print(s.recv(1), state(c) in (4, 5), state(s), error(c.send, b'x'))
s.sendall(b'still'); print(c.recv(9), error(s.getpeername) == c.getsockname())
s.shutdown(socket.SHUT_WR)
print(c.recv(1), error(c.getpeername), error(s.getpeername), state(c) in (6, 7), state(s) in (6, 7))
c, s = pairs[1]
c.setsockopt(SOL, socket.SO_LINGER, struct.pack('ii', 1, 0))
print(c.getsockopt(SOL, socket.SO_LINGER, 8)); c.close()
print(error(s.recv, 1), error(s.recv, 1), state(s))

# AF_UNSPEC: the same socket is connected again.
c, s = pairs[2]
libc = ctypes.CDLL(None, use_errno=True)
print(libc.connect(c.fileno(), bytes(16), 16), error(s.recv, 1))
c.settimeout(None); c.connect(address); s = listener.accept()[0]; pairs[2] = c, s
c.sendall(b'again'); print(s.recv(9), c.getsockopt(TCP, socket.TCP_NODELAY))

# A forked child, and a program that inherits one.
c, s = pairs[3]
sys.stdout.flush()
pid = os.fork()
if pid == 0:
    c.sendall(b'child %d' % c.getsockopt(TCP, socket.TCP_NODELAY)); os._exit(0)
print(s.recv(99), os.waitpid(pid, 0)[1])
PROGRAM = '''
import socket, sys
s = socket.socket(fileno=int(sys.argv[1]))
s.sendall(repr((s.getsockname()[:2], s.getpeername()[:2])).encode())
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
s.sendall(b', ' + s.recv(9))
'''
s.sendall(b'go on')
number = c.fileno(); os.set_inheritable(number, True)
subprocess.run([sys.executable, '-c', PROGRAM, str(number)], close_fds=False, check=True)
print(s.recv(999).decode() == f'{c.getsockname()[:2], c.getpeername()[:2]}, go on')

# One that is passed in a message, to itself.
one, two = socket.socketpair()
c, s = pairs[4]
socket.send_fds(one, [b'.'], [c.fileno()])
_, fds, _, _ = socket.recv_fds(two, 1, 9)
again = socket.socket(fileno=fds[0])
again.sendall(b'passed'); print(len(fds), s.recv(9), again.getpeername() == address)

links = [error(os.readlink, f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')]
unix, tcp = open('/proc/self/net/unix').read(), ''
for name in 'tcp', 'tcp6': tcp += open(f'/proc/self/net/{name}').read()
inodes = [link[8:-1] for link in links if link.startswith('socket:[')]
streams = sum(os.fstat(x.fileno()).st_ino != 0 and f' {os.fstat(x.fileno()).st_ino}' in unix
              for pair in pairs for x in pair if x.fileno() >= 0)
sockets = sum(f' {inode} ' in tcp for inode in inodes)
print(streams, sockets, file=sys.stderr)
"#;

fn run(
    limits: &str,
    connections: usize,
    family: &str,
    preload: Preload,
) -> Result<(String, [usize; 2])> {
    // The limits are set by a shell, before the library is loaded.
    let mut script = format!("{limits}; exec ");
    if preload == Preload::Library {
        script += &format!("env LD_PRELOAD={} ", paths::library().display());
    }
    script += &format!(
        "{} -c \"$0\" {connections} {family}",
        paths::python().display()
    );
    let program = Program::new("/bin/sh")?.preload(Preload::None);
    let finished = program
        .arg("-c")
        .arg(&script)
        .arg(SCRIPT)
        .run(Duration::from_secs(60))?
        .success()?;
    let last = finished.stderr.lines().last().unwrap_or_default();
    let numbers: Vec<usize> = last.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    ensure!(numbers.len() == 2, "{}", finished.stderr);
    Ok((finished.stdout, [numbers[0], numbers[1]]))
}

/// `most`: TCP sockets that are left for all ends that are streams.
fn compare(limits: &str, connections: usize, family: &str, most: usize) -> Result<()> {
    paths::ensure_built()?;
    let (plain, _) = run(limits, connections, family, Preload::None)?;
    let (ours, [streams, sockets]) = run(limits, connections, family, Preload::Library)?;
    println!("{limits}: {streams} streams, {sockets} TCP sockets\n{ours}");
    ensure!(
        plain == ours,
        "over TCP:\n{plain}\nunder the library:\n{ours}"
    );
    // All but the one that was closed.
    ensure!(streams == 2 * connections - 1, "only {streams} streams");
    ensure!(sockets <= most, "{sockets} TCP sockets");
    Ok(())
}

/// The library has descriptors of its own, fewer than it would like.
#[test]
fn a_low_hard_limit() -> Result<()> {
    compare("ulimit -Sn 400; ulimit -Hn 600", 150, "AF_INET", 190)
}

/// It shares the program's.
#[test]
fn no_room_above_the_soft_limit() -> Result<()> {
    compare("ulimit -n 400", 150, "AF_INET", 80)
}

#[test]
fn ipv6() -> Result<()> {
    compare("ulimit -n 400", 120, "AF_INET6", 80)
}
