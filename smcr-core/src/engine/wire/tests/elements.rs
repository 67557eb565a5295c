//! RMBEs that a peer names twice (RFC 7609 §4.4.2), and links that it names and does not have.

use super::*;
use crate::cdc::ConnState;
use crate::engine::Phase;
use crate::rdma::sim::{Recorded, SimConfig};

/// Whether anything was written to that part of the peer's memory.
fn writes(bench: &Bench, from: u64, to: u64) -> usize {
    let record = bench.net.take_record();
    let there = |recorded: &&Recorded| matches!(recorded, Recorded::Write { to: at, .. } if (from..to).contains(at));
    record.iter().filter(there).count()
}

fn twice(role: Role) {
    let mut bench = Bench::new(SimConfig::new());
    let theirs = match role {
        Role::Server => Role::Client,
        Role::Client => Role::Server,
    };
    let mut peer = Peer::new(&bench, 1, theirs, Version::V2);
    let open = |peer: &mut Peer, bench: &mut Bench, index, contact| match role {
        Role::Server => peer.dial(bench, index),
        Role::Client => peer.serve(bench, index, contact),
    };
    let contact = Contact::First { direct: true };
    let (_, _talk, other) = open(&mut peer, &mut bench, 2, contact);
    let (mut old, _old_talk, old_conn) = open(&mut peer, &mut bench, 1, Contact::Later);
    old.end.write(&mut peer.manners.raw, b"before");
    // More than the element holds: the rest waits to be written there.
    assert_eq!(old_conn.send(&[7; 16 << 10]), Ok(16 << 10));
    bench.run(&mut [&mut peer]);
    assert!(old_conn.send(&[8; 1 << 10]).is_ok());
    bench.run(&mut [&mut peer]);
    let said: Vec<_> = peer.manners.take_heard();
    assert!(said.iter().all(|m| m.state == ConnState::NONE));

    bench.net.record();
    let (mut new, _new_talk, new_conn) = open(&mut peer, &mut bench, 1, Contact::Later);
    bench.run(&mut [&mut peer]);
    let (from, to) = old.end.element();
    let base = peer.manners.raw.rtoken().1;
    assert_eq!(writes(&bench, base + from as u64, base + to as u64), 0);

    // The old one is over, and says so to the peer and to its program.
    let last: Vec<_> = peer.manners.take_heard();
    let aborted = |m: &crate::cdc::CdcMessage| m.state.contains(ConnState::ABORTED);
    assert!(last.iter().any(|m| m.token == old.ours.token && aborted(m)));
    assert!(
        last.iter()
            .all(|m| m.token == old.ours.token || !aborted(m))
    );
    // What the program was told of before can still be read, as after a TCP reset.
    let read = old_conn.receive();
    assert!(read == Ok(b"before".to_vec()) || read == Err(Errno::CONNRESET));
    assert_eq!(old_conn.send(b"x"), Err(Errno::CONNRESET));
    assert_eq!(old_conn.send(b"x"), Err(Errno::PIPE));
    old_conn.connection.close(false);
    bench.run(&mut [&mut peer]);

    // The new one and the neighbour work.
    new.end.write(&mut peer.manners.raw, b"new");
    bench.until(&mut [&mut peer], || {
        new_conn.receive() == Ok(b"new".to_vec())
    });
    assert_eq!(new_conn.send(b"fresh"), Ok(5));
    bench.run(&mut [&mut peer]);
    for message in peer.manners.take_heard() {
        if message.token == new.ours.token {
            new.end.take(&message);
        }
    }
    assert_eq!(new.end.read(&peer.manners.raw), b"fresh");
    assert_eq!(other.send(b"here"), Ok(4));
    assert_eq!(other.receive(), Err(Errno::AGAIN));
}

#[test]
fn an_element_that_a_client_names_twice() {
    twice(Role::Server);
}

#[test]
fn an_element_that_a_server_names_twice() {
    twice(Role::Client);
}

