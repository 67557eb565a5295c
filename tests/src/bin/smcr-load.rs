//! A small load program over TCP or a unix stream socket, with plain blocking calls and threads.
//!
//! ```text
//! smcr-load serve rate|ping|stream  PORT|ADDRESS:PORT|PATH THREADS
//! smcr-load rate|ping               PORT|ADDRESS:PORT|PATH THREADS SECONDS    prints one number
//! smcr-load stream                  PORT|ADDRESS:PORT|PATH THREADS SECONDS [BYTES OF A CALL]
//! ```
//! The server has one thread per address: 127.0.0.1, 127.0.0.2, ... with PORT; ADDRESS with PORT,
//! PORT + 1, ...; PATH, PATH.1, ... For `rate`
//! each client thread goes round several of them: with one, closed connections in TIME_WAIT would
//! leave it no free port after some 14,000 connections, and the rate would measure that.
//!
//! It knows nothing of the library: whether its connections move is up to LD_PRELOAD.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

const MESSAGE: usize = 64;
/// Addresses per client thread of `rate`.
const ROUND: u64 = 8;
const CHUNK: usize = 128 << 10;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", work, place, threads] => serve(work, place, number(threads)?),
        [work, place, threads, seconds] => show(work, place, threads, seconds, CHUNK),
        ["stream", place, threads, seconds, chunk] => {
            let chunk = number(chunk)?.clamp(1, 1 << 30) as usize;
            show("stream", place, threads, seconds, chunk)
        }
        _ => Err(invalid("see the head of smcr-load.rs for how to call it")),
    }
}

