use super::golden::*;
use super::*;

mod hostile;

fn parse(bytes: &[u8]) -> Message {
    Message::parse(bytes).unwrap()
}

/// `bytes` with another byte at `at`.
fn with(bytes: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = byte;
    bytes
}

/// `bytes` with `extra` before the trailer, and the length to match.
fn longer(bytes: &[u8], extra: &[u8]) -> Vec<u8> {
    let (rest, trailer) = bytes.split_at(bytes.len() - 4);
    let mut bytes = [rest, extra, trailer].concat();
    let len = bytes.len() as u16;
    bytes[5..7].copy_from_slice(&len.to_be_bytes());
    bytes
}

#[test]
fn golden_bytes_come_back() {
    for bytes in ALL {
        assert_eq!(parse(bytes).emit(), *bytes);
    }
}

#[test]
fn proposal_v1_fields() {
    let Message::Proposal(proposal) = parse(PROPOSAL_V1) else {
        panic!()
    };
    assert_eq!(
        proposal.peer_id,
        PeerId([0xa1, 0xb2, 0x02, 0, 0x5e, 0, 0x53, 0x0a])
    );
    assert_eq!(proposal.mac, Mac([0x02, 0, 0x5e, 0, 0x53, 0x0a]));
    let Offer::V1 {
        v1,
        native_ism: None,
    } = proposal.offer
    else {
        panic!()
    };
    assert_eq!(v1.fabrics, Fabrics::R);
    assert_eq!(
        v1.ip,
        IpArea {
            subnet: [192, 0, 2, 0],
            mask_bits: 24,
            prefixes: Bounded::default()
        }
    );
}

#[test]
fn proposal_v2_of_linux() {
    let Message::Proposal(proposal) = parse(PROPOSAL_V2) else {
        panic!()
    };
    assert_eq!(proposal.peer_id, PeerId::default());
    let Offer::V2 {
        v1: None,
        v2:
            Some(OfferV2 {
                fabrics: Fabrics::R,
                extension: Some(extension),
            }),
        ..
    } = proposal.offer
    else {
        panic!()
    };
    assert_eq!(extension.eids.len(), 1);
    assert_eq!(extension.eids[0], Eid::new("LIBSMCR-TEST").unwrap());
    assert_eq!(
        extension.capabilities,
        Capabilities::release_1(255, 2, Capabilities::EMULATED_ISM)
    );
    assert_eq!(extension.roce_gid.0[10..], [0xff, 0xff, 10, 0, 0, 2]);
}

#[test]
fn version_2_header_does_not_mean_version_2_offer() {
    let Message::Proposal(proposal) = parse(PROPOSAL_V2_HEADER) else {
        panic!()
    };
    let Offer::V2 {
        v1: Some(v1),
        v2: None,
        ..
    } = proposal.offer
    else {
        panic!()
    };
    assert_eq!(v1.ip.mask_bits, 24);
}

#[test]
fn an_offer_of_version_2_may_lack_its_extension() {
    // Path bits say SMC-Rv2, the offset of the extension says none.
    let Message::Proposal(proposal) = parse(&with(PROPOSAL_V2_HEADER, 7, 0x20)) else {
        panic!()
    };
    let Offer::V2 {
        v2: Some(OfferV2 {
            extension: None, ..
        }),
        ..
    } = proposal.offer
    else {
        panic!()
    };
}

#[test]
fn proposal_with_everything() {
    let Message::Proposal(proposal) = parse(PROPOSAL_ALL) else {
        panic!()
    };
    let Offer::V2 {
        v1: Some(v1),
        native_ism,
        v2: Some(v2),
    } = proposal.offer
    else {
        panic!()
    };
    assert_eq!((v1.fabrics, v2.fabrics), (Fabrics::Both, Fabrics::Both));
    assert_eq!(v1.ip.prefixes[0].bits, 64);
    assert_eq!(native_ism, (IsmGid(0x1112_1314_1516_1718), Chid(0x1234)));
    let extension = v2.extension.unwrap();
    assert_eq!(extension.capabilities, Capabilities::RELEASE_0);
    assert_eq!(extension.eids[1].check().unwrap().name(), "B.2-C");
    let smcd = extension.smcd.unwrap();
    assert_eq!(
        smcd.system_eid.unwrap(),
        Eid::new("IBM-SYSZ-ISMSEID00000000").unwrap()
    );
    assert_eq!(*smcd.gids, [(IsmGid(0x191a_1b1c_1d1e_1f20), Chid(0x5678))]);
}

