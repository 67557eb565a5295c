//! What the owner of a group decides.

use std::time::Duration;

use crate::cdc::EyeCatcher;
use crate::clc::Version;
use crate::llc::{LinkEnd, LinkUserId};

use super::LinkId;

/// Which side of the TCP connection that started the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It connected.
    Client,
    /// It accepted; it alone adds and deletes links (RFC 7609 §2.2.3).
    Server,
}

/// How a group is to behave.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Our side.
    pub role: Role,
    /// The form of our messages: the version of the CLC exchange. Never send the longer messages of
    /// version 2 to a peer of version 1.
    pub version: Version,
    /// How many links we want in the group; what was negotiated in release 1, else 2 (RFC 7609
    /// §2.2.2 has 2 to 8).
    pub max_links: u8,
    /// How many connections were negotiated in release 1, else 0.
    pub max_conns: u8,
    /// Does an ADD LINK follow the first CONFIRM LINK? No, if at most one link was negotiated. A
    /// server that leaves it out otherwise costs a Linux client three seconds.
    pub add_link_follows: bool,
    /// What we want in front of the data of each element. The peer can have eye catchers where we
    /// want none, not the other way round.
    pub eye_catcher: EyeCatcher,
    /// Take a link down over which messages come that make no sense (RFC 7609 §C.7.1), in the
    /// place of dropping them (Linux).
    pub strict: bool,
    /// How long to wait.
    pub timeouts: Timeouts,
}

/// How long to wait. All are above zero; none may be so long that no clock reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Client: for CONFIRM LINK of the first link, from before its Confirm goes out. Longer than the
    /// peer's write time-out and a few retransmissions of its Decline (RFC 7609 §C.7).
    pub confirm_link: Duration,
    /// Server: for the response to it.
    pub confirm_link_response: Duration,
    /// Server: before the request is repeated, once. Only a client that has lost it has not
    /// answered by then.
    pub confirm_link_again: Duration,
    /// For ADD LINK, or for the response. Nothing fails if it does not come.
    pub add_link: Duration,
    /// For the response to CONFIRM RKEY, DELETE RKEY and DELETE LINK. Without it, the link has
    /// failed.
    pub exchange: Duration,
    /// How long nothing comes over a link before it is tested; never if `None`.
    pub test_interval: Option<Duration>,
    /// For the response to TEST LINK. Without it, the link has failed.
    pub test_response: Duration,
    /// Before a refused CONFIRM RKEY is sent again, if no change of the links is known to be the
    /// reason.
    pub rkey_retry: Duration,
}

impl Default for Timeouts {
    /// Linux's: 4 s, and 2 s for what its own peers wait 2 s for; tested after 30 s.
    fn default() -> Self {
        let short = Duration::from_secs(2);
        Self {
            confirm_link: Duration::from_secs(4),
            confirm_link_response: short,
            confirm_link_again: Duration::from_secs(1),
            add_link: short,
            exchange: short,
            test_interval: Some(Duration::from_secs(30)),
            test_response: short,
            rkey_retry: Duration::from_millis(100),
        }
    }
}

/// A link whose queue pair is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// The owner's name for it.
    pub id: LinkId,
    /// What is told to the peer's people: unique among the links of all groups.
    pub user_id: LinkUserId,
    /// Our end.
    pub local: LinkEnd,
    /// The peer's end, from its CLC message. CONFIRM LINK has to name the same.
    pub peer: LinkEnd,
}
