//! Wrong LLC messages.

use super::{Attack, Harm};
use crate::clc::{Bounded, Gid, MtuCode, Psn, QpNumber, Rkey, Version};
use crate::llc::{
    AddLink, AddLinkContinuation, AddLinkKind, Batch, ConfirmLink, ConfirmRkey,
    ConfirmRkeyContinuation, DeleteLink, DeleteReason, DeleteRkey, DeleteTarget, LEN, LinkEnd,
    LinkNumber, LinkRtoken, LinkUserId, Llc, MovedRtoken, RejectReason, RequestAddLink, Rtoken,
    TestLink, Verdict,
};

/// What is true of a group, as the attacker knows it.
#[derive(Debug, Clone)]
pub struct LlcFacts {
    /// The form of its messages.
    pub version: Version,
    /// The link that the messages go over.
    pub link: LinkNumber,
    /// The attacker's end of it.
    pub end: LinkEnd,
    /// An RMB of the attacker's that the victim knows.
    pub rtoken: Rtoken,
    /// Links that do not exist are tried from here on.
    pub free_link: LinkNumber,
}

/// All of them. What is wrong is the moment (nobody asked), the direction, a field, or the form.
pub fn llc_attacks(facts: &LlcFacts) -> Vec<Attack> {
    let mut attacks = Vec::new();
    types(&mut attacks);
    lengths(facts, &mut attacks);
    answers(facts, &mut attacks);
    fields(facts, &mut attacks);
    floods(facts, &mut attacks);
    bytes(facts, &mut attacks);
    attacks
}

/// One good message of each kind, asking and answering.
fn good(facts: &LlcFacts) -> Vec<(&'static str, Llc)> {
    let other = LinkEnd {
        qp_number: QpNumber::new(facts.end.qp_number.get() ^ 1).unwrap_or_default(),
        ..facts.end
    };
    let mtu = MtuCode::new(3).expect("an MTU");
    let mut all = Vec::new();
    for response in [false, true] {
        let name = |asks, answers| if response { answers } else { asks };
        all.push((
            name("CONFIRM LINK", "answer to CONFIRM LINK"),
            Llc::ConfirmLink(ConfirmLink {
                response,
                no_eye_catcher: true,
                end: facts.end,
                link: facts.link,
                user_id: LinkUserId(1),
                max_links: 2,
                max_conns: 255,
            }),
        ));
        all.push((
            name("ADD LINK", "answer to ADD LINK"),
            Llc::AddLink(AddLink {
                kind: if response {
                    AddLinkKind::Accepted
                } else {
                    AddLinkKind::Request
                },
                end: other,
                link: facts.free_link,
                mtu,
                psn: Psn::default(),
                extension: None,
            }),
        ));
        all.push((
            name("ADD LINK CONTINUATION", "answer to ADD LINK CONTINUATION"),
            Llc::AddLinkContinuation(AddLinkContinuation {
                response,
                link: facts.free_link,
                rtokens: Batch::default(),
            }),
        ));
        all.push((
            name("DELETE LINK", "answer to DELETE LINK"),
            Llc::DeleteLink(DeleteLink {
                response,
                orderly: true,
                target: DeleteTarget::One(facts.free_link),
                reason: DeleteReason::NONE,
            }),
        ));
        all.push((
            name("REQUEST ADD LINK", "answer to REQUEST ADD LINK"),
            Llc::RequestAddLink(RequestAddLink {
                response,
                gids: Bounded::new(vec![facts.end.gid]).expect("one of many"),
            }),
        ));
        let verdict = if response {
            Verdict::Confirmed
        } else {
            Verdict::Request
        };
        all.push((
            name("CONFIRM RKEY", "answer to CONFIRM RKEY"),
            Llc::ConfirmRkey(ConfirmRkey {
                verdict,
                rtoken: facts.rtoken,
                others: Batch::default(),
            }),
        ));
        all.push((
            name("CONFIRM RKEY CONTINUATION", "answer to its CONTINUATION"),
            Llc::ConfirmRkeyContinuation(ConfirmRkeyContinuation {
                verdict,
                others: Batch::default(),
            }),
        ));
        all.push((
            name("DELETE RKEY", "answer to DELETE RKEY"),
            Llc::DeleteRkey(DeleteRkey {
                failed: response.then_some(0),
                rkeys: Bounded::new(vec![Rkey(facts.rtoken.rkey.0 ^ 1)]).expect("one of eight"),
            }),
        ));
        let data = *b"is anybody there";
        all.push((
            name("TEST LINK", "answer to TEST LINK"),
            Llc::TestLink(TestLink { response, data }),
        ));
    }
    all
}

