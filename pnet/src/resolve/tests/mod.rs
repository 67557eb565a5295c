//! Resolution on hosts with many kinds of interfaces and devices, which no test machine has all of:
//! sysfs is a directory, and the network a list. The real kernel is asked in `tests/namespaces.rs`.

mod hosts;
mod messages;
mod tree;