fn serve(work: &str, place: &str, threads: u64) -> Result<()> {
    let threads = if work == "rate" {
        threads * ROUND
    } else {
        threads
    };
    let work: fn(Box<dyn Stream>) -> Result<()> = match work {
        "rate" => |mut stream| echo(&mut *stream, 1),
        "ping" => |mut stream| echo(&mut *stream, MESSAGE),
        "stream" => |mut stream| swallow(&mut *stream),
        _ => return Err(invalid("unknown work")),
    };
    // The first address comes last: whoever waits for it finds the others too.
    let listeners: Result<Vec<_>> = (0..threads)
        .rev()
        .map(|number| Listener::bind(&Place::new(place, number)?))
        .collect();
    let workers: Vec<_> = listeners?
        .into_iter()
        .map(|listener| {
            std::thread::spawn(move || {
                loop {
                    if let Err(error) = listener.accept().and_then(work) {
                        // One failed connection is a failed run: end the other workers too.
                        eprintln!("smcr-load serve: {error}");
                        std::process::exit(1);
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        let _never: std::thread::Result<()> = worker.join();
    }
    Ok(())
}

fn show(work: &str, place: &str, threads: &str, seconds: &str, chunk: usize) -> Result<()> {
    let time = Duration::from_secs(number(seconds)?);
    println!("{}", load(work, place, number(threads)?, time, chunk)?);
    Ok(())
}

/// Sends back messages until the peer ends.
fn echo(stream: &mut dyn Stream, size: usize) -> Result<()> {
    let mut buffer = [0; MESSAGE];
    loop {
        match stream.read_exact(&mut buffer[..size]) {
            Ok(()) => stream.write_all(&buffer[..size])?,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Reads everything, then says how much it was.
fn swallow(stream: &mut dyn Stream) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0_u64;
    loop {
        let count = stream.read(&mut buffer)? as u64;
        if count == 0 {
            return stream.write_all(&total.to_le_bytes());
        }
        total += count;
    }
}

/// Works for a time, gives a figure.
type Load = fn(&str, u64, Duration, usize) -> Result<f64>;

fn load(work: &str, place: &str, threads: u64, time: Duration, chunk: usize) -> Result<f64> {
    let (work, share): (Load, f64) = match work {
        // Rates of threads add up, round trips are averaged.
        "rate" => (rate, 1.0),
        "ping" => (ping, 1.0 / threads as f64),
        "stream" => (push, 1.0),
        _ => return Err(invalid("unknown work")),
    };
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let place = place.to_owned();
            std::thread::spawn(move || work(&place, thread, time, chunk))
        })
        .collect();
    let mut sum = 0.0;
    for worker in workers {
        sum += worker.join().map_err(|_| invalid("a worker panicked"))??;
    }
    Ok(sum * share)
}

/// Connections per second.
fn rate(place: &str, thread: u64, time: Duration, _chunk: usize) -> Result<f64> {
    let places: Result<Vec<_>> = (thread * ROUND..(thread + 1) * ROUND)
        .map(|number| Place::new(place, number))
        .collect();
    let places = places?;
    let once = |count: u32| {
        let mut stream = connect(&places[count as usize % places.len()])?;
        let sent = [count as u8];
        let mut received = [0];
        stream.write_all(&sent)?;
        stream.read_exact(&mut received)?;
        same(&sent, &received)
    };
    // Not in the figure: what two peers of SMC-R do once.
    once(0)?;
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < time {
        once(count)?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// The median round trip in seconds.
fn ping(place: &str, thread: u64, time: Duration, _chunk: usize) -> Result<f64> {
    let mut stream = connect(&Place::new(place, thread)?)?;
    let mut times = Vec::with_capacity(1 << 20);
    let mut sent = [0; MESSAGE];
    let mut received = [0; MESSAGE];
    // Not in the figure: a stream that moves to SMC does so during its first round trip.
    stream.write_all(&sent)?;
    stream.read_exact(&mut received)?;
    let start = Instant::now();
    while start.elapsed() < time {
        sent[0] = times.len() as u8;
        let before = Instant::now();
        stream.write_all(&sent)?;
        stream.read_exact(&mut received)?;
        times.push(before.elapsed().as_nanos() as u64);
        same(&sent, &received)?;
    }
    times.sort_unstable();
    eprintln!(
        "{} round trips, {} voluntary changes of context",
        times.len(),
        changes_of_context()
    );
    Ok(times[times.len() / 2] as f64 * 1e-9)
}

/// How often threads of this process went to sleep.
fn changes_of_context() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: there is room for what is asked; all zero is valid.
    unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init().ru_nvcsw
    }
}

/// Bytes per second, one way.
fn push(place: &str, thread: u64, time: Duration, chunk: usize) -> Result<f64> {
    let mut stream = connect(&Place::new(place, thread)?)?;
    let buffer = vec![0x5a; chunk];
    let start = Instant::now();
    let mut total = 0_u64;
    while start.elapsed() < time {
        stream.write_all(&buffer)?;
        total += chunk as u64;
    }
    stream.end_writing()?;
    let mut counted = [0; 8];
    stream.read_exact(&mut counted)?;
    same(&total.to_le_bytes(), &counted)?;
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

fn same(sent: &[u8], received: &[u8]) -> Result<()> {
    if sent == received {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidData,
        format!("sent {sent:?}, received {received:?}"),
    ))
}

/// Either kind of stream.
trait Stream: Read + Write {
    fn end_writing(&self) -> Result<()>;
}

impl Stream for TcpStream {
    fn end_writing(&self) -> Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn end_writing(&self) -> Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

/// Where one thread's peer is.
enum Place {
    Tcp(SocketAddrV4),
    Unix(String),
}

impl Place {
    fn new(place: &str, number: u64) -> Result<Self> {
        let last = u8::try_from(number + 1).map_err(|_| invalid("too many addresses"))?;
        if let Ok(mut address) = place.parse::<SocketAddrV4>() {
            let port = u64::from(address.port()) + number;
            address.set_port(port.try_into().map_err(|_| invalid("too many ports"))?);
            return Ok(Self::Tcp(address));
        }
        Ok(match place.parse() {
            Ok(port) => Self::Tcp(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), port)),
            Err(_) if number == 0 => Self::Unix(place.to_owned()),
            Err(_) => Self::Unix(format!("{place}.{number}")),
        })
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn bind(place: &Place) -> Result<Self> {
        Ok(match place {
            Place::Tcp(address) => Self::Tcp(TcpListener::bind(address)?),
            Place::Unix(path) => Self::Unix(UnixListener::bind(path)?),
        })
    }

    fn accept(&self) -> Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Unix(listener) => Box::new(listener.accept()?.0),
        })
    }
}

fn connect(place: &Place) -> Result<Box<dyn Stream>> {
    Ok(match place {
        Place::Tcp(address) => {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Place::Unix(path) => Box::new(UnixStream::connect(path)?),
    })
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| invalid("not a number"))
}

fn invalid(text: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, text)
}
