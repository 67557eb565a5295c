//! The hostile peer: its link, its two connections, and what must be true of them.

use super::held::Held;
use super::{CONTACT, EFFECT, Moment, Siege};
use crate::cdc;
use crate::clc::{Bounded, PeerId, Rkey, RmbeSize, Token, Version};
use crate::handshake::rdma::{Limits, Settled};
use crate::llc::flow;
use crate::llc::{Batch, ConfirmRkey, DeleteRkey, LinkNumber, Llc, Rtoken, TestLink, Verdict};
use crate::rdma::fabric::{LinkError, Port};
use crate::rdma::sim::hostile::{Attack, CdcFacts, LlcFacts};
use crate::rdma::sim::{FarEnd, Manners, Place, RawPeer, Recorded, Seen};
use crate::rdma::state::{News, Prepared};
use crate::rdma::{GroupKey, PeerElement};
use crate::stat::Role;
use std::sync::Arc;
use std::time::Duration;

/// Elements in its memory, and what lies between them, where nobody must write.
const SLOTS: usize = 4;
const ELEMENT: usize = 16 << 10;
const GUARD: usize = 256;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Attacker {
    pub(super) manners: Manners,
    pub(super) group: u32,
    is_polite: bool,
    is_ready: bool,
    is_over: bool,
    /// The connection that began the group: its token is known before the link is confirmed.
    early: Option<Prepared>,
    target: Option<Held>,
    neighbour: Option<Held>,
    next_token: u32,
    next_slot: usize,
}

impl Attacker {
    /// One whose link is connected, and not confirmed.
    pub(super) fn new(siege: &mut Siege) -> Self {
        let gid = usize::from(siege.version == Version::V2);
        let (receive_size, limits) = match siege.version {
            Version::V1 => (44, None),
            Version::V2 => (
                8192,
                Some(Limits {
                    max_conns: 32,
                    max_links: 1,
                }),
            ),
        };
        let memory = GUARD + SLOTS * (ELEMENT + GUARD);
        let mut raw = RawPeer::new(&siege.port, gid, receive_size, memory).expect("a link");
        let key = GroupKey {
            peer: PeerId([0xa0; 8]),
            gid: raw.address().gid,
            role: siege.role,
        };
        let settled = Settled {
            version: siege.version,
            eid: None,
            release: u8::from(limits.is_some()),
            limits,
        };
        let now = siege.net.now();
        let state = &mut siege.victim.state;
        let port: Arc<dyn Port> = siege.victim.port.clone();
        let ours = siege.victim.port.gids()[gid];
        let group = state
            .start_group(&port, ours, key, &settled, siege.element_size)
            .expect("a group");
        let early = state.prepare(group).expect("memory");
        state.rmb_told(&early);
        let end = state.link_address(group).expect("a link");
        raw.connect(&end).expect("it is there");
        state.connect(group, &raw.address(), now).expect("so is it");
        let role = match siege.role {
            Role::Client => flow::Role::Server,
            Role::Server => flow::Role::Client,
        };
        let mut manners = Manners::new(raw, role, siege.version);
        manners.eye_catcher = siege.eye_catcher;
        Self {
            manners,
            group,
            is_polite: false,
            is_ready: false,
            is_over: false,
            early: Some(early),
            target: None,
            neighbour: None,
            next_token: 0x5000,
            next_slot: 0,
        }
    }

    /// What an attack needs at that moment is there.
    pub(super) fn is_fit(&self, moment: Moment) -> bool {
        match moment {
            Moment::BeforeConfirm => !self.is_over && !self.is_ready,
            _ => {
                let lives = |held: &Option<Held>| held.as_ref().is_some_and(|held| !held.is_lost());
                !self.is_over && self.is_ready && lives(&self.target) && lives(&self.neighbour)
            }
        }
    }

    /// Confirms the link, if the engine still goes along: it works, or the group is over, in time.
    pub(super) fn contact(&mut self, siege: &mut Siege) {
        self.is_polite = true;
        self.manners.begin();
        let end = siege.net.now() + CONTACT;
        while !self.is_ready && !self.is_over {
            assert!(siege.net.now() < end, "a first contact without an end");
            siege.run(Duration::from_micros(200), Some(self));
            self.see(siege);
        }
    }

