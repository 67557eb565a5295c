//! What the host and the agent in a guest say to each other over a virtio serial port.
//!
//! The port is a stream of bytes both ways. A frame is its length (four bytes, little-endian, of
//! what follows), the job that it belongs to (four bytes), its kind (one byte) and a payload.
//! The host numbers the jobs.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Longest payload that is sent in one frame.
pub const CHUNK: usize = 32 << 10;

/// Longest frame that a receiver takes; a longer one means that the stream is out of step.
const LONGEST: u32 = 1 << 20;

/// Names of the two ports of a guest: the one the host drives it by, and one for a person.
pub const PORTS: [&str; 2] = ["smcr.control", "smcr.shell"];

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Host: start a program; the payload is a [`Start`] as JSON.
    Start = 1,
    /// Host: bytes for its standard input; none means its end.
    Stdin = 2,
    /// Host: send its process group a signal (four bytes).
    Signal = 3,
    /// Host: its terminal has so many rows and columns (two bytes each).
    Resize = 4,
    /// Host: power off.
    PowerOff = 5,
    /// Guest: the agent is there.
    Hello = 16,
    /// Guest: bytes that it wrote to stdout, or to its terminal.
    Stdout = 17,
    /// Guest: bytes that it wrote to stderr.
    Stderr = 18,
    /// Guest: it has ended, with this wait status (four bytes). The last frame of a job.
    Exit = 19,
    /// Guest: it could not be started; the payload says why. The last frame of a job.
    Refused = 20,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Start,
        Self::Stdin,
        Self::Signal,
        Self::Resize,
        Self::PowerOff,
        Self::Hello,
        Self::Stdout,
        Self::Stderr,
        Self::Exit,
        Self::Refused,
    ];
}

/// A program to start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Start {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables set in its environment.
    pub env: Vec<(String, String)>,
    /// Where it starts; the root directory if empty.
    pub directory: String,
    /// Rows and columns, if it gets a terminal.
    pub terminal: Option<(u16, u16)>,
}

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The job's number.
    pub job: u32,
    /// What it is.
    pub kind: Kind,
    /// The rest.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The payload as a number, for those kinds whose payload is one.
    pub fn number(&self) -> io::Result<i32> {
        let bytes = self.payload.as_slice().try_into();
        Ok(i32::from_le_bytes(
            bytes.map_err(|_| bad("not four bytes"))?,
        ))
    }
}

/// Writes a frame.
pub fn send(stream: &mut impl Write, job: u32, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(payload.len() + 9);
    bytes.extend((payload.len() as u32 + 5).to_le_bytes());
    bytes.extend(job.to_le_bytes());
    bytes.push(kind as u8);
    bytes.extend(payload);
    stream.write_all(&bytes)?;
    stream.flush()
}

/// Reads a frame; `UnexpectedEof` where the other side is gone.
pub fn receive(stream: &mut impl Read) -> io::Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = word(0);
    if !(5..=LONGEST).contains(&length) {
        return Err(bad("a frame of impossible length"));
    }
    let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == head[8]);
    let kind = kind.ok_or_else(|| bad("a frame of unknown kind"))?;
    let mut payload = vec![0; length as usize - 5];
    stream.read_exact(&mut payload)?;
    Ok(Frame {
        job: word(4),
        kind,
        payload,
    })
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Kind, receive, send};

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut stream = Vec::new();
        for kind in Kind::ALL {
            send(&mut stream, 7, kind, b"abc").unwrap();
        }
        let mut stream = stream.as_slice();
        for kind in Kind::ALL {
            let frame = receive(&mut stream).unwrap();
            assert_eq!((frame.job, frame.kind), (7, kind));
            assert_eq!(frame.payload, b"abc");
        }
        assert!(receive(&mut stream).is_err());
    }

    #[test]
    fn a_stream_out_of_step_is_refused() {
        assert!(receive(&mut [0xff; 64].as_slice()).is_err());
        assert!(receive(&mut [0; 64].as_slice()).is_err());
    }
}
