//! rtnetlink: requests, answers and attributes.
//!
//! The kernel answers a request while it is being sent, so that an answer is there, or never
//! comes: nothing here waits.

use std::mem::size_of;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// Room for a single answer: an interface is described in about 1 KiB.
const ANSWER: usize = 8 << 10;
/// Room for one batch of a dump; the kernel makes them no longer.
const BATCH: usize = 32 << 10;
/// Batches of a dump that are read. 64 K routes or links are beyond any host of ours.
const MAX_BATCHES: usize = 4096;

const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// Flags that the kernel keeps in the type of an attribute.
const TYPE_MASK: u16 = 0x3fff;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;

/// A request: a fixed part, and attributes behind it.
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// For one answer.
    pub(super) fn get(kind: u16, fixed: &[u8]) -> Self {
        Self::new(kind, NLM_F_REQUEST, fixed)
    }

    /// For all that there are.
    pub(super) fn dump(kind: u16, fixed: &[u8]) -> Self {
        Self::new(kind, NLM_F_REQUEST | NLM_F_DUMP, fixed)
    }

    fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        pad(&mut bytes);
        Self { bytes }
    }

    /// Sets four bytes of the fixed part, from `at` on.
    pub(super) fn set_fixed(&mut self, at: usize, value: u32) {
        self.bytes[HEADER + at..HEADER + at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    /// Adds an attribute.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        // Values are names and addresses: a few bytes.
        let length = (ATTRIBUTE + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(&mut self.bytes);
        self
    }

    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A socket to the kernel's tables of the current network namespace.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// # Errors
    /// Those of socket(2).
    pub(super) fn open() -> Result<Self, Errno> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is 0.
            None,
        )?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::new(),
        })
    }

    /// Sends a request and calls `each` with every answer of the type `answer`, without its header.
    ///
    /// # Errors
    /// What the kernel answers; EPROTO if the answer makes no sense, EAGAIN if there is none.
    pub(super) fn ask(
        &mut self,
        request: Request,
        answer: u16,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Errno> {
        self.sequence += 1;
        let is_dump = request.bytes[6..8] == (NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes();
        let request = request.finish(self.sequence);
        send(&self.socket, &request, SendFlags::NOSIGNAL)?;
        let room = if is_dump { BATCH } else { ANSWER };
        self.buffer.resize(room.max(self.buffer.len()), 0);
        for _ in 0..MAX_BATCHES {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            let (_, length) = recv(&self.socket, &mut self.buffer[..], flags)?;
            // Truncated, it would be understood wrongly.
            let batch = self.buffer.get(..length).ok_or(Errno::MSGSIZE)?;
            let end = read_batch(batch, self.sequence, answer, &mut each)?;
            if end || !is_dump {
                return Ok(());
            }
        }
        Err(Errno::PROTO)
    }
}

/// Calls `each` with the bodies of the messages of type `answer`. Returns whether it was the last
/// batch of a dump.
pub(super) fn read_batch(
    mut batch: &[u8],
    sequence: u32,
    answer: u16,
    each: &mut impl FnMut(&[u8]),
) -> Result<bool, Errno> {
    while !batch.is_empty() {
        let length = read_u32(batch).ok_or(Errno::PROTO)? as usize;
        let (kind, is_ours) = match (read_u16(&batch[4..]), batch.get(8..).and_then(read_u32)) {
            (Some(kind), Some(found)) => (kind, found == sequence),
            _ => return Err(Errno::PROTO),
        };
        let body = batch.get(HEADER..length).ok_or(Errno::PROTO)?;
        match kind {
            _ if !is_ours => {}
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = read_u32(body).ok_or(Errno::PROTO)? as i32;
                if code != 0 {
                    let code = code.checked_neg().filter(|code| (1..4096).contains(code));
                    return Err(code.map_or(Errno::PROTO, Errno::from_raw_os_error));
                }
            }
            kind if kind == answer => each(body),
            _ => {}
        }
        batch = batch.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The attributes behind a fixed part of `fixed` bytes: type and value. Ends at the first one that
/// makes no sense.
pub(super) fn attributes(body: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(fixed..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(rest)?);
        let kind = read_u16(rest.get(2..)?)? & TYPE_MASK;
        let value = rest.get(ATTRIBUTE..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(super) fn read_u16(bytes: &[u8]) -> Option<u16> {
    let bytes = bytes.get(..size_of::<u16>())?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

pub(super) fn read_u32(bytes: &[u8]) -> Option<u32> {
    let bytes = bytes.get(..size_of::<u32>())?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// A string that may end in NULs.
pub(super) fn read_text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).ok().map(str::to_owned)
}
