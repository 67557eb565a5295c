//! The layout of a page. Writer and reader share these definitions: the writer maps them, the
//! reader takes the offsets.
//!
//! | offset | content |
//! | --- | --- |
//! | 0 | [`Header`] |
//! | 4096 | 512 counters of 8 bytes: [`super::Counter`] from 0, fallbacks by reason from 256 |
//! | 65536 | up to 65536 slots of 128 bytes, each a [`SlotCell`] |
//!
//! The slots begin at a multiple of every page size Linux uses, so that they can be backed with
//! memory piece by piece. Everything is native-endian: a page never leaves its host.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use super::words::COUNTERS;

/// First eight bytes of a page, stored last: a page without them is not ready.
pub(super) const MAGIC: u64 = u64::from_ne_bytes(*b"SMCRSTAT");
/// Version of the layout. A reader refuses any other.
pub(super) const VERSION: u32 = 1;
/// Slots of a page that nothing limits.
pub(super) const MAX_SLOTS: u32 = 65536;
/// Offset of the first slot.
pub(super) const SLOTS_OFFSET: usize = 65536;
/// Bytes of a slot.
pub(super) const SLOT_LEN: usize = size_of::<SlotCell>();
/// Offset of the first counter.
pub(super) const COUNTERS_OFFSET: usize = std::mem::offset_of!(Page, counters);

/// Who the page belongs to. Written once, before [`Header::magic`]; only `high_water` and
/// `free_list` change later.
#[repr(C, align(4096))]
pub(super) struct Header {
    /// [`MAGIC`], or 0 while the page is being made.
    pub(super) magic: AtomicU64,
    /// [`VERSION`].
    pub(super) version: AtomicU32,
    /// Process id, in the namespace `pid_ns`.
    pub(super) pid: AtomicU32,
    /// Start of the process, in clock ticks since boot (field 22 of /proc/pid/stat).
    pub(super) start_time: AtomicU64,
    /// Inode of the PID namespace, 0 if unknown.
    pub(super) pid_ns: AtomicU64,
    /// Inode of the time namespace, 0 if unknown.
    pub(super) time_ns: AtomicU64,
    /// Number of counters that follow at [`COUNTERS_OFFSET`].
    pub(super) counters: AtomicU32,
    /// Number of slots that the file has room for.
    pub(super) capacity: AtomicU32,
    /// Bytes per slot.
    pub(super) slot_len: AtomicU32,
    /// Slots below this one were used at some time; those from it on are holes in the file.
    pub(super) high_water: AtomicU32,
    /// Index + 1 of the first free slot below `high_water` (low half, 0 for none), and a tag
    /// that changes at each pop (high half), which keeps a slow thread's compare-exchange from
    /// succeeding on a list that changed and changed back.
    pub(super) free_list: AtomicU64,
    /// When the page was made: seconds since 1970.
    pub(super) opened_at: AtomicU64,
    /// The kernel's name of the process, NUL padded.
    pub(super) comm: [AtomicU8; 16],
    /// Version of the library, NUL padded.
    pub(super) library: [AtomicU8; 32],
    /// Base name of the executable, NUL padded.
    pub(super) exe: [AtomicU8; 256],
    /// Command line, arguments separated by blanks, cut to fit, NUL padded.
    pub(super) command: [AtomicU8; 2048],
}

/// The part of a page that always exists.
#[repr(C, align(4096))]
pub(super) struct Page {
    pub(super) header: Header,
    pub(super) counters: [AtomicU64; COUNTERS],
}

/// A socket address: 16 bytes of IPv6 address (IPv4 mapped), then port, family and scope.
#[repr(C)]
pub(super) struct AddressCell([AtomicU64; 3]);

/// One connection. `state` 0 means free.
///
/// What describes the connection as a whole is written under the sequence lock `seq` (odd while a
/// writer is at work); the single bytes of `meta` and the two totals are valid at any time.
#[repr(C, align(128))]
pub(super) struct SlotCell {
    pub(super) seq: AtomicU32,
    /// Index + 1 of the next free slot; meaningful only while this one is free.
    pub(super) next: AtomicU32,
    /// Bytes from the lowest: state, mode, role, reason + 1 (0 for none).
    pub(super) meta: AtomicU32,
    /// Which of the connections that ever used the slot this is.
    pub(super) generation: AtomicU32,
    pub(super) group: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) local: AddressCell,
    /// Part of `sent` that a parent process had sent before the fork that made this copy.
    pub(super) inherited_sent: AtomicU64,
    // The second cache line: sender and receiver are often different threads.
    pub(super) received: AtomicU64,
    pub(super) peer: AddressCell,
    /// As `inherited_sent`.
    pub(super) inherited_received: AtomicU64,
}

