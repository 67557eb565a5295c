//! Lets TCP handshakes carry the option by which SMC-R peers know each other (RFC 7609 §3.1,
//! §3.5.1.1, §A.1), and tells both ends what the other one sent.
//!
//! An ordinary socket cannot put an option into its SYN. Three small BPF programs on a cgroup can,
//! for those sockets of its processes that ask ([`programs`] says how). They are written in an
//! assembler of our own ([`asm`]) and go into the kernel by bpf(2) ([`bpf`]), so that neither
//! building nor running this takes more than a kernel; [`cgroup`] attaches, finds and detaches
//! them.
//!
//! Loading takes privileges, asking none. What a process says with setsockopt() concerns its own
//! sockets only.

pub mod asm;
pub mod bpf;
pub mod cgroup;
pub mod error;
pub mod programs;

pub use cgroup::{Cgroup, Done, State, Status};
pub use error::Error;
