//! What the hooks do, in Rust's terms.

pub(crate) mod exec;
pub(crate) mod fds;
pub(crate) mod fork;
pub(crate) mod image;
pub(crate) mod io;
pub(crate) mod limits;
pub(crate) mod options;
pub(crate) mod passing;
pub(crate) mod relief;
pub(crate) mod setup;
pub(crate) mod signals;
pub(crate) mod stdio;
pub(crate) mod system;
pub(crate) mod transfer;
