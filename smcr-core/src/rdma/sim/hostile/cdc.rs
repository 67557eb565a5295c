//! Wrong CDC messages.

use super::{Attack, Harm};
use crate::cdc::{CdcMessage, CdcSeq, ConnState, Cursor, ProducerFlags, Window};
use crate::clc::Token;

/// What is true of the attacker's end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct CdcFacts {
    /// The number that the next good message has.
    pub seq: CdcSeq,
    /// The victim's token for the connection.
    pub token: Token,
    /// The victim's element, which the attacker's producer cursor counts in.
    pub theirs: Window,
    /// The attacker's element, which its consumer cursor counts in.
    pub ours: Window,
    /// Bytes that the attacker has written and announced.
    pub produced: u64,
    /// Of these, what the victim has reported as consumed.
    pub acknowledged: u64,
    /// Bytes that the victim has written and announced.
    pub received: u64,
    /// Of these, what the attacker has reported as consumed.
    pub consumed: u64,
}

impl CdcFacts {
    /// The next good message: it says nothing new.
    pub fn good(&self) -> CdcMessage {
        CdcMessage {
            seq: self.seq,
            token: self.token,
            producer: Cursor::from_position(self.produced, self.theirs),
            consumer: Cursor::from_position(self.consumed, self.ours),
            flags: ProducerFlags::NONE,
            state: ConnState::NONE,
        }
    }
}

/// All of them.
pub fn cdc_attacks(facts: &CdcFacts) -> Vec<Attack> {
    let mut attacks = Vec::new();
    let good = facts.good();
    cursors(facts, &mut attacks);
    let mut add = |name: &str, harm, message: CdcMessage| {
        attacks.push(Attack::new(name, harm, message.emit()));
    };

    for (name, token) in [
        ("token of nobody", facts.token.0 ^ 0x8000_0000),
        ("next token", facts.token.0.wrapping_add(1)),
        ("token before", facts.token.0.wrapping_sub(1)),
        ("no token", 0),
        ("last token", u32::MAX),
    ] {
        // Whatever it says, it says it about a connection that is not there. (The neighbours may
        // exist, and have other cursors; a reset would be theirs.)
        let closing = CdcMessage {
            token: Token(token),
            state: ConnState::CLOSED | ConnState::ABORTED,
            ..good
        };
        add(name, Harm::None, closing);
    }
    for (name, back) in [
        ("number of before", 2),
        ("number of long before", 0x7fff),
        ("number of half the circle before", 0x8000),
    ] {
        let seq = CdcSeq(facts.seq.0.wrapping_sub(back));
        let state = ConnState::ABORTED;
        add(name, Harm::None, CdcMessage { seq, state, ..good });
    }
    let seq = CdcSeq(facts.seq.0.wrapping_add(0x7ff0));
    // Allowed: a message may be lost with a link. It has to be taken, or the connection to end.
    add(
        "number far ahead",
        Harm::Connection,
        CdcMessage { seq, ..good },
    );

    let all = ProducerFlags::from_bits(0xff);
    for (name, flags) in [
        ("all flags", all),
        ("urgent without a byte", ProducerFlags::URGENT_PRESENT),
        (
            "urgent byte that never comes",
            ProducerFlags::URGENT_PENDING,
        ),
    ] {
        let message = CdcMessage { flags, ..good };
        add(name, Harm::Connection, message);
    }
    raw(facts, &mut attacks);
    sequences(facts, &mut attacks);
    attacks
}

