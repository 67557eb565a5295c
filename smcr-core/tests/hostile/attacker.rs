//! A peer on the same host that plays the protocol by hand and breaks it where a test says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use smcr_core::clc::{DmbToken, HostName, PeerId, RmbeIndex, RmbeSize};
use smcr_core::conn::bell;
use smcr_core::handshake::shm::{Identity, ShmBuffer, ShmEids, ShmGid, ShmHost, ShmOffer};
use smcr_core::handshake::{Event, ShmClient, ShmServer, Timeouts};
use smcr_core::rendezvous::messages::{self, Message, RmbInfo};
use smcr_core::rendezvous::names::{self, CallListener, Presence};
use smcr_core::rendezvous::syn;
use smcr_core::shm::{Geometry, Rmb};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Far more than any step takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn identity() -> Identity {
    Identity {
        peer_id: PeerId([9; 8]),
        gid: ShmGid([0xa7; 16]),
        host_name: HostName::new(b"evil"),
    }
}

/// An RMB of the attacker's, with one RMBE.
pub(crate) fn rmb() -> Arc<Rmb> {
    static TOKEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1 << 40);
    let token = TOKEN.fetch_add(1, Ordering::Relaxed);
    let geometry = Geometry::new(2, 64 << 10).unwrap();
    Rmb::create(geometry, token).unwrap()
}

pub(crate) fn info(rmb: &Rmb) -> RmbInfo {
    RmbInfo {
        token: rmb.token(),
        geometry: rmb.geometry(),
    }
}

/// How an RMBE of the attacker's is named in CLC messages; `index` counts from 1.
pub(crate) fn buffer(rmb: &Rmb, index: u8) -> ShmBuffer {
    ShmBuffer {
        gid: identity().gid,
        token: DmbToken(rmb.token()),
        index: RmbeIndex::new(index).unwrap(),
        size: RmbeSize::holding(rmb.geometry().rmbe_size as usize).unwrap(),
    }
}

pub(crate) fn until<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match look() {
            None if Instant::now() < end => std::thread::sleep(Duration::from_micros(200)),
            found => return found,
        }
    }
}

pub(crate) fn hear(channel: &OwnedFd) -> Option<(Message, Vec<OwnedFd>)> {
    until(|| match messages::recv(channel.as_fd()) {
        Err(rustix::io::Errno::AGAIN) => None,
        other => Some(other.ok()),
    })
    .flatten()
}

/// Raw bytes on the channel, with descriptors.
pub(crate) fn say_raw(channel: &OwnedFd, bytes: &[u8]) {
    let _ = rustix::net::send(channel, bytes, rustix::net::SendFlags::NOSIGNAL);
}

pub(crate) fn say(channel: &OwnedFd, message: &Message, fds: &[BorrowedFd<'_>]) {
    let _ = messages::send(channel.as_fd(), message, fds);
}

/// A client that has connected with the hint and bound its name, as the library does.
pub(crate) struct Client {
    pub(crate) tcp: TcpStream,
    pub(crate) listener: Option<CallListener>,
}

impl Client {
    pub(crate) fn connect(victim: SocketAddr) -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(syn::set_hint(socket.as_fd(), false));
        socket.connect(&victim.into()).unwrap();
        syn::clear_hint(socket.as_fd(), false, -1);
        let tcp = TcpStream::from(socket);
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let listener = CallListener::bind(tcp.local_addr().unwrap(), victim).unwrap();
        Self {
            tcp,
            listener: Some(listener),
        }
    }

    /// Takes the victim's call and its Hello.
    pub(crate) fn take_call(&self) -> OwnedFd {
        let listener = self.listener.as_ref().unwrap();
        let (channel, _) = until(|| listener.accept().ok()).expect("no call");
        assert!(matches!(hear(&channel), Some((Message::Hello { .. }, _))));
        channel
    }

    /// Commits as it should be, with the attacker's RMB. Returns the channel and the attacker's
    /// end of the readiness pair.
    pub(crate) fn commit(&self, rmb: &Rmb) -> (OwnedFd, OwnedFd) {
        let channel = self.take_call();
        let (end, theirs) = bell::pair().unwrap();
        let commit = commit(0, rmb);
        say(&channel, &commit, &[theirs.as_fd(), fd(rmb)]);
        (channel, end)
    }

    /// The whole handshake: everything is as it should be. Returns the attacker's end and the
    /// victim's RMB with the index (from 0) of the attacker's RMBE in it.
    pub(crate) fn shake_hands(mut self, rmb: &Rmb, index: u8) -> Connected {
        let (channel, end) = self.commit(rmb);
        let mut handshake = client_handshake();
        self.send(handshake.poll_transmit());
        let peer = loop {
            match handshake.poll_event() {
                Some(Event::Accepted(accepted)) => break accepted.peer,
                Some(event) => panic!("{event:?}"),
                None => {
                    let mut bytes = vec![0; handshake.needed()];
                    self.tcp.read_exact(&mut bytes).unwrap();
                    handshake.handle_bytes(&bytes, Instant::now()).unwrap();
                }
            }
        };
        let victims = victims_memory(&channel, peer.index.get());
        handshake.confirm(buffer(rmb, index)).unwrap();
        self.send(handshake.poll_transmit());
        Connected {
            end,
            victims,
            tcp: self.tcp,
        }
    }

    pub(crate) fn send(&mut self, bytes: Option<Vec<u8>>) {
        let _ = self.tcp.write_all(&bytes.unwrap_or_default());
    }
}

