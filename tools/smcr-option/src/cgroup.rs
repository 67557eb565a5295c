//! Attaching the programs to a cgroup, finding them there, and taking them away.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::bpf::{self, Loaded};
use crate::error::Error;
use crate::programs::{self, Hook, Maps};

/// A directory of the cgroup v2 file system.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    dir: File,
}

/// What is attached to a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What that means for its processes.
    pub state: State,
    /// Our programs that run for it.
    pub programs: Vec<Attached>,
    /// Names of the sock_ops programs of others that run for it.
    pub others: Vec<String>,
}

/// Whether sockets of a cgroup can signal SMC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing of ours is attached.
    Detached,
    /// All programs are attached.
    Attached,
    /// All programs are attached to a cgroup above.
    Inherited,
    /// Some are missing, doubled, or do not belong together: something went wrong half-way.
    Broken,
}

/// A program of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Where.
    pub hook: Hook,
    /// Whether it is attached to a cgroup above.
    pub inherited: bool,
    /// What the kernel says of it.
    pub loaded: Loaded,
}

/// What [`Cgroup::attach`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Attached the programs.
    Attached,
    /// Attached them in the place of incomplete ones, or those of another version.
    Replaced,
    /// Nothing: they were attached.
    Already,
    /// Nothing: they are attached to a cgroup above.
    Inherited,
}

impl State {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::Attached => "attached",
            Self::Inherited => "inherited",
            Self::Broken => "broken",
        }
    }

    /// Whether sockets can signal SMC.
    pub const fn is_in_effect(self) -> bool {
        matches!(self, Self::Attached | Self::Inherited)
    }
}

impl Cgroup {
    /// The root of the hierarchy: all processes of the machine, or, in a container, of that.
    ///
    /// # Errors
    /// If no cgroup v2 file system is mounted.
    pub fn root() -> Result<Self, Error> {
        let table = Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(table).map_err(|e| Error::Open(table.into(), e))?;
        let path = mount_point(&text).ok_or(Error::NoCgroup2)?;
        Self::open(&path)
    }

