use proptest::prelude::*;

use super::golden::*;
use super::*;
use crate::clc::{RmbeSize, Token};

fn window(code: u8, eye_catcher: EyeCatcher) -> Window {
    Window::new(RmbeSize::new(code).unwrap(), eye_catcher)
}

fn any_window() -> impl Strategy<Value = Window> {
    (0..16u8, any::<bool>()).prop_map(|(code, eye)| {
        window(
            code,
            if eye {
                EyeCatcher::FourBytes
            } else {
                EyeCatcher::None
            },
        )
    })
}

/// A window, a position in it with something around it, and how far from there the limit is.
fn place() -> impl Strategy<Value = (Window, u64, u64)> {
    any_window().prop_flat_map(|window| {
        let capacity = u64::from(window.capacity());
        let near_a_wrap = (0..200_000u64, 0..9u64)
            .prop_map(move |(wraps, less)| (wraps * capacity).saturating_sub(4) + less);
        (
            Just(window),
            prop_oneof![0..1u64 << 50, near_a_wrap],
            0..=capacity,
        )
    })
}

#[test]
fn golden_bytes_come_back() {
    for bytes in ALL {
        assert_eq!(Cdc::parse(*bytes).unwrap().emit(), **bytes);
    }
}

#[test]
fn fields() {
    assert_eq!(
        Cdc::parse(MESSAGE).unwrap(),
        Cdc::Message(CdcMessage {
            seq: CdcSeq(7),
            token: Token(0x51),
            producer: Cursor {
                wrap: 1,
                count: 0x1234
            },
            consumer: Cursor {
                wrap: 0,
                count: 0xfff0
            },
            flags: ProducerFlags::WRITER_BLOCKED,
            state: ConnState::NONE,
        })
    );
    let Cdc::Message(message) = Cdc::parse(URGENT_AND_DONE).unwrap() else {
        panic!()
    };
    assert_eq!(
        format!("{:?} {:?}", message.flags, message.state),
        "URGENT_PENDING|URGENT_PRESENT DONE_WRITING|CLOSED"
    );
    let validation = Cdc::parse(VALIDATION).unwrap();
    assert_eq!(
        validation,
        Cdc::Validation(FailoverValidation {
            seq: CdcSeq(0x1234),
            token: Token(0x51)
        })
    );
    assert_eq!(validation.token(), Token(0x51));
}

#[test]
fn a_validation_has_nothing_behind_its_token() {
    for at in 8..LEN {
        let mut bytes = *VALIDATION;
        bytes[at] |= 0xf5;
        assert_eq!(Cdc::parse(&bytes), Cdc::parse(VALIDATION), "offset {at}");
    }
}

#[test]
fn reserved_fields_are_not_looked_at() {
    for at in [8, 9, 16, 17].into_iter().chain(26..LEN) {
        let mut bytes = *MESSAGE;
        bytes[at] = 0xa5;
        assert_eq!(Cdc::parse(&bytes), Cdc::parse(MESSAGE), "offset {at}");
    }
    let mut bytes = *MESSAGE;
    bytes[24] |= 0x07;
    bytes[25] |= 0x1f;
    assert_eq!(Cdc::parse(&bytes), Cdc::parse(MESSAGE));
}

