//! What a fuzzer calls: one function per thing that reads what a peer wrote. Each takes any bytes
//! and panics if a promise is broken.
//!
//! Not part of the API. `cargo test` runs them over seeded mutations of known messages.

mod wire;

pub use wire::{cdc, llc_flow, llc_message};

use std::time::{Duration, Instant};

use arbitrary::Unstructured;

use crate::Reason;
use crate::clc::{
    Bounded, Capabilities, DmbToken, Eid, Gid, Header, HostName, Kind, Mac, Message, MtuCode,
    PeerId, Psn, QpNumber, RdmaEndpoint, Rkey, RmbeIndex, RmbeSize, Token,
};
use crate::close::{Actions, Close, CloseEvent, CloseState, CloseTimeouts};
use crate::handshake::rdma::{Contact, RdmaEnd, RdmaIdentity, Subnets, V1, V2};
use crate::handshake::shm::{Identity, ShmEids, ShmGid, ShmHost, ShmLocal, ShmOffer};
use crate::handshake::{
    Event, Fabric, Handshake, MAX_NEEDED, MAX_PEEKED, Peeked, Phase, RdmaClient, RdmaServer,
    ShmClient, ShmServer, Side, Timeouts,
};
use crate::rdma::sim::world::{Op, Totals, World};

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

/// Runs a handshake over shared memory whose peer says `data`. The first four bytes tell which side
/// we are (bit 0), when the owner declines (bits 1..=3), in which pieces the rest arrives, and the
/// steps of the clock; the fourth is not used.
pub fn clc_handshake(data: &[u8]) {
    let Some((setup, stream)) = Setup::split(data) else {
        return;
    };
    let identity = Identity {
        peer_id: PEER_ID,
        gid: LOCAL.gid,
        host_name: HostName::default(),
    };
    let eids = ShmEids::default();
    let (timeouts, now) = (Timeouts::default(), Instant::now());
    // The answers fail if the owner declined in the meantime, as it may.
    if setup.is_client {
        let client = ShmClient::new(ShmOffer { identity, eids }, timeouts, now);
        setup.run(client, now, stream, |client, event, _| {
            if let Event::Accepted(_) = event {
                let _ = client.confirm(LOCAL);
            }
        });
    } else {
        let server = ShmServer::new(ShmHost { identity, eids }, timeouts, now);
        setup.run(server, now, stream, |server, event, now| {
            if let Event::Proposed(proposed) = event {
                let _ = server.accept(LOCAL, proposed.gid.0[0] & 1 == 0, now);
            }
        });
    }
}

/// Runs a handshake of SMC-R whose peer says `data`. The first four bytes are as for
/// [`clc_handshake`]; the fourth tells what becomes of the link (bits 0..=1: nothing, confirmed,
/// failed, failed late), and of the contact (bit 2: later).
pub fn rdma_handshake(data: &[u8]) {
    let Some((setup, stream)) = Setup::split(data) else {
        return;
    };
    let (timeouts, now) = (Timeouts::default(), Instant::now());
    if setup.is_client {
        let client = RdmaClient::new(rdma_end(), timeouts, now);
        setup.run(client, now, stream, |client, event, now| {
            if let Event::Accepted(accepted) = event {
                let local = rdma_endpoint(accepted.settled.eid.is_some());
                let _ = client.confirm(&local, now);
            }
        });
    } else {
        let contact = match setup.is_later {
            true => Contact::Later,
            false => Contact::First { direct: true },
        };
        let server = RdmaServer::new(rdma_end(), timeouts, now);
        setup.run(server, now, stream, |server, event, now| {
            if let Event::Proposed(proposed) = event {
                let local = rdma_endpoint(proposed.settled.eid.is_some());
                let _ = server.accept(&local, contact, now);
            }
        });
    }
}

const PEER_ID: PeerId = PeerId([1; 8]);

const LOCAL: ShmLocal = ShmLocal {
    gid: ShmGid([0x11; 16]),
    token: DmbToken(1),
    index: RmbeIndex::new(1).expect("not zero"),
    size: RmbeSize::MIN,
};