#[test]
fn accept_v1_fields() {
    let Message::Accept(accept) = parse(ACCEPT_V1) else {
        panic!()
    };
    assert_eq!(
        accept.terms,
        Terms::V1 {
            first_contact: true
        }
    );
    let Endpoint::Rdma(rdma) = accept.endpoint else {
        panic!()
    };
    assert_eq!(rdma.qp_number.get(), 0x1a7);
    assert_eq!(rdma.rkey, Rkey(0x12345));
    assert_eq!(rdma.rmbe_index.get(), 1);
    assert_eq!(rdma.token, Token(0x51));
    assert_eq!(rdma.rmbe_size.bytes(), 65536);
    assert_eq!(rdma.mtu.bytes(), Some(1024));
    assert_eq!(rdma.address, 0x7f3a_4001_0000);
    assert_eq!(rdma.psn.get(), 0x5a_17c3);
}

#[test]
fn accept_and_confirm_v2_of_linux() {
    let Message::Accept(accept) = parse(ACCEPT_V2) else {
        panic!()
    };
    let Message::Confirm(confirm) = parse(CONFIRM_V2) else {
        panic!()
    };
    assert_eq!(accept.terms, confirm.terms);
    let Terms::V2(terms) = accept.terms else {
        panic!()
    };
    assert_eq!(terms.eid, Eid::new("LIBSMCR-TEST").unwrap());
    let first_contact = terms.first_contact.unwrap();
    assert!(first_contact.direct);
    assert_eq!(first_contact.os, OsType::LINUX);
    assert_eq!(first_contact.host_name, HostName::new(b"(none)"));
    assert_eq!(
        first_contact.capabilities,
        Capabilities::release_1(255, 2, 1)
    );
    let Endpoint::Rdma(rdma) = confirm.endpoint else {
        panic!()
    };
    assert_eq!(*confirm.link_gids, [rdma.gid]);
}

#[test]
fn decline_fields() {
    let Message::Decline(decline) = parse(DECLINE_V1) else {
        panic!()
    };
    assert_eq!(
        (decline.diagnosis, decline.out_of_sync, decline.more),
        (Diagnosis(0x0303_0002), false, None)
    );
    let Message::Decline(decline) = parse(DECLINE_V2) else {
        panic!()
    };
    assert_eq!(
        (decline.diagnosis, decline.out_of_sync),
        (Diagnosis(0x0400_0000), true)
    );
    assert_eq!((decline.os, decline.more), (OsType::LINUX, Some([0; 4])));
    assert_eq!(
        Diagnosis(0x0303_0008).reason(),
        Some(crate::Reason::NoCommonEid)
    );
    assert_eq!(Diagnosis(1).reason(), None);
}

#[test]
fn smcd_fields() {
    let Message::Accept(accept) = parse(ACCEPT_SHM) else {
        panic!()
    };
    let Endpoint::Ism(ism) = accept.endpoint else {
        panic!()
    };
    assert_eq!(
        (ism.gid, ism.gid_extension),
        (IsmGid(0x1112_1314_1516_1718), IsmGid(0x191a_1b1c_1d1e_1f20))
    );
    assert_eq!(
        (ism.chid, ism.token),
        (Chid(0xff53), DmbToken(0x0123_4567_89ab_cdef))
    );
    assert_eq!((ism.index.get(), ism.size.bytes()), (1, 128 << 10));
    let Message::Accept(accept) = parse(ACCEPT_ISM_V1) else {
        panic!()
    };
    assert_eq!(
        accept.terms,
        Terms::V1 {
            first_contact: true
        }
    );
    let Endpoint::Ism(ism) = accept.endpoint else {
        panic!()
    };
    assert_eq!(ism.link_id, 0x77);
}

