//! One connection of a world, driven by hand.

mod killed;
mod urgent;

use std::time::Duration;

use rustix::io::Errno;

use super::super::World;
use super::Program;

impl World {
    fn program(&self, side: usize) -> &Program {
        let program = self.connections[0].programs[side].as_ref();
        program.expect("it is open")
    }

    /// Sends as many of the bytes as there is room for, at once or after a while.
    fn send_what_fits(&mut self, bytes: &[u8], flags: i32) -> usize {
        let mut sent = 0;
        let mut refused = 0;
        while sent < bytes.len() && refused < 3 {
            match self.program(0).send(&bytes[sent..], flags) {
                Ok(count) => sent += count,
                Err(errno) => {
                    assert_eq!(errno, Errno::AGAIN);
                    refused += 1;
                }
            }
            self.attend();
            self.run(Duration::from_millis(20));
        }
        sent
    }
}
