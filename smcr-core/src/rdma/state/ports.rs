//! The ports of the wire: their events, and those that are gone.

use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::State;
use crate::Reason;
use crate::rdma::fabric::{Port, PortEvent};
use crate::rdma::group::Group;

impl State {
    /// Events of the ports.
    pub(in crate::rdma) fn port_events(&mut self, now: Instant) {
        for place in 0..self.ports.len() {
            let Some(port) = self.ports[place].port.clone() else {
                continue;
            };
            while let Some(event) = port.event() {
                log::debug!("{}: {event:?}", port.name());
                match event {
                    // A cable that is out may be back before anybody misses it, as with TCP. Links
                    // over which something is to go fail by themselves.
                    PortEvent::Up | PortEvent::Down => {}
                    PortEvent::LinkFailed(link) => {
                        if let Some(&group) = self.ports[place].links.get(&link) {
                            self.end_group(group, Errno::CONNRESET, Reason::LinkLost, now);
                        }
                    }
                    PortEvent::Gone => self.port_gone(place, now),
                }
            }
        }
    }

    /// Looks whether ports are to go: not every kernel tells.
    pub(in crate::rdma) fn look_for_ports(&mut self, now: Instant) {
        for place in 0..self.ports.len() {
            if let Some(port) = &self.ports[place].port
                && !port.is_gone()
                && port.is_removed()
            {
                log::debug!("{}: removed", port.name());
                self.port_gone(place, now);
            }
        }
    }

    /// The groups of a port end. Where it still works, their peers are told.
    fn port_gone(&mut self, place: usize, now: Instant) {
        let groups: Vec<u32> = self.ports[place].links.values().copied().collect();
        for id in groups {
            if let Some(group) = self.groups.get_mut(&id) {
                group.close(now);
            }
            self.after_llc(id, now);
            self.end_group(id, Errno::CONNRESET, Reason::LinkLost, now);
        }
    }

    /// Lets go of ports that are gone: as long as anything of theirs is held, `rdma link del` may
    /// wait, and a device that comes back is another one.
    pub(super) fn forget_ports(&mut self) {
        for (place, open) in self.ports.iter_mut().enumerate() {
            let of_port = |group: &Group| group.port == place;
            if !open.port.as_ref().is_some_and(|port| port.is_gone())
                || self.groups.values().any(|g| of_port(g) && g.has_link())
            {
                continue;
            }
            for group in self.groups.values_mut().filter(|group| of_port(group)) {
                group.memory.lose_domain();
            }
            open.port = None;
        }
    }

    /// Whether there was ever a port.
    pub(in crate::rdma) fn has_ports(&self) -> bool {
        !self.ports.is_empty()
    }

    /// The port at that place, unless it is gone.
    pub(in crate::rdma) fn port(&self, place: usize) -> Option<Arc<dyn Port>> {
        self.ports.get(place)?.port.clone()
    }

    /// The ports from that place on; `None` where one is gone.
    pub(in crate::rdma) fn ports_from(&self, place: usize) -> Vec<Option<Arc<dyn Port>>> {
        let ports = self.ports.iter().skip(place);
        ports.map(|open| open.port.clone()).collect()
    }
}
