//! What keeps a connection on TCP: it works, and both ends can say why.

use anyhow::{Result, ensure};

use super::{Both, next_works, run_cases};
use crate::lab::library::CONFIGURED;
use crate::lab::{Library, Pair, Under};

pub(in super::super) fn run(pair: &mut Pair) -> Result<()> {
    let ran = run_cases(
        pair,
        &[
            ("the library at the client only", client_only),
            ("the library at the server only", server_only),
            ("no port has the PNETID, client", pnet_client),
            ("no port has the PNETID, server", pnet_server),
            ("no port has the PNETID, both", pnet_both),
            ("UEIDs that do not match", ueids),
        ],
    );
    Library::install(pair, CONFIGURED)?;
    ran
}

fn client_only(pair: &mut Pair) -> Result<()> {
    let both = Both::connect(pair, Under::Tcp, Under::Library)?;
    both.expect_reasons(pair, "", "peer-no-smc")?;
    drop(both);
    next_works(pair)
}

fn server_only(pair: &mut Pair) -> Result<()> {
    let both = Both::connect(pair, Under::Library, Under::Tcp)?;
    both.expect_reasons(pair, "peer-no-smc", "")?;
    drop(both);
    next_works(pair)
}

/// A table that gives `eth0` a PNETID that no RoCE port has.
fn without_port(pair: &Pair, at_server: bool) -> Result<()> {
    const TABLE: &str = "/tmp/faults-pnet.conf";
    let guest = if at_server {
        &pair.server
    } else {
        &pair.client
    };
    guest.write_file(TABLE, "NOPORT netdev eth0\n")?;
    guest.sh(format!("chmod 644 {TABLE}"))?;
    Library::install_in(guest, &format!("{CONFIGURED}pnet_table = {TABLE}\n"))
}

fn pnet_client(pair: &mut Pair) -> Result<()> {
    without_port(pair, false)?;
    // Without a port of its own a client does not ask, so the server learns of nothing.
    let both = Both::connect(pair, Under::Library, Under::Library)?;
    both.expect_reasons(pair, "peer-no-smc", "no-rdma-device")?;
    drop(both);
    Library::install(pair, CONFIGURED)?;
    next_works(pair)
}

fn pnet_server(pair: &mut Pair) -> Result<()> {
    without_port(pair, true)?;
    let both = Both::connect(pair, Under::Library, Under::Library)?;
    both.expect_reasons(pair, "no-rdma-device", "peer-declined")?;
    drop(both);
    Library::install(pair, CONFIGURED)?;
    next_works(pair)
}

/// The client does not ask, so it looks as where the client alone has none.
fn pnet_both(pair: &mut Pair) -> Result<()> {
    without_port(pair, false)?;
    without_port(pair, true)?;
    let both = Both::connect(pair, Under::Library, Under::Library)?;
    both.expect_reasons(pair, "peer-no-smc", "no-rdma-device")?;
    drop(both);
    Library::install(pair, CONFIGURED)?;
    next_works(pair)
}

fn ueids(pair: &mut Pair) -> Result<()> {
    Library::install_in(&pair.server, "ueid = OTHER\n")?;
    let both = Both::connect(pair, Under::Library, Under::Library)?;
    both.expect_reasons(pair, "no-common-eid", "peer-declined")?;
    drop(both);
    Library::install(pair, CONFIGURED)?;
    next_works(pair)
}

impl Both {
    /// An error unless the connection is TCP, for these reasons (where the library is).
    fn expect_reasons(&self, pair: &mut Pair, server: &str, client: &str) -> Result<()> {
        let [of_server, of_client] = self.reasons(pair)?;
        let seen = format!("server: {of_server}; client: {of_client}");
        pair.note("reasons", seen.clone());
        let fits = |found: &str, wanted: &str| wanted.is_empty() || found == wanted;
        ensure!(
            fits(&of_server, server) && fits(&of_client, client),
            "{seen}, not {server} and {client}"
        );
        for (actor, guest) in [(&self.server, &pair.server), (&self.client, &pair.client)] {
            let made = actor.seen(guest)?.made("rdma");
            ensure!(made == 0, "{made} over RDMA in the {}", guest.name());
        }
        Ok(())
    }
}