const _: () = {
    assert!(size_of::<Header>() == 4096);
    assert!(size_of::<Page>() == 8192 && size_of::<Page>() <= SLOTS_OFFSET);
    assert!(SLOT_LEN == 128);
    assert!(std::mem::offset_of!(SlotCell, received) == 64);
};

impl Page {
    /// A page without slots, all zero.
    pub(super) const fn new() -> Self {
        // SAFETY: all fields are atomic integers or arrays of them, for which zero is valid.
        unsafe { std::mem::zeroed() }
    }
}

/// Stores `text` into a NUL-padded field, cut so that one NUL is left.
pub(super) fn store_text(field: &[AtomicU8], text: &[u8]) {
    let room = field.len() - 1;
    for (i, cell) in field.iter().enumerate() {
        let byte = if i < room { text.get(i).copied() } else { None };
        cell.store(byte.unwrap_or(0), Ordering::Relaxed);
    }
}

const FAMILY_V4: u64 = 4;
const FAMILY_V6: u64 = 6;

impl AddressCell {
    pub(super) fn store(&self, address: Option<SocketAddr>) {
        for (cell, word) in self.0.iter().zip(encode_address(address)) {
            cell.store(word, Ordering::Relaxed);
        }
    }

    fn copy_from(&self, other: &Self) {
        for (to, from) in self.0.iter().zip(&other.0) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

pub(super) fn encode_address(address: Option<SocketAddr>) -> [u64; 3] {
    let Some(address) = address else {
        return [0; 3];
    };
    let (ip, family, scope) = match address {
        SocketAddr::V4(a) => (a.ip().to_ipv6_mapped(), FAMILY_V4, 0),
        SocketAddr::V6(a) => (*a.ip(), FAMILY_V6, a.scope_id()),
    };
    let bits = ip.to_bits();
    let tail = u64::from(address.port()) | family << 16 | u64::from(scope) << 32;
    [(bits >> 64) as u64, bits as u64, tail]
}

/// The address in three words, `None` where they hold none.
pub(super) fn decode_address(words: [u64; 3]) -> Option<SocketAddr> {
    let ip = Ipv6Addr::from_bits(u128::from(words[0]) << 64 | u128::from(words[1]));
    let port = words[2] as u16;
    match (words[2] >> 16) & 0xffff {
        FAMILY_V4 => Some(SocketAddr::new(IpAddr::V4(ip.to_ipv4_mapped()?), port)),
        FAMILY_V6 => {
            let scope = (words[2] >> 32) as u32;
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
        }
        _ => None,
    }
}

/// How often a sequence lock is tried before it is taken by force. Its holder stores a few words;
/// one that takes longer was interrupted by the very signal handler that waits here, or is dead.
const SEQ_TRIES: u32 = 1000;

impl SlotCell {
    /// Runs `change` so that a reader sees all of its stores or none.
    pub(super) fn write(&self, change: impl FnOnce(&Self)) {
        let mut seq = self.seq.load(Ordering::Relaxed);
        for _ in 0..SEQ_TRIES {
            if seq & 1 == 0 {
                let odd = seq.wrapping_add(1);
                match self
                    .seq
                    .compare_exchange(seq, odd, Ordering::Acquire, Ordering::Relaxed)
                {
                    Ok(_) => break,
                    Err(now) => seq = now,
                }
            } else {
                std::hint::spin_loop();
                seq = self.seq.load(Ordering::Relaxed);
            }
        }
        // Orders the odd number before the stores of `change`.
        fence(Ordering::Release);
        change(self);
        let even = (seq | 1).wrapping_add(1);
        self.seq.store(even, Ordering::Release);
    }

    /// Makes this cell, in a page that nobody else has seen, a copy of `parent`, which another
    /// process may be writing. Returns whether the slot is in use.
    pub(super) fn inherit(&self, parent: &Self) -> bool {
        for _ in 0..SEQ_TRIES {
            let before = parent.seq.load(Ordering::Acquire);
            self.meta
                .store(parent.meta.load(Ordering::Relaxed), Ordering::Relaxed);
            self.generation
                .store(parent.generation.load(Ordering::Relaxed), Ordering::Relaxed);
            self.group
                .store(parent.group.load(Ordering::Relaxed), Ordering::Relaxed);
            self.local.copy_from(&parent.local);
            self.peer.copy_from(&parent.peer);
            fence(Ordering::Acquire);
            if before & 1 == 0 && parent.seq.load(Ordering::Relaxed) == before {
                break;
            }
            std::hint::spin_loop();
        }
        let (sent, received) = (
            parent.sent.load(Ordering::Relaxed),
            parent.received.load(Ordering::Relaxed),
        );
        self.sent.store(sent, Ordering::Relaxed);
        self.inherited_sent.store(sent, Ordering::Relaxed);
        self.received.store(received, Ordering::Relaxed);
        self.inherited_received.store(received, Ordering::Relaxed);
        self.meta.load(Ordering::Relaxed) & 0xff != 0
    }
}
