//! The C functions that take the place of libc's.
//!
//! Each converts its arguments, asks an operation, and converts the result; the operation decides
//! whether the call is libc's business after all.

// The program calls these by C's rules and keeps their contracts; redhook's macro makes them.
#![allow(unreachable_pub, missing_docs, non_upper_case_globals)]

#[cfg(target_arch = "x86_64")]
mod clone;
#[cfg(target_arch = "x86_64")]
mod close;
mod exec;
pub(crate) mod files;
pub(crate) mod io;
#[cfg(target_arch = "x86_64")]
mod jump;
mod limits;
mod messages;
mod process;
mod sockets;
mod stdio;
mod transfer;
#[cfg(target_arch = "x86_64")]
mod variadic;
mod watching;

/// Finds libc's functions now, so that no hook has to do it in a signal handler.
pub(crate) fn resolve() {
    #[cfg(target_arch = "x86_64")]
    {
        jump::resolve();
        clone::resolve();
        close::resolve();
    }
    io::resolve();
    files::resolve();
    limits::resolve();
    messages::resolve();
    exec::resolve_all();
    process::resolve();
    sockets::resolve();
    stdio::resolve();
    transfer::resolve();
    watching::resolve();
}

/// Makes a `resolve` function for the hooks of a module.
macro_rules! resolves {
    ($($name:ident),* $(,)?) => {
        /// Finds libc's functions of this module's hooks.
        pub(super) fn resolve() {
            $(let _ = redhook::real!($name);)*
        }
    };
}
use resolves;
