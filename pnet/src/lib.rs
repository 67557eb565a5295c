//! The PNET table: which RDMA device and port serve a network interface.
//!
//! A physical network has an id, the PNETID; network interfaces (netdevs) and ports of RoCE
//! devices that are attached to the same physical network are listed under the same id. A
//! connection whose route leaves through a netdev may use the RoCE ports of its id: [`resolve`]
//! finds them, also where nothing is listed.
//!
//! The table is a text file, one device per line, `#` begins a comment:
//!
//! ```text
//! # PNETID  kind    name    port
//! NET1      netdev  eth0
//! NET1      roce    mlx5_0  1
//! NET1      roce    mlx5_1  1
//! ```
//!
//! Ids are those of Linux: 1 to 16 letters and digits, capital or not. A device may be listed
//! before it exists. A netdev or RoCE device belongs to one id only; several ports of one device
//! may be listed under that id (where Linux's own table takes one port per device).

mod error;
mod file;
mod names;
mod rawfs;
pub mod resolve;
mod table;
#[cfg(test)]
mod tests;

pub use error::{Problem, TableError};
pub use names::{Device, PnetId, RocePort};
pub use table::Table;
