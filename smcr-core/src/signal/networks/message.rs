//! The datagrams. All have one size; numbers are big-endian.
//!
//! | offset | size | what |
//! | --- | --- | --- |
//! | 0 | 8 | `SMCRASK`, version 1 |
//! | 8 | 1 | kind: 1 Ask, 2 Call, 3 Commit, 4 Go, 5 Stop |
//! | 9 | 1 | 0 |
//! | 10 | 2 | the server's TCP port |
//! | 12 | 4 | Call: the SYN's TSval; Commit: bytes that the program sent before; else 0 |
//! | 16 | 8 | the server's nonce; Ask: 0 |
//! | 24 | 8 | the client's nonce; Ask, Call: 0 |

/// Bytes of a datagram.
pub const SIZE: usize = 32;

const MAGIC: [u8; 8] = *b"SMCRASK\x01";

/// Who is meant: what each end drew for this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonces {
    /// The server's.
    pub server: u64,
    /// The client's.
    pub client: u64,
}

/// A datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Client: I am connecting. Opens the way for what comes back, and proves nothing.
    Ask,
    /// Server: I accepted the connection whose SYN had this time stamp.
    Call {
        /// TSval of the SYN.
        tsval: u32,
        /// The server's nonce.
        server: u64,
    },
    /// Client: CLC will follow, after this many bytes of the program, if you say Go.
    Commit {
        /// Bytes of the stream in front of the Proposal.
        early: u32,
        /// Who is meant.
        nonces: Nonces,
    },
    /// Server: I am looking for CLC.
    Go(Nonces),
    /// Either: I stay on TCP. From a client: no CLC byte was sent, and none will be. From a
    /// server: no Go was sent, and none will be.
    Stop(Nonces),
}

impl Message {
    /// The datagram. `port` is the server's TCP port.
    pub fn emit(&self, port: u16) -> [u8; SIZE] {
        let none = Nonces {
            server: 0,
            client: 0,
        };
        let (kind, word, nonces) = match *self {
            Self::Ask => (1, 0, none),
            Self::Call { tsval, server } => (2, tsval, Nonces { server, ..none }),
            Self::Commit { early, nonces } => (3, early, nonces),
            Self::Go(nonces) => (4, 0, nonces),
            Self::Stop(nonces) => (5, 0, nonces),
        };
        let mut out = [0; SIZE];
        out[..8].copy_from_slice(&MAGIC);
        out[8] = kind;
        out[10..12].copy_from_slice(&port.to_be_bytes());
        out[12..16].copy_from_slice(&word.to_be_bytes());
        out[16..24].copy_from_slice(&nonces.server.to_be_bytes());
        out[24..].copy_from_slice(&nonces.client.to_be_bytes());
        out
    }

    /// Understands a datagram about the server's TCP port `port`; `None` for anything else. The
    /// fields that a kind does not use are not looked at.
    pub fn parse(raw: &[u8], port: u16) -> Option<Self> {
        let raw: &[u8; SIZE] = raw.try_into().ok()?;
        let (head, nonces) = raw.split_at(16);
        if head[..8] != MAGIC || head[10..12] != port.to_be_bytes() {
            return None;
        }
        let word = u32::from_be_bytes(head[12..].try_into().ok()?);
        let (server, client) = nonces.split_at(8);
        let nonces = Nonces {
            server: u64::from_be_bytes(server.try_into().ok()?),
            client: u64::from_be_bytes(client.try_into().ok()?),
        };
        Some(match head[8] {
            1 => Self::Ask,
            2 => Self::Call {
                tsval: word,
                server: nonces.server,
            },
            3 => Self::Commit {
                early: word,
                nonces,
            },
            4 => Self::Go(nonces),
            5 => Self::Stop(nonces),
            _ => return None,
        })
    }
}
