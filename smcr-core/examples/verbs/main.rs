//! Tries the RDMA fabric between two processes, alone: no protocol, only WRITEs and messages.
//!
//! ```text
//! verbs serve PORT DEVICE GID-INDEX          answers one test after the other
//! verbs SERVER:PORT DEVICE GID-INDEX TEST... runs tests with it, for example `pattern 1 1000`
//! ```
//! A test fails with a message and status 1. `verbs --help` lists the tests.

mod domains;
mod end;
mod failures;
mod process;
mod traffic;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use end::{End, Gid, Outcome, Side};

const HELP: &str = "\
verbs serve PORT DEVICE GID-INDEX
verbs SERVER:PORT DEVICE GID-INDEX TEST [ARGUMENT...]

  pattern SEED COUNT     both ends WRITE random pieces and check what arrives
  full COUNT             posts without looking at completions until there is no room, COUNT times
  sleep ROUNDS           ping-pong in which each end sleeps until it is woken
  latency COUNT SIZE     ping-pong of WRITE and message, without sleeping
  throughput MIB SIZE    one-way stream of WRITEs of SIZE bytes with a message each
  long COUNT             messages of up to 8192 bytes
  many LINKS ROUNDS      LINKS queue pairs at once, made and destroyed ROUNDS times
  refused                a WRITE with a wrong key
  trespass               a WRITE with the key of another link's memory
  too-long               a message longer than the peer's buffers
  killed                 the server dies by SIGKILL
  fork                   goes on after a fork whose child drops everything
  descriptors            the program sees no descriptor of ours
  down                   traffic until the client's interface goes down, and then up
";

fn main() {
    if std::env::var_os("VERBS_LOG").is_some() {
        Logger::install();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["serve", port, device, gid] => serve(port, &Gid::new(device, gid)),
        [server, device, gid, ref test @ ..] if !test.is_empty() => {
            client(server, &Gid::new(device, gid), test)
        }
        _ => {
            print!("{HELP}");
            return;
        }
    };
    if let Err(error) = result {
        eprintln!("verbs: {error}");
        std::process::exit(1);
    }
}

fn serve(port: &str, gid: &Gid) -> Outcome {
    let listener = TcpListener::bind(("::", port.parse::<u16>()?))?;
    loop {
        let (stream, _) = listener.accept()?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let test: Vec<&str> = line.split_whitespace().collect();
        if let Err(error) = run(&test, gid, stream, Side::Server) {
            eprintln!("verbs: {line:?}: {error}");
        }
    }
}

fn client(server: &str, gid: &Gid, test: &[&str]) -> Outcome {
    let mut stream = TcpStream::connect(server)?;
    // Nothing here waits for ever.
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    writeln!(stream, "{}", test.join(" "))?;
    let begun = Instant::now();
    run(test, gid, BufReader::new(stream), Side::Client)?;
    println!("{}: ok, {:.2} s", test[0], begun.elapsed().as_secs_f64());
    Ok(())
}

fn run(test: &[&str], gid: &Gid, stream: BufReader<TcpStream>, side: Side) -> Outcome {
    let start = |receive_size| End::new(gid, stream, side, receive_size);
    match *test {
        ["pattern", seed, count] => {
            traffic::pattern(&mut start(44)?, seed.parse()?, count.parse()?)
        }
        ["full", count] => traffic::full(&mut start(44)?, count.parse()?),
        ["sleep", rounds] => traffic::sleep(&mut start(44)?, rounds.parse()?),
        ["latency", count, size] => {
            traffic::latency(&mut start(44)?, count.parse()?, size.parse()?)
        }
        ["throughput", mib, size] => {
            traffic::throughput(&mut start(44)?, mib.parse()?, size.parse()?)
        }
        ["long", count] => traffic::long(&mut start(8192)?, count.parse()?),
        ["many", links, rounds] => {
            process::many(&mut start(44)?, gid, links.parse()?, rounds.parse()?)
        }
        ["refused"] => failures::refused(&mut start(44)?),
        ["trespass"] => domains::trespass(&mut start(44)?),
        ["too-long"] => {
            let size = if side == Side::Server { 44 } else { 8192 };
            failures::too_long(&mut start(size)?)
        }
        ["killed"] => failures::killed(&mut start(44)?),
        ["fork"] => process::fork(&mut start(44)?),
        ["descriptors"] => {
            if side == Side::Client {
                process::descriptors(gid)?;
            }
            Ok(())
        }
        ["down"] => failures::down(&mut start(44)?),
        _ => Err(format!("unknown test {test:?}").into()),
    }
}

/// Shows what the library logs.
struct Logger;

impl Logger {
    fn install() {
        let _ = log::set_logger(&Self);
        log::set_max_level(log::LevelFilter::Debug);
    }
}

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("{}", record.args());
    }

    fn flush(&self) {}
}
