//! `smcr-stat`: shows which connections moved to SMC, and why the others did not.
fn main() {}
