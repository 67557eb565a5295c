//! Two engines over a simulated RDMA network, against queues: see `smcr_core::rdma::sim::world`.
//!
//! `SMCR_SIM_OPS` sets how many operations are made, `SMCR_SIM_SEED` the first seed: that of a
//! failure makes the same failure again as the first thing.

use smcr_core::rdma::sim::Random;
use smcr_core::rdma::sim::world::{Op, Totals, World};

/// Operations in the life of one world.
const LIFE: u64 = 1000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Makes `ops` operations in worlds of neighbouring seeds; of 10,000 operations `faults` break
/// something.
fn run(ops: u64, first_seed: u64, faults: u64) -> Totals {
    let ops = number("SMCR_SIM_OPS").map_or(ops, |all| all * ops / 1_000_000);
    let first_seed = number("SMCR_SIM_SEED").unwrap_or(first_seed);
    let mut all = Totals::default();
    for seed in first_seed..first_seed + ops.div_ceil(LIFE) {
        let mut world = World::new(seed);
        let mut random = Random::new(!seed);
        world.act(Op::Open);
        for _ in 0..LIFE {
            world.act(Op::random(&mut random, faults));
        }
        all += world.finish();
    }
    println!("{all:#?}");
    all
}

#[test]
fn streams_are_whole_while_nothing_breaks() {
    let all = run(500_000, 1, 0);
    assert_eq!((all.faults, all.lost_groups), (0, 0));
    assert!(number("SMCR_SIM_OPS").is_some() || all.bytes > 100_000_000 && all.ends > 1000);
    assert!(number("SMCR_SIM_OPS").is_some() || all.eye_catchers > 100);
}

#[test]
fn streams_are_whole_or_end_by_an_error_when_something_breaks() {
    let all = run(500_000, 1_000_000, 30);
    assert!(number("SMCR_SIM_OPS").is_some() || all.faults > 1000 && all.lost_groups > 100);
    assert!(number("SMCR_SIM_OPS").is_some() || all.eye_catchers > 100);
}

/// What was posted before the group ended may leave the adapter later. Until its queue pair is
/// gone, nobody else may write to the memory that it is read from.
#[test]
fn late_writes_do_not_carry_the_bytes_of_others() {
    let mut groups = 0;
    for seed in 0..200 {
        let mut world = World::new(seed);
        let (place, side, len) = (0, 0, 16 << 10);
        world.act(Op::Open);
        world.act(Op::Send { place, side, len });
        world.lose_packets(side);
        world.end_group(side);
        world.act(Op::Close { place, side });
        world.act(Op::Open);
        world.act(Op::Send {
            place: 1,
            side,
            len,
        });
        for _ in 0..100 {
            world.act(Op::Receive {
                place,
                side: 1,
                len: 1 << 20,
            });
            world.act(Op::Wait { micros: 1000 });
        }
        groups += world.finish().groups;
    }
    assert!(groups > 250, "the second one was there in time: {groups}");
}

/// A program sends what its peer is slow to read, and closes: it arrives all the same, and the end
/// of the stream behind it.
#[test]
fn who_closes_is_read_to_the_end_however_long_that_takes() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        let place = 0;
        world.act(Op::Open);
        for _ in 0..4 {
            let (side, len) = (0, 96 << 10);
            world.act(Op::Send { place, side, len });
            world.act(Op::Wait { micros: 1000 });
        }
        world.act(Op::Close { place, side: 0 });
        let micros = 300_000_000;
        world.act(Op::Wait { micros });
        world.act(Op::Settle);
        let all = world.finish();
        assert_eq!((all.ends, all.errors), (1, 0), "seed {seed}");
        // Less four, where the peer's has an eye catcher.
        assert!(
            all.bytes >= (32 << 10) - 4,
            "more than the smallest ring holds"
        );
    }
}

/// What is sent and read at once costs its sender one WRITE (two where the peer's ring wraps), one
/// message, and one doorbell; the reader says only now and then how far it has read.
#[test]
fn a_small_message_costs_one_write_and_one_cdc_message() {
    const MESSAGES: u64 = 2000;
    const LEN: u32 = 64;
    for seed in 1..=20 {
        let mut world = World::new(seed);
        world.act(Op::Open);
        world.act(Op::Settle);
        let before = [0, 1].map(|side| world.counts(side));
        for _ in 0..MESSAGES {
            let (place, len) = (0, LEN);
            world.act(Op::Send {
                place,
                side: 0,
                len,
            });
            // Until it has certainly come.
            world.act(Op::Wait { micros: 1000 });
            world.act(Op::Receive {
                place,
                side: 1,
                len,
            });
        }
        let [sender, reader] = [0, 1].map(|side| {
            let (now, before) = (world.counts(side), before[side]);
            [
                now.writes - before.writes,
                now.sends - before.sends,
                now.doorbells - before.doorbells,
            ]
        });
        // 64 divides the rings' sizes: nothing is cut in two, but where an eye catcher takes four
        // bytes of the peer's.
        let wraps = match world.finish().eye_catchers {
            0 => 0,
            _ => MESSAGES * u64::from(LEN) / (16 << 10) + 1,
        };
        let [writes, sends, doorbells] = sender;
        assert!(
            (MESSAGES..=MESSAGES + wraps).contains(&writes),
            "seed {seed}: {writes}"
        );
        assert_eq!([sends, doorbells], [MESSAGES; 2], "seed {seed}");
        // Half a ring of 16 KiB at least is free always, and a tenth is worth telling.
        let updates = MESSAGES * u64::from(LEN) / 1638 + 1;
        assert!(
            reader[0] == 0 && reader[1] <= updates && reader[2] == reader[1],
            "seed {seed}: {reader:?}, at most {updates}"
        );
    }
}
