//! The signal of configured networks between two network namespaces, over a pair of veth devices.
//! Needs root.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use smcr_core::rendezvous::syn::{self, Syn, Window};
use smcr_core::signal::networks::client::Event;
use smcr_core::signal::networks::{Asking, Calling, Refusal};
use smcr_core::sys;
use socket2::{Domain, SockAddr, Socket, Type};

/// Two hosts.
struct Hosts {
    client: File,
    server: File,
}

impl Hosts {
    /// `None`, loudly, where that is not allowed.
    fn new() -> Option<Self> {
        let hosts = Self {
            client: namespace()?,
            server: namespace()?,
        };
        let far = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            hosts.server.as_raw_fd()
        );
        enter(&hosts.client, || {
            ip(&format!(
                "link add path type veth peer name path netns {far}"
            ));
        });
        for (host, number) in [(&hosts.client, 1), (&hosts.server, 2)] {
            enter(host, || {
                ip(&format!("addr add 10.78.0.{number}/24 dev path"));
                ip(&format!("addr add fd78::{number}/64 dev path nodad"));
                ip("link set path up");
                ip("link set lo up");
            });
        }
        Some(hosts)
    }

    fn connected(&self, family: Family, asks: bool) -> Connection {
        let listener = enter(&self.server, || listener(family.any()));
        self.connected_to(&listener, family, asks)
    }

    fn connected_to(&self, listener: &Socket, family: Family, asks: bool) -> Connection {
        let peer = SocketAddr::new(family.server(), address(listener).port());
        let (client, window) = enter(&self.client, || connect(peer, asks));
        let (server, _) = listener.accept().unwrap();
        Connection {
            client,
            server,
            window,
        }
    }
}

fn namespace() -> Option<File> {
    let made = std::thread::spawn(|| {
        // SAFETY: takes flags; concerns this thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        }
        Some(File::open("/proc/thread-self/ns/net").unwrap())
    });
    made.join().unwrap()
}

/// Runs `work` in a thread on this host.
fn enter<T: Send>(host: &File, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: an open descriptor of a namespace; concerns this thread only.
            let entered = unsafe { libc::setns(host.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(entered, 0, "setns");
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ip(arguments: &str) {
    let run = Command::new("ip")
        .args(arguments.split_whitespace())
        .output();
    let run = run.expect("ip(8) of iproute2 is needed");
    let error = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "ip {arguments}: {error}");
}

/// By which addresses the two meet.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
    /// A listener for both, an IPv4 client.
    Mapped,
}

impl Family {
    const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    fn any(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 | Self::Mapped => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    fn server(self) -> IpAddr {
        match self {
            Self::V4 | Self::Mapped => Ipv4Addr::new(10, 78, 0, 2).into(),
            Self::V6 => Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 2).into(),
        }
    }
}

fn tcp(family: IpAddr) -> Socket {
    let domain = match family {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    Socket::new(domain, Type::STREAM, None).unwrap()
}

fn listener(any: IpAddr) -> Socket {
    let socket = tcp(any);
    assert!(syn::keep(socket.as_fd()));
    socket
        .bind(&SockAddr::from(SocketAddr::new(any, 0)))
        .unwrap();
    socket.listen(128).unwrap();
    socket
}

/// As the library connects.
fn connect(peer: SocketAddr, asks: bool) -> (Socket, Window) {
    let socket = tcp(peer.ip());
    if asks {
        assert!(syn::set_network_hint(socket.as_fd(), peer.is_ipv6()));
    }
    let began = Instant::now();
    socket.connect(&SockAddr::from(peer)).unwrap();
    syn::clear_hint(socket.as_fd(), peer.is_ipv6(), -1);
    let window = Window::now(socket.as_fd(), began).unwrap();
    (socket, window)
}

fn address(socket: &Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
}

fn peer_address(socket: &Socket) -> SocketAddr {
    socket.peer_addr().unwrap().as_socket().unwrap()
}

struct Connection {
    client: Socket,
    server: Socket,
    window: Window,
}

impl Connection {
    fn ask(&self, host: &File) -> Result<Asking, Errno> {
        let (local, peer) = (address(&self.client), peer_address(&self.client));
        enter(host, || {
            Asking::begin(self.client.as_fd(), local, peer, self.window)
        })
    }

    fn syn(&self) -> Syn {
        let syn = syn::saved(self.server.as_fd()).unwrap();
        assert!(syn.is_from_network());
        syn
    }

    fn call(&self, host: &File, syn: Syn) -> Result<(u32, Calling), Refusal> {
        let (local, peer) = (address(&self.server), peer_address(&self.server));
        enter(host, || call(&self.server, local, peer, syn))
    }

    /// The TCP stream is what it was.
    fn is_plain(&mut self) {
        self.client.write_all(b"request").unwrap();
        let mut heard = [0; 7];
        self.server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"request");
        self.server.write_all(b"reply").unwrap();
        let mut heard = [0; 5];
        self.client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"reply");
    }
}

