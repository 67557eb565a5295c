//! The verdicts on a path that changes nothing.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;

use libtest_mimic::Trial;
use smcr_core::signal::option::{self, Verdict};
use smcr_core::sys;
use socket2::{SockAddr, Socket};

use crate::net::{Namespace, Path, Way, as_nobody};
use crate::packet::pcap;
use crate::sockets::{Ends, Family, Outside, Pair, bound, listener, port, tcp};
use crate::trial;

pub(crate) fn trials(outside: Outside) -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        let mut add = |name: &str, test: fn(Family)| {
            let name = format!("{name}::{}", family.name());
            trials.push(trial(&name, move || test(family)));
        };
        add("who_asks", who_asks);
        add("who_asks_on_loopback", who_asks_on_loopback);
        add("syn_cookies", syn_cookies);
        add("fast_open", fast_open);
        add("reuse_port", reuse_port);
    }
    trials.push(trial("nobody_may_ask", nobody_may_ask));
    trials.push(trial("tshark_names_the_option", tshark_names_the_option));
    trials.push(trial("other_cgroup", move || other_cgroup(outside)));
    trials
}

/// Who asked: client, server; what they learn.
const TABLE: [(bool, bool, Verdict, Verdict); 4] = [
    (true, true, Verdict::PeerSmc, Verdict::PeerSmc),
    (false, true, Verdict::NotAsked, Verdict::Plain),
    (true, false, Verdict::Plain, Verdict::NotAsked),
    (false, false, Verdict::NotAsked, Verdict::NotAsked),
];

fn who_asks(family: Family) {
    for (client, server, client_learns, server_learns) in TABLE {
        let path = Path::clear();
        let listener = path.server.enter(|| listener(family, server));
        let mut pair = Ends::on(&path, &listener, family).connect(client);
        assert_eq!(pair.verdicts(), (client_learns, server_learns));
        pair.carries_data();
        assert_eq!(path.options(Way::ToServer), [client]);
        assert_eq!(path.options(Way::ToClient), [client && server]);
        let mut others = path.sent();
        others.retain(|(_, packet)| !packet.is_syn());
        assert!(others.len() > 10);
        assert!(others.iter().all(|(_, packet)| packet.option().is_none()));
    }
}

fn who_asks_on_loopback(family: Family) {
    for (client, server, client_learns, server_learns) in TABLE {
        let host = Namespace::new();
        let listener = host.enter(|| listener(family, server));
        let ends = Ends {
            client: &host,
            peer: SocketAddr::new(family.loopback(), port(&listener)),
            listener: &listener,
        };
        let mut pair = ends.connect(client);
        assert_eq!(pair.verdicts(), (client_learns, server_learns));
        pair.carries_data();
    }
}

/// The server keeps nothing of the SYN, and must not promise anything.
fn syn_cookies(family: Family) {
    let path = Path::clear();
    path.server.sysctl("tcp_syncookies", "2");
    let listener = path.server.enter(|| listener(family, true));
    let pair = Ends::on(&path, &listener, family).connect(true);
    assert_eq!(pair.verdicts(), (Verdict::Plain, Verdict::NoSyn));
    assert_eq!(path.options(Way::ToClient), [false]);
}

/// Data in the SYN come before any handshake: both ends have to say plain. Without a cookie they
/// come after it, and the option works (which is why callers must not ask here).
fn fast_open(family: Family) {
    let path = Path::clear();
    path.client.sysctl("tcp_fastopen", "1");
    path.server.sysctl("tcp_fastopen", "2");
    let listener = path.server.enter(|| {
        let socket = bound(family, 0);
        sys::set_int(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 5).unwrap();
        assert!(option::ask(socket.as_fd()));
        socket.listen(128).unwrap();
        socket
    });
    let peer = SockAddr::from(SocketAddr::new(family.server(), port(&listener)));
    let connect = || -> Pair {
        let client = path.client.enter(|| tcp(family.server()));
        assert!(option::ask(client.as_fd()));
        let sent = client.send_to_with_flags(b"early", &peer, libc::MSG_FASTOPEN);
        assert_eq!(sent.unwrap(), 5);
        let (mut server, _) = listener.accept().unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"early");
        server.write_all(b"answer").unwrap();
        let mut heard = [0; 6];
        (&client).read_exact(&mut heard).unwrap();
        Pair { client, server }
    };
    let pair = connect();
    assert_eq!(pair.verdicts(), (Verdict::PeerSmc, Verdict::PeerSmc));
    drop(pair);
    let pair = connect();
    let sent = path.sent();
    let syns = sent
        .iter()
        .filter(|(w, p)| *w == Way::ToServer && p.is_syn());
    let payloads: Vec<usize> = syns.map(|(_, packet)| packet.payload()).collect();
    assert_eq!(payloads, [0, 5], "the second SYN was to carry data");
    assert_eq!(pair.verdicts(), (Verdict::Plain, Verdict::Plain));
    assert_eq!(path.options(Way::ToClient), [true, false]);
}

