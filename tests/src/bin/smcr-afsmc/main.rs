//! The kernel's own SMC-R as a peer: configures it, and talks through `AF_SMC` sockets.
//!
//! - `ueid NAME`: the user-defined EID by which SMC-Rv2 peers recognise each other. Without one
//!   Linux offers no SMC-Rv2, and with RoCEv2 there is nothing else.
//! - `no-ueid NAME`: takes it away again.
//! - `echo-server ADDRESS PORT`: accepts one connection, sends back what comes, ends at its end.
//! - `echo-client ADDRESS PORT BYTES`: sends and checks what comes back.

mod genl;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddrV4};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use smcr_tests::family::Family;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["ueid", name] => genl::add_ueid(name),
        ["no-ueid", name] => genl::remove_ueid(name),
        ["echo-server", address, port] => parse(address, port).and_then(serve),
        ["echo-client", address, port, bytes] => parse(address, port)
            .and_then(|to| talk(to, bytes.parse().context("BYTES is not a number")?)),
        _ => Err(anyhow::anyhow!(
            "ueid NAME | no-ueid NAME | echo-server ADDRESS PORT | echo-client ADDRESS PORT BYTES"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("smcr-afsmc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(address: &str, port: &str) -> Result<SocketAddrV4> {
    let address = address.parse().context("ADDRESS is not an IPv4 address")?;
    Ok(SocketAddrV4::new(address, port.parse().context("PORT")?))
}

fn serve(address: SocketAddrV4) -> Result<()> {
    let listener = Family::Smc.listen(address)?;
    let (mut connection, _) = listener.accept().context("accept")?;
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        let count = connection.read(&mut buffer).context("receiving")?;
        if count == 0 {
            break;
        }
        connection.write_all(&buffer[..count]).context("sending")?;
        total += count;
    }
    println!("{total} bytes echoed");
    Ok(())
}

fn talk(address: SocketAddrV4, bytes: usize) -> Result<()> {
    let mut connection = Family::Smc.connect(address)?;
    let mut output = connection.try_clone()?;
    let sender = std::thread::spawn(move || -> Result<()> {
        output.write_all(&pattern(bytes)).context("sending")?;
        output.shutdown(Shutdown::Write).context("shutdown")
    });
    let mut received = Vec::new();
    connection.read_to_end(&mut received).context("receiving")?;
    match sender.join() {
        Ok(sent) => sent?,
        Err(_) => bail!("the sender panicked"),
    }
    ensure!(
        received.len() == bytes,
        "{} bytes came back of {bytes}",
        received.len()
    );
    let wrong = received
        .iter()
        .zip(pattern(bytes))
        .position(|(a, b)| *a != b);
    if let Some(at) = wrong {
        bail!("byte {at} came back wrong");
    }
    println!("{bytes} bytes came back");
    Ok(())
}

/// Bytes that do not repeat soon.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|i| (i % 251) as u8 ^ (i >> 12) as u8)
        .collect()
}
