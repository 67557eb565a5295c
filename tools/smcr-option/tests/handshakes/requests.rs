//! How long a request lasts, and who may make one.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use libtest_mimic::Trial;
use smcr_core::signal::option::{self, Verdict};
use smcr_core::sys;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::net::{Namespace, Path, Way};
use crate::sockets::{Ends, Family, listener, port, tcp};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("asked_after_listen", asked_after_listen),
        trial("withdrawn_from_a_listener", withdrawn_from_a_listener),
        trial("withdrawn_for_an_exec", withdrawn_for_an_exec),
        trial("withdrawn_before_connect", withdrawn_before_connect),
        trial("good_for_one_connection", good_for_one_connection),
        trial("a_failed_connect_uses_it_up", a_failed_connect_uses_it_up),
        trial(
            "verdicts_belong_to_the_socket",
            verdicts_belong_to_the_socket,
        ),
        trial("only_fresh_tcp_sockets_ask", only_fresh_tcp_sockets_ask),
        trial("odd_arguments", odd_arguments),
        trial("other_options_are_untouched", other_options_are_untouched),
    ]
}

const BOTH: (Verdict, Verdict) = (Verdict::PeerSmc, Verdict::PeerSmc);

fn asked_after_listen() {
    let path = Path::clear();
    let listener = path.server.enter(|| listener(Family::V4, false));
    let ends = Ends::on(&path, &listener, Family::V4);
    let before = ends.connect(true);
    assert_eq!(before.verdicts(), (Verdict::Plain, Verdict::NotAsked));
    assert!(option::ask(listener.as_fd()));
    assert!(option::ask(listener.as_fd()), "twice does no harm");
    assert_eq!(ends.connect(true).verdicts(), BOTH);
    assert_eq!(before.verdicts(), (Verdict::Plain, Verdict::NotAsked));
}

/// What has to be done before an exec of a program that does not load the library.
fn withdrawn_from_a_listener() {
    for late in [false, true] {
        let path = Path::clear();
        let listener = path.server.enter(|| listener(Family::V4, !late));
        assert!(option::ask(listener.as_fd()));
        let ends = Ends::on(&path, &listener, Family::V4);
        let before = ends.connect(true);
        assert_eq!(before.verdicts(), BOTH);
        assert!(option::withdraw(listener.as_fd()));
        let pair = ends.connect(true);
        assert_eq!(pair.verdicts(), (Verdict::Plain, Verdict::NotAsked));
        assert_eq!(path.options(Way::ToClient), [true, false]);
        assert_eq!(before.verdicts(), BOTH);
        assert!(option::ask(listener.as_fd()));
        assert_eq!(ends.connect(true).verdicts(), BOTH);
    }
}

/// The same for all that a process has, and back again if the exec fails.
fn withdrawn_for_an_exec() {
    let path = Path::clear();
    let (asks, silent) = path
        .server
        .enter(|| (listener(Family::V4, true), listener(Family::V4, false)));
    let connection = Ends::on(&path, &asks, Family::V4).connect(true);
    assert!(option::asks(asks.as_fd()));
    for socket in [&silent, &connection.client, &connection.server] {
        assert!(!option::asks(socket.as_fd()));
    }
    let fresh = path.client.enter(|| tcp(Path::SERVER_V4));
    assert!(option::ask(fresh.as_fd()) && option::asks(fresh.as_fd()));
    let pipe = rustix::pipe::pipe().unwrap().0;
    let all = [
        asks.as_fd(),
        silent.as_fd(),
        connection.client.as_fd(),
        fresh.as_fd(),
        pipe.as_fd(),
    ];
    let withdrawn = option::withdraw_listeners(all);
    assert!(withdrawn.is_complete());
    for (listener, learns) in [(&asks, Verdict::Plain), (&silent, Verdict::Plain)] {
        let pair = Ends::on(&path, listener, Family::V4).connect(true);
        assert_eq!(pair.verdicts(), (learns, Verdict::NotAsked));
    }
    assert!(
        option::asks(fresh.as_fd()),
        "it goes with its next connect, or not"
    );
    drop(withdrawn);
    assert_eq!(
        Ends::on(&path, &asks, Family::V4).connect(true).verdicts(),
        BOTH
    );
    let pair = Ends::on(&path, &silent, Family::V4).connect(true);
    assert_eq!(pair.verdicts(), (Verdict::Plain, Verdict::NotAsked));
    option::withdraw_listeners(all).keep();
    let pair = Ends::on(&path, &asks, Family::V4).connect(true);
    assert_eq!(pair.verdicts(), (Verdict::Plain, Verdict::NotAsked));
}

