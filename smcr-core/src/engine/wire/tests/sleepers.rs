//! A thread of the program's that sleeps waits for the adapter itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::*;
use crate::conn::io::Slices;
use crate::conn::{Arming, Smc};
use crate::rdma::Sitter;
use crate::rdma::fabric::Port;
use crate::rdma::sim::SimConfig;

/// Receives a message, asleep until it comes.
fn receive(smc: &Smc, end: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0u8; 64];
    let iov = [libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }];
    // SAFETY: `bytes` outlives the sink, and nobody else uses it meanwhile.
    let mut sink = unsafe { Slices::new(&iov) }?;
    let received = smc.recv(end, &mut sink, 0, Arming::Later)?;
    bytes.truncate(received.bytes);
    Ok(bytes)
}

/// Has the seat made, with an epoll set behind it as the thread has one.
fn seat(bench: &Bench, conn: &Conn) -> OwnedFd {
    let rdma = &bench.engine.wire.rdma;
    let thread = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let watch = |port: &dyn Port| {
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        epoll::add(&thread, port.completion_fd(), EventData::new_u64(0), flags)
    };
    watch(&*bench.port).unwrap();
    let who = Sitter::end(conn.smc().conn_id().unwrap());
    let mut asked = 0;
    while !rdma.wants_seat() {
        assert!(rdma.sit_down(who, conn.end.as_fd()).is_none());
        asked += 1;
    }
    assert!(asked > 10, "one that sleeps once or twice gets none");
    rdma.make_seat(|_, port| {
        epoll::delete(&thread, port.completion_fd()).unwrap();
        watch(port).unwrap();
    });
    bench.port.arm();
    thread
}

/// Whether the thread would be woken.
fn wakes(thread: &OwnedFd, at_most: Duration) -> bool {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 1];
    crate::sys::epoll_wait(thread.as_fd(), &mut events, Some(at_most), std::ptr::null()) == Ok(1)
}

/// Nobody looks after the wire: all that happens is what the sleeper does.
#[test]
fn a_sleeper_needs_no_thread() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Client, Version::V2);
    let (mut far, _talk, conn) = peer.dial(&mut bench, 1);
    conn.connection.set_nonblocking(false);
    let set = seat(&bench, &conn);
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                tell.send(receive(conn.smc(), conn.end.as_fd()).unwrap())
                    .unwrap();
            }
        });
        // The thread: woken only if an event comes while nobody sits.
        let mut woken = 0;
        for number in 0..200u8 {
            // Longer than anybody spins.
            thread::sleep(Duration::from_millis(1));
            far.end.write(&mut peer.manners.raw, &[number; 32]);
            let until = Instant::now() + Duration::from_secs(5);
            let message = loop {
                assert!(Instant::now() < until, "message {number} does not come");
                bench.net.advance_by(Duration::from_micros(50));
                peer.answer();
                match told.recv_timeout(Duration::from_millis(1)) {
                    Ok(message) => break message,
                    Err(_) if wakes(&set, Duration::ZERO) => {
                        woken += 1;
                        bench.look_after();
                    }
                    Err(_) => {}
                }
            };
            assert_eq!(message, [number; 32]);
        }
        assert!(woken < 20, "the thread was woken {woken} times");
    });
    assert_eq!(conn.smc().unread_bells(), 0, "nobody rang");
}

/// The next event after a sleeper has left wakes the thread, and so does one for which nobody came.
#[test]
fn what_a_sleeper_leaves_is_the_threads() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Client, Version::V2);
    let (mut far, _talk, conn) = peer.dial(&mut bench, 1);
    let set = seat(&bench, &conn);
    let rdma = &bench.engine.wire.rdma;
    let who = Sitter::end(conn.smc().conn_id().unwrap());
    let mut say = |bench: &mut Bench| {
        far.end.write(&mut peer.manners.raw, b"word");
        bench.net.advance_by(Duration::from_millis(1));
    };

    // It waits, and its time is over.
    let seat = rdma.sit_down(who, conn.end.as_fd()).unwrap();
    let nothing = seat.sleep(Some(Duration::from_millis(1)), std::ptr::null());
    assert_eq!(
        nothing.map(|woken| (woken.own, woken.ports)),
        Ok((false, 0))
    );
    say(&mut bench);
    assert!(wakes(&set, Duration::ZERO), "nobody waits");

    // Both know of that event; who takes it asks for the next.
    let woken = seat.sleep(Some(Duration::ZERO), std::ptr::null()).unwrap();
    assert_eq!(woken.ports, 1);
    seat.collect(woken);
    assert!(!wakes(&set, Duration::ZERO));
    assert_eq!(conn.receive().unwrap(), b"word");

    // It is woken, and never comes back.
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let other = rdma.sit_down(who, conn.end.as_fd());
            assert!(other.is_none(), "there is one seat");
        });
        sleeper.join().unwrap();
    });
    drop(seat);
    let sleeps = || {
        let seat = rdma.sit_down(who, conn.end.as_fd()).unwrap();
        seat.sleep(None, std::ptr::null()).unwrap()
    };
    thread::scope(|scope| {
        let sleeper = scope.spawn(sleeps);
        thread::sleep(Duration::from_millis(20));
        say(&mut bench);
        assert_eq!(sleeper.join().unwrap().ports, 1);
    });
    // So the thread finds it when it looks at its clock, and asks for the next one.
    rdma.renew();
    bench.look_after();
    assert_eq!(conn.receive().unwrap(), b"word");
    say(&mut bench);
    assert!(wakes(&set, Duration::ZERO), "the next one was asked for");
}

/// Where several sleep, events are for any of them: that is the thread's work.
#[test]
fn only_a_lone_sleeper_sits() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Client, Version::V2);
    let (_far, _talk, conn) = peer.dial(&mut bench, 1);
    let _set = seat(&bench, &conn);
    let rdma = &bench.engine.wire.rdma;
    let who = Sitter::end(conn.smc().conn_id().unwrap());
    let sits = || rdma.sit_down(who, conn.end.as_fd()).is_some();
    rdma.sleep_begins();
    assert!(sits());
    rdma.sleep_begins();
    assert!(!sits());
    rdma.sleep_ends();
    assert!(!sits(), "not at once");
}

/// Whoever waits for a descriptor that is closed gets up.
#[test]
fn a_sleeper_gets_up_when_its_stream_is_closed() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Client, Version::V2);
    let (_far, _talk, conn) = peer.dial(&mut bench, 1);
    let _set = seat(&bench, &conn);
    let rdma = &bench.engine.wire.rdma;
    let who = Sitter::end(conn.smc().conn_id().unwrap());
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let seat = rdma.sit_down(who, conn.end.as_fd()).unwrap();
            seat.sleep(Some(Duration::from_secs(20)), std::ptr::null())
        });
        thread::sleep(Duration::from_millis(20));
        conn.smc().close(false);
        assert!(sleeper.join().unwrap().unwrap().own);
    });
}
