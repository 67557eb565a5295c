//! Making sockets and connections, addresses and options.

use libc::{c_int, c_void, sockaddr, socklen_t};
use redhook::{hook, real};

use crate::ops::options::{self, End};
use crate::ops::{fds, relief, setup};
use crate::outcome::Outcome;
use crate::table;

super::resolves!(
    socket,
    connect,
    listen,
    accept,
    accept4,
    shutdown,
    getsockopt,
    setsockopt,
    getsockname,
    getpeername
);

hook! {
    unsafe fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int => smcr_socket {
        // SAFETY: takes integers.
        let fd = relief::retry(|| unsafe { real!(socket)(domain, kind, protocol) });
        if fd >= 0 {
            if !fds::within_limit(fd) {
                return -1;
            }
            setup::created(fd, domain, kind, protocol);
        }
        fd
    }
}

hook! {
    unsafe fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int => smcr_connect {
        // SAFETY: the program's address, by connect's contract.
        unsafe {
            let addr_copy = setup::copy_address(addr, len);
            if let Some(stream) = table::stream(fd) {
                let disconnect = addr_copy.is_some_and(|a| a.family() == libc::AF_UNSPEC);
                return setup::connect_again(fd, &stream, disconnect, |fd| {
                    real!(connect)(fd, addr, len)
                });
            }
            let peer = addr_copy.and_then(|a| a.parse());
            setup::connect(fd, peer, || real!(connect)(fd, addr, len))
        }
    }
}

hook! {
    unsafe fn listen(fd: c_int, backlog: c_int) -> c_int => smcr_listen {
        // SAFETY: takes integers.
        setup::listen(fd, || unsafe { real!(listen)(fd, backlog) })
    }
}

hook! {
    unsafe fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int => smcr_accept {
        // SAFETY: the program's buffers, by accept's contract.
        let new = relief::retry(|| unsafe { real!(accept)(fd, addr, len) });
        accepted(fd, new, 0)
    }
}

hook! {
    unsafe fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int
        => smcr_accept4
    {
        // SAFETY: the program's buffers, by accept4's contract.
        let new = relief::retry(|| unsafe { real!(accept4)(fd, addr, len, flags) });
        accepted(fd, new, flags)
    }
}

fn accepted(listener: c_int, new: c_int, flags: c_int) -> c_int {
    if new < 0 {
        return new;
    }
    if !fds::within_limit(new) {
        return -1;
    }
    setup::accepted(listener, new, flags)
}

hook! {
    unsafe fn shutdown(fd: c_int, how: c_int) -> c_int => smcr_shutdown {
        // SAFETY: takes integers.
        fds::shutdown(fd, how).or_else(|done| done, || unsafe { real!(shutdown)(fd, how) })
    }
}

hook! {
    unsafe fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t)
        -> c_int => smcr_setsockopt
    {
        // SAFETY: the program's value, by setsockopt's contract.
        unsafe {
            let pass_on = || real!(setsockopt)(fd, level, name, value, len);
            if value.is_null() || len > 4096 {
                return pass_on();
            }
            match options::prepare(fd, level, name) {
                Outcome::Done(()) => {
                    // The kernel looks at the program's pointer first.
                    let ret = options::set(fd, level, name, |target| {
                        real!(setsockopt)(target, level, name, value, len)
                    });
                    if ret == 0 {
                        options::applied(fd, level, name, options::bytes(value, len));
                    }
                    ret
                }
                refused => refused.or_else(|_| 0, pass_on),
            }
        }
    }
}

hook! {
    unsafe fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t)
        -> c_int => smcr_getsockopt
    {
        // SAFETY: the program's buffers, by getsockopt's contract.
        unsafe {
            // A TCP socket answers, also for the program's pointers.
            options::get(fd, (level, name), value, len, |target| {
                real!(getsockopt)(target, level, name, value, len)
            })
        }
    }
}

hook! {
    unsafe fn getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int
        => smcr_getsockname
    {
        // SAFETY: the program's buffers, by getsockname's contract.
        unsafe {
            options::address(fd, End::Local, addr, len, |fd| real!(getsockname)(fd, addr, len))
        }
    }
}

hook! {
    unsafe fn getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int
        => smcr_getpeername
    {
        // SAFETY: the program's buffers, by getpeername's contract.
        unsafe {
            options::address(fd, End::Peer, addr, len, |fd| real!(getpeername)(fd, addr, len))
        }
    }
}
