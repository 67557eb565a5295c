//! Listening sockets that clients take for SMC's: which programs may have them, who is asked again
//! after the option was away, and what becomes of clients that say nothing. Two network namespaces,
//! and the BPF programs of the option in a cgroup of the test's own. Needs root.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use smcr_tests::scenario::paths;
use smcr_tests::scenario::process::{Finished, Program};
use smcr_tests::scenario::stat::Snapshot;

/// A cgroup with the programs attached. Removed when dropped, and the programs with it.
struct Cgroup(PathBuf);

impl Cgroup {
    /// `None`, with the reason on stdout, where the rights or the kernel are not there.
    fn attached(name: &str) -> Result<Option<Self>> {
        paths::ensure_built()?;
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let root = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (path, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        });
        let Some(root) = root else {
            println!("SKIPPED: there is no cgroup v2 hierarchy");
            return Ok(None);
        };
        let path = root.join(format!("smcr-{name}-{}", std::process::id()));
        if let Err(error) = std::fs::create_dir(&path) {
            println!("SKIPPED: {}: {error}", path.display());
            return Ok(None);
        }
        let cgroup = Self(path);
        let tool = Program::new(paths::option_tool())?.arg("attach");
        let attached = tool.arg(&cgroup.0).run(Duration::from_secs(20))?;
        if !attached.status.success() {
            println!("SKIPPED: {attached}");
            return Ok(None);
        }
        Ok(Some(cgroup))
    }

    /// Runs both, the server under the library; what they said, and what the library counted.
    fn run(&self, server: &str, client: &str) -> Result<(String, Snapshot)> {
        let directory = tempfile::tempdir()?;
        let configuration = directory.path().join("smcr.conf");
        std::fs::write(&configuration, "ueid = TWO-HOSTS\n")?;
        let server = format!(
            "env LD_PRELOAD='{}' SMCR_CONFIG='{}' SMCR_STAT_KEEP=1 {server}",
            paths::library().display(),
            configuration.display(),
        );
        let finished = Program::new("sh")?
            .arg("-c")
            .arg("echo 0 >$0/cgroup.procs && exec unshare --net --mount \"$@\"")
            .arg(&self.0)
            .arg(paths::app("two_hosts.sh"))
            .arg(server)
            .arg(client)
            .arg(paths::stat_tool())
            .run(Duration::from_secs(90))?
            .success()?;
        let (said, json) = split(&finished)?;
        let seen: Snapshot = serde_json::from_str(json).context(finished.stdout.clone())?;
        Ok((said.to_owned(), seen))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It is busy for a moment after the last process has left.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("{} is left over", self.0.display());
    }
}

/// The line that the client said, and the JSON behind it. The server's process id comes first.
fn split(finished: &Finished) -> Result<(&str, &str)> {
    let rest = finished.stdout.split_once('\n').map(|(_, rest)| rest);
    let parts = rest.and_then(|rest| rest.split_once('\n'));
    parts.with_context(|| finished.to_string())
}

fn python(script: &Path) -> String {
    format!("'{}' '{}'", paths::python().display(), script.display())
}

/// What the server's connections are told to do, and what clients learn of each.
const INHERITED: &[(&str, &str)] = &[
    // A program without the library: no client takes it for one that understands CLC.
    ("exec-bare x quit", "1 2 2"),
    ("spawn-bare x x quit", "1 2 2 2"),
    ("popen-bare x x quit", "1 2 2 2"),
    ("fork-bare x x quit", "1 2 2 2"),
    // It never ran, or did not get the socket, or loads the library.
    ("exec-missing x quit", "1 1 1"),
    ("spawn-missing x quit", "1 1 1"),
    ("spawn-closed x quit", "1 1 1"),
    ("exec-under x quit", "1 1 1"),
    ("spawn-under x quit", "1 1 1"),
];

#[test]
fn a_listener_that_another_program_gets() -> Result<()> {
    talk("inherited", INHERITED)
}

/// Requests go with the BPF programs. The next connection shows it, and the listener asks again,
/// unless a program without the library may have it.
const ATTACHED_AGAIN: &[(&str, &str)] = &[
    ("x detach x attach x x quit", "1 - 2 1 1"),
    ("fork-closed detach x attach x x quit", "1 - 2 1 1"),
    ("fork-idle detach x attach x x quit", "1 - 2 2 2"),
    ("spawn-bare detach x attach x x quit", "1 - 2 2 2"),
    ("exec-under detach x attach x x quit", "1 - 2 1 1"),
];

#[test]
fn a_listener_that_is_asked_again() -> Result<()> {
    talk("asked-again", ATTACHED_AGAIN)
}

