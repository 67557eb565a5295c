//! Two engines on a simulated network, with programs whose streams are compared with queues.
//!
//! Everything of the engine that carries bytes over RDMA is real: link groups, LLC, CDC, the
//! program's end of the rings. What is left out is the CLC exchange, whose outcome is handed to
//! both sides, and the thread, whose work is done step by step.
//!
//! What has to hold at each step: a reader gets the bytes that were written, in order, each once;
//! it sees the end only behind the last one; it sees an error only if there is a reason for one.
//! What has to hold after a while ([`World::settle`]): everything that was written has arrived, or
//! both ends know that it cannot.

mod end;
mod ops;
mod siege;
mod stream;

use std::time::Duration;

use super::{Fault, PortId, Random, SimConfig, SimNet, SimPort};
use crate::cdc::EyeCatcher;
use crate::clc::MtuCode;
use crate::rdma::fabric::Counts;
use crate::stat::Role;
use end::{Endpoint, Opening};
pub use ops::{Op, Trouble};
pub use siege::{Besieged, Moment, Siege};
use stream::Connection;

/// Connections at a time.
const MOST: usize = 6;

/// After the last fault: how long until everything has arrived, or both ends have found out. A
/// link is tested after 30 s of silence, the answer may take 2 s, an adapter tries for 1 s.
const SETTLED: Duration = Duration::from_secs(34);

/// How long until both ends have forgotten a connection that both programs closed: as long as the
/// longest of the close machine's timers.
const FORGOTTEN: Duration = Duration::from_secs(130);

/// See the module's description.
#[derive(Debug)]
pub struct World {
    seed: u64,
    random: Random,
    // In this order: engines before the network that they are on.
    connections: Vec<Connection>,
    ends: [Endpoint; 2],
    net: SimNet,
    /// Something was broken in this link group's life, so that it may have ended.
    disturbed: bool,
    /// What was done last, for the message of a failure.
    ops: u64,
    totals: Totals,
}

/// What happened in a world, so that a test can tell whether it tested something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes that were read and compared.
    pub bytes: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Streams that ended in order.
    pub ends: u64,
    /// Streams that ended by an error.
    pub errors: u64,
    /// Link groups that were started.
    pub groups: u64,
    /// Link groups that ended.
    pub lost_groups: u64,
    /// Of these, how many had eye catchers in their RMBEs.
    pub eye_catchers: u64,
    /// Faults that were injected.
    pub faults: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.connections += other.connections;
        self.ends += other.ends;
        self.errors += other.errors;
        self.groups += other.groups;
        self.eye_catchers += other.eye_catchers;
        self.lost_groups += other.lost_groups;
        self.faults += other.faults;
    }
}

/// Which end wants eye catchers: none in five worlds of eight.
fn wanted(seed: u64) -> [EyeCatcher; 2] {
    use EyeCatcher::{FourBytes, None};
    match seed % 8 {
        5 => [FourBytes, None],
        6 => [None, FourBytes],
        7 => [FourBytes; 2],
        _ => [None; 2],
    }
}