#[test]
fn either_eye_catcher_anywhere() {
    for bytes in ALL {
        let last = bytes.len() - 1;
        for (first, second) in [(0xd9, 0xd9), (0xd9, 0xc4), (0xc4, 0xd9), (0xc4, 0xc4)] {
            assert_eq!(
                Message::parse(&with(&with(bytes, 3, first), last, second)),
                Message::parse(bytes)
            );
        }
        assert_eq!(
            Message::parse(&with(bytes, 3, 0)),
            Err(ClcError::EyeCatcher(Field::EyeCatcher))
        );
        assert_eq!(
            Message::parse(&with(bytes, last, 0)),
            Err(ClcError::EyeCatcher(Field::Trailer))
        );
    }
}

#[test]
fn header_errors() {
    let header = |bytes: &[u8]| Header::parse(bytes.first_chunk().unwrap());
    assert_eq!(header(&with(PROPOSAL_V1, 4, 0)), Err(ClcError::Kind(0)));
    assert_eq!(header(&with(PROPOSAL_V1, 4, 5)), Err(ClcError::Kind(5)));
    assert_eq!(
        header(&with(PROPOSAL_V1, 7, 0x00)),
        Err(ClcError::Version(0))
    );
    for (path, ok) in [(0, true), (1, false), (2, false), (3, false)] {
        // Path 1 is SMC-D: possible, but not with this length.
        assert_eq!(header(&with(ACCEPT_V1, 7, 0x18 | path)).is_ok(), ok);
    }
    assert_eq!(
        header(&with(ACCEPT_V1, 7, 0x1a)),
        Err(ClcError::Value {
            field: Field::Path,
            value: 2
        })
    );
    assert_eq!(
        header(&with(PROPOSAL_V2, 5, 0xff)),
        Err(ClcError::Length {
            kind: Kind::Proposal,
            announced: 0xff9c
        })
    );
    assert_eq!(header(PROPOSAL_V2).unwrap().len(), PROPOSAL_V2.len());
}

#[test]
fn versions_above_2_are_read_as_2() {
    for version in 3..16 {
        let bytes = with(PROPOSAL_V2, 7, version << 4 | 0x02);
        assert_eq!(parse(&bytes), parse(PROPOSAL_V2));
    }
}

#[test]
fn reserved_fields_are_not_looked_at() {
    let reserved: &[(&[u8], &[usize])] = &[
        (PROPOSAL_V1, &[45, 46]),
        (PROPOSAL_V2, &[40 + 12, 79, 82, 84, 85, 0x6c, 0x77]),
        (PROPOSAL_SHM, &[52, 79, 152, 183, 184, 199]), // no SEID flag: those 32 bytes too
        (ACCEPT_V1, &[0x33, 0x3c]),
        (ACCEPT_V2, &[0x33, 0x60, 0x67, 0x6a, 0x6b, 0x90, 0x94, 0x9b]),
        (CONFIRM_V2, &[0x9d, 0x9f]),
        (DECLINE_V1, &[20, 21, 23]),
        (DECLINE_V2, &[21, 23]),
        (ACCEPT_SHM, &[26, 27]),
    ];
    for (bytes, offsets) in reserved {
        for at in *offsets {
            assert_eq!(parse(&with(bytes, *at, 0xa5)), parse(bytes), "offset {at}");
        }
    }
    // Path bits of a Decline, and the version 2 path bits of a version 1 Proposal.
    assert_eq!(parse(&with(DECLINE_V1, 7, 0x17)), parse(DECLINE_V1));
    assert_eq!(parse(&with(PROPOSAL_V1, 7, 0x1c)), parse(PROPOSAL_V1));
}

#[test]
fn the_offset_of_the_ip_area_is_honoured() {
    // Twelve bytes of something that a later peer put there.
    let mut bytes = PROPOSAL_V1[..40].to_vec();
    bytes.extend([0x55; 12]);
    bytes.extend(&PROPOSAL_V1[40..]);
    bytes[39] = 12;
    bytes[6] += 12;
    assert_eq!(parse(&bytes), parse(PROPOSAL_V1));
    bytes[39] = 41;
    assert_eq!(
        Message::parse(&bytes),
        Err(ClcError::Value {
            field: Field::IpAreaOffset,
            value: 41
        })
    );
    // Version 2 has exactly one place for it.
    assert!(Message::parse(&with(PROPOSAL_V2_HEADER, 39, 0)).is_err());
}

