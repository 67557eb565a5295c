//! The attacker connects to a victim that listens.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{MemfdFlags, SealFlags};
use smcr_core::Reason;
use smcr_core::conn::bell;
use smcr_core::net::{Mode, SmcStream};
use smcr_core::rendezvous::messages::{Message, RmbInfo};
use smcr_core::rendezvous::names::{CallListener, Presence};
use smcr_core::shm::{Geometry, Rmb};

use crate::attacker::{self, Client, buffer, client_handshake, commit, fd, rmb, say, say_raw};
use crate::{alone, attack, ended, listener, patient, serves};

/// Runs `play` against a victim that accepts; returns what the victim got, after a look whether
/// it still serves others.
fn against(play: impl FnOnce(Client) -> Option<Client> + Send) -> (SmcStream, Option<Client>) {
    let (listener, addr) = listener();
    let (stream, left) = std::thread::scope(|scope| {
        let attacker = scope.spawn(move || play(Client::connect(addr)));
        let (stream, _) = listener.accept().unwrap();
        (patient(stream), attacker.join().unwrap())
    });
    serves(&listener);
    (stream, left)
}

/// The victim stays on TCP, whose stream is untouched.
fn stays_tcp(name: &str, reason: Reason, play: impl FnOnce(Client) -> Client + Send) {
    attack(name, Some(reason), || {
        let (mut stream, client) = against(|client| Some(play(client)));
        assert_eq!(stream.mode(), Mode::Tcp, "{name}");
        assert_eq!(stream.fallback_reason(), Some(reason), "{name}");
        let mut client = client.unwrap();
        client.tcp.write_all(b"ping").unwrap();
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"ping", "{name}");
        stream.write_all(b"pong").unwrap();
        client.tcp.read_exact(&mut heard).unwrap();
        assert_eq!(
            &heard, b"pong",
            "{name}: CLC bytes where none were asked for"
        );
    });
}

/// The victim's connection ends.
fn is_ended(name: &str, reason: Reason, play: impl FnOnce(Client) -> Option<Client> + Send) {
    attack(name, Some(reason), || {
        let (stream, _client) = against(play);
        assert_eq!(stream.mode(), Mode::Tcp, "{name}");
        assert!(ended(&stream), "{name}");
    });
}

