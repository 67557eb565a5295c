//! Tests in which everything goes well.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::end::{End, Numbers, Outcome, RMB, Result, Side};

/// Messages under way at a time, each with a part of the memory.
const WINDOW: u64 = 8;
const PART: usize = 8192;

/// What a message of the pattern test says.
#[derive(Debug)]
struct Note {
    /// It announces data; else it only acknowledges.
    has_data: bool,
    /// Its number among those with data.
    number: u64,
    /// So many of the other end's were good.
    good: u64,
}

impl Note {
    fn to_bytes(&self) -> [u8; 44] {
        let mut bytes = [0; 44];
        bytes[0] = u8::from(self.has_data);
        bytes[8..16].copy_from_slice(&self.number.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.good.to_be_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() != 44 {
            return Err(format!("a message of {} bytes", bytes.len()).into());
        }
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(number)
        };
        Ok(Self {
            has_data: bytes[0] == 1,
            number: number(8),
            good: number(16),
        })
    }
}

/// The pieces of one message: where and what. None overlap.
fn pieces(seed: u64, side: Side, number: u64) -> Vec<(usize, Vec<u8>)> {
    let mut numbers = Numbers::new(seed ^ number << 8 ^ (side as u64) << 60);
    let part = (number % WINDOW) as usize * PART;
    let quarter = PART / 4;
    (0..numbers.below(5))
        .map(|piece| {
            let start = numbers.below(quarter);
            // Short ones go inline, others do not.
            let longest = if numbers.below(2) == 0 { 64 } else { quarter };
            let len = 1 + numbers.below(longest.min(quarter - start));
            let bytes = (0..len).map(|_| numbers.next() as u8).collect();
            (part + piece * quarter + start, bytes)
        })
        .collect()
}

/// Both ends send `count` messages with random WRITEs before each, and check the other's.
pub(crate) fn pattern(end: &mut End, seed: u64, count: u64) -> Outcome {
    let (own, other) = match end.side {
        Side::Server => (Side::Server, Side::Client),
        Side::Client => (Side::Client, Side::Server),
    };
    let (mut next, mut good, mut told, mut acknowledged) = (0, 0, 0, 0);
    let mut progress = Instant::now();
    while [next, acknowledged, good, told, end.sent]
        .iter()
        .any(|&done| done < count)
    {
        let found = end.poll();
        end.check()?;
        while let Some(message) = end.inbox.pop_front() {
            let note = Note::parse(&message)?;
            acknowledged = acknowledged.max(note.good);
            if !note.has_data {
                continue;
            }
            if note.number != good {
                return Err(format!("message {} in place of {good}", note.number).into());
            }
            for (offset, bytes) in pieces(seed, other, good) {
                if end.rmb.read(offset, bytes.len()) != bytes {
                    return Err(format!("message {good}: wrong bytes at {offset}").into());
                }
            }
            good += 1;
        }
        // Ids say how many with data have been posted.
        let window = acknowledged.min(end.sent) + WINDOW;
        if next < count && next < window && end.link.room() >= 5 {
            let mut writes = Vec::new();
            for (offset, bytes) in pieces(seed, own, next) {
                end.source.write(offset, &bytes);
                writes.push(end.write(offset, bytes.len()));
            }
            let note = Note {
                has_data: true,
                number: next,
                good,
            };
            next += 1;
            let signal = next % 4 == 0 || next == count;
            end.post(&writes, &note.to_bytes(), next, signal)?;
            told = good;
        } else if told < good && (good - told >= WINDOW / 2 || found == 0) && end.link.room() > 0 {
            let note = Note {
                has_data: false,
                number: 0,
                good,
            };
            end.post(&[], &note.to_bytes(), next, false)?;
            told = good;
        } else if found == 0 {
            std::hint::spin_loop();
            if progress.elapsed() > Duration::from_secs(20) {
                return Err(format!(
                    "stuck: {next} sent, {acknowledged} acknowledged, {good} good"
                )
                .into());
            }
            continue;
        }
        progress = Instant::now();
    }
    let counts = end.port.counts();
    if counts.sends != counts.doorbells || counts.sends < count {
        return Err(format!("counted {counts:?}").into());
    }
    Ok(())
}

