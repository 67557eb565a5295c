//! The connection is up, and the attacker writes what it likes into the shared memory and onto the
//! readiness pair.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use smcr_core::Reason;
use smcr_core::net::{Mode, SmcStream};
use smcr_core::shm::{Rmb, RmbeControl};

use crate::attacker::{Client, Connected, Server, rmb};
use crate::{alone, attack, ended, listener, patient};

/// A connection between a victim and an attacker, in either role.
struct Pair {
    victim: SmcStream,
    attacker: Connected,
    /// The attacker's own RMB, of which it uses the first RMBE.
    own: Arc<Rmb>,
}

impl Pair {
    fn new(victim_listens: bool) -> Self {
        let own = rmb();
        let (victim, attacker) = if victim_listens {
            let (listener, addr) = listener();
            let mine = Arc::clone(&own);
            let attacker = std::thread::spawn(move || Client::connect(addr).shake_hands(&mine, 1));
            let victim = listener.accept().unwrap().0;
            (victim, attacker.join().unwrap())
        } else {
            let server = Server::start();
            let victim = SmcStream::connect(server.addr()).unwrap();
            (victim, server.call().committed().accept(&own, 1))
        };
        let victim = patient(victim);
        let mode = crate::attacker::until(|| Some(victim.mode()).filter(|m| *m != Mode::Pending));
        assert_eq!(mode, Some(Mode::Shm));
        Self {
            victim,
            attacker,
            own,
        }
    }

    /// The cursors that the attacker writes as a writer.
    fn theirs(&self) -> &RmbeControl {
        let (rmb, index) = &self.attacker.victims;
        rmb.control(*index)
    }

    /// Those that it writes as a reader.
    fn own(&self) -> &RmbeControl {
        self.own.control(0)
    }

    /// Sends as it should be, `at` bytes from the start.
    fn send(&self, at: u64, bytes: &[u8]) {
        let (rmb, index) = &self.attacker.victims;
        let size = rmb.geometry().rmbe_size as usize;
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: within the ring; the victim reads it only after the cursor moved.
            unsafe { rmb.ring(*index).add((at as usize + i) % size).write(*byte) };
        }
        self.theirs().prod.store(at + bytes.len() as u64, Relaxed);
        self.ring();
    }

    fn ring(&self) {
        ring(&self.attacker.end, b"");
    }
}

fn ring(end: &OwnedFd, bytes: &[u8]) -> bool {
    use rustix::net::SendFlags;
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::send(end, bytes, flags).is_ok()
}

/// Both roles, each with a new connection.
fn each(name: &str, reason: Option<Reason>, play: impl Fn(&mut Pair)) {
    for victim_listens in [true, false] {
        attack(name, reason, || play(&mut Pair::new(victim_listens)));
    }
}

#[test]
fn the_reader_sees_impossible_cursors() {
    let _turn = alone();
    for prod in [1 << 63, u64::MAX, 1 << 40, (512 << 20) + 1] {
        each("prod out of range", Some(Reason::BadCursor), |pair| {
            pair.theirs().prod.store(prod, Relaxed);
            pair.ring();
            assert!(ended(&pair.victim), "{prod:x}");
        });
    }
    each("prod goes back", Some(Reason::BadCursor), |pair| {
        pair.send(0, b"hello");
        let mut heard = [0; 5];
        pair.victim.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        pair.theirs().prod.store(2, Relaxed);
        pair.ring();
        assert!(ended(&pair.victim));
        assert!(pair.victim.write(b"x").is_err());
    });
    each(
        "prod overtakes the reader",
        Some(Reason::BadCursor),
        |pair| {
            let size = u64::from(pair.attacker.victims.0.geometry().rmbe_size);
            pair.theirs().prod.store(size + 1, Relaxed);
            pair.ring();
            assert!(ended(&pair.victim));
        },
    );
}

