//! Network namespaces, and a path between two of them on which we are the middlebox.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::packet::Packet;

/// A network namespace; gone when nothing is in it any more.
pub(crate) struct Namespace(File);

impl Namespace {
    /// Makes one, its loopback device up.
    pub(crate) fn new() -> Self {
        let made = std::thread::spawn(|| {
            // SAFETY: takes flags; concerns this thread only, which makes no use of others' state.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "unshare");
            Self(File::open("/proc/thread-self/ns/net").unwrap())
        });
        let made = made.join().unwrap();
        made.enter(|| ip("link set lo up"));
        made
    }

    /// Runs `work` in a thread that is in the namespace.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: an open descriptor of a namespace; concerns this thread only.
                let entered = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "setns");
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets a sysctl of the namespace.
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/ipv4/{name}");
        self.enter(|| std::fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}")));
    }
}

fn ip(arguments: &str) {
    let run = Command::new("ip")
        .args(arguments.split_whitespace())
        .output();
    let run = run.expect("ip(8) of iproute2 is needed");
    let error = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "ip {arguments}: {error}");
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

/// What the middlebox does with a packet, which it may change: false drops it.
pub(crate) type Fault = Box<dyn FnMut(Way, &mut Packet) -> bool + Send>;

/// Two namespaces, and between them a path. Everything that was sent into it is kept.
pub(crate) struct Path {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    sent: Arc<Mutex<Vec<(Way, Packet)>>>,
    stop: Option<OwnedFd>,
    box_: Option<JoinHandle<()>>,
}

impl Path {
    pub(crate) const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
    pub(crate) const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2));

    pub(crate) fn new(fault: Fault) -> Self {
        let (client, server) = (Namespace::new(), Namespace::new());
        let ends = [client.enter(|| tun(1)), server.enter(|| tun(2))];
        let sent = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = rustix::pipe::pipe().unwrap();
        let record = Arc::clone(&sent);
        let box_ = std::thread::spawn(move || forward(ends, &stop, fault, &record));
        Self {
            client,
            server,
            sent,
            stop: Some(stopped),
            box_: Some(box_),
        }
    }

    pub(crate) fn clear() -> Self {
        Self::new(Box::new(|_, _| true))
    }

    /// The TCP packets sent so far, as they were before the middlebox had them.
    pub(crate) fn sent(&self) -> Vec<(Way, Packet)> {
        self.sent.lock().unwrap().clone()
    }

    /// Of the SYNs (or, `ToClient`, the SYN-ACKs) sent so far: whether they had the option.
    pub(crate) fn options(&self, way: Way) -> Vec<bool> {
        let sent = self.sent();
        let syns = sent.iter().filter(|(w, p)| *w == way && p.is_syn());
        syns.map(|(_, packet)| packet.option().is_some()).collect()
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.box_.take().map(JoinHandle::join);
    }
}

/// A TUN device in this thread's namespace, up and with the addresses of host number `host`.
fn tun(host: u8) -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    let file = file.expect("/dev/net/tun is needed");
    let mut request = [0u8; 40];
    request[..4].copy_from_slice(b"path");
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the request is a `struct ifreq`, which has 40 bytes.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(made, 0, "TUNSETIFF");
    ip(&format!("addr add 10.77.0.{host}/24 dev path"));
    ip(&format!("addr add fd77::{host}/64 dev path nodad"));
    ip("link set path up");
    wait_until_reachable(IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, host.into()]));
    file
}

/// The kernel makes an IPv6 address usable some time after the command returned; until then it
/// drops what comes for it.
fn wait_until_reachable(own: IpAddr) {
    let until = Instant::now() + Duration::from_secs(10);
    let reaches_itself = || -> std::io::Result<()> {
        let socket = UdpSocket::bind((own, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        socket.send_to(b"x", socket.local_addr()?)?;
        socket.recv(&mut [0]).map(drop)
    };
    while let Err(error) = reaches_itself() {
        assert!(Instant::now() < until, "{own}: {error}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn forward(ends: [File; 2], stop: &OwnedFd, mut fault: Fault, record: &Mutex<Vec<(Way, Packet)>>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let mut ready = [
            PollFd::new(&ends[0], PollFlags::IN),
            PollFd::new(&ends[1], PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        if rustix::event::poll(&mut ready, None).is_err() {
            continue;
        }
        let [client, server, stop] = ready.map(|fd| !fd.revents().is_empty());
        if stop {
            return;
        }
        for (way, is_ready) in [(Way::ToServer, client), (Way::ToClient, server)] {
            if !is_ready {
                continue;
            }
            let (mut from, mut to) = match way {
                Way::ToServer => (&ends[0], &ends[1]),
                Way::ToClient => (&ends[1], &ends[0]),
            };
            let len = from.read(&mut buffer).unwrap_or(0);
            let Some(mut packet) = Packet::parse(&buffer[..len]) else {
                // Not TCP: neighbour discovery and the like.
                let _ = to.write(&buffer[..len]);
                continue;
            };
            record.lock().unwrap().push((way, packet.clone()));
            if fault(way, &mut packet) {
                let _ = to.write(packet.bytes());
            }
        }
    }
}

/// Runs `work` in a thread with the rights of nobody, in the namespace of this one.
pub(crate) fn as_nobody<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result): (_, Receiver<T>) = channel();
    let thread = std::thread::spawn(move || {
        const NOBODY: libc::c_long = 65534;
        // SAFETY: takes numbers. The system call, unlike libc's function, concerns this thread
        // only; it leaves without rights and ends so.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        assert_eq!(changed, 0, "setresuid");
        let _ = done.send(work());
    });
    let value = result.recv();
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    value.unwrap()
}
