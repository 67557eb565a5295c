//! The directories that hold the pages: `/dev/shm/smcr-<uid>`, one per user.
//!
//! `/dev/shm` is open to everybody, so the directory may have been made by an enemy who wants our
//! pages, or who waits for us to write through his symbolic links. It is used only if it is a
//! real directory, owned by this user and closed to all others; within it, only plain files that
//! belong to its owner.

use std::io;
use std::mem::MaybeUninit;
use std::time::SystemTime;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, UTIME_NOW,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::identity::{Identity, is_alive};
use super::page::MAGIC;
use crate::rawfs;

/// How long the page of a dead process is kept, in seconds from the first sweep that found the
/// process dead.
pub const DEAD_KEPT_SECS: u64 = 10;

/// Where the directories are.
pub(super) const BASE: &str = "/dev/shm";

/// Shortest time between two sweeps by publishers, in seconds: a server that starts hundreds of
/// workers shall not look at each of them from each of them.
const SWEEP_INTERVAL_SECS: u64 = 1;
/// The file whose modification time is that of the last sweep by a publisher.
const SWEEP_STAMP: &str = ".swept";

/// Mode of a page file. A sweep that finds its process dead takes the write permission away and
/// sets the modification time; that is the mark from which [`DEAD_KEPT_SECS`] are counted.
const ALIVE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DEAD_MODE: Mode = Mode::RUSR;

const TO_NOW: Timestamps = {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    Timestamps {
        last_access: now,
        last_modification: now,
    }
};

/// A checked directory of one user.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: String,
    uid: u32,
}

impl Directory {
    /// Opens the caller's directory below `base`, and makes it if there is none.
    ///
    /// # Errors
    /// Those of mkdir(2) and open(2); `PermissionDenied` if what is there cannot be trusted. The
    /// message names the directory and says what to do.
    pub(super) fn create(base: &str) -> io::Result<Self> {
        let uid = geteuid().as_raw();
        let path = directory_path(base, uid);
        match rustix::fs::mkdir(&path, Mode::RWXU) {
            // Whatever the umask took away is needed.
            Ok(()) => rustix::fs::chmodat(CWD, &path, Mode::RWXU, AtFlags::empty())
                .map_err(|e| explain(e, &path))?,
            Err(Errno::EXIST) => {}
            Err(e) => return Err(explain(e, &path)),
        }
        Self::open(base, uid)
    }