/// As the library's thread drives it, until it is decided or the time is over.
fn drive(asking: &mut Asking, early: u32, time: Duration) -> Option<Event> {
    let until = Instant::now() + time;
    loop {
        match asking.handle(Instant::now()) {
            Some(Event::Called) => asking.commit(early, Instant::now()),
            Some(event) => return Some(event),
            None => {
                let now = Instant::now();
                if now >= until {
                    return None;
                }
                let at = asking.poll_timeout().unwrap_or(until).min(until);
                let left = at.saturating_duration_since(now) + Duration::from_micros(100);
                let left = Timespec::try_from(left).unwrap();
                let mut fds = [PollFd::new(&asking, PollFlags::IN)];
                let _ = rustix::event::poll(&mut fds, Some(&left));
            }
        }
    }
}

/// The server's end, until it is decided.
fn call(
    tcp: &Socket,
    local: SocketAddr,
    peer: SocketAddr,
    syn: Syn,
) -> Result<(u32, Calling), Refusal> {
    let calling = Calling::begin(tcp.as_fd(), local, peer, syn, Instant::now());
    let mut calling = calling.map_err(Refusal::System)?;
    loop {
        if let Some(said) = calling.handle(tcp.as_fd(), Instant::now()) {
            return said.map(|early| (early, calling));
        }
        let at = calling.poll_timeout().expect("it does not wait forever");
        let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(100);
        let left = Timespec::try_from(left).unwrap();
        let mut fds = [PollFd::new(&calling, PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, Some(&left));
    }
}

/// The client asks before the server calls, or, `late`, after: what the two say.
fn meet(hosts: &Hosts, family: Family, late: bool) -> (Option<Event>, Result<u32, Refusal>) {
    let mut connection = hosts.connected(family, true);
    connection.client.write_all(b"abc").unwrap();
    let syn = connection.syn();
    let begun = std::sync::Barrier::new(2);
    let (event, agreed) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            if late {
                begun.wait();
                std::thread::sleep(Duration::from_millis(3));
            }
            let mut asking = connection.ask(&hosts.client).unwrap();
            if !late {
                begun.wait();
            }
            let event = drive(&mut asking, 3, Duration::from_millis(500));
            (event, asking)
        });
        begun.wait();
        let agreed = connection.call(&hosts.server, syn);
        let (event, asking) = asking.join().unwrap();
        drop(asking);
        (event, agreed)
    });
    if agreed.is_ok() {
        connection.client.write_all(b"CLC").unwrap();
        let mut heard = [0; 6];
        connection.server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"abcCLC", "nothing of it was touched");
    }
    (event, agreed.map(|(early, _)| early))
}

#[test]
fn two_hosts_agree() {
    let Some(hosts) = Hosts::new() else { return };
    for family in Family::ALL {
        some_time(|| is_agreed(meet(&hosts, family, false)));
    }
}

/// Both say the same; that is the point.
fn is_agreed(said: (Option<Event>, Result<u32, Refusal>)) -> bool {
    match said {
        (Some(Event::Agreed), Ok(3)) => true,
        (None | Some(Event::Ended), Err(Refusal::Unheard | Refusal::NoAnswer)) => false,
        other => panic!("{other:?}"),
    }
}

/// The server's first Call finds nobody. On a busy machine that may take longer than a server
/// waits; then both have to say so.
#[test]
fn a_client_that_is_late() {
    let Some(hosts) = Hosts::new() else { return };
    for family in Family::ALL {
        some_time(|| is_agreed(meet(&hosts, family, true)));
    }
}

/// A server without the library, or whose configuration does not name us: nothing comes, and
/// nothing is delayed.
#[test]
fn nobody_calls() {
    let Some(hosts) = Hosts::new() else { return };
    for family in Family::ALL {
        let mut connection = hosts.connected(family, true);
        let mut asking = connection.ask(&hosts.client).unwrap();
        assert_eq!(drive(&mut asking, 0, Duration::from_millis(50)), None);
        connection.is_plain();
        assert!(asking.stop());
        assert_eq!(drive(&mut asking, 0, Duration::ZERO), Some(Event::Ended));
    }
}

