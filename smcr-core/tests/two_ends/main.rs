//! The two ends of a connection over shared memory, in one process: what comes out is what went
//! in, whatever the two do in whatever order, and poll says so.

mod oracle;
mod threads;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use smcr_core::cdc::EyeCatcher;
use smcr_core::conn::io::Slices;
use smcr_core::conn::{Arming, Home, Smc, bell};
use smcr_core::group::LinkGroup;
use smcr_core::shm::{Arena, Tx};
use smcr_core::sys;

/// Ring size of the tests, in bytes: the smallest.
pub(crate) const RING: usize = 16 << 10;

/// One end.
pub(crate) struct End {
    pub(crate) smc: Smc,
    pub(crate) fd: OwnedFd,
    pub(crate) group: Arc<LinkGroup>,
}

/// Two ends that are joined.
pub(crate) fn pair() -> [End; 2] {
    let groups = [1, 2].map(|id| LinkGroup::new(id, [id as u8; 16], RING as u32));
    let rings = groups
        .each_ref()
        .map(|group| group.take_rmbe(u64::MAX).unwrap());
    let writers = rings.each_ref().map(|rx| {
        let (rmb, index) = rx.rmbe();
        Tx::new(Arc::clone(rmb), index, EyeCatcher::None)
    });
    let arena = Arena::create().unwrap();
    let (a, b) = bell::pair().unwrap();
    let [rx_a, rx_b] = rings;
    let [tx_a, tx_b] = writers;
    let [group_a, group_b] = groups;
    let end = |tx, rx, group: Arc<LinkGroup>, fd: OwnedFd| {
        // A test that hangs shall fail.
        for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
            let time = [20i64, 0].map(i64::to_ne_bytes).concat();
            sys::set_bytes(fd.as_fd(), libc::SOL_SOCKET, option, &time).unwrap();
        }
        End {
            smc: Smc::new(
                tx,
                rx,
                arena.take().unwrap(),
                Home::Shm(Arc::clone(&group)),
                0,
            ),
            fd,
            group,
        }
    };
    // Each writes into the other's.
    [end(tx_b, rx_a, group_a, a), end(tx_a, rx_b, group_b, b)]
}

impl End {
    pub(crate) fn send(&self, bytes: &[u8], flags: i32) -> Result<usize, Errno> {
        let iov = [libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        }];
        // SAFETY: the bytes live across the call, and a source is only read.
        let mut source = unsafe { Slices::new(&iov) }.unwrap();
        self.smc.send(self.fd(), &mut source, flags)
    }

    pub(crate) fn recv(&self, bytes: &mut [u8], flags: i32) -> Result<usize, Errno> {
        let iov = [libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        }];
        // SAFETY: the buffer lives across the call and is ours alone.
        let mut sink = unsafe { Slices::new(&iov) }.unwrap();
        let received = self.smc.recv(self.fd(), &mut sink, flags, Arming::Now);
        received.map(|received| received.bytes)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What the kernel says of the descriptor.
    pub(crate) fn kernel(&self) -> i16 {
        let events = libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP;
        sys::poll_one(self.fd(), events, Some(0)).unwrap()
    }
}

/// The byte at each position of a direction.
pub(crate) fn byte(from: usize, at: u64) -> u8 {
    let x = (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (from as u64) << 7;
    (x >> 56) as u8
}

pub(crate) fn bytes(from: usize, at: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| byte(from, at + i)).collect()
}

#[test]
fn a_ring_wraps_at_every_offset() {
    let [a, b] = pair();
    let mut at = 0;
    let mut buf = vec![0; RING];
    for round in 0..RING as u64 + 10 {
        // The whole ring now and then, else a few bytes that end up on both sides of the edge.
        let len = if round % 64 == 0 {
            RING
        } else {
            1 + (round % 13) as usize
        };
        let text = bytes(0, at, len);
        assert_eq!(a.send(&text, libc::MSG_DONTWAIT), Ok(len));
        assert_eq!(
            b.recv(&mut buf, libc::MSG_DONTWAIT | libc::MSG_PEEK),
            Ok(len)
        );
        assert_eq!(buf[..len], text);
        buf[..len].fill(0);
        assert_eq!(b.recv(&mut buf, libc::MSG_DONTWAIT), Ok(len));
        assert_eq!(buf[..len], text);
        at += len as u64;
        // Next time one further.
        let step = (RING as u64 + round + 1 - at % RING as u64) as usize % RING;
        if step > 0 {
            assert_eq!(a.send(&bytes(0, at, step), libc::MSG_DONTWAIT), Ok(step));
            assert_eq!(b.recv(&mut buf, libc::MSG_DONTWAIT), Ok(step));
            at += step as u64;
        }
    }
}

#[test]
fn elements_are_used_again_when_both_ends_are_closed() {
    let [a, b] = pair();
    let index = |end: &End| {
        let rx = end.group.take_rmbe(u64::MAX).unwrap();
        let index = rx.rmbe().1;
        end.group.give_back(&rx);
        index
    };
    a.smc.close(false);
    assert_ne!(index(&a), 0, "the peer may still write");
    b.smc.close(false);
    assert_eq!((index(&a), index(&b)), (0, 0));
}

#[test]
fn sleepers_wake_up() {
    for how in 0..4 {
        let [a, b] = pair();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| a.recv(&mut [0; 8], 0));
            std::thread::sleep(Duration::from_millis(20));
            match how {
                0 => assert_eq!(b.send(b"x", 0), Ok(1)),
                1 => b.smc.shutdown(b.fd(), libc::SHUT_WR).unwrap(),
                2 => a.smc.shutdown(a.fd(), libc::SHUT_RD).unwrap(),
                _ => {
                    b.smc.close(false);
                    drop(b);
                }
            }
            assert_eq!(reader.join().unwrap(), Ok(usize::from(how == 0)));
        });
    }
    let [a, b] = pair();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| a.send(&[1; 2 * RING], 0));
        std::thread::sleep(Duration::from_millis(20));
        let mut got = 0;
        while got < 2 * RING {
            got += b.recv(&mut [0; 3000], 0).unwrap();
        }
        assert_eq!(writer.join().unwrap(), Ok(2 * RING));
    });
}
