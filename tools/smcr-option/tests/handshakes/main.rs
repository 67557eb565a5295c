//! What both ends of a TCP handshake learn of each other, case by case, with the programs loaded
//! into this machine's kernel; and the loader itself.
//!
//! Needs root. Everything happens in namespaces and a cgroup of the tests' own.

mod attaching;
mod faults;
mod net;
mod packet;
mod requests;
mod sockets;
mod verdicts;

use std::path::PathBuf;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use smcr_option::{Cgroup, Error};

/// The cgroup of these tests, and where this process was before.
struct Home {
    before: PathBuf,
    cgroup: PathBuf,
}

impl Home {
    fn make() -> Result<Self, Error> {
        let root = Cgroup::root()?.path().to_owned();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let line = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let before = root.join(line.unwrap_or_default());
        let cgroup = before.join(format!("smcr-option-test-{}", std::process::id()));
        std::fs::create_dir(&cgroup).map_err(|e| Error::Open(cgroup.clone(), e))?;
        Ok(Self { before, cgroup })
    }

    fn enter(&self, cgroup: &std::path::Path) {
        std::fs::write(cgroup.join("cgroup.procs"), "0").expect("cannot change the cgroup");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.enter(&self.before);
        // Programs go with the cgroup. It is busy for a moment after we left.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.cgroup).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        eprintln!("{} is left over", self.cgroup.display());
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share the cgroup, and some attach and detach.
    arguments.test_threads = Some(1);
    let home = match Home::make().and_then(|home| {
        let cgroup = Cgroup::open(&home.cgroup)?;
        cgroup.attach(true).map(|_| (home, cgroup))
    }) {
        Ok((home, _)) => home,
        Err(error) => {
            eprintln!("SKIPPED, nothing of this was tested: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let outside = sockets::Outside::make();
    home.enter(&home.cgroup);
    let mut trials = verdicts::trials(outside);
    trials.extend(requests::trials());
    trials.extend(faults::trials());
    trials.extend(attaching::trials(&home.cgroup));
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(home);
    conclusion.exit_code()
}

/// A test by its function.
fn trial(name: &str, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, || {
        test();
        Ok(())
    })
}