fn withdrawn_before_connect() {
    let path = Path::clear();
    let listener = path.server.enter(|| listener(Family::V4, true));
    let client = path.client.enter(|| tcp(Path::SERVER_V4));
    assert!(option::ask(client.as_fd()));
    assert!(option::withdraw(client.as_fd()));
    let pair = Ends::on(&path, &listener, Family::V4).connect_with(client);
    assert_eq!(pair.verdicts(), (Verdict::NotAsked, Verdict::Plain));
    assert_eq!(path.options(Way::ToServer), [false]);
}

fn disconnect(socket: &Socket) {
    let unspecified = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as u16,
        sa_data: [0; 14],
    };
    // SAFETY: a valid address of the size given.
    let done = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            &raw const unspecified,
            size_of_val(&unspecified) as u32,
        )
    };
    assert_eq!(done, 0);
}

fn good_for_one_connection() {
    let path = Path::clear();
    let listener = path.server.enter(|| listener(Family::V4, true));
    let ends = Ends::on(&path, &listener, Family::V4);
    let pair = ends.connect(true);
    assert_eq!(pair.verdicts(), BOTH);
    disconnect(&pair.client);
    let pair = ends.connect_with(pair.client);
    assert_eq!(pair.server(), Verdict::Plain);
    assert_ne!(pair.client(), Verdict::Plain, "it was not asked for");
    assert_eq!(path.options(Way::ToServer), [true, false]);
    disconnect(&pair.client);
    assert!(option::ask(pair.client.as_fd()));
    assert_eq!(option::verdict(pair.client.as_fd()), Verdict::NotAsked);
    assert_eq!(ends.connect_with(pair.client).verdicts(), BOTH);
    // The accepted end, too, must not ask by itself when it is used again.
    let pair = ends.connect(true);
    disconnect(&pair.server);
    let accepted = pair.server;
    let loopback = path
        .server
        .enter(|| crate::sockets::listener(Family::V4, true));
    let peer = SocketAddr::new(Family::V4.loopback(), port(&loopback));
    accepted.connect(&SockAddr::from(peer)).unwrap();
    let (far, _) = loopback.accept().unwrap();
    assert_eq!(option::verdict(far.as_fd()), Verdict::Plain);
}

fn a_failed_connect_uses_it_up() {
    let path = Path::clear();
    let listener = path.server.enter(|| listener(Family::V4, true));
    let client = path.client.enter(|| tcp(Path::SERVER_V4));
    assert!(option::ask(client.as_fd()));
    let refused = SockAddr::from(SocketAddr::new(Path::SERVER_V4, 1));
    let error = client.connect(&refused).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(option::verdict(client.as_fd()), Verdict::NotAsked);
    let pair = Ends::on(&path, &listener, Family::V4).connect_with(client);
    assert_eq!(pair.verdicts(), (Verdict::NotAsked, Verdict::Plain));
    assert_eq!(path.options(Way::ToServer), [true, false]);
}