fn types(attacks: &mut Vec<Attack>) {
    for kind in 0..=0xffu8 {
        // The length is good in both forms: 44 in byte 1, or in bytes 1 and 2.
        for length in [[44, 0], [0, 44]] {
            let mut bytes = vec![0; LEN];
            bytes[0] = kind;
            bytes[1..3].copy_from_slice(&length);
            let harm = if kind >> 6 == 0b10 {
                Harm::None
            } else {
                Harm::Link
            };
            let name = format!("type 0x{kind:02x}, nothing but zeros, length {length:?}");
            attacks.push(Attack::new(name, harm, bytes));
        }
    }
}

fn lengths(facts: &LlcFacts, attacks: &mut Vec<Attack>) {
    let test = Llc::TestLink(TestLink {
        response: false,
        data: [7; 16],
    });
    let good = test.emit(facts.version);
    for len in 0..good.len() {
        let name = format!("TEST LINK cut off after {len}");
        attacks.push(Attack::new(name, Harm::Link, &good[..len]));
    }
    for announced in [0u16, 1, 43, 45, 255, 256, 8192, 8193, 0x2c00, 0xffff] {
        let mut bytes = good.clone();
        bytes[1..3].copy_from_slice(&announced.to_be_bytes());
        let name = format!("TEST LINK announces {announced}");
        attacks.push(Attack::new(name, Harm::Link, bytes));
    }
}

fn answers(facts: &LlcFacts, attacks: &mut Vec<Attack>) {
    for (name, message) in good(facts) {
        // In the form of the link, and in the other one.
        for version in [Version::V1, Version::V2] {
            let bytes = message.emit(version);
            if facts.version == Version::V1 && bytes.len() > LEN {
                continue;
            }
            let name = format!("{name} that nobody waits for, {version:?}");
            attacks.push(Attack::new(name, Harm::Link, bytes));
        }
    }
    let rejected = AddLinkKind::Rejected(RejectReason(15));
    for (name, message) in good(facts) {
        if let Llc::AddLink(add) = message {
            let message = Llc::AddLink(AddLink {
                kind: rejected,
                ..add
            });
            let name = format!("{name}, rejected for no known reason");
            attacks.push(Attack::new(name, Harm::Link, message.emit(facts.version)));
        }
    }
    for retry in [false, true] {
        let message = Llc::ConfirmRkey(ConfirmRkey {
            verdict: Verdict::Refused { retry },
            rtoken: facts.rtoken,
            others: Batch::default(),
        });
        let name = format!("CONFIRM RKEY refused unasked, retry {retry}");
        attacks.push(Attack::new(name, Harm::Link, message.emit(facts.version)));
    }
}

