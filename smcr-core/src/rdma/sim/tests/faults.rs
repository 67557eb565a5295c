//! What happens when something breaks.

use rustix::io::Errno;

use super::*;
use crate::clc::Psn;
use crate::rdma::fabric::Access;

const SECOND: Duration = Duration::from_secs(1);

fn block(pair: &Pair, from: usize, to: usize) -> [Fault; 2] {
    let (from, to) = (pair.ports[from].id(), pair.ports[to].id());
    [Fault::Block { from, to }, Fault::Unblock { from, to }]
}

#[test]
fn the_way_there_is_blocked() {
    let mut pair = Pair::new(SimConfig::new(), 1);
    pair.net.inject(block(&pair, 0, 1)[0]);
    pair.a.say(&message(1)).unwrap();
    pair.net.advance_by(SECOND);
    assert_eq!(pair.a.take_seen(), [], "it goes on trying");
    pair.run();
    assert!(pair.net.elapsed() < SECOND + Duration::from_millis(1));
    assert!(broke(&pair.a.take_seen(), LinkError::Unreachable));
    assert_eq!(pair.a.say(&message(2)), Err(Errno::NOTCONN));
    assert_eq!(pair.b.take_seen(), []);
    // The other end does not know, until it wants something.
    pair.b.say(&message(3)).unwrap();
    pair.run();
    assert!(broke(&pair.b.take_seen(), LinkError::Unreachable));
    assert!(pair.a.take_messages().is_empty());
}

#[test]
fn the_way_back_is_blocked() {
    let mut pair = Pair::new(SimConfig::new(), 2);
    pair.net.inject(block(&pair, 1, 0)[0]);
    pair.a.say(&message(1)).unwrap();
    pair.run();
    assert!(broke(&pair.a.take_seen(), LinkError::Unreachable));
    assert_eq!(
        pair.b.take_messages(),
        [message(1)],
        "it arrived all the same"
    );
}

#[test]
fn a_short_loss_is_repeated() {
    for seed in 0..30 {
        let mut pair = Pair::new(SimConfig::new(), seed);
        let (rkey, to) = pair.b.rtoken();
        for (from, to) in [(0, 1), (1, 0)] {
            let [begin, end] = block(&pair, from, to);
            let after = Duration::from_micros(pair.net.random() % 40);
            pair.net.inject_after(after, begin);
            pair.net
                .inject_after(after + Duration::from_millis(600), end);
        }
        for number in 0..20 {
            pair.a
                .write_and_say(&[(rkey, to, &[number; 2000])], &message(number.into()))
                .unwrap();
        }
        pair.run();
        assert_eq!(
            pair.b.take_messages(),
            (0..20).map(message).collect::<Vec<_>>()
        );
        assert_eq!(pair.a.take_seen().len(), 20, "seed {seed}");
        assert!(pair.net.elapsed() > Duration::from_millis(600));
    }
}

#[test]
fn attempts_in_vain_do_not_prolong_the_wait() {
    let mut pair = Pair::new(SimConfig::new(), 3);
    pair.net.inject(block(&pair, 0, 1)[0]);
    pair.a.say(&message(1)).unwrap();
    for _ in 0..30 {
        // Each Up lets everything be tried again.
        pair.net.inject(Fault::Down(pair.ports[0].id()));
        pair.net.inject(Fault::Up(pair.ports[0].id()));
        pair.net.advance_by(Duration::from_millis(50));
    }
    assert!(broke(&pair.a.take_seen(), LinkError::Unreachable));
    assert!(pair.net.elapsed() < 2 * SECOND);
}

