//! The engine under test.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::*;
use crate::config::Config;
use crate::conn::io::Slices;
use crate::conn::{Arming, Smc};
use crate::engine::Phase;
use crate::rdma::fabric::Port;
use crate::rdma::sim::{SimConfig, SimNet, SimPort};

/// See the module's description.
pub(super) struct Bench {
    pub(super) engine: &'static Engine,
    pub(super) net: SimNet,
    /// The engine's.
    pub(super) port: Arc<SimPort>,
    listener: TcpListener,
    conns: Vec<Arc<Connection>>,
    /// Added to the clock that the wire sees, and the handshakes do not.
    pub(super) later: Duration,
}

/// A connection of the engine's.
pub(super) struct Conn {
    pub(super) connection: Arc<Connection>,
    pub(super) end: OwnedFd,
    /// The engine's TCP socket: it would be the program's.
    _tcp: TcpStream,
}

impl Bench {
    pub(super) fn new(config: SimConfig) -> Self {
        Self::with("ueid = TEST\nring_size = 16K\n", config)
    }

    pub(super) fn with(text: &str, config: SimConfig) -> Self {
        let net = SimNet::new(config, 1);
        let port = net.port("sim0/1");
        let config = Config::parse(text, Path::new("test")).unwrap();
        let mut engine = Engine::new(Arc::new(config)).unwrap();
        let dynamic: Arc<dyn Port> = port.clone();
        engine
            .wire
            .choice
            .fix(&dynamic, port.gids(), &engine.config);
        Self {
            // Programs' ends refer to it, as in a process.
            engine: Box::leak(Box::new(engine)),
            net,
            port,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            conns: Vec::new(),
            later: Duration::ZERO,
        }
    }

    /// A TCP connection whose engine's end has that role: what the peer has of it, and ours.
    pub(super) fn connect(&mut self, role: Role) -> (Talk, Conn) {
        let theirs = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (ours, _) = self.listener.accept().unwrap();
        let addresses = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
        let made = self
            .engine
            .pending_rdma(ours.as_fd(), role, addresses, Step::Begin, None);
        let Connecting {
            connection,
            pending,
            end,
        } = made.unwrap();
        connection.begin(pending);
        connection.set_nonblocking(true);
        // As `watch_rdma` does, in the program's call.
        let at_once = self.engine.begin_at_once(&connection, Instant::now());
        assert!(at_once, "the port is open");
        self.conns.push(Arc::clone(&connection));
        let conn = Conn {
            connection,
            end,
            _tcp: ours,
        };
        (Talk::new(theirs), conn)
    }

    /// Does what the thread does when something happened.
    pub(super) fn look_after(&mut self) {
        let (news, _) = self
            .engine
            .wire
            .rdma
            .look_after(Instant::now() + self.later);
        for item in news {
            for connection in &self.conns {
                self.engine.step(connection, Some(item));
            }
        }
        for connection in &self.conns {
            self.engine.step(connection, None);
        }
    }

    /// Lets things happen until `done`.
    pub(super) fn until(&mut self, peers: &mut [&mut Peer], mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(5);
        while !done() {
            assert!(Instant::now() < end, "nothing more happens");
            self.run(peers);
        }
    }

    /// Lets a little happen.
    pub(super) fn run(&mut self, peers: &mut [&mut Peer]) {
        for _ in 0..8 {
            self.net.advance_by(Duration::from_micros(50));
            for peer in peers.iter_mut() {
                peer.answer();
            }
            self.look_after();
        }
    }

    /// A connection that is over is not looked at any more.
    pub(super) fn forget(&mut self, conn: &Conn) {
        let is = |known: &Arc<Connection>| Arc::ptr_eq(known, &conn.connection);
        self.conns.retain(|known| !is(known));
    }

    /// Groups that wait for their link to be confirmed.
    pub(super) fn is_starting(&self, peer: &Peer, role: Role) -> bool {
        self.engine.wire.rdma.lock().is_starting(&peer.key(role))
    }

    /// Lets the time pass in which what ended is kept.
    pub(super) fn wait_for_the_end(&mut self) {
        self.later += Duration::from_secs(1);
        self.look_after();
        self.look_after();
    }
}

impl Conn {
    pub(super) fn phase(&self) -> Phase {
        self.connection.phase()
    }

    pub(super) fn smc(&self) -> &Smc {
        self.connection.smc().expect("it moved")
    }

    /// Sends what fits.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let iov = [libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        }];
        // SAFETY: a source only reads, and `bytes` outlives it.
        let mut source = unsafe { Slices::new(&iov) }?;
        self.smc()
            .send(self.end.as_fd(), &mut source, libc::MSG_DONTWAIT)
    }

    /// Receives what is there, up to a page.
    pub(super) fn receive(&self) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0u8; 4096];
        let iov = [libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        }];
        // SAFETY: `bytes` outlives the sink, and nobody else uses it meanwhile.
        let mut sink = unsafe { Slices::new(&iov) }?;
        let end = self.end.as_fd();
        let received = self
            .smc()
            .recv(end, &mut sink, libc::MSG_DONTWAIT, Arming::Now)?;
        bytes.truncate(received.bytes);
        Ok(bytes)
    }
}
