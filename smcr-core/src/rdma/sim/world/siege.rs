//! A whole engine with two peers. One is another engine, and what its connection carries is
//! compared with queues. The other one says and writes what it likes ([`hostile`](crate::rdma::sim::hostile)).
//!
//! What has to hold after each attack: it costs no more than it may ([`Harm`]); the honest peer's
//! connection works; nothing was written to the attacker but where it wants it; what the engine
//! keeps has bounds; and what ended, ended for a reason that was counted.

mod attacker;
mod counted;
mod held;

use std::time::Duration;

use std::sync::Arc;

use super::super::SimPort;
use super::super::hostile::{Attack, Harm, cdc_attacks, llc_attacks};
use super::end::Endpoint;
use super::stream::Connection;
use super::{Random, SimConfig, SimNet, Totals};
use crate::cdc::EyeCatcher;
use crate::clc::Version;
use crate::rdma::PeerElement;
use crate::stat::Role;
use attacker::Attacker;
use counted::Counted;

/// How long an attack has to take effect: far longer than anything is on its way.
const EFFECT: Duration = Duration::from_millis(1);

/// How long a first contact may take: longer than all its timers.
const CONTACT: Duration = Duration::from_secs(12);

/// The most that is registered for the attacker's group and the bystander's, whatever happens: two
/// pools of RMBs and two of send buffers, with a few buffers each.
const MOST_REGIONS: usize = 8;

/// How far the attacker's group is when the attack comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The link is connected, and not confirmed.
    BeforeConfirm,
    /// Two connections, and nothing on its way.
    Idle,
    /// The engine's program has sent more than there is room for; what the attacker has sent is
    /// not read.
    DataInFlight,
    /// The program has closed; the attacker has not.
    Closing,
}

/// See the module's description.
#[derive(Debug)]
pub struct Siege {
    bystander: Connection,
    /// Where the bystander writes to: in the engine's memory.
    target: Option<PeerElement>,
    victim: Endpoint,
    honest: Endpoint,
    net: SimNet,
    random: Random,
    /// The engine's, towards the attacker.
    role: Role,
    version: Version,
    eye_catcher: EyeCatcher,
    element_size: u32,
    /// The attackers'.
    port: Arc<SimPort>,
    tally: Besieged,
    totals: Totals,
}

/// What happened, so that a test can tell whether it tested something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Besieged {
    /// Attacks that were made.
    pub attacks: u64,
    /// Of these, how many ended a connection.
    pub connections: u64,
    /// Of these, how many ended a link.
    pub links: u64,
    /// Messages that were dropped, and counted.
    pub dropped: u64,
}

impl Siege {
    /// The engine is in `role` towards the attacker, and speaks `version`; the attacker wants
    /// `eye_catcher` in the elements.
    pub fn new(seed: u64, role: Role, version: Version, eye_catcher: EyeCatcher) -> Self {
        let mut random = Random::new(seed);
        let net = SimNet::new(SimConfig::new(), random.next());
        let element_size = 16 << 10;
        let [mut victim, mut honest] = [Role::Client, Role::Server]
            .map(|role| Endpoint::new(&net, role, element_size, EyeCatcher::None));
        let port = net.port("sim2/1");
        let now = net.now();
        assert!(victim.start(&honest, now) && honest.start(&victim, now));
        let ends = [victim.address(), honest.address()];
        let [Some(ours), Some(theirs)] = ends else {
            panic!("no link");
        };
        assert!(victim.connect(&theirs, now) && honest.connect(&ours, now));
        let mut siege = Self {
            bystander: Connection::new([None, None], false, 0),
            target: None,
            victim,
            honest,
            net,
            random,
            role,
            version,
            eye_catcher,
            element_size,
            tally: Besieged::default(),
            totals: Totals::default(),
            port,
        };
        while !siege.victim.is_alive() || !siege.honest.is_alive() {
            siege.run(Duration::from_micros(50), None);
        }
        siege.open_bystander();
        siege
    }