    /// A cgroup by its directory.
    ///
    /// # Errors
    /// If it cannot be opened, or is none.
    pub fn open(path: &Path) -> Result<Self, Error> {
        const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
        let dir = File::open(path).map_err(|e| Error::Open(path.into(), e))?;
        let mut fs = std::mem::MaybeUninit::<libc::statfs>::uninit();
        // SAFETY: an open descriptor, and room for the result.
        let failed = unsafe { libc::fstatfs(dir.as_raw_fd(), fs.as_mut_ptr()) } != 0;
        // SAFETY: filled in by the call above, if that did not fail.
        if failed || unsafe { fs.assume_init() }.f_type as u64 != CGROUP2_SUPER_MAGIC {
            return Err(Error::NotACgroup(path.into()));
        }
        let is_dir = dir.metadata().is_ok_and(|data| data.is_dir());
        if !is_dir {
            return Err(Error::NotACgroup(path.into()));
        }
        let path = path.to_owned();
        Ok(Self { path, dir })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is attached.
    ///
    /// # Errors
    /// If the kernel does not let us look.
    pub fn status(&self) -> Result<Status, Error> {
        let mut programs = Vec::new();
        let mut others = Vec::new();
        for hook in Hook::ALL {
            let own = self.ids(hook, false)?;
            for id in self.ids(hook, true)? {
                let Some((_, loaded)) = look(id)? else {
                    continue;
                };
                let inherited = !own.contains(&id);
                if loaded.name == hook.program() {
                    programs.push(Attached {
                        hook,
                        inherited,
                        loaded,
                    });
                } else if hook == Hook::SockOps {
                    others.push(loaded.name);
                }
            }
        }
        let state = judge(&programs);
        Ok(Status {
            state,
            programs,
            others,
        })
    }

    /// Attaches the programs, unless they are. They stay until they are detached, or the cgroup is
    /// removed. Without `with_others` not beside sock_ops programs of others.
    ///
    /// # Errors
    /// Nothing is attached then, except where a system call fails that should not.
    pub fn attach(&self, with_others: bool) -> Result<Done, Error> {
        let _lock = self.lock()?;
        let sockets = bpf::socket_storage().map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM) => Error::NotAllowed("load BPF programs"),
            _ => Error::NoSocketStorage(e),
        })?;
        let ports = bpf::listening_ports().map_err(|e| Error::Call("make a BPF map", e))?;
        let maps = Maps {
            sockets: sockets.as_raw_fd(),
            ports: ports.as_raw_fd(),
        };
        let mut fresh = Vec::new();
        for program in programs::all(maps) {
            let fd = bpf::load(&program).map_err(|refused| match refused.error.raw_os_error() {
                Some(libc::EPERM) => Error::NotAllowed("load BPF programs"),
                _ => Error::Refused {
                    program: program.name,
                    error: refused.error,
                    log: refused.log,
                },
            })?;
            let loaded = bpf::info(fd.as_fd()).map_err(|e| Error::of("look at a program", e))?;
            fresh.push((program.hook, fd, loaded.tag));
        }
        let status = self.status()?;
        let is_fresh = |old: &Attached| {
            let mut all = fresh.iter();
            all.any(|(hook, _, tag)| *hook == old.hook && *tag == old.loaded.tag)
        };
        match status.state {
            State::Attached if status.programs.iter().all(is_fresh) => return Ok(Done::Already),
            State::Inherited => return Ok(Done::Inherited),
            _ => {}
        }
        if !with_others && !status.others.is_empty() {
            return Err(Error::Others(self.path.clone(), status.others));
        }
        if let Some(below) = find_below(&self.path)? {
            return Err(Error::Below(below));
        }
        // Not both at a time: two would write two options, and each have its own opinion.
        let replaced = self.detach_all(&status)?;
        for (hook, fd, _) in &fresh {
            if let Err(error) = bpf::attach(self.dir.as_fd(), fd.as_fd(), *hook) {
                for (hook, fd, _) in &fresh {
                    let _ = bpf::detach(self.dir.as_fd(), fd.as_fd(), *hook);
                }
                return Err(match error.raw_os_error() {
                    Some(libc::EPERM) => Error::Exclusive(self.path.clone(), *hook),
                    _ => Error::Call("attach a program", error),
                });
            }
        }
        Ok(if replaced {
            Done::Replaced
        } else {
            Done::Attached
        })
    }

    /// Detaches our programs, and no others. False if there were none.
    ///
    /// # Errors
    /// If they are attached to a cgroup above instead, or a system call fails.
    pub fn detach(&self) -> Result<bool, Error> {
        let _lock = self.lock()?;
        let status = self.status()?;
        if status.state == State::Inherited {
            return Err(Error::Above(self.path.clone()));
        }
        self.detach_all(&status)
    }

    fn detach_all(&self, status: &Status) -> Result<bool, Error> {
        let mut found = false;
        for program in status.programs.iter().filter(|p| !p.inherited) {
            let Some((fd, _)) = look(program.loaded.id)? else {
                continue;
            };
            bpf::detach(self.dir.as_fd(), fd.as_fd(), program.hook)
                .map_err(|e| Error::of("detach a program", e))?;
            found = true;
        }
        Ok(found)
    }

    fn ids(&self, hook: Hook, effective: bool) -> Result<Vec<u32>, Error> {
        bpf::attached(self.dir.as_fd(), hook, effective)
            .map_err(|e| Error::of("look at the programs of a cgroup", e))
    }

    /// Keeps others out who would attach or detach at the same time, until it is dropped.
    fn lock(&self) -> Result<File, Error> {
        // A description of its own, so that two threads of one process keep each other out.
        let lock = File::open(&self.path).map_err(|e| Error::Open(self.path.clone(), e))?;
        // SAFETY: an open descriptor.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) } != 0 {
            let error = io::Error::last_os_error();
            return Err(Error::Call("lock the cgroup's directory", error));
        }
        Ok(lock)
    }
}

