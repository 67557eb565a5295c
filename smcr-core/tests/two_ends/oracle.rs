//! Random operations, compared with what two byte queues would do.

use proptest::prelude::*;
use rustix::io::Errno;

use super::{End, RING, bytes, pair};

/// What one end does.
#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    Recv(usize),
    Peek(usize),
    Drain,
    ShutWrite,
    Close,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let len = || prop_oneof![4 => 0..300usize, 2 => 0..RING, 1 => 0..3 * RING];
    let step = prop_oneof![
        8 => len().prop_map(Step::Send),
        8 => len().prop_map(Step::Recv),
        2 => len().prop_map(Step::Peek),
        2 => Just(Step::Drain),
        1 => prop::bool::weighted(0.3).prop_map(|on| if on { Step::ShutWrite } else { Step::Drain }),
        1 => prop::bool::weighted(0.2).prop_map(|on| if on { Step::Close } else { Step::Recv(9) }),
    ];
    prop::collection::vec((0..2usize, step), 1..80)
}

/// One direction, as it should be.
#[derive(Default)]
struct Queue {
    /// Bytes that were sent, and received.
    sent: u64,
    received: u64,
    /// The writer shut it down.
    shut: bool,
    /// The writer had to leave something, and was not told of room since.
    blocked: bool,
}

impl Queue {
    fn unread(&self) -> usize {
        (self.sent - self.received) as usize
    }

    fn free(&self) -> usize {
        RING - self.unread()
    }
}

struct World {
    ends: [Option<End>; 2],
    /// By writer.
    queues: [Queue; 2],
    /// The other end of each was closed with bytes unread: the next call but reading tells.
    reset: [bool; 2],
}

impl World {
    fn new() -> Self {
        Self {
            ends: pair().map(Some),
            queues: [Queue::default(), Queue::default()],
            reset: [false; 2],
        }
    }

    fn step(&mut self, me: usize, step: Step) {
        let peer = 1 - me;
        let Some(end) = &self.ends[me] else { return };
        let alone = self.ends[peer].is_none();
        match step {
            Step::Send(len) => {
                let queue = &mut self.queues[me];
                let text = bytes(me, queue.sent, len);
                let sent = end.send(&text, libc::MSG_DONTWAIT);
                if alone {
                    // TCP takes one more, and then says EPIPE; after a reset it says so at once.
                    self.reset[me] |= len > 0;
                    let fails = matches!(sent, Err(Errno::PIPE | Errno::CONNRESET));
                    assert!(fails || sent.is_ok(), "{sent:?}");
                    return;
                }
                match sent {
                    Err(Errno::PIPE) => assert!(queue.shut),
                    Err(Errno::AGAIN) => {
                        assert!(len > 0 && queue.free() == 0 && !queue.shut);
                        queue.blocked = true;
                        assert_eq!(end.kernel() & libc::POLLOUT, 0, "full, and writable");
                    }
                    Ok(n) => {
                        assert_eq!(n, len.min(queue.free()));
                        assert!(!queue.shut || len == 0);
                        queue.sent += n as u64;
                        queue.blocked |= n < len;
                    }
                    Err(errno) => panic!("send: {errno}"),
                }
            }
            Step::Recv(len) => self.recv(me, len, 0),
            Step::Peek(len) => self.recv(me, len, libc::MSG_PEEK),
            Step::Drain => {
                self.recv(me, RING, 0);
                self.recv(me, 1, 0);
            }
            Step::ShutWrite => {
                if !self.reset[me] && !alone {
                    let over = self.queues[me].shut && self.queues[peer].shut;
                    let shut = end.smc.shutdown(end.fd(), libc::SHUT_WR);
                    // A connection that both have ended is none any more.
                    assert!(
                        shut.is_ok() || over && shut == Err(Errno::NOTCONN),
                        "{shut:?}"
                    );
                    self.queues[me].shut = true;
                }
            }
            Step::Close => {
                end.smc.close(false);
                self.reset[peer] |= self.queues[peer].unread() > 0;
                self.queues[me].shut = true;
                self.ends[me] = None;
            }
        }
    }

    fn recv(&mut self, me: usize, len: usize, flags: i32) {
        let peer = 1 - me;
        let Some(end) = &self.ends[me] else { return };
        let queue = &mut self.queues[peer];
        let mut buf = vec![0; len];
        let received = end.recv(&mut buf, flags | libc::MSG_DONTWAIT);
        let wanted = len.min(queue.unread());
        match received {
            Ok(n) => {
                assert_eq!(n, wanted);
                assert_eq!(buf[..n], bytes(peer, queue.received, n));
                assert!(n > 0 || len == 0 || queue.shut, "an end that is none");
                if flags & libc::MSG_PEEK == 0 {
                    queue.received += n as u64;
                    queue.blocked &= queue.unread() > RING / 2;
                }
            }
            Err(Errno::AGAIN) => {
                assert!(queue.unread() == 0 && !queue.shut);
                assert_eq!(end.kernel() & libc::POLLIN, 0, "empty, and readable");
            }
            Err(Errno::CONNRESET | Errno::PIPE) => {
                assert!(self.reset[me] && (wanted == 0 || len == 0));
            }
            Err(errno) => panic!("recv: {errno}"),
        }
    }

    /// What poll says, the library's and the kernel's.
    fn check(&self) {
        for me in 0..2 {
            let Some(end) = &self.ends[me] else { continue };
            let (out, inn) = (&self.queues[me], &self.queues[1 - me]);
            let ready = end.smc.readiness();
            let readable = inn.unread() > 0 || inn.shut;
            if self.ends[1 - me].is_some() {
                assert_eq!(ready & libc::POLLIN != 0, readable);
                let writable = out.free() >= RING / 4 || out.shut;
                assert_eq!(ready & libc::POLLOUT != 0, writable, "{} free", out.free());
            }
            let kernel = end.kernel();
            if readable {
                assert_ne!(
                    kernel & libc::POLLIN,
                    0,
                    "readable, and the kernel does not know"
                );
            }
            if !out.blocked {
                assert_ne!(
                    kernel & libc::POLLOUT,
                    0,
                    "writable, and the kernel does not know"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_queues_do_the_same(steps in steps()) {
        let mut world = World::new();
        for (me, step) in steps {
            world.step(me, step);
            world.check();
        }
    }
}
