//! Bytes that nobody should send.

use proptest::prelude::*;

use super::*;

#[test]
fn truncation_at_every_length() {
    for bytes in ALL {
        for len in 0..bytes.len() {
            let expected = if len < LEN {
                LlcError::Truncated { bytes: len }
            } else {
                LlcError::Length {
                    announced: u16::from_be_bytes([bytes[1], bytes[2]]),
                    bytes: len,
                }
            };
            assert_eq!(Llc::parse(&bytes[..len]), Err(expected));
            if len < LEN || bytes[0] & 0x20 == 0 {
                continue;
            }
            // With a length that admits to it: the list is cut.
            let mut short = bytes[..len].to_vec();
            short[1..3].copy_from_slice(&(len as u16).to_be_bytes());
            let is_whole = len == LEN && bytes[0] == 0x22; // ADD LINK without its extension
            assert_eq!(Llc::parse(&short).is_ok(), is_whole, "{len}");
        }
    }
}

#[test]
fn every_type_byte() {
    for value in 0..=255 {
        let known = matches!(value, 1..=4 | 6..=9 | 0x21 | 0x22 | 0x24..=0x27 | 0x29);
        let mut bytes = with(TEST_LINK_V1, 0, value);
        if value & 0x20 != 0 {
            bytes[1..3].copy_from_slice(&[0, 44]);
        }
        let expected = match value {
            _ if known => None,
            0xfe => Some(LlcError::Cdc),
            _ => Some(LlcError::UnknownType(value)),
        };
        // Some types take the test data for a count.
        let error = Llc::parse(&bytes)
            .err()
            .filter(|error| !matches!(error, LlcError::Count { .. }));
        assert_eq!(error, expected, "type {value:#x}");
    }
}

#[test]
fn what_the_rfc_wants_done() {
    for (error, disposition) in [
        (LlcError::UnknownType(0x0a), Disposition::LinkDown),
        (LlcError::UnknownType(0x05), Disposition::LinkDown),
        (LlcError::UnknownType(0x4a), Disposition::LinkDown),
        (LlcError::UnknownType(0x80), Disposition::Drop),
        (LlcError::UnknownType(0xbf), Disposition::Drop),
        (LlcError::UnknownType(0xc0), Disposition::LinkDown),
        (LlcError::Truncated { bytes: 3 }, Disposition::LinkDown),
    ] {
        assert_eq!(error.disposition(), disposition, "{error}");
    }
}

#[test]
fn every_announced_length() {
    for bytes in ALL {
        for announced in 0..=u16::MAX {
            let mut changed = bytes.to_vec();
            changed[1..3].copy_from_slice(&announced.to_be_bytes());
            let fits = |announced: u16| (44..=bytes.len()).contains(&announced.into());
            let is_ok = if bytes[0] & 0x20 == 0 {
                announced >> 8 == 44
            } else {
                fits(announced) || fits(announced.swap_bytes())
            };
            match Llc::parse(&changed) {
                Ok(_) => assert!(is_ok),
                Err(LlcError::Length {
                    announced: told, ..
                }) => {
                    assert!(!is_ok);
                    assert!(told == announced || told == announced >> 8);
                }
                // The message is shorter now than what is in it.
                Err(LlcError::Truncated { .. } | LlcError::Count { .. }) => assert!(is_ok),
                Err(error) => panic!("{error}"),
            }
        }
    }
    let mut longest = with(ADD_LINK_LINUX, 1, 0x20);
    longest[2] = 0;
    longest.resize(MAX_LEN, 0);
    longest[70..72].copy_from_slice(&(MAX_EXTENSION_RTOKENS as u16).to_be_bytes());
    let Llc::AddLink(message) = parse(&longest) else {
        panic!()
    };
    assert_eq!(message.extension.unwrap().rtokens.len(), 507);
    // The same both ways, and one bit too many.
    longest.resize(0x2020, 0);
    longest[2] = 0x20;
    assert_eq!(
        Llc::parse(&longest),
        Err(LlcError::Length {
            announced: 0x2020,
            bytes: 0x2020
        })
    );
}

#[test]
fn counts_out_of_range() {
    let count = |bytes: &[u8]| match Llc::parse(bytes) {
        Err(LlcError::Count { announced }) => announced,
        other => panic!("{other:?}"),
    };
    assert_eq!(count(&with(DELETE_RKEY_V1, 4, 9)), 9);
    assert_eq!(count(&with(REQUEST_ADD_LINK, 24, 2)), 2);
    assert_eq!(count(&with(REQUEST_ADD_LINK_TWO, 24, 3)), 3);
    assert_eq!(count(&with(ADD_LINK_LINUX, 70, 2)), 0x200);
    assert_eq!(count(&with(&with(ADD_LINK_LINUX, 70, 0), 71, 2)), 2);
}

/// Every byte set to every value: no panic, and what is accepted can be said again.
#[test]
fn every_byte_changed() {
    for bytes in ALL {
        for at in 0..bytes.len() {
            for value in 0..=255 {
                if let Ok((version, message)) = Llc::parse(&with(bytes, at, value)) {
                    assert_eq!(Llc::parse(&message.emit(version)), Ok((version, message)));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn round_trip((version, message) in strategies::message()) {
        let bytes = message.emit(version);
        prop_assert!((LEN..=MAX_LEN).contains(&bytes.len()));
        prop_assert!(version == Version::V2 || bytes.len() == LEN);
        prop_assert_eq!(Llc::parse(&bytes), Ok((version, message)));
    }

    /// The other form may carry less, but never something else.
    #[test]
    fn in_the_other_form((version, message) in strategies::message()) {
        let other = if version == Version::V1 { Version::V2 } else { Version::V1 };
        let (_, again) = Llc::parse(&message.emit(other)).unwrap();
        prop_assert_eq!(std::mem::discriminant(&again), std::mem::discriminant(&message));
        prop_assert_eq!(again.is_response(), message.is_response());
        let (_, once_more) = Llc::parse(&again.emit(other)).unwrap();
        prop_assert_eq!(once_more, again);
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Llc::parse(&bytes);
    }

    /// Bytes with a good frame, so that the parsers of the bodies see them.
    #[test]
    fn any_body(kind in 1..10u8, v2: bool, body in proptest::collection::vec(any::<u8>(), 41..400)) {
        let mut bytes = vec![kind];
        bytes.extend(body);
        if v2 {
            bytes[0] |= 0x20;
            let len = bytes.len() as u16;
            bytes[1..3].copy_from_slice(&len.to_be_bytes());
        } else if bytes.len() > 1 {
            bytes[1] = 44;
        }
        if let Ok((version, message)) = Llc::parse(&bytes) {
            prop_assert_eq!(Llc::parse(&message.emit(version)), Ok((version, message)));
        }
    }
}
