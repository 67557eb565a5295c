//! sendfile and splice. (tee, vmsplice and copy_file_range never work on sockets.)

use libc::{c_int, c_uint, loff_t, off_t, size_t, ssize_t};
use redhook::{hook, real};

use crate::ops::transfer::{self, Splice};
use crate::table;

super::resolves!(sendfile, sendfile64, splice);

hook! {
    unsafe fn sendfile(out: c_int, file: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        => smcr_sendfile
    {
        // SAFETY: the program's offset, by sendfile's contract.
        unsafe {
            transfer::sendfile(out, file, offset, count)
                .or_else(|sent| sent as ssize_t, || real!(sendfile)(out, file, offset, count))
        }
    }
}

hook! {
    unsafe fn sendfile64(out: c_int, file: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        => smcr_sendfile64
    {
        // SAFETY: as above; off_t has 64 bits on the systems we run on.
        unsafe {
            transfer::sendfile(out, file, offset, count)
                .or_else(|sent| sent as ssize_t, || real!(sendfile64)(out, file, offset, count))
        }
    }
}

hook! {
    unsafe fn splice(
        from: c_int, from_at: *mut loff_t, to: c_int, to_at: *mut loff_t,
        len: size_t, flags: c_uint
    ) -> ssize_t => smcr_splice {
        // SAFETY: passed on as it came.
        unsafe {
            let pass_on = || real!(splice)(from, from_at, to, to_at, len, flags);
            if !table::is_known(from) && !table::is_known(to) {
                return pass_on();
            }
            let has_offset = !from_at.is_null() || !to_at.is_null();
            transfer::splice(Splice { from, to, len, flags, has_offset })
                .or_else(|moved| moved as ssize_t, pass_on)
        }
    }
}
