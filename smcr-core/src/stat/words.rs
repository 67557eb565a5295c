//! The words of the statistics page: states, modes, roles and counters, with their numbers.
//!
//! The numbers are stored in shared memory and read by other builds of the library: never give an
//! old number a new meaning.

use crate::Reason;

macro_rules! words {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $vdoc:literal])* $variant:ident = $number:literal, $word:literal;)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[doc = $vdoc])* $variant = $number,)*
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word that is shown; stable.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The value with this number, as found in shared memory.
            pub const fn from_index(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

words! {
    /// State of a connection: the words of smcss(8), the numbers of Linux's `enum smc_state`.
    State {
        /// Data flows both ways.
        Active = 1, "ACTIVE";
        /// The handshake is not done.
        Init = 2, "INIT";
        /// Closed at both ends; the descriptor is still open.
        Closed = 7, "CLOSED";
        /// A listening socket.
        Listen = 10, "LISTEN";
        /// This end shut down writing; the peer has not closed.
        PeerCloseWait1 = 20, "PEERCLW1";
        /// This end closed; the peer shut down writing.
        PeerCloseWait2 = 21, "PEERCLW2";
        /// The peer shut down writing or closed; this end has not.
        AppCloseWait1 = 22, "APPLCLW1";
        /// The peer closed after this end shut down writing.
        AppCloseWait2 = 23, "APPLCLW2";
        /// Both ends shut down writing; this end has still to close.
        AppFinCloseWait = 24, "APPLFINCLW";
        /// This end closed after the peer; the peer's last word is missing.
        PeerFinCloseWait = 25, "PEERFINCLW";
        /// This end aborted; the peer's answer is missing.
        PeerAbortWait = 26, "PEERABORTW";
        /// The peer aborted; the program has still to notice.
        ProcessAbort = 27, "PROCESSABORT";
    }
}

words! {
    /// What carries the connection's bytes.
    Mode {
        /// The kernel's TCP: the connection fell back, or has not moved yet.
        Tcp = 1, "tcp";
        /// Memory shared by two processes of one host.
        Shm = 2, "shm";
        /// RDMA writes through a network adapter.
        Rdma = 3, "rdma";
    }
}

words! {
    /// Which end of the connection this process is.
    Role {
        /// Called connect().
        Client = 1, "client";
        /// Called accept() (or listens).
        Server = 2, "server";
    }
}

words! {
    /// A number that only grows while the process lives. Fallbacks by reason are counted apart.
    Counter {
        /// Connections that fell back to TCP, or were to stay on it.
        ConnectionsTcp = 0, "connections-tcp";
        /// Connections that ever moved to shared memory.
        ConnectionsShm = 1, "connections-shm";
        /// Connections that ever moved to RDMA.
        ConnectionsRdma = 2, "connections-rdma";
        /// Link groups ever made.
        LinkGroups = 3, "link-groups";
        /// CLC handshakes begun.
        HandshakesStarted = 4, "handshakes-started";
        /// CLC handshakes that ended with a connection on SMC.
        HandshakesDone = 5, "handshakes-done";
        /// Intercepted calls that were passed on to libc.
        PassedOn = 6, "calls-passed-on";
        /// Connections that are not listed because the page was full or memory was short.
        Unlisted = 7, "connections-unlisted";
        /// Bytes sent by connections that are closed by now, over shared memory.
        SentShm = 8, "closed-sent-shm";
        /// Bytes received by connections that are closed by now, over shared memory.
        ReceivedShm = 9, "closed-received-shm";
        /// Bytes sent by connections that are closed by now, over RDMA.
        SentRdma = 10, "closed-sent-rdma";
        /// Bytes received by connections that are closed by now, over RDMA.
        ReceivedRdma = 11, "closed-received-rdma";
        /// Doorbells rung: system calls made to wake a sleeping peer.
        Doorbells = 12, "doorbells";
        /// Times a call slept in the kernel because a ring was empty or full, or nothing was ready.
        Sleeps = 13, "sleeps";
        /// RDMA WRITE work requests. These and the three that follow are brought up to date when
        /// a connection ends, and once a second.
        RdmaWrites = 14, "rdma-writes";
        /// SEND work requests: messages of CDC and LLC.
        RdmaSends = 15, "rdma-sends";
        /// Times an adapter was told of new work requests.
        RdmaDoorbells = 16, "rdma-doorbells";
        /// CDC messages sent.
        CdcSent = 17, "cdc-sent";
    }
}

impl Mode {
    /// The counter of connections ever made in this mode, to be counted when one is.
    pub const fn counter(self) -> Counter {
        match self {
            Self::Tcp => Counter::ConnectionsTcp,
            Self::Shm => Counter::ConnectionsShm,
            Self::Rdma => Counter::ConnectionsRdma,
        }
    }
}

/// Index of a fallback reason in the array of counters: they have the upper half to themselves,
/// so that both kinds can grow.
pub(super) const fn reason_counter(reason: Reason) -> usize {
    FIRST_REASON + reason as usize
}

/// Index of the counter of `Reason` 0.
pub(super) const FIRST_REASON: usize = 256;

/// How many counters the page has room for.
pub(super) const COUNTERS: usize = 512;
