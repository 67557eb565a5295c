//! C's FILE streams on sockets.
//!
//! stdio reads and writes inside libc, where no hook sees it. A FILE on a socket is therefore
//! made with `fopencookie`, whose functions are ours; they know the descriptor by its number and
//! ask the table at each call, like every other hook. That also holds for `stdin`, `stdout` and
//! `stderr` from the moment when a stream gets their number.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{FILE, c_char, c_int, c_void, off64_t, size_t, ssize_t};
use parking_lot::Mutex;
use rustix::io::Errno;
use syscalls::{Sysno, syscall};

use crate::hooks::{files, io};
use crate::{real, table};

/// The public part of glibc's FILE (`struct _IO_FILE`), as far as we look into it. Its layout is
/// part of glibc's interface: getc and putc were macros.
#[repr(C)]
struct Glibc {
    flags: c_int,
    read_ptr: *mut u8,
    read_end: *mut u8,
    read_base: *mut u8,
    write_base: *mut u8,
    write_ptr: *mut u8,
    write_end: *mut u8,
    _buffers: [*mut u8; 7],
    fileno: c_int,
    _lock: [usize; 5],
    wide: *mut c_void,
    _rest: [usize; 6],
    functions: *const c_void,
}

const _: () = assert!(std::mem::offset_of!(Glibc, fileno) == 112);
const _: () = assert!(std::mem::offset_of!(Glibc, wide) == 160);
const _: () = assert!(std::mem::offset_of!(Glibc, functions) == 216);

const UNBUFFERED: c_int = 2;
const LINE_BUFFERED: c_int = 0x200;

/// What fopencookie writes where a descriptor's number would be.
const NO_NUMBER: c_int = -2;

#[repr(C)]
struct Functions {
    read: unsafe extern "C" fn(*mut c_void, *mut c_char, size_t) -> ssize_t,
    write: unsafe extern "C" fn(*mut c_void, *const c_char, size_t) -> ssize_t,
    seek: unsafe extern "C" fn(*mut c_void, *mut off64_t, c_int) -> c_int,
    close: unsafe extern "C" fn(*mut c_void) -> c_int,
}

unsafe extern "C" {
    fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: Functions) -> *mut FILE;
    fn fwide(file: *mut FILE, mode: c_int) -> c_int;
    fn __fpurge(file: *mut FILE);
    static mut stdin: *mut FILE;
    static mut stdout: *mut FILE;
    static mut stderr: *mut FILE;
}

/// The function table of the FILEs that fopencookie makes.
static COOKIE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// What `stdin` had read from its old file and not delivered when a stream took its place.
static LEFT_IN_STDIN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn number(cookie: *mut c_void) -> RawFd {
    cookie as usize as RawFd
}

unsafe extern "C" fn read(cookie: *mut c_void, buf: *mut c_char, len: size_t) -> ssize_t {
    let fd = number(cookie);
    if fd == 0 {
        let mut left = LEFT_IN_STDIN.lock();
        if !left.is_empty() {
            let taken = left.len().min(len);
            // SAFETY: stdio's buffer has room for `len`.
            unsafe { std::ptr::copy_nonoverlapping(left.as_ptr(), buf.cast(), taken) };
            left.drain(..taken);
            return taken as ssize_t;
        }
    }
    // SAFETY: stdio's buffer, of this length.
    guarded(|| unsafe { io::smcr_read(fd, buf.cast(), len) })
}

/// Writes all, as stdio itself does; less means an error, which errno tells.
unsafe extern "C" fn write(cookie: *mut c_void, buf: *const c_char, len: size_t) -> ssize_t {
    // SAFETY: stdio's buffer, of this length.
    guarded(|| unsafe { write_all(number(cookie), buf.cast(), len) } as ssize_t).max(0)
}

/// Writes `len` bytes to a descriptor; returns how many it took before an error.
///
/// # Safety
/// `buf` is valid for `len` bytes.
unsafe fn write_all(fd: RawFd, buf: *const u8, len: usize) -> usize {
    let mut done = 0;
    while done < len {
        // SAFETY: by this function's contract.
        let wrote = unsafe { io::smcr_write(fd, buf.add(done).cast(), len - done) };
        if wrote < 0 {
            break;
        }
        done += wrote as usize;
    }
    done
}

unsafe extern "C" fn seek(cookie: *mut c_void, at: *mut off64_t, whence: c_int) -> c_int {
    // SAFETY: stdio's variable; lseek takes integers.
    unsafe {
        match real::check(syscall!(Sysno::lseek, number(cookie), *at, whence)) {
            Ok(now) => {
                *at = now as off64_t;
                0
            }
            Err(errno) => {
                real::set_errno(errno);
                -1
            }
        }
    }
}

unsafe extern "C" fn close(cookie: *mut c_void) -> c_int {
    // SAFETY: takes an integer.
    guarded(|| unsafe { files::smcr_close(number(cookie)) } as ssize_t) as c_int
}

/// A panic must not reach libc.
fn guarded(call: impl FnOnce() -> ssize_t + std::panic::UnwindSafe) -> ssize_t {
    std::panic::catch_unwind(call).unwrap_or_else(|_| {
        real::set_errno(Errno::IO);
        -1
    })
}

fn glibc(file: *mut FILE) -> *mut Glibc {
    file.cast()
}

