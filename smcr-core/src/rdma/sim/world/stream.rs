//! A connection as its programs see it, and what they should see.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use libc::{MSG_DONTWAIT, MSG_OOB, SHUT_WR};
use rustix::io::Errno;

use super::{Random, Totals};
use crate::conn::io::Slices;
use crate::conn::{Arming, Smc};

/// The most that one call sends or receives.
const LONGEST: usize = 96 << 10;

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Program {
    smc: Smc,
    fd: OwnedFd,
}

impl Program {
    pub(super) fn new(smc: Smc, fd: OwnedFd) -> Self {
        Self { smc, fd }
    }

    pub(super) fn send(&self, bytes: &[u8], flags: i32) -> Result<usize, Errno> {
        let iov = [libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        }];
        // SAFETY: a source only reads, and `bytes` outlives it.
        let mut source = unsafe { Slices::new(&iov) }?;
        self.smc
            .send(self.fd.as_fd(), &mut source, flags | MSG_DONTWAIT)
    }

    pub(super) fn readiness(&self) -> i16 {
        self.smc.readiness()
    }

    pub(super) fn close(self, abort: bool) {
        self.smc.close(abort);
    }

    pub(super) fn receive(&self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let iov = [libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        }];
        // SAFETY: `bytes` outlives the sink, and nobody else uses it meanwhile.
        let mut sink = unsafe { Slices::new(&iov) }?;
        let received = self
            .smc
            .recv(self.fd.as_fd(), &mut sink, MSG_DONTWAIT, Arming::Now)?;
        Ok(received.bytes)
    }
}

/// What one side wrote and the other has not read.
#[derive(Debug, Default)]
struct Stream {
    written: VecDeque<u8>,
    total: u64,
    /// The writer said that there is no more.
    is_done: bool,
    /// The reader has seen the end, or an error.
    is_over: bool,
    /// The reader was told of an error by its own send. It is told once: what it reads after that
    /// is the end.
    was_told: bool,
}

/// See the module's description.
pub(super) struct Connection {
    /// `None`: closed.
    programs: [Option<Program>; 2],
    /// By its writer.
    streams: [Stream; 2],
    /// One side reset it, or wrote to one that had closed: both directions may end by an error.
    is_reset: bool,
    /// The link was disturbed: both directions may end by an error, but not in order before the
    /// last byte.
    pub(super) may_fail: bool,
    /// Which link group of the world it is of.
    pub(super) group: u64,
    wrong: Option<String>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (side, stream) in self.streams.iter().enumerate() {
            writeln!(
                f,
                "from {side}: {} written, {} unread, done {}, over {}; end open {}, bytes {:?}",
                stream.total,
                stream.written.len(),
                stream.is_done,
                stream.is_over,
                self.programs[side].is_some(),
                self.programs[side]
                    .as_ref()
                    .map(|p| (p.smc.bytes(), p.smc.readiness())),
            )?;
        }
        write!(
            f,
            "reset {}, may fail {}, group {}",
            self.is_reset, self.may_fail, self.group
        )
    }
}

