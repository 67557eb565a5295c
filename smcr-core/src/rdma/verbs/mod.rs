//! The fabric that moves bytes between hosts: RoCE adapters, through libibverbs.
//!
//! **Loading.** libibverbs is loaded with `dlopen` when the first port is opened, so programs run
//! where it is not installed. Types and constants are those of its headers (`rdma-sys`).
//!
//! **In other people's programs.** libibverbs calls libc, and so comes through the library's own
//! hooks; those leave descriptors alone that are no streams. Do not open a port while holding a
//! lock that the hooks take. Its three descriptors are moved up among the library's own right after
//! they are made (see [`crate::fds`]): libibverbs looks their numbers up in its public structures
//! at each use, and no provider keeps a copy. During the open, which takes milliseconds, they and
//! some files and sockets that are closed again have low numbers. errno is left as it was.
//!
//! **fork.** A port belongs to the process that opened it. A child must call
//! [`after_fork_in_child`], and may drop what it inherited, which then does nothing. Memory that is
//! registered should be MAP_SHARED: nothing is copied then, and parent, child and adapter see the
//! same pages. `ibv_fork_init` is not called, since it would take such memory away from children.
//! What remains is memory that providers allocate for their queues; Linux since 5.12 copies such
//! pages for the child and leaves the parent those that the adapter knows. On older kernels a fork
//! would part the parent from its adapter, silently: there [`open`] refuses. A child that lives on
//! without exec also keeps what providers mapped of the device, and so, should the parent be killed,
//! the parent's queue pairs: peers notice when the child has ended, too, as with TCP.
//!
//! **Order.** Links and regions hold their protection domain, which is freed after the last of them,
//! and that holds the adapter, which is closed after the last domain. A completion names its queue pair by a tag that is never used twice, so those of a destroyed queue
//! pair are dropped even if its number is in use again.

mod adapter;
mod completions;
mod domain;
mod errno;
mod error;
mod library;
mod link;
mod memory;
mod owner;
mod port;
mod provider;
mod queue;
mod states;
mod sysfs;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use error::OpenError;
pub use owner::{Rest, after_fork_in_child, before_fork};

use super::fabric::Port;

/// Opens a port of an RDMA device by the device's name (as in `rdma link`, for example `mlx5_0`)
/// and the port's number, from 1. Takes milliseconds; loads libibverbs if that has not been done.
///
/// # Errors
/// See [`OpenError`].
pub fn open(device: &str, port: u8) -> Result<Arc<dyn Port>, OpenError> {
    Ok(port::VerbsPort::open(device, port)?)
}

/// Whether there is any use in [`open`]: the kernel has an RDMA device for user space, and
/// libibverbs can be loaded. Where there is no device, nothing is loaded.
pub fn is_available() -> bool {
    let _errno = errno::KeepErrno::new();
    sysfs::has_device() && library::load().is_ok()
}
