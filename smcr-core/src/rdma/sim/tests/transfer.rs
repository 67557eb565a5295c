//! What arrives, in which order, and when.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::*;
use crate::clc::{Gid, MtuCode, Psn, Rkey};
use crate::rdma::fabric::{Access, Completion, Counts, LinkAddress, LocalGid};

#[test]
fn a_write_is_there_when_its_message_is() {
    let mut pair = Pair::new(SimConfig::new(), 1);
    let (rkey, to) = pair.b.rtoken();
    let bytes: Vec<u8> = (0..10_000).map(|i| (i % 251) as u8).collect();
    let id = pair.a.write_and_say(&[(rkey, to + 7, &bytes)], &message(1));
    pair.run();
    assert_eq!(pair.b.take_seen(), [Seen::Message(message(1))]);
    assert_eq!(pair.b.read(7, bytes.len()), bytes);
    assert_eq!(
        (pair.b.read(0, 7), pair.b.read(10_007, 1)),
        (vec![0; 7], vec![0])
    );
    assert_eq!(pair.a.take_seen(), [Seen::Sent(id.unwrap())]);
    assert_eq!(pair.net.next_event(), None);
}

#[test]
fn a_write_becomes_visible_in_pieces() {
    let mut halves = 0;
    for seed in 0..8 {
        let pair_config = SimConfig {
            mtu: MtuCode::new(1).unwrap(),
            ..SimConfig::new()
        };
        let mut pair = Pair::new(pair_config, seed);
        let (rkey, to) = pair.b.rtoken();
        pair.a
            .write_and_say(&[(rkey, to, &[0xaa; 2048])], &message(1))
            .unwrap();
        let mut seen_before = Vec::new();
        while pair.net.step() {
            let there = |at: &usize| pair.b.read(at * 256, 256) == [0xaa; 256];
            let pieces: Vec<usize> = (0..8).filter(there).collect();
            assert!(
                pieces.len() == 8 || pair.b.take_messages().is_empty(),
                "the message comes last"
            );
            if pieces.len() == 4 && pieces != [0, 1, 2, 3] {
                halves += 1;
            }
            assert!(seen_before.iter().all(|piece| pieces.contains(piece)));
            seen_before = pieces;
        }
        assert_eq!(seen_before.len(), 8);
    }
    assert!(halves > 4, "any half of it may come first");
}

#[test]
fn within_a_link_nothing_overtakes() {
    for seed in 0..50 {
        let mut pair = Pair::new(SimConfig::new(), seed);
        let (rkey, to) = pair.b.rtoken();
        let mut said = 0;
        let mut heard = 0;
        while heard < 200 {
            if said < 200 && pair.net.random().is_multiple_of(2) {
                let len = 1 + pair.net.random() as usize % 3000;
                let bytes = vec![said as u8; len];
                match pair.a.write_and_say(&[(rkey, to, &bytes)], &message(said)) {
                    Ok(_) => said += 1,
                    Err(error) => assert_eq!(error, Errno::AGAIN),
                }
            }
            pair.net.step();
            for got in pair.b.take_messages() {
                assert_eq!(got, message(heard), "seed {seed}");
                // Later WRITEs may have begun, earlier ones are over.
                assert!(u64::from(pair.b.read(0, 1)[0]) >= heard);
                heard += 1;
            }
            pair.a.poll();
        }
    }
}

#[test]
fn links_overtake_each_other() {
    let mut overtaken = 0;
    for seed in 0..40 {
        let mut pair = Pair::new(SimConfig::new(), seed);
        let [mut c, mut d] = connected(&pair.ports);
        pair.a.say(&message(1)).unwrap();
        c.say(&message(2)).unwrap();
        let mut order = Vec::new();
        while pair.net.step() {
            pair.ports[1].poll(&mut |completion| {
                if let Completion::Received { link, .. } = completion {
                    order.push(link);
                }
            });
        }
        assert_eq!(order.len(), 2);
        overtaken += usize::from(order[0] == d.link_id());
        d.poll();
    }
    assert!((5..35).contains(&overtaken), "{overtaken} of 40");
}