fn fields(facts: &LlcFacts, attacks: &mut Vec<Attack>) {
    let mut add = |name: &str, harm, message: Llc| {
        attacks.push(Attack::new(name, harm, message.emit(facts.version)));
    };
    for (name, message) in good(facts) {
        match message {
            Llc::ConfirmLink(good) => {
                let link = facts.free_link;
                let qp_number = QpNumber::MAX;
                let end = LinkEnd {
                    qp_number,
                    ..facts.end
                };
                let gid = Gid([0xee; 16]);
                for (what, message) in [
                    ("of another link", ConfirmLink { link, ..good }),
                    ("of another queue pair", ConfirmLink { end, ..good }),
                    (
                        "of another GID",
                        ConfirmLink {
                            end: LinkEnd { gid, ..facts.end },
                            ..good
                        },
                    ),
                    (
                        "with 0 links",
                        ConfirmLink {
                            max_links: 0,
                            ..good
                        },
                    ),
                    (
                        "with 255 links",
                        ConfirmLink {
                            max_links: 255,
                            ..good
                        },
                    ),
                    (
                        "with eye catchers",
                        ConfirmLink {
                            no_eye_catcher: false,
                            ..good
                        },
                    ),
                ] {
                    let name = format!("{name} {what}");
                    add(&name, Harm::Link, Llc::ConfirmLink(message));
                }
            }
            Llc::AddLink(good) => {
                for code in [0, 6, 15] {
                    let mtu = MtuCode::new(code).expect("four bits");
                    let message = AddLink {
                        mtu,
                        ..good.clone()
                    };
                    let name = format!("{name} with MTU {code}");
                    add(&name, Harm::Link, Llc::AddLink(message));
                }
                let (end, link) = (facts.end, facts.link);
                let message = AddLink {
                    end,
                    ..good.clone()
                };
                let name = format!("{name} for the same link again");
                add(&name, Harm::Link, Llc::AddLink(message));
                let message = AddLink { link, ..good };
                let name = format!("{name} with its number");
                add(&name, Harm::Link, Llc::AddLink(message));
            }
            Llc::AddLinkContinuation(good) => {
                let moved = MovedRtoken {
                    known: Rkey(1),
                    new: facts.rtoken,
                };
                let rtokens = Batch::first_of(&[moved; 255]);
                let message = AddLinkContinuation { rtokens, ..good };
                let name = format!("{name} that announces 255");
                add(&name, Harm::Link, Llc::AddLinkContinuation(message));
            }
            Llc::DeleteLink(good) => {
                for number in [0, 255] {
                    let target = DeleteTarget::One(LinkNumber(number));
                    let message = DeleteLink { target, ..good };
                    let name = format!("{name} of link {number}");
                    add(&name, Harm::Link, Llc::DeleteLink(message));
                }
                // The peer's right, at any time.
                let target = DeleteTarget::All;
                let message = DeleteLink { target, ..good };
                let name = format!("{name} of all");
                add(&name, Harm::Link, Llc::DeleteLink(message));
            }
            Llc::ConfirmRkey(good) => rkeys(facts, name, good, &mut add),
            Llc::ConfirmRkeyContinuation(good) => {
                let other = LinkRtoken {
                    link: facts.free_link,
                    rtoken: facts.rtoken,
                };
                let others = Batch::first_of(&[other; 255]);
                let message = ConfirmRkeyContinuation { others, ..good };
                let name = format!("{name} that announces 255");
                add(&name, Harm::Link, Llc::ConfirmRkeyContinuation(message));
            }
            Llc::DeleteRkey(good) => {
                for count in [0, 8] {
                    let rkeys = Bounded::new(vec![Rkey(0xdead_beef); count]).expect("up to 8");
                    let message = DeleteRkey {
                        rkeys,
                        failed: good.failed,
                    };
                    let name = format!("{name} of {count} unknown");
                    add(&name, Harm::Link, Llc::DeleteRkey(message));
                }
                let rkeys = Bounded::new(vec![facts.rtoken.rkey; 2]).expect("up to 8");
                let failed = good.failed.map(|_| 0xff);
                let message = DeleteRkey { rkeys, failed };
                let name = format!("{name} of one that is in use, twice");
                add(&name, Harm::Link, Llc::DeleteRkey(message));
            }
            Llc::RequestAddLink(_) | Llc::TestLink(_) => {}
        }
    }
}

