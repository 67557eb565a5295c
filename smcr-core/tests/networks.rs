//! The signal of configured networks between two network namespaces, over a pair of veth devices.
//! Needs root.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use smcr_core::rendezvous::syn::{self, Syn, Window};
use smcr_core::signal::networks::client::Event;
use smcr_core::signal::networks::{self, Agreed, Asking, Refusal};
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

    fn call(&self, host: &File, syn: Syn) -> Result<Agreed, Refusal> {
        let (local, peer) = (address(&self.server), peer_address(&self.server));
        enter(host, || {
            networks::call(self.server.as_fd(), local, peer, syn)
        })
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

#[test]
fn two_hosts_agree() {
    let Some(hosts) = Hosts::new() else { return };
    for family in Family::ALL {
        for late in [Duration::ZERO, Duration::from_millis(5)] {
            let mut connection = hosts.connected(family, true);
            connection.client.write_all(b"abc").unwrap();
            let syn = connection.syn();
            let (event, agreed) = std::thread::scope(|scope| {
                let asking = scope.spawn(|| {
                    std::thread::sleep(late);
                    let mut asking = connection.ask(&hosts.client).unwrap();
                    let event = drive(&mut asking, 3, Duration::from_secs(2));
                    (event, asking)
                });
                let began = Instant::now();
                let agreed = connection.call(&hosts.server, syn).unwrap();
                assert!(began.elapsed() < Duration::from_millis(150));
                let (event, asking) = asking.join().unwrap();
                drop(asking);
                (event, agreed)
            });
            assert_eq!(event, Some(Event::Agreed));
            assert_eq!(agreed.early, 3);
            connection.client.write_all(b"CLC").unwrap();
            let mut heard = [0; 6];
            connection.server.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"abcCLC", "nothing of it was touched");
        }
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

/// A client that hints and cannot be reached, or a filter between.
#[test]
fn nobody_answers() {
    let Some(hosts) = Hosts::new() else { return };
    for family in Family::ALL {
        let mut connection = hosts.connected(family, true);
        let syn = connection.syn();
        let began = Instant::now();
        let refusal = connection.call(&hosts.server, syn).unwrap_err();
        assert_eq!(refusal, Refusal::Unheard);
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

/// The client was called, and declines: at once, not after a deadline.
#[test]
fn the_client_stops() {
    let Some(hosts) = Hosts::new() else { return };
    let mut connection = hosts.connected(Family::V4, true);
    let syn = connection.syn();
    let mut asking = connection.ask(&hosts.client).unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| connection.call(&hosts.server, syn));
        let until = Instant::now() + Duration::from_secs(2);
        while asking.handle(Instant::now()) != Some(Event::Called) {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
        assert!(asking.stop());
        assert_eq!(call.join().unwrap().unwrap_err(), Refusal::Stopped);
    });
    connection.is_plain();
}

/// Go reached the client, which can be taken at its word no more; before, it can stop.
#[test]
fn a_stop_after_go_is_heard() {
    let Some(hosts) = Hosts::new() else { return };
    let connection = hosts.connected(Family::V6, true);
    let syn = connection.syn();
    let mut asking = connection.ask(&hosts.client).unwrap();
    let mut agreed = std::thread::scope(|scope| {
        let call = scope.spawn(|| connection.call(&hosts.server, syn));
        let until = Instant::now() + Duration::from_secs(2);
        while asking.handle(Instant::now()) != Some(Event::Called) {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
        asking.commit(0, Instant::now());
        call.join().unwrap().unwrap()
    });
    assert!(!agreed.is_stopped(Instant::now()));
    // Go waits in the client's socket; it was not read yet.
    assert!(asking.stop());
    let until = Instant::now() + Duration::from_secs(2);
    while !agreed.is_stopped(Instant::now()) {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    assert_eq!(asking.handle(Instant::now()), Some(Event::Ended));
    assert_eq!(asking.handle(Instant::now()), None, "Go comes too late");
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
    let stop = std::sync::atomic::AtomicBool::new(false);
    let found: usize = std::thread::scope(|scope| {
        let servers: Vec<_> = listeners
            .iter()
            .map(|listener| {
                let (hosts, stop) = (&hosts, &stop);
                listener.set_nonblocking(true).unwrap();
                scope.spawn(move || {
                    let mut count = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let Ok((mut server, _)) = listener.accept() else {
                            std::thread::sleep(Duration::from_millis(1));
                            continue;
                        };
                        server.set_nonblocking(false).unwrap();
                        let (local, far) = (address(&server), peer_address(&server));
                        let syn = syn::saved(server.as_fd()).unwrap();
                        let agreed = enter(&hosts.server, || {
                            networks::call(server.as_fd(), local, far, syn)
                        });
                        let mut sent = vec![0; agreed.unwrap().early as usize];
                        server.read_exact(&mut sent).unwrap();
                        assert!(sent.iter().all(|byte| usize::from(*byte) == sent.len()));
                        server.set_nonblocking(true).unwrap();
                        assert!(server.read(&mut [0]).is_err(), "more came than was said");
                        count += 1;
                    }
                    count
                })
            })
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
                        let event = drive(&mut asking, number as u32, Duration::from_secs(10));
                        assert_eq!(event, Some(Event::Agreed));
                        client
                    })
                })
            })
            .collect();
        let open: Vec<_> = clients.into_iter().map(|c| c.join().unwrap()).collect();
        std::thread::sleep(Duration::from_millis(50));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let found = servers.into_iter().map(|s| s.join().unwrap()).sum();
        drop(open);
        found
    });
    assert_eq!(found, COUNT);
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
    let stop = std::sync::atomic::AtomicBool::new(false);
    let refusal = std::thread::scope(|scope| {
        scope.spawn(|| {
            let to = SocketAddr::new(far.ip(), local.port());
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
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
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
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
    let began = Instant::now();
    let called = enter(&hosts.server, || {
        networks::call(connection.server.as_fd(), local, far, syn)
    });
    assert_eq!(called.unwrap_err(), Refusal::Stopped);
    assert!(
        began.elapsed() < Duration::from_millis(15),
        "{:?}",
        began.elapsed()
    );
    let _ = sys::poll_one(connection.server.as_fd(), libc::POLLIN, Some(0));
}
