//! The peer's process is killed: nothing of its library runs any more, and its kernel ends TCP.

use std::time::Duration;

use rustix::io::Errno;

use super::super::super::{Op, World};
use crate::rdma::sim::{Fault, PortId};

/// A peer that is gone does not answer the test of the link.
const NOTICED: Duration = Duration::from_secs(4);

impl World {
    fn kill_first(&mut self) {
        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to) = (PortId(from), PortId(to));
            self.net.inject(Fault::Block { from, to });
        }
        let id = self.program(1).smc.conn_id().expect("over RDMA");
        self.ends[1].state.tcp_ended(id, self.net.now());
        self.run(NOTICED);
    }

    /// What the second program reads in all, and how that ends.
    fn read_to_the_end(&self) -> (usize, Result<usize, Errno>) {
        let mut buffer = vec![0; 1 << 20];
        let mut all = 0;
        loop {
            match self.program(1).receive(&mut buffer) {
                Ok(count) if count > 0 => all += count,
                end => return (all, end),
            }
        }
    }
}

/// It looks like the end of the stream, as over TCP.
#[test]
fn while_idle() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.act(Op::Open);
        assert_eq!(world.send_what_fits(&[7; 1000], 0), 1000);
        world.kill_first();
        assert_eq!(world.read_to_the_end(), (1000, Ok(0)), "seed {seed}");
    }
}

/// What did not fit is lost. The reader finds what arrived, and then a reset.
#[test]
fn with_bytes_that_had_no_room() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.act(Op::Open);
        let sent = world.send_what_fits(&vec![7; 1 << 20], 0);
        world.kill_first();
        let (read, end) = world.read_to_the_end();
        assert!(read > 0 && read < sent, "seed {seed}: {read} of {sent}");
        assert_eq!(end, Err(Errno::CONNRESET), "seed {seed}");
    }
}

/// They fitted later: nothing is lost.
#[test]
fn after_there_was_room_again() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.act(Op::Open);
        let sent = world.send_what_fits(&vec![7; 1 << 20], 0);
        let mut buffer = vec![0; 1 << 20];
        let mut read = 0;
        while read < sent {
            match world.program(1).receive(&mut buffer) {
                Ok(count) => read += count,
                Err(errno) => assert_eq!(errno, Errno::AGAIN),
            }
            world.attend();
            world.run(Duration::from_millis(20));
        }
        world.kill_first();
        assert_eq!(world.read_to_the_end(), (0, Ok(0)), "seed {seed}");
    }
}
