//! What programs and the network may do, by chance or as a fuzzer wants it.

use super::Random;

/// One operation. `place` names a connection modulo how many there are; `side` is 0 or 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A new connection; a new link group before it, if there is none.
    Open,
    /// One end sends, without waiting.
    #[expect(missing_docs, reason = "the type's description has them")]
    Send { place: u8, side: usize, len: u32 },
    /// One end receives, without waiting.
    #[expect(missing_docs, reason = "the type's description has them")]
    Receive { place: u8, side: usize, len: u32 },
    /// One end sends an urgent byte.
    #[expect(missing_docs, reason = "the type's description has them")]
    Urgent { place: u8, side: usize },
    /// One end will send no more.
    #[expect(missing_docs, reason = "the type's description has them")]
    Shutdown { place: u8, side: usize },
    /// One end closes.
    #[expect(missing_docs, reason = "the type's description has them")]
    Close { place: u8, side: usize },
    /// One end resets.
    #[expect(missing_docs, reason = "the type's description has them")]
    Abort { place: u8, side: usize },
    /// Nobody does anything for so long.
    #[expect(missing_docs, reason = "the type's description has them")]
    Wait { micros: u32 },
    /// Something breaks, perhaps for a time.
    Fault,
    /// One engine does not poll for so long.
    #[expect(missing_docs, reason = "the type's description has them")]
    Stall { side: usize, micros: u32 },
    /// Everything has to arrive.
    Settle,
}

impl Op {
    /// Mostly data; once in a while something that ends a connection; `faults` of 10,000 break
    /// something.
    pub fn random(random: &mut Random, faults: u64) -> Self {
        let place = random.next() as u8;
        let side = random.index(2);
        if random.below(10_000) < faults {
            return Self::Fault;
        }
        // From a byte to more than the rings hold, each order of magnitude as often.
        let len = 1 + random.next() as u32 % (1 << (1 + random.below(17)));
        match random.below(1000) {
            0..400 => Self::Send { place, side, len },
            400..880 => Self::Receive { place, side, len },
            880..900 => Self::Urgent { place, side },
            900..905 => Self::Shutdown { place, side },
            905..913 => Self::Close { place, side },
            913..916 => Self::Abort { place, side },
            916..946 => Self::Open,
            946..990 => Self::Wait { micros: len % 300 },
            990..998 => Self::Stall {
                side,
                micros: len % 20_000,
            },
            _ => Self::Settle,
        }
    }

    /// The operation that three bytes of a fuzzer's input stand for.
    pub fn from_bytes([kind, place, size]: [u8; 3]) -> Self {
        let side = usize::from(kind >> 7);
        let len = 1 + (u32::from(size & 0x0f) << (size >> 4));
        match kind & 0x0f {
            0..4 => Self::Send { place, side, len },
            4..8 => Self::Receive { place, side, len },
            8 => Self::Urgent { place, side },
            9 => Self::Shutdown { place, side },
            10 => Self::Close { place, side },
            11 => Self::Abort { place, side },
            12 => Self::Wait { micros: len },
            13 => Self::Stall { side, micros: len },
            14 => Self::Fault,
            _ if size == 0 => Self::Settle,
            _ => Self::Open,
        }
    }
}
