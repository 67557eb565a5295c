//! The lab: two emulated machines with RDMA between them.
//!
//! Real RDMA needs a kernel with RDMA and two hosts. QEMU emulates both, without privileges and
//! without hardware: each guest runs Debian's kernel on the host's own root file system, shared
//! read-only, so that everything that is built or installed here is there under the same path. A
//! guest's network interface carries TCP, and RoCEv2 by the kernel's `rdma_rxe`.
//!
//! [`Pair::boot`] starts a server and a client; [`Guest`] runs programs in them; `scenarios` has
//! what is tried there; `docs/lab.md` says how to add to it.

pub mod actor;
pub mod apps;
pub mod capture;
pub mod channel;
pub mod cmd;
pub mod counters;
mod emulator;
pub mod guest;
mod initramfs;
pub mod interop;
pub mod kernel;
pub mod kernel_peer;
pub mod library;
pub mod pair;
mod qmp;
pub mod runner;
pub mod scenarios;
pub mod shell;
pub mod wire;

pub use actor::{Actor, Answer};
pub use capture::Decoded;
pub use cmd::{Cmd, quote};
pub use counters::{Counters, Traffic};
pub use guest::{Guest, Process};
pub use kernel::Kernel;
pub use library::{Ends, Library, Sight, Under};
pub use pair::Pair;