    /// A new connection to be attacked, beside one that is not.
    pub(super) fn renew(&mut self, siege: &mut Siege, moment: Moment) {
        assert!(self.is_ready, "nothing is wrong so far");
        if let Some(early) = self.early.take() {
            let slot = self.slot();
            self.neighbour = Some(self.join(siege, early, slot));
            // Lest the tokens are next to each other.
            let between = siege.victim.state.prepare(self.group).expect("memory");
            siege.victim.state.give_back(&between);
        }
        if let Some(old) = self.target.take() {
            old.close(true);
            // As long as an abort waits to be answered, or a closed connection for its peer.
            let time = match moment {
                Moment::Closing => 75,
                _ => 6,
            };
            siege.run(Duration::from_secs(time), Some(self));
        }
        let prepared = self.prepare(siege);
        let slot = 1 + self.slot() % (SLOTS - 1);
        self.target = Some(self.join(siege, prepared, slot));
        // Once around the rings, in both directions.
        for _ in 0..3 {
            self.exchange(siege, 7000);
        }
        let Some(target) = &mut self.target else {
            return;
        };
        match moment {
            Moment::BeforeConfirm | Moment::Idle => {}
            Moment::DataInFlight => {
                target.far.write(&mut self.manners.raw, &[3; 1000]);
                if let Some(program) = &target.program {
                    // As much as the attacker's element holds.
                    let size = ELEMENT - siege.eye_catcher.base() as usize;
                    let sent = program.send(&[4; ELEMENT][..size], 0);
                    assert_eq!(sent, Ok(size));
                }
                siege.run(Duration::from_millis(1), Some(self));
                let program = self.target.as_ref().and_then(|held| held.program.as_ref());
                let sent = program.map(|program| program.send(&[5; ELEMENT], 0));
                assert_eq!(sent, Some(Ok(ELEMENT)), "sent and not delivered");
            }
            Moment::Closing => {
                if let Some(program) = target.program.take() {
                    program.close(false);
                }
            }
        }
        siege.run(Duration::from_millis(1), Some(self));
    }

    fn slot(&mut self) -> usize {
        self.next_slot += 1;
        self.next_slot - 1
    }

    fn prepare(&mut self, siege: &mut Siege) -> Prepared {
        let now = siege.net.now();
        let prepared = siege.victim.state.prepare(self.group).expect("memory");
        let known = siege.victim.state.tell_rmb(&prepared, now);
        if known == Ok(true) {
            let rmb = prepared.rmb();
            let told = News::RkeyAnswered(self.group, rmb, true);
            let end = now + CONTACT;
            while !siege.victim.others.contains(&told) {
                assert!(siege.net.now() < end, "no answer to CONFIRM RKEY");
                siege.run(Duration::from_micros(100), Some(self));
            }
        }
        prepared
    }

    fn join(&mut self, siege: &mut Siege, prepared: Prepared, slot: usize) -> Held {
        let at = GUARD + slot * (ELEMENT + GUARD);
        let (rkey, address, index, size) = prepared.rmbe();
        let size = size.expect("sizes of elements are those of CLC");
        let theirs = Place {
            rkey,
            address: address + u64::from(index.get() - 1) * size.bytes() as u64,
            size,
            token: prepared.token,
        };
        self.next_token += 1;
        let token = Token(self.next_token);
        let (rkey, memory) = self.manners.raw.rtoken();
        let ours = PeerElement {
            address: memory + at as u64,
            rkey,
            size: RmbeSize::MIN,
            token,
        };
        let now = siege.net.now();
        let program = siege.victim.join(prepared, ours, now);
        assert!(program.is_some(), "the group is there");
        Held {
            program,
            far: FarEnd::new(theirs, at, RmbeSize::MIN, siege.eye_catcher),
            token,
            is_spoilt: false,
        }
    }

    /// `len` bytes in both directions over both connections.
    fn exchange(&mut self, siege: &mut Siege, len: usize) {
        for which in 0..2 {
            if let Some(held) = self.held(which)
                && let Some(program) = &held.program
            {
                assert_eq!(program.send(&vec![6; len], 0), Ok(len));
            }
            let (raw, held) = match which {
                0 => (&mut self.manners.raw, &mut self.target),
                _ => (&mut self.manners.raw, &mut self.neighbour),
            };
            if let Some(held) = held {
                assert_eq!(held.far.write(raw, &vec![7; len]), len);
            }
        }
        siege.run(Duration::from_millis(2), Some(self));
        for which in 0..2 {
            let Some(held) = self.held(which) else {
                continue;
            };
            if let Some(program) = &held.program {
                let mut bytes = vec![0; len + 1];
                assert_eq!(program.receive(&mut bytes), Ok(len));
                assert!(bytes[..len].iter().all(|byte| *byte == 7));
            }
        }
        let raw = &mut self.manners.raw;
        for held in [&mut self.target, &mut self.neighbour]
            .into_iter()
            .flatten()
        {
            assert_eq!(held.far.read(raw), vec![6; len]);
            held.far.tell(raw);
        }
        siege.victim.attend(siege.net.now());
        siege.run(Duration::from_millis(1), Some(self));
    }