impl World {
    /// Two engines with a link group; everything about it comes from `seed`.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let config = SimConfig {
            jitter: Duration::from_micros(1 + random.below(60)),
            completion_delay: Duration::from_micros(1 + random.below(40)),
            mtu: MtuCode::new(3 + random.below(3) as u8).expect("an MTU"),
            send_queue: 64 + random.index(100),
            signal_every: 1 + random.index(32),
            receives: 2 + random.index(60),
            poll_batch: 1 + random.index(32),
            ..SimConfig::new()
        };
        let element_size = (16 << 10) << random.below(3);
        let net = SimNet::new(config, random.next());
        let wanted = wanted(seed);
        let ends = [(Role::Client, wanted[0]), (Role::Server, wanted[1])]
            .map(|(role, wanted)| Endpoint::new(&net, role, element_size, wanted));
        Self {
            seed,
            random,
            connections: Vec::new(),
            ends,
            net,
            disturbed: false,
            ops: 0,
            totals: Totals::default(),
        }
    }

    /// What happened so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// What one side's engine had its adapter do so far.
    pub fn counts(&self, side: usize) -> Counts {
        self.ends[side].counts()
    }

    /// Does `op`, and lets a little time pass.
    pub fn act(&mut self, op: Op) {
        self.ops += 1;
        match op {
            Op::Open => self.open(),
            Op::Send { place, side, len } => self.send(place, side, len),
            Op::Receive { place, side, len } => self.receive(place, side, len),
            Op::Urgent { place, side } => {
                self.with(place, |c, random, _| c.urgent(side, random));
                self.check();
            }
            Op::Shutdown { place, side } => self.with(place, |c, _, _| c.shutdown(side)),
            Op::Close { place, side } => self.with(place, |c, _, _| c.close(side, false)),
            Op::Abort { place, side } => self.with(place, |c, _, _| c.close(side, true)),
            Op::Wait { micros } => self.run(Duration::from_micros(micros.into())),
            Op::Fault => self.fault(),
            Op::Trouble { what, side } => self.trouble(what, side),
            Op::Stall { side, micros } => self.stall(side, Duration::from_micros(micros.into())),
            Op::Settle => self.settle(),
        }
        self.steps(self.ops % 3 + 1);
    }

    /// Lets something certain break, or come back, now.
    pub fn inject(&mut self, fault: Fault) {
        self.disturbed = true;
        self.net.inject(fault);
        self.run(Duration::from_micros(1));
    }

    /// The engine of that side gets its packets through only later.
    pub fn lose_packets(&mut self, side: usize) {
        for link in self.ends[side].links() {
            self.net.inject(Fault::Lose(link));
        }
    }

    /// One engine ends its link group, with whatever is on its way over it. The other one has not
    /// noticed yet, and takes what still comes.
    pub fn end_group(&mut self, side: usize) {
        self.disturbed = true;
        self.note_disturbance();
        self.ends[side].cancel(self.net.now());
        self.run(Duration::from_micros(1));
    }

    /// Ends all faults, and checks that everything arrives, or that both ends know why not.
    pub fn settle(&mut self) {
        for port in 0..2 {
            self.net.inject(Fault::Wake(PortId(port)));
            self.net.inject(Fault::Up(PortId(port)));
            let (from, to) = (PortId(port), PortId(1 - port));
            self.net.inject(Fault::Unblock { from, to });
        }
        // Nothing is left to be heard of them later.
        self.look_after();
        let end = self.net.now() + SETTLED;
        // Nothing to wait for is the usual case, and found out soon.
        while self.net.now() < end && !self.is_settled() {
            self.run(Duration::from_millis(5).min(end - self.net.now()));
            self.read_everything();
            if self.net.next_event().is_none() && !self.is_settled() {
                // Only a timer can help.
                let at = self.ends.iter().filter_map(Endpoint::next_timeout).min();
                let at = at.unwrap_or_else(|| self.fail("nothing will ever happen"));
                self.run(at.min(end).saturating_duration_since(self.net.now()));
            }
        }
        self.read_everything();
        if !self.is_settled() {
            self.fail("not settled in time");
        }
        self.note_lost_groups();
        self.disturbed = false;
        if !self.is_disturbed() {
            let group = self.totals.groups;
            let current = self.connections.iter_mut().filter(|c| c.group == group);
            current.for_each(|connection| connection.may_fail = false);
        }
    }

    /// Closes everything, and checks that nothing is left: no connection, no element in use.
    pub fn finish(&mut self) -> Totals {
        self.settle();
        for place in 0..self.connections.len() {
            for side in 0..2 {
                self.with(place as u8, |c, _, _| c.close(side, false));
            }
        }
        let end = self.net.now() + FORGOTTEN;
        while self.net.now() < end && self.ends.iter().any(|end| end.connections() > 0) {
            self.run(Duration::from_millis(500));
        }
        let left = [0, 1].map(|side| self.ends[side].connections());
        if left != [0, 0] {
            self.fail(&format!("{left:?} connections are never forgotten"));
        }
        self.connections.clear();
        self.totals
    }

    fn with(&mut self, place: u8, act: impl FnOnce(&mut Connection, &mut Random, &mut Totals)) {
        if self.connections.is_empty() {
            return;
        }
        self.note_disturbance();
        let place = usize::from(place) % self.connections.len();
        act(
            &mut self.connections[place],
            &mut self.random,
            &mut self.totals,
        );
        self.attend();
    }

    fn send(&mut self, place: u8, side: usize, len: u32) {
        self.with(place, |c, random, _| c.send(side, len as usize, random));
        self.check();
    }

    fn receive(&mut self, place: u8, side: usize, len: u32) {
        self.with(place, |c, _, totals| c.receive(side, len as usize, totals));
        self.check();
    }

    fn read_everything(&mut self) {
        for place in 0..self.connections.len() {
            for side in 0..2 {
                self.with(place as u8, |c, _, totals| {
                    c.receive(side, usize::MAX, totals)
                });
            }
        }
        self.check();
    }

    fn check(&self) {
        for connection in &self.connections {
            if let Some(wrong) = connection.wrong() {
                self.fail(wrong);
            }
        }
    }

    /// All bytes have arrived, or everybody has heard that they will not.
    fn is_settled(&self) -> bool {
        let lost = self.ends.iter().any(|end| !end.is_alive());
        if lost && self.ends.iter().any(Endpoint::is_alive) && self.totals.groups > 0 {
            return false;
        }
        self.connections.iter().all(|c| c.is_settled())
    }

    fn is_disturbed(&self) -> bool {
        self.disturbed || self.ends.iter().any(|end| !end.is_alive())
    }

    fn open(&mut self) {
        self.connections
            .retain(|connection| !connection.is_closed());
        if self.connections.len() == MOST {
            return;
        }
        if !self.ends.iter().all(Endpoint::is_alive) && !self.start_group() {
            return;
        }
        let now = self.net.now();
        let mut openings = Vec::new();
        for side in 0..2 {
            match self.ends[side].prepare(now) {
                Some(opening) => openings.push(opening),
                None => return self.give_back(openings),
            }
        }
        let end = self.net.now() + Duration::from_secs(5);
        while openings.iter().any(|opening| !self.is_known(opening)) {
            if !self.ends.iter().all(Endpoint::is_alive) || self.net.now() > end {
                return self.give_back(openings);
            }
            self.run(Duration::from_micros(20));
        }
        let peers = [1, 0].map(|side: usize| openings[side].element());
        let mut programs = Vec::new();
        let mut openings = openings.into_iter();
        for (side, opening) in openings.by_ref().enumerate() {
            // The client may begin before the server has seen its Confirm.
            let now = self.net.now();
            let Some(program) = self.ends[side].establish(opening, peers[side], now) else {
                break;
            };
            programs.push(program);
            let pause = self.random.below(4);
            self.steps(pause);
        }
        self.give_back(openings.collect());
        let whole = programs.len() == 2;
        let mut programs = programs.into_iter();
        let connection = Connection::new(
            [programs.next(), programs.next()],
            !whole,
            self.totals.groups,
        );
        self.connections.push(connection);
        self.totals.connections += 1;
        self.attend();
    }

    fn is_known(&self, opening: &Opening) -> bool {
        self.ends[opening.side()].is_known(opening)
    }

    fn give_back(&mut self, openings: Vec<Opening>) {
        for opening in openings {
            self.ends[opening.side()].give_back(opening);
        }
    }

    /// First contact. False if a fault is in the way.
    fn start_group(&mut self) -> bool {
        self.note_lost_groups();
        self.note_disturbance();
        let end = self.net.now() + Duration::from_secs(3);
        // The next one may begin while one end has not noticed the end of the old one, or still has
        // its queue pair.
        let waits = self.random.below(2) == 0;
        while waits
            && self
                .ends
                .iter()
                .any(|end| end.is_alive() || end.is_ending())
        {
            if self.net.now() > end {
                return false;
            }
            self.run(Duration::from_millis(50));
        }
        let now = self.net.now();
        let [client, server] = &mut self.ends;
        if !(client.start(server, now) && server.start(client, now)) {
            client.cancel(now);
            server.cancel(now);
            return false;
        }
        let addresses = [server.address(), client.address()];
        for (side, address) in addresses.into_iter().enumerate() {
            let connected = address.is_some_and(|to| self.ends[side].connect(&to, self.net.now()));
            if !connected {
                self.ends.iter_mut().for_each(|end| end.cancel(now));
                return false;
            }
        }
        self.totals.groups += 1;
        let end = self.net.now() + Duration::from_secs(10);
        while !self.ends.iter().all(Endpoint::is_alive) {
            let over = self.ends.iter().any(Endpoint::has_ended);
            if over || self.net.now() > end {
                if !self.disturbed {
                    self.fail("first contact failed without a reason");
                }
                let now = self.net.now();
                self.ends.iter_mut().for_each(|end| end.cancel(now));
                return false;
            }
            self.run(Duration::from_micros(50));
        }
        self.check_eye_catchers();
        true
    }

    /// Both ends have them if one end wants them.
    fn check_eye_catchers(&mut self) {
        let wanted = wanted(self.seed);
        let agreed = match wanted.contains(&EyeCatcher::FourBytes) {
            true => EyeCatcher::FourBytes,
            false => EyeCatcher::None,
        };
        if self.ends.each_ref().map(Endpoint::eye_catcher) != [Some(agreed); 2] {
            self.fail("the ends do not agree on eye catchers");
        }
        self.totals.eye_catchers += u64::from(agreed == EyeCatcher::FourBytes);
    }

    fn note_lost_groups(&mut self) {
        let lost = self.ends.iter_mut().map(Endpoint::take_lost).max();
        let lost = lost.unwrap_or(0);
        if lost > 0 && !self.disturbed {
            self.fail("a link group ended without a reason");
        }
        self.totals.lost_groups += u64::from(lost);
    }

    /// The link may be lost: so may the connections of its group.
    fn note_disturbance(&mut self) {
        if self.is_disturbed() {
            let group = self.totals.groups;
            let current = self.connections.iter_mut().filter(|c| c.group == group);
            current.for_each(|connection| connection.may_fail = true);
        }
    }

    fn fault(&mut self) {
        if let Some(fault) = self.net.inject_random(Duration::from_secs(2)) {
            self.totals.faults += 1;
            // Stalls shorter than any timer may not be noticed by a program.
            let may_end = !matches!(fault, Fault::Wake(_));
            self.disturbed |= may_end;
        }
    }

    fn trouble(&mut self, what: Trouble, side: usize) {
        let (port, other) = (PortId(side), PortId(1 - side));
        let fault = match what {
            Trouble::EndGroup => return self.end_group(side),
            Trouble::Lose => return self.lose_packets(side),
            Trouble::Block => Fault::Block {
                from: port,
                to: other,
            },
            Trouble::Unblock => Fault::Unblock {
                from: port,
                to: other,
            },
            Trouble::Down => Fault::Down(port),
            Trouble::Up => Fault::Up(port),
            Trouble::Break(error) => {
                for link in self.ends[side].links() {
                    self.totals.faults += 1;
                    self.inject(Fault::Break { link, error });
                }
                return;
            }
        };
        self.totals.faults += 1;
        self.inject(fault);
    }

    fn stall(&mut self, side: usize, time: Duration) {
        let port = PortId(side);
        self.net.inject(Fault::Stall(port));
        self.net.inject_after(time, Fault::Wake(port));
    }

    /// Lets programs' notes be read, as whoever holds the lock would.
    fn attend(&mut self) {
        let now = self.net.now();
        for end in &mut self.ends {
            end.attend(now);
        }
    }

    /// So many events. Mostly they are near: a jump to one that is far away (the end of a fault, a
    /// link that gives up) leaves nothing of what happens meanwhile to chance.
    fn steps(&mut self, count: u64) {
        let far = self.random.once_in(64);
        let time = Duration::from_millis(if far { 3000 } else { 1 });
        let end = Some(self.net.now() + time);
        for _ in 0..count {
            if !self.step(end) {
                return;
            }
        }
    }

    /// Everything that happens in that time.
    fn run(&mut self, time: Duration) {
        let end = self.net.now() + time;
        while self.step(Some(end)) {}
        self.net.advance(end);
    }

    /// The next event of the network or of a timer, if it is not later than `end`.
    fn step(&mut self, end: Option<std::time::Instant>) -> bool {
        let timers = self.ends.iter().filter_map(Endpoint::next_timeout).min();
        let event = self.net.next_event();
        let next = match (event, timers) {
            (Some(event), Some(timer)) => event.min(timer),
            (Some(next), None) | (None, Some(next)) => next,
            (None, None) => return false,
        };
        if end.is_some_and(|end| next > end) {
            return false;
        }
        if event == Some(next) {
            self.net.step();
        } else {
            self.net.advance(next);
        }
        self.look_after();
        true
    }

    /// Lets the engines see what happened.
    fn look_after(&mut self) {
        let now = self.net.now();
        for end in &mut self.ends {
            end.look_after(now);
        }
    }

    fn fail(&self, wrong: &str) -> ! {
        panic!(
            "{wrong} (SMCR_SIM_SEED={} reproduces it; operation {}, {:?}, groups ended: {:?}): {:#?}",
            self.seed,
            self.ops,
            self.net.elapsed(),
            self.ends.each_ref().map(Endpoint::reason),
            self.connections,
        );
    }
}
