//! A whole engine over a simulated RDMA network, a peer of which is hostile: see
//! `smcr_core::rdma::sim::world::Siege`.
//!
//! One at a time, since they look at what the process counts.

use std::sync::{Mutex, MutexGuard, PoisonError};

use smcr_core::clc::Version;
use smcr_core::rdma::sim::world::{Besieged, Moment, Siege};
use smcr_core::stat::Role;

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that an attack can be made in.
fn each(mut storm: impl FnMut(&mut Siege, Moment) -> Besieged) -> Besieged {
    let _turn = turn();
    let mut last = Besieged::default();
    for role in [Role::Server, Role::Client] {
        for version in [Version::V2, Version::V1] {
            // The later ones differ in CDC, which has one form.
            let later = [Moment::DataInFlight, Moment::Closing];
            let later = later.into_iter().filter(|_| version == Version::V2);
            for moment in [Moment::BeforeConfirm, Moment::Idle]
                .into_iter()
                .chain(later)
            {
                let mut siege = Siege::new(1, role, version);
                let tally = storm(&mut siege, moment);
                println!("{role:?} {version:?} {moment:?}: {tally:?}");
                last = tally;
            }
        }
    }
    last
}

#[test]
fn cdc_messages_that_cannot_be() {
    let last = each(Siege::cdc);
    assert!(last.attacks > 50);
}

#[test]
fn llc_messages_that_cannot_be() {
    let last = each(Siege::llc);
    assert!(last.attacks > 3000);
}

#[test]
fn questions_without_end_from_a_peer_that_takes_no_answer() {
    let _turn = turn();
    for version in [Version::V1, Version::V2] {
        let tally = Siege::new(2, Role::Server, version).deaf();
        assert!((100..1000).contains(&tally.attacks), "{tally:?}");
    }
}

#[test]
fn peers_that_never_confirm_their_link() {
    let _turn = turn();
    for role in [Role::Server, Role::Client] {
        Siege::new(3, role, Version::V2).silence();
    }
}

#[test]
fn keys_that_are_taken_back_while_connections_use_them() {
    let _turn = turn();
    for role in [Role::Server, Role::Client] {
        Siege::new(4, role, Version::V1).take_back();
    }
}

#[test]
fn keys_of_another_peers_memory() {
    let _turn = turn();
    for role in [Role::Server, Role::Client] {
        for version in [Version::V1, Version::V2] {
            let tally = Siege::new(5, role, version).trespass();
            assert_eq!((tally.attacks, tally.links), (4, 4));
        }
    }
}