/// Fills the send queue without looking at completions, then empties it.
pub(crate) fn full(end: &mut End, count: u64) -> Outcome {
    let mut id = 0;
    for _ in 0..count {
        if end.side == Side::Server {
            loop {
                let message = end.receive()?;
                if message[0] == 1 {
                    break;
                }
            }
            end.post(&[], &[0; 44], 0, true)?;
            continue;
        }
        let mut posted = 0;
        loop {
            match end.post(&[end.write(0, 100)], &[0; 44], id + 1, false) {
                Ok(()) => (id, posted) = (id + 1, posted + 1),
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if posted < 8 || end.link.room() >= 2 {
            return Err(format!("{posted} posts, room for {}", end.link.room()).into());
        }
        let begun = Instant::now();
        while end.link.room() < 2 {
            end.poll();
            end.check()?;
            if begun.elapsed() > Duration::from_secs(20) {
                return Err("the queue stays full".into());
            }
            std::hint::spin_loop();
        }
        id += 1;
        end.post(&[], &[1; 44], id, true)?;
        end.receive()?;
        while end.sent < id {
            end.poll();
            end.check()?;
        }
        if end.link.room() != 128 {
            return Err(format!("all is done, but room only for {}", end.link.room()).into());
        }
    }
    Ok(())
}

/// A ping-pong in which each end sleeps until its turn comes.
pub(crate) fn sleep(end: &mut End, rounds: u64) -> Outcome {
    let limit = Duration::from_secs(5);
    let mut slept = 0;
    for round in 0..rounds {
        if end.side == Side::Client {
            end.post(&[], &[7; 44], round, false)?;
        }
        while end.inbox.is_empty() {
            if !end.sleep(limit) && end.inbox.is_empty() {
                return Err(format!("round {round}: not woken for 5 s").into());
            }
            end.check()?;
            slept += 1;
        }
        end.inbox.pop_front();
        if end.side == Side::Server {
            end.post(&[], &[7; 44], round, false)?;
        }
    }
    if end.side == Side::Client {
        println!("sleep: {rounds} rounds, {slept} times asleep");
    }
    // One for the message, and some for completions of our own.
    if slept > rounds * 4 {
        return Err(format!("woken {slept} times in {rounds} rounds").into());
    }
    Ok(())
}

/// A ping-pong of one WRITE and its message.
pub(crate) fn latency(end: &mut End, count: u64, size: usize) -> Outcome {
    let write = end.write(0, size);
    let mut times = Vec::with_capacity(count as usize);
    for round in 0..count {
        let begun = Instant::now();
        if end.side == Side::Client {
            end.post(&[write], &[7; 44], round, false)?;
        }
        end.receive()?;
        if end.side == Side::Server {
            end.post(&[write], &[7; 44], round, false)?;
        }
        times.push(begun.elapsed());
    }
    if end.side == Side::Client {
        times.sort();
        let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 5e5;
        println!(
            "latency: {size} bytes and a message, one way: median {:.1} us, 99 % {:.1} us",
            at(0.5),
            at(0.99)
        );
    }
    Ok(())
}

/// One-way: the client WRITEs, the server acknowledges every few messages.
pub(crate) fn throughput(end: &mut End, mib: usize, size: usize) -> Outcome {
    let parts = (RMB / size).min(32);
    let count = ((mib << 20) / size) as u64;
    let every = (parts as u64 / 4).max(1);
    let begun = Instant::now();
    if end.side == Side::Server {
        for number in 1..=count {
            end.receive()?;
            if number % every == 0 || number == count {
                let mut note = [0; 44];
                note[..8].copy_from_slice(&number.to_be_bytes());
                end.post(&[], &note, number, false)?;
            }
        }
        return Ok(());
    }
    let mut acknowledged = 0;
    let mut next = 0;
    while acknowledged < count {
        if next < count && next < acknowledged + parts as u64 && end.link.room() >= 2 {
            let write = end.write(next as usize % parts * size, size);
            next += 1;
            end.post(&[write], &[7; 44], next, false)?;
            end.poll();
        } else {
            let note = end.receive()?;
            let mut number = [0; 8];
            number.copy_from_slice(&note[..8]);
            acknowledged = u64::from_be_bytes(number);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = count as f64 * size as f64;
    println!(
        "throughput: WRITEs of {size} bytes with messages: {:.1} MB/s",
        bytes / seconds / 1e6
    );
    Ok(())
}

/// Messages of all lengths up to the receive buffers'.
pub(crate) fn long(end: &mut End, count: u64) -> Outcome {
    let mut numbers = Numbers::new(count);
    for round in 0..count {
        let len = match round % 8 {
            0 => 8192,
            1 => 1,
            2 => 64,
            3 => 65,
            _ => 1 + numbers.below(8192),
        };
        let bytes: Vec<u8> = (0..len).map(|_| numbers.next() as u8).collect();
        if end.side == Side::Client {
            loop {
                match end.post(&[], &bytes, round, false) {
                    // All long buffers are in use.
                    Err(Errno::AGAIN) => end.poll(),
                    other => break other?,
                };
                end.check()?;
            }
            // Let several be under way, and their buffers overlap if they can.
            if round % 16 == 15 || round + 1 == count {
                end.receive()?;
            }
        } else {
            let message = end.receive()?;
            if message != bytes {
                return Err(format!("message {round} of {len} bytes is wrong").into());
            }
            if round % 16 == 15 || round + 1 == count {
                end.post(&[], &[7; 44], round, true)?;
            }
        }
    }
    match end.post(&[], &[0; 8193], count, true) {
        Err(Errno::MSGSIZE) => Ok(()),
        other => Err(format!("a message of 8193 bytes: {other:?}").into()),
    }
}

/// A short [`pattern`], to see that the link still works.
pub(crate) fn pattern_after(end: &mut End) -> Outcome {
    end.sent = 0;
    pattern(end, 99, 50)
}
