//! Receiving over SMC.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::io::Errno;

use super::io::Sink;
use super::smc::{Smc, state};
use super::tx::PIECE;
use super::waiting::Waiting;
use super::{bell, spin};
use crate::shm::{BadCursor, Local};
use crate::sys;

/// How a receive left the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes received; 0 at the end of the stream.
    pub bytes: usize,
    /// The ring is empty now, and the peer was *not* asked to ring: whoever sleeps next on this
    /// socket has to arm it first.
    pub unarmed: bool,
}

/// Who arms the socket when a receive has emptied the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arming {
    /// The receive itself: somebody we do not see may wait for readiness.
    Now,
    /// The caller, before it sleeps: saves the peer a system call for each message.
    Later,
}

impl Smc {
    /// `recv`: `flags` are those of recv(2), of which `MSG_DONTWAIT`, `MSG_PEEK` and
    /// `MSG_WAITALL` matter here (`MSG_OOB`: see [`Self::recv_urgent`]; `MSG_TRUNC`: pass a
    /// sink that discards).
    ///
    /// # Errors
    /// As recv(2) on a TCP socket.
    #[inline]
    pub fn recv(
        &self,
        fd: BorrowedFd<'_>,
        sink: &mut impl Sink,
        flags: i32,
        arming: Arming,
    ) -> Result<Received, Errno> {
        let mut bytes = 0;
        let mut peeked = 0;
        if sink.left() == 0 {
            return self.recv_nothing(fd, flags);
        }
        if flags & libc::MSG_DONTWAIT == 0 && self.is_quiet() && !self.is_nonblocking() {
            // Nothing to take the lock for.
            self.spin(|| !self.is_quiet());
        }
        loop {
            match self.recv_some(fd, sink, flags, peeked, arming) {
                Ok(Received { bytes: 0, .. }) => {
                    return Ok(Received {
                        bytes,
                        unarmed: false,
                    });
                }
                Ok(some) => {
                    bytes += some.bytes;
                    if flags & libc::MSG_PEEK != 0 {
                        peeked += some.bytes;
                    }
                    let enough = flags & libc::MSG_WAITALL == 0 && bytes >= self.low_water();
                    if enough || sink.left() == 0 || self.at_mark(peeked) {
                        return Ok(Received { bytes, ..some });
                    }
                }
                // Never a signal: recv_some makes no sleeping system call.
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if flags & libc::MSG_DONTWAIT == 0 && !self.is_nonblocking() => {
                    if let Err(errno) = self.wait_readable(fd, peeked, bytes > 0, arming) {
                        return self.partly(bytes, errno);
                    }
                }
                Err(errno) => return self.partly(bytes, errno),
            }
        }
    }

    /// Some bytes were received before the error: they are reported, the error by the next call.
    fn partly(&self, bytes: usize, errno: Errno) -> Result<Received, Errno> {
        if bytes == 0 {
            return Err(errno);
        }
        if errno == Errno::CONNRESET {
            self.local
                .error
                .store(errno.raw_os_error() as u32, Ordering::Relaxed);
        }
        Ok(Received {
            bytes,
            unarmed: false,
        })
    }

    /// A receive of no bytes: TCP waits until there is something, and returns nothing of it.
    #[cold]
    fn recv_nothing(&self, fd: BorrowedFd<'_>, flags: i32) -> Result<Received, Errno> {
        loop {
            if let Some(errno) = self.take_error() {
                return Err(errno);
            }
            let ended = self.see_flags() || self.state() & state::READ_SHUT != 0;
            if ended || self.readable().is_ok_and(|n| n > 0) {
                return Ok(Received {
                    bytes: 0,
                    unarmed: false,
                });
            }
            if flags & libc::MSG_DONTWAIT != 0 || self.is_nonblocking() {
                return Err(Errno::AGAIN);
            }
            self.wait_readable(fd, 0, false, Arming::Now)?;
        }
    }