/// Fits to the golden messages, so that mutations of them get far.
fn rdma_end() -> RdmaEnd {
    let eids = ["LIBSMCR-TEST", "A"].map(|name| Eid::new(name).expect("an enterprise ID"));
    RdmaEnd {
        identity: RdmaIdentity {
            peer_id: PEER_ID,
            host_name: HostName::default(),
        },
        mac: Mac([2; 6]),
        v1: Some(V1 {
            gid: rdma_endpoint(false).gid,
            subnets: Subnets::V4(vec![([192, 0, 2, 1].into(), 24)]),
        }),
        v2: Some(V2 {
            gid: rdma_endpoint(true).gid,
            ueids: Bounded::new(eids.to_vec()).expect("two are below the limit"),
            capabilities: Capabilities::release_1(255, 2, 0),
        }),
    }
}

fn rdma_endpoint(is_v2: bool) -> RdmaEndpoint {
    RdmaEndpoint {
        peer_id: PEER_ID,
        gid: Gid([1 + u8::from(is_v2); 16]),
        mac: Mac([2; 6]),
        qp_number: QpNumber::new(17).expect("24 bits"),
        rkey: Rkey(1),
        rmbe_index: LOCAL.index,
        token: Token(1),
        rmbe_size: LOCAL.size,
        mtu: MtuCode::new(3).expect("4 bits"),
        address: 0,
        psn: Psn::default(),
    }
}

/// What the fuzzer chooses apart from what the peer says.
struct Setup {
    is_client: bool,
    /// The owner declines in this step; 0: never.
    declines_in: u8,
    piece: usize,
    tick: Duration,
    link: u8,
    is_later: bool,
}

impl Setup {
    fn split(data: &[u8]) -> Option<(Self, &[u8])> {
        let (&[setup, piece, clock, link], stream) = data.split_first_chunk()?;
        let setup = Self {
            is_client: setup & 1 == 0,
            declines_in: setup >> 1 & 7,
            piece: usize::from(piece % 64 + 1),
            tick: Duration::from_millis(u64::from(clock) * 8),
            link: link & 3,
            is_later: link & 4 != 0,
        };
        Some((setup, stream))
    }

    fn run<F: Fabric, S: Side<F>>(
        &self,
        mut machine: Handshake<F, S>,
        mut now: Instant,
        mut stream: &[u8],
        mut answer: impl FnMut(&mut Handshake<F, S>, &Event<F>, Instant),
    ) {
        let mut declines_in = self.declines_in;
        let mut is_committed = false;
        loop {
            if declines_in == 1 {
                let before = machine.phase();
                let declined = machine.decline(Reason::Memory);
                assert!(declined.is_ok() || before == machine.phase());
            }
            declines_in = declines_in.saturating_sub(1);
            talk(&mut machine, now, is_committed, &mut answer);
            if machine.phase() == Phase::Linking {
                is_committed |= self.drive_link(&mut machine, now);
                talk(&mut machine, now, is_committed, &mut answer);
            }
            let is_waiting = matches!(
                machine.phase(),
                Phase::Expecting(_) | Phase::Linking | Phase::Crossing
            );
            assert_eq!(
                machine.poll_timeout().is_some(),
                is_waiting,
                "all waits are bounded"
            );
            let needed = machine.needed();
            assert!(needed <= MAX_NEEDED);
            assert!(needed > 0 || !matches!(machine.phase(), Phase::Expecting(_)));
            let len = self.piece.min(stream.len());
            now += self.tick;
            if machine.phase() == Phase::Crossing {
                let seen = &stream[..stream.len().min(MAX_PEEKED)];
                match machine.handle_peeked(seen) {
                    Peeked::Wait => break,
                    Peeked::Discard(taken) => stream = &stream[taken..],
                    Peeked::Leave => {}
                }
                assert_eq!(machine.phase(), Phase::Tcp);
                continue;
            }
            match machine.handle_bytes(&stream[..len], now) {
                Ok(taken) => {
                    assert!(taken <= len);
                    if taken < needed.min(len) || (needed == 0 && taken > 0) {
                        panic!("took {taken} of {len}, needed {needed}");
                    }
                    if taken == 0 {
                        break;
                    }
                    stream = &stream[taken..];
                }
                Err(error) => {
                    assert_eq!((machine.phase(), machine.needed()), (Phase::Failed, 0));
                    assert_eq!(machine.handle_bytes(b"x", now), Err(error));
                    assert_eq!(
                        (machine.poll_transmit(), machine.poll_event()),
                        (None, None)
                    );
                    return;
                }
            }
        }
        // The peer is silent: nothing waits for ever. One step for the message or the link, one for
        // the peer's Decline, one for ours that it may cross.
        for _ in 0..4 {
            let Some(deadline) = machine.poll_timeout() else {
                break;
            };
            now = now.max(deadline);
            let _ = machine.handle_timeout(now);
            talk(&mut machine, now, is_committed, &mut answer);
        }
        assert_eq!(machine.poll_timeout(), None);
        assert_eq!(machine.needed(), 0);
    }