fn cursors(facts: &CdcFacts, attacks: &mut Vec<Attack>) {
    let good = facts.good();
    let mut both = |name: String, producer: Option<Cursor>, consumer: Option<Cursor>, harm| {
        if let Some(producer) = producer {
            let message = CdcMessage { producer, ..good };
            attacks.push(Attack::new(
                format!("producer {name}"),
                harm,
                message.emit(),
            ));
        }
        if let Some(consumer) = consumer {
            let message = CdcMessage { consumer, ..good };
            attacks.push(Attack::new(
                format!("consumer {name}"),
                harm,
                message.emit(),
            ));
        }
    };
    let at = |position: u64, window: Window| Some(Cursor::from_position(position, window));
    let (theirs, ours) = (facts.theirs, facts.ours);

    for (name, by) in [("one", 1), ("ten", 10), ("a third of the element", 0)] {
        let back = |position: u64, window: Window| {
            let by = if by == 0 {
                u64::from(window.capacity()) / 3
            } else {
                by
            };
            at(position.checked_sub(by)?, window)
        };
        // An old cursor in a new message: Linux goes on with the newer one, the connection may end.
        let (producer, consumer) = (back(facts.produced, theirs), back(facts.consumed, ours));
        both(
            format!("back by {name}"),
            producer,
            consumer,
            Harm::Connection,
        );
    }
    for by in [1, 2, 100] {
        // The furthest that can be true: the element full, all that came consumed.
        let full = facts.acknowledged + u64::from(theirs.capacity());
        let (producer, consumer) = (at(full + by, theirs), at(facts.received + by, ours));
        both(
            format!("{by} too far"),
            producer,
            consumer,
            Harm::Connection,
        );
    }
    for (name, count) in [
        ("at the end of the element", None),
        ("at the largest count", Some(u32::MAX)),
        ("at a negative count", Some(0x8000_0000)),
    ] {
        let set = |cursor: Cursor, window: Window| {
            let count = count.unwrap_or_else(|| window.element_size());
            Some(Cursor { count, ..cursor })
        };
        let (producer, consumer) = (set(good.producer, theirs), set(good.consumer, ours));
        both(name.to_owned(), producer, consumer, Harm::Connection);
    }
    let in_eye_catcher = |cursor: Cursor, window: Window| {
        let base = window.eye_catcher().base();
        (base > 0).then(|| Cursor {
            count: base - 1,
            ..cursor
        })
    };
    let producer = in_eye_catcher(good.producer, theirs);
    let consumer = in_eye_catcher(good.consumer, ours);
    both(
        "in the eye catcher".to_owned(),
        producer,
        consumer,
        Harm::Connection,
    );
    for by in [2u16, 3, 0x7fff, 0x8000, 0xfffe] {
        let jump = |cursor: Cursor| {
            let wrap = cursor.wrap.wrapping_add(by);
            Some(Cursor { wrap, ..cursor })
        };
        let name = format!("with {by} more wraps");
        both(
            name,
            jump(good.producer),
            jump(good.consumer),
            Harm::Connection,
        );
    }
}

/// What the codec's types cannot say.
fn raw(facts: &CdcFacts, attacks: &mut Vec<Attack>) {
    let good = facts.good().emit();
    for length in [0, 1, 43, 45, 255] {
        let mut bytes = good;
        bytes[1] = length;
        attacks.push(Attack::new(
            format!("announces {length} bytes"),
            Harm::None,
            bytes,
        ));
    }
    for kind in [0xff, 0xfd, 0xc0] {
        let mut bytes = good;
        bytes[0] = kind;
        // Neither LLC nor CDC as anybody knows it.
        attacks.push(Attack::new(format!("type 0x{kind:02x}"), Harm::Link, bytes));
    }
    for len in [1, 2, 8, 24, 43] {
        let name = format!("cut off after {len}");
        attacks.push(Attack::new(name, Harm::Link, &good[..len]));
    }
    attacks.push(Attack::new("empty", Harm::Link, []));
    let mut reserved = good;
    for at in [8, 9, 16, 17].into_iter().chain(26..44) {
        reserved[at] = 0xff;
    }
    attacks.push(Attack::new("reserved fields set", Harm::None, reserved));
    for (name, ahead, harm) in [
        ("validation of what came", 0u16.wrapping_sub(1), Harm::None),
        ("validation of what never came", 5, Harm::Connection),
    ] {
        let mut bytes = good;
        let seq = facts.seq.0.wrapping_add(ahead);
        bytes[2..4].copy_from_slice(&seq.to_be_bytes());
        bytes[24] = 0x08;
        attacks.push(Attack::new(name, harm, bytes));
    }
}

/// Wrong only one after the other.
fn sequences(facts: &CdcFacts, attacks: &mut Vec<Attack>) {
    let good = facts.good();
    let next = |message: CdcMessage| CdcMessage {
        seq: message.seq.next(),
        ..message
    };
    for (name, end) in [
        ("data after done writing", ConnState::DONE_WRITING),
        ("data after closed", ConnState::CLOSED),
        ("data after abort", ConnState::ABORTED),
    ] {
        let first = CdcMessage { state: end, ..good };
        let producer = Cursor::from_position(facts.produced + 1, facts.theirs);
        let second = CdcMessage {
            producer,
            ..next(first)
        };
        // Taken back: these flags are only ever added.
        let third = CdcMessage {
            state: ConnState::NONE,
            ..next(second)
        };
        attacks.push(Attack {
            name: name.to_owned(),
            messages: vec![
                first.emit().into(),
                second.emit().into(),
                third.emit().into(),
            ],
            harm: Harm::Connection,
        });
    }
    let mut message = good;
    let flood = (0..300).map(|_| {
        message = next(message);
        message.flags = ProducerFlags::CURSOR_REQUESTED | ProducerFlags::WRITER_BLOCKED;
        message.emit().into()
    });
    attacks.push(Attack {
        name: "a flood of questions".to_owned(),
        messages: flood.collect(),
        harm: Harm::Connection,
    });
}