#[test]
fn a_queue_pair_breaks() {
    let mut pair = Pair::new(SimConfig::new(), 4);
    let (link, error) = (pair.a.link_id(), LinkError::Local);
    pair.b.say(&message(1)).unwrap();
    pair.net
        .inject_after(Duration::from_millis(1), Fault::Break { link, error });
    pair.net.advance_by(Duration::from_millis(2));
    let seen = pair.a.take_seen();
    assert_eq!(seen[0], Seen::Message(message(1)));
    assert!(broke(&seen, LinkError::Local));
    assert_eq!(pair.events(0), [PortEvent::LinkFailed(link)]);
    assert_eq!(pair.b.take_seen(), [Seen::Sent(0)]);
    pair.b.say(&message(2)).unwrap();
    pair.run();
    assert!(broke(&pair.b.take_seen(), LinkError::Unreachable));
    // What is broken is not broken again.
    pair.net.inject(Fault::Break { link, error });
    pair.run();
    assert_eq!((pair.a.take_seen(), pair.events(0)), (vec![], vec![]));
}

#[test]
fn a_port_goes_down_and_comes_back() {
    let mut pair = Pair::new(SimConfig::new(), 5);
    let port = pair.ports[1].id();
    pair.net.inject(Fault::Down(port));
    pair.net.inject(Fault::Down(port));
    pair.a.say(&message(1)).unwrap();
    pair.b.say(&message(2)).unwrap();
    pair.net.advance_by(SECOND / 2);
    pair.net.inject(Fault::Up(port));
    pair.run();
    assert_eq!(pair.b.take_messages(), [message(1)]);
    assert_eq!(pair.a.take_messages(), [message(2)]);
    pair.net.inject(Fault::Down(port));
    pair.a.say(&message(3)).unwrap();
    pair.b.say(&message(4)).unwrap();
    pair.run();
    pair.net.inject(Fault::Up(port));
    assert!(broke(&pair.a.take_seen(), LinkError::Unreachable));
    assert!(broke(&pair.b.take_seen(), LinkError::Unreachable));
    let (down, up) = (PortEvent::Down, PortEvent::Up);
    assert_eq!(pair.events(1), [down, up, down, up]);
    assert_eq!(pair.events(0), []);
}

#[test]
fn a_device_goes_away() {
    let mut pair = Pair::new(SimConfig::new(), 6);
    pair.a.say(&message(1)).unwrap();
    pair.net.inject(Fault::Gone(pair.ports[0].id()));
    pair.net.inject(Fault::Up(pair.ports[0].id()));
    pair.run();
    assert!(!pair.ports[0].is_gone(), "nobody was told");
    assert_eq!(pair.events(0), [PortEvent::Gone], "it does not come back");
    assert!(pair.ports[0].is_gone());
    let all = failures(&pair.a.take_seen());
    assert!(!all.is_empty() && all.iter().all(|error| *error == LinkError::Flushed));
    assert_eq!(pair.a.say(&message(2)), Err(Errno::NOTCONN));
    let made = RawPeer::new(&pair.ports[0], 1, 44, MEMORY);
    assert_eq!(made.err(), Some(Errno::NODEV));
    let gid = pair.ports[0].gids()[0];
    let link = pair.a.domain().link(gid, Psn::default(), 44);
    assert_eq!(link.err(), Some(Errno::NODEV));
    pair.b.say(&message(3)).unwrap();
    pair.run();
    assert!(broke(&pair.b.take_seen(), LinkError::Unreachable));
}

#[test]
fn a_message_that_is_too_long() {
    let mut pair = Pair::new(SimConfig::new(), 7);
    pair.a.say(&[0; 44]).unwrap();
    pair.a.say(&[0; 45]).unwrap();
    pair.a.say(&[0; 44]).unwrap();
    pair.run();
    let seen = pair.a.take_seen();
    assert_eq!(seen[0], Seen::Sent(0));
    assert!(broke(&seen, LinkError::Refused), "{seen:?}");
    let seen = pair.b.take_seen();
    assert!(broke(&seen, LinkError::Local), "{seen:?}");
    assert!(
        seen.contains(&Seen::Message(vec![0; 44])),
        "the good one was first"
    );
}

