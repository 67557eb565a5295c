//! The verdicts on a path that loses packets, or does not like the option.

use std::time::Instant;

use libtest_mimic::Trial;
use smcr_core::signal::option::Verdict;
use smcr_option::programs::OPTION;

use crate::net::{Fault, Path, Way};
use crate::packet::Packet;
use crate::sockets::{Ends, Family, Pair, listener};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        let mut add = |name: &str, test: fn(Family)| {
            let name = format!("{name}::{}", family.name());
            trials.push(trial(&name, move || test(family)));
        };
        add("lost_syn", |family| lost(family, Way::ToServer));
        add("lost_syn_ack", |family| lost(family, Way::ToClient));
        add("option_dropped", option_dropped);
        add("option_stripped_from_syn", option_stripped_from_syn);
        add("option_stripped_from_syn_ack", option_stripped_from_syn_ack);
        add("longer_option", longer_option);
        add("other_experiment", other_experiment);
    }
    trials
}

/// Both ends ask, on a path with this fault.
fn meet(family: Family, fault: Fault) -> (Pair, Path) {
    let path = Path::new(fault);
    let listener = path.server.enter(|| listener(family, true));
    let pair = Ends::on(&path, &listener, family).connect(true);
    (pair, path)
}

/// A fault that works on the options of packets that go one way.
fn on_option(way: Way, mut work: impl FnMut(&mut Packet, usize) -> bool + Send + 'static) -> Fault {
    Box::new(move |w, packet| match packet.option() {
        Some(at) if w == way => work(packet, at),
        _ => true,
    })
}

/// What the kernel sends again has the option again.
fn lost(family: Family, way: Way) {
    let mut is_first = true;
    let (mut pair, path) = meet(
        family,
        Box::new(move |w, packet| {
            let lose = is_first && w == way && packet.is_syn();
            is_first &= !lose;
            !lose
        }),
    );
    assert_eq!(pair.verdicts(), (Verdict::PeerSmc, Verdict::PeerSmc));
    let sent = path.options(way);
    assert!(sent.len() >= 2 && sent.iter().all(|has| *has), "{sent:?}");
    pair.carries_data();
}

/// A path that drops SYNs with the option: the client goes on without.
fn option_dropped(family: Family) {
    let began = Instant::now();
    let (mut pair, path) = meet(family, on_option(Way::ToServer, |_, _| false));
    assert!((1.0..30.0).contains(&began.elapsed().as_secs_f64()));
    assert_eq!(pair.verdicts(), (Verdict::Plain, Verdict::Plain));
    assert_eq!(path.options(Way::ToServer), [true, true, false]);
    assert_eq!(path.options(Way::ToClient), [false]);
    pair.carries_data();
}

/// A path that overwrites the option with NOPs.
fn option_stripped_from_syn(family: Family) {
    let (mut pair, path) = meet(
        family,
        on_option(Way::ToServer, |packet, at| {
            packet.change(at, &[1; OPTION.len()]);
            true
        }),
    );
    assert_eq!(pair.verdicts(), (Verdict::Plain, Verdict::Plain));
    assert_eq!(path.options(Way::ToClient), [false]);
    pair.carries_data();
}

/// The same on the way back. The server cannot know: this is why it has to look before it takes
/// what comes for CLC.
fn option_stripped_from_syn_ack(family: Family) {
    let (mut pair, path) = meet(
        family,
        on_option(Way::ToClient, |packet, at| {
            packet.change(at, &[1; OPTION.len()]);
            true
        }),
    );
    assert_eq!(pair.verdicts(), (Verdict::Plain, Verdict::PeerSmc));
    assert_eq!(path.options(Way::ToClient), [true]);
    pair.carries_data();
}

/// Linux's own SMC-R takes an option with more bytes behind the magic number; so do we.
fn longer_option(family: Family) {
    for way in [Way::ToServer, Way::ToClient] {
        let (pair, path) = meet(
            family,
            on_option(way, |packet, at| {
                // The kernel pads with NOPs behind it: they become part of it.
                assert_eq!(packet.bytes()[at + 6..at + 8], [1, 1]);
                packet.change(at, &[254, 8, 0xe2, 0xd4, 0xc3, 0xd9, 0x55, 0x55]);
                true
            }),
        );
        assert_eq!(pair.verdicts(), (Verdict::PeerSmc, Verdict::PeerSmc));
        assert_eq!(path.options(Way::ToClient), [true]);
    }
}

/// Kind 254 is shared with other experiments (RFC 6994), and may be malformed.
fn other_experiment(family: Family) {
    let others: [[u8; 6]; 5] = [
        [254, 6, 0xe2, 0xd4, 0xc3, 0xd8],
        [254, 4, 0xe2, 0xd4, 1, 1],
        [254, 2, 1, 1, 1, 1],
        [253, 6, 0xe2, 0xd4, 0xc3, 0xd9],
        [254, 0, 0xe2, 0xd4, 0xc3, 0xd9],
    ];
    for other in others {
        let (pair, path) = meet(
            family,
            on_option(Way::ToServer, move |packet, at| {
                packet.change(at, &other);
                true
            }),
        );
        assert_eq!(
            pair.verdicts(),
            (Verdict::Plain, Verdict::Plain),
            "{other:?}"
        );
        assert_eq!(path.options(Way::ToClient), [false]);
        let (pair, _path) = meet(
            family,
            on_option(Way::ToClient, move |packet, at| {
                packet.change(at, &other);
                true
            }),
        );
        assert_eq!(pair.client(), Verdict::Plain, "{other:?}");
    }
}