#[test]
fn counts_and_offsets_out_of_range() {
    let value = |bytes: &[u8]| match Message::parse(bytes) {
        Err(ClcError::Value { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(value(&with(PROPOSAL_V1, 47, 9)), Field::PrefixCount);
    assert_eq!(value(&with(PROPOSAL_V2, 80, 9)), Field::EidCount);
    assert_eq!(value(&with(PROPOSAL_SHM, 81, 9)), Field::IsmGidCount);
    assert_eq!(value(&with(PROPOSAL_V2, 51, 29)), Field::V2Offset);
    assert_eq!(value(&with(PROPOSAL_SHM, 87, 63)), Field::SmcdV2Offset);
    assert_eq!(value(&with(ACCEPT_V1, 45, 0)), Field::RmbeIndex);
    assert_eq!(value(&with(ACCEPT_SHM, 24, 0)), Field::RmbeIndex);
    assert_eq!(value(&with(CONFIRM_V2, 156, 9)), Field::LinkGidCount);
    // A version 1 message that offers nothing.
    assert_eq!(value(&with(PROPOSAL_V1, 7, 0x12)), Field::Path);
    assert_eq!(
        Message::parse(&with(PROPOSAL_V1, 47, 1)),
        Err(ClcError::Truncated(Field::Prefixes))
    );
    assert_eq!(
        Message::parse(&with(PROPOSAL_V2, 80, 0)),
        Err(ClcError::Trailing { bytes: 32 })
    );
    assert_eq!(
        Message::parse(&with(CONFIRM_V2, 156, 2)),
        Err(ClcError::Truncated(Field::LinkGids))
    );
}

#[test]
fn only_version_2_accept_and_confirm_may_be_longer() {
    for bytes in ALL {
        let kind = parse(bytes).kind();
        let may = matches!(kind, Kind::Accept | Kind::Confirm) && bytes[7] >> 4 == 2;
        assert_eq!(
            Message::parse(&longer(bytes, &[0xa5; 5])).is_ok(),
            may,
            "{kind}"
        );
    }
    assert_eq!(parse(&longer(ACCEPT_V2, &[0xa5; 5])), parse(ACCEPT_V2));
}

#[test]
fn enterprise_ids() {
    for name in [
        "A",
        "0",
        "SMCR-SHM-1",
        "A.B-C",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
    ] {
        assert_eq!(Eid::new(name).unwrap().name(), name);
    }
    for name in [
        "",
        " ",
        " A",
        "A ",
        "A B",
        ".A",
        "-A",
        "a",
        "Ä",
        "A_B",
        "A\0",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456",
    ] {
        assert!(Eid::new(name).is_err(), "{name:?}");
    }
    assert!(WireEid([0; 32]).check().is_err());
    assert_eq!(WireEid::from(Eid::new("A").unwrap()).0[..3], *b"A  ");
}

#[test]
fn sizes() {
    assert_eq!(RmbeSize::holding(0), Some(RmbeSize::MIN));
    assert_eq!(RmbeSize::holding(16 << 10), Some(RmbeSize::MIN));
    assert_eq!(RmbeSize::holding((16 << 10) + 1).unwrap().bytes(), 32 << 10);
    assert_eq!(RmbeSize::holding(512 << 20), Some(RmbeSize::MAX));
    assert_eq!(RmbeSize::holding((512 << 20) + 1), None);
    assert_eq!(RmbeSize::new(16), None);
    let mtus: Vec<_> = (0..16)
        .filter_map(|code| MtuCode::new(code).unwrap().bytes())
        .collect();
    assert_eq!(mtus, [256, 512, 1024, 2048, 4096]);
    assert_eq!(QpNumber::new(1 << 24), None);
}

#[test]
fn peeking() {
    for len in 0..=8 {
        assert!(may_be_clc(&PROPOSAL_V1[..len]));
        assert!(may_be_clc(&ACCEPT_SHM[..len]));
    }
    for start in [
        &b"G"[..],
        b"GET / HTTP",
        &[0xe2, 0xd4, 0xc3, 0xda],
        &[0xe2, 0xd3],
    ] {
        assert!(!may_be_clc(start));
    }
}
