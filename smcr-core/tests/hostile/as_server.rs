//! A victim connects to the attacker.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use smcr_core::Reason;
use smcr_core::net::{Mode, SmcStream};
use smcr_core::rendezvous::messages::Message;

use crate::attacker::{Committed, Server, buffer, info, rmb, say, say_raw, until};
use crate::{alone, attack, ended, patient};

fn connect(server: &Server) -> SmcStream {
    let stream = patient(SmcStream::connect(server.addr()).unwrap());
    assert_eq!(stream.mode(), Mode::Pending);
    stream
}

/// Waits for the victim's verdict.
fn decided(stream: &SmcStream) -> Mode {
    until(|| Some(stream.mode()).filter(|mode| *mode != Mode::Pending)).expect("still pending")
}

#[test]
fn the_call() {
    let _turn = alone();
    // Whoever calls without knowing the connection is not heard; the real server may still call.
    attack("calls that know nothing", None, || {
        let server = Server::start();
        let victim = connect(&server);
        let called = server.call();
        called.hello(called.tsval.wrapping_sub(100_000));
        // The victim hangs up.
        let hung_up = crate::attacker::hear(&called.channel);
        assert!(hung_up.is_none());
        assert_eq!(victim.mode(), Mode::Pending);
        let peer = called.tcp.peer_addr().unwrap();
        for bytes in [&b"x"[..], &[0xff; 48], &[b'S'; 4000]] {
            let call = || smcr_core::rendezvous::names::call(server.addr(), peer).ok();
            let (channel, _) = until(call).unwrap();
            say_raw(&channel, bytes);
            assert!(crate::attacker::hear(&channel).is_none());
            assert_eq!(victim.mode(), Mode::Pending);
        }
        (&called.tcp).write_all(b"tcp").unwrap();
        let mut heard = [0; 3];
        (&victim).read_exact(&mut heard).unwrap();
        assert_eq!((&heard, victim.mode()), (b"tcp", Mode::Tcp));
    });
    attack(
        "a call and silence, then data",
        Some(Reason::PeerNoSmc),
        || {
            let server = Server::start();
            let victim = connect(&server);
            let called = server.call();
            (&called.tcp).write_all(b"tcp").unwrap();
            let mut heard = [0; 3];
            (&victim).read_exact(&mut heard).unwrap();
            assert_eq!((&heard, victim.mode()), (b"tcp", Mode::Tcp));
        },
    );
    attack(
        "a server that never accepts",
        Some(Reason::EarlyData),
        || {
            let server = Server::start();
            let victim = connect(&server);
            // More than may go out before the handshake.
            (&victim).write_all(&[7; 100_000]).unwrap();
            assert_eq!(victim.mode(), Mode::Tcp);
            let (mut tcp, _) = server.listener.accept().unwrap();
            let mut heard = vec![0; 100_000];
            tcp.read_exact(&mut heard).unwrap();
            assert!(heard.iter().all(|byte| *byte == 7));
        },
    );
    attack("a hang-up instead of Hello", Some(Reason::NoAnswer), || {
        let server = Server::start();
        let victim = connect(&server);
        let called = server.call();
        drop(called.channel);
        assert_eq!(decided(&victim), Mode::Tcp);
        (&called.tcp).write_all(b"tcp").unwrap();
        let mut heard = [0; 3];
        (&victim).read_exact(&mut heard).unwrap();
    });
}

/// After the commit: the connection ends, for this reason.
fn ends(name: &str, reason: Reason, play: impl FnOnce(&mut Committed)) {
    attack(name, Some(reason), || {
        let server = Server::start();
        let victim = connect(&server);
        let mut committed = server.call().committed();
        play(&mut committed);
        assert!(ended(&victim), "{name}");
        assert_eq!(victim.mode(), Mode::Tcp, "{name}");
        assert_eq!(victim.fallback_reason(), Some(reason), "{name}");
    });
}

/// After the commit: the victim declines and goes on over TCP.
fn declines(name: &str, reason: Reason, play: impl FnOnce(&mut Committed)) {
    attack(name, Some(reason), || {
        let server = Server::start();
        let victim = connect(&server);
        let mut committed = server.call().committed();
        play(&mut committed);
        assert_eq!(decided(&victim), Mode::Tcp, "{name}");
        assert_eq!(victim.fallback_reason(), Some(reason), "{name}");
        // Behind its Decline the stream is the programs'.
        let mut header = [0; 8];
        committed.tcp.read_exact(&mut header).unwrap();
        let len = usize::from(u16::from_be_bytes([header[5], header[6]]));
        assert_eq!(header[4], 4, "{name}: a Decline");
        committed.tcp.read_exact(&mut vec![0; len - 8]).unwrap();
        committed.tcp.write_all(b"tcp").unwrap();
        let mut heard = [0; 3];
        (&victim).read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"tcp");
    });
}

