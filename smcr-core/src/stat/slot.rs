//! One connection's line in the page, as its owner writes it.

use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::page::{Page, SLOT_LEN, SLOTS_OFFSET, SlotCell};
use super::words::{Counter, Mode, Role, State};
use crate::Reason;

/// What is known of a connection when it is first listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnInfo {
    /// Its state.
    pub state: State,
    /// What carries it.
    pub mode: Mode,
    /// Which end this process is.
    pub role: Role,
    /// Why it is on TCP, if it fell back.
    pub reason: Option<Reason>,
    /// Address of this end.
    pub local: Option<SocketAddr>,
    /// Address of the other end.
    pub peer: Option<SocketAddr>,
    /// Id of the link group, unique in this process; 0 for none.
    pub group: u64,
}

/// A handle to a listed connection, or to nothing: every method of a slot that stands for nothing
/// (page full, not published) does nothing, so that callers need not ask.
///
/// Copies stand for the same connection. After [`Slot::remove`] the others are stale: their
/// methods do nothing, except [`Slot::set_tx`] and [`Slot::set_rx`], which for speed do
/// not look and must not be called any more.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The page, `None` for a slot that stands for nothing. Pages are never unmapped.
    page: Option<NonNull<Page>>,
    index: u32,
    generation: u32,
}

// SAFETY: the pointer leads to memory made of atomics that stays mapped until the process ends.
unsafe impl Send for Slot {}
// SAFETY: as above; all methods work on atomics.
unsafe impl Sync for Slot {}

impl Default for Slot {
    fn default() -> Self {
        Self::NONE
    }
}

impl Slot {
    /// A slot that stands for nothing.
    pub const NONE: Self = Self {
        page: None,
        index: 0,
        generation: 0,
    };

    /// The slot `index` of `page`, not in use yet.
    ///
    /// # Safety
    /// `page` is a mapping with room for at least `index + 1` slots that is never unmapped, and
    /// the memory of that slot has been populated.
    pub(super) unsafe fn new(page: NonNull<Page>, index: u32) -> Self {
        let mut slot = Self {
            page: Some(page),
            index,
            generation: 0,
        };
        if let Some(cell) = slot.cell() {
            slot.generation = cell.generation.load(Ordering::Relaxed);
        }
        slot
    }

    /// Whether this slot stands for a connection in the page.
    pub fn is_listed(&self) -> bool {
        self.page.is_some()
    }

    /// Whether the line still stands for this connection: nobody removed it.
    pub fn is_current(&self) -> bool {
        self.cell()
            .is_some_and(|cell| cell.generation.load(Ordering::Relaxed) == self.generation)
    }

    /// Total bytes that the program has sent on this connection. One plain store.
    #[inline]
    pub fn set_tx(&self, total: u64) {
        if let Some(cell) = self.cell() {
            cell.sent.store(total, Ordering::Relaxed);
        }
    }

    /// Total bytes that the program has received on this connection. One plain store.
    #[inline]
    pub fn set_rx(&self, total: u64) {
        if let Some(cell) = self.cell() {
            cell.received.store(total, Ordering::Relaxed);
        }
    }

    /// Changes the state.
    pub fn set_state(&self, state: State) {
        self.update(|meta| Meta { state, ..meta });
    }

    /// Changes what carries the connection. Does not count it: the caller does, because it also
    /// knows of connections that are not listed.
    pub fn set_mode(&self, mode: Mode) {
        self.update(|meta| Meta { mode, ..meta });
    }

    /// Says why the connection is on TCP. Does not count the reason, see
    /// [`super::Publisher::fallback`].
    pub fn set_reason(&self, reason: Option<Reason>) {
        self.update(|meta| Meta { reason, ..meta });
    }

    /// Says which link group carries the connection, 0 for none.
    pub fn set_group(&self, group: u64) {
        if let Some(cell) = self.current() {
            cell.group.store(group, Ordering::Relaxed);
        }
    }

    /// Changes both addresses at once.
    pub fn set_addresses(&self, local: Option<SocketAddr>, peer: Option<SocketAddr>) {
        if let Some(cell) = self.current() {
            cell.write(|cell| {
                cell.local.store(local);
                cell.peer.store(peer);
            });
        }
    }

