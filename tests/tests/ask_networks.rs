//! Two hosts that ask each other over UDP, up to the point where it shows that the RDMA device
//! cannot be used: TCP at both ends, with reasons, and not a byte lost or added. Needs root. (How it
//! ends with RDMA is tried in the lab.)

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use smcr_tests::scenario::paths;
use smcr_tests::scenario::process::Program;
use smcr_tests::scenario::stat::{Process, Snapshot};

const LISTS: &str = "ask_networks = 10.79.0.0/24\nueid = TWO-HOSTS\n";
const LISTS_NOBODY: &str = "ueid = TWO-HOSTS\n";

/// Both programs: `server` or `client`, and how each connection goes.
const SCRIPT: &str = r#"
import os, select, signal, socket, sys, time
role, kinds = sys.argv[1], sys.argv[2:]
DATA = bytes(range(256)) * 400
signal.alarm(60)

def exactly(s, wanted):
    got = b''
    while len(got) < len(wanted):
        piece = s.recv(65536)
        assert piece, (len(got), 'end')
        got += piece
    assert got == wanted, (len(got), got[:16])

def connect(kind):
    s = socket.socket()
    if kind == 'nonblocking':
        s.setblocking(False)
        s.connect_ex(('10.79.0.2', 7000))
        assert select.select([], [s], [], 20)[1]
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        s.setblocking(True)
    else:
        s.connect(('10.79.0.2', 7000))
    assert s.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 64
    return s

if role == 'server':
    listener = socket.create_server(('', 7000))
for kind in kinds:
    s = listener.accept()[0] if role == 'server' else connect(kind)
    if kind == 'silent':
        # Neither says anything for a while.
        time.sleep(0.5)
    if kind == 'fork':
        if os.fork(): s.close(); assert os.wait()[1] == 0; continue
    first = kind in ('greets',)
    if first == (role == 'server'):
        s.sendall(DATA)
        if kind == 'leaves': s.close(); continue
        exactly(s, DATA[::-1])
    else:
        exactly(s, DATA)
        if kind != 'leaves': s.sendall(DATA[::-1])
    if kind == 'fork': s.close(); os._exit(0)
    s.shutdown(socket.SHUT_WR)
    assert s.recv(1) == b''
    s.close()
"#;

type Reasons = BTreeMap<String, u64>;

/// Runs both with these configurations; why connections were TCP, at the server and at the client.
fn run(server: &str, client: &str, kinds: &str) -> Result<Option<(Reasons, Reasons)>> {
    paths::ensure_built()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("talk.py"), SCRIPT)?;
    let line = |role: &str, configuration: &str| -> Result<String> {
        std::fs::write(path(role), configuration)?;
        Ok(format!(
            "env LD_PRELOAD='{}' SMCR_CONFIG='{}' SMCR_STAT_KEEP=1 '{}' '{}' {role} {kinds}",
            paths::library().display(),
            path(role).display(),
            paths::python().display(),
            path("talk.py").display(),
        ))
    };
    let finished = Program::new("unshare")?
        .args("--net --mount")
        .arg(paths::app("two_hosts.sh"))
        .arg(line("server", server)?)
        .arg(line("client", client)?)
        .arg(paths::stat_tool())
        .run(Duration::from_secs(90))?;
    if finished.stderr.contains("Operation not permitted") {
        println!("SKIPPED: network namespaces need root");
        return Ok(None);
    }
    let said = finished.success()?.stdout;
    let (server, json) = said.split_once('\n').context("no server")?;
    let seen: Snapshot = serde_json::from_str(json).context(said.clone())?;
    ensure!(seen.made("rdma") + seen.made("shm") == 0, "{said}");
    let (servers, clients) = seen
        .processes
        .iter()
        .partition(|process| process.pid.to_string() == server);
    Ok(Some((reasons(servers), reasons(clients))))
}

fn reasons(processes: Vec<&Process>) -> Reasons {
    let mut reasons = Reasons::new();
    for reason in processes.iter().flat_map(|process| &process.fallbacks) {
        *reasons.entry(reason.name.clone()).or_default() += reason.count;
    }
    reasons
}

/// Whoever speaks first, the two agree to send CLC, and decline: the client since its device cannot
/// be used. What the programs say was checked by them.
#[test]
fn two_that_list_each_other() -> Result<()> {
    let kinds = "asks greets nonblocking silent asks";
    let (wanted_server, wanted_client) = (one("peer-declined", 5), one("no-rdma-device", 5));
    // On a busy machine one may come too late for the other; the data have to be right always.
    for attempt in 1.. {
        let Some((server, client)) = run(LISTS, LISTS, kinds)? else {
            return Ok(());
        };
        println!("server: {server:?}, client: {client:?}");
        if server == wanted_server && client == wanted_client {
            break;
        }
        ensure!(attempt < 5, "not once in {attempt} attempts");
    }
    Ok(())
}

/// What cannot wait for an answer goes on over TCP: a fork, and a client that sends and leaves.
#[test]
fn a_client_that_does_not_wait() -> Result<()> {
    let Some((server, client)) = run(LISTS, LISTS, "leaves fork leaves fork asks leaves")? else {
        return Ok(());
    };
    println!("server: {server:?}, client: {client:?}");
    ensure!(server.values().sum::<u64>() == 6, "{server:?}");
    ensure!(client.values().sum::<u64>() == 6, "{client:?}");
    Ok(())
}

/// One that lists the other is not enough. The client is not answered, and does not ask again.
#[test]
fn one_that_is_not_listed() -> Result<()> {
    for (server, client) in [(LISTS_NOBODY, LISTS), (LISTS, LISTS_NOBODY)] {
        let kinds = "asks greets nonblocking silent leaves fork";
        let Some((server, client)) = run(server, client, kinds)? else {
            return Ok(());
        };
        ensure!(server == one("peer-no-smc", 6), "server: {server:?}");
        ensure!(client == one("peer-no-smc", 6), "client: {client:?}");
    }
    Ok(())
}

fn one(reason: &str, count: u64) -> Reasons {
    Reasons::from([(reason.to_owned(), count)])
}
