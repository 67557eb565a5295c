//! The children of this process: which of them may still have a connection that this process has
//! closed. A child that exits or is killed without closing says nothing itself.

use std::cell::Cell;
use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::sys;

/// Children that are asked about in one [`sweep`]: more than are made between two of them, in a
/// server that forks for each connection.
const SWEEP: usize = 4;

#[derive(Debug)]
struct Child {
    fork: u64,
    /// `None`: not known (yet). It counts as living.
    pid: Option<u32>,
}

#[derive(Debug)]
struct Children {
    /// The number of the next fork.
    next: u64,
    /// In the order of their forks, but for those that were looked at lately.
    living: VecDeque<Child>,
}

static CHILDREN: Mutex<Children> = Mutex::new(Children {
    next: 1,
    living: VecDeque::new(),
});

thread_local! {
    /// The fork that this thread began last.
    static BEGAN: Cell<u64> = const { Cell::new(0) };
}

/// To be called before a fork. Returns its number.
pub fn begin() -> u64 {
    let mut children = CHILDREN.lock();
    let fork = children.next;
    children.next += 1;
    children.living.push_back(Child { fork, pid: None });
    BEGAN.with(|began| began.set(fork));
    fork
}

/// To be called in the parent when fork() returned, by the thread that called it: the child, or
/// `None` if there is none.
pub fn done(pid: Option<u32>) {
    let fork = BEGAN.with(Cell::take);
    let mut children = CHILDREN.lock();
    if let Some(at) = children.living.iter().position(|child| child.fork == fork) {
        match pid {
            Some(pid) => children.living[at].pid = Some(pid),
            None => drop(children.living.remove(at)),
        }
    }
}

/// To be called in the child, where no other thread runs: it has no children.
pub(crate) fn forget() {
    if CHILDREN.is_locked() {
        // SAFETY: who held it is not in this process; the value is replaced below.
        unsafe { CHILDREN.force_unlock() };
    }
    let mut children = CHILDREN.lock();
    // The old list may have been left half changed: it is not freed.
    std::mem::forget(std::mem::take(&mut children.living));
}

/// The number of the last fork.
pub(crate) fn last() -> u64 {
    CHILDREN.lock().next - 1
}

/// Asks the kernel about some of the children, others each time.
pub(crate) fn sweep() {
    let mut children = CHILDREN.lock();
    for _ in 0..SWEEP.min(children.living.len()) {
        if let Some(child) = children.living.pop_front()
            && child.pid.is_none_or(sys::child_lives)
        {
            children.living.push_back(child);
        }
    }
}

/// Whether a child of one of these forks is, or may be, alive, as far as it was asked about.
pub(crate) fn any_living(forks: std::ops::RangeInclusive<u64>) -> bool {
    let children = CHILDREN.lock();
    children
        .living
        .iter()
        .any(|child| forks.contains(&child.fork))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn children_count_until_they_are_dead() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let fork = super::begin();
        super::sweep();
        // Not known yet.
        assert!(super::any_living(fork..=fork));
        super::done(Some(child.id()));
        super::sweep();
        assert!(super::any_living(fork..=super::last()));
        assert!(!super::any_living(fork + 1..=fork + 100));
        // A zombie holds nothing.
        child.kill().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while super::any_living(fork..=fork) {
            assert!(std::time::Instant::now() < until);
            super::sweep();
        }
        child.wait().unwrap();

        let failed = super::begin();
        super::done(None);
        assert!(!super::any_living(failed..=failed));
    }
}