/// What an attacker has once the connection is up.
pub(crate) struct Connected {
    pub(crate) end: OwnedFd,
    /// The victim's RMB, and the RMBE in it that the attacker writes to.
    pub(crate) victims: (Arc<Rmb>, u8),
    #[allow(dead_code)]
    pub(crate) tcp: TcpStream,
}

pub(crate) fn commit(early: u32, rmb: &Rmb) -> Message {
    Message::Commit {
        early,
        gid: identity().gid.0,
        rmb: info(rmb),
        group: new_group(),
    }
}

/// One that the victim has passed no memory to.
pub(crate) fn new_group() -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// The memfd of an own RMB.
pub(crate) fn fd(rmb: &Rmb) -> BorrowedFd<'_> {
    rmb.fd()
}

pub(crate) fn client_handshake() -> ShmClient {
    let offer = ShmOffer {
        identity: identity(),
        eids: ShmEids::default(),
    };
    ShmClient::new(offer, Timeouts::default(), Instant::now())
}

pub(crate) fn server_handshake() -> ShmServer {
    let host = ShmHost {
        identity: identity(),
        eids: ShmEids::default(),
    };
    ShmServer::new(host, Timeouts::default(), Instant::now())
}

fn victims_memory(channel: &OwnedFd, index: u8) -> (Arc<Rmb>, u8) {
    let Some((Message::Memory { rmb }, mut fds)) = hear(channel) else {
        panic!("no memory message");
    };
    let memory = fds.pop().expect("no memory");
    let rmb = Rmb::from_peer(memory, rmb.geometry, rmb.token).unwrap();
    (rmb, index - 1)
}

/// A server that announces its port as the library does.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    _presence: Presence,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(syn::keep(listener.as_fd()));
        // The kernel keeps the SYNs that come after this.
        let port = listener.local_addr().unwrap().port();
        let presence = Presence::announce(port).unwrap();
        Self {
            listener,
            _presence: presence,
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Accepts the victim's connection and calls it, without a word.
    pub(crate) fn call(&self) -> Called {
        let (tcp, peer) = self.listener.accept().unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let tsval = syn::hinted(tcp.as_fd()).expect("no hint").tsval;
        let called = until(|| names::call(self.addr(), peer).ok());
        let (channel, _) = called.expect("no name");
        Called {
            tcp,
            channel,
            tsval,
        }
    }
}

/// A call on a victim that connected.
pub(crate) struct Called {
    pub(crate) tcp: TcpStream,
    pub(crate) channel: OwnedFd,
    pub(crate) tsval: u32,
}

/// What a victim committed to.
pub(crate) struct Committed {
    pub(crate) tcp: TcpStream,
    pub(crate) channel: OwnedFd,
    pub(crate) end: OwnedFd,
    pub(crate) memory: OwnedFd,
    pub(crate) rmb: RmbInfo,
}

impl Called {
    pub(crate) fn hello(&self, tsval: u32) {
        let gid = identity().gid.0;
        say(&self.channel, &Message::Hello { tsval, gid }, &[]);
    }

    /// Says Hello as it should be, and takes the Commit.
    pub(crate) fn committed(self) -> Committed {
        self.hello(self.tsval);
        let Some((Message::Commit { rmb, early, .. }, fds)) = hear(&self.channel) else {
            panic!("no commit");
        };
        assert_eq!(early, 0);
        let Ok([end, memory]) = <[OwnedFd; 2]>::try_from(fds) else {
            panic!("two descriptors");
        };
        Committed {
            tcp: self.tcp,
            channel: self.channel,
            end,
            memory,
            rmb,
        }
    }
}

impl Committed {
    /// Takes the Proposal; the handshake stands where the server decides.
    pub(crate) fn proposed(&mut self) -> ShmServer {
        let mut handshake = server_handshake();
        loop {
            match handshake.poll_event() {
                Some(Event::Proposed { .. }) => return handshake,
                Some(event) => panic!("{event:?}"),
                None => {
                    let mut bytes = vec![0; handshake.needed()];
                    self.tcp.read_exact(&mut bytes).unwrap();
                    handshake.handle_bytes(&bytes, Instant::now()).unwrap();
                }
            }
        }
    }

    pub(crate) fn send(&mut self, bytes: Option<Vec<u8>>) {
        let _ = self.tcp.write_all(&bytes.unwrap_or_default());
    }

    /// Ends the handshake as it should be: the attacker's RMBE `index`, from 1.
    pub(crate) fn accept(mut self, rmb: &Rmb, index: u8) -> Connected {
        let mut handshake = self.proposed();
        say(
            &self.channel,
            &Message::Memory { rmb: info(rmb) },
            &[fd(rmb)],
        );
        handshake
            .accept(buffer(rmb, index), true, Instant::now())
            .unwrap();
        self.send(handshake.poll_transmit());
        let peer = loop {
            match handshake.poll_event() {
                Some(Event::Confirmed(confirmed)) => break confirmed.peer,
                Some(event) => panic!("{event:?}"),
                None => {
                    let mut bytes = vec![0; handshake.needed()];
                    self.tcp.read_exact(&mut bytes).unwrap();
                    handshake.handle_bytes(&bytes, Instant::now()).unwrap();
                }
            }
        };
        let victims = Rmb::from_peer(self.memory, self.rmb.geometry, self.rmb.token).unwrap();
        Connected {
            end: self.end,
            victims: (victims, peer.index.get() - 1),
            tcp: self.tcp,
        }
    }
}
