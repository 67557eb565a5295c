//! The native face, against itself and against plain TCP.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use smcr_core::Reason;
use smcr_core::net::{Mode, SmcListener, SmcStream};

fn listener() -> (SmcListener, SocketAddr) {
    let listener = SmcListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Two ends on SMC: the one that connected, and the one that accepted.
fn pair() -> (SmcStream, SmcStream) {
    let (listener, addr) = listener();
    let client = SmcStream::connect(addr).unwrap();
    assert_eq!(client.mode(), Mode::Pending);
    let (server, peer) = listener.accept().unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    assert_eq!(server.peer_addr().unwrap(), peer);
    assert_eq!(client.peer_addr().unwrap(), addr);
    for stream in [&client, &server] {
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while stream.mode() == Mode::Pending && Instant::now() < until {
            thread::yield_now();
        }
        assert_eq!((stream.mode(), stream.fallback_reason()), (Mode::Shm, None));
    }
    (client, server)
}

fn poll(stream: &impl AsFd, events: PollFlags) -> PollFlags {
    let mut entry = [PollFd::new(stream, events)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut entry, Some(&now)).unwrap();
    entry[0].revents()
}

#[test]
fn much_data_both_ways() {
    let (client, server) = pair();
    let text: Vec<u8> = (0..20_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    thread::scope(|scope| {
        for stream in [&client, &server] {
            let text = &text;
            scope.spawn(move || {
                let mut stream = stream;
                stream.write_all(text).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let mut heard = Vec::new();
                let mut stream = stream;
                stream.read_to_end(&mut heard).unwrap();
                assert!(heard == *text);
            });
        }
    });
}

#[test]
fn what_was_written_early_arrives_first() {
    let (listener, addr) = listener();
    let mut client = SmcStream::connect(addr).unwrap();
    client.write_all(b"early ").unwrap();
    assert_eq!(client.mode(), Mode::Pending);
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"late").unwrap();
    drop(client);
    let mut heard = String::new();
    server.read_to_string(&mut heard).unwrap();
    assert_eq!((heard.as_str(), server.mode()), ("early late", Mode::Shm));
}

#[test]
fn peeking_and_vectors() {
    let (mut client, mut server) = pair();
    let parts = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")];
    assert_eq!(client.write_vectored(&parts).unwrap(), 5);
    let mut buf = [0; 8];
    assert_eq!(server.peek(&mut buf).unwrap(), 5);
    let (mut a, mut b) = ([0; 1], [0; 8]);
    let mut parts = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
    assert_eq!(server.read_vectored(&mut parts).unwrap(), 5);
    assert_eq!((&a, &b[..4]), (b"a", &b"bcde"[..]));
}

#[test]
fn timeouts_and_nonblocking_calls() {
    let (mut client, server) = pair();
    assert_eq!(
        client
            .set_read_timeout(Some(Duration::ZERO))
            .unwrap_err()
            .kind(),
        ErrorKind::InvalidInput
    );
    client
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let began = Instant::now();
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(began.elapsed() >= Duration::from_millis(45));
    assert!(client.read_timeout().unwrap().is_some());

    server.set_nonblocking(true).unwrap();
    let error = (&server).read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let mut sent = 0;
    let error = loop {
        match (&server).write(&[7; 10_000]) {
            Ok(n) => sent += n,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(!poll(&server, PollFlags::OUT).contains(PollFlags::OUT));
    client.read_exact(&mut vec![0; sent]).unwrap();
    assert!(poll(&server, PollFlags::OUT).contains(PollFlags::OUT));
    assert_eq!((&server).write(b"x").unwrap(), 1);
}

#[test]
fn options() {
    let (client, server) = pair();
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
        assert!(stream.nodelay().unwrap());
        stream.set_ttl(33).unwrap();
        assert_eq!(stream.ttl().unwrap(), 33);
        assert!(stream.take_error().unwrap().is_none());
    }
}

#[test]
fn clones_share_the_stream() {
    let (client, mut server) = pair();
    let clone = client.try_clone().unwrap();
    drop(client);
    (&clone).write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    server.read_exact(&mut heard).unwrap();
    drop(clone);
    assert_eq!(server.read(&mut heard).unwrap(), 0);
}

#[test]
fn unread_data_at_close_is_a_reset() {
    let (mut client, server) = pair();
    client.write_all(b"never read").unwrap();
    drop(server);
    let error = client.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(
        client.peer_addr().unwrap_err().kind(),
        ErrorKind::NotConnected
    );
}

#[test]
fn epoll_level_and_edge() {
    for edge in [false, true] {
        let (mut client, server) = pair();
        server.set_nonblocking(true).unwrap();
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        flags.set(epoll::EventFlags::ET, edge);
        epoll::add(&set, &server, epoll::EventData::new_u64(5), flags).unwrap();
        let wait = |ms: i64| {
            let mut events = Vec::with_capacity(4);
            let time = Timespec {
                tv_sec: 0,
                tv_nsec: ms * 1_000_000,
            };
            let space = rustix::buffer::spare_capacity(&mut events);
            epoll::wait(&set, space, Some(&time)).unwrap();
            events.iter().map(|event| event.flags).collect::<Vec<_>>()
        };
        for round in 0..1000u32 {
            assert!(wait(0).is_empty(), "round {round}: ready for nothing");
            let text = vec![round as u8; round as usize % 50 + 1];
            client.write_all(&text).unwrap();
            assert_eq!(wait(900).len(), 1, "round {round}, edge {edge}");
            assert_eq!(wait(0).len(), usize::from(!edge));
            let mut heard = vec![0; 64];
            let n = (&server).read(&mut heard).unwrap();
            assert_eq!(heard[..n], text);
            let error = (&server).read(&mut heard).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        drop(client);
        let last = wait(900);
        assert!(last[0].contains(epoll::EventFlags::RDHUP));
    }
}

#[test]
fn threads_wait_for_each_other() {
    let (mut client, mut server) = pair();
    let echo = thread::spawn(move || {
        let mut buf = [0; 100];
        loop {
            match server.read(&mut buf).unwrap() {
                0 => return,
                n => server.write_all(&buf[..n]).unwrap(),
            }
        }
    });
    for round in 0..5000u32 {
        let text = round.to_ne_bytes();
        client.write_all(&text).unwrap();
        let mut heard = [0; 4];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(heard, text);
    }
    drop(client);
    echo.join().unwrap();
}

#[test]
fn plain_tcp_at_the_other_end() {
    let (listener, addr) = listener();
    let mut plain = TcpStream::connect(addr).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(server.mode(), Mode::Tcp);
    assert_eq!(server.fallback_reason(), Some(Reason::PeerNoSmc));
    server.write_all(b"hello").unwrap();
    plain.read_exact(&mut [0; 5]).unwrap();
    drop(plain);
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);

    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = SmcStream::connect(plain.local_addr().unwrap()).unwrap();
    assert_eq!(client.mode(), Mode::Tcp);
    assert_eq!(client.fallback_reason(), Some(Reason::PeerNoSmc));
    let (mut server, _) = plain.accept().unwrap();
    server.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(client.local_addr().unwrap(), server.peer_addr().unwrap());
}

#[test]
fn a_descriptor_that_was_asked_for_keeps_its_meaning() {
    let (listener, addr) = listener();
    let mut client = SmcStream::connect(addr).unwrap();
    client.set_nonblocking(true).unwrap();
    // Nobody accepts: the stream settles for TCP rather than change its descriptor later.
    assert!(poll(&client, PollFlags::OUT).contains(PollFlags::OUT));
    assert_eq!(client.mode(), Mode::Tcp);
    assert_eq!(client.fallback_reason(), Some(Reason::NoAnswer));
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::WouldBlock,
        "O_NONBLOCK was forgotten"
    );
    client.write_all(b"x").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.read_exact(&mut [0; 1]).unwrap();
    assert_eq!(server.mode(), Mode::Tcp);
}

#[test]
fn a_reader_wakes_up_when_the_stream_stays_on_tcp() {
    let (listener, addr) = listener();
    let client = SmcStream::connect(addr).unwrap();
    let (done, waits) = mpsc::channel();
    let reader = client.try_clone().unwrap();
    thread::spawn(move || {
        let mut buf = [0; 5];
        let read = (&reader).read_exact(&mut buf);
        done.send(read.map(|()| buf)).unwrap();
    });
    thread::sleep(Duration::from_millis(20));
    // Too much for a connection that nobody accepts.
    (&client).write_all(&[0; 100_000]).unwrap();
    assert_eq!(client.mode(), Mode::Tcp);
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"hello").unwrap();
    let heard = waits.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(&heard.unwrap(), b"hello");
}