#[test]
fn before_the_commit() {
    let _turn = alone();
    stays_tcp("no name", Reason::NoAnswer, |mut client| {
        client.listener = None;
        client
    });
    stays_tcp("takes no call", Reason::NoAnswer, |client| client);
    stays_tcp("takes the call and hangs up", Reason::NoAnswer, |client| {
        drop(client.take_call());
        client
    });
    stays_tcp("takes the call and is silent", Reason::NoAnswer, |client| {
        let channel = client.take_call();
        std::mem::forget(channel);
        client
    });
    for (name, bytes) in [
        ("one byte", &b"x"[..]),
        ("garbage", &[0xff; 48]),
        ("truncated", b"SMCRSH2\x02"),
        ("oversized", &[b'S'; 4000]),
        (
            "an RMB of no size",
            b"SMCRSH2\x02\0\0\0\0aaaaaaaaaaaaaaaa\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ),
    ] {
        stays_tcp(name, Reason::NoAnswer, |client| {
            say_raw(&client.take_call(), bytes);
            client
        });
    }
    stays_tcp("a Hello for a Commit", Reason::ClcInvalid, |client| {
        let (tsval, gid) = (1, [1; 16]);
        say(&client.take_call(), &Message::Hello { tsval, gid }, &[]);
        client
    });
}

#[test]
fn missing_and_strange_descriptors() {
    let _turn = alone();
    is_ended("no descriptors", Reason::ClcInvalid, |client| {
        say(&client.take_call(), &commit(0, &rmb()), &[]);
        Some(client)
    });
    is_ended("one descriptor", Reason::ClcInvalid, |client| {
        let (_, theirs) = bell::pair().unwrap();
        say(&client.take_call(), &commit(0, &rmb()), &[theirs.as_fd()]);
        Some(client)
    });
    is_ended("no readiness pair", Reason::ClcInvalid, |client| {
        let rmb = rmb();
        let null = std::fs::File::open("/dev/null").unwrap();
        say(
            &client.take_call(),
            &commit(0, &rmb),
            &[null.as_fd(), fd(&rmb)],
        );
        Some(client)
    });
    is_ended("a pair of another kind", Reason::ClcInvalid, |client| {
        let rmb = rmb();
        let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        say(
            &client.take_call(),
            &commit(0, &rmb),
            &[theirs.as_fd(), fd(&rmb)],
        );
        Some(client)
    });
}

#[test]
fn clc_messages() {
    let _turn = alone();
    let after_commit = |bytes: Option<&[u8]>| {
        let bytes = bytes.map(<[u8]>::to_vec);
        move |mut client: Client| {
            let rmb = rmb();
            std::mem::forget(client.commit(&rmb));
            client.send(bytes);
            Some(client)
        }
    };
    let proposal = client_handshake().poll_transmit().unwrap();
    is_ended("silence", Reason::ClcTimeout, after_commit(None));
    is_ended(
        "garbage",
        Reason::ClcInvalid,
        after_commit(Some(&[0x55; 600])),
    );
    let half = &proposal[..proposal.len() / 2];
    is_ended(
        "half a Proposal",
        Reason::ClcTimeout,
        after_commit(Some(half)),
    );
    is_ended("half a Proposal and an end", Reason::Ended, |mut client| {
        std::mem::forget(client.commit(&rmb()));
        client.send(Some(half.to_vec()));
        None
    });
    let mut long = proposal.clone();
    long[5..7].copy_from_slice(&[0xff, 0xff]);
    is_ended("oversized", Reason::ClcInvalid, after_commit(Some(&long)));
    long[5..7].copy_from_slice(&[0, 0]);
    is_ended("no length", Reason::ClcInvalid, after_commit(Some(&long)));
    for at in 8..proposal.len() {
        // What is accepted or declined is none of this test's business: that it ends is.
        let mut changed = proposal.clone();
        changed[at] ^= 0xff;
        attack("a changed Proposal", None, || {
            if at % 16 == 0 {
                let _ = against(|mut client| {
                    std::mem::forget(client.commit(&rmb()));
                    client.send(Some(changed));
                    None
                });
            }
        });
    }
    is_ended(
        "a Proposal, and silence",
        Reason::ClcTimeout,
        after_commit(Some(&proposal)),
    );
    let twice = [&proposal[..], &proposal[..]].concat();
    is_ended(
        "two Proposals",
        Reason::ClcInvalid,
        after_commit(Some(&twice)),
    );
    is_ended("early bytes that never come", Reason::Ended, |client| {
        let rmb = rmb();
        let channel = client.take_call();
        let (end, theirs) = bell::pair().unwrap();
        say(&channel, &commit(1000, &rmb), &[theirs.as_fd(), fd(&rmb)]);
        std::mem::forget((channel, end));
        Some(client)
    });
    is_ended("more early bytes than fit", Reason::ClcInvalid, |client| {
        let rmb = rmb();
        let channel = client.take_call();
        let (end, theirs) = bell::pair().unwrap();
        say(
            &channel,
            &commit(u32::MAX, &rmb),
            &[theirs.as_fd(), fd(&rmb)],
        );
        std::mem::forget((channel, end));
        Some(client)
    });
}

/// Does everything right with this memory, up to a Confirm that names RMBE `index`.
fn offer(memory: OwnedFd, info: RmbInfo, index: u8) -> impl FnOnce(Client) -> Option<Client> {
    move |mut client| {
        let channel = client.take_call();
        let (end, theirs) = bell::pair().unwrap();
        let commit = Message::Commit {
            early: 0,
            gid: attacker::identity().gid.0,
            rmb: info,
            group: attacker::new_group(),
        };
        say(&channel, &commit, &[theirs.as_fd(), memory.as_fd()]);
        let mut handshake = client_handshake();
        client.send(handshake.poll_transmit());
        while handshake.poll_event().is_none() {
            let mut bytes = vec![0; handshake.needed()];
            client.tcp.read_exact(&mut bytes).unwrap();
            handshake.handle_bytes(&bytes, Instant::now()).unwrap();
        }
        let named = Rmb::create(info.geometry, info.token).unwrap();
        handshake.confirm(buffer(&named, index)).unwrap();
        client.send(handshake.poll_transmit());
        std::mem::forget((channel, end));
        Some(client)
    }
}

fn memfd(len: usize, flags: MemfdFlags, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags;
    let fd = rustix::fs::memfd_create("evil", flags).unwrap();
    rustix::fs::ftruncate(&fd, len as u64).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn memory() {
    let _turn = alone();
    let geometry = Geometry::new(2, 64 << 10).unwrap();
    let size = geometry.memory_size();
    let full = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let none = MemfdFlags::empty();
    let mut token = 1 << 50;
    let mut bad = |name: &str, memory: OwnedFd, index: u8| {
        token += 1;
        let info = RmbInfo { token, geometry };
        is_ended(name, Reason::BadMemory, offer(memory, info, index));
    };
    bad("not sealed", memfd(size, none, SealFlags::empty()), 1);
    bad(
        "may shrink",
        memfd(size, none, SealFlags::GROW | SealFlags::SEAL),
        1,
    );
    bad(
        "may grow",
        memfd(size, none, SealFlags::SHRINK | SealFlags::SEAL),
        1,
    );
    bad(
        "may be sealed",
        memfd(size, none, SealFlags::SHRINK | SealFlags::GROW),
        1,
    );
    bad("read only", memfd(size, none, full | SealFlags::WRITE), 1);
    bad("too small", memfd(size - 4096, none, full), 1);
    bad("too large", memfd(size + 4096, none, full), 1);
    bad("empty", memfd(0, none, full), 1);
    bad("beyond the last RMBE", memfd(size, none, full), 3);
    bad("the last index", memfd(size, none, full), 255);
    bad("a file", tempfile(size), 1);
    bad("a directory", std::fs::File::open("/").unwrap().into(), 1);
    bad(
        "a socket",
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        1,
    );
    let huge = Geometry::new(32, 64 << 10).unwrap();
    let len = huge.memory_size().next_multiple_of(2 << 20);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    if let Ok(fd) = rustix::fs::memfd_create("evil", flags)
        && rustix::fs::ftruncate(&fd, len as u64).is_ok()
    {
        rustix::fs::fcntl_add_seals(&fd, full).unwrap();
        bad("huge pages", fd, 1);
    }
}

fn tempfile(len: usize) -> OwnedFd {
    let path = std::env::temp_dir().join(format!("smcr-hostile-{}", std::process::id()));
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    file.set_len(len as u64).unwrap();
    std::fs::remove_file(path).unwrap();
    file.into()
}

/// Runs `work` in a thread that belongs to another user, if this process may do that.
fn as_other_user<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            const NOBODY: libc::uid_t = 65534;
            // SAFETY: takes integers. The raw system call changes this thread only.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
            (changed == 0).then(work)
        });
        thread.join().unwrap()
    })
}

#[test]
fn names_of_another_user() {
    let _turn = alone();
    stays_tcp("a name of another user", Reason::OtherUser, |mut client| {
        client.listener = None;
        let (local, peer) = (client.tcp.local_addr(), client.tcp.peer_addr());
        let squat = || CallListener::bind(local.unwrap(), peer.unwrap()).unwrap();
        client.listener = as_other_user(squat);
        if client.listener.is_none() {
            eprintln!("skipped: this user cannot become another one");
        }
        client
    });

    // The presence name promises nothing, so that it does not matter who has it.
    let port = listener().1.port();
    let squatter = as_other_user(|| Presence::announce(port).unwrap());
    let listener = smcr_core::net::SmcListener::bind(("127.0.0.1", port)).unwrap();
    serves(&listener);
    drop(squatter);
}
