//! One connection from the library's point of view: first TCP with a handshake pending, then SMC,
//! or TCP for good.

use std::cell::UnsafeCell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::client::Pending;
use super::tcp::{Options, TcpSocket};
use super::{Engine, PUBLISHER};
use crate::Reason;
use crate::conn::Smc;
use crate::conn::io::Source;
use crate::futex::{Mutex, MutexGuard};
use crate::stat::{ConnInfo, Counter, Mode, Role, Slot, State};
use crate::sys;

/// What carries the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// TCP; the peer's library has not called yet.
    Pending = 0,
    /// The CLC handshake runs: nobody may touch the TCP stream.
    Committing = 1,
    /// SMC.
    Smc = 2,
    /// TCP for good.
    Tcp = 3,
}

/// The most bytes that a program may send over TCP before the handshake. Any RMBE can hold them
/// (the smallest has this size).
pub(super) const EARLY_MAX: u32 = 16 << 10;

/// How long a program that wants to send more than [`EARLY_MAX`] is held back, to give the peer a
/// chance to accept: a busy server takes its time for some hundred clients at once.
const EARLY_WAIT: Duration = Duration::from_millis(250);

/// What became of a call that came before the handshake was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// So many bytes went out over TCP.
    Sent(usize),
    /// The phase has changed after so many bytes: look again, for the rest of them.
    Decided(usize),
}

/// A connection that uses SMC or may come to.
///
/// `fd` in the methods is the program's descriptor, one end of the readiness pair.
#[derive(Debug)]
pub struct Connection {
    phase: AtomicU32,
    /// Threads that sleep until the phase changes.
    waiters: AtomicU32,
    smc: OnceLock<Smc>,
    pub(super) tcp: TcpSocket,
    /// Its line in the statistics; changed only by [`Self::relist`].
    slot: UnsafeCell<Slot>,
    pub(super) info: ConnInfo,
    pending: Mutex<Option<Pending>>,
    /// The number the helper thread knows it by.
    helper_id: AtomicU64,
    /// `O_NONBLOCK` and `SO_OOBINLINE` as far as we saw them set, for the time of the switch.
    nonblocking: AtomicBool,
    oob_inline: AtomicBool,
    /// Why it is on TCP: a [`Reason`]'s discriminant, -1 for none.
    reason: AtomicI32,
}

// SAFETY: `slot` is the only field that is not Sync by itself; see `relist`.
unsafe impl Sync for Connection {}

impl Connection {
    fn new(phase: Phase, tcp: TcpSocket, info: ConnInfo, smc: OnceLock<Smc>) -> Self {
        Self {
            phase: AtomicU32::new(phase as u32),
            waiters: AtomicU32::new(0),
            smc,
            tcp,
            slot: UnsafeCell::new(PUBLISHER.add(&info)),
            info,
            pending: Mutex::new(None),
            helper_id: AtomicU64::new(0),
            nonblocking: AtomicBool::new(false),
            oob_inline: AtomicBool::new(false),
            reason: AtomicI32::new(-1),
        }
    }

    pub(super) fn pending(tcp: OwnedFd, info: ConnInfo) -> Self {
        Self::new(Phase::Pending, TcpSocket::new(tcp), info, OnceLock::new())
    }

    pub(super) fn established(tcp: OwnedFd, info: ConnInfo, smc: Smc) -> Self {
        let connection = Self::new(Phase::Smc, TcpSocket::new(tcp), info, OnceLock::from(smc));
        connection.count_smc();
        connection
    }

    /// A connection that came by exec. It was counted when it was made. Without `tcp`: that was
    /// given up.
    pub(super) fn adopted(tcp: Option<OwnedFd>, info: ConnInfo, smc: Smc) -> Self {
        let tcp = match tcp {
            Some(tcp) => TcpSocket::new(tcp),
            None => TcpSocket::given_up(Options::of_address(info.local)),
        };
        let connection = Self::new(Phase::Pending, tcp, info, OnceLock::new());
        let (nonblocking, oob_inline) = smc.modes();
        connection.nonblocking.store(nonblocking, Ordering::Relaxed);
        connection.oob_inline.store(oob_inline, Ordering::Relaxed);
        connection.note_bytes(&smc);
        let _ = connection.smc.set(smc);
        connection.set_phase(Phase::Smc);
        connection
    }

    /// Starts the pending phase.
    pub fn begin(&self, pending: Pending) {
        *self.pending.lock() = Some(pending);
    }

