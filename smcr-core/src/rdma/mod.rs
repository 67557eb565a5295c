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

mod attention;
mod buffers;
mod connection;
pub mod fabric;
mod group;
mod handle;
mod lookout;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod sim;
mod state;
pub mod verbs;

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::futex::{Mutex, MutexGuard};
use attention::Attention;
pub(crate) use connection::PeerElement;
use fabric::Port;
pub(crate) use group::GroupKey;
pub use handle::Handle;
use handle::Kicked;
pub(crate) use handle::{ConnId, Shared, forget_wires};
use lookout::Lookout;
pub(crate) use lookout::Seated;
pub use lookout::Sitter;
pub(crate) use state::{Established, News, Prepared, State};

/// How often the thread polls the ports in one go, if they always have something.
const MOST_TURNS: u32 = 64;

/// The wire of this process.
#[derive(Debug)]
pub struct Rdma {
    state: Mutex<State>,
    kicked: Kicked,
    attention: Attention,
    lookout: Lookout,
    /// Wakes the thread when written to.
    wake: OwnedFd,
}

/// The wire, to oneself. Whoever wanted something meanwhile gets it when this is dropped.
pub(crate) struct Locked<'a> {
    rdma: &'a Rdma,
    guard: Option<MutexGuard<'a, State>>,
}

impl Rdma {
    /// A wire without ports. `wake` is an eventfd of the thread that serves it; `max_memory` are
    /// the bytes that the process may have in rings, all together.
    pub(crate) fn new(wake: OwnedFd, max_memory: u64) -> Self {
        Self {
            state: Mutex::new(State::new(max_memory)),
            kicked: Kicked::default(),
            attention: Attention::new(),
            lookout: Lookout::default(),
            wake,
        }
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked {
            rdma: self,
            guard: Some(self.state.lock()),
        }
    }

    /// The program's side of an established connection.
    pub(crate) fn handle(&'static self, shared: Arc<Shared>, group: u32) -> Handle {
        self.attention.begin();
        Handle::new(self, shared, group)
    }

    /// The port that came as the `place`th, from 0, unless it is gone.
    pub(crate) fn port(&self, place: usize) -> Option<Arc<dyn Port>> {
        self.state.lock().port(place)
    }

    /// The ports that came after the first `known`, in their order; `None` where one is gone.
    pub(crate) fn ports_from(&self, known: usize) -> Vec<Option<Arc<dyn Port>>> {
        self.state.lock().ports_from(known)
    }

    /// For the thread: does everything that is due, and takes what only it can do.
    pub(crate) fn look_after(&self, now: Instant) -> (Vec<News>, Vec<ConnId>) {
        // First what programs wait for, then what costs time.
        self.poll_all(now);
        if self.ask_adapters() {
            // What completed in between is not told.
            self.poll_all(now);
        }
        let mut state = self.lock();
        state.attend(&self.kicked, now);
        state.timeouts(now);
        state.publish_now_and_then(now);
        state.take_news()
    }

    /// Takes all that came from the wire. A port hands out some dozens at a time, and wakes us only
    /// for what comes after it was armed: what is left would be left for long.
    fn poll_all(&self, now: Instant) {
        let mut state = self.lock();
        let mut turns = MOST_TURNS;
        while turns > 0 && state.poll(now) > 0 {
            turns -= 1;
        }
        if turns == 0 {
            // The other things have to be done, too.
            self.wake();
        }
    }

    /// Wakes the thread.
    fn wake(&self) {
        let _ = rustix::io::write(self.wake.as_fd(), &1u64.to_ne_bytes());
    }

    /// When the thread has to look again.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.state.lock().next_timeout()
    }

    /// The TCP connection behind a connection ended.
    pub(crate) fn tcp_ended(&self, id: ConnId) {
        self.lock().tcp_ended(id, Instant::now());
    }

    /// Delivers what the program sent, before its process (`close`) or its image ends and the
    /// queue pairs with it: as long as it gets on, `at_most` so long.
    pub(crate) fn finish(&self, close: bool, at_most: Duration) {
        let began = Instant::now();
        loop {
            let mut state = self.lock();
            if !state.has_ports() {
                return;
            }
            let now = Instant::now();
            state.poll(now);
            let has_work = state.finish(close, now);
            if has_work && now - began < at_most {
                drop(state);
                std::thread::sleep(Duration::from_micros(100));
                continue;
            }
            if close {
                state.close_groups(now);
            }
            drop(state);
            break;
        }
        if close {
            // The last words are on their way; a queue pair that goes at once takes them along.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Looks whether ports were removed. A system call for each.
    pub(crate) fn look_for_ports(&self) {
        self.lock().look_for_ports(Instant::now());
    }

    /// Something happened to a port.
    pub(crate) fn port_events(&self) {
        self.lock().port_events(Instant::now());
    }

    /// Hands out this end of a connection, if it is still there: another process rings there.
    pub(crate) fn with_end(&self, id: ConnId, with: impl FnOnce(BorrowedFd<'_>)) {
        if let Some(connection) = self.lock().connection(id) {
            with(connection.listen());
        }
    }

    /// Another process rang for this connection.
    pub(crate) fn answer_bell(&self, id: ConnId) {
        self.lock().answer_bell(id);
    }

    /// Takes care of what the programs did, if nobody else is at it.
    fn attend(&self) {
        while !self.kicked.is_empty() {
            // Whoever holds it looks at the list again after leaving it.
            let Some(mut state) = self.state.try_lock() else {
                return;
            };
            state.attend(&self.kicked, Instant::now());
            self.pass_on(&state);
        }
    }

    /// For a program: takes what came from the wire, if nobody else is at it.
    pub(crate) fn poll(&self) {
        if let Some(mut state) = self.state.try_lock()
            && state.poll(Instant::now()) > 0
        {
            self.attention.found();
            self.pass_on(&state);
        }
        self.attend();
    }

    /// See [`Handle::share`].
    fn share(&self, id: ConnId) {
        self.lock().watch(id);
    }

    /// What only the thread can do is left to it.
    fn pass_on(&self, state: &State) {
        if state.has_news() {
            self.wake();
        }
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.guard.as_deref().expect("held until it is dropped")
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.guard.as_deref_mut().expect("held until it is dropped")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.guard.take() {
            self.rdma.pass_on(&state);
            drop(state);
            self.rdma.attend();
        }
    }
}
