//! First contacts that come to nothing, and leave nothing.

use super::*;
use crate::clc::Gid;
use crate::engine::Phase;
use crate::llc::LinkEnd;
use crate::rdma::sim::{Fault, SimConfig};

/// Where the send buffers of a group can be registered, and its first RMB cannot.
fn one_buffer() -> SimConfig {
    SimConfig {
        max_registered: (5 << 18) - 1,
        ..SimConfig::new()
    }
}

#[test]
fn moves_over_either_version() {
    for version in [Version::V1, Version::V2] {
        let mut bench = Bench::new(SimConfig::new());
        let mut client = Peer::new(&bench, 1, Role::Client, version);
        let mut server = Peer::new(&bench, 2, Role::Server, version);
        let contact = Contact::First { direct: true };
        for (mut far, _talk, conn) in [
            client.dial(&mut bench, 1),
            client.dial(&mut bench, 2),
            server.serve(&mut bench, 1, contact),
            server.serve(&mut bench, 2, Contact::Later),
        ] {
            let peer = match conn.connection.is_server() {
                true => &mut client,
                false => &mut server,
            };
            far.end.write(&mut peer.manners.raw, b"hello");
            bench.until(&mut [&mut *peer], || {
                conn.receive() == Ok(b"hello".to_vec())
            });
            assert_eq!(conn.send(b"you"), Ok(3));
            let mut read = Vec::new();
            while read.is_empty() {
                bench.run(&mut []);
                for message in peer.manners.take_heard() {
                    if message.token == far.ours.token {
                        far.end.take(&message);
                        read.extend(far.end.read(&peer.manners.raw));
                    }
                }
            }
            assert_eq!(read, b"you");
        }
    }
}

/// A server that has no memory for the first connection of a group ends the group: the client's
/// next one is answered at once, and does not wait for what never comes.
#[test]
fn a_group_without_memory_is_no_group() {
    let mut bench = Bench::with("ueid = TEST\nring_size = 256K\n", one_buffer());
    let mut peer = Peer::new(&bench, 1, Role::Client, Version::V2);
    for _ in 0..3 {
        let (mut talk, conn) = bench.connect(Role::Server);
        peer.propose(&mut talk);
        let reason = talk.declined(&mut bench, &mut peer);
        assert_eq!(reason, Some(Reason::Memory));
        assert_eq!(conn.phase(), Phase::Tcp);
        assert!(!bench.is_starting(&peer, Role::Server));
    }
    bench.wait_for_the_end();
    assert_eq!(bench.port.links(), []);
}

/// A server may name an end that leads nowhere, again and again.
#[test]
fn a_server_that_cannot_be_reached_costs_nothing() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Server, Version::V2);
    for _ in 0..20 {
        let (mut talk, conn) = bench.connect(Role::Client);
        let proposal = talk.hear(&mut bench, &mut peer).emit();
        let ours = RdmaEndpoint {
            gid: Gid([9; 16]),
            ..peer.element(1)
        };
        let contact = Contact::First { direct: true };
        let accept = peer.accept(&proposal, &ours, contact);
        talk.say(&accept.emit());
        let reason = talk.declined(&mut bench, &mut peer);
        assert_eq!(reason, Some(Reason::NoRoute));
        assert_eq!(conn.phase(), Phase::Tcp);
        bench.wait_for_the_end();
    }
    assert_eq!(bench.port.links(), []);
    assert_eq!((bench.port.registered(), bench.port.domains()), ((0, 0), 0));
}

/// A client whose link cannot be reached learns it, too, and may come again.
#[test]
fn a_client_that_cannot_be_reached_costs_nothing() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Client, Version::V1);
    for _ in 0..20 {
        let (mut talk, conn) = bench.connect(Role::Server);
        peer.propose(&mut talk);
        let accept = talk.accept(&mut bench, &mut peer);
        let ours = RdmaEndpoint {
            gid: Gid([9; 16]),
            ..peer.element(1)
        };
        let Endpoint::Rdma(theirs) = &accept.endpoint else {
            panic!("not RDMA");
        };
        assert_ne!(theirs.qp_number.get(), 0);
        let confirm = crate::clc::Confirm {
            endpoint: Endpoint::Rdma(ours),
            terms: accept.terms.clone(),
            link_gids: crate::clc::Bounded::default(),
        };
        talk.say(&confirm.emit());
        let reason = talk.declined(&mut bench, &mut peer);
        assert_eq!(reason, Some(Reason::NoRoute));
        // It listens for the peer's own Decline for a while, and then is TCP.
        talk.say(&crate::clc::Decline::new(Version::V1, ours_id(&accept), Reason::NoRoute).emit());
        bench.until(&mut [&mut peer], || conn.phase() == Phase::Tcp);
        assert!(!bench.is_starting(&peer, Role::Server));
        bench.wait_for_the_end();
    }
    assert_eq!(bench.port.links(), []);
    assert_eq!((bench.port.registered(), bench.port.domains()), ((0, 0), 0));
}