/// A client that hints, and does not wait: its host says so. Without that, or with a filter between,
/// see [`strangers_on_the_port`].
#[test]
fn nobody_answers() {
    let Some(hosts) = Hosts::new() else { return };
    for family in Family::ALL {
        let mut connection = hosts.connected(family, true);
        let syn = connection.syn();
        let began = Instant::now();
        let refusal = connection.call(&hosts.server, syn).unwrap_err();
        assert_eq!(refusal, Refusal::NoAnswer);
        assert!(
            began.elapsed() < Duration::from_millis(150),
            "{:?}",
            began.elapsed()
        );
        connection.is_plain();
    }
}

#[test]
fn a_client_that_does_not_ask_gives_no_hint() {
    let Some(hosts) = Hosts::new() else { return };
    for family in Family::ALL {
        let connection = hosts.connected(family, false);
        let syn = syn::saved(connection.server.as_fd()).unwrap();
        assert!(!syn.is_from_network(), "{syn:?}");
    }
}

/// Until the server calls; false if it gave up before we looked, as on a busy machine.
fn is_called(asking: &mut Asking) -> bool {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match asking.handle(Instant::now()) {
            Some(Event::Called) => return true,
            Some(_) => return false,
            None => assert!(Instant::now() < until, "nobody calls"),
        }
        std::thread::yield_now();
    }
}

/// Tries until `work` says that it could do what it was to do.
fn some_time(mut work: impl FnMut() -> bool) {
    assert!((0..20).any(|_| work()), "the machine is too busy");
}

/// The client was called, and declines: at once, not after a deadline.
#[test]
fn the_client_stops() {
    let Some(hosts) = Hosts::new() else { return };
    some_time(|| {
        let mut connection = hosts.connected(Family::V4, true);
        let syn = connection.syn();
        let mut asking = connection.ask(&hosts.client).unwrap();
        let refusal = std::thread::scope(|scope| {
            let call = scope.spawn(|| connection.call(&hosts.server, syn));
            let _ = is_called(&mut asking);
            assert!(asking.stop());
            call.join().unwrap().unwrap_err()
        });
        connection.is_plain();
        refusal == Refusal::Stopped
    });
}