    fn open_bystander(&mut self) {
        let now = self.net.now();
        let openings = [&mut self.victim, &mut self.honest].map(|end| end.prepare(now));
        let [Some(ours), Some(theirs)] = openings else {
            panic!("no memory");
        };
        while !self.victim.is_known(&ours) || !self.honest.is_known(&theirs) {
            self.run(Duration::from_micros(50), None);
        }
        let (at, to) = (ours.element(), theirs.element());
        self.target = Some(at);
        let now = self.net.now();
        let program = self.victim.establish(ours, to, now);
        let other = self.honest.establish(theirs, at, now);
        self.bystander = Connection::new([program, other], false, 0);
    }

    /// Makes all attacks of LLC messages at that moment.
    ///
    /// # Panics
    /// If one of them does what it must not.
    pub fn llc(&mut self, moment: Moment) -> Besieged {
        let mut attacker = None;
        let mut next = 0;
        loop {
            let mut current = self.fit(attacker.take(), moment);
            let facts = current.llc_facts(self.version);
            let attacks = llc_attacks(&facts);
            while let Some(attack) = attacks.get(next) {
                next += 1;
                self.attack(&mut current, attack, moment);
                if !current.is_fit(moment) {
                    break;
                }
                if moment == Moment::BeforeConfirm && next % 256 == 0 {
                    // Whatever was said before it, the link can still be confirmed.
                    self.settle_contact(&mut current);
                    break;
                }
            }
            if next >= attacks.len() {
                self.dismiss(Some(current));
                return self.tally;
            }
            attacker = Some(current);
        }
    }

    /// Makes all attacks of CDC messages at that moment.
    ///
    /// # Panics
    /// If one of them does what it must not.
    pub fn cdc(&mut self, moment: Moment) -> Besieged {
        let mut attacker = None;
        for next in 0.. {
            let mut current = self.fit(attacker.take(), moment);
            let attacks = match moment {
                Moment::BeforeConfirm => cdc_attacks(&current.early_facts()),
                _ => {
                    current.renew(self, moment);
                    cdc_attacks(&current.facts())
                }
            };
            let Some(attack) = attacks.get(next) else {
                self.dismiss(Some(current));
                break;
            };
            self.attack(&mut current, attack, moment);
            attacker = Some(current);
        }
        self.tally
    }

    /// An attacker that asks without end, and takes no answer: the link goes before anything runs
    /// full.
    ///
    /// # Panics
    /// If not.
    pub fn deaf(&mut self) -> Besieged {
        let attacker = &mut self.fit(None, Moment::Idle);
        self.port.deafen(true);
        let mut asked = 0;
        while !attacker.has_ended(self) {
            assert!(asked < 2000, "everything is answered, and nothing heard");
            if attacker.ask() {
                asked += 1;
            }
            self.run(Duration::from_micros(20), Some(attacker));
            attacker.check_queues(self, "deaf");
        }
        self.port.deafen(false);
        self.bystander_works("deaf");
        self.tally.attacks += asked;
        self.tally
    }

    /// An attacker that begins, and never confirms its link: nothing is left of it after a while.
    ///
    /// # Panics
    /// If not.
    pub fn silence(&mut self) {
        for _ in 0..20 {
            let mut attacker = Attacker::new(self);
            let end = self.net.now() + CONTACT;
            while !attacker.has_ended(self) {
                assert!(self.net.now() < end, "waits without an end");
                self.run(Duration::from_millis(100), Some(&mut attacker));
            }
            self.bystander_works("silence");
            self.dismiss(Some(attacker));
        }
    }

    /// The attacker takes back the key of memory that its connections use.
    ///
    /// # Panics
    /// If anything is written there afterwards, or the link is lost.
    pub fn take_back(&mut self) -> Besieged {
        let mut attacker = self.fit(None, Moment::DataInFlight);
        let before = Counted::now();
        attacker.tell_and_take_back(self);
        assert!(!attacker.has_ended(self), "cost the link");
        assert!(attacker.is_lost() && attacker.has_lost_both());
        let counted = Counted::now().since(&before);
        assert_eq!((counted.reused, counted.links), (2, 0));
        self.bystander_works("take back");
        self.dismiss(Some(attacker));
        self.tally
    }