fn ours_id(accept: &crate::clc::Accept) -> crate::clc::PeerId {
    match &accept.endpoint {
        Endpoint::Rdma(end) => end.peer_id,
        Endpoint::Ism(_) => panic!("not RDMA"),
    }
}

/// RFC 7609 §C.2: until its CONFIRM LINK response has arrived a client may decline, and does, so that
/// a link that fails at this moment costs no connection.
#[test]
fn a_client_whose_answer_is_lost_goes_back_to_tcp() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Server, Version::V2);
    let mut nobody = Peer::new(&bench, 2, Role::Server, Version::V2);
    let (mut talk, conn) = bench.connect(Role::Client);
    let ours = peer.element(1);
    let contact = Contact::First { direct: true };
    peer.welcome(&mut talk, &mut bench, &ours, contact);
    // Its CONFIRM LINK request arrives, and there it ends.
    bench.net.advance_by(Duration::from_millis(1));
    peer.manners.raw.die();
    let reason = talk.declined(&mut bench, &mut nobody);
    assert_eq!(reason, Some(Reason::LinkLost));
    bench.until(&mut [], || conn.phase() == Phase::Tcp);
    bench.wait_for_the_end();
    assert_eq!(bench.port.links(), []);
}

/// RFC 7609 §C.7.1: a CONFIRM LINK that names another end than the Accept did is declined.
#[test]
fn a_confirm_link_with_wrong_data_is_declined() {
    for (version, spoil) in wrong_ends() {
        let mut bench = Bench::new(SimConfig::new());
        let mut peer = Peer::new(&bench, 1, Role::Server, version);
        let (mut talk, conn) = bench.connect(Role::Client);
        let ours = peer.element(1);
        let contact = Contact::First { direct: true };
        let theirs = peer.confirmed(&mut talk, &mut bench, &ours, contact);
        peer.reach(&theirs);
        peer.say_confirm_link(false, spoil);
        let reason = talk.declined(&mut bench, &mut peer);
        assert_eq!(reason, Some(Reason::LinkFailed));
        talk.say(&crate::clc::Decline::new(version, ours.peer_id, Reason::LinkFailed).emit());
        bench.until(&mut [&mut peer], || conn.phase() == Phase::Tcp);
        assert!(!bench.is_starting(&peer, Role::Client));
        bench.wait_for_the_end();
        assert_eq!(bench.port.links(), []);
    }
}

/// The same in the response: our CONFIRM LINK has arrived, so it is too late to decline (§C.2), and
/// the connection ends.
#[test]
fn a_response_to_confirm_link_with_wrong_data_ends_the_connection() {
    for (version, spoil) in wrong_ends() {
        let mut bench = Bench::new(SimConfig::new());
        let mut peer = Peer::new(&bench, 1, Role::Client, version);
        let (mut talk, conn) = bench.connect(Role::Server);
        peer.propose(&mut talk);
        let accept = talk.accept(&mut bench, &mut peer);
        let Endpoint::Rdma(theirs) = &accept.endpoint else {
            panic!("not RDMA");
        };
        let ours = peer.element(1);
        peer.reach(theirs);
        talk.say(&peer.confirmation(&accept, &ours).emit());
        // Its request arrives, and is not answered by the book.
        while peer.manners.raw.take_messages().is_empty() {
            bench.net.advance_by(Duration::from_micros(50));
            bench.look_after();
        }
        bench.net.advance_by(Duration::from_millis(1));
        bench.look_after();
        peer.say_confirm_link(true, spoil);
        bench.until(&mut [&mut peer], || conn.phase() == Phase::Tcp);
        let reason = conn.connection.fallback_reason();
        assert_eq!(reason, Some(Reason::LinkFailed));
        assert_eq!(talk.hear_or_end(&mut bench, &mut peer), None);
    }
}