/// Two listeners on one port, of which one asked: whichever gets a connection, both ends agree.
fn reuse_port(family: Family) {
    let path = Path::clear();
    let (asks, silent) = path.server.enter(|| {
        let asks = listener(family, true);
        let silent = bound(family, port(&asks));
        silent.listen(128).unwrap();
        (asks, silent)
    });
    for socket in [&asks, &silent] {
        socket.set_nonblocking(true).unwrap();
    }
    let peer = SockAddr::from(SocketAddr::new(family.server(), port(&asks)));
    let mut count = [0; 2];
    for _ in 0..100 {
        let client = path.client.enter(|| tcp(family.server()));
        assert!(option::ask(client.as_fd()));
        client.connect(&peer).unwrap();
        let (server, is_smc) = loop {
            if let Ok((server, _)) = asks.accept() {
                break (server, true);
            }
            if let Ok((server, _)) = silent.accept() {
                break (server, false);
            }
            std::thread::yield_now();
        };
        let pair = Pair { client, server };
        let expected = match is_smc {
            true => (Verdict::PeerSmc, Verdict::PeerSmc),
            false => (Verdict::Plain, Verdict::NotAsked),
        };
        assert_eq!(pair.verdicts(), expected);
        count[usize::from(is_smc)] += 1;
    }
    assert!(
        count.iter().all(|n| *n > 0),
        "both were to be chosen: {count:?}"
    );
}

fn nobody_may_ask() {
    let host = Namespace::new();
    let server = host.enter(|| as_nobody(|| listener(Family::V4, true)));
    let peer = SocketAddr::new(Family::V4.loopback(), port(&server));
    let pair = host.enter(|| {
        as_nobody(move || {
            let client = tcp(peer.ip());
            assert!(option::ask(client.as_fd()));
            client.connect(&SockAddr::from(peer)).unwrap();
            let (server, _) = server.accept().unwrap();
            let pair = Pair { client, server };
            assert_eq!(pair.verdicts(), (Verdict::PeerSmc, Verdict::PeerSmc));
            pair
        })
    });
    // Root sees the same.
    assert_eq!(pair.verdicts(), (Verdict::PeerSmc, Verdict::PeerSmc));
}

/// Wireshark has the option's name from IANA's registry.
fn tshark_names_the_option() {
    let path = Path::clear();
    let listener = path.server.enter(|| listener(Family::V4, true));
    drop(Ends::on(&path, &listener, Family::V4).connect(true));
    let sent = path.sent();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pcap(sent.iter().map(|(_, packet)| packet))).unwrap();
    let run = std::process::Command::new("tshark")
        .args(["-n", "-V", "-Y", "tcp.flags.syn == 1", "-r"])
        .arg(file.path())
        .output();
    let Ok(run) = run else {
        eprintln!("SKIPPED: tshark is not installed");
        return;
    };
    let text = String::from_utf8_lossy(&run.stdout);
    let named = "Shared Memory communications over RMDA protocol (0xe2d4)";
    assert_eq!(text.matches(named).count(), 2, "{text}");
    assert_eq!(text.matches("Data: c3d9").count(), 2, "{text}");
}

/// Sockets belong to the cgroup in which they were made.
fn other_cgroup(outside: Outside) {
    let Outside {
        client: old,
        listener: old_listener,
    } = outside;
    assert!(!option::ask(old.as_fd()));
    assert!(!option::ask(old_listener.as_fd()));
    assert_eq!(option::verdict(old.as_fd()), Verdict::NoSignal);
    assert!(option::withdraw(old.as_fd()), "nothing is asked for");
    old_listener.listen(16).unwrap();
    let meet = |client: Socket, listener: &Socket| {
        let addr = SocketAddr::new(Family::V4.loopback(), port(listener));
        client.connect(&SockAddr::from(addr)).unwrap();
        let (server, _) = listener.accept().unwrap();
        Pair { client, server }
    };
    let client = tcp(Family::V4.loopback());
    assert!(option::ask(client.as_fd()));
    let pair = meet(client, &old_listener);
    assert_eq!(pair.verdicts(), (Verdict::Plain, Verdict::NoSignal));
    let listener = listener(Family::V4, true);
    let pair = meet(old, &listener);
    assert_eq!(pair.verdicts(), (Verdict::NoSignal, Verdict::Plain));
}
