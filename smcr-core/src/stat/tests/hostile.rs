//! Pages written by an enemy, or half written.

use std::fs;

use rustix::io::Errno;

use super::super::page::{COUNTERS_OFFSET, Header, MAGIC, SLOT_LEN, SLOTS_OFFSET, SlotCell};
use super::super::reader::{PageError, read_page, snapshot_below};
use super::super::{Mode, ProcessStat, State};
use super::{Base, connection};
use std::mem::offset_of;

const PID: u32 = 12;
const START: u64 = 34;

fn read(bytes: &[u8]) -> Result<ProcessStat, PageError> {
    let read_at = |offset: u64, buf: &mut [u8]| {
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(buf.len());
        buf[..len].copy_from_slice(&from[..len]);
        Ok(len)
    };
    read_page(read_at, PID, START).map(|(process, _)| process)
}

fn put(page: &mut [u8], offset: usize, value: u32) {
    page[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
}

/// A real page with three connections, renamed to `PID` and `START`, without the hole at its end.
fn page() -> Vec<u8> {
    let base = Base::new();
    let publisher = base.publisher();
    for _ in 0..3 {
        let slot = publisher.add(&connection());
        slot.set_state(State::Active);
        slot.set_mode(Mode::Shm);
    }
    let mut page = fs::read(&base.pages()[0]).unwrap();
    page.truncate(SLOTS_OFFSET + 3 * SLOT_LEN);
    put(&mut page, offset_of!(Header, pid), PID);
    page[offset_of!(Header, start_time)..][..8].copy_from_slice(&START.to_ne_bytes());
    page
}

/// xorshift64*: random enough, and the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[test]
fn a_page_cut_anywhere_is_refused() {
    let page = page();
    assert_eq!(read(&page).unwrap().connections.len(), 3);
    for len in (0..page.len()).filter(|n| n % 61 == 0 || *n > SLOTS_OFFSET - 9 || *n < 256) {
        let expected = match len {
            0..8 => None,
            _ => Some(PageError::Truncated),
        };
        let got = read(&page[..len]).unwrap_err();
        assert!(expected.is_none_or(|e| e == got), "{len}: {got:?}");
    }
}

#[test]
fn each_wrong_number_in_the_header_is_refused() {
    let good = page();
    let with = |offset, value| {
        let mut page = good.clone();
        put(&mut page, offset, value);
        read(&page).unwrap_err()
    };
    assert_eq!(with(offset_of!(Header, magic), 1), PageError::NotAPage);
    assert_eq!(with(offset_of!(Header, version), 2), PageError::Version(2));
    assert_eq!(with(offset_of!(Header, pid), 1), PageError::Impostor);
    assert_eq!(with(offset_of!(Header, start_time), 1), PageError::Impostor);
    for value in [513, u32::MAX] {
        assert_eq!(with(offset_of!(Header, counters), value), PageError::Layout);
    }
    for value in [0, 2, 65537, u32::MAX] {
        assert_eq!(with(offset_of!(Header, capacity), value), PageError::Layout);
    }
    for value in [0, 64, u32::MAX] {
        assert_eq!(with(offset_of!(Header, slot_len), value), PageError::Layout);
    }
    assert_eq!(
        with(offset_of!(Header, high_water), 70000),
        PageError::Layout
    );
    assert_eq!(
        with(offset_of!(Header, high_water), 4),
        PageError::Truncated
    );
    let mut unfinished = good.clone();
    unfinished[..8].fill(0);
    assert_eq!(read(&unfinished), Err(PageError::NotReady));
    for error in [PageError::Version(9), PageError::Read(Errno::IO)] {
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn unknown_words_hide_a_slot_and_an_unknown_reason_does_not() {
    let mut page = page();
    let meta = SLOTS_OFFSET + offset_of!(SlotCell, meta);
    page[meta] = 99;
    page[meta + SLOT_LEN + 1] = 0;
    page[meta + 2 * SLOT_LEN + 3] = 255;
    let connections = read(&page).unwrap().connections;
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0].reason, None);
}

#[test]
fn a_slot_whose_writer_never_finished_is_left_out() {
    let mut page = page();
    put(&mut page, SLOTS_OFFSET + offset_of!(SlotCell, seq), 5);
    let process = read(&page).unwrap();
    assert_eq!((process.connections.len(), process.unstable), (2, 1));
}

#[test]
fn texts_are_cleaned() {
    let mut page = page();
    let comm = offset_of!(Header, comm);
    page[comm..comm + 16].copy_from_slice(b"\x1b[31m\xff\nno NUL he");
    let comm = read(&page).unwrap().comm;
    assert_eq!(comm, "\u{fffd}[31m\u{fffd}\u{fffd}no NUL he");
}

#[test]
fn random_bytes_never_panic() {
    let good = page();
    let mut random = Random(0x5eed);
    for round in 0..3000 {
        let mut page = good.clone();
        // Anywhere in what has a meaning; in every other round the magic number stays.
        for _ in 0..random.next() % 64 {
            let area = match random.next() % 3 {
                0 => 0..128,
                1 => COUNTERS_OFFSET..COUNTERS_OFFSET + 4096,
                _ => SLOTS_OFFSET..page.len(),
            };
            let at = area.start + random.next() as usize % area.len();
            page[at] = random.next() as u8;
        }
        if round % 2 == 0 {
            page[..8].copy_from_slice(&MAGIC.to_ne_bytes());
        }
        let _ = read(&page);
    }
    for len in [0, 8, 100, 8192, 70000] {
        let mut noise = vec![0; len];
        for byte in &mut noise {
            *byte = random.next() as u8;
        }
        assert!(read(&noise).is_err());
    }
}

#[test]
fn strange_files_in_the_directory_do_no_harm() {
    let base = Base::new();
    let publisher = base.publisher();
    let dir = base.directory();
    for name in [
        "readme",
        "1-2-3",
        "01-2",
        "-1",
        "1-",
        "+1-2",
        "4294967296-1",
    ] {
        fs::write(format!("{dir}/{name}"), "x").unwrap();
    }
    fs::create_dir(format!("{dir}/1-1")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        format!("{dir}/1-2"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    std::os::unix::fs::symlink("/etc/passwd", format!("{dir}/1-3")).unwrap();
    fs::write(format!("{dir}/1-4"), "not a page, but long enough").unwrap();
    fs::hard_link(&base.pages()[0], format!("{dir}/linked")).ok();
    super::super::dir::sweep_below(base.0);
    let snapshot = snapshot_below(base.0);
    assert!(snapshot.problems.len() >= 4, "{:?}", snapshot.problems);
    for name in ["1-1", "1-2", "1-3"] {
        let problem = snapshot.problems.iter().find(|p| p.contains(name));
        assert!(problem.is_some(), "{name}: {:?}", snapshot.problems);
    }
    publisher.close();
}
