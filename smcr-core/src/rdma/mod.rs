//! SMC-R over RDMA (RFC 7609): link groups whose links are RC queue pairs.
//!
//! [`fabric`] says what the engine needs of a network adapter. There are two: libibverbs, and a
//! simulation for tests.
//!
//! A connection's bytes lie in two rings in shared memory: the *RMBE*, which the peer's adapter
//! writes to, and the *send buffer*, which ours reads from. The program's end of them
//! ([`crate::conn::Smc`]) is the same as where two processes share memory; in the place of the
//! other process there is the [wire](connection). So whatever a program may do with its end (hand
//! it to a child, to another program, to several of them), the queue pair stays where it is: in
//! the process that made it.
//!
//! All of the wire is under one lock ([`Rdma::state`](Rdma)). Whoever needs it and finds it taken
//! leaves a note, which the holder reads before it goes. There is one thread, which sleeps until
//! the adapter, a timer or another process has something to say; while the program is awake it
//! does the work itself, in its own calls.

mod buffers;
mod connection;
pub mod fabric;
mod group;
mod handle;
mod state;
mod thread;

use std::time::Instant;

use parking_lot::Mutex;

pub(crate) use connection::PeerElement;
pub use handle::Handle;
pub(crate) use handle::forget_wires;
use handle::{ConnId, Kicked};
use state::State;

/// The wire of this process.
#[derive(Debug, Default)]
pub struct Rdma {
    state: Mutex<State>,
    kicked: Kicked,
    thread: thread::Thread,
}

impl Rdma {
    /// Takes care of what the programs did, if nobody else is at it.
    fn attend(&self) {
        while !self.kicked.is_empty() {
            // Whoever holds it looks at the list again after leaving it.
            let Some(mut state) = self.state.try_lock() else {
                return;
            };
            state.attend(&self.kicked, Instant::now());
            self.pass_on(&mut state);
        }
    }

    /// Takes what came from the wire, if nobody else is at it.
    fn poll(&self) {
        if let Some(mut state) = self.state.try_lock() {
            if state.poll(Instant::now()) > 0 {
                self.pass_on(&mut state);
            }
        } else {
            return;
        }
        self.attend();
    }

    /// See [`Handle::share`].
    fn share(&self, id: ConnId) {
        let mut state = self.state.lock();
        state.to_watch.push(id);
        self.thread.wake();
        drop(state);
        self.attend();
    }

    /// What only the thread can do is left to it.
    fn pass_on(&self, state: &mut State) {
        if !state.news.is_empty() || !state.to_watch.is_empty() {
            self.thread.wake();
        }
    }
}