fn talk(name: &str, cases: &'static [(&str, &str)]) -> Result<()> {
    let Some(cgroup) = Cgroup::attached(name)? else {
        return Ok(());
    };
    for (words, expected) in cases {
        let server = python(&paths::app("listener_server.py"));
        let client = format!(
            "{} '{}' '{}' {words}",
            python(&paths::app("listener_client.py")),
            paths::option_tool().display(),
            cgroup.0.display()
        );
        let (said, _) = cgroup.run(&server, &client).context(*words)?;
        ensure!(said == *expected, "{words}: {said}, not {expected}");
    }
    Ok(())
}

/// All connections at once, each in a thread of its own. The client has no library: it asks for the
/// option, and then does not do what the server may expect.
const SILENT: &str = r#"
import signal, socket, sys, threading, time
role, kinds = sys.argv[1], sys.argv[2:]
LEVEL, ASK, VERDICT = 0x534d4352, 1, 2
# Of version 1, from 192.0.2.0/24.
PROPOSAL = bytes.fromhex(
    'e2d4c3d901003410a1b202005e00530a' 'fe8000000000000000005efffe00530a'
    '02005e00530a0000c000020018000000' 'e2d4c3d9')
LONG = 8
signal.alarm(60)
failed = []

def exactly(s, wanted):
    got = b''
    while len(got) < len(wanted):
        piece = s.recv(len(wanted) - len(got))
        assert piece, (got, 'end')
        got += piece
    assert got == wanted, got

def server(s, kind):
    if kind in ('greets', 'greets-late'):
        if kind == 'greets-late': time.sleep(LONG)
        s.sendall(b'hello')
    exactly(s, b'data')
    s.sendall(b'answer')
    assert s.recv(1) == b''

def client(s, kind):
    began = time.monotonic()
    took = lambda: time.monotonic() - began
    if kind == 'greets':
        exactly(s, b'hello')
        # Not before the server knows that no Proposal comes.
        assert 5.5 < took() < 10, took()
    elif kind == 'greets-late':
        exactly(s, b'hello')
        assert LONG - 1 < took() < LONG + 4, took()
    else:
        time.sleep(LONG)
    if kind == 'late-proposal':
        s.sendall(PROPOSAL)
        head = s.recv(8, socket.MSG_WAITALL)
        assert head[:5] == bytes.fromhex('e2d4c3d904'), head
        s.recv(int.from_bytes(head[5:7]) - 8, socket.MSG_WAITALL)
    began = time.monotonic()
    s.sendall(b'data')
    exactly(s, b'answer')
    assert took() < 4, took()
    s.shutdown(socket.SHUT_WR)

def guarded(end, s, kind):
    try:
        end(s, kind)
    except BaseException as error:
        failed.append((role, kind, repr(error)))

if role == 'server':
    listener = socket.create_server(('', 7000))
ends = []
for kind in kinds:
    if role == 'server':
        s = listener.accept()[0]
    else:
        s = socket.socket()
        s.setsockopt(LEVEL, ASK, 1)
        s.connect(('10.79.0.2', 7000))
        assert s.getsockopt(LEVEL, VERDICT) == 1
    end = {'server': server, 'client': client}[role]
    ends.append(threading.Thread(target=guarded, args=(end, s, kind)))
    ends[-1].start()
for end in ends: end.join()
if failed: print(failed, file=sys.stderr)
if role == 'client': print('failed' if failed else 'right')
sys.exit(bool(failed))
"#;

/// A client that was answered and does not propose is plain TCP after a while: the server's program
/// may speak first then, and what comes later is the program's, unless it is CLC after all.
#[test]
fn a_client_that_does_not_propose() -> Result<()> {
    let Some(cgroup) = Cgroup::attached("silent")? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let script = directory.path().join("silent.py");
    std::fs::write(&script, SILENT)?;
    let line = |role: &str| {
        let python = python(&script);
        format!("{python} {role} greets greets-late silent late-proposal")
    };
    let (said, seen) = cgroup.run(&line("server"), &line("client"))?;
    ensure!(said == "right", "{said}");
    let reasons = seen.processes.iter().flat_map(|process| &process.fallbacks);
    let reasons: Vec<(&str, u64)> = reasons
        .filter(|reason| reason.count > 0)
        .map(|reason| (reason.name.as_str(), reason.count))
        .collect();
    println!("{reasons:?}");
    for expected in [("peer-no-smc", 3), ("no-rdma-device", 1)] {
        ensure!(reasons.contains(&expected), "{reasons:?}");
    }
    Ok(())
}
