//! The program that an exec is about to start: will it load the library?

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libc::c_char;
use once_cell::sync::OnceCell;
use rustix::fs::{Mode, OFlags};

/// How the program is named.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Image<'a> {
    /// By its path.
    Path(&'a CStr),
    /// By its name, to be looked for in `PATH` if there is no slash in it.
    Search(&'a CStr),
    /// By a descriptor.
    Fd(RawFd),
}

/// File name of the library, if this process loaded it because of its environment; `None` if the
/// system loads it into every program.
static NAME: OnceCell<Option<Vec<u8>>> = OnceCell::new();

/// Finds out how the library was loaded. To be called at the start, before the program changes
/// its environment.
pub(crate) fn remember() {
    NAME.get_or_init(|| {
        let name = own_name()?;
        let preload = std::env::var_os("LD_PRELOAD")?;
        contains(preload.as_bytes(), &name).then_some(name)
    });
}

fn own_name() -> Option<Vec<u8>> {
    // SAFETY: dladdr fills `info` in if it returns non-zero; the name is a C string then.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(remember as *const libc::c_void, &raw mut info) == 0
            || info.dli_fname.is_null()
        {
            return None;
        }
        let path = CStr::from_ptr(info.dli_fname).to_bytes();
        path.rsplit(|&byte| byte == b'/').next().map(<[u8]>::to_vec)
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|window| window == part)
}

/// Why the program will not load the library, or will not use it; `None` as far as can be told.
///
/// # Safety
/// `envp` is null or an array of C strings that ends in null.
pub(crate) unsafe fn stays_out(
    image: Image<'_>,
    envp: *const *const c_char,
) -> Option<&'static str> {
    // SAFETY: by this function's contract.
    if let Some(why) = unsafe { environment(envp) } {
        return Some(why);
    }
    match image {
        Image::Fd(fd) => {
            // SAFETY: the program's descriptor, in its call on it.
            file(unsafe { BorrowedFd::borrow_raw(fd) }, 0)
        }
        Image::Path(path) => at(Path::new(OsStr::from_bytes(path.to_bytes()))),
        Image::Search(name) => at(&search(name.to_bytes())?),
    }
}

/// # Safety
/// As for [`stays_out`].
unsafe fn environment(envp: *const *const c_char) -> Option<&'static str> {
    let name = NAME.get().and_then(Option::as_ref);
    let mut loads = name.is_none();
    let mut at = envp;
    // SAFETY: by this function's contract.
    unsafe {
        while !at.is_null() && !(*at).is_null() {
            let entry = CStr::from_ptr(*at).to_bytes();
            if let (Some(value), Some(name)) = (entry.strip_prefix(b"LD_PRELOAD="), name) {
                loads |= contains(value, name);
            }
            if let Some(value) = entry.strip_prefix(b"SMCR_DISABLE=")
                && !matches!(value, b"" | b"0")
            {
                return Some("SMCR_DISABLE is set for it");
            }
            at = at.add(1);
        }
    }
    (!loads).then_some("LD_PRELOAD is not set for it")
}

/// The program that execvp would find.
fn search(name: &[u8]) -> Option<PathBuf> {
    let name = Path::new(OsStr::from_bytes(name));
    if name.as_os_str().as_bytes().contains(&b'/') {
        return Some(name.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}

fn at(path: &Path) -> Option<&'static str> {
    open_and(path, 0)
}

fn open_and(path: &Path, depth: u32) -> Option<&'static str> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    // A program that may be executed but not read: nothing to be told.
    let opened = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    file(opened.as_fd(), depth)
}

fn file(fd: BorrowedFd<'_>, depth: u32) -> Option<&'static str> {
    let stat = rustix::fs::fstat(fd).ok()?;
    let set_uid =
        stat.st_mode & libc::S_ISUID != 0 && stat.st_uid != rustix::process::getuid().as_raw();
    let set_gid = stat.st_mode & libc::S_ISGID != 0
        && stat.st_mode & libc::S_IXGRP != 0
        && stat.st_gid != rustix::process::getgid().as_raw();
    if set_uid || set_gid {
        return Some("it runs with more rights than its user");
    }
    let mut head = [0u8; 4096];
    let len = rustix::io::pread(fd, &mut head, 0).ok()?;
    let head = &head[..len];
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|&byte| byte == b'\n').next()?;
        let mut words = line.split(|byte| byte.is_ascii_whitespace());
        let interpreter = words.find(|word| !word.is_empty())?;
        // The kernel goes four steps far.
        return if depth < 4 {
            open_and(Path::new(OsStr::from_bytes(interpreter)), depth + 1)
        } else {
            None
        };
    }
    is_static(head).then_some("it is linked statically")
}

/// Whether this is the beginning of a program without a dynamic linker, as far as it shows there.
fn is_static(head: &[u8]) -> bool {
    const INTERP: u32 = 3;
    let word = |at: usize| {
        head.get(at..at + 8)?
            .try_into()
            .ok()
            .map(u64::from_ne_bytes)
    };
    let half = |at: usize| {
        head.get(at..at + 2)?
            .try_into()
            .ok()
            .map(u16::from_ne_bytes)
    };
    let kind = |at: usize| {
        head.get(at..at + 4)?
            .try_into()
            .ok()
            .map(u32::from_ne_bytes)
    };
    if head.get(..5) != Some(b"\x7fELF\x02") {
        return false;
    }
    let (Some(start), Some(size), Some(count)) = (word(32), half(54), half(56)) else {
        return false;
    };
    for index in 0..usize::from(count) {
        let at = (start as usize).saturating_add(index * usize::from(size));
        match kind(at) {
            Some(INTERP) => return false,
            Some(_) => {}
            None => return false,
        }
    }
    true
}
