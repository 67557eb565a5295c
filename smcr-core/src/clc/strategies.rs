//! Any message, for property tests.

use proptest::array::{uniform4, uniform6, uniform8, uniform16, uniform32};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

pub(crate) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        proposal().prop_map(Message::Proposal),
        (endpoint(), terms()).prop_map(|(endpoint, terms)| {
            let (endpoint, terms) = travelling(endpoint, terms);
            Message::Accept(Accept { endpoint, terms })
        }),
        (endpoint(), terms(), list(gid())).prop_map(|(endpoint, terms, gids)| {
            let (endpoint, terms) = travelling(endpoint, terms);
            let with_gids = matches!(
                (&endpoint, &terms),
                (
                    Endpoint::Rdma(_),
                    Terms::V2(TermsV2 {
                        first_contact: Some(_),
                        ..
                    })
                )
            );
            let link_gids = if with_gids { gids } else { Bounded::default() };
            Message::Confirm(Confirm {
                endpoint,
                terms,
                link_gids,
            })
        }),
        decline().prop_map(Message::Decline),
    ]
}

/// Clears what does not travel in the message's version.
fn travelling(mut endpoint: Endpoint, terms: Terms) -> (Endpoint, Terms) {
    if let (Endpoint::Ism(ism), Terms::V1 { .. }) = (&mut endpoint, &terms) {
        ism.chid = Chid(0);
        ism.gid_extension = IsmGid(0);
    }
    (endpoint, terms)
}

fn proposal() -> impl Strategy<Value = Proposal> {
    (uniform8(any::<u8>()), gid(), uniform6(any::<u8>()), offer()).prop_map(
        |(peer_id, gid, mac, offer)| Proposal {
            peer_id: PeerId(peer_id),
            gid,
            mac: Mac(mac),
            offer,
        },
    )
}

fn offer() -> impl Strategy<Value = Offer> {
    prop_oneof![
        (offer_v1(), option::of(device()))
            .prop_map(|(v1, native_ism)| Offer::V1 { v1, native_ism }),
        (option::of(offer_v1()), device(), option::of(offer_v2()))
            .prop_map(|(v1, native_ism, v2)| Offer::V2 { v1, native_ism, v2 }),
    ]
}

fn offer_v1() -> impl Strategy<Value = OfferV1> {
    let prefix = (uniform16(any::<u8>()), any::<u8>())
        .prop_map(|(prefix, bits)| Ipv6Prefix { prefix, bits });
    (fabrics(), uniform4(any::<u8>()), any::<u8>(), list(prefix)).prop_map(
        |(fabrics, subnet, mask_bits, prefixes)| OfferV1 {
            fabrics,
            ip: IpArea {
                subnet,
                mask_bits,
                prefixes,
            },
        },
    )
}

fn offer_v2() -> impl Strategy<Value = OfferV2> {
    let smcd = (option::of(wire_eid()), list(device()))
        .prop_map(|(system_eid, gids)| SmcdV2Extension { system_eid, gids });
    (
        fabrics(),
        option::of((list(wire_eid()), capabilities(), gid(), option::of(smcd))),
    )
        .prop_map(|(fabrics, extension)| OfferV2 {
            fabrics,
            extension: extension.map(|(eids, capabilities, roce_gid, smcd)| V2Extension {
                eids,
                capabilities,
                roce_gid,
                smcd: smcd.filter(|_| fabrics.has_d()),
            }),
        })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    prop_oneof![
        (
            (
                uniform8(any::<u8>()),
                gid(),
                uniform6(any::<u8>()),
                0..=0x00ff_ffffu32,
                any::<u32>()
            ),
            (
                1..=255u8,
                any::<u32>(),
                0..16u8,
                0..16u8,
                any::<u64>(),
                0..=0x00ff_ffffu32
            ),
        )
            .prop_map(
                |((peer_id, gid, mac, qp, rkey), (index, token, size, mtu, address, psn))| {
                    Endpoint::Rdma(RdmaEndpoint {
                        peer_id: PeerId(peer_id),
                        gid,
                        mac: Mac(mac),
                        qp_number: QpNumber::new(qp).unwrap(),
                        rkey: Rkey(rkey),
                        rmbe_index: RmbeIndex::new(index).unwrap(),
                        token: Token(token),
                        rmbe_size: RmbeSize::new(size).unwrap(),
                        mtu: MtuCode::new(mtu).unwrap(),
                        address,
                        psn: Psn::new(psn).unwrap(),
                    })
                }
            ),
        (
            any::<u64>(),
            any::<u64>(),
            any::<u16>(),
            any::<u64>(),
            1..=255u8,
            0..16u8,
            any::<u32>()
        )
            .prop_map(|(gid, gid_extension, chid, token, index, size, link_id)| {
                Endpoint::Ism(IsmEndpoint {
                    gid: IsmGid(gid),
                    gid_extension: IsmGid(gid_extension),
                    chid: Chid(chid),
                    token: DmbToken(token),
                    index: RmbeIndex::new(index).unwrap(),
                    size: RmbeSize::new(size).unwrap(),
                    link_id,
                })
            }),
    ]
}

fn terms() -> impl Strategy<Value = Terms> {
    let first_contact = (
        any::<bool>(),
        0..16u8,
        uniform32(any::<u8>()),
        capabilities(),
    )
        .prop_map(|(direct, os, host_name, capabilities)| FirstContact {
            direct,
            os: OsType::from_high_nibble(os << 4),
            host_name: HostName(host_name),
            capabilities,
        });
    prop_oneof![
        any::<bool>().prop_map(|first_contact| Terms::V1 { first_contact }),
        (wire_eid(), option::of(first_contact))
            .prop_map(|(eid, first_contact)| Terms::V2(TermsV2 { eid, first_contact })),
    ]
}

fn decline() -> impl Strategy<Value = Decline> {
    (
        any::<bool>(),
        uniform8(any::<u8>()),
        any::<u32>(),
        0..16u8,
        option::of(uniform4(any::<u32>())),
    )
        .prop_map(|(out_of_sync, peer_id, diagnosis, os, more)| Decline {
            out_of_sync,
            peer_id: PeerId(peer_id),
            diagnosis: Diagnosis(diagnosis),
            os: if more.is_some() {
                OsType::from_high_nibble(os << 4)
            } else {
                OsType::NONE
            },
            more,
        })
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    prop_oneof![
        Just(Capabilities::RELEASE_0),
        (any::<u8>(), any::<u8>(), any::<u16>())
            .prop_map(|(conns, links, bits)| Capabilities::release_1(conns, links, bits)),
    ]
}

fn list<T: std::fmt::Debug, const N: usize>(
    item: impl Strategy<Value = T>,
) -> impl Strategy<Value = Bounded<T, N>> {
    vec(item, 0..=N).prop_map(|items| Bounded::new(items).unwrap())
}

fn fabrics() -> impl Strategy<Value = Fabrics> {
    prop_oneof![Just(Fabrics::R), Just(Fabrics::D), Just(Fabrics::Both)]
}

fn device() -> impl Strategy<Value = (IsmGid, Chid)> {
    (any::<u64>(), any::<u16>()).prop_map(|(gid, chid)| (IsmGid(gid), Chid(chid)))
}

fn gid() -> impl Strategy<Value = Gid> {
    uniform16(any::<u8>()).prop_map(Gid)
}

fn wire_eid() -> impl Strategy<Value = WireEid> {
    uniform32(any::<u8>()).prop_map(WireEid)
}