#[test]
fn keys_that_do_not_allow_it() {
    let mut pair = Pair::new(SimConfig::new(), 8);
    let mut memory = vec![0u8; 64];
    let base = NonNull::from(&mut memory[..]).cast::<u8>();
    let attack = |pair: &mut Pair, place: &str, access, keep: bool| {
        let [mut a, b] = connected(&pair.ports);
        let domain = match place {
            "its own" => b.domain(),
            "the sender's" => a.domain(),
            _ => Arc::clone(&pair.ports[1]).domain().unwrap(),
        };
        // SAFETY: `memory` outlives the region, and is not looked at.
        let region = unsafe { domain.register(base, 64, access) }.unwrap();
        let (rkey, to) = (region.rkey(), region.address());
        let region = keep.then_some(region);
        a.write_and_say(&[(rkey, to, b"x")], &message(1)).unwrap();
        while pair.net.step() {}
        drop(region);
        (a.take_seen(), b)
    };
    let (seen, _b) = attack(&mut pair, "its own", Access::RemoteWrite, true);
    assert_eq!(seen, [Seen::Sent(0)]);
    for (name, place, access, keep) in [
        ("of another port", "the sender's", Access::RemoteWrite, true),
        ("of another domain", "another", Access::RemoteWrite, true),
        ("a source of WRITEs", "its own", Access::Local, true),
        ("deregistered", "its own", Access::RemoteWrite, false),
    ] {
        let (seen, b) = attack(&mut pair, place, access, keep);
        assert!(broke(&seen, LinkError::Refused), "{name}: {seen:?}");
        assert_eq!(
            pair.events(1),
            [PortEvent::LinkFailed(b.link_id())],
            "{name}"
        );
    }
    drop(memory);
}

#[test]
fn domains_live_as_long_as_what_is_in_them() {
    let config = SimConfig {
        max_domains: 2,
        ..SimConfig::new()
    };
    let net = SimNet::new(config, 7);
    let port = net.port("sim0/1");
    let a = RawPeer::new(&port, 0, 44, MEMORY).unwrap();
    let domain = Arc::clone(&port).domain().unwrap();
    assert_eq!(
        Arc::clone(&port).domain().err(),
        Some(Errno::NOMEM),
        "no more"
    );
    let link = domain.link(port.gids()[0], Psn::default(), 44).unwrap();
    drop(a);
    assert_eq!(port.domains(), 1, "the link keeps its own");
    drop(link);
    assert_eq!(port.domains(), 0);
}

#[test]
fn what_has_left_arrives_after_its_sender_is_gone() {
    let (mut some, mut none) = (0, 0);
    for seed in 0..60 {
        let mut pair = Pair::new(SimConfig::new(), seed);
        let (rkey, to) = pair.b.rtoken();
        pair.a
            .write_and_say(&[(rkey, to, &[7; 20_000])], &message(1))
            .unwrap();
        pair.net.advance_by(Duration::from_micros(seed % 25));
        pair.a.die();
        assert!(!pair.ports[0].links().contains(&pair.a.link_id()));
        pair.run();
        let arrived = pair
            .b
            .read(0, 20_000)
            .iter()
            .filter(|byte| **byte == 7)
            .count();
        some += usize::from(arrived > 0 && arrived < 20_000);
        none += usize::from(arrived == 0);
        assert!(arrived == 20_000 || pair.b.take_messages().is_empty());
        assert_eq!(pair.net.next_event(), None);
    }
    assert!(some > 0 && none > 0, "{some} in part, {none} not at all");
}

#[test]
fn a_late_write_to_deregistered_memory_breaks_the_receiver() {
    let mut pair = Pair::new(SimConfig::new(), 9);
    let mut memory = vec![0u8; 64];
    let base = NonNull::from(&mut memory[..]).cast::<u8>();
    // SAFETY: `memory` outlives the region.
    let region = unsafe { pair.b.domain().register(base, 64, Access::RemoteWrite) }.unwrap();
    pair.a
        .write_and_say(&[(region.rkey(), region.address(), b"late")], &message(1))
        .unwrap();
    drop(region);
    drop(memory);
    pair.run();
    assert!(broke(&pair.a.take_seen(), LinkError::Refused));
    assert_eq!(failures(&pair.b.take_seen()), [LinkError::Flushed]);
}