#[test]
fn a_seed_decides_everything() {
    let run = |seed| {
        let mut pair = Pair::new(SimConfig::new(), seed);
        pair.net.record();
        let (rkey, to) = pair.b.rtoken();
        for number in 0..20 {
            pair.a
                .write_and_say(&[(rkey, to, &[1; 5000])], &message(number))
                .unwrap();
            pair.net
                .advance_by(Duration::from_micros(pair.net.random() % 30));
            pair.b.poll();
            pair.a.poll();
        }
        pair.run();
        let record = pair.net.take_record().into_iter();
        record
            .map(|entry| match entry {
                Recorded::Write {
                    at,
                    to: place,
                    len,
                    rkey,
                    ..
                } => (at, place - to, len, rkey),
                Recorded::Message { at, .. } => (at, 0, 0, 0),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(7).len(), 20 * 6);
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn bytes_are_read_when_they_arrive() {
    let mut pair = Pair::new(SimConfig::new(), 3);
    let mut source = vec![1u8; 64].into_boxed_slice();
    let base = NonNull::from(&mut source[..]).cast::<u8>();
    let domain = Arc::clone(&pair.ports[0]).domain().unwrap();
    // SAFETY: `source` outlives the region, which is dropped below.
    let region = unsafe { Arc::clone(&domain).register(base, 64, Access::Local) }.unwrap();
    let psn = Psn::default();
    let mut link = domain.link(pair.ports[0].gids()[1], psn, 44).unwrap();
    let mut peer = RawPeer::new(&pair.ports[1], 1, 44, MEMORY).unwrap();
    link.connect(&peer.address()).unwrap();
    link.ready_to_send().unwrap();
    peer.connect(&link.address()).unwrap();
    let (rkey, to) = peer.rtoken();
    let write = crate::rdma::fabric::Write {
        from: base,
        lkey: region.lkey(),
        len: 64,
        to,
        rkey,
    };
    // SAFETY: the memory stays; that its content changes is what this is about.
    unsafe { link.post(&[write], &message(1), 1, true) }.unwrap();
    // SAFETY: inside `source`, which is otherwise not touched here.
    unsafe { base.add(5).write(2) };
    pair.run();
    assert_eq!(peer.read(4, 3), [1, 2, 1]);
    // And a source that is not registered any more is the sender's own fault.
    drop(region);
    // SAFETY: the memory is still there.
    unsafe { link.post(&[write], &message(2), 2, true) }.unwrap();
    pair.run();
    let mut error = None;
    pair.ports[0].poll(&mut |completion| {
        if let Completion::Failed { error: failed, .. } = completion {
            error.get_or_insert(failed);
        }
    });
    assert_eq!(error, Some(LinkError::Local));
    pair.b.poll();
}

#[test]
fn room_comes_back_with_polled_completions() {
    let config = SimConfig {
        send_queue: 10,
        signal_every: 3,
        ..SimConfig::new()
    };
    let net = SimNet::new(config, 4);
    let port = net.port("sim0/1");
    let mut peer = RawPeer::new(&net.port("sim1/1"), 0, 44, MEMORY).unwrap();
    let gid = port.gids()[0];
    let domain = Arc::clone(&port).domain().unwrap();
    let mut link = domain.link(gid, Psn::default(), 44).unwrap();
    link.connect(&peer.address()).unwrap();
    // SAFETY: no WRITEs.
    let say = |link: &mut Box<dyn crate::rdma::fabric::Link>, id, signal| unsafe {
        link.post(&[], &message(id), id, signal)
    };
    assert_eq!(say(&mut link, 0, false), Err(Errno::NOTCONN));
    link.ready_to_send().unwrap();
    peer.connect(&link.address()).unwrap();
    for id in 1..=5 {
        assert_eq!(link.room() as u64, 11 - id);
        say(&mut link, id, false).unwrap();
    }
    let sent = || {
        while net.step() {}
        let mut sent = Vec::new();
        port.poll(&mut |completion| {
            if let Completion::Sent { id, .. } = completion {
                sent.push(id);
            }
        });
        sent
    };
    assert_eq!((link.room(), sent()), (5, vec![3]));
    assert_eq!(link.room(), 8, "4 and 5 are done, but nothing said so");
    say(&mut link, 6, false).unwrap();
    say(&mut link, 7, true).unwrap();
    assert_eq!((sent(), link.room()), (vec![6, 7], 10));
    for id in 8..18 {
        say(&mut link, id, false).unwrap();
    }
    assert_eq!(say(&mut link, 18, false), Err(Errno::AGAIN));
    assert_eq!(
        port.counts(),
        Counts {
            writes: 0,
            sends: 17,
            doorbells: 17
        }
    );
    peer.poll();
}

#[test]
fn who_has_no_receives_is_waited_for() {
    let config = SimConfig {
        receives: 4,
        ..SimConfig::new()
    };
    let mut pair = Pair::new(config, 5);
    for number in 0..10 {
        pair.a.say(&message(number)).unwrap();
    }
    pair.net.advance_by(Duration::from_secs(60));
    assert_eq!(pair.net.next_event(), None, "nothing goes on by itself");
    assert_eq!(pair.a.take_seen().len(), 4);
    let mut heard = pair.b.take_messages();
    assert_eq!(heard.len(), 4);
    while pair.net.step() {
        heard.extend(pair.b.take_messages());
    }
    assert_eq!(heard, (0..10).map(message).collect::<Vec<_>>());
    assert_eq!(pair.a.take_seen().len(), 6);
}

#[test]
fn patience_with_a_receiver_may_be_limited() {
    let config = SimConfig {
        receives: 4,
        rnr_time: Some(Duration::from_millis(5)),
        ..SimConfig::new()
    };
    let mut pair = Pair::new(config, 6);
    for number in 0..10 {
        pair.a.say(&message(number)).unwrap();
    }
    pair.run();
    let seen = pair.a.take_seen();
    assert!(broke(&seen[4..], LinkError::Unreachable), "{seen:?}");
    assert_eq!(pair.b.take_messages().len(), 4);
}

#[test]
fn memory_is_registered_within_limits() {
    let config = SimConfig {
        max_registered: 4 * MEMORY,
        ..SimConfig::new()
    };
    let net = SimNet::new(config, 7);
    let port = net.port("sim0/1");
    let mut memory = vec![0u8; 5 * MEMORY];
    let base = NonNull::from(&mut memory[..]).cast::<u8>();
    // SAFETY: `memory` outlives the regions, and nobody writes to it.
    let register = |len| unsafe {
        let domain = Arc::clone(&port).domain()?;
        domain.register(base, len, Access::RemoteWrite)
    };
    assert_eq!(register(0).err(), Some(Errno::INVAL));
    assert_eq!(register(5 * MEMORY).err(), Some(Errno::NOMEM));
    let first = register(3 * MEMORY).unwrap();
    assert_eq!(register(2 * MEMORY).err(), Some(Errno::NOMEM));
    assert_eq!(port.registered(), (1, 3 * MEMORY));
    assert_eq!(port.domains(), 1, "those of the others are gone");
    assert_eq!(first.address(), base.addr().get() as u64);
    let key = first.rkey();
    drop(first);
    assert_eq!((port.registered(), port.domains()), ((0, 0), 0));
    assert_ne!(
        register(4 * MEMORY).unwrap().rkey(),
        key,
        "keys are not used again"
    );
}

#[test]
fn addresses_that_lead_nowhere() {
    let net = SimNet::new(SimConfig::new(), 8);
    let ports = [net.port("sim0/1"), net.port("sim1/1")];
    let peer = RawPeer::new(&ports[1], 1, 44, MEMORY).unwrap();
    let good = peer.address();
    let try_it = |address: LinkAddress| {
        let mut end = RawPeer::new(&ports[0], 1, 44, MEMORY).unwrap();
        end.connect(&address)
    };
    assert_eq!(try_it(good), Ok(()));
    let gid = Gid([9; 16]);
    assert_eq!(try_it(LinkAddress { gid, ..good }), Err(Errno::NETUNREACH));
    let mtu = MtuCode::new(9).unwrap();
    assert_eq!(try_it(LinkAddress { mtu, ..good }), Err(Errno::INVAL));
    let wrong = LocalGid {
        index: 0,
        ..ports[0].gids()[1]
    };
    let domain = Arc::clone(&ports[0]).domain().unwrap();
    let made = domain.link(wrong, Psn::default(), 44);
    assert_eq!(made.err(), Some(Errno::INVAL));
    // What cannot be known at once shows when nobody answers: a number that is not there, packets
    // numbered otherwise, an end that knows another one.
    let qpn = crate::clc::QpNumber::new(5).unwrap();
    let psn = Psn::new(good.psn.get() ^ 1).unwrap();
    for address in [
        LinkAddress { qpn, ..good },
        LinkAddress { psn, ..good },
        good,
    ] {
        let mut end = RawPeer::new(&ports[0], 1, 44, MEMORY).unwrap();
        end.connect(&address).unwrap();
        end.say(&message(1)).unwrap();
        let begin = net.elapsed();
        while net.step() {}
        let seen = end.take_seen();
        assert!(broke(&seen, LinkError::Unreachable), "{seen:?}");
        assert!(net.elapsed() - begin >= Duration::from_secs(1));
        assert_eq!(end.say(&message(2)), Err(Errno::NOTCONN));
    }
}

#[test]
fn an_end_that_connects_later_gets_what_was_said() {
    let net = SimNet::new(SimConfig::new(), 9);
    let ports = [net.port("sim0/1"), net.port("sim1/1")];
    let mut a = RawPeer::new(&ports[0], 1, 44, MEMORY).unwrap();
    let mut b = RawPeer::new(&ports[1], 1, 44, MEMORY).unwrap();
    a.connect(&b.address()).unwrap();
    a.say(&message(1)).unwrap();
    net.advance_by(Duration::from_millis(900));
    b.connect(&a.address()).unwrap();
    net.advance_by(Duration::from_millis(50));
    assert_eq!(b.take_messages(), [message(1)]);
    assert_eq!(a.take_seen(), [Seen::Sent(0)]);
}

#[test]
fn bells_ring_once_for_who_asked() {
    let mut pair = Pair::new(SimConfig::new(), 10);
    let is_readable = |fd: rustix::fd::BorrowedFd<'_>| {
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).unwrap() == 1
    };
    let port = Arc::clone(&pair.ports[1]);
    pair.a.say(&message(1)).unwrap();
    pair.run();
    assert!(!is_readable(port.completion_fd()), "nobody asked");
    port.arm();
    assert!(
        !is_readable(port.completion_fd()),
        "what was there is not told"
    );
    pair.a.say(&message(2)).unwrap();
    pair.run();
    assert!(is_readable(port.completion_fd()));
    port.take_event();
    assert!(!is_readable(port.completion_fd()));
    assert_eq!(pair.b.take_messages().len(), 2);

    assert!(!is_readable(port.event_fd()));
    pair.net.inject(Fault::Down(port.id()));
    pair.net.inject(Fault::Up(port.id()));
    assert!(is_readable(port.event_fd()));
    assert_eq!(pair.events(1), [PortEvent::Down, PortEvent::Up]);
    assert!(!is_readable(port.event_fd()));
}

#[test]
fn a_poll_hands_out_a_batch() {
    let config = SimConfig {
        poll_batch: 3,
        ..SimConfig::new()
    };
    let pair = &mut Pair::new(config, 11);
    for number in 0..8 {
        pair.a.say(&message(number)).unwrap();
    }
    pair.run();
    let polled: Vec<usize> = (0..4).map(|_| pair.ports[1].poll(&mut |_| {})).collect();
    assert_eq!(polled, [3, 3, 2, 0]);
}

#[test]
fn a_poller_may_post_but_not_poll() {
    let pair = &mut Pair::new(SimConfig::new(), 12);
    pair.a.say(&message(1)).unwrap();
    pair.run();
    let mut answered = false;
    let b = &mut pair.b;
    pair.ports[1].poll(&mut |_| {
        b.say(&message(2)).unwrap();
        answered = true;
    });
    assert!(answered);
    pair.run();
    assert_eq!(pair.a.take_messages(), [message(2)]);
    pair.run();
    let port = &pair.ports[1];
    let nested = std::panic::AssertUnwindSafe(|| {
        port.poll(&mut |_| {
            port.poll(&mut |_| {});
        })
    });
    assert!(std::panic::catch_unwind(nested).is_err());
}

#[test]
fn keys_are_checked_byte_by_byte() {
    let (bad, good) = (LinkError::Refused, LinkError::Flushed);
    let end = MEMORY as u64;
    for (name, key, offset, len, expected) in [
        ("all of it", 0, 0, MEMORY, good),
        ("the last byte", 0, end - 1, 1, good),
        ("one too far", 0, end - 1, 2, bad),
        ("behind", 0, end, 1, bad),
        ("before", 0, u64::MAX, 1, bad),
        (
            "around the end of the address space",
            0,
            u64::MAX - end,
            1,
            bad,
        ),
        ("another key", 1, 0, 1, bad),
    ] {
        let mut pair = Pair::new(SimConfig::new(), 13);
        let (rkey, to) = pair.b.rtoken();
        let (rkey, to) = (Rkey(rkey.0.wrapping_add(key)), to.wrapping_add(offset));
        let bytes = vec![0xee; len];
        pair.a
            .write_and_say(&[(rkey, to, &bytes)], &message(1))
            .unwrap();
        pair.run();
        if expected == good {
            assert_eq!(pair.a.take_seen(), [Seen::Sent(0)], "{name}");
            assert_eq!(pair.b.take_messages().len(), 1, "{name}");
            continue;
        }
        assert!(broke(&pair.a.take_seen(), bad), "{name}");
        let id = pair.b.link_id();
        assert_eq!(pair.events(1), [PortEvent::LinkFailed(id)], "{name}");
        assert_eq!(
            pair.b.take_seen(),
            [Seen::Failed(LinkError::Flushed)],
            "{name}"
        );
        assert!(!pair.b.read(0, MEMORY).contains(&0xee) || len > 1, "{name}");
    }
}
