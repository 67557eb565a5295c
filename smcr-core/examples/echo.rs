//! An echo server and client in the native API. Each talks to its own kind, to programs under
//! `LD_PRELOAD=libsmcr.so`, and to plain TCP programs, and says which it was.
//!
//! ```text
//! cargo run --example echo -- server 127.0.0.1:7777
//! cargo run --example echo -- client 127.0.0.1:7777 hello world
//! LD_PRELOAD=target/release/libsmcr.so nc 127.0.0.1 7777
//! ```

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use smcr_core::net::{Mode, SmcListener, SmcStream};

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match &words[..] {
        ["server", addr] => server(addr, usize::MAX),
        ["server", addr, "--connections", count] => {
            let count = count.parse().map_err(io::Error::other)?;
            server(addr, count)
        }
        ["client", addr, text @ ..] => client(addr, &text.join(" ")),
        _ => Err(io::Error::other(
            "usage: echo server ADDRESS [--connections N] | echo client ADDRESS TEXT...",
        )),
    }
}

fn server(addr: &str, connections: usize) -> io::Result<()> {
    let listener = SmcListener::bind(addr)?;
    println!("listening on {}", listener.local_addr()?);
    let mut workers = Vec::new();
    for stream in listener.incoming().take(connections) {
        let stream = stream?;
        workers.push(std::thread::spawn(move || {
            if let Err(error) = echo(&stream) {
                eprintln!("{:?}: {error}", stream.peer_addr());
            }
        }));
    }
    for worker in workers {
        let _ = worker.join();
    }
    Ok(())
}

fn echo(mut stream: &SmcStream) -> io::Result<()> {
    println!("from {}: {}", stream.peer_addr()?, carrier(stream));
    let mut buf = [0; 64 << 10];
    loop {
        match stream.read(&mut buf)? {
            0 => return Ok(()),
            n => stream.write_all(&buf[..n])?,
        }
    }
}

fn client(addr: &str, text: &str) -> io::Result<()> {
    let mut stream = SmcStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    println!("{}", String::from_utf8_lossy(&answer));
    println!("to {}: {}", stream.peer_addr()?, carrier(&stream));
    stream.shutdown(Shutdown::Write)?;
    let rest = stream.read(&mut [0; 1])?;
    assert_eq!(rest, 0, "the server sent more than it got");
    Ok(())
}

fn carrier(stream: &SmcStream) -> String {
    match (stream.mode(), stream.fallback_reason()) {
        (Mode::Tcp, Some(reason)) => format!("TCP, {reason}: {}", reason.advice()),
        (mode, _) => format!("{mode:?}"),
    }
}