/// A FILE for `fd` that goes through us. Null, with errno, if there is no memory.
fn open(fd: RawFd, mode: &std::ffi::CStr) -> *mut FILE {
    let functions = Functions {
        read,
        write,
        seek,
        close,
    };
    // SAFETY: the functions keep fopencookie's contract; a FILE of glibc's begins as `Glibc`.
    unsafe {
        let file = fopencookie(fd as usize as *mut c_void, mode.as_ptr(), functions);
        if !file.is_null() && (*glibc(file)).fileno == NO_NUMBER {
            COOKIE.store((*glibc(file)).functions.cast_mut(), Ordering::Relaxed);
            // fileno() tells the number, as the program expects. fopencookie's functions do not
            // look at it.
            (*glibc(file)).fileno = fd;
            // freopen() takes fopencookie's -1 for an address.
            (*glibc(file)).wide = std::ptr::null_mut();
            // Such FILEs know no wide characters; perror() would reopen one that is undecided.
            fwide(file, -1);
        }
        file
    }
}

/// fdopen() of a descriptor that is, or may become, a stream. `Err`: what errno should be.
pub(crate) fn fdopen(fd: RawFd, mode: &std::ffi::CStr) -> Result<*mut FILE, Errno> {
    let mode = mode.to_bytes();
    let plus = mode.contains(&b'+');
    let how = match (mode.first(), plus) {
        (Some(b'r'), false) => c"r",
        (Some(b'w' | b'a'), false) => c"w",
        (Some(b'r' | b'w' | b'a'), true) => c"r+",
        _ => return Err(Errno::INVAL),
    };
    let status = real::fcntl(fd, libc::F_GETFL, 0)?;
    if mode[0] == b'a' && status & libc::O_APPEND == 0 {
        // It means nothing for a socket, but libc does it.
        real::fcntl(fd, libc::F_SETFL, i64::from(status | libc::O_APPEND))?;
    }
    let file = open(fd, how);
    if file.is_null() {
        Err(real::errno())
    } else {
        Ok(file)
    }
}

/// The number of a FILE that libc reads and writes itself, although it belongs to a socket of
/// ours: one that was made before the descriptor became a socket.
///
/// # Safety
/// `file` is an open FILE.
pub(crate) unsafe fn foreign(file: *mut FILE) -> Option<RawFd> {
    // SAFETY: by this function's contract; glibc's FILEs begin as `Glibc`.
    let (fd, functions) = unsafe { ((*glibc(file)).fileno, (*glibc(file)).functions) };
    let ours = functions == COOKIE.load(Ordering::Relaxed).cast_const();
    (!ours && fd >= 0 && table::is_known(fd)).then_some(fd)
}

/// The number of a FILE, if it is a socket of ours.
///
/// # Safety
/// `file` is an open FILE.
pub(crate) unsafe fn known(file: *mut FILE) -> Option<RawFd> {
    // SAFETY: as above.
    let fd = unsafe { (*glibc(file)).fileno };
    (fd >= 0 && table::is_known(fd)).then_some(fd)
}

/// A stream has got the number `fd`. If that is one of the standard FILEs', puts one of ours in
/// its place, with what the old one holds and how it buffers.
///
/// What keeps a copy of the old pointer (C++'s iostreams do) goes on writing past us.
pub(crate) fn landed(fd: RawFd) {
    if !(0..=2).contains(&fd) {
        return;
    }
    let _errno = real::KeepErrno::new();
    // SAFETY: the standard FILEs of glibc, which programs may assign to, and its functions.
    unsafe {
        let variable = match fd {
            0 => &raw mut stdin,
            1 => &raw mut stdout,
            _ => &raw mut stderr,
        };
        let old = *variable;
        if old.is_null() || foreign(old) != Some(fd) {
            return;
        }
        let new = open(fd, if fd == 0 { c"r" } else { c"w" });
        if new.is_null() {
            return;
        }
        let inner = glibc(old);
        let between = |from: *mut u8, to: *mut u8| (to as usize).saturating_sub(from as usize);
        if fd == 0 {
            let unread = between((*inner).read_ptr, (*inner).read_end);
            if unread > 0 {
                let bytes = std::slice::from_raw_parts((*inner).read_ptr, unread);
                LEFT_IN_STDIN.lock().extend_from_slice(bytes);
            }
        } else {
            let unwritten = between((*inner).write_base, (*inner).write_ptr);
            if unwritten > 0 {
                libc::fwrite((*inner).write_base.cast(), 1, unwritten, new);
            }
        }
        __fpurge(old);
        if (*inner).flags & UNBUFFERED != 0 {
            libc::setvbuf(new, std::ptr::null_mut(), libc::_IONBF, 0);
        } else if (*inner).flags & LINE_BUFFERED != 0 {
            libc::setvbuf(new, std::ptr::null_mut(), libc::_IOLBF, 0);
        }
        *variable = new;
    }
}

/// Writes formatted text to a stream's descriptor, and frees it. `len` is what vasprintf said.
///
/// # Safety
/// `text` came from vasprintf, if `len` is not negative.
pub(crate) unsafe fn print(fd: RawFd, text: *mut c_char, len: c_int) -> c_int {
    if len < 0 {
        return -1;
    }
    // SAFETY: vasprintf made `len` bytes, to be freed once.
    unsafe {
        let done = write_all(fd, text.cast(), len as usize);
        let _errno = real::KeepErrno::new();
        libc::free(text.cast());
        if done == len as usize { len } else { -1 }
    }
}
