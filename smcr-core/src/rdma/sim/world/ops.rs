//! What programs and the network may do, by chance or as a fuzzer wants it.

use arbitrary::{Arbitrary, Result, Unstructured};

use super::Random;
use crate::rdma::fabric::LinkError;

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
    /// Something breaks, perhaps for a time; chance decides what.
    Fault,
    /// This breaks, or comes back, on one side.
    #[expect(missing_docs, reason = "the type's description has them")]
    Trouble { what: Trouble, side: usize },
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
}

/// What may happen to one side's port, or to its queue pairs. What does not end by itself ends when
/// everything has to arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing leaves it any more.
    Block,
    /// The end of that.
    Unblock,
    /// The port goes down.
    Down,
    /// The port comes back.
    Up,
    /// A packet is lost, and repeated.
    Lose,
    /// The queue pairs break.
    Break(LinkError),
    /// The engine ends its link group.
    EndGroup,
}

impl Trouble {
    const ALL: [Self; 9] = [
        Self::Block,
        Self::Unblock,
        Self::Down,
        Self::Up,
        Self::Lose,
        Self::Break(LinkError::Unreachable),
        Self::Break(LinkError::Refused),
        Self::Break(LinkError::Local),
        Self::EndGroup,
    ];
}

impl Arbitrary<'_> for Op {
    fn arbitrary(bytes: &mut Unstructured<'_>) -> Result<Self> {
        let kind: u8 = bytes.arbitrary()?;
        let side = usize::from(kind >> 7);
        let place = bytes.arbitrary()?;
        let mut size = || {
            // Each order of magnitude as often.
            let size: u8 = bytes.arbitrary()?;
            Ok(1 + (u32::from(size & 0x0f) << (size >> 4)))
        };
        Ok(match kind & 0x1f {
            0..8 => Self::Send {
                place,
                side,
                len: size()?,
            },
            8..16 => Self::Receive {
                place,
                side,
                len: size()?,
            },
            16 | 17 => Self::Urgent { place, side },
            18 => Self::Shutdown { place, side },
            19 => Self::Close { place, side },
            20 => Self::Abort { place, side },
            21..24 => Self::Wait { micros: size()? },
            24 | 25 => Self::Stall {
                side,
                micros: size()?,
            },
            26 | 27 => Self::Trouble {
                what: *bytes.choose(&Trouble::ALL)?,
                side,
            },
            28 => Self::Settle,
            _ => Self::Open,
        })
    }
}
