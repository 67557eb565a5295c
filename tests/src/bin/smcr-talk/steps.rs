//! What one end does with a connection.
//!
//! | step | does |
//! | --- | --- |
//! | `send:N`, `recv:N` | N bytes; what comes is compared with what the other end sends |
//! | `both:N` | both at once |
//! | `echo` | sends back what comes, until the end |
//! | `ping:N`, `pong:N` | one byte there and back, N times |
//! | `urgent:N`, `pri:N` | the urgent byte N; waits for it |
//! | `pile:N` | waits until N bytes can be read, and leaves them |
//! | `eof` | the end of the stream has to come next |
//! | `gone` | the end, or an error, has to come, after whatever else |
//! | `reset` | an error has to come |
//! | `refused` | sends until that fails |
//! | `shut`, `close`, `linger0` | `shutdown(SHUT_WR)`, `close()`, closing by a reset |
//! | `sleep:MS` | that |
//! | `say:TEXT` | a line on stdout |
//! | `stay` | until it is killed |

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use socket2::SockRef;

use crate::socket;

#[derive(Clone, Debug)]
pub(crate) struct Step {
    name: String,
    argument: String,
}

pub(crate) fn parse(text: &str) -> Result<Vec<Step>> {
    let steps = text.split(',').map(|step| {
        let (name, argument) = step.split_once(':').unwrap_or((step, ""));
        Step {
            name: name.to_owned(),
            argument: argument.to_owned(),
        }
    });
    Ok(steps.collect())
}

/// Does all of them. `trace`: says on stderr which one it is at.
pub(crate) fn run(stream: TcpStream, steps: &[Step], trace: bool) -> Result<()> {
    let mut end = End {
        stream: Some(stream),
        sent: 0,
        received: 0,
    };
    for step in steps {
        if trace {
            eprintln!("at {}:{}", step.name, step.argument);
        }
        end.step(step)
            .with_context(|| format!("{}:{}", step.name, step.argument))?;
    }
    Ok(())
}

/// How long until something must have happened that only the peer can do.
const PATIENCE: Duration = Duration::from_secs(100);

struct End {
    stream: Option<TcpStream>,
    sent: usize,
    received: usize,
}

impl End {
    fn step(&mut self, step: &Step) -> Result<()> {
        let number = || step.argument.parse::<usize>().context("not a number");
        let stream = self.stream.as_ref().context("closed")?;
        match step.name.as_str() {
            "send" => {
                send(stream, self.sent, number()?)?;
                self.sent += number()?;
            }
            "recv" => {
                receive(stream, self.received, number()?)?;
                self.received += number()?;
            }
            "both" => {
                let output = stream.try_clone()?;
                let (from, count) = (self.sent, number()?);
                let sender = std::thread::spawn(move || send(&output, from, count));
                let received = receive(stream, self.received, count);
                match sender.join() {
                    Ok(sent) => sent?,
                    Err(_) => bail!("the sender panicked"),
                }
                received?;
                self.sent += count;
                self.received += count;
            }
            "echo" => echo(stream)?,
            "ping" | "pong" => ping_pong(stream, step.name == "ping", number()?)?,
            "urgent" => socket::send_urgent(stream, number()? as u8)?,
            "pri" => {
                let byte = socket::receive_urgent(stream)?;
                ensure!(usize::from(byte) == number()?, "{byte} came");
            }
            "pile" => {
                let start = Instant::now();
                while socket::readable(stream)? < number()? {
                    ensure!(start.elapsed() < PATIENCE, "that many never came");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            "eof" => {
                let count = (&*stream).read(&mut [0; 16])?;
                ensure!(count == 0, "{count} bytes more came");
            }
            "gone" => println!("found: {}", drain(stream)),
            "reset" => {
                let found = drain(stream);
                println!("found: {found}");
                ensure!(found != "the end", "the end came, no error");
            }
            "refused" => println!("found: {}", refused(stream)?),
            "shut" => stream.shutdown(Shutdown::Write)?,
            "close" => self.stream = None,
            "linger0" => SockRef::from(stream).set_linger(Some(Duration::ZERO))?,
            "sleep" => std::thread::sleep(Duration::from_millis(number()? as u64)),
            "say" => println!("{}", step.argument),
            "stay" => loop {
                std::thread::park();
            },
            _ => bail!("no such step"),
        }
        Ok(())
    }
}

/// A prime number of bytes, so that they come to lie elsewhere in each round of a ring.
const PATTERN: usize = 65_521;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as u8
    };
    (0..PATTERN).map(|_| next()).collect()
});

/// The bytes of the stream from there on, as many as lie in one piece.
fn pattern(position: usize, at_most: usize) -> &'static [u8] {
    let bytes = &BYTES[position % PATTERN..];
    &bytes[..bytes.len().min(at_most)]
}

fn send(mut stream: &TcpStream, from: usize, count: usize) -> Result<()> {
    let mut done = 0;
    while done < count {
        let bytes = pattern(from + done, count - done);
        stream
            .write_all(bytes)
            .with_context(|| format!("sending, after {done} bytes"))?;
        done += bytes.len();
    }
    Ok(())
}

fn receive(mut stream: &TcpStream, from: usize, count: usize) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut done = 0;
    while done < count {
        let space = buffer.len().min(count - done);
        let got = stream
            .read(&mut buffer[..space])
            .with_context(|| format!("receiving, after {done} bytes"))?;
        ensure!(got > 0, "the end came after {done} bytes");
        let mut checked = 0;
        while checked < got {
            let expected = pattern(from + done + checked, got - checked);
            let came = &buffer[checked..checked + expected.len()];
            if came != expected {
                let at = came.iter().zip(expected).position(|(a, b)| a != b);
                bail!("byte {} is wrong", done + checked + at.unwrap_or(0));
            }
            checked += expected.len();
        }
        done += got;
    }
    Ok(())
}

fn echo(mut stream: &TcpStream) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).context("receiving")? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).context("sending")?,
        }
    }
}

fn ping_pong(mut stream: &TcpStream, begins: bool, count: usize) -> Result<()> {
    let start = Instant::now();
    let mut byte = [0];
    for round in 0..count {
        let mine = [round as u8];
        if begins {
            stream.write_all(&mine)?;
        }
        stream
            .read_exact(&mut byte)
            .with_context(|| format!("round {round}"))?;
        ensure!(byte == mine, "round {round}: {byte:?} came");
        if !begins {
            stream.write_all(&mine)?;
        }
    }
    let each = start.elapsed().as_micros() / count.max(1) as u128;
    println!("{each} us for one byte there and back");
    Ok(())
}

/// Reads to the end, and says what that was.
fn drain(mut stream: &TcpStream) -> String {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return "the end".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
}

fn refused(mut stream: &TcpStream) -> Result<String> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        match stream.write(pattern(0, 1000)) {
            Ok(_) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Ok(error.to_string()),
        }
    }
    bail!("sending never failed")
}
