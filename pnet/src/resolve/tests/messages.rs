use proptest::prelude::*;
use rustix::io::Errno;

use super::super::netlink::{Request, attributes, read_batch};
use super::super::network::{has_several_ways, is_choosy_rule, parse_address, parse_link};

/// A message as the kernel sends it: a request looks the same.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 2]);
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn error(code: i32) -> Vec<u8> {
    message(2, 7, &[code.to_ne_bytes().as_slice(), &[0; 16]].concat())
}

fn read(batch: &[u8]) -> (Result<bool, Errno>, Vec<Vec<u8>>) {
    let mut bodies = Vec::new();
    let end = read_batch(batch, 7, 16, &mut |body| bodies.push(body.to_vec()));
    (end, bodies)
}

#[test]
fn what_depends_on_more_than_the_destination_is_told() {
    let body = |kind| {
        [
            vec![0; 12],
            attribute(15, &[1; 4]),
            attribute(kind, &[0; 4]),
        ]
        .concat()
    };
    for (kind, choosy) in [(20, true), (23, true), (24, true), (10, false), (1, false)] {
        assert_eq!(is_choosy_rule(&body(kind)), choosy, "rule {kind}");
    }
    for (kind, several) in [(9, true), (30, true), (4, false), (5, false)] {
        assert_eq!(has_several_ways(&body(kind)), several, "route {kind}");
    }
}

#[test]
fn answers_are_told_from_other_messages() {
    let batch = [
        message(16, 7, b"first"),
        message(16, 6, b"of an earlier request"),
        message(20, 7, b"of another kind"),
        message(16, 7, b"second"),
    ];
    let expected = [b"first".to_vec(), b"second".to_vec()];
    let (end, bodies) = read(&batch.concat());
    assert_eq!((end, bodies.as_slice()), (Ok(false), expected.as_slice()));
    let (end, bodies) = read(&[batch.concat(), message(3, 7, &[0; 4])].concat());
    assert_eq!((end, bodies.as_slice()), (Ok(true), expected.as_slice()));
    assert_eq!(read(&error(-19)).0, Err(Errno::NODEV));
    assert_eq!(read(&error(0)).0, Ok(false));
    for nonsense in [5, i32::MIN, -4096] {
        assert_eq!(read(&error(nonsense)).0, Err(Errno::PROTO));
    }
}

#[test]
fn truncated_answers_are_refused() {
    let whole = message(16, 7, b"body");
    for length in 1..whole.len() {
        assert_eq!(read(&whole[..length]).0, Err(Errno::PROTO), "{length}");
    }
    // Lengths that are too small for a header, or lie.
    for length in [0u32, 15, 21, u32::MAX] {
        let mut bytes = whole.clone();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(read(&bytes).0, Err(Errno::PROTO), "{length}");
    }
}

#[test]
fn a_vlan_is_understood() {
    let data = attribute(1, &5u16.to_ne_bytes());
    let info = [attribute(1, b"vlan\0"), attribute(2 | 0x8000, &data)].concat();
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&9u32.to_ne_bytes());
    body.extend(attribute(3, b"bond0.5\0"));
    body.extend(attribute(1, &[2, 0, 0, 0, 0, 9]));
    body.extend(attribute(5, &3u32.to_ne_bytes()));
    body.extend(attribute(18, &info));
    let netdev = parse_link(&body).unwrap();
    assert_eq!((netdev.index, netdev.name.as_str()), (9, "bond0.5"));
    assert_eq!((netdev.vlan, netdev.link), (Some(5), Some(3)));
    assert_eq!(netdev.kind.as_deref(), Some("vlan"));
    assert_eq!(netdev.mac, Some([2, 0, 0, 0, 0, 9]));
    // The same number in another namespace is another interface.
    body.extend(attribute(37, &0u32.to_ne_bytes()));
    assert_eq!(parse_link(&body).unwrap().link, None);
    assert_eq!(parse_link(&body[..16]), None);
}

#[test]
fn requests_have_the_kernels_form() {
    let request = Request::get(18, &[1, 2, 3]).with(3, b"eth0\0");
    let body: Vec<(u16, Vec<u8>)> = {
        let bytes = request.finish(7);
        assert_eq!(bytes.len(), 16 + 4 + 12);
        assert_eq!(bytes[..4], 32u32.to_ne_bytes());
        assert_eq!(bytes[16..20], [1, 2, 3, 0]);
        attributes(&bytes[16..], 4)
            .map(|(kind, value)| (kind, value.to_vec()))
            .collect()
    };
    assert_eq!(body, [(3, b"eth0\0".to_vec())]);
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
        let _ = parse_link(&bytes);
        let _ = parse_address(&bytes);
    }

    #[test]
    fn nor_one_that_looks_right(
        list in prop::collection::vec((0u16..64, prop::collection::vec(any::<u8>(), 0..20)), 0..8),
        cut in 0usize..8,
    ) {
        let mut body = vec![1; 16];
        for (kind, value) in &list {
            body.extend(attribute(*kind, value));
        }
        let whole: Vec<_> = attributes(&body, 16).map(|(k, v)| (k, v.to_vec())).collect();
        prop_assert_eq!(&whole, &list);
        body.truncate(body.len().saturating_sub(cut));
        let _ = parse_link(&body);
        let _ = parse_address(&body);
    }
}