#[test]
fn who_does_not_poll_sees_nothing() {
    let mut pair = Pair::new(SimConfig::new(), 10);
    pair.ports[1].stall(true);
    pair.ports[1].arm();
    pair.a.say(&message(1)).unwrap();
    pair.run();
    assert_eq!(pair.b.take_seen(), []);
    assert_eq!(pair.a.take_seen(), [Seen::Sent(0)], "its adapter answers");
    pair.ports[1].stall(false);
    assert_eq!(pair.b.take_seen(), [Seen::Message(message(1))]);
}

/// Whatever breaks, each post is done or its link has failed, and then nothing is left to happen.
#[test]
fn nothing_hangs_under_random_faults() {
    let mut broken = 0;
    for seed in 0..300 {
        let mut pair = Pair::new(SimConfig::new(), seed);
        let mut posted = [0u64; 2];
        let mut seen = [Vec::new(), Vec::new()];
        for _ in 0..200 {
            let side = (pair.net.random() % 2) as usize;
            let [from, to] = if side == 0 {
                [&mut pair.a, &mut pair.b]
            } else {
                [&mut pair.b, &mut pair.a]
            };
            let (rkey, address) = to.rtoken();
            let bytes = vec![side as u8; 1 + pair.net.random() as usize % 4000];
            let post = from.write_and_say(&[(rkey, address, &bytes)], &message(posted[side]));
            posted[side] += u64::from(post.is_ok());
            if pair.net.random().is_multiple_of(150) {
                pair.net.inject_random(2 * SECOND);
            }
            pair.net
                .advance_by(Duration::from_micros(pair.net.random() % 50));
            seen[0].extend(pair.a.take_seen());
            seen[1].extend(pair.b.take_seen());
        }
        for _ in 0..50 {
            pair.run();
            seen[0].extend(pair.a.take_seen());
            seen[1].extend(pair.b.take_seen());
        }
        assert_eq!(pair.net.next_event(), None, "seed {seed}");
        for side in 0..2 {
            let sent = |seen: &&Seen| matches!(seen, Seen::Sent(_));
            let sent = seen[side].iter().filter(sent).count() as u64;
            let has_failed = !failures(&seen[side]).is_empty();
            assert!(
                sent == posted[side] || has_failed,
                "seed {seed} side {side}"
            );
            let heard = seen[side].iter().filter_map(|seen| match seen {
                Seen::Message(message) => Some(message.clone()),
                _ => None,
            });
            let said = (0..).map(message);
            assert!(
                heard.zip(said).all(|(heard, said)| heard == said),
                "in order"
            );
            broken += u32::from(has_failed);
        }
    }
    assert!((60..540).contains(&broken), "{broken} of 600");
}

#[test]
fn a_lost_packet_holds_up_its_own_link_only() {
    let mut pair = Pair::new(SimConfig::new(), 11);
    let [mut c, mut d] = connected(&pair.ports);
    pair.a.say(&message(1)).unwrap();
    pair.a.say(&message(2)).unwrap();
    c.say(&message(3)).unwrap();
    pair.net.inject(Fault::Lose(pair.a.link_id()));
    pair.net.advance_by(Duration::from_millis(49));
    assert_eq!(d.take_messages(), [message(3)]);
    assert_eq!(pair.b.take_messages(), Vec::<Vec<u8>>::new());
    pair.net.advance_by(Duration::from_millis(2));
    assert_eq!(pair.b.take_messages(), [message(1), message(2)]);
    assert_eq!(pair.a.take_seen().len(), 2);
}