/// A client that has not heard Go can still stop; the server hears of it.
#[test]
fn a_stop_after_go_is_heard() {
    let Some(hosts) = Hosts::new() else { return };
    some_time(|| {
        let connection = hosts.connected(Family::V6, true);
        let syn = connection.syn();
        let mut asking = connection.ask(&hosts.client).unwrap();
        let agreed = std::thread::scope(|scope| {
            let call = scope.spawn(|| connection.call(&hosts.server, syn));
            if is_called(&mut asking) {
                asking.commit(0, Instant::now());
            }
            call.join().unwrap()
        });
        let Ok((_, mut agreed)) = agreed else {
            return false;
        };
        // Go waits in the client's socket; it was not read yet.
        assert!(asking.stop());
        let until = Instant::now() + Duration::from_secs(5);
        while !agreed.is_stopped(Instant::now()) {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
        assert_eq!(asking.handle(Instant::now()), Some(Event::Ended));
        let later = asking.handle(Instant::now());
        assert_eq!(later, None, "Go comes too late");
        true
    });
}

/// Many connections at once, by two listeners of one port: each Call finds its own client.
#[test]
fn nobody_is_mistaken_for_another() {
    const COUNT: usize = 40;
    let Some(hosts) = Hosts::new() else { return };
    let listeners: Vec<Socket> = enter(&hosts.server, || {
        let first = tcp(Ipv4Addr::UNSPECIFIED.into());
        first.set_reuse_port(true).unwrap();
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        first.bind(&SockAddr::from(any)).unwrap();
        let second = tcp(any.ip());
        second.set_reuse_port(true).unwrap();
        second.bind(&SockAddr::from(address(&first))).unwrap();
        for socket in [&first, &second] {
            assert!(syn::keep(socket.as_fd()));
            socket.listen(128).unwrap();
        }
        vec![first, second]
    });
    let peer = SocketAddr::new(Family::V4.server(), address(&listeners[0]).port());
    let stop = AtomicBool::new(false);
    // The numbers of those that agreed, by either side.
    let (said, heard) = std::thread::scope(|scope| {
        let servers: Vec<_> = listeners
            .iter()
            .map(|listener| scope.spawn(|| serve(&hosts, listener, &stop)))
            .collect();
        let clients: Vec<_> = (1..=COUNT)
            .map(|number| {
                let hosts = &hosts;
                scope.spawn(move || {
                    enter(&hosts.client, || {
                        let (mut client, window) = connect(peer, true);
                        client.write_all(&vec![number as u8; number]).unwrap();
                        let (local, far) = (address(&client), peer_address(&client));
                        let asking = Asking::begin(client.as_fd(), local, far, window);
                        let mut asking = asking.unwrap();
                        let event = drive(&mut asking, number as u32, Duration::from_secs(3));
                        (event == Some(Event::Agreed)).then_some(number)
                    })
                })
            })
            .collect();
        let said: BTreeSet<usize> = clients
            .into_iter()
            .filter_map(|c| c.join().unwrap())
            .collect();
        stop.store(true, Ordering::Relaxed);
        let heard: BTreeSet<usize> = servers
            .into_iter()
            .flat_map(|s| s.join().unwrap())
            .collect();
        (said, heard)
    });
    assert!(said.is_subset(&heard), "{said:?} {heard:?}");
    assert!(!said.is_empty(), "the machine is too busy");
}

/// Accepts until told to stop; the numbers of the clients with which it agreed.
fn serve(hosts: &Hosts, listener: &Socket, stop: &AtomicBool) -> Vec<usize> {
    listener.set_nonblocking(true).unwrap();
    let mut agreed = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut server, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        server.set_nonblocking(false).unwrap();
        let (local, far) = (address(&server), peer_address(&server));
        let syn = syn::saved(server.as_fd()).unwrap();
        let called = enter(&hosts.server, || call(&server, local, far, syn));
        // On a busy machine a client may be too late.
        let Ok((early, _calling)) = called else {
            continue;
        };
        let number = early as usize;
        let mut sent = vec![0; number];
        server.read_exact(&mut sent).unwrap();
        assert!(sent.iter().all(|byte| usize::from(*byte) == number));
        let more = sys::recv(server.as_fd(), &mut [0], libc::MSG_DONTWAIT);
        assert!(!matches!(more, Ok(1..)), "more came than was said");
        agreed.push(number);
    }
    agreed
}

/// Somebody else has the client's port number, or sends nonsense: TCP, and no harm.
#[test]
fn strangers_on_the_port() {
    let Some(hosts) = Hosts::new() else { return };
    let mut connection = hosts.connected(Family::V4, true);
    let syn = connection.syn();
    let (local, far) = (
        address(&connection.client),
        peer_address(&connection.client),
    );
    let squatter = enter(&hosts.client, || UdpSocket::bind(local).unwrap());
    assert_eq!(connection.ask(&hosts.client).unwrap_err(), Errno::ADDRINUSE);
    // It answers with nonsense, as fast as it can.
    let stop = AtomicBool::new(false);
    let refusal = std::thread::scope(|scope| {
        scope.spawn(|| {
            let to = SocketAddr::new(far.ip(), local.port());
            while !stop.load(Ordering::Relaxed) {
                let _ = squatter.send_to(&[0x55; 32], to);
                let _ = squatter.send_to(b"SMCRASK\x01\x03", to);
            }
        });
        let began = Instant::now();
        let refusal = connection.call(&hosts.server, syn).unwrap_err();
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
        stop.store(true, Ordering::Relaxed);
        refusal
    });
    assert_eq!(refusal, Refusal::Unheard);
    connection.is_plain();
    // The same at the server's end.
    let mut connection = hosts.connected(Family::V4, true);
    let syn = connection.syn();
    let number = address(&connection.client).port();
    let _squatter = enter(&hosts.server, || {
        UdpSocket::bind(("0.0.0.0", number)).unwrap()
    });
    let refusal = connection.call(&hosts.server, syn).unwrap_err();
    assert_eq!(refusal, Refusal::System(Errno::ADDRINUSE));
    connection.is_plain();
}

/// A client that went away is not waited for.
#[test]
fn a_dead_client_is_not_called() {
    let Some(hosts) = Hosts::new() else { return };
    let connection = hosts.connected(Family::V4, true);
    let syn = connection.syn();
    drop(connection.client);
    let (local, far) = (
        address(&connection.server),
        peer_address(&connection.server),
    );
    let called = enter(&hosts.server, || call(&connection.server, local, far, syn));
    assert_eq!(called.unwrap_err(), Refusal::Stopped);
}