    #[inline]
    fn recv_some(
        &self,
        fd: BorrowedFd<'_>,
        sink: &mut impl Sink,
        flags: i32,
        peeked: usize,
        arming: Arming,
    ) -> Result<Received, Errno> {
        let _guard = self.local.rx_lock.lock().ok_or(Errno::AGAIN)?;
        let control = self.rx.control();
        // Armed before the cursor is read: whatever comes behind what we see here rings.
        let arm_now = arming == Arming::Now || self.local.sleepers.load(Ordering::SeqCst) > 0;
        if arm_now && !self.stays_readable(sink.left(), flags) {
            self.rx.arm(&self.local, self.arming_level());
        }
        // Bells rung before the cursor is read are for bytes that we see; later ones must stay.
        let mut bells = control.bells.load(Ordering::Acquire);
        if bells > 1 && self.edges.load(Ordering::Relaxed) {
            // A writer that rings for every arrival leaves it at two unread bells. Taken out
            // before the cursor is read: either what it did not ring for is seen below, or it
            // rings again.
            bell::drain(fd, control, bells - 1);
            bells = 1;
            std::sync::atomic::fence(Ordering::SeqCst);
        }
        // The end first, the cursor after it: what was sent before the end is not missed.
        let ended = self.see_flags();
        let available = match self.rx.available(&self.local) {
            Ok(available) => available,
            Err(bad) => {
                self.bad_cursor(bad);
                0
            }
        };
        let limit = if control.urgent.load(Ordering::Relaxed) != 0 {
            self.up_to_urgent(available, flags & libc::MSG_PEEK != 0)
        } else {
            available
        };
        let len = limit.saturating_sub(peeked).min(sink.left());
        if len == 0 {
            if available == 0 {
                bell::drain(fd, control, bells);
            }
            return self.recv_empty(fd, ended, flags);
        }
        let peek = flags & libc::MSG_PEEK != 0;
        let mut done = 0;
        let mut failed = None;
        let mut wake_writer = false;
        // Piece by piece: the writer goes on in the space of one while the next is copied.
        while done < len {
            let (skip, piece) = if peek {
                (peeked, len)
            } else {
                (0, (len - done).min(PIECE))
            };
            let before = done;
            self.rx
                .copy_out(&self.local, skip, piece, |from, offset, len| {
                    if failed.is_none() && before + offset == done {
                        // SAFETY: `from` is `len` published bytes of our ring.
                        match unsafe { sink.put(from, len) } {
                            Ok(n) => done += n,
                            Err(errno) => failed = Some(errno),
                        }
                    }
                });
            if !peek {
                wake_writer |= self.rx.consume(&self.local, done - before);
            }
            if done - before < piece {
                break;
            }
        }
        if let (0, Some(errno)) = (done, failed) {
            return Err(errno);
        }
        if peek {
            return Ok(Received {
                bytes: done,
                unarmed: false,
            });
        }
        self.tell_wire_of_reading();
        let empty = done == available;
        if wake_writer {
            // One bell stays while there is data: we are readable.
            let known = bells.saturating_sub(u32::from(!empty));
            bell::drain(fd, control, known);
            // The writer may have filled its end after we looked at the bells. Of those, too, one
            // stays, which may be for data.
            let more = control.bells.load(Ordering::Acquire);
            if more >= bell::BLOCKED {
                bell::drain(fd, control, more - 1);
            }
        } else if empty {
            bell::drain(fd, control, bells);
        }
        Ok(Received {
            bytes: done,
            unarmed: !arm_now && control.armed.load(Ordering::Relaxed) == 0,
        })
    }

    /// Something was consumed: the wire has to know when the peer waits for it.
    #[inline]
    fn tell_wire_of_reading(&self) {
        if let Some(wire) = self.wire() {
            let consumed = self.local.cons.load(Ordering::Relaxed);
            let produced = self.rx.control().prod.load(Ordering::Relaxed);
            wire.consumed(consumed, produced, self.rx.size());
        }
    }

    /// Whether this receive leaves data in the ring, and a bell that tells of them: no more bells
    /// are needed then, and three of them would make the peer's end unwritable.
    #[inline]
    fn stays_readable(&self, wanted: usize, flags: i32) -> bool {
        let taken = if flags & libc::MSG_PEEK != 0 {
            0
        } else {
            wanted
        };
        !self.edges.load(Ordering::Relaxed)
            && self.rx.control().bells.load(Ordering::Relaxed) > 0
            && self.rx.available(&self.local).is_ok_and(|n| n > taken)
    }

    #[cold]
    fn recv_empty(&self, fd: BorrowedFd<'_>, ended: bool, flags: i32) -> Result<Received, Errno> {
        let end = Received {
            bytes: 0,
            unarmed: false,
        };
        // The program would be told to come back later, and a killed peer leaves no flag: ask
        // the kernel. (A receive that may sleep asks when it is woken.)
        let asks = flags & libc::MSG_DONTWAIT != 0 || self.is_nonblocking();
        if ended || asks && self.see_hangup(fd, 0) {
            if self.rx.available(&self.local).is_ok_and(|n| n > 0) && !self.at_urgent_mark() {
                return Err(Errno::INTR); // it came in between: look again
            }
            // A peer that had closed before the error is an end of the stream, not an error: that
            // is for SO_ERROR.
            if self.state() & state::DROPPED != 0 {
                return Ok(end);
            }
            return self.take_error().map_or(Ok(end), Err);
        }
        if self.state() & state::READ_SHUT != 0 {
            return Ok(end);
        }
        Err(Errno::AGAIN)
    }

