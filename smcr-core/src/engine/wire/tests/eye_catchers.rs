//! Peers that want an eye catcher in front of the data of each element, as RFC 7609 §4.2 has it.

use super::peer::Far;
use super::*;
use crate::cdc::EyeCatcher;
use crate::rdma::sim::{Recorded, SimConfig};

/// What was written to the peer since the last call: from where in the element on, and how many
/// bytes. Packets come in any order.
fn written(bench: &Bench, peer: &Peer, far: &Far) -> Vec<(u64, usize)> {
    let (key, memory) = peer.manners.raw.rtoken();
    let element = memory + far.end.element().0 as u64;
    let record = bench.net.take_record().into_iter();
    let of = |recorded| match recorded {
        Recorded::Write { to, len, rkey, .. } if rkey == key.0 => Some((to - element, len)),
        _ => None,
    };
    let mut pieces: Vec<_> = record.filter_map(of).collect();
    pieces.sort_unstable();
    let mut runs: Vec<(u64, usize)> = Vec::new();
    for (at, len) in pieces {
        match runs.last_mut() {
            Some(last) if last.0 + last.1 as u64 == at => last.1 += len,
            _ => runs.push((at, len)),
        }
    }
    runs
}

/// Takes what was said of a connection.
fn hear(peer: &mut Peer, far: &mut Far) {
    let heard = peer.manners.take_heard().into_iter();
    heard
        .filter(|message| message.token == far.ours.token)
        .for_each(|message| far.end.take(&message));
}

/// Bytes go around the elements of both ends, and never through the first four: of a first and of a
/// later contact, in either version and either role.
#[test]
fn streams_go_around_behind_them() {
    // 16380 bytes are once around: the second message is cut in two, the fourth ends with the element.
    let lens = [16_000, 1000, 15_000, 760, 1];
    let golden: [&[(u64, usize)]; 5] = [
        &[(4, 16_000)],
        &[(4, 620), (16_004, 380)],
        &[(624, 15_000)],
        &[(15_624, 760)],
        &[(4, 1)],
    ];
    for version in [Version::V1, Version::V2] {
        let mut bench = Bench::new(SimConfig::new());
        let mut client = Peer::new(&bench, 1, Role::Client, version);
        let mut server = Peer::new(&bench, 2, Role::Server, version);
        client.manners.eye_catcher = EyeCatcher::FourBytes;
        server.manners.eye_catcher = EyeCatcher::FourBytes;
        let first = Contact::First { direct: true };
        for (mut far, _talk, conn) in [
            client.dial(&mut bench, 1),
            client.dial(&mut bench, 2),
            server.serve(&mut bench, 1, first),
            server.serve(&mut bench, 2, Contact::Later),
        ] {
            let peer = match conn.connection.is_server() {
                true => &mut client,
                false => &mut server,
            };
            for (len, golden) in lens.into_iter().zip(golden) {
                let bytes: Vec<u8> = (0..len).map(|i| (i % 251 + 1) as u8).collect();
                bench.net.record();
                assert_eq!(conn.send(&bytes), Ok(len));
                let mut read = Vec::new();
                let end = Instant::now() + Duration::from_secs(5);
                while read.len() < len {
                    assert!(Instant::now() < end, "nothing more comes");
                    bench.run(&mut [&mut *peer]);
                    hear(peer, &mut far);
                    read.extend(far.end.read(&peer.manners.raw));
                }
                assert!(read == bytes, "{version:?}: {len} bytes");
                assert_eq!(written(&bench, peer, &far), golden, "{version:?}");
                assert_eq!(far.end.eye_catcher(&peer.manners.raw), [0; 4]);

                assert_eq!(far.end.write(&mut peer.manners.raw, &bytes), len);
                let mut read = Vec::new();
                bench.until(&mut [&mut *peer], || {
                    read.extend(conn.receive().unwrap_or_default());
                    read.len() >= len
                });
                assert!(read == bytes, "{version:?}: {len} bytes");
                hear(peer, &mut far);
            }
        }
    }
}