#[test]
fn the_accept() {
    let _turn = alone();
    ends("silence", Reason::ClcTimeout, |_| {});
    ends("an end", Reason::Ended, |committed| {
        committed.tcp.shutdown(std::net::Shutdown::Both).unwrap();
    });
    ends("garbage", Reason::ClcInvalid, |committed| {
        committed.send(Some(vec![0x55; 600]));
    });
    let accept = |committed: &mut Committed, change: &dyn Fn(&mut Vec<u8>)| {
        let rmb = rmb();
        let mut handshake = committed.proposed();
        say(
            &committed.channel,
            &Message::Memory { rmb: info(&rmb) },
            &[rmb.fd()],
        );
        handshake
            .accept(buffer(&rmb, 1), true, Instant::now())
            .unwrap();
        let mut bytes = handshake.poll_transmit().unwrap();
        change(&mut bytes);
        committed.send(Some(bytes));
    };
    ends("half an Accept", Reason::ClcTimeout, |committed| {
        accept(committed, &|bytes| bytes.truncate(40));
    });
    ends("oversized", Reason::ClcInvalid, |committed| {
        accept(committed, &|bytes| {
            bytes[5..7].copy_from_slice(&[0xff, 0xff])
        });
    });
    ends("no length", Reason::ClcInvalid, |committed| {
        accept(committed, &|bytes| bytes[5..7].copy_from_slice(&[0, 0]));
    });
    ends("a Proposal back", Reason::ClcInvalid, |committed| {
        committed.send(crate::attacker::client_handshake().poll_transmit());
    });
    for at in (8..70).step_by(3) {
        // A changed Accept leads to whatever it leads to, in time.
        attack("a changed Accept", None, || {
            let server = Server::start();
            let victim = connect(&server);
            let mut committed = server.call().committed();
            accept(&mut committed, &|bytes| bytes[at] ^= 0xff);
            decided(&victim);
        });
    }
}

#[test]
fn the_memory() {
    let _turn = alone();
    let accept = |committed: &mut Committed,
                  index: u8,
                  message: &dyn Fn(&Committed, &smcr_core::shm::Rmb)| {
        let rmb = rmb();
        let mut handshake = committed.proposed();
        message(committed, &rmb);
        handshake
            .accept(buffer(&rmb, index), true, Instant::now())
            .unwrap();
        committed.send(handshake.poll_transmit());
    };
    declines("another process", Reason::ClcInvalid, |committed| {
        let rmb = rmb();
        let mut handshake = committed.proposed();
        say(
            &committed.channel,
            &Message::Memory { rmb: info(&rmb) },
            &[rmb.fd()],
        );
        handshake
            .accept(buffer(&rmb, 1), true, Instant::now())
            .unwrap();
        let mut bytes = handshake.poll_transmit().unwrap();
        let gid = &crate::attacker::identity().gid.0[..8];
        let at = bytes.windows(8).position(|part| part == gid).unwrap();
        bytes[at] ^= 1;
        committed.send(Some(bytes));
    });
    declines("no memory message", Reason::ClcInvalid, |committed| {
        accept(committed, 1, &|_, _| {});
    });
    declines("another message", Reason::ClcInvalid, |committed| {
        accept(committed, 1, &|committed, _| {
            say_raw(&committed.channel, &[1; 48])
        });
    });
    declines("no descriptor", Reason::BadMemory, |committed| {
        accept(committed, 1, &|committed, rmb| {
            say(&committed.channel, &Message::Memory { rmb: info(rmb) }, &[]);
        });
    });
    declines(
        "a descriptor that is no memory",
        Reason::BadMemory,
        |committed| {
            accept(committed, 1, &|committed, rmb| {
                let null = std::fs::File::open("/dev/null").unwrap();
                say(
                    &committed.channel,
                    &Message::Memory { rmb: info(rmb) },
                    &[null.as_fd()],
                );
            });
        },
    );
    declines("another RMB", Reason::BadMemory, |committed| {
        accept(committed, 1, &|committed, _| {
            let other = rmb();
            say(
                &committed.channel,
                &Message::Memory { rmb: info(&other) },
                &[other.fd()],
            );
        });
    });
    declines("beyond the last RMBE", Reason::BadMemory, |committed| {
        accept(committed, 3, &|committed, rmb| {
            say(
                &committed.channel,
                &Message::Memory { rmb: info(rmb) },
                &[rmb.fd()],
            );
        });
    });
}
