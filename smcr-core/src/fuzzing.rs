//! What a fuzzer calls: one function per thing that reads what a peer wrote. Each takes any bytes
//! and panics if a promise is broken.
//!
//! Not part of the API. `cargo test` runs them over seeded mutations of known messages.

mod wire;

pub use wire::{cdc, llc_flow, llc_message};

use std::time::{Duration, Instant};

use crate::Reason;
use crate::clc::{DmbToken, Header, HostName, Message, PeerId, RmbeIndex, RmbeSize};
use crate::handshake::shm::{Identity, Shm, ShmEids, ShmGid, ShmHost, ShmLocal, ShmOffer};
use crate::handshake::{Event, HandshakeError, MAX_NEEDED, Phase, ShmClient, ShmServer, Timeouts};

/// Parses `data` as one CLC message. What parses can be said again, and then means the same.
pub fn clc_message(data: &[u8]) {
    let Ok(message) = Message::parse(data) else {
        return;
    };
    let bytes = message.emit();
    assert!(
        bytes.len() <= data.len(),
        "only what is not understood may get lost"
    );
    assert_eq!(Message::parse(&bytes).as_ref(), Ok(&message));
}

/// Runs a handshake whose peer says `data`. The first four bytes tell which side we are (bit 0), when
/// the owner declines (bits 1..=3), in which pieces the rest arrives, and the steps of the clock.
pub fn clc_handshake(data: &[u8]) {
    let Some((&[setup, piece, clock, _], mut stream)) = data.split_first_chunk() else {
        return;
    };
    let mut now = Instant::now();
    let mut machine = Machine::new(setup & 1 == 0, now);
    let mut declines_in = setup >> 1 & 7;
    loop {
        if declines_in == 1 {
            machine.decline();
        }
        declines_in = declines_in.saturating_sub(1);
        if let Some(bytes) = machine.transmit() {
            assert!(
                Message::parse(&bytes).is_ok(),
                "we say only what we would understand"
            );
        }
        while let Some(event) = machine.event() {
            machine.answer(&event, now);
        }
        let needed = machine.needed();
        assert!(needed <= MAX_NEEDED);
        assert!(needed > 0 || !matches!(machine.phase(), Phase::Expecting(_)));
        let len = usize::from(piece % 64 + 1).min(stream.len());
        now += Duration::from_millis(u64::from(clock) * 8);
        match machine.bytes(&stream[..len], now) {
            Ok(taken) => {
                assert!(taken <= len);
                if taken < needed.min(len) || (needed == 0 && taken > 0) {
                    panic!("took {taken} of {len}, needed {needed}");
                }
                if taken == 0 {
                    return;
                }
                stream = &stream[taken..];
            }
            Err(error) => {
                assert_eq!((machine.phase(), machine.needed()), (Phase::Failed, 0));
                assert_eq!(machine.bytes(b"x", now), Err(error));
                assert_eq!((machine.transmit(), machine.event()), (None, None));
                return;
            }
        }
    }
}

enum Machine {
    Client(ShmClient),
    Server(ShmServer),
}

impl Machine {
    const LOCAL: ShmLocal = ShmLocal {
        gid: ShmGid([0x11; 16]),
        token: DmbToken(1),
        index: RmbeIndex::new(1).expect("not zero"),
        size: RmbeSize::MIN,
    };

    fn new(is_client: bool, now: Instant) -> Self {
        let identity = Identity {
            peer_id: PeerId([1; 8]),
            gid: Self::LOCAL.gid,
            host_name: HostName::default(),
        };
        let eids = ShmEids::default();
        if is_client {
            Self::Client(ShmClient::new(
                ShmOffer { identity, eids },
                Timeouts::default(),
                now,
            ))
        } else {
            Self::Server(ShmServer::new(
                ShmHost { identity, eids },
                Timeouts::default(),
                now,
            ))
        }
    }

    fn answer(&mut self, event: &Event<Shm>, now: Instant) {
        // Fails if the owner declined in the meantime, as it may.
        let _ = match (self, event) {
            (Self::Client(client), Event::Accepted(_)) => client.confirm(Self::LOCAL),
            (Self::Server(server), Event::Proposed(proposed)) => {
                server.accept(Self::LOCAL, proposed.gid.0[0] & 1 == 0, now)
            }
            _ => Ok(()),
        };
    }

    fn decline(&mut self) {
        let before = self.phase();
        let declined = match self {
            Self::Client(client) => client.decline(Reason::Memory),
            Self::Server(server) => server.decline(Reason::Memory),
        };
        assert!(declined.is_ok() || before == self.phase());
    }

    fn bytes(&mut self, bytes: &[u8], now: Instant) -> Result<usize, HandshakeError> {
        match self {
            Self::Client(client) => client.handle_bytes(bytes, now),
            Self::Server(server) => server.handle_bytes(bytes, now),
        }
    }

    fn transmit(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Client(client) => client.poll_transmit(),
            Self::Server(server) => server.poll_transmit(),
        }
    }

    fn event(&mut self) -> Option<Event<Shm>> {
        match self {
            Self::Client(client) => client.poll_event(),
            Self::Server(server) => server.poll_event(),
        }
    }

    fn needed(&self) -> usize {
        match self {
            Self::Client(client) => client.needed(),
            Self::Server(server) => server.needed(),
        }
    }

    fn phase(&self) -> Phase {
        match self {
            Self::Client(client) => client.phase(),
            Self::Server(server) => server.phase(),
        }
    }
}

const _: () = assert!(MAX_NEEDED >= Header::LEN);

#[cfg(test)]
mod tests;
