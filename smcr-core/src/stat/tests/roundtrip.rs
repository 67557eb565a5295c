//! What is written is what is read.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::page::{MAX_SLOTS, decode_address, encode_address};
use super::super::{ConnInfo, Counter, Mode, Publisher, Role, Slot, State};
use super::{Base, address, connection};
use crate::Reason;

#[test]
fn process_is_described() {
    let base = Base::new();
    let publisher = base.publisher();
    assert!(publisher.is_published());
    let process = base.read_one();
    assert_eq!(process.pid, std::process::id());
    assert_eq!(process.uid, rustix::process::geteuid().as_raw());
    assert!(process.alive);
    assert_eq!(process.library, env!("CARGO_PKG_VERSION"));
    let exe = std::env::current_exe().unwrap();
    assert_eq!(process.exe, exe.file_name().unwrap().to_str().unwrap());
    assert!(process.exe.starts_with(&process.comm));
    assert!(process.command.contains(&process.exe));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    assert!(now.unwrap().as_secs() - process.opened_at < 60);
    assert!(process.connections.is_empty());
}

#[test]
fn connection_is_followed() {
    let base = Base::new();
    let publisher = base.publisher();
    let slot = publisher.add(&connection());
    assert!(slot.is_listed());
    slot.set_mode(Mode::Shm);
    slot.set_state(State::Active);
    slot.set_group(7);
    slot.set_tx(1 << 40);
    slot.set_rx(3);
    slot.set_addresses(address("[::1]:1"), address("[fe80::1%4]:2"));
    let process = base.read_one();
    let [c] = &process.connections[..] else {
        panic!("{process:?}");
    };
    assert_eq!(
        (c.state, c.mode, c.role),
        (State::Active, Mode::Shm, Role::Client)
    );
    assert_eq!((c.sent, c.received, c.group), (1 << 40, 3, 7));
    assert_eq!(c.local, address("[::1]:1"));
    assert_eq!(c.peer, address("[fe80::1%4]:2"));
    assert_eq!(c.reason, None);
    assert_eq!(process.bytes(Mode::Shm), (1 << 40, 3));

    slot.remove();
    let process = base.read_one();
    assert!(process.connections.is_empty());
    assert_eq!(process.bytes(Mode::Shm), (1 << 40, 3));
    assert_eq!(process.bytes(Mode::Rdma), (0, 0));
}

#[test]
fn fallback_is_counted_by_reason() {
    let base = Base::new();
    let publisher = base.publisher();
    for reason in Reason::ALL {
        let slot = publisher.add(&connection());
        slot.set_reason(Some(*reason));
        slot.set_state(State::Active);
        publisher.fallback(*reason);
    }
    publisher.fallback(Reason::Rule);
    publisher.count_by(Counter::PassedOn, 5);
    publisher.count(Mode::Tcp.counter());
    let process = base.read_one();
    let shown: Vec<_> = process.connections.iter().map(|c| c.reason).collect();
    assert_eq!(
        shown,
        Reason::ALL.iter().copied().map(Some).collect::<Vec<_>>()
    );
    let expected: Vec<_> = Reason::ALL
        .iter()
        .map(|r| (*r, if *r == Reason::Rule { 2 } else { 1 }))
        .collect();
    assert_eq!(process.fallbacks().collect::<Vec<_>>(), expected);
    assert_eq!(process.counter(Counter::PassedOn), 5);
    assert_eq!(process.counter(Counter::ConnectionsTcp), 1);
    assert_eq!(publisher.fallbacks(Reason::Rule), 2);
}

#[test]
fn every_slot_is_used_and_used_again() {
    let base = Base::new();
    let publisher = base.publisher();
    let slots: Vec<Slot> = (0..MAX_SLOTS)
        .map(|_| publisher.add(&connection()))
        .collect();
    assert!(slots.iter().all(Slot::is_listed));
    let one_more = publisher.add(&connection());
    assert!(!one_more.is_listed());
    one_more.set_tx(1);
    one_more.set_state(State::Active);
    one_more.remove();
    assert_eq!(publisher.counter(Counter::Unlisted), 1);
    assert_eq!(base.read_one().connections.len(), MAX_SLOTS as usize);
    for slot in &slots {
        slot.remove();
        slot.remove();
    }
    assert!(base.read_one().connections.is_empty());
    let again: Vec<Slot> = (0..MAX_SLOTS)
        .map(|_| publisher.add(&connection()))
        .collect();
    assert!(again.iter().all(Slot::is_listed));
    assert!(!publisher.add(&connection()).is_listed());
}

#[test]
fn stale_handles_change_nothing() {
    let base = Base::new();
    let publisher = base.publisher();
    let old = publisher.add(&connection());
    old.remove();
    let new = publisher.add(&connection());
    old.set_state(State::Active);
    old.set_mode(Mode::Shm);
    old.set_reason(Some(Reason::Rule));
    old.set_group(9);
    old.set_addresses(None, None);
    old.remove();
    let process = base.read_one();
    let c = &process.connections[0];
    assert_eq!(
        (c.state, c.mode, c.reason, c.group),
        (State::Init, Mode::Tcp, None, 0)
    );
    assert_eq!(c.local, connection().local);
    new.remove();
    assert!(base.read_one().connections.is_empty());
}

#[test]
fn unpublished_publisher_is_harmless() {
    let publisher = Publisher::new();
    assert!(!publisher.is_published());
    let slot = publisher.add(&connection());
    assert!(!slot.is_listed());
    slot.set_tx(1);
    slot.remove();
    publisher.count(Counter::PassedOn);
    publisher.fallback(Reason::Rule);
    publisher.after_fork().unwrap();
    publisher.close();
}

#[test]
fn addresses_survive() {
    let all = [
        "1.2.3.4:5",
        "[::ffff:1.2.3.4]:5",
        "[2001:db8::1]:65535",
        "[fe80::1%9]:0",
    ];
    for text in all {
        let a = address(text);
        assert_eq!(decode_address(encode_address(a)), a, "{text}");
    }
    assert_eq!(decode_address(encode_address(None)), None);
    assert_eq!(decode_address([1, 2, 4 << 16]), None);
    assert_eq!(decode_address([1, 2, 5 << 16]), None);
}

/// Threads add, change and remove connections whose fields all say the same number; a reader
/// never sees two numbers in one slot.
#[test]
fn readers_never_see_half_a_connection() {
    let base = Base::new();
    let publisher = base.publisher();
    let stop = AtomicBool::new(false);
    let write = |seed: u16| {
        let mut n = seed;
        while !stop.load(Ordering::Relaxed) {
            n = n.wrapping_add(2);
            let to = |n: u16| address(&format!("10.0.{}.{}:{n}", n >> 8, n & 255));
            let slot = publisher.add(&ConnInfo {
                local: to(n),
                peer: to(n),
                ..connection()
            });
            slot.set_addresses(to(n.wrapping_add(1)), to(n.wrapping_add(1)));
            slot.remove();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| write(0));
        scope.spawn(|| write(1));
        let mut seen = 0;
        let start = std::time::Instant::now();
        while seen < 200 && start.elapsed().as_secs() < 20 {
            for c in base.read_one().connections {
                let a = c.local.unwrap();
                assert_eq!(Some(a), c.peer);
                let port = a.port();
                assert_eq!(
                    a.ip().to_string(),
                    format!("10.0.{}.{}", port >> 8, port & 255)
                );
                seen += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(seen > 0);
    });
    assert!(base.read_one().connections.is_empty());
}