/// The peer may have closed a connection, and give its element to the next one before its last
/// word has come: the two ways are not in order.
#[test]
fn an_element_of_a_connection_that_we_have_closed() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Client, Version::V2);
    let (old, _talk, conn) = peer.dial(&mut bench, 1);
    conn.connection.close(false);
    bench.run(&mut [&mut peer]);
    let heard = peer.manners.take_heard();
    assert!(heard.iter().any(|m| m.state.contains(ConnState::CLOSED)));
    let (_new, _new_talk, new_conn) = peer.dial(&mut bench, 1);
    bench.run(&mut [&mut peer]);
    let heard = peer.manners.take_heard();
    let aborted = |m: &&crate::cdc::CdcMessage| m.state.contains(ConnState::ABORTED);
    assert_eq!(heard.iter().find(aborted), None, "{:?}", old.ours.token);
    assert_eq!(new_conn.phase(), Phase::Smc);
}

/// An element that begins in another one, by way of its size or of its address.
#[test]
fn elements_that_overlap() {
    for shift in [1u64, 8 << 10, (16 << 10) - 1] {
        let mut bench = Bench::new(SimConfig::new());
        let mut peer = Peer::new(&bench, 1, Role::Client, Version::V2);
        let (_old, _talk, old_conn) = peer.dial(&mut bench, 2);
        let (mut talk, conn) = bench.connect(Role::Server);
        peer.propose(&mut talk);
        let accept = talk.accept(&mut bench, &mut peer);
        let good = peer.element(1);
        let ours = RdmaEndpoint {
            address: good.address + shift,
            ..good
        };
        peer.confirm(&mut talk, &accept, ours);
        bench.until(&mut [&mut peer], || conn.phase() == Phase::Smc);
        bench.run(&mut [&mut peer]);
        assert!(old_conn.send(b"x").is_err(), "{shift}");
        assert_eq!(conn.send(b"x"), Ok(1));
    }
}

/// Later contact: the Confirm has to name the link that there is (RFC 7609 §3.5.2.3).
#[test]
fn a_confirm_that_names_another_link() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Client, Version::V2);
    let (_far, _talk, known) = peer.dial(&mut bench, 1);
    for wrong in 0..2 {
        let (mut talk, conn) = bench.connect(Role::Server);
        peer.propose(&mut talk);
        let accept = talk.accept(&mut bench, &mut peer);
        let mut ours = peer.element(2);
        match wrong {
            0 => ours.qp_number = crate::clc::QpNumber::new(ours.qp_number.get() ^ 1).unwrap(),
            _ => ours.gid.0[15] ^= 0x40,
        }
        peer.confirm(&mut talk, &accept, ours);
        bench.until(&mut [&mut peer], || conn.phase() == Phase::Tcp);
        let reason = conn.connection.fallback_reason();
        assert_eq!(reason, Some(Reason::OutOfSync));
        assert_eq!(talk.hear_or_end(&mut bench, &mut peer), None);
    }
    assert_eq!(known.send(b"x"), Ok(1));
}

/// The same of a server: the client declines, and says that it is out of sync.
#[test]
fn an_accept_that_names_another_link() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Server, Version::V2);
    let first = Contact::First { direct: true };
    let (_far, _talk, known) = peer.serve(&mut bench, 1, first);
    let (mut talk, conn) = bench.connect(Role::Client);
    let proposal = talk.hear(&mut bench, &mut peer).emit();
    let mut ours = peer.element(2);
    ours.qp_number = crate::clc::QpNumber::new(ours.qp_number.get() ^ 1).unwrap();
    let accept = peer.accept(&proposal, &ours, Contact::Later);
    talk.say(&accept.emit());
    let reason = talk.declined(&mut bench, &mut peer);
    assert_eq!(reason, Some(Reason::OutOfSync));
    assert_eq!(conn.phase(), Phase::Tcp);
    assert_eq!(known.send(b"x"), Ok(1));
}
