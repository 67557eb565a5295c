//! Random traffic both ways over one connection, whose every byte the receiver can check.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// A generator of random numbers (splitmix64).
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number from 1 to `most`.
    pub(crate) fn upto(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize + 1
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// One direction of a connection: the bytes that belong to each position.
pub(crate) struct Bytes {
    key: u64,
    at: u64,
}

impl Bytes {
    pub(crate) fn new(seed: u64, from_client: bool) -> Self {
        Self {
            key: mix(seed ^ u64::from(from_client)),
            at: 0,
        }
    }

    fn byte(&self, at: u64) -> u8 {
        (mix(self.key ^ (at >> 3)) >> ((at & 7) * 8)) as u8
    }

    /// Fills with what comes next.
    pub(crate) fn fill(&self, buf: &mut [u8]) {
        for (i, byte) in buf.iter_mut().enumerate() {
            *byte = self.byte(self.at + i as u64);
        }
    }

    pub(crate) fn advance(&mut self, len: usize) {
        self.at += len as u64;
    }

    /// Whether this is what comes next.
    pub(crate) fn check(&mut self, buf: &[u8]) -> io::Result<()> {
        for (i, byte) in buf.iter().enumerate() {
            let at = self.at + i as u64;
            if *byte != self.byte(at) {
                return Err(io::Error::other(format!("foreign byte at {at}")));
            }
        }
        self.advance(buf.len());
        Ok(())
    }
}

/// How one connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Eof,
    Reset,
}

/// An end as TCP has it, or what else it was.
fn end(result: io::Result<()>) -> io::Result<End> {
    match result {
        Ok(()) => Ok(End::Eof),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ok(End::Reset),
            _ => Err(error),
        },
    }
}

/// Both ways until the peer is gone. The first eight bytes of the client are the seed.
pub(crate) fn exchange(stream: &TcpStream, seed: Option<u64>) -> io::Result<End> {
    let client = seed.is_some();
    let result = (|| {
        let seed = match seed {
            Some(seed) => {
                (&*stream).write_all(&seed.to_ne_bytes())?;
                seed
            }
            None => {
                let mut raw = [0; 8];
                match (&*stream).read_exact(&mut raw) {
                    Ok(()) => u64::from_ne_bytes(raw),
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                    Err(e) => return Err(e),
                }
            }
        };
        let out = Bytes::new(seed, client);
        let inn = Bytes::new(seed, !client);
        let random = Random(seed ^ u64::from(client));
        match seed % 5 {
            0 => two_threads(stream, out, inn, random),
            1 => polled(stream, out, inn, random),
            2 => in_turns(stream, out, inn, seed, client),
            3 if client => send(stream, out, random),
            4 if !client => send(stream, out, random),
            _ => receive(stream, inn, random),
        }
    })();
    end(result)
}

fn send(mut stream: &TcpStream, mut out: Bytes, mut random: Random) -> io::Result<()> {
    let mut buf = vec![0; 40_000];
    loop {
        let len = random.upto(40_000);
        out.fill(&mut buf[..len]);
        let n = stream.write(&buf[..len])?;
        out.advance(n);
    }
}

fn receive(mut stream: &TcpStream, mut inn: Bytes, mut random: Random) -> io::Result<()> {
    let mut buf = vec![0; 40_000];
    loop {
        let len = random.upto(40_000);
        let n = stream.read(&mut buf[..len])?;
        if n == 0 {
            return Ok(());
        }
        inn.check(&buf[..n])?;
    }
}

/// A reader and a writer, each blocking.
fn two_threads(stream: &TcpStream, out: Bytes, inn: Bytes, random: Random) -> io::Result<()> {
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| send(stream, out, random.clone()));
        let received = end(receive(stream, inn, random.clone()));
        let sent = writer.join().map_err(|_| io::Error::other("panic"))?;
        end(sent)?;
        received.map(drop)
    })
}

/// One thread, never blocking but in poll.
fn polled(
    stream: &TcpStream,
    mut out: Bytes,
    mut inn: Bytes,
    mut random: Random,
) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut buf = vec![0; 20_000];
    let mut writable = true;
    loop {
        let mut entry = libc::pollfd {
            fd: stream.as_raw_fd(),
            events: libc::POLLIN | (libc::POLLOUT * i16::from(writable)),
            revents: 0,
        };
        // SAFETY: one valid entry.
        if unsafe { libc::poll(&mut entry, 1, 20_000) } == 0 {
            return Err(io::Error::other("poll slept for 20 s"));
        }
        if entry.revents & !libc::POLLOUT != 0 {
            let len = random.upto(20_000);
            match (&*stream).read(&mut buf[..len]) {
                Ok(0) => return Ok(()),
                Ok(n) => inn.check(&buf[..n])?,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        if entry.revents & libc::POLLOUT != 0 {
            let len = random.upto(20_000);
            out.fill(&mut buf[..len]);
            match (&*stream).write(&buf[..len]) {
                Ok(n) => out.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        // Sometimes there is nothing to say for a while.
        writable = !random.next().is_multiple_of(8);
    }
}

/// Requests and answers of lengths that both ends know.
fn in_turns(
    mut stream: &TcpStream,
    mut out: Bytes,
    mut inn: Bytes,
    seed: u64,
    client: bool,
) -> io::Result<()> {
    let mut lengths = Random(seed);
    let mut buf = vec![0; 10_000];
    let mut mine = client;
    loop {
        let len = lengths.upto(10_000);
        if mine {
            out.fill(&mut buf[..len]);
            stream.write_all(&buf[..len])?;
            out.advance(len);
        } else {
            let mut got = 0;
            while got < len {
                let n = stream.read(&mut buf[got..len])?;
                if n == 0 {
                    return inn.check(&buf[..got]);
                }
                got += n;
            }
            inn.check(&buf[..len])?;
        }
        mine = !mine;
    }
}
