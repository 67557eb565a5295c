//! The two ends of a ring, and the kernel between them.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread::yield_now;

use super::shm::cursors::{self, ALWAYS, ONCE};
use super::shm::sync::{Ordering, fence};
use super::shm::{Local, RmbeControl};

/// Bytes in the ring.
const SIZE: usize = 2;

/// Unread bells that fit, and how many make the writer's end unwritable. (The kernel takes eleven,
/// and three are enough.)
const MOST_BELLS: usize = 2;
const BLOCKED: u32 = 2;

/// A readiness pair: the writer's bells.
#[derive(Debug, Default)]
struct Pair {
    unread: Mutex<usize>,
    changed: Condvar,
}

impl Pair {
    fn try_send(&self) -> bool {
        let mut unread = self.unread.lock().unwrap();
        let fits = *unread < MOST_BELLS;
        if fits {
            *unread += 1;
            self.changed.notify_all();
        }
        fits
    }

    fn send(&self) {
        let mut unread = self.unread.lock().unwrap();
        while *unread >= MOST_BELLS {
            unread = self.changed.wait(unread).unwrap();
        }
        *unread += 1;
        self.changed.notify_all();
    }

    fn try_recv(&self) -> bool {
        let mut unread = self.unread.lock().unwrap();
        let is_there = *unread > 0;
        if is_there {
            *unread -= 1;
            self.changed.notify_all();
        }
        is_there
    }

    fn wait_readable(&self) {
        let mut unread = self.unread.lock().unwrap();
        while *unread == 0 {
            unread = self.changed.wait(unread).unwrap();
        }
    }
}

/// What both ends see.
#[derive(Debug, Default)]
struct Shared {
    control: RmbeControl,
    bytes: [UnsafeCell<u8>; SIZE],
    pair: Pair,
}

impl Shared {
    /// As in `conn/bell.rs`.
    fn ring(&self) {
        self.control.bells.fetch_add(1, Ordering::Relaxed);
        if !self.pair.try_send() {
            self.control.bells.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// As in `conn/bell.rs`.
    fn drain(&self, count: u32) {
        let unread = self.control.bells.load(Ordering::Relaxed);
        for _ in 0..count.min(unread) {
            if !self.pair.try_recv() {
                break;
            }
            self.control.bells.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The writing end. It writes 0, 1, 2...
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    local: Local,
    next: u8,
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Reader {
    shared: Arc<Shared>,
    local: Local,
    next: u8,
}

/// The reading end of a send buffer.
#[derive(Debug)]
pub(crate) struct Wire(Reader);

pub(crate) fn connected() -> (Writer, Reader) {
    let shared = Arc::new(Shared::default());
    let writer = Writer {
        shared: Arc::clone(&shared),
        local: Local::default(),
        next: 0,
    };
    let reader = Reader {
        shared,
        local: Local::default(),
        next: 0,
    };
    (writer, reader)
}

impl Writer {
    fn free(&self) -> usize {
        let control = &self.shared.control;
        cursors::free(control, &self.local, SIZE, 1).expect("cursors that can be")
    }

    /// As `Smc::send_some`: what fits.
    pub(crate) fn try_send(&mut self, wanted: usize) -> usize {
        let len = wanted.min(self.free());
        if len == 0 {
            return 0;
        }
        let shared = &self.shared;
        for byte in 0..len {
            let at = self.local.prod.load(Ordering::Relaxed) as usize + byte;
            // SAFETY: the model checks that nobody else looks at it now.
            shared.bytes[at % SIZE].with_mut(|place| unsafe { *place = self.next });
            self.next += 1;
        }
        if cursors::publish(&shared.control, &self.local, len) {
            shared.ring();
        }
        len
    }

    /// As `Smc::send` with `Smc::wait_writable`: sleeps while there is no space.
    pub(crate) fn send(&mut self, wanted: usize) {
        let mut left = wanted;
        while left > 0 {
            left -= self.try_send(left);
            if left == 0 {
                return;
            }
            let shared = &self.shared;
            cursors::wait_for_space(&shared.control);
            if self.free() > 0 {
                continue;
            }
            for _ in 0..MOST_BELLS {
                shared.ring();
            }
            cursors::wait_for_space(&shared.control);
            if self.free() > 0 {
                continue;
            }
            shared.control.bells.fetch_add(1, Ordering::Relaxed);
            shared.pair.send();
        }
    }
}

impl Reader {
    fn available(&self) -> usize {
        let control = &self.shared.control;
        cursors::available(control, &self.local, SIZE).expect("cursors that can be")
    }

    fn take(&mut self, len: usize) -> bool {
        for byte in 0..len {
            let at = self.local.cons.load(Ordering::Relaxed) as usize + byte;
            // SAFETY: the model checks that nobody writes to it now.
            let byte = self.shared.bytes[at % SIZE].with(|place| unsafe { *place });
            assert_eq!(byte, self.next, "lost, doubled or out of order");
            self.next += 1;
        }
        cursors::consume(&self.shared.control, &self.local, SIZE, len)
    }

    /// As `Smc::recv_some`: what there is. `level`: how it asks for bells.
    fn try_receive(&mut self, wanted: usize, level: u32) -> usize {
        let shared = Arc::clone(&self.shared);
        let control = &shared.control;
        cursors::arm(control, &self.local, SIZE, level);
        let mut bells = control.bells.load(Ordering::Acquire);
        if bells > 1 && level == ALWAYS {
            shared.drain(bells - 1);
            bells = 1;
            fence(Ordering::SeqCst);
        }
        let available = self.available();
        let len = available.min(wanted);
        if len == 0 {
            if available == 0 {
                shared.drain(bells);
            }
            return 0;
        }
        let wake_writer = self.take(len);
        let is_empty = len == available;
        if wake_writer {
            shared.drain(bells.saturating_sub(u32::from(!is_empty)));
            let more = control.bells.load(Ordering::Acquire);
            if more >= BLOCKED {
                shared.drain(more - 1);
            }
        } else if is_empty {
            shared.drain(bells);
        }
        len
    }

    /// As `Smc::recv` with `Smc::wait_readable`: sleeps while there is nothing.
    pub(crate) fn receive(&mut self, wanted: usize) {
        self.receive_at(wanted, ONCE);
    }

    /// The same for one whose every arrival has to ring.
    pub(crate) fn receive_by_edges(&mut self, wanted: usize) {
        self.receive_at(wanted, ALWAYS);
    }

    /// The same for one that waits awake.
    pub(crate) fn receive_awake(&mut self, wanted: usize) {
        let mut left = wanted;
        while left > 0 {
            let got = self.try_receive(left.min(1), ONCE);
            left -= got;
            if got == 0 {
                yield_now();
            }
        }
    }

    fn receive_at(&mut self, wanted: usize, level: u32) {
        let mut left = wanted;
        while left > 0 {
            let got = self.try_receive(left.min(1), level);
            left -= got;
            if got == 0 && cursors::arm(&self.shared.control, &self.local, SIZE, level) {
                self.shared.pair.wait_readable();
            }
        }
    }
}

impl Wire {
    pub(crate) fn new(reader: Reader) -> Self {
        Self(reader)
    }

    /// As `rdma::Connection::completed`: each byte is delivered some time.
    pub(crate) fn deliver(&mut self, wanted: usize) {
        let mut left = wanted;
        while left > 0 {
            if self.0.available() == 0 {
                yield_now();
                continue;
            }
            left -= 1;
            if self.0.take(1) {
                self.0.shared.drain(u32::MAX);
            }
        }
    }
}