fn verdicts_belong_to_the_socket() {
    let host = Namespace::new();
    let listener = host.enter(|| listener(Family::V4, true));
    let ends = Ends {
        client: &host,
        peer: SocketAddr::new(Family::V4.loopback(), port(&listener)),
        listener: &listener,
    };
    let pair = ends.connect(true);
    let copies = [&pair.client, &pair.server].map(|socket| socket.try_clone().unwrap());
    drop(pair);
    for copy in copies {
        assert_eq!(option::verdict(copy.as_fd()), Verdict::PeerSmc);
    }
}

fn only_fresh_tcp_sockets_ask() {
    let host = Namespace::new();
    let socket = |domain, kind| host.enter(|| Socket::new(domain, kind, None).unwrap());
    for (domain, kind) in [
        (Domain::IPV4, Type::DGRAM),
        (Domain::IPV6, Type::DGRAM),
        (Domain::UNIX, Type::STREAM),
    ] {
        let socket = socket(domain, kind);
        assert!(!option::ask(socket.as_fd()), "{domain:?} {kind:?}");
        assert_eq!(option::verdict(socket.as_fd()), Verdict::NoSignal);
    }
    let listener = host.enter(|| listener(Family::V4, true));
    let ends = Ends {
        client: &host,
        peer: SocketAddr::new(Family::V4.loopback(), port(&listener)),
        listener: &listener,
    };
    let pair = ends.connect(true);
    for socket in [&pair.client, &pair.server] {
        assert!(!option::ask(socket.as_fd()), "connected");
    }
    assert_eq!(pair.verdicts(), BOTH, "a refused request changes nothing");
}

/// What no library of ours would pass.
fn odd_arguments() {
    const LEVEL: i32 = smcr_option::programs::LEVEL;
    const ASK: i32 = smcr_option::programs::ASK;
    const VERDICT: i32 = smcr_option::programs::VERDICT;
    let socket = tcp(Family::V4.loopback());
    let fd = socket.as_fd();
    for value in [2, -1, i32::MIN, i32::MAX] {
        sys::set_int(fd, LEVEL, ASK, value).unwrap_err();
    }
    for len in [0, 1, 3] {
        sys::set_bytes(fd, LEVEL, ASK, &[1; 4][..len]).unwrap_err();
    }
    sys::set_int(fd, LEVEL, VERDICT, 1).unwrap_err();
    sys::set_int(fd, LEVEL, 7, 1).unwrap_err();
    sys::get_int(fd, LEVEL, 7).unwrap_err();
    for len in [0, 1, 3] {
        let short = sys::get_bytes(fd, LEVEL, VERDICT, &mut [0; 4][..len]);
        assert!(short.is_err(), "{len}: {short:?}");
    }
    // More than is needed, and more than the kernel copies for a program.
    let mut long = vec![0xff; 10_000];
    long[..4].copy_from_slice(&1i32.to_ne_bytes());
    sys::set_bytes(fd, LEVEL, ASK, &long[..100]).unwrap();
    sys::set_bytes(fd, LEVEL, ASK, &long).unwrap();
    assert_eq!(sys::get_bytes(fd, LEVEL, VERDICT, &mut long), Ok(4));
    assert_eq!(long[..4], [0; 4]);
}

fn other_options_are_untouched() {
    let socket = tcp(Family::V4.loopback());
    let fd = socket.as_fd();
    sys::set_int(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1).unwrap();
    assert_eq!(
        sys::get_int(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY),
        Ok(1)
    );
    let no_level = sys::set_int(fd, 0x1234_5678, 1, 1);
    assert_eq!(no_level, Err(rustix::io::Errno::NOPROTOOPT));
    // Lengths beyond what the kernel copies for a program.
    let mut long = vec![0; 10_000];
    long[0] = 1;
    sys::set_bytes(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &long).unwrap();
    let len = sys::get_bytes(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &mut long);
    assert_eq!((len, long[0]), (Ok(4), 1));
    let len = sys::get_bytes(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut long);
    assert!(len.unwrap() > 100);
}
