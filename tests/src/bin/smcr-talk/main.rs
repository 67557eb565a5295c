//! One end of connections that do what they are told: over TCP sockets, which the library may turn
//! into SMC, or over Linux's own `AF_SMC`.
//!
//! `smcr-talk listen|connect tcp|smc ADDRESS PORT STEPS [CONNECTIONS [together]]`
//!
//! Connections are made one after the other, or `together`: all are open before the first one does
//! anything. Steps are separated by commas; the table in `steps.rs` says what there is.

mod socket;
mod steps;

use std::io::Read;
use std::net::{SocketAddrV4, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use smcr_tests::family::Family;
use steps::Step;

/// In the environment: does not end before its standard input does.
const HOLD: &str = "SMCR_TALK_HOLD";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("smcr-talk: {failed} connections failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("smcr-talk: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many connections failed.
fn run(words: &[&str]) -> Result<usize> {
    let [role, family, address, port, steps, rest @ ..] = words else {
        bail!("listen|connect tcp|smc ADDRESS PORT STEPS [CONNECTIONS [together]]");
    };
    let (count, together) = match rest {
        [] => (1, false),
        [count] => (count.parse().context("CONNECTIONS")?, false),
        [count, "together"] => (count.parse().context("CONNECTIONS")?, true),
        _ => bail!("too many arguments"),
    };
    let family = match *family {
        "tcp" => Family::Tcp,
        "smc" => Family::Smc,
        other => bail!("{other}: not tcp or smc"),
    };
    let address = address.parse().context("ADDRESS is not an IPv4 address")?;
    let address = SocketAddrV4::new(address, port.parse().context("PORT")?);
    let steps = steps::parse(steps)?;
    let start = Instant::now();
    let failed = match *role {
        "listen" => {
            let listener = family.listen(address)?;
            let next = || Ok(listener.accept().context("accept")?.0.into());
            each(count, true, together, &steps, next)?
        }
        "connect" => {
            let next = || Ok(family.connect(address)?.into());
            each(count, false, together, &steps, next)?
        }
        other => bail!("{other}: not listen or connect"),
    };
    let time = start.elapsed().as_millis();
    println!("{} of {count} done, {time} ms", count - failed);
    if std::env::var_os(HOLD).is_some() {
        // Whoever looks at this process from outside wants it alive.
        std::io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(failed)
}

/// Makes so many connections. Who serves has a thread for each; `together`: they start when all are
/// there.
fn each(
    count: usize,
    serves: bool,
    together: bool,
    steps: &[Step],
    mut next: impl FnMut() -> Result<TcpStream>,
) -> Result<usize> {
    let mut running = Vec::new();
    let mut waiting = Vec::new();
    let mut failed = 0;
    let trace = count == 1;
    let start = |number: usize, stream: TcpStream| {
        let steps = steps.to_vec();
        std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || report(number, steps::run(stream, &steps, trace)))
    };
    for number in 1..=count {
        let begun = Instant::now();
        let stream = next().with_context(|| format!("connection {number}"))?;
        if !serves && begun.elapsed() > Duration::from_secs(1) {
            let time = begun.elapsed().as_millis();
            println!("connection {number}: {time} ms until it was there");
        }
        match (serves || together, together) {
            (false, _) => failed += usize::from(!report(number, steps::run(stream, steps, trace))),
            (true, false) => running.push(start(number, stream)?),
            (true, true) => waiting.push((number, stream)),
        }
    }
    for (number, stream) in waiting {
        running.push(start(number, stream)?);
    }
    for thread in running {
        failed += usize::from(!thread.join().unwrap_or(false));
    }
    Ok(failed)
}

fn report(number: usize, result: Result<()>) -> bool {
    if let Err(error) = &result {
        eprintln!("connection {number}: {error:#}");
    }
    result.is_ok()
}
