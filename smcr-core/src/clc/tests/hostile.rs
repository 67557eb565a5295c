//! Bytes that nobody should send.

use proptest::prelude::*;

use super::*;

/// Truncated messages, with the header as it was and with one that admits to it.
#[test]
fn truncation_at_every_length() {
    for bytes in ALL {
        for len in 0..bytes.len() {
            assert!(Message::parse(&bytes[..len]).is_err());
            if len < 12 {
                continue;
            }
            let mut short = bytes[..len].to_vec();
            short[5..7].copy_from_slice(&(len as u16).to_be_bytes());
            short[len - 4..].copy_from_slice(&bytes[bytes.len() - 4..]);
            // Only version 2 Confirms have an end that is optional; here its GID list is cut.
            assert!(Message::parse(&short).is_err(), "{len} of {bytes:02x?}");
        }
    }
}

#[test]
fn every_announced_length() {
    for bytes in ALL {
        for announced in 0..=u16::MAX {
            let mut changed = bytes.to_vec();
            changed[5..7].copy_from_slice(&announced.to_be_bytes());
            let is_right = usize::from(announced) == bytes.len();
            assert_eq!(Message::parse(&changed).is_ok(), is_right);
            if let Ok(header) = Header::parse(changed.first_chunk().unwrap()) {
                assert!((28..=MAX_LEN).contains(&header.len()));
            }
        }
    }
}

/// Every byte set to every value: no panic, and what is accepted can be said again.
#[test]
fn every_byte_changed() {
    for bytes in ALL {
        for at in 0..bytes.len() {
            for value in 0..=255 {
                if let Ok(message) = Message::parse(&with(bytes, at, value)) {
                    assert_eq!(parse(&message.emit()), message);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn round_trip(message in strategies::message()) {
        let bytes = message.emit();
        prop_assert_eq!(Header::parse(bytes.first_chunk().unwrap()).unwrap().len(), bytes.len());
        prop_assert_eq!(Message::parse(&bytes).unwrap(), message);
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let _ = Message::parse(&bytes);
    }

    /// Bytes with a good frame, so that the parsers of the bodies see them.
    #[test]
    fn any_body(kind in 1..5u8, last in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..700)) {
        let mut bytes = vec![0xe2, 0xd4, 0xc3, 0xd9, kind, 0, 0, last];
        bytes.extend(body);
        bytes.extend([0xe2, 0xd4, 0xc3, 0xd9]);
        let len = bytes.len() as u16;
        bytes[5..7].copy_from_slice(&len.to_be_bytes());
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert_eq!(parse(&message.emit()), message);
        }
    }
}