impl Connection {
    /// `is_reset`: one end never came to be.
    pub(super) fn new(programs: [Option<Program>; 2], is_reset: bool, group: u64) -> Self {
        Self {
            programs,
            streams: Default::default(),
            is_reset,
            may_fail: is_reset,
            group,
            wrong: None,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.programs.iter().all(Option::is_none)
    }

    /// What was found out.
    pub(super) fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    /// Nothing is on its way.
    pub(super) fn has_read_everything(&self) -> bool {
        self.streams.iter().all(|stream| stream.written.is_empty())
    }

    /// Each side that still listens has read everything, and the end if there is one; or knows
    /// that something is broken.
    pub(super) fn is_settled(&self) -> bool {
        (0..2).all(|writer| {
            let stream = &self.streams[writer];
            let has_reader = self.programs[1 - writer].is_some();
            let may_come = !stream.written.is_empty() || stream.is_done;
            !has_reader || stream.is_over || !may_come
        })
    }

    pub(super) fn send(&mut self, side: usize, len: usize, random: &mut Random) {
        let len = len.clamp(1, LONGEST);
        let mut bytes = vec![0; len];
        random.fill(&mut bytes);
        self.write(side, &bytes, 0);
    }

    pub(super) fn urgent(&mut self, side: usize, random: &mut Random) {
        self.write(side, &[random.next() as u8], MSG_OOB);
    }

    fn write(&mut self, side: usize, bytes: &[u8], flags: i32) {
        let Some(program) = &self.programs[side] else {
            return;
        };
        let sent = program.send(bytes, flags);
        let peer_closed = self.programs[1 - side].is_none();
        let stream = &mut self.streams[side];
        match sent {
            Ok(len) => {
                if stream.is_done {
                    self.wrong = Some("sent after its own shutdown".to_owned());
                }
                stream.written.extend(&bytes[..len]);
                stream.total += len as u64;
                // TCP answers with a reset.
                self.is_reset |= peer_closed;
            }
            Err(Errno::AGAIN) => {}
            Err(Errno::PIPE) if stream.is_done => {}
            Err(Errno::PIPE | Errno::CONNRESET | Errno::CONNABORTED | Errno::TIMEDOUT)
                if self.may_fail || self.is_reset =>
            {
                self.streams[1 - side].was_told = true;
            }
            Err(errno) => self.wrong = Some(format!("send: {errno}")),
        }
    }

    /// Reads up to `len` bytes, or all there are.
    pub(super) fn receive(&mut self, side: usize, len: usize, totals: &mut Totals) {
        let Some(program) = &self.programs[side] else {
            return;
        };
        let stream = &mut self.streams[1 - side];
        let mut bytes = vec![0; len.clamp(1, LONGEST)];
        let mut left = len;
        while left > 0 {
            let wanted = left.min(bytes.len());
            match program.receive(&mut bytes[..wanted]) {
                Ok(0) => {
                    let whole = stream.is_done && stream.written.is_empty();
                    if !whole && !stream.is_over && !stream.was_told && !self.is_reset {
                        let unread = stream.written.len();
                        self.wrong = Some(format!("the end came {unread} bytes too early"));
                    }
                    totals.ends += u64::from(!stream.is_over);
                    stream.is_over = true;
                    return;
                }
                Ok(count) => {
                    let same = stream.written.len() >= count
                        && stream
                            .written
                            .drain(..count)
                            .eq(bytes[..count].iter().copied());
                    if !same {
                        let at = stream.total - stream.written.len() as u64;
                        self.wrong = Some(format!("other bytes before {at} from {}", 1 - side));
                        return;
                    }
                    if stream.is_over {
                        self.wrong = Some("bytes after the end".to_owned());
                    }
                    totals.bytes += count as u64;
                    left -= count;
                }
                Err(Errno::AGAIN) => return,
                Err(errno) => {
                    let known = [
                        Errno::CONNRESET,
                        Errno::CONNABORTED,
                        Errno::TIMEDOUT,
                        Errno::PIPE,
                    ];
                    if !known.contains(&errno) || !(self.may_fail || self.is_reset) {
                        self.wrong = Some(format!("receive: {errno} without a reason"));
                    }
                    totals.errors += 1;
                    stream.is_over = true;
                    return;
                }
            }
        }
    }

    pub(super) fn shutdown(&mut self, side: usize) {
        if let Some(program) = &self.programs[side] {
            // It says ENOTCONN after a reset.
            let _ = program.smc.shutdown(program.fd.as_fd(), SHUT_WR);
            self.streams[side].is_done = true;
        }
    }

    pub(super) fn close(&mut self, side: usize, abort: bool) {
        let Some(program) = self.programs[side].take() else {
            return;
        };
        program.smc.close(abort);
        // What comes to a closed end is answered by a reset, and so is closing over unread bytes.
        self.is_reset |= abort || !self.streams[1 - side].written.is_empty();
        self.streams[side].is_done = true;
        self.streams[1 - side].is_over = true;
    }
}
