//! Helpers shared by the end to end tests and by `cargo xtask`.

pub mod family;
pub mod lab;
pub mod scenario;