    fn held(&self, which: usize) -> Option<&Held> {
        match which {
            0 => self.target.as_ref(),
            _ => self.neighbour.as_ref(),
        }
    }

    /// What is true of the target.
    pub(super) fn facts(&self) -> CdcFacts {
        let target = self.target.as_ref().expect("there is a connection");
        target.far.facts()
    }

    /// The same of a connection that has begun at one end only.
    pub(super) fn early_facts(&self) -> CdcFacts {
        let early = self.early.as_ref().expect("the link is not confirmed");
        let (rkey, address, _, _) = early.rmbe();
        let place = Place {
            rkey,
            address,
            size: RmbeSize::MIN,
            token: early.token,
        };
        FarEnd::new(place, GUARD, RmbeSize::MIN, self.manners.eye_catcher).facts()
    }

    /// What is true of the group.
    pub(super) fn llc_facts(&self, version: Version) -> LlcFacts {
        let (rkey, address) = self.manners.raw.rtoken();
        LlcFacts {
            version,
            link: self.manners.link(),
            end: self.manners.end(),
            rtoken: Rtoken { rkey, address },
            free_link: LinkNumber(self.manners.link().0 + 8),
        }
    }

    /// What the attacker does by itself.
    pub(super) fn look(&mut self) {
        if !self.is_polite {
            // It hears, and does not answer.
            return self.manners.raw.poll();
        }
        for message in self.manners.take_heard() {
            let held = [&mut self.target, &mut self.neighbour];
            let of = |held: &&mut Held| held.token == message.token;
            if let Some(held) = held.into_iter().flatten().find(of)
                && !held.is_spoilt
            {
                held.far.take(&message);
            }
        }
    }

    /// Is about to say what is not true.
    pub(super) fn spoils(&mut self, attack: &Attack) {
        let is_cdc = |message: &Vec<u8>| message.first() == Some(&cdc::TYPE);
        if let Some(target) = &mut self.target
            && attack.messages.iter().any(is_cdc)
        {
            target.is_spoilt = true;
        }
    }

    fn see(&mut self, siege: &mut Siege) {
        for news in siege.victim.others.drain(..) {
            match news {
                News::Ready(group) if group == self.group => self.is_ready = true,
                News::Ended(group, _) if group == self.group => self.is_over = true,
                _ => {}
            }
        }
    }

    /// Whether the group is over.
    pub(super) fn has_ended(&mut self, siege: &mut Siege) -> bool {
        self.see(siege);
        self.is_over
    }

    /// Whether the target's program has been told of an error.
    pub(super) fn is_lost(&self) -> bool {
        self.target.as_ref().is_some_and(Held::is_lost)
    }

    /// Whether the program of the connection that nobody attacks has been told of an error.
    pub(super) fn has_lost_both(&self) -> bool {
        self.neighbour.as_ref().is_some_and(Held::is_lost)
    }

    /// The other connection of the group goes on.
    pub(super) fn neighbour_works(&mut self, siege: &mut Siege, name: &str) {
        let raw = &mut self.manners.raw;
        let Some(held) = &mut self.neighbour else {
            return;
        };
        held.far.write(raw, b"abc");
        if let Some(program) = &held.program {
            assert_eq!(program.send(b"xyz", 0), Ok(3), "{name}");
        }
        siege.victim.attend(siege.net.now());
        siege.run(Duration::from_micros(200), Some(self));
        let raw = &mut self.manners.raw;
        let Some(held) = &mut self.neighbour else {
            return;
        };
        let mut bytes = [0; 4];
        let received = held.program.as_ref().map(|p| p.receive(&mut bytes));
        assert_eq!((received, &bytes), (Some(Ok(3)), b"abc\0"), "{name}");
        assert_eq!(held.far.read(raw), b"xyz", "{name}");
        held.far.tell(raw);
    }