/// What may be wrong with the end that a CONFIRM LINK names.
fn wrong_ends() -> impl Iterator<Item = (Version, fn(&mut LinkEnd))> {
    let wrong: [fn(&mut LinkEnd); 2] = [
        |end| end.gid.0[15] ^= 0x40,
        |end| end.qp_number = crate::clc::QpNumber::new(end.qp_number.get() ^ 1).unwrap(),
    ];
    let versions = [Version::V1, Version::V2].into_iter();
    versions.flat_map(move |version| wrong.map(|spoil| (version, spoil)))
}

/// A second connection of a client whose link is being confirmed waits for that, not for ever.
#[test]
fn who_waits_for_the_first_contact_of_others_does_so_for_a_while() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Client, Version::V2);
    let (mut first, _conn) = bench.connect(Role::Server);
    peer.propose(&mut first);
    let _accept = first.accept(&mut bench, &mut peer);
    let (mut second, conn) = bench.connect(Role::Server);
    peer.propose(&mut second);
    bench.until(&mut [&mut peer], || step(&conn) == Some(Step::Queued));
    {
        let mut guard = conn.connection.lock_pending();
        let rdma = guard.as_mut().unwrap().rdma.as_mut().unwrap();
        let left = rdma.deadline.unwrap() - Instant::now();
        assert!(left <= bench.engine.rdma_timeouts().link);
        rdma.deadline = Some(Instant::now());
    }
    let reason = second.declined(&mut bench, &mut peer);
    assert_eq!(reason, Some(Reason::LinkTimeout));
    assert_eq!(conn.phase(), Phase::Tcp);
}

fn step(conn: &Conn) -> Option<Step> {
    let guard = conn.connection.lock_pending();
    guard.as_ref()?.rdma.as_ref().map(|rdma| rdma.step)
}

/// As many peers as there can be begin, each with a name of its own, and do nothing more. They get
/// what there is, and who was there before does not notice.
#[test]
fn a_flood_of_first_contacts() {
    let config = SimConfig {
        max_registered: 3 << 20,
        ..SimConfig::new()
    };
    let mut bench = Bench::new(config);
    let mut good = Peer::new(&bench, 1, Role::Client, Version::V2);
    let (mut far, _talk, conn) = good.dial(&mut bench, 1);
    let at = bench.net.port("sim2/1");
    let (mut accepted, mut declined) = (0, 0);
    let mut open = Vec::new();
    for number in 0..100 {
        let mut peer = Peer::at(&at, number, Role::Client, Version::V2);
        let (mut talk, conn) = bench.connect(Role::Server);
        peer.propose(&mut talk);
        match talk.hear(&mut bench, &mut peer) {
            Message::Accept(_) => accepted += 1,
            Message::Decline(decline) => {
                assert_eq!(decline.diagnosis.reason(), Some(Reason::Memory));
                declined += 1;
            }
            other => panic!("{other:?}"),
        }
        open.push((talk, conn));
    }
    assert!(accepted > 5 && declined > 50, "{accepted}, {declined}");
    far.end.write(&mut good.manners.raw, b"still");
    bench.until(&mut [&mut good], || conn.receive() == Ok(b"still".to_vec()));
}

