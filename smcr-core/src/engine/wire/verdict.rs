//! What comes of a handshake: the stream moves, or goes on over TCP.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::super::client::Pending;
use super::super::helper::{disconnect, transmit};
use super::super::{Connection, Engine};
use super::pending::{RdmaPending, Step, either};
use crate::Reason;
use crate::conn::{Home, Smc, bell};
use crate::rdma::Established;

impl Engine {
    /// Says no where that is possible.
    pub(super) fn decline(&self, rdma: &mut RdmaPending, reason: Reason, now: Instant) {
        log::debug!("declined: {reason}");
        rdma.deadline = None;
        rdma.step = Step::Clc;
        self.give_back(rdma);
        let Some(machine) = &mut rdma.machine else {
            return;
        };
        if either!(machine, m => m.decline(reason)).is_err() {
            let _ = either!(machine, m => m.llc_failed(reason, now));
        }
    }

    /// Returns what was taken for a connection that does not come to be.
    fn give_back(&self, rdma: &mut RdmaPending) {
        if let Some(prepared) = rdma.prepared.take() {
            let mut state = self.wire.rdma.lock();
            state.give_back(&prepared);
            if rdma.is_first {
                state.end_group(
                    prepared.group,
                    Errno::CONNABORTED,
                    Reason::Ended,
                    Instant::now(),
                );
            }
        }
    }

    /// A handshake is given up from outside.
    pub(in crate::engine) fn forget_rdma(&self, connection: &Connection, rdma: &mut RdmaPending) {
        self.end_signal(rdma);
        self.give_back(rdma);
        self.wire.thread.forget(connection, connection.tcp());
    }

    /// The handshake succeeded: the stream moves.
    pub(super) fn move_stream(
        &'static self,
        connection: &Arc<Connection>,
        guard: &mut Option<Pending>,
        mut rdma: RdmaPending,
    ) {
        // What the peer sent already rings as soon as the rings are joined: a program that is told
        // so, by an edge perhaps, and finds nothing would not look again.
        connection.set_committing();
        let joined = self.establish(&mut rdma);
        let smc = match joined {
            Ok(smc) => smc,
            Err(reason) => {
                self.give_back(&mut rdma);
                if let Some(tcp) = connection.tcp() {
                    disconnect(tcp);
                }
                return self.stay_on_tcp(connection, guard, rdma, reason);
            }
        };
        if let Some(pending) = guard.as_ref() {
            log::debug!("{} - {}: rdma", pending.local(), pending.peer);
        }
        self.wire.thread.forget(connection, None);
        #[cfg(test)]
        super::tests::joined(connection);
        connection.set_smc(smc, || {});
        self.watch_witness(connection);
        *guard = None;
        if let (Some(abort), Some(smc)) = (rdma.closed, connection.smc()) {
            smc.close(abort);
        } else if let Some(smc) = connection.smc() {
            smc.kick_wire();
        }
    }

    fn establish(&'static self, rdma: &mut RdmaPending) -> Result<Smc, Reason> {
        let local = self.arena.take().ok_or(Reason::Memory)?;
        let (Some(prepared), Some(peer), Some(end)) =
            (rdma.prepared.take(), rdma.peer, rdma.end.take())
        else {
            return Err(Reason::Internal);
        };
        // What was sent so far is the first content of the send buffer.
        bell::empty(end.as_fd());
        let sent = rdma.held.len() as u64;
        prepared.preload(&rdma.held);
        let group = prepared.group;
        let Established { shared, tx, rx } = {
            let mut state = self.wire.rdma.lock();
            let now = Instant::now();
            state.establish(prepared, peer, local.clone(), end, now)?
        };
        let handle = self.wire.rdma.handle(shared, group);
        Ok(Smc::new(tx, rx, local, Home::Rdma(handle), sent))
    }

    /// The stream goes on over TCP, with what the program sent so far.
    pub(super) fn stay_on_tcp(
        &'static self,
        connection: &Connection,
        guard: &mut Option<Pending>,
        mut rdma: RdmaPending,
        reason: Reason,
    ) {
        self.end_signal(&mut rdma);
        self.give_back(&mut rdma);
        if let (Some(tcp), false) = (connection.tcp(), rdma.held.is_empty()) {
            // At most EARLY_MAX: any socket's send buffer takes it at once.
            transmit(tcp, Some(std::mem::take(&mut rdma.held)));
        }
        self.wire.thread.forget(connection, connection.tcp());
        connection.to_tcp(guard, reason);
        // The end goes last: whoever sleeps on the program's descriptor wakes up, and finds TCP.
        drop(rdma);
    }
}