    /// Nothing was written between its elements, nor over the eye catchers of those that have one.
    pub(super) fn check_memory(&self, name: &str) {
        for slot in 0..=SLOTS {
            let guard = self.manners.raw.read(slot * (ELEMENT + GUARD), GUARD);
            assert!(guard == [0; GUARD], "{name}: written outside of the RMBE");
        }
        for held in [&self.target, &self.neighbour].into_iter().flatten() {
            // What the programs send has no zeros.
            let bytes = held.far.eye_catcher(&self.manners.raw);
            assert!(bytes.iter().all(|byte| *byte == 0), "{name}: {bytes:?}");
        }
    }

    /// What the engine keeps for it has bounds.
    pub(super) fn check_queues(&self, siege: &Siege, name: &str) {
        if let Some(group) = siege.victim.state.groups.get(&self.group) {
            assert!(group.posts.len() <= 64, "{name}");
            assert!(group.tokens.len() <= 8, "{name}");
        }
    }

    /// Writes where it must not in the target's element.
    pub(super) fn overwrite(&mut self, offset: u64, bytes: &[u8]) {
        let target = self.target.as_mut().expect("there is a connection");
        let raw = &mut self.manners.raw;
        target.far.overwrite(raw, offset, bytes);
    }

    /// Whether the target's program gets no byte any more.
    pub(super) fn reads_nothing(&self) -> bool {
        let program = self.target.as_ref().and_then(|held| held.program.as_ref());
        program.is_some_and(|program| !matches!(program.receive(&mut [0; 64]), Ok(1..)))
    }

    /// Writes `len` bytes to memory of the engine's that is not its own. True if its own adapter
    /// says that this was refused.
    pub(super) fn write_to(&mut self, siege: &mut Siege, rkey: Rkey, to: u64, len: usize) -> bool {
        // From here on it does not answer, and keeps what it sees.
        self.is_polite = false;
        self.manners.raw.take_seen();
        let bytes = vec![0xee; len];
        let said = self
            .manners
            .raw
            .write_and_say(&[(rkey, to, &bytes)], &[0; 44]);
        assert!(said.is_ok(), "its own link lets it try");
        siege.run(EFFECT, Some(self));
        let seen = self.manners.raw.take_seen();
        seen.first() == Some(&Seen::Failed(LinkError::Refused))
    }

    /// Asks whether the engine is there. False if that could not be sent.
    pub(super) fn ask(&mut self) -> bool {
        let message = Llc::TestLink(TestLink {
            response: false,
            data: [1; 16],
        });
        self.manners.raw.say(&message.emit(Version::V2)).is_ok()
    }

    /// Tells the engine of the memory that its connections use, and takes it back: no byte is
    /// written there from then on.
    pub(super) fn tell_and_take_back(&mut self, siege: &mut Siege) {
        let (rkey, address) = self.manners.raw.rtoken();
        let told = Llc::ConfirmRkey(ConfirmRkey {
            verdict: Verdict::Request,
            rtoken: Rtoken { rkey, address },
            others: Batch::default(),
        });
        let taken_back = Llc::DeleteRkey(DeleteRkey {
            failed: None,
            rkeys: Bounded::new(vec![rkey]).expect("one of eight"),
        });
        for message in [told, taken_back] {
            let said = self.manners.raw.say(&message.emit(siege.version));
            assert!(said.is_ok());
            siege.run(Duration::from_millis(1), Some(self));
        }
        siege.net.record();
        // Now there would be room for what the program has sent.
        for held in [&mut self.target, &mut self.neighbour]
            .into_iter()
            .flatten()
        {
            held.far.read(&self.manners.raw);
            held.far.tell(&mut self.manners.raw);
        }
        siege.run(Duration::from_millis(5), Some(self));
        let record = siege.net.take_record();
        let written = |recorded: &&Recorded| matches!(recorded, Recorded::Write { rkey: by, .. } if *by == rkey.0);
        assert_eq!(record.iter().find(written), None);
    }

    /// Goes without a word. Its programs close.
    pub(super) fn die(mut self, siege: &mut Siege) {
        if let Some(early) = self.early.take() {
            siege.victim.state.give_back(&early);
            let now = siege.net.now();
            let (errno, reason) = (rustix::io::Errno::CONNRESET, crate::Reason::LinkFailed);
            siege.victim.state.end_group(self.group, errno, reason, now);
        }
        for held in [self.target.take(), self.neighbour.take()]
            .into_iter()
            .flatten()
        {
            held.close(true);
        }
        siege.victim.attend(siege.net.now());
    }
}