    /// The attacker writes to the first four bytes of an element that has an eye catcher there: a
    /// byte of it, or data from offset 0 on, as if there were none.
    ///
    /// # Panics
    /// If that costs more than the connection, or its program reads any of it.
    pub fn overwrite(&mut self) -> Besieged {
        for (offset, bytes) in [
            (0, &[0][..]),
            (1, &[0]),
            (2, &[0]),
            (3, &[0]),
            (0, b"data from offset 0 on"),
        ] {
            let name = format!("{} bytes to offset {offset}", bytes.len());
            let mut attacker = self.fit(None, Moment::Idle);
            let before = Counted::now();
            attacker.overwrite(offset, bytes);
            self.run(EFFECT, Some(&mut attacker));
            assert!(!attacker.has_ended(self), "{name}: cost the link");
            assert!(attacker.is_lost() && attacker.reads_nothing(), "{name}");
            let counted = Counted::now().since(&before);
            assert_eq!((counted.eye_catchers, counted.dropped), (1, 0), "{name}");
            attacker.neighbour_works(self, &name);
            attacker.check_memory(&name);
            self.bystander_works(&name);
            self.dismiss(Some(attacker));
            self.tally.attacks += 1;
        }
        self.tally
    }

    /// The attacker knows (or guessed) the key and the address of the memory that the bystander
    /// writes to, and writes there: what it loses is its own link.
    ///
    /// # Panics
    /// If the bystander's bytes are harmed, or the attacker's link goes on.
    pub fn trespass(&mut self) -> Besieged {
        let element = self.target.expect("the bystander's connection is open");
        let size = element.size.bytes();
        // Where in the element, and how much: all of it, bytes that are not read yet, a free one
        // behind it.
        for (offset, len) in [(0, size), (1, 1), (size, size), (size - 1, 2)] {
            let name = format!("{len} bytes at {offset} of the neighbour's");
            let mut attacker = self.fit(None, Moment::Idle);
            self.tally.attacks += 1;
            // What waits in the engine's memory for the program to read it.
            for _ in 0..4 {
                self.bystander.send(1, 4000, &mut self.random);
            }
            for _ in 0..2 {
                // The note that they are there is read at the end of the first one.
                self.run(EFFECT, Some(&mut attacker));
            }
            let before = Counted::now();
            let to = element.address + offset as u64;
            let refused = attacker.write_to(self, element.rkey, to, len);
            let counted = Counted::now().since(&before);
            self.bystander_works(&name);
            assert!(refused, "{name}: its adapter was not told");
            assert!(attacker.has_ended(self), "{name}: its link goes on");
            assert_eq!(counted.links, 1, "{name}");
            assert!(self.victim.is_alive(), "{name}: cost the neighbour's link");
            self.tally.links += 1;
            self.dismiss(Some(attacker));
        }
        let groups = (self.victim.port.links().len(), self.victim.port.domains());
        assert_eq!(groups, (1, 1), "the bystander's are left");
        self.tally
    }

    /// The attacker says `messages` by hand, of which the worst may be `harm`.
    fn attack(&mut self, attacker: &mut Attacker, attack: &Attack, moment: Moment) {
        self.tally.attacks += 1;
        let before = Counted::now();
        attacker.spoils(attack);
        for message in &attack.messages {
            // The link may be gone by now, or its queue full: what was said is enough.
            if attacker.manners.raw.say(message).is_err() {
                self.run(EFFECT / 4, Some(attacker));
                let _ = attacker.manners.raw.say(message);
            }
        }
        self.run(EFFECT, Some(attacker));
        let counted = Counted::now().since(&before);
        self.judge(attacker, attack, moment, counted);
        self.bystander_works(&attack.name);
    }

