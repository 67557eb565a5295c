//! Two machines and the stream between them.

use super::*;

pub(super) struct Pair {
    pub(super) client: RdmaClient,
    pub(super) server: RdmaServer,
    pub(super) to_server: Vec<u8>,
    pub(super) to_client: Vec<u8>,
    pub(super) client_events: Vec<Event<Rdma>>,
    pub(super) server_events: Vec<Event<Rdma>>,
    pub(super) now: Instant,
    /// The most that the stream delivers at a time.
    piece: usize,
}

impl Pair {
    pub(super) fn new(client: RdmaEnd, server: RdmaEnd, piece: usize) -> Self {
        let now = Instant::now();
        Self {
            client: RdmaClient::new(client, Timeouts::default(), now),
            server: RdmaServer::new(server, Timeouts::default(), now),
            to_server: Vec::new(),
            to_client: Vec::new(),
            client_events: Vec::new(),
            server_events: Vec::new(),
            now,
            piece,
        }
    }

    /// Puts what the two say on the wire, without delivering it.
    pub(super) fn send(&mut self) {
        self.to_server
            .extend(self.client.poll_transmit().unwrap_or_default());
        self.to_client
            .extend(self.server.poll_transmit().unwrap_or_default());
        self.client_events
            .extend(std::iter::from_fn(|| self.client.poll_event()));
        self.server_events
            .extend(std::iter::from_fn(|| self.server.poll_event()));
    }

    /// Moves bytes until neither side wants any more of what is there.
    pub(super) fn run(&mut self) {
        loop {
            self.send();
            let to_server = self
                .piece
                .min(self.server.needed())
                .min(self.to_server.len());
            let to_client = self
                .piece
                .min(self.client.needed())
                .min(self.to_client.len());
            let pieces = (
                self.to_server.drain(..to_server).collect::<Vec<_>>(),
                self.to_client.drain(..to_client).collect::<Vec<_>>(),
            );
            assert_eq!(self.server.handle_bytes(&pieces.0, self.now), Ok(to_server));
            assert_eq!(self.client.handle_bytes(&pieces.1, self.now), Ok(to_client));
            let peeked = self.peek();
            if to_server + to_client + peeked == 0 {
                self.send();
                return;
            }
        }
    }

    /// What an owner does in [`Phase::Crossing`].
    fn peek(&mut self) -> usize {
        let mut discarded = 0;
        if self.client.phase() == Phase::Crossing && !self.to_client.is_empty() {
            let seen = self.to_client.len().min(MAX_PEEKED);
            if let Peeked::Discard(len) = self.client.handle_peeked(&self.to_client[..seen]) {
                self.to_client.drain(..len);
                discarded += len;
            }
        }
        if self.server.phase() == Phase::Crossing && !self.to_server.is_empty() {
            let seen = self.to_server.len().min(MAX_PEEKED);
            if let Peeked::Discard(len) = self.server.handle_peeked(&self.to_server[..seen]) {
                self.to_server.drain(..len);
                discarded += len;
            }
        }
        discarded
    }

    /// Both timers, where they are due.
    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.client.handle_timeout(self.now).unwrap();
        self.server.handle_timeout(self.now).unwrap();
        self.run();
    }

    pub(super) fn version(&self) -> Version {
        let Some(Event::Proposed(proposed)) = self.server_events.first() else {
            panic!("{:?}", self.server_events)
        };
        proposed.settled.version
    }

    pub(super) fn accept(&mut self, contact: Contact) {
        let local = endpoint(SERVER_ID, self.version());
        self.server.accept(&local, contact, self.now).unwrap();
        self.run();
    }

    pub(super) fn confirm(&mut self) {
        let local = endpoint(CLIENT_ID, self.version());
        self.client.confirm(&local, self.now).unwrap();
        self.run();
    }

    /// Up to the LLC phase.
    pub(super) fn linking(piece: usize) -> Self {
        let mut pair = Self::new(end(CLIENT_ID), end(SERVER_ID), piece);
        pair.run();
        pair.accept(FIRST);
        pair.confirm();
        assert_eq!(
            (pair.client.phase(), pair.server.phase()),
            (Phase::Linking, Phase::Linking)
        );
        pair
    }

    pub(super) fn phases(&self) -> (Phase, Phase) {
        (self.client.phase(), self.server.phase())
    }

    /// Both ways the application's data come out right behind what the handshake took.
    pub(super) fn assert_tcp(&mut self) {
        assert_eq!(self.phases(), (Phase::Tcp, Phase::Tcp));
        assert_eq!(
            (self.client.poll_timeout(), self.server.poll_timeout()),
            (None, None)
        );
        self.to_server.extend(b"request");
        self.to_client.extend(b"response");
        self.run();
        assert_eq!(
            (&self.to_server[..], &self.to_client[..]),
            (&b"request"[..], &b"response"[..])
        );
    }

    pub(super) fn last_events(&self) -> (&Event<Rdma>, &Event<Rdma>) {
        (
            self.client_events.last().unwrap(),
            self.server_events.last().unwrap(),
        )
    }
}

pub(super) fn declined(reason: Reason) -> Event<Rdma> {
    Event::Declined {
        code: reason.into(),
        out_of_sync: reason == Reason::OutOfSync,
    }
}

pub(super) fn refused(reason: Reason) -> Event<Rdma> {
    Event::Refused { reason }
}