fn rkeys(facts: &LlcFacts, name: &str, good: ConfirmRkey, add: &mut dyn FnMut(&str, Harm, Llc)) {
    let other = LinkRtoken {
        link: facts.free_link,
        rtoken: facts.rtoken,
    };
    let own = LinkRtoken {
        link: facts.link,
        ..other
    };
    let at = |rkey, address| Rtoken {
        rkey: Rkey(rkey),
        address,
    };
    for (what, message) in [
        (
            "for a link that is not",
            ConfirmRkey {
                others: Batch::first_of(&[other]),
                ..good
            },
        ),
        (
            "for its own link twice",
            ConfirmRkey {
                others: Batch::first_of(&[own]),
                ..good
            },
        ),
        (
            "that announces 255",
            ConfirmRkey {
                others: Batch::first_of(&[other; 255]),
                ..good
            },
        ),
        (
            "with key 0",
            ConfirmRkey {
                rtoken: at(0, 0),
                ..good
            },
        ),
        (
            "at the end of all addresses",
            ConfirmRkey {
                rtoken: at(7, u64::MAX),
                ..good
            },
        ),
        (
            "of a known key elsewhere",
            ConfirmRkey {
                rtoken: at(facts.rtoken.rkey.0, !facts.rtoken.address),
                ..good
            },
        ),
    ] {
        add(
            &format!("{name} {what}"),
            Harm::Link,
            Llc::ConfirmRkey(message),
        );
    }
}

fn floods(facts: &LlcFacts, attacks: &mut Vec<Attack>) {
    let version = facts.version;
    let mut add = |name: &str, harm, message: &mut dyn FnMut(u32) -> Llc| {
        attacks.push(Attack {
            name: name.to_owned(),
            messages: (0..1000).map(|i| message(i).emit(version)).collect(),
            harm,
        });
    };
    add("a flood of TEST LINK", Harm::Link, &mut |i| {
        let mut data = [0; 16];
        data[..4].copy_from_slice(&i.to_be_bytes());
        Llc::TestLink(TestLink {
            response: false,
            data,
        })
    });
    add("a flood of CONFIRM RKEY", Harm::Link, &mut |i| {
        Llc::ConfirmRkey(ConfirmRkey {
            verdict: Verdict::Request,
            rtoken: Rtoken {
                rkey: Rkey(0x1000 + i),
                address: u64::from(i) << 20,
            },
            others: Batch::default(),
        })
    });
    add("a flood of DELETE LINK", Harm::Link, &mut |i| {
        Llc::DeleteLink(DeleteLink {
            response: false,
            orderly: i % 2 == 0,
            target: DeleteTarget::One(LinkNumber(facts.free_link.0.wrapping_add(i as u8))),
            reason: DeleteReason::OPERATOR,
        })
    });
    add("a flood of DELETE RKEY", Harm::Link, &mut |i| {
        Llc::DeleteRkey(DeleteRkey {
            failed: None,
            rkeys: Bounded::new(vec![Rkey(0x8000_0000 + i); 8]).expect("eight"),
        })
    });
}

/// Each byte of each message, one at a time.
fn bytes(facts: &LlcFacts, attacks: &mut Vec<Attack>) {
    for (name, message) in good(facts) {
        let good = message.emit(facts.version);
        if facts.version == Version::V1 && good.len() > LEN {
            continue;
        }
        for at in 0..good.len().min(LEN) {
            let mut values = vec![0, 1, 0x7f, 0x80, 0xff, good[at] ^ 0x20];
            values.sort_unstable();
            values.dedup();
            values.retain(|value| *value != good[at]);
            for value in values {
                let mut bytes = good.clone();
                bytes[at] = value;
                let name = format!("{name}, byte {at} is 0x{value:02x}");
                attacks.push(Attack::new(name, Harm::Link, bytes));
            }
        }
    }
}
