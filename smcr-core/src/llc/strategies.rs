//! Any message, for property tests.

use proptest::array::{uniform6, uniform16};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::clc::{Bounded, Gid, Mac, MtuCode, Psn, QpNumber, Rkey};

/// A message and a form that can carry all of it.
pub(crate) fn message() -> impl Strategy<Value = (Version, Llc)> {
    (any::<bool>(), body()).prop_map(|(v2, mut message)| {
        let version = match message {
            Llc::RequestAddLink(_) => Version::V2,
            Llc::AddLinkContinuation(_) | Llc::ConfirmRkeyContinuation(_) => Version::V1,
            _ if v2 => Version::V2,
            _ => Version::V1,
        };
        if let Llc::AddLink(add) = &mut message {
            match (version, &mut add.kind) {
                (Version::V2, AddLinkKind::Rejected(reason)) => {
                    *reason = RejectReason::NONE;
                    add.extension = None;
                }
                (Version::V1, _) => add.extension = None,
                _ => {}
            }
        }
        (version, message)
    })
}

fn body() -> impl Strategy<Value = Llc> {
    prop_oneof![
        (
            any::<(bool, bool)>(),
            end(),
            any::<(u8, u32, u8, u8)>().prop_map(|numbers| numbers)
        )
            .prop_map(
                |((response, no_eye_catcher), end, (link, user_id, max_links, max_conns))| {
                    Llc::ConfirmLink(ConfirmLink {
                        response,
                        no_eye_catcher,
                        end,
                        link: LinkNumber(link),
                        user_id: LinkUserId(user_id),
                        max_links,
                        max_conns,
                    })
                }
            ),
        add_link(),
        (any::<bool>(), any::<u8>(), vec(moved(), 0..256)).prop_map(|(response, link, list)| {
            Llc::AddLinkContinuation(AddLinkContinuation {
                response,
                link: LinkNumber(link),
                rtokens: Batch::first_of(&list),
            })
        }),
        (any::<(bool, bool)>(), option::of(any::<u8>()), any::<u32>()).prop_map(
            |((response, orderly), link, reason)| {
                Llc::DeleteLink(DeleteLink {
                    response,
                    orderly,
                    target: link.map_or(DeleteTarget::All, |link| {
                        DeleteTarget::One(LinkNumber(link))
                    }),
                    reason: DeleteReason(reason),
                })
            }
        ),
        (any::<bool>(), vec(gid(), 0..256)).prop_map(|(response, gids)| {
            Llc::RequestAddLink(RequestAddLink {
                response,
                gids: Bounded::new(gids).unwrap(),
            })
        }),
        (verdict(), rtoken(), vec(other(), 0..256)).prop_map(|(verdict, rtoken, others)| {
            Llc::ConfirmRkey(ConfirmRkey {
                verdict,
                rtoken,
                others: Batch::first_of(&others),
            })
        }),
        (verdict(), vec(other(), 0..256)).prop_map(|(verdict, others)| {
            Llc::ConfirmRkeyContinuation(ConfirmRkeyContinuation {
                verdict,
                others: Batch::first_of(&others),
            })
        }),
        (
            option::of(any::<u8>()),
            vec(any::<u32>().prop_map(Rkey), 0..=MAX_DELETED_RKEYS)
        )
            .prop_map(|(failed, rkeys)| {
                Llc::DeleteRkey(DeleteRkey {
                    failed,
                    rkeys: Bounded::new(rkeys).unwrap(),
                })
            }),
        (any::<bool>(), any::<[u8; 16]>())
            .prop_map(|(response, data)| Llc::TestLink(TestLink { response, data })),
    ]
}

fn add_link() -> impl Strategy<Value = Llc> {
    let kind = prop_oneof![
        Just(AddLinkKind::Request),
        Just(AddLinkKind::Accepted),
        (0..16u8).prop_map(|reason| AddLinkKind::Rejected(RejectReason(reason))),
    ];
    let extension = (
        any::<bool>(),
        gid(),
        vec(moved(), 0..=MAX_EXTENSION_RTOKENS),
    )
        .prop_map(|(direct, target_gid, rtokens)| AddLinkExtension {
            direct,
            target_gid,
            rtokens: Bounded::new(rtokens).unwrap(),
        });
    (
        kind,
        end(),
        any::<u8>(),
        0..16u8,
        0..1u32 << 24,
        option::of(extension),
    )
        .prop_map(|(kind, end, link, mtu, psn, extension)| {
            Llc::AddLink(AddLink {
                kind,
                end,
                link: LinkNumber(link),
                mtu: MtuCode::new(mtu).unwrap(),
                psn: Psn::new(psn).unwrap(),
                extension,
            })
        })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Request),
        Just(Verdict::Confirmed),
        any::<bool>().prop_map(|retry| Verdict::Refused { retry }),
    ]
}

fn end() -> impl Strategy<Value = LinkEnd> {
    (uniform6(any::<u8>()), gid(), 0..1u32 << 24).prop_map(|(mac, gid, qp_number)| LinkEnd {
        mac: Mac(mac),
        gid,
        qp_number: QpNumber::new(qp_number).unwrap(),
    })
}

fn gid() -> impl Strategy<Value = Gid> {
    uniform16(any::<u8>()).prop_map(Gid)
}

fn rtoken() -> impl Strategy<Value = Rtoken> {
    any::<(u32, u64)>().prop_map(|(rkey, address)| Rtoken {
        rkey: Rkey(rkey),
        address,
    })
}

fn other() -> impl Strategy<Value = LinkRtoken> {
    (any::<u8>(), rtoken()).prop_map(|(link, rtoken)| LinkRtoken {
        link: LinkNumber(link),
        rtoken,
    })
}

fn moved() -> impl Strategy<Value = MovedRtoken> {
    (any::<u32>(), rtoken()).prop_map(|(known, new)| MovedRtoken {
        known: Rkey(known),
        new,
    })
}
