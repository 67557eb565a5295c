//! Urgent bytes out of line.

use std::time::Duration;

use libc::{MSG_DONTWAIT, MSG_OOB, POLLPRI};
use rustix::io::Errno;

use super::super::super::{Op, World};
use super::super::Program;
use crate::conn::io::Slices;

impl Program {
    fn receive_urgent(&self) -> u8 {
        let mut byte = [0];
        let iov = [libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        }];
        // SAFETY: `byte` outlives the sink, and nobody else uses it meanwhile.
        let mut sink = unsafe { Slices::new(&iov) }.unwrap();
        let received = self.smc.recv_urgent(&mut sink, MSG_DONTWAIT | MSG_OOB);
        assert_eq!(received, Ok(1));
        byte[0]
    }
}

/// The reader has read what is before the urgent byte, and only waits. Its peer goes on all the
/// same, until everything is full; and the urgent byte is still there.
#[test]
fn a_program_that_stands_before_it() {
    let bytes: Vec<u8> = (0..400_000).map(|i| (i % 251) as u8).collect();
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.act(Op::Open);
        world.program(1).smc.set_oob_inline(false);
        let mut buffer = vec![0; 1 << 20];

        assert_eq!(world.send_what_fits(&bytes[..1000], 0), 1000);
        assert_eq!(world.program(1).receive(&mut buffer), Ok(1000));
        world.attend();
        assert_eq!(world.send_what_fits(b"!", MSG_OOB), 1);
        assert_ne!(world.program(1).smc.readiness() & POLLPRI, 0);
        let sent = world.send_what_fits(&bytes, 0);
        let size = world.program(1).smc.fionread();
        assert!(
            sent < bytes.len() && size == 0,
            "{sent} sent, {size} of them seen"
        );

        assert_eq!(world.program(1).receive_urgent(), b'!', "seed {seed}");
        let mut received = Vec::new();
        while received.len() < sent {
            let count = world.program(1).receive(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..count]);
            world.attend();
            world.run(Duration::from_millis(20));
        }
        assert!(received == bytes[..sent], "seed {seed}");
    }
}

/// It comes before the end of the stream, which comes last all the same.
#[test]
fn the_end_behind_it() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.act(Op::Open);
        world.program(1).smc.set_oob_inline(false);
        assert_eq!(world.send_what_fits(b"!", MSG_OOB), 1);
        let bytes = vec![7; 1 << 20];
        let mut sent = world.send_what_fits(&bytes, 0);
        world.act(Op::Shutdown { place: 0, side: 0 });
        world.run(Duration::from_millis(50));

        let mut buffer = vec![0; 1000];
        loop {
            match world.program(1).receive(&mut buffer) {
                Ok(0) => break,
                Ok(count) => sent -= count,
                Err(errno) => assert_eq!(errno, Errno::AGAIN),
            }
            world.attend();
            world.run(Duration::from_millis(5));
        }
        assert_eq!(sent, 0, "seed {seed}");
    }
}
