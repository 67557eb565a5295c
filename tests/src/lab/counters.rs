//! What a guest's RDMA device has counted.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::guest::Guest;
use super::library::Sight;
use super::pair::Pair;

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

/// Bytes of one packet of RoCE, at most: the path MTU of an Ethernet of 1500 bytes.
const RDMA_MTU: u64 = 1024;

/// TCP segments that a connection may cost although its bytes go over RDMA: the three-way
/// handshakes of TCP and CLC, and how TCP ends, each with some retries.
const SEGMENTS: u64 = 40;

/// What both guests had sent before something was tried: by RDMA, and by TCP.
#[derive(Clone, Debug)]
pub struct Traffic([(Counters, u64); 2]);

impl Traffic {
    /// Looks at both.
    pub fn read(pair: &Pair) -> Result<Self> {
        let of = |guest| anyhow::Ok((Counters::read(guest)?, tcp_segments(guest)?));
        Ok(Self([of(&pair.server)?, of(&pair.client)?]))
    }

    /// An error unless, since then, `bytes` at least went from one guest to the other by RDMA,
    /// and TCP carried no more than what the connections in `sight` need for their beginning and
    /// end. Returns it in a line for the report.
    pub fn expect_rdma(&self, pair: &Pair, sight: &Sight, bytes: u64) -> Result<String> {
        let Self([server, client]) = Self::read(pair)?;
        let mut text = Vec::new();
        let mut sent = 0;
        for (now, before, snapshot, name) in [
            (&server, &self.0[0], &sight.server, "server"),
            (&client, &self.0[1], &sight.client, "client"),
        ] {
            let packets = now.0.grown(&before.0, "sent_pkts")?;
            let segments = now.1 - before.1;
            let connections = snapshot.made("rdma");
            ensure!(
                segments <= SEGMENTS * (connections + 1),
                "the {name} sent {segments} TCP segments for {connections} connections"
            );
            sent += packets;
            text.push(format!("{name} {packets} by RDMA, {segments} by TCP"));
        }
        ensure!(
            sent >= bytes.div_ceil(RDMA_MTU),
            "{sent} RDMA packets cannot carry {bytes} bytes"
        );
        Ok(text.join("; "))
    }
}

/// Segments that TCP has sent, of whatever connection.
fn tcp_segments(guest: &Guest) -> Result<u64> {
    parse_segments(&guest.sh("cat /proc/net/snmp")?).context("/proc/net/snmp has no OutSegs")
}

/// The names are in one line, the values in the next.
fn parse_segments(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split(' ').position(|name| name == "OutSegs")?;
    values.split(' ').nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_the_segments() {
        let text = "Ip: A OutSegs\nIp: 1 2\nTcp: InSegs OutSegs X\nTcp: 7 8 9\n";
        assert_eq!(super::parse_segments(text), Some(8));
        assert_eq!(super::parse_segments("Tcp: InSegs\n"), None);
    }
}
