//! A short run over seeded inputs. `SMCR_FUZZ_RUNS` sets how many, `SMCR_FUZZ_SEED` where to begin.

use crate::rdma::sim::world::Totals;
use crate::{cdc, clc, llc};

/// xorshift64*: all that is asked of it is to be the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }

    /// Noise, or one to three `known` messages with a few things done to them.
    fn input(&mut self, known: &[&[u8]], input: &mut Vec<u8>) {
        input.clear();
        if self.below(8) == 0 {
            let len = self.below(300);
            input.extend((0..len).map(|_| self.next() as u8));
            return;
        }
        for _ in 0..=self.below(3) {
            input.extend(known[self.below(known.len())]);
        }
        self.spoil(input);
    }

    /// Does up to four things to it.
    fn spoil(&mut self, input: &mut Vec<u8>) {
        for _ in 0..self.below(5) {
            let at = self.below(input.len());
            match self.below(6) {
                0 => input[at] ^= 1 << self.below(8),
                1 => input[at] = self.next() as u8,
                2 => input[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                3 => input.truncate(at + 1),
                4 => input.insert(at, self.next() as u8),
                // The length of the first message, where there is one.
                _ if input.len() > 7 => input[6] = self.next() as u8,
                _ => {}
            }
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// Calls `target` with what `next` makes, again and again.
fn run(target: fn(&[u8]), mut next: impl FnMut(&mut Random, &mut Vec<u8>)) {
    let mut random = Random(number("SMCR_FUZZ_SEED", 0x5eed).max(1));
    let mut data = Vec::new();
    for _ in 0..number("SMCR_FUZZ_RUNS", 200_000) {
        data.clear();
        next(&mut random, &mut data);
        target(&data);
    }
}

/// Operations of one byte, some of which take a message of `known` behind it, spoiled at times.
fn operations(
    random: &mut Random,
    data: &mut Vec<u8>,
    known: &[&[u8]],
    takes: fn(u8, usize) -> u8,
) {
    data.push(random.next() as u8);
    let mut message = Vec::new();
    for _ in 0..random.below(24) {
        if random.below(2) == 0 {
            message.clear();
            message.extend(known[random.below(known.len())]);
            let whole = message.len();
            if random.below(3) == 0 {
                random.spoil(&mut message);
                message.resize(whole, 0);
            }
            data.push(takes(random.next() as u8, whole));
            data.append(&mut message);
        } else {
            data.push(random.next() as u8);
        }
    }
}

#[test]
fn clc_message() {
    run(super::clc_message, |random, data| {
        random.input(clc::golden::ALL, data);
    });
}

#[test]
fn clc_handshake() {
    let mut input = Vec::new();
    run(super::clc_handshake, |random, data| {
        random.input(clc::golden::ALL, &mut input);
        data.extend((0..4).map(|_| random.next() as u8));
        data.append(&mut input);
    });
}

#[test]
fn cdc() {
    let known: Vec<&[u8]> = cdc::golden::ALL.iter().map(|bytes| &bytes[..]).collect();
    run(super::cdc, |random, data| {
        operations(random, data, &known, |op, _| op & !3);
    });
}

#[test]
fn llc_message() {
    run(super::llc_message, |random, data| {
        random.input(llc::golden::ALL, data);
    });
}

#[test]
fn llc_flow() {
    run(super::llc_flow, |random, data| {
        operations(random, data, llc::golden::ALL, |op, len| match len {
            44 => op & !7,
            88 => op & !7 | 1,
            len => (len as u8 / 4) << 3 | 2,
        });
    });
}

#[test]
fn rdma_handshake() {
    let mut input = Vec::new();
    run(super::rdma_handshake, |random, data| {
        random.input(clc::golden::ALL, &mut input);
        data.extend((0..4).map(|_| random.next() as u8));
        data.append(&mut input);
    });
}

#[test]
fn close() {
    run(super::close, |random, data| {
        let len = random.below(12);
        data.extend((0..len).map(|_| (random.next() >> 40) as u8));
    });
}

#[test]
fn rdma_ops() {
    // Each run is hundreds of operations.
    let mut random = Random(number("SMCR_FUZZ_SEED", 0x5eed).max(1));
    let mut all = Totals::default();
    for _ in 0..number("SMCR_FUZZ_RUNS", 200_000) / 2000 {
        let len = 8 + 3 * random.below(300);
        let data: Vec<u8> = (0..len).map(|_| (random.next() >> 40) as u8).collect();
        all += super::rdma_ops(&data);
    }
    println!("{all:#?}");
    assert!(all.faults > 50 && all.lost_groups > 10 && all.bytes > 500_000);
}
