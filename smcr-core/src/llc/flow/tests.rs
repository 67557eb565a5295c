//! Groups against each other, against what Linux says, and against what nobody should say.

mod hostile;
mod links;
mod linux;
mod pair;
mod rmbs;

use std::time::{Duration, Instant};

use super::*;
use crate::cdc::EyeCatcher;
use crate::clc::{Gid, Mac, QpNumber, Rkey};
use crate::llc::{LinkEnd, LinkUserId};

const A: LinkId = LinkId(1);
const B: LinkId = LinkId(2);

fn config(role: Role, version: Version) -> Config {
    Config {
        role,
        version,
        max_links: 2,
        max_conns: 255,
        add_link_follows: true,
        eye_catcher: EyeCatcher::None,
        strict: false,
        timeouts: Timeouts::default(),
    }
}

/// The end of `role` of a link, as in the golden bytes.
fn end(role: Role, qp_number: u32) -> LinkEnd {
    let host = match role {
        Role::Server => 1,
        Role::Client => 2,
    };
    let mut gid = [0; 16];
    gid[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, host]);
    LinkEnd {
        mac: Mac([0x52, 0x54, 0, 0, 0, host]),
        gid: Gid(gid),
        qp_number: QpNumber::new(qp_number).unwrap(),
    }
}

const fn other(role: Role) -> Role {
    match role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    }
}

fn link(role: Role, id: LinkId, qp_number: u32) -> LinkConfig {
    LinkConfig {
        id,
        user_id: LinkUserId(0x101),
        local: end(role, qp_number),
        peer: end(other(role), qp_number),
    }
}

fn rtoken(rkey: u32) -> Rtoken {
    Rtoken {
        rkey: Rkey(rkey),
        address: 0x7f00_0000_0000 + u64::from(rkey) * 0x1_0000,
    }
}

fn drain(group: &mut Group) -> Vec<Event> {
    std::iter::from_fn(|| group.poll_event()).collect()
}

fn sent(group: &mut Group) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| group.poll_transmit())
        .map(|transmit| transmit.bytes)
        .collect()
}

/// Two groups, the links between them, and a clock.
struct Pair {
    client: Group,
    server: Group,
    now: Instant,
    /// What travels over these links is lost.
    cut: Vec<LinkId>,
    /// Everything that was sent, by whom.
    wire: Vec<(Role, LinkId, Vec<u8>)>,
    events: Vec<(Role, Event)>,
}

impl Pair {
    fn new(version: Version) -> Self {
        Self::with(config(Role::Client, version), config(Role::Server, version))
    }

    fn with(client: Config, server: Config) -> Self {
        let now = Instant::now();
        Self {
            client: Group::new(client, link(Role::Client, A, 0x11), now),
            server: Group::new(server, link(Role::Server, A, 0x11), now),
            now,
            cut: Vec::new(),
            wire: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Connected, and the first contact over.
    fn settled(version: Version) -> Self {
        let mut pair = Self::new(version);
        pair.drive();
        assert!(pair.client.is_settled() && pair.server.is_settled());
        pair.wire.clear();
        pair.events.clear();
        pair
    }

    /// The same, with a second link.
    fn with_two_links(version: Version) -> Self {
        let mut pair = Self::settled(version);
        for role in [Role::Client, Role::Server] {
            let now = pair.now;
            let number = LinkNumber(2);
            pair.group(role)
                .insert_active(link(role, B, 0x12), number, now);
        }
        pair
    }

    fn group(&mut self, role: Role) -> &mut Group {
        match role {
            Role::Client => &mut self.client,
            Role::Server => &mut self.server,
        }
    }

    /// Delivers until nothing moves. Time stands still.
    fn drive(&mut self) {
        loop {
            let mut moved = false;
            for role in [Role::Server, Role::Client] {
                let now = self.now;
                while let Some(event) = self.group(role).poll_event() {
                    if let Event::Activate { link } = event {
                        self.group(role).activated(now, link).unwrap();
                    }
                    self.events.push((role, event));
                    moved = true;
                }
                while let Some(Transmit { link, bytes }) = self.group(role).poll_transmit() {
                    if !self.cut.contains(&link) {
                        self.group(other(role)).handle_message(now, link, &bytes);
                    }
                    self.wire.push((role, link, bytes));
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Lets time pass, with all that happens meanwhile.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.drive();
            let next = [&self.client, &self.server]
                .into_iter()
                .filter_map(Group::poll_timeout)
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            let now = self.now;
            self.client.handle_timeout(now);
            self.server.handle_timeout(now);
        }
        self.now = end;
    }

    /// What was sent: who, and the first four bytes.
    fn heads(&self) -> Vec<(Role, [u8; 4])> {
        self.wire
            .iter()
            .map(|(role, _, bytes)| (*role, *bytes.first_chunk().unwrap()))
            .collect()
    }

    fn events_of(&self, role: Role) -> Vec<Event> {
        self.events
            .iter()
            .filter(|(whose, _)| *whose == role)
            .map(|(_, event)| event.clone())
            .collect()
    }
}
