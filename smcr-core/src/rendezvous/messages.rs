//! The three messages of a call's channel. Both ends run on one host, hence native byte order.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::shm::Geometry;

/// An RMB as it is announced on the channel; its memfd travels beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RmbInfo {
    /// Its name in CLC messages.
    pub token: u64,
    /// How it is cut up.
    pub geometry: Geometry,
}

/// A message on the channel of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Server to client: "I accepted the connection whose SYN carried this time stamp".
    Hello {
        /// TSval of the SYN.
        tsval: u32,
        /// The server process (GID and extension).
        gid: [u8; 16],
    },
    /// Client to server: "a CLC Proposal follows on the TCP connection, behind `early` bytes of
    /// the program". With two descriptors: the server's end of the readiness pair, and the RMB.
    Commit {
        /// Bytes the client's program sent before.
        early: u32,
        /// The client process.
        gid: [u8; 16],
        /// Where the server will write.
        rmb: RmbInfo,
        /// The client's number for its link group with the server: what was passed to it before in
        /// this group it still has.
        group: u32,
    },
    /// Server to client, before the CLC Accept. With one descriptor: the RMB.
    Memory {
        /// Where the client will write.
        rmb: RmbInfo,
    },
}

const SIZE: usize = 48;
/// Eye catcher and version of this channel's protocol.
const MAGIC: [u8; 7] = *b"SMCRSH2";

impl RmbInfo {
    fn emit(self, to: &mut [u8]) {
        to[..8].copy_from_slice(&self.token.to_ne_bytes());
        to[8..12].copy_from_slice(&self.geometry.rmbe_size.to_ne_bytes());
        to[12] = self.geometry.count;
    }

    fn parse(from: &[u8]) -> Option<Self> {
        let token = u64::from_ne_bytes(from[..8].try_into().ok()?);
        let size = u32::from_ne_bytes(from[8..12].try_into().ok()?);
        Some(Self {
            token,
            geometry: Geometry::new(from[12], size)?,
        })
    }
}

impl Message {
    fn emit(&self) -> [u8; SIZE] {
        let mut out = [0; SIZE];
        out[..7].copy_from_slice(&MAGIC);
        match self {
            Self::Hello { tsval, gid } => {
                out[7] = 1;
                out[8..12].copy_from_slice(&tsval.to_ne_bytes());
                out[12..28].copy_from_slice(gid);
            }
            Self::Commit {
                early,
                gid,
                rmb,
                group,
            } => {
                out[7] = 2;
                out[8..12].copy_from_slice(&early.to_ne_bytes());
                out[12..28].copy_from_slice(gid);
                rmb.emit(&mut out[28..]);
                out[44..].copy_from_slice(&group.to_ne_bytes());
            }
            Self::Memory { rmb } => {
                out[7] = 3;
                rmb.emit(&mut out[28..]);
            }
        }
        out
    }

    fn parse(raw: &[u8]) -> Option<Self> {
        let raw: &[u8; SIZE] = raw.try_into().ok()?;
        if raw[..7] != MAGIC {
            return None;
        }
        let word = u32::from_ne_bytes(raw[8..12].try_into().ok()?);
        let gid = raw[12..28].try_into().ok()?;
        Some(match raw[7] {
            1 => Self::Hello { tsval: word, gid },
            2 => Self::Commit {
                early: word,
                gid,
                rmb: RmbInfo::parse(&raw[28..])?,
                group: u32::from_ne_bytes(raw[44..].try_into().ok()?),
            },
            3 => Self::Memory {
                rmb: RmbInfo::parse(&raw[28..])?,
            },
            _ => return None,
        })
    }
}

/// Sends a message with its descriptors (at most two).
///
/// # Errors
/// `EPIPE` or `ECONNRESET` when the other end hung up: it will not read this.
pub fn send(
    channel: BorrowedFd<'_>,
    message: &Message,
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let bytes = message.emit();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(channel, &[IoSlice::new(&bytes)], &mut control, flags).map(drop)
}

/// Receives a message, if one is there. Its descriptors have the lowest free numbers: they are not
/// to stay there.
///
/// # Errors
/// `EAGAIN` when none is there yet, `EPIPE` when the other end hung up, `EPROTO` for anything
/// that is not a message of this protocol.
pub fn recv(channel: BorrowedFd<'_>) -> Result<(Message, Vec<OwnedFd>), Errno> {
    let mut bytes = [0u8; SIZE + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = rustix::net::recvmsg(
        channel,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        flags,
    )?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.bytes == 0 {
        return Err(Errno::PIPE);
    }
    let message = Message::parse(&bytes[..got.bytes]).ok_or(Errno::PROTO)?;
    Ok((message, fds))
}

/// The caller gives up: a message of the peer that was not sent yet never will be. One that was
/// is returned.
pub fn give_up(channel: &OwnedFd) -> Option<(Message, Vec<OwnedFd>)> {
    // After this the peer's send fails, so what is in the queue now is all there ever is.
    let _ = rustix::net::shutdown(channel, rustix::net::Shutdown::Read);
    recv(channel.as_fd()).ok()
}

#[cfg(test)]
mod tests {
    use super::{Message, RmbInfo, SIZE};
    use crate::shm::Geometry;

    #[test]
    fn messages_round_trip_and_refuse_truncation() {
        let rmb = RmbInfo {
            token: 77,
            geometry: Geometry::new(4, 65536).unwrap(),
        };
        for message in [
            Message::Hello {
                tsval: 5,
                gid: [7; 16],
            },
            Message::Commit {
                early: 9,
                gid: [8; 16],
                rmb,
                group: 0x0102_0304,
            },
            Message::Memory { rmb },
        ] {
            let raw = message.emit();
            assert_eq!(Message::parse(&raw), Some(message));
            for len in 0..SIZE {
                assert_eq!(Message::parse(&raw[..len]), None);
            }
            for at in 0..8 {
                let mut bad = raw;
                bad[at] ^= 0x80;
                assert_eq!(Message::parse(&bad), None);
            }
        }
    }
}