    fn judge(
        &mut self,
        attacker: &mut Attacker,
        attack: &Attack,
        moment: Moment,
        counted: Counted,
    ) {
        let name = format!(
            "{moment:?}, {:?}, {:?}: {}",
            self.role, self.version, attack.name
        );
        let messages = attack.messages.len() as u64;
        let link_lost = attacker.has_ended(self);
        let lost = attacker.is_lost();
        assert!(
            !link_lost || attack.harm == Harm::Link,
            "{name}: cost the link"
        );
        assert!(
            !lost || attack.harm != Harm::None,
            "{name}: cost the connection"
        );
        if attacker.has_lost_both() && !link_lost {
            // All that used a key that the attacker took back.
            assert!(attack.harm == Harm::Link, "{name}: cost another connection");
            assert!((1..=2).contains(&counted.reused), "{name}: {counted:?}");
        } else if !link_lost && moment != Moment::BeforeConfirm {
            attacker.neighbour_works(self, &name);
        }
        attacker.check_memory(&name);
        self.tally.links += u64::from(link_lost);
        self.tally.connections += u64::from(lost && !link_lost);
        self.tally.dropped += counted.dropped;
        // Each message counts once at most, and each loss once.
        assert!(counted.dropped <= messages, "{name}: {counted:?}");
        assert!(counted.cursors <= 1, "{name}: {counted:?}");
        assert!(counted.links <= 1, "{name}: {counted:?}");
        assert_eq!(counted.eye_catchers, 0, "{name}: nothing was written there");
        if link_lost && moment == Moment::Idle {
            assert_eq!(counted.links, 1, "{name}: {counted:?}");
        }
        let (regions, _) = self.victim.port.registered();
        assert!(regions <= MOST_REGIONS, "{name}: {regions} regions");
        attacker.check_queues(self, &name);
    }

    /// Bytes go both ways between the engine and its honest peer.
    fn bystander_works(&mut self, name: &str) {
        for side in 0..2 {
            let len = 1 + self.random.index(700);
            self.bystander.send(side, len, &mut self.random);
        }
        for _ in 0..40 {
            self.run(Duration::from_micros(50), None);
            for side in 0..2 {
                self.bystander.receive(side, usize::MAX, &mut self.totals);
            }
            if self.bystander.has_read_everything() {
                break;
            }
        }
        if let Some(wrong) = self.bystander.wrong() {
            panic!("{name}: the neighbour: {wrong}");
        }
        assert!(
            self.bystander.has_read_everything(),
            "{name}: the neighbour is held up"
        );
    }

    /// An attacker that can make the next attack.
    fn fit(&mut self, attacker: Option<Attacker>, moment: Moment) -> Attacker {
        if let Some(attacker) = attacker {
            if attacker.is_fit(moment) {
                return attacker;
            }
            self.dismiss(Some(attacker));
        }
        let mut attacker = Attacker::new(self);
        if moment != Moment::BeforeConfirm {
            attacker.contact(self);
            attacker.renew(self, moment);
        }
        attacker
    }

    /// First contact goes on after attacks: it comes to an end.
    fn settle_contact(&mut self, attacker: &mut Attacker) {
        attacker.contact(self);
    }

    /// The attacker dies; nothing of it is left in the end.
    fn dismiss(&mut self, attacker: Option<Attacker>) {
        let Some(attacker) = attacker else { return };
        let group = attacker.group;
        attacker.die(self);
        // Its queue pair answers nothing any more; a test of the link finds that out.
        let end = self.net.now() + Duration::from_secs(240);
        while self.victim.state.groups.contains_key(&group) {
            assert!(self.net.now() < end, "a dead peer's group is kept");
            self.run(Duration::from_secs(1), None);
        }
        let links = self.victim.port.links().len();
        assert_eq!(links, 1, "only the bystander's is left");
    }

    /// Everything that happens in that time.
    fn run(&mut self, time: Duration, mut attacker: Option<&mut Attacker>) {
        let end = self.net.now() + time;
        loop {
            let timers = [&self.victim, &self.honest].map(Endpoint::next_timeout);
            let next = timers.into_iter().flatten().chain(self.net.next_event());
            let Some(next) = next.min().filter(|next| *next <= end) else {
                break;
            };
            self.net.advance(next);
            self.look(attacker.as_deref_mut());
        }
        self.net.advance(end);
        self.look(attacker);
    }

    fn look(&mut self, attacker: Option<&mut Attacker>) {
        let now = self.net.now();
        self.victim.look(now);
        self.honest.look_after(now);
        if let Some(attacker) = attacker {
            attacker.look();
        }
    }
}