#[test]
fn refused_and_impossible_addresses() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = gone.local_addr().unwrap();
    drop(gone);
    let refused = |result: io::Result<SmcStream>| result.unwrap_err().kind();
    assert_eq!(
        refused(SmcStream::connect(addr)),
        ErrorKind::ConnectionRefused
    );
    let timeout = Duration::from_secs(1);
    let result = SmcStream::connect_timeout(&addr, timeout);
    assert_eq!(refused(result), ErrorKind::ConnectionRefused);
    let none: &[SocketAddr] = &[];
    assert_eq!(refused(SmcStream::connect(none)), ErrorKind::InvalidInput);
    let (listener, addr) = listener();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let client = SmcStream::connect_timeout(&addr, timeout).unwrap();
    let (server, _) = listener.accept().unwrap();
    assert_eq!(server.mode(), Mode::Shm);
    drop(client);
}

#[test]
fn connections_leave_nothing_behind() {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let round = || {
        let (mut client, mut server) = pair();
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0; 1]).unwrap();
    };
    // Other tests of this process open and close at the same time: look for a trend.
    (0..20).for_each(|_| round());
    let before = count();
    (0..300).for_each(|_| round());
    assert!(count() < before + 150, "{before} -> {}", count());
}

#[test]
fn sleeps_and_doorbells_are_counted() {
    use smcr_core::engine::PUBLISHER;
    use smcr_core::stat::Counter;
    let count = |counter| PUBLISHER.counter(counter);
    let (mut client, mut server) = pair();
    let before = (count(Counter::Sleeps), count(Counter::Doorbells));
    thread::scope(|scope| {
        scope.spawn(|| server.read_exact(&mut [0; 4]).unwrap());
        thread::sleep(Duration::from_millis(100));
        client.write_all(b"ring").unwrap();
    });
    assert!(count(Counter::Sleeps) > before.0);
    assert!(count(Counter::Doorbells) > before.1);
}