#[test]
fn what_is_no_message() {
    for bytes in ALL {
        for len in 0..LEN {
            assert_eq!(
                Cdc::parse(&bytes[..len]),
                Err(CdcError::Size { bytes: len })
            );
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(Cdc::parse(&longer), Err(CdcError::Size { bytes: 45 }));
        for value in 0..=255 {
            let mut changed = **bytes;
            changed[0] = value;
            let expected = (value != TYPE).then_some(CdcError::Type(value));
            assert_eq!(Cdc::parse(&changed).err(), expected);
            changed[0] = TYPE;
            changed[1] = value;
            let expected = (value != 44).then_some(CdcError::Length(value));
            assert_eq!(Cdc::parse(&changed).err(), expected);
        }
    }
}

#[test]
fn every_byte_changed() {
    for bytes in ALL {
        for at in 0..LEN {
            for value in 0..=255 {
                let mut changed = **bytes;
                changed[at] = value;
                if let Ok(message) = Cdc::parse(&changed) {
                    assert_eq!(Cdc::parse(&message.emit()), Ok(message));
                }
            }
        }
    }
}

#[test]
fn sequence_numbers_wrap() {
    assert_eq!(CdcSeq::BEFORE_FIRST.next(), CdcSeq::FIRST);
    assert_eq!(CdcSeq(65535).next(), CdcSeq(0));
    for (seq, last, older) in [
        (1, 1, false),
        (2, 1, false),
        (1, 2, true),
        (0, 65535, false),
        (65535, 0, true),
        (0x7fff, 0, false),
        (0x8000, 0, true),
    ] {
        assert_eq!(CdcSeq(seq).is_older_than(CdcSeq(last)), older);
    }
}

#[test]
fn cursors_of_the_first_bytes() {
    let linux = window(0, EyeCatcher::None);
    let rfc = window(0, EyeCatcher::FourBytes);
    assert_eq!((linux.capacity(), rfc.capacity()), (16384, 16380));
    for (position, plain, with_eye) in [
        (0, (0, 0), (0, 4)),
        (16379, (0, 16379), (0, 16383)),
        (16380, (0, 16380), (1, 4)),
        (16383, (0, 16383), (1, 7)),
        (16384, (1, 0), (1, 8)),
        (32760, (1, 16376), (2, 4)),
        (65536 * 16384, (0, 0), (16, 4 + 16 * 4)),
    ] {
        for (window, (wrap, count)) in [(linux, plain), (rfc, with_eye)] {
            let cursor = Cursor { wrap, count };
            assert_eq!(Cursor::from_position(position, window), cursor);
            assert_eq!(window.offset(position), count);
            assert_eq!(window.advance(position, position, cursor), Ok(position));
        }
    }
}

#[test]
fn pieces_of_a_write() {
    let piece = |offset, len| Piece { offset, len };
    let linux = window(0, EyeCatcher::None);
    assert_eq!(linux.pieces(10, 100), [piece(10, 100), piece(0, 0)]);
    assert_eq!(
        linux.pieces(16384 + 16000, 1000),
        [piece(16000, 384), piece(0, 616)]
    );
    assert_eq!(linux.pieces(0, 16384), [piece(0, 16384), piece(0, 0)]);
    let rfc = window(0, EyeCatcher::FourBytes);
    assert_eq!(rfc.pieces(0, 16380), [piece(4, 16380), piece(4, 0)]);
    assert_eq!(rfc.pieces(16370, 20), [piece(16374, 10), piece(4, 10)]);
}

/// Each line is a lie of a peer's producer: we know of 20000 bytes, and have consumed 10000.
#[test]
fn cursors_that_cannot_be_true() {
    let window = window(0, EyeCatcher::None);
    let (known, limit) = (20000, 10000 + 16384);
    let advance = |wrap, count| window.advance(known, limit, Cursor { wrap, count });
    assert_eq!(advance(1, 3616), Ok(20000));
    assert_eq!(advance(1, 10000), Ok(26384));
    assert_eq!(advance(1, 10001), Err(CursorError::Overtakes { bytes: 1 }));
    assert_eq!(advance(1, 3615), Err(CursorError::GoesBack { bytes: 1 }));
    assert_eq!(
        advance(0, 3616),
        Err(CursorError::GoesBack { bytes: 16384 })
    );
    assert_eq!(advance(0, 3615), Err(CursorError::WrapJump { wrap: 0 }));
    assert_eq!(
        advance(2, 10000),
        Err(CursorError::Overtakes { bytes: 16384 })
    );
    assert_eq!(advance(2, 10001), Err(CursorError::WrapJump { wrap: 2 }));
    assert_eq!(advance(9, 0), Err(CursorError::WrapJump { wrap: 9 }));
    assert_eq!(
        advance(65535, 0),
        Err(CursorError::WrapJump { wrap: 65535 })
    );
    for count in [16384, u32::MAX] {
        assert_eq!(advance(1, count), Err(CursorError::Count { count }));
    }
    for count in 0..4 {
        assert_eq!(
            Window::new(RmbeSize::MIN, EyeCatcher::FourBytes).advance(
                0,
                100,
                Cursor { wrap: 0, count }
            ),
            Err(CursorError::Count { count })
        );
    }
    // Full and empty differ by the wrap count alone.
    let full = Cursor { wrap: 1, count: 0 };
    assert_eq!(window.advance(0, 16384, full), Ok(16384));
    assert_eq!(
        window.advance(0, 16383, full),
        Err(CursorError::Overtakes { bytes: 1 })
    );
}

proptest! {
    #[test]
    fn round_trip(seq: u16, token: u32, cursors: (u16, u32, u16, u32), flags: u8, state: u8, f: bool) {
        let message = if f {
            Cdc::Validation(FailoverValidation { seq: CdcSeq(seq), token: Token(token) })
        } else {
            Cdc::Message(CdcMessage {
                seq: CdcSeq(seq),
                token: Token(token),
                producer: Cursor { wrap: cursors.0, count: cursors.1 },
                consumer: Cursor { wrap: cursors.2, count: cursors.3 },
                flags: ProducerFlags::from_bits(flags),
                state: ConnState::from_bits(state),
            })
        };
        prop_assert_eq!(Cdc::parse(&message.emit()), Ok(message));
    }

    /// What can be true is taken, and is the position that it was made from.
    #[test]
    fn true_cursors_advance((window, known, room) in place(), part in 0.0..=1.0f64) {
        let ahead = (room as f64 * part) as u64;
        let cursor = Cursor::from_position(known + ahead, window);
        prop_assert_eq!(window.advance(known, known + room, cursor), Ok(known + ahead));
    }

    /// What cannot be true is not, and the error tells how far off it is.
    #[test]
    fn false_cursors_do_not((window, known, room) in place(), off in 1u64..1 << 29, forward: bool) {
        let capacity = u64::from(window.capacity());
        let off = 1 + off % capacity;
        let (position, expected) = if forward {
            // With a full window's room, this far ahead is nearer than a period, so it is known.
            (known + room + off, CursorError::Overtakes { bytes: off })
        } else {
            prop_assume!(known >= off);
            (known - off, CursorError::GoesBack { bytes: off })
        };
        let cursor = Cursor::from_position(position, window);
        prop_assert_eq!(window.advance(known, known + room, cursor), Err(expected));
    }

    /// Whatever comes: never back, never beyond the limit, and only to where the cursor points.
    #[test]
    fn any_cursor((window, known, room) in place(), wrap: u16, count: u32) {
        let cursor = Cursor { wrap, count: count % (window.element_size() + 2) };
        if let Ok(position) = window.advance(known, known + room, cursor) {
            prop_assert!((known..=known + room).contains(&position));
            prop_assert_eq!(Cursor::from_position(position, window), cursor);
        }
    }

    #[test]
    fn pieces_cover_the_range((window, position, len) in place()) {
        let len = len as u32;
        let [first, second] = window.pieces(position, len);
        prop_assert_eq!(first.len + second.len, len);
        prop_assert_eq!(first.offset, window.offset(position));
        prop_assert!(first.offset + first.len <= window.element_size());
        if second.len > 0 {
            prop_assert_eq!(first.offset + first.len, window.element_size());
            prop_assert_eq!(second.offset, window.eye_catcher().base());
        }
    }
}