fn judge(programs: &[Attached]) -> State {
    let Some(first) = programs.first() else {
        return State::Detached;
    };
    let each_once = Hook::ALL
        .iter()
        .all(|hook| programs.iter().filter(|p| p.hook == *hook).count() == 1);
    let belong = programs
        .iter()
        .all(|p| p.loaded.map == first.loaded.map && p.inherited == first.inherited);
    match (each_once && belong, first.inherited) {
        (false, _) => State::Broken,
        (true, false) => State::Attached,
        (true, true) => State::Inherited,
    }
}

/// A program by its number; `None` if it went away meanwhile.
fn look(id: u32) -> Result<Option<(OwnedFd, Loaded)>, Error> {
    let program = match bpf::by_id(id) {
        Ok(program) => program,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(e) => return Err(Error::of("look at the programs of a cgroup", e)),
    };
    let loaded = bpf::info(program.as_fd()).map_err(|e| Error::of("look at a program", e))?;
    Ok(Some((program, loaded)))
}

/// A cgroup below `path` to which programs of ours are attached. Cgroups that go away while we
/// look are passed over.
fn find_below(path: &Path) -> Result<Option<PathBuf>, Error> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Ok(None);
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let Ok(cgroup) = Cgroup::open(&entry.path()) else {
            continue;
        };
        for hook in Hook::ALL {
            for id in cgroup.ids(hook, false)? {
                if look(id)?.is_some_and(|(_, loaded)| loaded.name == hook.program()) {
                    return Ok(Some(cgroup.path));
                }
            }
        }
        if let Some(below) = find_below(&entry.path())? {
            return Ok(Some(below));
        }
    }
    Ok(None)
}

/// Where the first cgroup v2 file system is mounted, by the text of /proc/self/mountinfo.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    let line = mounts.lines().find(|line| {
        let kind = line.split_once(" - ").map(|(_, rest)| rest);
        kind.is_some_and(|rest| rest.starts_with("cgroup2 "))
    })?;
    let path = line.split(' ').nth(4)?;
    // Blanks and the like are written in octal.
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    Some(std::os::unix::ffi::OsStringExt::from_vec(bytes))
        .map(|path: std::ffi::OsString| path.into())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Attached, Hook, Loaded, State, judge, mount_point};

    #[test]
    fn the_mount_point_is_found() {
        let unified = "24 1 0:21 / /proc rw - proc proc rw\n\
            30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(unified), Some("/sys/fs/cgroup".into()));
        let hybrid = "31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            32 24 0:28 / /my\\040cgroups/a rw - cgroup2 none rw\n";
        assert_eq!(mount_point(hybrid), Some(PathBuf::from("/my cgroups/a")));
        assert_eq!(
            mount_point("31 24 0:27 / /a rw - cgroup cgroup2 rw\n"),
            None
        );
        assert_eq!(mount_point(""), None);
    }

    #[test]
    fn only_a_whole_set_is_attached() {
        let at = |hook: Hook, map, inherited| Attached {
            hook,
            inherited,
            loaded: Loaded {
                id: 1,
                name: hook.program().into(),
                tag: [0; 8],
                map,
            },
        };
        let set = |inherited| Hook::ALL.map(|hook| at(hook, 7, inherited)).to_vec();
        assert_eq!(judge(&[]), State::Detached);
        assert_eq!(judge(&set(false)), State::Attached);
        assert_eq!(judge(&set(true)), State::Inherited);
        for missing in 0..3 {
            let mut some = set(false);
            some.remove(missing);
            assert_eq!(judge(&some), State::Broken);
        }
        let mut two_maps = set(false);
        two_maps[1].loaded.map = 8;
        assert_eq!(judge(&two_maps), State::Broken);
        let both = [set(true), set(false)].concat();
        assert_eq!(judge(&both), State::Broken);
    }
}
