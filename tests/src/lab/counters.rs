//! What a guest's RDMA device has counted.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::guest::Guest;

/// The hardware counters of `rxe0`, by name, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads them all.
    pub fn read(guest: &Guest) -> Result<Self> {
        let directory = "/sys/class/infiniband/rxe0/ports/1/hw_counters";
        // grep prints the file's name before what is in it.
        let text = guest.sh(format!("cd {directory} && grep -H . *"))?;
        let pair = |line: &str| -> Option<(String, u64)> {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        let counters: BTreeMap<String, u64> = text.lines().filter_map(pair).collect();
        (!counters.is_empty())
            .then_some(Self(counters))
            .context("rxe0 counts nothing")
    }

    /// By how much a counter has grown since.
    pub fn grown(&self, before: &Self, name: &str) -> Result<u64> {
        let value = |counters: &Self| counters.0.get(name).copied();
        let now = value(self).with_context(|| format!("rxe0 has no counter {name}"))?;
        Ok(now - value(before).unwrap_or(0))
    }

    /// All that have grown since, by name.
    pub fn since(&self, before: &Self) -> BTreeMap<&str, u64> {
        let grown = |(name, value): (&'_ String, &u64)| value - before.0.get(name).unwrap_or(&0);
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), grown((name, value))))
            .filter(|(_, grown)| *grown > 0)
            .collect()
    }
}