/// Each peer has a protection domain. Where the device has no more, the next one stays on TCP.
#[test]
fn a_peer_without_a_domain_stays_on_tcp() {
    let config = SimConfig {
        max_domains: 1,
        ..SimConfig::new()
    };
    let mut bench = Bench::new(config);
    let mut first = Peer::new(&bench, 1, Role::Client, Version::V2);
    let (mut far, _talk, conn) = first.dial(&mut bench, 1);
    let mut client = Peer::new(&bench, 2, Role::Client, Version::V2);
    let mut server = Peer::new(&bench, 3, Role::Server, Version::V2);
    for _ in 0..3 {
        let (mut talk, refused) = bench.connect(Role::Server);
        client.propose(&mut talk);
        let reason = talk.declined(&mut bench, &mut client);
        assert_eq!(reason, Some(Reason::LinkFailed));
        assert_eq!(refused.phase(), Phase::Tcp);

        let (mut talk, refused) = bench.connect(Role::Client);
        let proposal = talk.hear(&mut bench, &mut server).emit();
        let ours = server.element(1);
        let accept = server.accept(&proposal, &ours, Contact::First { direct: true });
        talk.say(&accept.emit());
        let reason = talk.declined(&mut bench, &mut server);
        assert_eq!(reason, Some(Reason::LinkFailed));
        assert_eq!(refused.phase(), Phase::Tcp);
    }
    far.end.write(&mut first.manners.raw, b"still");
    bench.until(&mut [&mut first], || {
        conn.receive() == Ok(b"still".to_vec())
    });
    assert_eq!((bench.port.links().len(), bench.port.domains()), (1, 1));
}

/// No more memory than the administrator allows.
#[test]
fn no_more_memory_than_is_allowed() {
    let text = "ueid = TEST\nring_size = 16K\nmax_memory = 16K\n";
    let mut bench = Bench::with(text, SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Client, Version::V2);
    let (mut talk, _conn) = bench.connect(Role::Server);
    peer.propose(&mut talk);
    let reason = talk.declined(&mut bench, &mut peer);
    assert_eq!(reason, Some(Reason::Memory));
    assert_eq!(bench.port.registered(), (0, 0));
}

/// Peers that come and go leave idle groups, but not any number of them.
#[test]
fn idle_groups_are_kept_up_to_a_number() {
    let mut bench = Bench::new(SimConfig::new());
    let at = bench.net.port("sim1/1");
    let mut peers = Vec::new();
    for number in 0..80 {
        let mut peer = Peer::at(&at, number + 1, Role::Client, Version::V2);
        let (mut far, talk, conn) = peer.dial(&mut bench, 1);
        conn.connection.close(false);
        far.end.said = crate::cdc::ConnState::CLOSED;
        far.end.tell(&mut peer.manners.raw);
        bench.run(&mut [&mut peer]);
        bench.forget(&conn);
        peers.push((peer, talk));
    }
    bench.wait_for_the_end();
    let links = bench.port.links().len();
    assert_eq!((links, bench.port.domains()), (64, 64), "one for each");
}

/// A device goes while connections are open: nothing of it is held, though their programs still
/// have their ends.
#[test]
fn a_device_that_goes_is_let_go_whole() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peers = [1, 2].map(|number| Peer::new(&bench, number, Role::Client, Version::V2));
    let [first, second] = &mut peers;
    let open = [first.dial(&mut bench, 1), second.dial(&mut bench, 1)];
    assert_eq!((bench.port.links().len(), bench.port.domains()), (2, 2));
    bench.net.inject(Fault::Gone(bench.port.id()));
    bench.engine.wire.rdma.port_events();
    bench.look_after();
    bench.wait_for_the_end();
    assert_eq!(bench.port.links(), []);
    assert_eq!((bench.port.registered(), bench.port.domains()), ((0, 0), 0));
    for (_, _, conn) in open {
        assert_eq!(conn.receive(), Err(Errno::CONNRESET));
    }
}

/// Nobody has to be woken for it.
#[test]
fn a_client_proposes_in_its_own_call() {
    let mut bench = Bench::new(SimConfig::new());
    let (talk, conn) = bench.connect(Role::Client);
    assert!(talk.has_proposal());
    let timeout = conn.connection.rdma_timeout();
    assert!(timeout.is_some_and(|at| at > Instant::now() + Duration::from_secs(1)));
}

/// A server waits for the Proposal, and looks at the clock within a second: its client's time runs
/// since it was accepted.
#[test]
fn a_server_begins_when_its_client_does() {
    let mut bench = Bench::new(SimConfig::new());
    let (_talk, conn) = bench.connect(Role::Server);
    let accepted = Instant::now();
    let timeout = || conn.connection.rdma_timeout().unwrap();
    assert!(timeout() <= Instant::now() + Duration::from_secs(1));
    std::thread::sleep(Duration::from_millis(20));
    bench.look_after();
    let until = accepted + bench.engine.rdma_timeouts().proposal;
    assert!(timeout() <= until && timeout() > accepted + Duration::from_secs(1));
}
