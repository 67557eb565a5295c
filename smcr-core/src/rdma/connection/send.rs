//! What goes out: the bytes of the send buffer by RDMA WRITE, and CDC messages that tell of them.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::io::Errno;

use super::{Connection, PeerElement, Posted, Pumped};
use crate::cdc::{CdcMessage, ConnState, Cursor, ProducerFlags};
use crate::clc::Rkey;
use crate::close::CloseEvent;
use crate::conn::bell;
use crate::rdma::fabric::{Link, Write};

/// A WRITE is at most this long, so that the peer can begin to read while more is on its way.
const LONGEST_WRITE: usize = 128 << 10;

/// Work requests that are left to LLC messages, whatever the connections want.
const LLC_ROOM: usize = 8;

/// So much of the send buffer may be on its way without anybody asking to hear of its delivery: a
/// completion wakes the thread, and what it frees is of no use while the program has room. A writer
/// that waits needs half of the ring, which is more than what is left then.
const UNTOLD: usize = 4;

/// A message to be posted.
struct Next {
    len: usize,
    flags: ProducerFlags,
    state: ConnState,
}

impl Connection {
    /// Looks at what the program's end did, and posts what can be posted on `link`. `posted` is
    /// told of each message and gives it its number.
    ///
    /// # Errors
    /// The link is broken.
    pub(in crate::rdma) fn pump(
        &mut self,
        link: &mut dyn Link,
        now: Instant,
        posted: &mut dyn FnMut(Posted) -> u64,
    ) -> Result<Pumped, Errno> {
        loop {
            self.see_program(now);
            if self.outbound.consume(&self.own, 0) {
                // It began to wait when there was room already.
                self.wake_writer();
            }
            if self.publish() {
                self.ring();
            }
            let Some(next) = self.next_message() else {
                return Ok(Pumped::Idle);
            };
            // A range of the stream wraps in our ring and in the peer's, not at the same place.
            if link.room() < LLC_ROOM + 4 {
                return Ok(Pumped::NoRoom);
            }
            let writes = self.writes(next.len);
            let up_to = self.sent + next.len as u64;
            let seq = self.seq_out.next();
            let consumed = self.confirmed();
            let message = CdcMessage {
                seq,
                token: self.peer.token,
                producer: Cursor::from_position(up_to, self.out_window),
                consumer: Cursor::from_position(consumed, self.in_window),
                flags: next.flags,
                state: next.state,
            };
            let id = posted(Posted { up_to });
            let signal = self.wants_completion(up_to, &next);
            // SAFETY: the bytes lie in the send buffer beyond its consumer cursor, which moves
            // past them only when the post is completed; the program's end does not touch them.
            unsafe { link.post(&writes, &message.emit(), id, signal)? };
            self.in_flight += 1;
            if signal {
                self.told_to = up_to;
                self.untold = 0;
                self.must_hear = false;
            } else {
                self.untold += 1;
            }
            self.sent = up_to;
            self.seq_out = seq;
            self.out_state = next.state;
            self.out_flags = next.flags;
            self.must_tell = false;
            self.shared.announced.store(consumed, Ordering::Relaxed);
            self.shared.eager.store(self.is_eager(), Ordering::Relaxed);
            if next.flags.contains(ProducerFlags::URGENT_PRESENT) {
                self.urgent_told = up_to;
            }
            if self.to_say != ConnState::NONE && self.out_state.contains(self.to_say) {
                self.to_say = ConnState::NONE;
                self.happened(CloseEvent::Sent, now);
            }
        }
    }

    /// Whether the delivery of a message has to be told, and of all before it: it frees so much of
    /// the send buffer that it matters to whoever waits for room, now or later; or it is a last
    /// word, on which the end of the connection waits.
    ///
    /// No writer sleeps for good: one that finds the ring full has less than a quarter of it
    /// [untold](UNTOLD); the rest is on its way with completions to come, or was not posted yet and
    /// will have some.
    fn wants_completion(&self, up_to: u64, next: &Next) -> bool {
        let untold = (up_to - self.told_to) as usize;
        self.must_hear || next.state != self.out_state || untold >= self.outbound.size() / UNTOLD
    }

