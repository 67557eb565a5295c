//! Forks, deaths, sweeps, and directories that cannot be trusted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::super::dir::{Directory, sweep_below};
use super::super::identity::Identity;
use super::super::reader::snapshot_below;
use super::super::{Counter, DEAD_KEPT_SECS, Mode, Publisher, State};
use super::{Base, connection};

/// Runs `child` in a forked process, which ends as it returns, and gives its process id and
/// whether it returned true. A zombie is left until `after` has run.
pub(super) fn fork(child: impl FnOnce() -> bool, after: impl FnOnce(u32)) -> bool {
    // SAFETY: the child makes system calls and uses malloc, which glibc keeps usable, and then
    // ends without running any of the parent's destructors.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(false);
        // SAFETY: ends the process.
        unsafe { libc::_exit(if ok { 0 } else { 1 }) };
    }
    assert!(pid > 0);
    let mut status = 0;
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::uninit();
    let flags = libc::WEXITED | libc::WNOWAIT;
    // SAFETY: waits for the child made above, `info` is written by the call.
    unsafe { libc::waitid(libc::P_PID, pid as u32, info.as_mut_ptr(), flags) };
    after(pid as u32);
    // SAFETY: as above.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    status == 0
}

#[test]
fn close_removes_the_file_and_nothing_else() {
    let base = Base::new();
    let publisher = base.publisher();
    let slot = publisher.add(&connection());
    assert_eq!(base.pages().len(), 1);
    let mode = fs::metadata(base.directory()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    publisher.close();
    publisher.close();
    assert!(base.pages().is_empty());
    slot.set_state(State::Active);
    slot.remove();
    assert!(publisher.add(&connection()).is_listed());
}

#[test]
fn the_next_program_of_a_process_replaces_the_page() {
    let base = Base::new();
    let first = base.publisher();
    first.add(&connection());
    let second = base.publisher();
    assert!(second.is_published());
    assert!(base.read_one().connections.is_empty());
}

#[test]
fn child_leaves_the_parents_page_alone() {
    let base = Base::new();
    let publisher = base.publisher();
    let gone = publisher.add(&connection());
    let slot = publisher.add(&connection());
    slot.set_state(State::Active);
    slot.set_mode(Mode::Shm);
    slot.set_tx(100);
    gone.remove();
    publisher.count(Counter::PassedOn);
    let child = || {
        publisher.after_fork().unwrap();
        slot.set_tx(130);
        slot.set_state(State::Closed);
        publisher.count(Counter::Sleeps);
        let fresh = publisher.add(&connection());
        let all = snapshot_below(base.0).processes;
        let own = all.iter().find(|p| p.pid == std::process::id()).unwrap();
        assert_eq!(own.connections.len(), 2);
        assert_eq!(own.counter(Counter::PassedOn), 0);
        assert_eq!(own.bytes(Mode::Shm), (30, 0));
        fresh.remove();
        slot.remove();
        let all = snapshot_below(base.0).processes;
        let own = all.iter().find(|p| p.pid == std::process::id()).unwrap();
        assert_eq!(own.bytes(Mode::Shm), (30, 0));
        publisher.close();
        true
    };
    assert!(fork(child, |_| {}));
    let process = base.read_one();
    assert_eq!(process.pid, std::process::id());
    let [c] = &process.connections[..] else {
        panic!("{process:?}");
    };
    assert_eq!((c.sent, c.state), (100, State::Active));
    assert_eq!(process.counter(Counter::PassedOn), 1);
    assert_eq!(process.counter(Counter::Sleeps), 0);
}

#[test]
fn a_child_that_cannot_publish_writes_where_nobody_reads() {
    let base = Base::new();
    let publisher = base.publisher();
    let slot = publisher.add(&connection());
    slot.set_tx(5);
    let hidden = format!("{}/hidden", base.0);
    fs::rename(base.directory(), &hidden).unwrap();
    fs::write(base.directory(), "in the way").unwrap();
    let child = || {
        assert!(publisher.after_fork().is_err());
        assert!(!publisher.is_published());
        slot.set_tx(6);
        slot.remove();
        publisher.add(&connection()).remove();
        publisher.close();
        true
    };
    assert!(fork(child, |_| {}));
    fs::remove_file(base.directory()).unwrap();
    fs::rename(&hidden, base.directory()).unwrap();
    assert_eq!(base.read_one().connections[0].sent, 5);
}

#[test]
fn close_in_a_child_that_did_not_look_after_itself_keeps_the_file() {
    let base = Base::new();
    let publisher = base.publisher();
    let child = || {
        publisher.close();
        true
    };
    assert!(fork(child, |_| {}));
    assert_eq!(base.pages().len(), 1);
}

#[test]
fn a_child_may_open_its_own_publisher() {
    let base = Base::new();
    let publisher = base.publisher();
    publisher.add(&connection());
    let child = || {
        let own = base.publisher();
        let pages = base.pages().len();
        own.close();
        pages == 2
    };
    assert!(fork(child, |_| {}));
    assert_eq!(base.read_one().connections.len(), 1);
}

#[test]
fn a_killed_process_stays_readable_for_a_while() {
    let base = Base::new();
    let child = || {
        let publisher = base.publisher();
        publisher.add(&connection()).set_tx(77);
        // SAFETY: plain system calls.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        true
    };
    let check = |pid| {
        let process = base.read_one();
        assert_eq!((process.pid, process.alive), (pid, false));
        assert_eq!(process.connections[0].sent, 77);
    };
    assert!(!fork(child, check));
    // The first sweep finds it dead, and so does the second; only the third comes late enough.
    base.publisher();
    sweep_below(base.0);
    sweep_below(base.0);
    assert_eq!(base.pages().len(), 2);
    assert_eq!(
        snapshot_below(base.0)
            .processes
            .iter()
            .filter(|p| p.alive)
            .count(),
        1
    );
    let age = |path: &Path, secs| {
        let to = SystemTime::now() - Duration::from_secs(secs);
        fs::File::open(path).unwrap().set_modified(to).unwrap();
    };
    for page in base.pages() {
        age(&page, DEAD_KEPT_SECS - 2);
    }
    sweep_below(base.0);
    assert_eq!(base.pages().len(), 2);
    for page in base.pages() {
        age(&page, DEAD_KEPT_SECS + 1);
    }
    // Any process that publishes sweeps.
    age(&Path::new(&base.directory()).join(".swept"), 5);
    base.publisher().close();
    assert!(
        base.pages().is_empty(),
        "the dead one swept, the own one replaced and closed"
    );
}

#[test]
fn a_process_of_another_namespace_is_never_swept() {
    let base = Base::new();
    let publisher = base.publisher();
    let [page] = base.pages().try_into().unwrap();
    let own = Identity::own().unwrap();
    // The same page under the number of a process that does not exist here.
    publisher.close();
    assert!(!page.exists());
    let foreign = Identity {
        pid: 4_194_305,
        pid_ns: own.pid_ns + 1,
        ..own
    };
    let directory = Directory::create(base.0).unwrap();
    super::super::mapping::Mapping::create(&directory, &foreign, 10)
        .unwrap()
        .finish();
    sweep_below(base.0);
    let [page] = base.pages().try_into().unwrap();
    assert_eq!(
        fs::metadata(page).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(base.read_one().alive);
}

#[test]
fn untrusted_directories_are_refused() {
    let refused = |base: &Base, word: &str| {
        let publisher = Publisher::below(base.0);
        let error = publisher.publish().unwrap_err().to_string();
        assert!(
            error.contains(word) && error.contains(&base.directory()),
            "{error}"
        );
        assert!(!publisher.is_published());
        assert!(!publisher.add(&connection()).is_listed());
    };
    let base = Base::new();
    let elsewhere = format!("{}/elsewhere", base.0);
    fs::create_dir(&elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&elsewhere, base.directory()).unwrap();
    refused(&base, "is not a directory");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert_eq!(snapshot_below(base.0).problems.len(), 1);

    let base = Base::new();
    fs::write(base.directory(), "").unwrap();
    refused(&base, "is not a directory");

    let base = Base::new();
    fs::create_dir(base.directory()).unwrap();
    fs::set_permissions(base.directory(), fs::Permissions::from_mode(0o770)).unwrap();
    refused(&base, "open to other users");

    if rustix::process::geteuid().is_root() {
        let base = Base::new();
        fs::create_dir(base.directory()).unwrap();
        fs::set_permissions(base.directory(), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(base.directory(), Some(1), None).unwrap();
        refused(&base, "belongs to another user");
    }
}

#[test]
fn no_descriptor_is_kept() {
    let base = Base::new();
    let publisher = base.publisher();
    publisher.add(&connection());
    // Other tests run in other threads, so look at the targets, not at the number.
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    assert_eq!(targets.filter(|t| t.starts_with(base.0)).count(), 0);
}
