//! The tables hold what they promise: the codecs see what is wrong, or nothing is.

use std::collections::HashSet;

use super::*;
use crate::cdc::{self, Cdc, CdcSeq, EyeCatcher, Window};
use crate::clc::{Gid, Mac, QpNumber, Rkey, RmbeSize, Token, Version};
use crate::llc::{LinkEnd, LinkNumber, Llc, Rtoken};

fn facts(eye_catcher: EyeCatcher) -> CdcFacts {
    let window = |code| Window::new(RmbeSize::new(code).unwrap(), eye_catcher);
    CdcFacts {
        seq: CdcSeq(40_000),
        token: Token(0x0102_0304),
        theirs: window(0),
        ours: window(2),
        produced: 50_000,
        acknowledged: 40_000,
        received: 700_000,
        consumed: 690_000,
    }
}

#[test]
fn the_good_message_is_good() {
    for eye_catcher in [EyeCatcher::None, EyeCatcher::FourBytes] {
        let facts = facts(eye_catcher);
        let good = facts.good();
        assert_eq!(Cdc::parse(&good.emit()), Ok(Cdc::Message(good)));
        let limit = facts.acknowledged + u64::from(facts.theirs.capacity());
        let produced = facts.theirs.advance(facts.produced, limit, good.producer);
        assert_eq!(produced, Ok(facts.produced));
        let consumed = facts
            .ours
            .advance(facts.consumed, facts.received, good.consumer);
        assert_eq!(consumed, Ok(facts.consumed));
    }
}

#[test]
fn wrong_cursors_are_wrong() {
    for eye_catcher in [EyeCatcher::None, EyeCatcher::FourBytes] {
        let facts = facts(eye_catcher);
        let mut wrong = 0;
        for attack in cdc_attacks(&facts) {
            let about_cursors =
                attack.name.starts_with("producer") || attack.name.starts_with("consumer");
            if !about_cursors {
                continue;
            }
            let Ok(Cdc::Message(message)) = Cdc::parse(&attack.messages[0]) else {
                panic!("{}: only the cursor is wrong", attack.name);
            };
            let limit = facts.acknowledged + u64::from(facts.theirs.capacity());
            let produced = facts
                .theirs
                .advance(facts.produced, limit, message.producer);
            let consumed = facts
                .ours
                .advance(facts.consumed, facts.received, message.consumer);
            assert!(produced.is_err() != consumed.is_err(), "{}", attack.name);
            wrong += 1;
        }
        assert_eq!(
            wrong,
            28 + 2 * u32::from(eye_catcher == EyeCatcher::FourBytes)
        );
    }
}

#[test]
fn what_may_end_a_link_is_no_cdc_message() {
    for attack in cdc_attacks(&facts(EyeCatcher::None)) {
        let parsed = Cdc::parse(&attack.messages[0]);
        assert!(
            attack.harm != Harm::Link || parsed.is_err(),
            "{}",
            attack.name
        );
        assert!(attack.messages[0].len() <= cdc::LEN);
    }
}

#[test]
fn names_tell_attacks_apart() {
    for version in [Version::V1, Version::V2] {
        let facts = llc_facts(version);
        let llc = llc_attacks(&facts);
        assert!(llc.len() > 3000, "{}", llc.len());
        let names: HashSet<&str> = llc.iter().map(|attack| attack.name.as_str()).collect();
        assert_eq!(names.len(), llc.len());
        if version == Version::V1 {
            let longest = llc
                .iter()
                .flat_map(|attack| &attack.messages)
                .map(Vec::len)
                .max();
            assert_eq!(
                longest,
                Some(44),
                "more than the receives of version 1 hold"
            );
        }
    }
}

#[test]
fn llc_attacks_are_read_without_panic() {
    let mut parsed = 0;
    for version in [Version::V1, Version::V2] {
        for attack in llc_attacks(&llc_facts(version)) {
            let known = attack
                .messages
                .iter()
                .filter(|bytes| Llc::parse(bytes).is_ok());
            parsed += known.count();
        }
    }
    assert!(parsed > 8000, "most get past the codec: {parsed}");
}

fn llc_facts(version: Version) -> LlcFacts {
    LlcFacts {
        version,
        link: LinkNumber(1),
        end: LinkEnd {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            gid: Gid([1; 16]),
            qp_number: QpNumber::new(0x123).unwrap(),
        },
        rtoken: Rtoken {
            rkey: Rkey(0x5566),
            address: 0x7f00_0000_0000,
        },
        free_link: LinkNumber(9),
    }
}
