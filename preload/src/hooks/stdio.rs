//! FILE streams, and formatted output to descriptors.

use std::ffi::CStr;

use libc::{FILE, c_char, c_int, c_void};
use redhook::{hook, real};

use crate::ops::{fds, setup, stdio};
use crate::{real, table};

super::resolves!(fdopen, fclose, freopen, freopen64, vdprintf, __vdprintf_chk);

unsafe extern "C" {
    fn vasprintf(text: *mut *mut c_char, format: *const c_char, args: *mut c_void) -> c_int;
    fn __vasprintf_chk(
        text: *mut *mut c_char,
        flag: c_int,
        format: *const c_char,
        args: *mut c_void,
    ) -> c_int;
}

hook! {
    unsafe fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE => smcr_fdopen {
        // A socket that came by exec is not in the table yet.
        if !table::is_known(fd) && !setup::is_tcp(fd) {
            // SAFETY: passed on as it came.
            return unsafe { real!(fdopen)(fd, mode) };
        }
        // SAFETY: the program's string.
        match stdio::fdopen(fd, unsafe { CStr::from_ptr(mode) }) {
            Ok(file) => file,
            Err(errno) => {
                real::set_errno(errno);
                std::ptr::null_mut()
            }
        }
    }
}

hook! {
    unsafe fn fclose(file: *mut FILE) -> c_int => smcr_fclose {
        // SAFETY: an open FILE, by fclose's contract. One of our own closes through our close.
        unsafe {
            if let Some(fd) = stdio::foreign(file) {
                fds::closing(fd);
            }
            real!(fclose)(file)
        }
    }
}

/// freopen() closes the old descriptor inside libc, after it wrote what was buffered.
///
/// # Safety
/// `file` is an open FILE.
unsafe fn reopening(file: *mut FILE) {
    // SAFETY: by this function's contract.
    unsafe {
        if let Some(fd) = stdio::known(file) {
            libc::fflush(file);
            fds::closing(fd);
        }
    }
}

hook! {
    unsafe fn freopen(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE
        => smcr_freopen
    {
        // SAFETY: passed on as it came.
        unsafe {
            reopening(file);
            real!(freopen)(path, mode, file)
        }
    }
}

hook! {
    unsafe fn freopen64(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE
        => smcr_freopen64
    {
        // SAFETY: passed on as it came.
        unsafe {
            reopening(file);
            real!(freopen64)(path, mode, file)
        }
    }
}

hook! {
    unsafe fn vdprintf(fd: c_int, format: *const c_char, args: *mut c_void) -> c_int
        => smcr_vdprintf
    {
        // SAFETY: the program's arguments. (A va_list is passed as a pointer.)
        unsafe {
            if table::stream(fd).is_none() {
                return real!(vdprintf)(fd, format, args);
            }
            let mut text = std::ptr::null_mut();
            let len = vasprintf(&raw mut text, format, args);
            stdio::print(fd, text, len)
        }
    }
}

hook! {
    unsafe fn __vdprintf_chk(fd: c_int, flag: c_int, format: *const c_char, args: *mut c_void)
        -> c_int => smcr_vdprintf_chk
    {
        // SAFETY: as above.
        unsafe {
            if table::stream(fd).is_none() {
                return real!(__vdprintf_chk)(fd, flag, format, args);
            }
            let mut text = std::ptr::null_mut();
            let len = __vasprintf_chk(&raw mut text, flag, format, args);
            stdio::print(fd, text, len)
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod variadic {
    use libc::{c_char, c_int, c_void};

    use crate::hooks::variadic::variadic;

    unsafe extern "C" fn print(fd: c_int, format: *const c_char, args: *mut c_void) -> c_int {
        // SAFETY: the program's arguments, by dprintf's contract.
        std::panic::catch_unwind(|| unsafe { super::smcr_vdprintf(fd, format, args) }).unwrap_or(-1)
    }

    unsafe extern "C" fn print_chk(
        fd: c_int,
        flag: c_int,
        format: *const c_char,
        args: *mut c_void,
    ) -> c_int {
        // SAFETY: as above.
        std::panic::catch_unwind(|| unsafe { super::smcr_vdprintf_chk(fd, flag, format, args) })
            .unwrap_or(-1)
    }

    variadic!(dprintf, 2, "rdx", print);
    variadic!(__dprintf_chk, 3, "rcx", print_chk);
}
