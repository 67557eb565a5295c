//! A short run over seeded inputs. `SMCR_FUZZ_RUNS` sets how many, `SMCR_FUZZ_SEED` where to begin.

use crate::clc::golden;

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

    /// Noise, or one to three known messages with a few things done to them.
    fn input(&mut self, input: &mut Vec<u8>) {
        input.clear();
        if self.below(8) == 0 {
            let len = self.below(300);
            input.extend((0..len).map(|_| self.next() as u8));
            return;
        }
        for _ in 0..=self.below(3) {
            input.extend(golden::ALL[self.below(golden::ALL.len())]);
        }
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

/// Calls `target` with `prefix` seeded bytes before each input.
fn run(prefix: usize, target: fn(&[u8])) {
    let mut random = Random(number("SMCR_FUZZ_SEED", 0x5eed).max(1));
    let (mut input, mut data) = (Vec::new(), Vec::new());
    for _ in 0..number("SMCR_FUZZ_RUNS", 200_000) {
        random.input(&mut input);
        data.clear();
        data.extend((0..prefix).map(|_| random.next() as u8));
        data.extend_from_slice(&input);
        target(&data);
    }
}

#[test]
fn clc_message() {
    run(0, super::clc_message);
}

#[test]
fn clc_handshake() {
    run(4, super::clc_handshake);
}

#[test]
fn rdma_handshake() {
    run(4, super::rdma_handshake);
}
