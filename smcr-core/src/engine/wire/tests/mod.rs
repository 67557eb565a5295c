//! Handshakes for RDMA, and what peers may do to them. One end is the engine, whose thread's work
//! is done here step by step; the other one is played by hand, on loopback TCP and on a simulated
//! RDMA network.

mod bench;
mod elements;
mod eye_catchers;
mod fields;
mod first_contact;
mod moving;
mod peer;
mod sleepers;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bench::{Bench, Conn};
use peer::{Peer, Talk};

use super::*;
use crate::clc::{Endpoint, Message, RdmaEndpoint, Version};
use crate::handshake::rdma::Contact;

type Act = Box<dyn Fn(&Arc<Connection>)>;

thread_local! {
    /// See [`joined`].
    static JOINED: RefCell<Option<Act>> = const { RefCell::new(None) };
}

/// The rings of a connection are joined, and nobody is told so yet: whatever a test does now, a
/// program or a peer could do at this moment.
pub(super) fn joined(connection: &Arc<Connection>) {
    JOINED.with_borrow(|joined| {
        if let Some(act) = joined {
            act(connection);
        }
    });
}

/// Has this done at that moment of every connection that moves in this thread.
fn when_joined(act: impl Fn(&Arc<Connection>) + 'static) {
    JOINED.set(Some(Box::new(act)));
}