    /// Waits until there is something to see beyond `peeked` bytes, awake or asleep.
    #[cold]
    fn wait_readable(
        &self,
        fd: BorrowedFd<'_>,
        peeked: usize,
        has_some: bool,
        arming: Arming,
    ) -> Result<(), Errno> {
        let something = || {
            self.rx.available(&self.local).is_ok_and(|n| n > peeked)
                || self.see_flags()
                || self.state() & state::READ_SHUT != 0
        };
        if self.spin(something) {
            return Ok(());
        }
        let began = Instant::now();
        self.sleep_begin();
        // Both before the last look: what comes after it rings.
        let sleep = Waiting::on(self).fall_asleep();
        self.rx.arm(&self.local, self.arming_level());
        let asleep = !something();
        if asleep {
            spin::sleeps();
        }
        let woken = if !asleep {
            Ok(0)
        } else if peeked > 0 {
            // MSG_PEEK with MSG_WAITALL: a bell for the bytes already there must not end the
            // sleep, and none of them may be consumed.
            self.sleep_beyond_peeked(fd)
        } else if has_some {
            // MSG_WAITALL: a signal ends the call with what there is, SA_RESTART or not.
            self.sleep_interruptibly(fd)
        } else if arming == Arming::Later
            && let Some(woken) = self.sleep_in_recv(fd)
        {
            // Others that might wait for a bell have asked for one.
            woken.map(|()| 0)
        } else {
            // The bell stays for others who wait; SO_RCVTIMEO, SA_RESTART and O_NONBLOCK are
            // applied by the kernel.
            sys::recv(fd, &mut [], libc::MSG_PEEK)
        };
        drop(sleep);
        self.sleep_end();
        match woken {
            Ok(_) if something() => {
                spin::slept(&self.local.spin_ns, began.elapsed());
                Ok(())
            }
            Ok(_) => {
                if peeked == 0 {
                    self.recheck(fd);
                }
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    fn sleep_interruptibly(&self, fd: BorrowedFd<'_>) -> Result<usize, Errno> {
        let timeout =
            rustix::net::sockopt::socket_timeout(fd, rustix::net::sockopt::Timeout::Recv)?;
        let ms = timeout.map(|time| time.as_millis().min(i32::MAX as u128) as i32);
        match sys::poll_one(fd, libc::POLLIN | libc::POLLRDHUP, ms)? {
            0 => Err(Errno::AGAIN),
            _ => Ok(0),
        }
    }

    fn sleep_beyond_peeked(&self, fd: BorrowedFd<'_>) -> Result<usize, Errno> {
        bell::drain(fd, self.rx.control(), u32::MAX);
        let bells = sys::poll_one(fd, libc::POLLIN | libc::POLLRDHUP, Some(100))?;
        if bells & (libc::POLLRDHUP | libc::POLLHUP) != 0 {
            self.see_hangup(fd, 0);
        }
        Ok(0)
    }

    /// Bytes that a receive would return now.
    #[inline]
    pub fn readable(&self) -> Result<usize, BadCursor> {
        let available = self.rx.available(&self.local)?;
        if self.rx.control().urgent.load(Ordering::Relaxed) == 0 {
            return Ok(available);
        }
        let mark = self.urgent_mark();
        let cons = self.local.cons.load(Ordering::Relaxed);
        // The urgent byte itself, out of line, is not readable as normal data.
        let at_mark = mark == Some(cons) && !self.oob_inline() && available > 0;
        Ok(available - usize::from(at_mark))
    }

    /// How many bytes ever arrived: grows with each arrival (for edge-triggered watchers).
    #[inline]
    pub fn arrivals(&self) -> u64 {
        self.rx.control().prod.load(Ordering::Acquire)
    }

    /// `FIONREAD`: bytes up to the urgent mark, or all.
    pub fn fionread(&self) -> usize {
        let available = self.rx.available(&self.local).unwrap_or(0);
        let cons = self.local.cons.load(Ordering::Relaxed);
        match self.urgent_mark() {
            Some(mark) if !self.oob_inline() && mark >= cons => {
                ((mark - cons) as usize).min(available)
            }
            _ => available,
        }
    }

    fn oob_inline(&self) -> bool {
        self.local.oob_inline.load(Ordering::Relaxed) != 0
    }

    /// The stream position of the urgent byte, if one is announced and within the ring.
    fn urgent_mark(&self) -> Option<u64> {
        let urgent = self.rx.control().urgent.load(Ordering::Acquire);
        let cons = self.local.cons.load(Ordering::Relaxed);
        let prod = cons + self.rx.available(&self.local).ok()? as u64;
        // A position that is not between the cursors (nor just consumed) is a lie or history.
        (urgent > 0 && urgent <= prod && urgent > cons.saturating_sub(1)).then(|| urgent - 1)
    }

    /// How much a receive may return: it stops at the mark, and steps over an urgent byte that
    /// is not to be seen in line.
    #[cold]
    fn up_to_urgent(&self, available: usize, peek: bool) -> usize {
        let Some(mark) = self.urgent_mark() else {
            return available;
        };
        let cons = self.local.cons.load(Ordering::Relaxed);
        self.note_urgent(mark);
        if mark > cons {
            return ((mark - cons) as usize).min(available);
        }
        if mark < cons || self.oob_inline() || available == 0 {
            return available;
        }
        if available == 1 || peek {
            // Only the urgent byte is there; or TCP's peek, which does not look behind it.
            return 0;
        }
        // Something follows the urgent byte: step over it, and nobody can read it any more.
        self.local
            .urgent_byte
            .store(Local::URGENT_READ, Ordering::Relaxed);
        let _ = self.rx.consume(&self.local, 1);
        self.tell_wire_of_reading();
        available - 1
    }

    /// Remembers the urgent byte when it is first seen, for `recv(MSG_OOB)`.
    fn note_urgent(&self, mark: u64) {
        let cons = self.local.cons.load(Ordering::Relaxed);
        if self.local.urgent_seen.swap(mark + 1, Ordering::Relaxed) == mark + 1 || mark < cons {
            return;
        }
        let mut byte = 0u8;
        self.rx
            .copy_out(&self.local, (mark - cons) as usize, 1, |from, _, _| {
                // SAFETY: one published byte of our ring.
                byte = unsafe { from.read() };
            });
        self.local
            .urgent_byte
            .store(Local::URGENT_VALID | u32::from(byte), Ordering::Relaxed);
    }

    /// Whether an urgent byte waits to be read (`POLLPRI`).
    #[inline]
    pub(super) fn urgent_pending(&self) -> bool {
        if self.rx.control().urgent.load(Ordering::Relaxed) == 0 {
            return false;
        }
        if let Some(mark) = self.urgent_mark()
            && self.local.urgent_seen.load(Ordering::Relaxed) != mark + 1
        {
            return true;
        }
        self.local.urgent_byte.load(Ordering::Relaxed) & Local::URGENT_VALID != 0
    }

    /// Whether the next byte to be read is the urgent one (`SIOCATMARK`).
    pub fn at_urgent_mark(&self) -> bool {
        let cons = self.local.cons.load(Ordering::Relaxed);
        self.urgent_mark() == Some(cons)
    }

    fn at_mark(&self, peeked: usize) -> bool {
        let urgent = self.rx.control().urgent.load(Ordering::Relaxed);
        let here = self.local.cons.load(Ordering::Relaxed) + peeked as u64;
        urgent != 0 && self.urgent_mark() == Some(here)
    }

    /// `recv(MSG_OOB)`: the urgent byte.
    ///
    /// # Errors
    /// `EINVAL` if there is none, it was read already, or urgent data are received in line.
    pub fn recv_urgent(&self, sink: &mut impl Sink, flags: i32) -> Result<usize, Errno> {
        let _guard = self.local.rx_lock.lock().ok_or(Errno::AGAIN)?;
        if let Some(mark) = self.urgent_mark() {
            self.note_urgent(mark);
        }
        let word = self.local.urgent_byte.load(Ordering::Relaxed);
        if self.oob_inline() || word & Local::URGENT_VALID == 0 {
            return Err(Errno::INVAL);
        }
        if flags & libc::MSG_PEEK == 0 {
            self.local
                .urgent_byte
                .store(Local::URGENT_READ, Ordering::Relaxed);
        }
        if sink.left() == 0 {
            return Ok(0);
        }
        let byte = word as u8;
        // SAFETY: one byte on our stack.
        unsafe { sink.put(&byte, 1) }
    }
}
