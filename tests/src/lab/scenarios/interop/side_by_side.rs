//! Either end of a pair of programs under the library, under Linux's own SMC-R, or neither.

use anyhow::{Context, Result, ensure};

use crate::lab::apps::Ran;
use crate::lab::interop::CONFIGURATION;
use crate::lab::library::snapshot;
use crate::lab::{Counters, Ends, Guest, Library, Pair, Sight, Under, kernel_peer, quote};
use crate::scenario::paths;

/// Who can be at the two ends, with a name for reports. The first is what others are compared with.
pub(super) const ALL: [(&str, Ends); 5] = [
    ("TCP", ends(Under::Tcp, Under::Tcp)),
    ("Linux", ends(Under::Linux, Under::Linux)),
    ("library", ends(Under::Library, Under::Library)),
    ("library calls Linux", LIBRARY_CALLS),
    ("Linux calls library", LINUX_CALLS),
];

/// The client under the library, the server under Linux's SMC-R.
pub(super) const LIBRARY_CALLS: Ends = ends(Under::Linux, Under::Library);
/// The other way round.
pub(super) const LINUX_CALLS: Ends = ends(Under::Library, Under::Linux);

const fn ends(server: Under, client: Under) -> Ends {
    Ends { server, client }
}

/// What was so before programs ran.
pub(super) struct Before {
    ends: Ends,
    sent: [Counters; 2],
}

impl Before {
    /// Sets the guests up for these ends, and looks at them.
    pub(super) fn prepare(pair: &Pair, ends: Ends) -> Result<Self> {
        kernel_peer::build_preload()?;
        Library::install(pair, CONFIGURATION)?;
        for (guest, under) in guests(pair, ends) {
            kernel_peer::configure(guest)?;
            kernel_peer::begin_fallbacks(guest)?;
            // Linux's sockets bring their own TCP option, and it counts as support of SMC where it
            // is seen: plain TCP has to be without.
            let tool = quote(&paths::option_tool().display().to_string());
            guest.sh(match under {
                Under::Library => format!("{tool} attach"),
                _ => format!("! {tool} status >/dev/null || {tool} detach"),
            })?;
        }
        Ok(Self {
            ends,
            sent: counters(pair)?,
        })
    }

    /// An error unless all that ran since went over RDMA, or over TCP if neither end has anything
    /// else. Returns how many RDMA packets both guests sent.
    pub(super) fn expect(&self, pair: &Pair, ran: &Ran) -> Result<u64> {
        for (guest, under) in guests(pair, self.ends) {
            let fallbacks = kernel_peer::fallbacks(guest)?;
            ensure!(
                fallbacks.is_empty(),
                "Linux in the {} fell back: {fallbacks:x?}",
                guest.name()
            );
            if under == Under::Library {
                let sight = ran.sight.as_ref().context("nothing was seen")?;
                only_rdma(sight, guest)?;
            }
        }
        let now = counters(pair)?;
        let mut packets = 0;
        for (now, before) in now.iter().zip(&self.sent) {
            packets += now.grown(before, "sent_pkts")?;
        }
        if self.ends == Ends::from(Under::Tcp) {
            // Linux keeps link groups that have no connections, and tests them.
            ensure!(packets < 40, "{packets} RDMA packets for TCP");
        } else {
            let least = ran.bytes.div_ceil(1024);
            ensure!(
                packets >= least,
                "{packets} RDMA packets for {} bytes",
                ran.bytes
            );
        }
        Ok(packets)
    }
}

fn only_rdma(sight: &Sight, guest: &Guest) -> Result<()> {
    match guest.name() {
        "server" => sight.expect_server("rdma"),
        _ => sight.expect_client("rdma"),
    }
}

/// What `smcr-stat` counts in those guests that have the library, for logs.
pub(super) fn library_counters(pair: &Pair, ends: Ends) -> Result<String> {
    let mut text = String::new();
    for (guest, under) in guests(pair, ends) {
        if under != Under::Library {
            continue;
        }
        for process in snapshot(guest)?.processes {
            text += &format!("  {}: {:?}\n", guest.name(), process.counters);
        }
    }
    Ok(text)
}

fn guests(pair: &Pair, ends: Ends) -> [(&Guest, Under); 2] {
    [(&pair.server, ends.server), (&pair.client, ends.client)]
}

fn counters(pair: &Pair) -> Result<[Counters; 2]> {
    Ok([Counters::read(&pair.server)?, Counters::read(&pair.client)?])
}
