//! What the program's end of a connection holds of the wire, and how it gets the wire's attention.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::Rdma;

/// Counts the forks that led to this process: a wire belongs to the process that made it.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// To be called in the child after a fork.
pub(crate) fn forget_wires() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Another number in each child of a fork than in its parent.
pub(super) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Names a connection within [`Rdma`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnId {
    pub(super) index: u32,
    /// Places are used again.
    pub(super) generation: u32,
}

impl ConnId {
    const INDEX_BITS: u32 = 28;

    /// All of it in 60 bits.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << Self::INDEX_BITS | u64::from(self.index)
    }

    /// The opposite of [`Self::to_bits`].
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self {
            index: bits as u32 & ((1 << Self::INDEX_BITS) - 1),
            generation: (bits >> Self::INDEX_BITS) as u32,
        }
    }
}

/// What both ends may look at without the lock.
#[derive(Debug)]
pub(crate) struct Shared {
    id: ConnId,
    /// It waits in the [`Kicked`] list.
    waiting: AtomicBool,
    next: AtomicPtr<Self>,
    /// How far the peer knows that the program has read.
    pub(super) announced: AtomicU64,
    /// The peer wants to hear of every byte read.
    pub(super) eager: AtomicBool,
    /// This process closed its end, and another one has it.
    pub(super) left: AtomicBool,
}

impl Shared {
    pub(super) fn new(id: ConnId) -> Arc<Self> {
        Arc::new(Self {
            id,
            waiting: AtomicBool::new(false),
            next: AtomicPtr::new(ptr::null_mut()),
            announced: AtomicU64::new(0),
            eager: AtomicBool::new(false),
            left: AtomicBool::new(false),
        })
    }
}

/// Connections whose program did something, in a list without a lock: a signal handler may add to
/// it while the thread that it interrupted takes from it.
#[derive(Debug, Default)]
pub(super) struct Kicked(AtomicPtr<Shared>);

impl Kicked {
    fn push(&self, shared: &Arc<Shared>) {
        if shared.waiting.swap(true, Ordering::AcqRel) {
            return;
        }
        // The list holds a count of its own.
        let node = Arc::into_raw(Arc::clone(shared)).cast_mut();
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            shared.next.store(head, Ordering::Relaxed);
            let swapped =
                self.0
                    .compare_exchange_weak(head, node, Ordering::SeqCst, Ordering::Relaxed);
            match swapped {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        // Either whoever gave up the lock sees what was put into the list, or whoever did that sees
        // that the lock is free. (On x86 both have done something already that orders the two.)
        #[cfg(not(target_arch = "x86_64"))]
        std::sync::atomic::fence(Ordering::SeqCst);
        self.0.load(Ordering::SeqCst).is_null()
    }

    /// Takes all that are in the list now.
    pub(super) fn take(&self, mut each: impl FnMut(ConnId)) {
        let mut node = self.0.swap(ptr::null_mut(), Ordering::SeqCst);
        while !node.is_null() {
            // SAFETY: made by `into_raw` in `push`, and taken out of the list only here, once.
            let shared = unsafe { Arc::from_raw(node.cast_const()) };
            node = shared.next.load(Ordering::Relaxed);
            // From here on it may be put into the list again.
            shared.waiting.store(false, Ordering::Release);
            each(shared.id);
        }
    }
}

/// The program's side of a connection over RDMA.
#[derive(Debug, Clone)]
pub struct Handle {
    rdma: &'static Rdma,
    shared: Arc<Shared>,
    group: u32,
    generation: u32,
}

impl Handle {
    pub(super) fn new(rdma: &'static Rdma, shared: Arc<Shared>, group: u32) -> Self {
        let generation = GENERATION.load(Ordering::Relaxed);
        Self {
            rdma,
            shared,
            group,
            generation,
        }
    }

    /// The number of the link group in this process.
    pub(crate) fn group_id(&self) -> u32 {
        self.group
    }

    /// Names the connection at the wire.
    pub(crate) fn id(&self) -> ConnId {
        self.shared.id
    }

    /// Whether it is this process that keeps the wire. A child of a fork must not touch it.
    #[inline]
    pub(crate) fn is_local(&self) -> bool {
        self.generation == GENERATION.load(Ordering::Relaxed)
    }

    /// The program's end wrote, closed or said something: has the wire look at it, at once or by
    /// whoever is at work there.
    pub(crate) fn kick(&self) {
        self.rdma.kicked.push(&self.shared);
        self.rdma.attend();
    }

    /// The program read up to `consumed` of the `produced` bytes that came so far into an RMBE of
    /// `size` bytes: kicks if that is worth telling the peer (RFC 7609 §4.5.1).
    #[inline]
    pub(crate) fn consumed(&self, consumed: u64, produced: u64, size: usize) {
        let announced = self.shared.announced.load(Ordering::Relaxed);
        let (gain, size) = (consumed.saturating_sub(announced), size as u64);
        let small_window = produced.saturating_sub(announced) > size / 2;
        if gain > 0
            && (self.shared.eager.load(Ordering::Relaxed) || small_window && gain >= size / 10)
        {
            self.kick();
        }
    }

    /// The wire that the connection belongs to.
    pub(crate) fn rdma(&self) -> &'static Rdma {
        self.rdma
    }

    /// This process closed its end; another one goes on with it.
    pub(crate) fn leave(&self) {
        self.shared.left.store(true, Ordering::Relaxed);
        self.kick();
    }

    /// Another process will have the program's end, too: it cannot kick, but it can ring.
    pub(crate) fn share(&self) {
        self.rdma.share(self.shared.id);
    }
}

#[cfg(test)]
mod tests {
    use super::{ConnId, Kicked, Shared};

    fn shared(index: u32) -> std::sync::Arc<Shared> {
        Shared::new(ConnId {
            index,
            generation: 0,
        })
    }

    #[test]
    fn each_is_in_the_list_once() {
        let list = Kicked::default();
        let (a, b) = (shared(1), shared(2));
        for one in [&a, &b, &a, &b] {
            list.push(one);
        }
        let mut taken = Vec::new();
        list.take(|id| taken.push(id.index));
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
        assert!(list.is_empty());
        list.push(&a);
        list.take(|id| assert_eq!(id.index, 1));
        assert_eq!(std::sync::Arc::strong_count(&a), 1);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let list = Kicked::default();
        let one = shared(1);
        let kicks = std::sync::atomic::AtomicU32::new(0);
        let pushed = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    kicks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    list.push(&one);
                }
                pushed.store(true, std::sync::atomic::Ordering::SeqCst);
            });
            let mut seen = 0;
            loop {
                let over = pushed.load(std::sync::atomic::Ordering::SeqCst);
                // What was counted before the take has been seen after it.
                list.take(|_| seen = kicks.load(std::sync::atomic::Ordering::SeqCst));
                if over && list.is_empty() {
                    break;
                }
            }
            assert_eq!(seen, 10_000);
        });
    }
}
