//! A link group (RFC 7609 §2.2): one link, the RMBs that the peer writes to, and the connections
//! that share them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::buffers::Buffers;
use super::fabric::{Link, LinkId};
use super::handle::ConnId;
use super::state::{MOST_CONNECTIONS, News};
use crate::Reason;
use crate::cdc::{Cdc, CdcMessage};
use crate::clc::{Gid, PeerId, Token};
use crate::stat::Role;

/// How many CDC messages of one connection are kept that overtake its Confirm (RFC 7609 §3.5.2.4).
/// Each says all that those before it said.
const EARLY: usize = 16;

/// What makes two connections share a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupKey {
    /// As the peer's CLC messages have it; zero from Linux clients of version 2.
    pub(super) peer: PeerId,
    /// The peer's end of the link.
    pub(super) gid: Gid,
    pub(super) role: Role,
}