    /// What carries the stream now.
    #[inline]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Pending,
            1 => Phase::Committing,
            2 => Phase::Smc,
            _ => Phase::Tcp,
        }
    }

    /// The stream over SMC, in that phase.
    #[inline]
    pub fn smc(&self) -> Option<&Smc> {
        if self.phase.load(Ordering::Acquire) == Phase::Smc as u32 {
            self.smc.get()
        } else {
            None
        }
    }

    /// The TCP socket behind the connection, which has the bytes while it is [`Phase::Pending`].
    /// `None` once the program's own descriptor is the TCP socket. Outside that phase, and without
    /// its lock, it may be given up at any time: see [`Self::with_tcp`].
    pub(super) fn tcp(&self) -> Option<BorrowedFd<'_>> {
        self.tcp.get()
    }

    /// Its line in the statistics.
    #[inline]
    pub fn slot(&self) -> Slot {
        // SAFETY: written only while no other thread runs.
        unsafe { *self.slot.get() }
    }

    /// In the child after a fork: lists an inherited connection again, if the parent closed it
    /// before its line was copied.
    ///
    /// # Safety
    /// No other thread runs.
    pub unsafe fn relist(&self) {
        // SAFETY: by this function's contract.
        unsafe { self.tcp.forget_users() };
        if self.slot().is_current() {
            return;
        }
        let mode = self.smc().map_or(Mode::Tcp, Smc::mode);
        let slot = PUBLISHER.add(&ConnInfo {
            mode,
            state: State::Active,
            ..self.info
        });
        // SAFETY: by this function's contract.
        unsafe { *self.slot.get() = slot };
        if let Some(smc) = self.smc() {
            self.note_bytes(smc);
        }
    }

    /// Which end of the connection this is.
    pub(super) fn role(&self) -> Role {
        self.info.role
    }

    pub(super) fn is_server(&self) -> bool {
        self.info.role == Role::Server
    }

    /// Notes in the statistics how far the stream is.
    #[inline]
    pub fn note_bytes(&self, smc: &Smc) {
        let (sent, received) = smc.bytes();
        let slot = self.slot();
        slot.set_tx(sent);
        slot.set_rx(received);
    }

    fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::SeqCst);
        // Either we see the waiter, or it sees the phase.
        if self.waiters.load(Ordering::SeqCst) > 0 {
            sys::futex_wake(&self.phase, i32::MAX);
        }
    }

    /// Sleeps until the phase is no longer `now`, or the time is over.
    fn wait_phase(&self, now: Phase, timeout_ms: u32) {
        self.waiters.fetch_add(1, Ordering::SeqCst);
        sys::futex_wait(&self.phase, now as u32, timeout_ms);
        self.waiters.fetch_sub(1, Ordering::SeqCst);
    }

    /// Sleeps while the phase is [`Phase::Committing`]; the handshake's own deadlines bound it.
    pub fn wait_decided(&self) {
        while self.phase.load(Ordering::Acquire) == Phase::Committing as u32 {
            self.wait_phase(Phase::Committing, 1000);
        }
    }

    /// Waits until the handshake is decided, or the peer has not called within `at_most`.
    pub fn wait_for_peer(&self, at_most: Duration) {
        let began = Instant::now();
        while self.phase() == Phase::Pending {
            let left = at_most.saturating_sub(began.elapsed());
            if left.is_zero() {
                return;
            }
            let ms = left.as_millis() as u32 + 1;
            self.wait_phase(Phase::Pending, ms);
        }
        self.wait_decided();
    }

    /// Why the connection is on TCP, once it is.
    pub fn fallback_reason(&self) -> Option<Reason> {
        let index = self.reason.load(Ordering::Relaxed);
        u8::try_from(index).ok().and_then(Reason::from_index)
    }

    /// Sends before the handshake: over TCP, counted.
    ///
    /// # Errors
    /// As send(2) on the TCP socket; `EAGAIN` also when the program sent all it may.
    pub fn send_early(
        &self,
        fd: BorrowedFd<'_>,
        source: &mut impl Source,
        flags: i32,
        nonblocking: bool,
        engine: &'static Engine,
    ) -> Result<Early, Errno> {
        if flags & libc::MSG_OOB != 0 {
            self.withdraw(Reason::Unsupported);
            return Ok(Early::Decided(0));
        }
        let began = Instant::now();
        let mut sent = 0;
        loop {
            match self.send_early_some(source)? {
                Some(n) => sent += n,
                None => return Ok(Early::Decided(sent)),
            }
            if source.left() == 0 {
                return Ok(Early::Sent(sent));
            }
            // Held back: the peer may be about to accept.
            let over_rdma = self.is_over_rdma();
            if nonblocking {
                if !over_rdma {
                    engine.helper_deadline(self, EARLY_WAIT);
                }
                crate::conn::bell::fill(fd);
                return if sent > 0 {
                    Ok(Early::Sent(sent))
                } else {
                    Err(Errno::AGAIN)
                };
            }
            let wait = if over_rdma {
                engine.longest_handshake()
            } else {
                EARLY_WAIT
            };
            let left = wait.saturating_sub(began.elapsed());
            if left.is_zero() {
                self.withdraw(Reason::EarlyData);
            } else {
                self.wait_phase(Phase::Pending, left.as_millis() as u32 + 1);
            }
        }
    }

    /// Sends what may go out now. `None`: the phase has changed.
    fn send_early_some(&self, source: &mut impl Source) -> Result<Option<usize>, Errno> {
        let mut guard = self.pending.lock();
        let (Phase::Pending, Some(pending), Some(tcp)) = (self.phase(), guard.as_mut(), self.tcp())
        else {
            drop(guard);
            self.wait_decided();
            return Ok(None);
        };
        let mut sent = 0;
        let mut piece = [0u8; 2048];
        if let Some(rdma) = &mut pending.rdma {
            // The peer expects CLC on the TCP stream.
            while source.left() > 0 && rdma.held() < EARLY_MAX as usize {
                let room = EARLY_MAX as usize - rdma.held();
                let len = source.left().min(room).min(piece.len());
                // SAFETY: `piece` has room for `len`.
                let taken = unsafe { source.take(piece.as_mut_ptr(), len) }?;
                if taken == 0 {
                    break;
                }
                rdma.hold(&piece[..taken]);
                sent += taken;
            }
            return Ok(Some(sent));
        }
        while source.left() > 0 && pending.early < EARLY_MAX {
            let room = (EARLY_MAX - pending.early) as usize;
            let len = source.left().min(room).min(piece.len());
            // SAFETY: `piece` has room for `len`.
            let taken = unsafe { source.take(piece.as_mut_ptr(), len) }?;
            if taken == 0 {
                break;
            }
            match sys::send(tcp, &piece[..taken], libc::MSG_DONTWAIT) {
                Ok(n) => {
                    source.back(taken - n);
                    pending.early += n as u32;
                    sent += n;
                }
                Err(errno) => {
                    source.back(taken);
                    if sent > 0 || errno == Errno::AGAIN {
                        break;
                    }
                    return Err(errno);
                }
            }
        }
        Ok(Some(sent))
    }

    /// Gives up the handshake if it has not begun, and waits for its end if it has. Afterwards
    /// the phase is SMC or TCP.
    pub fn withdraw(&self, reason: Reason) {
        self.wait_decided();
        if self.stop_asking(reason) {
            return;
        }
        if self.is_over_rdma() {
            return self.wait_for_rdma(reason);
        }
        let mut guard = self.pending.lock();
        if self.phase() == Phase::Pending {
            self.to_tcp(&mut guard, reason);
        }
        drop(guard);
        self.wait_decided();
    }

    /// Whether the program sent something that a pending handshake for RDMA holds back.
    pub(super) fn holds_back(&self) -> bool {
        let guard = self.pending.lock();
        let rdma = guard.as_ref().and_then(|pending| pending.rdma.as_ref());
        rdma.is_some_and(|rdma| rdma.held() > 0)
    }

    /// Whether a handshake for RDMA is pending.
    pub(crate) fn is_over_rdma(&self) -> bool {
        let guard = self.pending.lock();
        guard.as_ref().is_some_and(|pending| pending.rdma.is_some())
    }

    /// Waits until a pending handshake for RDMA is decided; there is no way back from it alone.
    fn wait_for_rdma(&self, reason: Reason) {
        if let Some(engine) = super::engine() {
            self.wait_for_peer(engine.longest_handshake());
        }
        self.give_up_rdma(reason);
    }

    /// Ends a pending handshake for RDMA that nobody wants to wait for any longer: the connection
    /// is reset.
    pub(super) fn give_up_rdma(&self, reason: Reason) {
        let mut guard = self.pending.lock();
        if self.phase() != Phase::Pending {
            return;
        }
        let rdma = guard.as_mut().and_then(|pending| pending.rdma.take());
        if let (Some(mut rdma), Some(engine), Some(tcp)) = (rdma, super::engine(), self.tcp()) {
            super::helper::disconnect(tcp);
            engine.forget_rdma(self, &mut rdma);
            self.to_tcp(&mut guard, reason);
        }
    }

    /// When the pending handshake for RDMA, if there is one, has to go on.
    pub(super) fn rdma_timeout(&self) -> Option<Instant> {
        self.pending.lock().as_ref()?.rdma.as_ref()?.poll_timeout()
    }

    /// The program closes while a handshake for RDMA is pending: it goes on, so that what was sent
    /// is delivered. False if there is none.
    fn close_later(&self, abort: bool) -> bool {
        if self.stop_asking(Reason::Ended) {
            // TCP delivers it.
            return false;
        }
        let mut guard = self.pending.lock();
        let pending = guard.as_mut().filter(|_| self.phase() == Phase::Pending);
        let Some(pending) = pending else { return false };
        let Some(rdma) = &mut pending.rdma else {
            return false;
        };
        rdma.close(abort);
        // The program's descriptor is no more.
        pending.on_tcp = Box::new(|_| {});
        true
    }

    /// The stream stays on TCP: the program's descriptor becomes the TCP socket again.
    pub(super) fn to_tcp(&self, guard: &mut Option<Pending>, reason: Reason) {
        let Some(pending) = guard.take() else { return };
        log::debug!("{} -> {}: tcp, {reason}", pending.local, pending.peer);
        let tcp = self.tcp();
        if let Some(engine) = super::engine() {
            engine.helper_forget(self, tcp);
        }
        if let Some(tcp) = tcp {
            (pending.on_tcp)(tcp);
        }
        self.slot().set_mode(Mode::Tcp);
        self.slot().set_state(State::Active);
        self.slot().set_reason(Some(reason));
        self.reason.store(reason as i32, Ordering::Relaxed);
        PUBLISHER.fallback(reason);
        PUBLISHER.count(Counter::ConnectionsTcp);
        self.set_phase(Phase::Tcp);
        // Sleepers on the old descriptor wake up when `pending` goes, with its end of the pair.
        drop(pending);
        drop(self.tcp.take());
    }

    /// The handshake began: from here on the TCP stream belongs to CLC.
    pub(super) fn set_committing(&self) {
        self.set_phase(Phase::Committing);
    }

    /// The handshake succeeded. `confirm` tells the peer, when everything is in place.
    pub(super) fn set_smc(&self, smc: Smc, confirm: impl FnOnce()) {
        let group = smc.group_id();
        if self.smc.set(smc).is_err() {
            log::error!("a connection moved to SMC twice");
        }
        // Either the program that sets them now sees the stream, or we see what it set.
        fence(Ordering::SeqCst);
        if let Some(smc) = self.smc.get() {
            smc.set_nonblocking(self.is_nonblocking());
            smc.set_oob_inline(self.is_oob_inline());
        }
        self.slot().set_group(u64::from(group));
        self.count_smc();
        confirm();
        self.set_phase(Phase::Smc);
    }

    /// Tells the connection that `O_NONBLOCK` was set or cleared.
    pub fn set_nonblocking(&self, on: bool) {
        self.nonblocking.store(on, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if let Some(smc) = self.smc.get() {
            smc.set_nonblocking(on);
        }
    }

    /// Whether `O_NONBLOCK` is set, as far as we saw.
    pub fn is_nonblocking(&self) -> bool {
        self.nonblocking.load(Ordering::Relaxed)
    }

    /// Tells the connection about `SO_OOBINLINE`.
    pub fn set_oob_inline(&self, on: bool) {
        self.oob_inline.store(on, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if let Some(smc) = self.smc.get() {
            smc.set_oob_inline(on);
        }
    }

    pub(super) fn is_oob_inline(&self) -> bool {
        self.oob_inline.load(Ordering::Relaxed)
    }

    pub(super) fn helper_id(&self) -> u64 {
        self.helper_id.load(Ordering::Relaxed)
    }

    pub(super) fn set_helper_id(&self, id: u64) {
        self.helper_id.store(id, Ordering::Relaxed);
    }

    fn count_smc(&self) {
        let mode = self.smc.get().map_or(Mode::Tcp, Smc::mode);
        self.slot().set_mode(mode);
        self.slot().set_state(State::Active);
        self.slot().set_reason(None);
        PUBLISHER.count(mode.counter());
        PUBLISHER.count(Counter::HandshakesDone);
    }

    pub(super) fn lock_pending(&self) -> MutexGuard<'_, Option<Pending>> {
        self.pending.lock()
    }

    /// Another process has this connection, too.
    pub fn inherited(&self) {
        if let Some(smc) = self.smc() {
            smc.inherited();
        }
    }

    /// Takes back [`Self::inherited`].
    pub fn not_inherited(&self) {
        if let Some(smc) = self.smc() {
            smc.not_inherited();
        }
    }

    /// See [`Smc::forking`].
    pub fn forking(&self, fork: u64) {
        if let Some(smc) = self.smc() {
            smc.forking(fork);
        }
    }

    /// See [`Smc::not_forked`].
    pub fn not_forked(&self) {
        if let Some(smc) = self.smc() {
            smc.not_forked();
        }
    }

    /// The last descriptor of this process for the connection is about to be closed. `abort`: by
    /// a reset. To be called before the descriptor itself is closed.
    pub fn close(&self, abort: bool) {
        if !self.close_later(abort) {
            self.withdraw(Reason::Ended);
        }
        if let Some(smc) = self.smc() {
            self.note_bytes(smc);
            smc.close(abort);
        }
        self.slot().remove();
        if let Some(engine) = super::engine() {
            engine.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
