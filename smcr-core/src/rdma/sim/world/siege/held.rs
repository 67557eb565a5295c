//! A connection of the hostile peer's: the engine's program, and what the peer keeps of it.

use libc::{POLLERR, POLLHUP};

use crate::cdc::ConnState;
use crate::clc::Token;
use crate::rdma::sim::FarEnd;
use crate::rdma::sim::world::stream::Program;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) program: Option<Program>,
    pub(super) far: FarEnd,
    /// What the engine's messages carry.
    pub(super) token: Token,
    /// Something was said that is not true.
    pub(super) is_spoilt: bool,
}

impl Held {
    pub(super) fn is_lost(&self) -> bool {
        let Some(program) = &self.program else {
            return false;
        };
        program.readiness() & (POLLERR | POLLHUP) != 0
            || self.far.state.contains(ConnState::ABORTED)
    }

    pub(super) fn close(self, abort: bool) {
        if let Some(program) = self.program {
            program.close(abort);
        }
    }
}