    /// What has to be said next, if anything.
    fn next_message(&mut self) -> Option<Next> {
        const LAST_WORD: ConnState = ConnState::CLOSED.with(ConnState::ABORTED);
        if self.broken || self.out_state.intersects(LAST_WORD) {
            return None;
        }
        let mut next = Next {
            len: 0,
            flags: ProducerFlags::NONE,
            state: self.out_state,
        };
        let control = self.outbound.control();
        let Ok(undelivered) = self.outbound.available(&self.own) else {
            // Only a bug, or a program that writes where it should not, does that.
            self.shut(Errno::CONNRESET);
            return None;
        };
        let produced = self.own.cons.load(Ordering::Relaxed) + undelivered as u64;
        if self.to_say.contains(ConnState::ABORTED) {
            // At once: what was not sent is thrown away (RFC 7609 §4.8.2).
            next.state = next.state | self.to_say;
            return Some(next);
        }
        let waiting = (produced - self.sent) as usize;
        let window = self.out_window.capacity() as u64 - (self.sent - self.peer_cons);
        let urgent = control.urgent.load(Ordering::Acquire).min(produced);
        let mut len = waiting.min(window as usize).min(LONGEST_WRITE);
        if self.urgent_told > self.peer_cons {
            // No WRITE until the urgent byte was read (RFC 7609 §4.7.5).
            len = 0;
        } else if urgent > self.urgent_told {
            next.flags = next.flags | ProducerFlags::URGENT_PENDING;
            let to_urgent = urgent.saturating_sub(self.sent) as usize;
            if to_urgent > 0 && to_urgent <= len {
                // The urgent byte is the one before the producer cursor.
                len = to_urgent;
                next.flags = next.flags | ProducerFlags::URGENT_PRESENT;
            }
        }
        if waiting > len && len == window as usize {
            next.flags = next.flags | ProducerFlags::WRITER_BLOCKED;
        }
        next.len = len;
        if waiting == 0 {
            next.state = next.state | self.to_say;
        }
        let needed = next.len > 0
            || next.state != self.out_state
            || next.flags.bits() & !self.out_flags.bits() != 0
            || self.must_tell
            || self.must_hear
            || self.owes_update();
        needed.then_some(next)
    }

    /// The pieces of our ring and of the peer's element that the next `len` bytes are in.
    fn writes(&self, len: usize) -> smallvec::SmallVec<[Write; 4]> {
        let mut writes = smallvec::SmallVec::new();
        if len == 0 {
            return writes;
        }
        let skip = (self.sent - self.own.cons.load(Ordering::Relaxed)) as usize;
        let mut position = self.sent;
        self.outbound
            .copy_out(&self.own, skip, len, |from, _, len| {
                let mut from = from;
                for piece in self.out_window.pieces(position, len as u32) {
                    if piece.len == 0 {
                        continue;
                    }
                    let Some(start) = std::ptr::NonNull::new(from) else {
                        return;
                    };
                    writes.push(Write {
                        from: start,
                        lkey: self.send_buffer.lkey,
                        len: piece.len,
                        to: self.peer.address.wrapping_add(u64::from(piece.offset)),
                        rkey: self.peer.rkey,
                    });
                    from = from.wrapping_add(piece.len as usize);
                }
                position += len as u64;
            });
        writes
    }

    /// How far the program has written.
    pub(super) fn produced(&self) -> u64 {
        let undelivered = self.outbound.available(&self.own).unwrap_or(0);
        self.own.cons.load(Ordering::Relaxed) + undelivered as u64
    }

    /// Whether there is something of the program's that the peer does not have, or does not know.
    pub(in crate::rdma) fn has_work(&self) -> bool {
        !self.broken
            && !self.said_last_word()
            && (self.produced() > self.own.cons.load(Ordering::Relaxed)
                || self.to_say != ConnState::NONE)
            || !self.broken && self.in_flight > 0
    }

    /// Somebody waits until everything that was sent is delivered, and has to hear of it.
    pub(in crate::rdma) fn ask_for_delivery(&mut self) {
        self.must_hear |= self.untold > 0;
    }

    /// A message that was posted is completed: the memory of its data can be used again.
    pub(in crate::rdma) fn completed(&mut self, posted: Posted) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let freed = posted.up_to - self.own.cons.load(Ordering::Relaxed).min(posted.up_to);
        if freed == 0 {
            return;
        }
        if self.outbound.consume(&self.own, freed as usize) {
            self.wake_writer();
        }
    }

    /// There is room for a program that waits for some.
    pub(super) fn wake_writer(&self) {
        // What else the packets told, another process' bell for data, is looked at before the lock is
        // left; the next one has to be asked for.
        bell::unplug(self.end.as_fd(), self.outbound.control());
        self.arm_for_others();
    }

    /// Whether we may still write to memory of the peer's that is in `element`, too. Not after our
    /// last word: the peer may have used it again before its own reached us.
    pub(in crate::rdma) fn writes_to(&self, element: &PeerElement) -> bool {
        !self.broken && !self.said_last_word() && self.peer.overlaps(element)
    }

    /// Whether we may still write to memory that the peer gave this key.
    pub(in crate::rdma) fn writes_by(&self, rkey: Rkey) -> bool {
        !self.broken && !self.said_last_word() && self.peer.rkey == rkey
    }
}
