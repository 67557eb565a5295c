//! Writer and readers together, each test in a directory of its own below /dev/shm.

mod hostile;
mod lifetime;
mod limits;
mod roundtrip;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::reader::snapshot_below;
use super::{ConnInfo, Mode, ProcessStat, Publisher, Role, State};

/// A directory to be used in place of /dev/shm.
struct Base(&'static str);

impl Base {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/dev/shm/smcr-test-{}-{n}", std::process::id());
        std::fs::create_dir(&path).unwrap();
        Self(path.leak())
    }

    fn publisher(&self) -> Publisher {
        let publisher = Publisher::below(self.0);
        publisher.publish().unwrap();
        publisher
    }

    /// The only page there is.
    fn read_one(&self) -> ProcessStat {
        let snapshot = snapshot_below(self.0);
        assert_eq!(snapshot.problems, [""; 0]);
        let [process] = snapshot.processes.try_into().unwrap();
        process
    }

    /// The caller's directory.
    fn directory(&self) -> String {
        format!("{}/smcr-{}", self.0, rustix::process::geteuid().as_raw())
    }

    /// Paths of all pages.
    fn pages(&self) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(self.directory()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| !path.ends_with(".swept")).collect()
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0);
    }
}

fn address(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

fn connection() -> ConnInfo {
    ConnInfo {
        state: State::Init,
        mode: Mode::Tcp,
        role: Role::Client,
        reason: None,
        local: address("127.0.0.1:40000"),
        peer: address("127.0.0.1:6379"),
        group: 0,
    }
}
