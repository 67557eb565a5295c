//! Both ends at work at the same time.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{End, bytes, pair};

/// Bytes each way.
const TOTAL: u64 = 24 << 20;

/// Small numbers that look random.
struct Random(u64);

impl Random {
    fn upto(&mut self, most: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % most + 1
    }
}

fn write(end: &End, me: usize) {
    let mut random = Random(me as u64);
    let mut at = 0;
    while at < TOTAL {
        let len = random.upto(30_000).min((TOTAL - at) as usize);
        let text = bytes(me, at, len);
        let n = end.send(&text, 0).unwrap();
        assert!(n > 0);
        at += n as u64;
    }
    end.smc.shutdown(end.fd(), libc::SHUT_WR).unwrap();
}

fn read(end: &End, from: usize) {
    let mut random = Random(from as u64 + 7);
    let mut at = 0;
    let mut buf = vec![0; 30_000];
    loop {
        let len = random.upto(30_000);
        let flags = match random.upto(8) {
            1 => libc::MSG_WAITALL,
            2 => libc::MSG_PEEK,
            _ => 0,
        };
        let n = end.recv(&mut buf[..len], flags).unwrap();
        assert_eq!(buf[..n], bytes(from, at, n), "at {at}");
        if n == 0 {
            break;
        }
        if flags & libc::MSG_WAITALL != 0 {
            assert!(n == len || at + n as u64 == TOTAL);
        }
        if flags & libc::MSG_PEEK == 0 {
            at += n as u64;
        }
    }
    assert_eq!(at, TOTAL);
}

/// Two threads at each end, and one more that polls all the time: it looks at cursors that the
/// others move, and must not take that for a lie of the peer's.
#[test]
fn both_ways_under_the_eyes_of_a_third() {
    let ends = pair();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = &ends;
        let over = &over;
        let watcher = scope.spawn(move || {
            let mut looks = 0u64;
            while !over.load(Ordering::Relaxed) {
                for end in ends {
                    end.smc.readiness();
                    end.smc.fionread();
                    assert!(!end.smc.had_bad_cursor(), "after {looks} looks");
                }
                looks += 1;
            }
        });
        let workers = [0, 1].map(|me| {
            let writer = scope.spawn(move || write(&ends[me], me));
            let reader = scope.spawn(move || read(&ends[me], 1 - me));
            [writer, reader]
        });
        for worker in workers.into_iter().flatten() {
            worker.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
    });
}

/// Requests and answers, as fast as it goes: every wake-up counts.
#[test]
fn ping_pong() {
    let [a, b] = pair();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut buf = [0; 64];
            loop {
                match b.recv(&mut buf, 0).unwrap() {
                    0 => break,
                    n => assert_eq!(b.send(&buf[..n], 0), Ok(n)),
                }
            }
        });
        let mut buf = [0; 64];
        for at in 0..20_000 {
            let text = bytes(0, at, 8);
            assert_eq!(a.send(&text, 0), Ok(8));
            assert_eq!(a.recv(&mut buf, 0), Ok(8));
            assert_eq!(buf[..8], text);
        }
        a.smc.shutdown(a.fd(), libc::SHUT_WR).unwrap();
        server.join().unwrap();
    });
}

/// Several threads share one end: no byte is lost, and none comes twice.
#[test]
fn several_threads_at_one_end() {
    const EACH: usize = 3000;
    let [a, b] = pair();
    let mut counts = [0usize; 256];
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3u8)
            .map(|name| {
                let a = &a;
                scope.spawn(move || {
                    for _ in 0..EACH {
                        assert_eq!(a.send(&[name; 50], 0), Ok(50));
                    }
                })
            })
            .collect();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut counts = [0usize; 256];
                    let mut buf = [0; 777];
                    loop {
                        let n = b.recv(&mut buf, 0).unwrap();
                        if n == 0 {
                            return counts;
                        }
                        for byte in &buf[..n] {
                            counts[usize::from(*byte)] += 1;
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        a.smc.shutdown(a.fd(), libc::SHUT_WR).unwrap();
        for reader in readers {
            for (sum, count) in counts.iter_mut().zip(reader.join().unwrap()) {
                *sum += count;
            }
        }
    });
    assert_eq!(counts[..4], [EACH * 50, EACH * 50, EACH * 50, 0]);
}