    /// Opens the directory of `uid` below `base`.
    ///
    /// # Errors
    /// As [`Directory::create`]; `NotFound` if there is none.
    pub(super) fn open(base: &str, uid: u32) -> io::Result<Self> {
        let path = directory_path(base, uid);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(|e| match e {
            Errno::NOTDIR | Errno::LOOP => distrust(&path, "is not a directory"),
            e => explain(e, &path),
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| explain(e, &path))?;
        if stat.st_uid != uid {
            return Err(distrust(&path, "belongs to another user"));
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(distrust(&path, "is open to other users (mode is not 0700)"));
        }
        Ok(Self { fd, path, uid })
    }

    /// The directories of all users below `base` if the caller is root, else its own. Those that
    /// cannot be read are given as errors, those that do not exist are left out.
    pub(super) fn visible(base: &str) -> Vec<io::Result<Self>> {
        let own = geteuid().as_raw();
        let mut uids = vec![own];
        if own == 0 {
            let all = rawfs::open(base).and_then(|fd| {
                for_each_name(fd.as_fd(), |name| {
                    uids.extend(name.strip_prefix("smcr-").and_then(parse_number::<u32>));
                })
            });
            if let Err(e) = all {
                return vec![Err(explain(e, base))];
            }
            uids.sort_unstable();
            uids.dedup();
        }
        let opened = uids.into_iter().map(|uid| Self::open(base, uid));
        opened
            .filter(|dir| !matches!(dir, Err(e) if e.kind() == io::ErrorKind::NotFound))
            .collect()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// Process id and start time of every file that is named like a page.
    ///
    /// # Errors
    /// Those of getdents(2).
    pub(super) fn pages(&self) -> Result<Vec<(u32, u64)>, Errno> {
        let mut pages = Vec::new();
        // Through a new descriptor: a directory descriptor has a position.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?;
        for_each_name(fd.as_fd(), |name| pages.extend(parse_page_name(name)))?;
        Ok(pages)
    }

    /// Opens the page of a process for reading.
    ///
    /// # Errors
    /// Those of open(2); EPERM for anything but a plain file that belongs to the directory's
    /// owner and has no other name.
    pub(super) fn open_page(&self, pid: u32, start_time: u64) -> Result<(OwnedFd, Stat), Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name = page_name(pid, start_time);
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if plain && stat.st_uid == self.uid && stat.st_nlink == 1 {
            Ok((fd, stat))
        } else {
            Err(Errno::PERM)
        }
    }

    /// [`Directory::sweep`], unless another publisher did it just now.
    pub(super) fn sweep_if_due(&self, own: &Identity) {
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(stamp) = rustix::fs::openat(&self.fd, SWEEP_STAMP, flags, ALIVE_MODE) else {
            return;
        };
        let Ok(stat) = rustix::fs::fstat(&stamp) else {
            return;
        };
        if age_secs(&stat).is_none_or(|age| age >= SWEEP_INTERVAL_SECS) {
            let _ = rustix::fs::futimens(&stamp, &TO_NOW);
            self.sweep(own);
        }
    }

    /// Marks the pages of dead processes and removes those marked long enough ago.
    pub(super) fn sweep(&self, own: &Identity) {
        let Ok(pages) = self.pages() else { return };
        for (pid, start_time) in pages {
            if !is_alive(pid, start_time) {
                // A page that cannot be swept now stays for the next sweep.
                let _ = self.sweep_dead(pid, start_time, own);
            }
        }
    }

    fn sweep_dead(&self, pid: u32, start_time: u64, own: &Identity) -> Result<(), Errno> {
        let (fd, stat) = self.open_page(pid, start_time)?;
        // The number means nothing here if it was given out in another namespace (a container
        // that shares /dev/shm): its process may well live.
        if !same_namespaces(&fd, own)? {
            return Ok(());
        }
        let marked = Mode::from_raw_mode(stat.st_mode) == DEAD_MODE;
        match age_secs(&stat).filter(|_| marked) {
            Some(age) if age >= DEAD_KEPT_SECS => {
                rustix::fs::unlinkat(&self.fd, page_name(pid, start_time), AtFlags::empty())
            }
            Some(_) => Ok(()),
            None => {
                rustix::fs::futimens(&fd, &TO_NOW)?;
                rustix::fs::fchmod(&fd, DEAD_MODE)
            }
        }
    }
}

/// Marks pages of dead processes, and removes those that were marked [`DEAD_KEPT_SECS`] ago: in
/// the caller's directory, as root in those of all users.
pub fn sweep() {
    sweep_below(BASE);
}

pub(super) fn sweep_below(base: &str) {
    let Ok(own) = Identity::own() else { return };
    for directory in Directory::visible(base).into_iter().flatten() {
        directory.sweep(&own);
    }
}

/// Name of a process's page in its directory.
pub(super) fn page_name(pid: u32, start_time: u64) -> String {
    format!("{pid}-{start_time}")
}

fn parse_page_name(name: &str) -> Option<(u32, u64)> {
    let (pid, start_time) = name.split_once('-')?;
    Some((parse_number(pid)?, parse_number(start_time)?))
}

/// A number in the one way in which it is written: no sign, no leading zero.
fn parse_number<T: std::str::FromStr + std::fmt::Display>(text: &str) -> Option<T> {
    text.parse().ok().filter(|n: &T| n.to_string() == text)
}

fn directory_path(base: &str, uid: u32) -> String {
    format!("{base}/smcr-{uid}")
}

/// Whether the page was made by a process whose id and start time mean to `own` what they say.
fn same_namespaces(page: &OwnedFd, own: &Identity) -> Result<bool, Errno> {
    use super::page::Header;
    let mut head = [0; 128];
    let have = rustix::io::pread(page, &mut head, 0)?;
    let word = |offset: usize| {
        let bytes = head[..have].get(offset..offset + 8)?;
        bytes.try_into().ok().map(u64::from_ne_bytes)
    };
    if word(std::mem::offset_of!(Header, magic)) != Some(MAGIC) {
        // Never finished. A living process, in whatever namespace, takes far less than
        // DEAD_KEPT_SECS to finish its page.
        return Ok(true);
    }
    Ok(own.pid_ns != 0
        && word(std::mem::offset_of!(Header, pid_ns)) == Some(own.pid_ns)
        && word(std::mem::offset_of!(Header, time_ns)) == Some(own.time_ns))
}

/// Seconds since 1970. (By way of the C library: what rustix does instead, which is to look for the
/// vDSO itself, kills a program under valgrind.)
pub(super) fn unix_time() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}

/// Seconds since the last modification, `None` if that is in the future.
fn age_secs(stat: &Stat) -> Option<u64> {
    let now = i64::try_from(unix_time()).ok()?;
    u64::try_from(now - stat.st_mtime).ok()
}

fn for_each_name(fd: BorrowedFd<'_>, mut each: impl FnMut(&str)) -> Result<(), Errno> {
    let mut buf = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(fd, &mut buf);
    while let Some(entry) = entries.next() {
        if let Ok(name) = entry?.file_name().to_str() {
            each(name);
        }
    }
    Ok(())
}

fn explain(error: Errno, path: &str) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

fn distrust(path: &str, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{path} {why}: remove it, the library makes a new one"),
    )
}
