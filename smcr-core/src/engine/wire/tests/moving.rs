//! What happens at the very moment when a stream moves.

use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::conn::io::Slices;
use crate::engine::{Phase, Unwatched, is_reported_readable};
use crate::rdma::sim::SimConfig;

/// What a program does that an edge has woken: it receives once, without waiting.
fn receive_once(connection: &Connection, end: BorrowedFd<'_>) -> Result<Option<usize>, Errno> {
    let mut bytes = [0u8; 64];
    let iov = [libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }];
    // SAFETY: `bytes` outlives the sink, and nobody else uses it meanwhile.
    let mut sink = unsafe { Slices::new(&iov) }?;
    connection.recv(end, &mut sink, libc::MSG_DONTWAIT, &Unwatched)
}

/// Has a program woken as soon as the rings are joined; what it received comes out of the channel.
fn wake_when_joined(conn: &Conn) -> mpsc::Receiver<Result<Option<usize>, Errno>> {
    let (told, received) = mpsc::channel();
    let end = conn.end.try_clone().unwrap();
    when_joined(move |connection| {
        assert!(is_reported_readable(end.as_fd()), "the bell has rung");
        let (connection, end) = (Arc::clone(connection), end.try_clone().unwrap());
        let told = told.clone();
        let program = thread::spawn(move || {
            told.send(receive_once(&connection, end.as_fd())).unwrap();
        });
        // Time enough to find nothing, for one that does not wait.
        let until = Instant::now() + Duration::from_millis(50);
        while !program.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    });
    received
}

/// A program that is told of data by an edge finds them, and not a stream that is about to move:
/// there is no second edge.
#[test]
fn data_that_came_before_at_a_server() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Client, Version::V2);
    let (_far, _talk, _conn) = peer.dial(&mut bench, 1);
    let (mut talk, conn) = bench.connect(Role::Server);
    peer.propose(&mut talk);
    let accept = talk.accept(&mut bench, &mut peer);
    let received = wake_when_joined(&conn);
    let ours = peer.element(2);
    // The data overtake the Confirm (RFC 7609 §3.5.2.4).
    let mut far = peer.confirm(&mut talk, &accept, ours);
    far.end.write(&mut peer.manners.raw, b"early");
    bench.until(&mut [&mut peer], || conn.phase() == Phase::Smc);
    assert_eq!(received.recv().unwrap(), Ok(Some(5)));
}

#[test]
fn data_that_came_before_at_a_client() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Server, Version::V2);
    let (mut talk, conn) = bench.connect(Role::Client);
    let received = wake_when_joined(&conn);
    let ours = peer.element(1);
    let first = Contact::First { direct: true };
    let theirs = peer.welcome(&mut talk, &mut bench, &ours, first);
    let mut far = peer.far(ours, &theirs);
    // Behind CONFIRM LINK, so that both come at once.
    far.end.write(&mut peer.manners.raw, b"early");
    bench.until(&mut [&mut peer], || conn.phase() == Phase::Smc);
    assert_eq!(received.recv().unwrap(), Ok(Some(5)));
}

/// What the program asks for at that moment is not lost.
#[test]
fn options_that_are_set_meanwhile() {
    let mut bench = Bench::new(SimConfig::new());
    let mut peer = Peer::new(&bench, 1, Role::Client, Version::V2);
    when_joined(|connection| {
        connection.set_oob_inline(true);
        connection.set_nonblocking(false);
    });
    let (_far, _talk, conn) = peer.dial(&mut bench, 1);
    assert!(conn.smc().is_oob_inline() && !conn.smc().is_nonblocking());
}
