//! A whole engine over a simulated RDMA network, a peer of which is hostile: see
//! `smcr_core::rdma::sim::world::Siege`.
//!
//! One at a time, since they look at what the process counts.

use std::sync::{Mutex, MutexGuard, PoisonError};

use smcr_core::cdc::EyeCatcher;
use smcr_core::clc::Version;
use smcr_core::rdma::sim::world::{Besieged, Moment, Siege};
use smcr_core::stat::Role;

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that an attack can be made in, by a peer that wants that in its elements.
fn each(
    eye_catcher: EyeCatcher,
    mut storm: impl FnMut(&mut Siege, Moment) -> Besieged,
) -> Besieged {
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
                let mut siege = Siege::new(1, role, version, eye_catcher);
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
    let last = each(EyeCatcher::None, Siege::cdc);
    assert!(last.attacks > 50);
    // Two more: cursors inside of it.
    let more = each(EyeCatcher::FourBytes, Siege::cdc);
    assert_eq!(more.attacks, last.attacks + 2);
}

#[test]
fn llc_messages_that_cannot_be() {
    for eye_catcher in [EyeCatcher::None, EyeCatcher::FourBytes] {
        let last = each(eye_catcher, Siege::llc);
        assert!(last.attacks > 3000);
    }
}

#[test]
fn questions_without_end_from_a_peer_that_takes_no_answer() {
    let _turn = turn();
    for version in [Version::V1, Version::V2] {
        let tally = Siege::new(2, Role::Server, version, EyeCatcher::None).deaf();
        assert!((100..1000).contains(&tally.attacks), "{tally:?}");
    }
}

#[test]
fn peers_that_never_confirm_their_link() {
    let _turn = turn();
    for role in [Role::Server, Role::Client] {
        Siege::new(3, role, Version::V2, EyeCatcher::None).silence();
    }
}

#[test]
fn keys_that_are_taken_back_while_connections_use_them() {
    let _turn = turn();
    for role in [Role::Server, Role::Client] {
        Siege::new(4, role, Version::V1, EyeCatcher::None).take_back();
    }
}

#[test]
fn eye_catchers_that_are_overwritten() {
    let _turn = turn();
    for role in [Role::Server, Role::Client] {
        for version in [Version::V2, Version::V1] {
            let tally = Siege::new(5, role, version, EyeCatcher::FourBytes).overwrite();
            assert_eq!(tally.attacks, 5);
        }
    }
}

#[test]
fn keys_of_another_peers_memory() {
    let _turn = turn();
    for role in [Role::Server, Role::Client] {
        for version in [Version::V1, Version::V2] {
            let tally = Siege::new(6, role, version, EyeCatcher::None).trespass();
            assert_eq!((tally.attacks, tally.links), (4, 4));
        }
    }
}
