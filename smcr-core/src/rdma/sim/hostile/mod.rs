//! What a hostile peer can say: tables of messages that are wrong, each with a name and with the
//! most that it may cost the one that hears it.
//!
//! The tables know nothing of the engine. They start from what is true of a connection or a group
//! ([`CdcFacts`], [`LlcFacts`]) and break one thing at a time, so that each of them gets past the
//! checks in front of the one it is about.

mod cdc;
mod llc;
#[cfg(test)]
mod tests;

pub use cdc::{CdcFacts, cdc_attacks};
pub use llc::{LlcFacts, llc_attacks};

/// The most that an attack may do. Never may it touch another peer's group, the memory, or what
/// the program reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Harm {
    /// Nothing at all: it is dropped, and the connection goes on.
    None,
    /// The connection that it is about ends with an error; others go on.
    Connection,
    /// The link may be taken down, and with the last link the group.
    Link,
}

/// Messages that are said one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attack {
    /// What is wrong with it.
    pub name: String,
    /// The messages.
    pub messages: Vec<Vec<u8>>,
    /// The most that it may cost.
    pub harm: Harm,
}

impl Attack {
    fn new(name: impl Into<String>, harm: Harm, message: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            messages: vec![message.into()],
            harm,
        }
    }
}
