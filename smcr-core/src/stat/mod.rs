//! The page in which each process shows its connections, and the readers of such pages.
//!
//! A process under the library owns one file, `/dev/shm/smcr-<uid>/<pid>-<start time>`, mapped
//! shared: a header that says who it is, an array of counters, and one slot per connection. The
//! writer only ever stores into memory ([`Publisher`], [`Slot`]); whoever wants to look opens the
//! file and copies it ([`read_all`]), so the observed program is neither stopped nor slowed, and
//! what it last wrote stays readable after a `kill -9` (until a sweep, at least
//! [`DEAD_KEPT_SECS`] later).
//!
//! - [`words`]: the words and numbers shared by writer and reader (states, modes, counters).
//! - `page`, `mapping`: the layout in memory, and the memory.
//! - [`publisher`], [`slot`]: the writer. Uses raw system calls only, see `rawfs`.
//! - `dir`: the directory: who may own it, which files belong to dead processes.
//! - [`reader`]: treats every byte of a page as written by an enemy.

mod dir;
mod identity;
mod mapping;
mod page;
pub mod publisher;
pub mod reader;
pub mod slot;
pub mod words;

#[cfg(test)]
mod tests;

pub use dir::{DEAD_KEPT_SECS, sweep};
pub use publisher::Publisher;
pub use reader::{Connection, ProcessStat, Snapshot, read_all, snapshot};
pub use slot::{ConnInfo, Slot};
pub use words::{Counter, Mode, Role, State};
