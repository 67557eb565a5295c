//! PostgreSQL and pgbench: many small transactions over a few connections.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Ran, drive, number_after};
use crate::lab::{Cmd, Pair, Under};

const PORT: u16 = 5432;
const DATA: &str = "/tmp/postgresql";

/// So many transactions of pgbench's select-only script from each of so many clients, on its
/// smallest data set. Figures: transactions per second, their latency.
pub fn run(pair: &Pair, under: Under, transactions: u32, clients: u32) -> Result<Ran> {
    let directory = pair
        .server
        .sh("ls -d /usr/lib/postgresql/*/bin | tail -1")?;
    let directory = directory.trim();
    // The server does not run as root.
    let user = "runuser -u postgres --";
    let initdb = format!(
        "rm -rf {DATA}; {user} {directory}/initdb --no-sync --auth trust --locale C -E UTF8 {DATA} && \
         echo 'host all all 10.77.0.0/24 trust' >>{DATA}/pg_hba.conf"
    );
    pair.server
        .run(Cmd::new(initdb).directory("/tmp"), Duration::from_secs(120))?
        .success()?;
    let program = under.line(&format!(
        "{directory}/postgres -D {DATA} -p {PORT} -k /tmp -F -c shared_buffers=32MB \
         -c listen_addresses={}",
        pair.server.address()
    ));
    let server = Cmd::new(format!("{user} {program}")).directory("/tmp");
    let mut server = pair.server.spawn(server)?;
    pair.server.wait_for_listener(PORT)?;
    let pgbench = |arguments: &str| {
        under.line(&format!(
            "{directory}/pgbench -h {} -p {PORT} -U postgres {arguments} postgres",
            pair.server.address()
        ))
    };
    pair.client
        .run(pgbench("--quiet -i -s 1 -I dtgp"), Duration::from_secs(120))?
        .success()?;
    let client = pgbench(&format!("-n -S -c {clients} -t {transactions}"));
    let deadline = Duration::from_secs(120);
    let (finished, sight) = drive(pair, under.into(), &mut server, Cmd::new(client), deadline)?;
    let text = &finished.stdout;
    let (rate, latency) = parse(text).with_context(|| format!("pgbench says:\n{text}"))?;
    let failed = number_after(text, "failed transactions:").unwrap_or(0.0);
    ensure!(failed == 0.0, "pgbench: {failed} transactions failed");
    Ok(Ran {
        figures: vec![
            ("pgbench".to_owned(), format!("{rate:.0} /s")),
            ("pgbench latency".to_owned(), format!("{latency:.2} ms")),
        ],
        // A row's answer is longer.
        bytes: u64::from(transactions) * u64::from(clients) * 32,
        sight,
    })
}

/// Transactions per second, and their latency in milliseconds.
fn parse(text: &str) -> Option<(f64, f64)> {
    Some((
        number_after(text, "\ntps = ")?,
        number_after(text, "latency average = ")?,
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_figures() {
        let text = "number of failed transactions: 0 (0.000%)\nlatency average = 4.107 ms\n\
                    initial connection time = 95.1 ms\ntps = 486.9 (without initial connection time)\n";
        assert_eq!(super::parse(text), Some((486.9, 4.107)));
    }
}