#[test]
fn the_writer_sees_impossible_cursors() {
    let _turn = alone();
    let fill = |pair: &mut Pair| -> ErrorKind {
        pair.victim.set_nonblocking(true).unwrap();
        for _ in 0..100 {
            if let Err(error) = pair.victim.write(&[1; 4096]) {
                return error.kind();
            }
        }
        panic!("a ring without end");
    };
    for cons in [1 << 63, u64::MAX - (1 << 20), 1 << 20] {
        each("cons out of range", Some(Reason::BadCursor), |pair| {
            pair.victim.write_all(&[1; 1000]).unwrap();
            pair.own().cons.store(cons, Relaxed);
            assert_eq!(fill(pair), ErrorKind::ConnectionReset, "{cons:x}");
        });
    }
    each("cons goes back", Some(Reason::BadCursor), |pair| {
        let size = u64::from(pair.own.geometry().rmbe_size);
        assert_eq!(fill(pair), ErrorKind::WouldBlock);
        pair.own().cons.store(size, Relaxed);
        assert_eq!(fill(pair), ErrorKind::WouldBlock);
        pair.own().cons.store(0, Relaxed);
        assert_eq!(fill(pair), ErrorKind::ConnectionReset);
    });
    // A blocked writer that is told nonsense ends, too.
    each(
        "cons jumps while the victim waits",
        Some(Reason::BadCursor),
        |pair| {
            std::thread::scope(|scope| {
                let victim = pair.victim.try_clone().unwrap();
                let writer = scope.spawn(move || (&victim).write_all(&[1; 1 << 20]));
                std::thread::sleep(std::time::Duration::from_millis(100));
                pair.own().cons.store(1 << 50, Relaxed);
                while rustix::net::recv(
                    &pair.attacker.end,
                    &mut [0u8; 8],
                    rustix::net::RecvFlags::DONTWAIT,
                )
                .is_ok()
                {}
                assert!(writer.join().unwrap().is_err());
            });
        },
    );
}

#[test]
fn flags_and_counters() {
    let _turn = alone();
    each("all flags", None, |pair| {
        pair.theirs().tx_flags.store(u32::MAX, Relaxed);
        pair.ring();
        assert!(ended(&pair.victim));
    });
    each("flags of no meaning", None, |pair| {
        pair.theirs().tx_flags.store(0xffff_ff00, Relaxed);
        pair.send(0, b"hello");
        let mut heard = [0; 5];
        pair.victim.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    });
    for urgent in [u64::MAX, 1 << 63, 3, 5, 6, 1000] {
        each("urgent", None, |pair| {
            pair.theirs().urgent.store(urgent, Relaxed);
            pair.send(0, b"hello");
            let mut heard = [0; 3];
            let _ = pair.victim.read(&mut heard).unwrap();
            // At the mark the urgent byte is stepped over when there is more.
            pair.victim.set_nonblocking(true).unwrap();
            let _ = pair.victim.read(&mut heard);
            let _ = pair.victim.read(&mut heard);
        });
    }
    for lie in [0, 1, 2, 1 << 31, u32::MAX] {
        each("bells, armed and waiting lie", None, |pair| {
            for control in [pair.theirs(), pair.own()] {
                control.bells.store(lie, Relaxed);
                control.armed.store(lie, Relaxed);
                control.writer_waiting.store(lie, Relaxed);
            }
            pair.send(0, b"hello");
            let mut heard = [0; 5];
            pair.victim.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"hello");
            pair.theirs().bells.store(lie, Relaxed);
            pair.victim.write_all(b"answer").unwrap();
            assert_eq!(pair.own().prod.load(Relaxed), 6);
        });
    }
}

#[test]
fn bells() {
    let _turn = alone();
    each("a flood of bells", None, |pair| {
        let mut rung = 0;
        while ring(&pair.attacker.end, b"") && rung < 10_000 {
            rung += 1;
        }
        pair.victim.set_nonblocking(true).unwrap();
        // The victim empties the queue, whatever the counter says, and is not readable then.
        for _ in 0..100 {
            let error = pair.victim.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        let mut entry = [rustix::event::PollFd::new(
            &pair.victim,
            rustix::event::PollFlags::IN,
        )];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        assert_eq!(rustix::event::poll(&mut entry, Some(&now)), Ok(0));
        pair.send(0, b"hello");
        let mut heard = [0; 5];
        pair.victim.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    });
    each("bells with words", None, |pair| {
        while ring(&pair.attacker.end, &[0x41; 512]) {}
        pair.victim.set_nonblocking(true).unwrap();
        for _ in 0..100 {
            let error = pair.victim.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        pair.victim.set_nonblocking(false).unwrap();
        pair.send(0, b"hello");
        let mut heard = [0; 5];
        pair.victim.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    });
    each("bells with descriptors", None, |pair| {
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = count();
        for _ in 0..50 {
            let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
            let fds = [std::os::fd::AsFd::as_fd(&a), std::os::fd::AsFd::as_fd(&b)];
            control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
            let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
            let bytes = [std::io::IoSlice::new(b"x")];
            let _ = rustix::net::sendmsg(&pair.attacker.end, &bytes, &mut control, flags);
        }
        pair.victim.set_nonblocking(true).unwrap();
        for _ in 0..100 {
            let _ = pair.victim.read(&mut [0; 8]);
        }
        assert!(count() <= before, "the victim took descriptors");
    });
    each("a hang-up in the middle", None, |pair| {
        pair.send(0, b"hello");
        let (end, other) = smcr_core::conn::bell::pair().unwrap();
        drop(std::mem::replace(&mut pair.attacker.end, end));
        drop(other);
        let mut heard = Vec::new();
        // As after a kill: what came before, then the end.
        pair.victim.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"hello");
    });
}