    /// Takes the connection off the list and adds its bytes to the totals of closed connections.
    pub fn remove(self) {
        let (Some(cell), Some(page)) = (self.cell(), self.page()) else {
            return;
        };
        // Only the first of several removals gets past this line.
        let next = self.generation.wrapping_add(1);
        if cell
            .generation
            .compare_exchange(self.generation, next, Ordering::Relaxed, Ordering::Relaxed)
            .is_err()
        {
            return;
        }
        let meta = Meta::decode(cell.meta.load(Ordering::Relaxed));
        self.add_to_totals(cell, meta);
        cell.write(|cell| cell.meta.store(0, Ordering::Relaxed));
        let list = &page.header.free_list;
        let mut head = list.load(Ordering::Relaxed);
        loop {
            cell.next.store(head as u32, Ordering::Relaxed);
            let new = head >> 32 << 32 | u64::from(self.index + 1);
            match list.compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Fills a slot that the caller just took from the free ones.
    pub(super) fn start(&self, info: &ConnInfo) {
        let Some(cell) = self.cell() else { return };
        let meta = Meta {
            state: info.state,
            mode: info.mode,
            role: info.role,
            reason: info.reason,
        };
        cell.write(|cell| {
            cell.local.store(info.local);
            cell.peer.store(info.peer);
            cell.group.store(info.group, Ordering::Relaxed);
            for total in [
                &cell.sent,
                &cell.received,
                &cell.inherited_sent,
                &cell.inherited_received,
            ] {
                total.store(0, Ordering::Relaxed);
            }
            cell.meta.store(meta.encode(), Ordering::Relaxed);
        });
    }

    #[inline]
    fn page(&self) -> Option<&Page> {
        // SAFETY: by the contract of `new` the page stays mapped and is made of atomics.
        self.page.map(|page| unsafe { page.as_ref() })
    }

    #[inline]
    fn cell(&self) -> Option<&SlotCell> {
        let page = self.page?.as_ptr().cast::<u8>();
        let offset = SLOTS_OFFSET + self.index as usize * SLOT_LEN;
        // SAFETY: by the contract of `new` the mapping has this slot, populated, for ever. Both
        // offsets are multiples of the slot's alignment, and it is made of atomics.
        Some(unsafe { &*page.add(offset).cast::<SlotCell>() })
    }

    /// The cell, unless the connection was removed.
    fn current(&self) -> Option<&SlotCell> {
        self.cell()
            .filter(|cell| cell.generation.load(Ordering::Relaxed) == self.generation)
    }

    /// Changes the small fields.
    fn update(&self, change: impl Fn(Meta) -> Meta) {
        let Some(cell) = self.current() else { return };
        // Fails if another thread removed the connection since the generation was looked at.
        let _ = cell
            .meta
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
                Meta::decode(old).map(|meta| change(meta).encode())
            });
    }

    fn count(&self, counter: Counter, by: u64) {
        if let Some(page) = self.page() {
            page.counters[counter as usize].fetch_add(by, Ordering::Relaxed);
        }
    }

    fn add_to_totals(&self, cell: &SlotCell, meta: Option<Meta>) {
        let (sent, received) = match meta.map(|meta| meta.mode) {
            Some(Mode::Shm) => (Counter::SentShm, Counter::ReceivedShm),
            Some(Mode::Rdma) => (Counter::SentRdma, Counter::ReceivedRdma),
            Some(Mode::Tcp) | None => return,
        };
        let own = |total: &AtomicU64, inherited: &AtomicU64| {
            let inherited = inherited.load(Ordering::Relaxed);
            total.load(Ordering::Relaxed).saturating_sub(inherited)
        };
        self.count(sent, own(&cell.sent, &cell.inherited_sent));
        self.count(received, own(&cell.received, &cell.inherited_received));
    }
}

/// The four bytes that describe a connection in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) state: State,
    pub(super) mode: Mode,
    pub(super) role: Role,
    pub(super) reason: Option<Reason>,
}

impl Meta {
    pub(super) fn encode(self) -> u32 {
        let reason = self.reason.map_or(0, |reason| reason as u8 + 1);
        u32::from_le_bytes([self.state as u8, self.mode as u8, self.role as u8, reason])
    }

    /// The words behind the numbers, `None` if one of them is unknown (or the slot free). A
    /// reason that this build does not know is dropped: the rest is still worth showing.
    pub(super) fn decode(word: u32) -> Option<Self> {
        let [state, mode, role, reason] = word.to_le_bytes();
        Some(Self {
            state: State::from_index(state)?,
            mode: Mode::from_index(mode)?,
            role: Role::from_index(role)?,
            reason: reason.checked_sub(1).and_then(Reason::from_index),
        })
    }
}