    /// Whether our CONFIRM LINK was sent.
    fn drive_link<F: Fabric, S: Side<F>>(
        &self,
        machine: &mut Handshake<F, S>,
        now: Instant,
    ) -> bool {
        // They fail where the link failed before.
        let (is_sent, _) = match self.link {
            1 => (machine.confirm_link_sent().is_ok(), machine.llc_done()),
            2 => (false, machine.llc_failed(Reason::LinkFailed, now)),
            3 => (
                machine.confirm_link_sent().is_ok(),
                machine.llc_failed(Reason::LinkTimeout, now),
            ),
            _ => (false, Ok(())),
        };
        is_sent
    }
}

/// Does what an owner does after each call.
fn talk<F: Fabric, S: Side<F>>(
    machine: &mut Handshake<F, S>,
    now: Instant,
    is_committed: bool,
    answer: &mut impl FnMut(&mut Handshake<F, S>, &Event<F>, Instant),
) {
    loop {
        if let Some(bytes) = machine.poll_transmit() {
            let message = Message::parse(&bytes).expect("we say only what we would understand");
            assert!(
                !is_committed || message.kind() != Kind::Decline,
                "no Decline behind a CONFIRM LINK"
            );
        }
        match machine.poll_event() {
            Some(event) => answer(machine, &event, now),
            None => break,
        }
    }
}

const _: () = assert!(MAX_NEEDED >= Header::LEN);

/// Two engines over a simulated network. `data` are a seed for what is left to chance there, and
/// [operations](Op): what programs do, and what breaks. Returns what came of them.
pub fn rdma_ops(data: &[u8]) -> Totals {
    let mut data = Unstructured::new(data);
    let mut world = World::new(data.arbitrary().unwrap_or(0));
    world.act(Op::Open);
    while !data.is_empty()
        && let Ok(op) = data.arbitrary()
    {
        world.act(op);
    }
    world.finish()
}

/// The end of a connection, as `data` has it: a byte for each thing that happens, the lowest four
/// bits of which say what. Whatever order they come in, it frees its element once, says no more than
/// it may, and waits for nothing for ever.
pub fn close(data: &[u8]) {
    let mut now = Instant::now();
    let mut close = Close::new(CloseTimeouts::default());
    let mut was_freed = false;
    let mut check = |close: &Close, before: CloseState, actions: Actions| {
        let frees = actions.has(Actions::FREE) || actions.has(Actions::FREE_UNCONFIRMED);
        assert_eq!(
            frees,
            close.state() == CloseState::Closed && before != CloseState::Closed
        );
        assert!(!(frees && was_freed), "freed twice");
        assert!(!was_freed || actions.is_empty(), "something is left to do");
        was_freed |= frees;
        assert_eq!(
            close.poll_timeout().is_some(),
            close.state().timer().is_some()
        );
    };
    for byte in data {
        let before = close.state();
        let actions = match usize::from(byte & 0x0f) {
            event if event < CloseEvent::ALL.len() => close.handle(CloseEvent::ALL[event], now),
            13 => {
                close.restart_timer(now);
                Actions::NONE
            }
            _ => {
                now += Duration::from_secs(u64::from(byte >> 4) * 8);
                close.handle_timeout(now)
            }
        };
        check(&close, before, actions);
    }
    // The program closes, what has to be said is said, and the peer is silent.
    for event in [CloseEvent::Close, CloseEvent::Sent] {
        let before = close.state();
        let actions = close.handle(event, now);
        check(&close, before, actions);
    }
    for _ in 0..4 {
        let Some(due) = close.poll_timeout() else {
            break;
        };
        now = now.max(due);
        let before = close.state();
        let actions = close.handle_timeout(now);
        check(&close, before, actions);
        let before = close.state();
        let actions = close.handle(CloseEvent::Sent, now);
        check(&close, before, actions);
    }
    assert_eq!(close.state(), CloseState::Closed);
}

#[cfg(test)]
mod tests;
