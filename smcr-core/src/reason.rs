//! Why a connection is plain TCP: one typed reason for every way in which it can come to that.
//!
//! A reason has a short name (what `smcr-stat` prints and scripts match), a code (the CLC Decline
//! diagnosis code where the peer is told, RFC 7609 §A.2.5; Linux's numbers where Linux has one,
//! numbers from 0x53000000 where it has none) and a sentence that says what to do about it.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $code:literal, $name:literal, $advice:literal;)*) => {
        /// Why a connection runs over TCP (or ended) instead of SMC.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of their discriminants (0, 1, 2, ...).
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The CLC diagnosis code (RFC 7609 §A.2.5).
            pub const fn code(self) -> u32 {
                match self { $(Self::$variant => $code,)* }
            }

            /// The short name, lower case with dashes, stable.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for the operator: what it means and what to do.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

reasons! {
    /// `SMCR_DISABLE=1`.
    Disabled = 0x5300_0001, "disabled", "SMCR_DISABLE is set: unset it to use SMC";
    /// The configuration file could not be used.
    BadConfig = 0x5300_0002, "bad-config", "the configuration file was refused: run smcr-stat --check-config";
    /// A rule of the configuration says TCP.
    Rule = 0x5300_0003, "rule", "a rule of the configuration file keeps this connection on TCP";
    /// The peer did not show that it understands CLC.
    PeerNoSmc = 0x0301_0000, "peer-no-smc", "the peer does not run under the library (or not in this network namespace)";
    /// The peer announced the library but nobody answered in time.
    NoAnswer = 0x5300_0004, "no-answer", "the peer announced the library but did not answer in time: is it stopped or overloaded?";
    /// The peer sent a CLC Decline.
    PeerDeclined = 0x0500_0000, "peer-declined", "the peer declined: look at its own reason with smcr-stat on its side";
    /// A CLC message did not come in time.
    ClcTimeout = 0x5300_0005, "clc-timeout", "the peer stalled in the CLC handshake";
    /// A CLC message was not valid.
    ClcInvalid = 0x5300_0006, "clc-invalid", "the peer sent an invalid CLC message";
    /// The two ends have no EID or device in common.
    NoCommonEid = 0x0303_0008, "no-common-eid", "the two ends have no enterprise ID in common";
    /// The peer's process belongs to another user.
    OtherUser = 0x5300_0007, "other-user", "the peer belongs to another user: allow it with `users = any` in the configuration file";
    /// TCP fast open carries data before any handshake.
    FastOpen = 0x0306_0000, "fast-open", "the program uses TCP fast open, which SMC cannot serve";
    /// An upper layer protocol (kernel TLS) sits on the socket.
    Ulp = 0x5300_0008, "tcp-ulp", "the program set TCP_ULP (kernel TLS), which SMC cannot serve";
    /// TCP MD5 or AO signatures.
    Md5 = 0x5300_0009, "tcp-md5", "the program uses TCP MD5 signatures, which SMC cannot serve";
    /// TCP repair mode.
    Repair = 0x5300_000a, "tcp-repair", "the program uses TCP_REPAIR, which SMC cannot serve";
    /// Multipath TCP.
    Mptcp = 0x5300_000b, "mptcp", "the program uses multipath TCP, which SMC cannot serve";
    /// Too few descriptors are left.
    Descriptors = 0x5300_000c, "descriptors", "too few file descriptors: raise the hard limit of `ulimit -n`";
    /// No memory for buffers, or the configured limit is reached.
    Memory = 0x0101_0000, "memory", "no memory for buffers: raise max_memory or max_connections in the configuration file";
    /// The program used the TCP connection too much before the handshake could happen.
    EarlyData = 0x5300_000d, "early-data", "the program sent too much, or closed its end, before the peer accepted";
    /// The TCP connection was not established when connect() returned.
    SlowConnect = 0x5300_000e, "slow-connect", "the TCP connection was not established at once: is the listener's backlog full?";
    /// The process forked or executed a program while the handshake was pending, or connected a
    /// socket that it made before a fork.
    Forked = 0x5300_000f, "forked", "the process forked before the handshake was over";
    /// An unsupported descriptor operation came before the handshake.
    Unsupported = 0x5300_0010, "unsupported", "the program used the socket in a way SMC cannot serve";
    /// Shared memory that is not sealed, too small or of the wrong kind.
    BadMemory = 0x5300_0011, "bad-memory", "the peer offered shared memory that is not sealed as required";
    /// The peer wrote cursors out of range.
    BadCursor = 0x5300_0012, "bad-cursor", "the peer wrote a cursor out of range: the connection was reset";
    /// The network is down, the connection ended during the handshake.
    Ended = 0x5300_0013, "ended", "the connection ended before the handshake was done";
    /// A system call of the library failed.
    Internal = 0x0999_0000, "internal", "a system call of the library failed: run with SMCR_LOG=debug";
    /// The program runs with more rights than its user (set-uid), so the library stays out.
    Privileged = 0x5300_0014, "privileged", "the library stays out of set-uid programs";
    /// A program that does not load the library got the connection by exec.
    Executed = 0x5300_0015, "executed", "a connection was inherited by a program that does not load the library: it cannot use it";
    /// The connection was passed to another process in a message.
    Passed = 0x5300_0016, "passed", "a connection was passed by SCM_RIGHTS in a way the library could not follow: keep this program on TCP by a rule";
    /// The peer's Proposal offers no kind of SMC that can be used here.
    NoCommonFabric = 0x0303_0000, "no-common-fabric", "the two ends have no kind of SMC in common for this connection";
    /// This end has no RDMA device for the connection.
    NoRdmaDevice = 0x0303_0002, "no-rdma-device", "no RDMA device serves this connection's network interface: look at smcr-pnet";
    /// SMC-R version 1 needs the subnet of the interface, and there is none.
    NoSubnet = 0x0300_0000, "no-subnet", "the network interface has no subnet to offer SMC-R version 1 for: configure `ueid` to offer version 2";
    /// SMC-R version 1 does not cross routers.
    OtherSubnet = 0x0307_0000, "other-subnet", "the two ends are in different subnets: configure the same `ueid` at both to use SMC-R version 2";
    /// The two ends have no version of SMC-R in common.
    VersionMismatch = 0x030c_0000, "version-mismatch", "the two ends have no version of SMC-R in common: look at `ueid` and `smcr_version` at both";
    /// The peer offers version 2 and leaves out what belongs to it.
    NoV2Extension = 0x0303_0004, "no-v2-extension", "the peer offers SMC version 2 without saying anything about it: its fault";
    /// The peer chose what was not offered.
    NotOffered = 0x0304_0000, "not-offered", "the peer chose a kind or version of SMC that was not offered: its fault";
    /// The peer chose another release of version 2 than agreed.
    ReleaseMismatch = 0x0303_0009, "release-mismatch", "the peer does not keep to the agreed release of SMC-R version 2: set `smcr_release = 0`";
    /// The peer chose a number of connections per link group that was not agreed or is not allowed.
    MaxConnsMismatch = 0x0303_000a, "max-conns-mismatch", "the peer asks for a number of connections per link group that is not allowed: set `smcr_release = 0`";
    /// The peer chose a number of links per link group that was not agreed or is not allowed.
    MaxLinksMismatch = 0x0303_000b, "max-links-mismatch", "the peer asks for a number of links per link group that is not allowed: set `smcr_release = 0`";
    /// The peer's path MTU is a code that this version of SMC-R does not know.
    ReservedMtu = 0x5300_0017, "reserved-mtu", "the peer's path MTU has a code that is not known here: it is newer";
    /// There is no route for RoCE to the peer.
    NoRoute = 0x030e_0000, "no-route", "the peer's RDMA device cannot be reached from ours";
    /// The peer wants to use a link that this end does not have.
    OutOfSync = 0x0400_0000, "out-of-sync", "the peer wanted to use a link that is gone: later connections are not touched";
    /// The new link was not confirmed in time.
    LinkTimeout = 0x0201_0000, "link-timeout", "the peer did not confirm the new RDMA link in time: does the network drop RoCE?";
    /// The new link could not be set up, or broke before it was confirmed.
    LinkFailed = 0x0999_0002, "link-failed", "the RDMA link could not be set up: run with SMCR_LOG=debug";
    /// The memory of a connection could not be registered, or not be made known to the peer.
    Registration = 0x0999_0003, "registration", "memory could not be registered for RDMA: raise `ulimit -l`";
    /// All links to the peer are gone, and with them the connections.
    LinkLost = 0x0100_0001, "link-lost", "the RDMA link to the peer broke: connections over it were reset";
    /// A CDC or LLC message made no sense.
    LlcInvalid = 0x5300_0018, "llc-invalid", "the peer sent an LLC or CDC message that makes no sense, which was dropped";
    /// The eye catcher in front of an RMBE of ours was overwritten.
    EyeCatcherLost = 0x5300_001c, "eye-catcher-lost", "the peer wrote over the eye catcher of a buffer: the connection was reset";
    /// The kernel did not keep the SYN.
    SynCookies = 0x5300_0019, "syn-cookies", "the listener answered with a SYN cookie, which has no room for the SMC-R option: its backlog is full";
    /// The peer gave the memory of a connection to another one.
    RmbeReused = 0x5300_001a, "rmbe-reused", "the peer gave the buffer of a live connection to another one: the old one was reset";
    /// The program forbids itself system calls that SMC needs.
    Confined = 0x5300_001b, "confined-program", "the program forbids itself the system calls that SMC needs: only a rule that names it lets it use SMC";
}

impl Reason {
    /// The reason whose discriminant is `index`, as written into shared memory.
    pub fn from_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (0x{:08x})", self.name(), self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn names_and_codes_are_unique() {
        for (i, a) in Reason::ALL.iter().enumerate() {
            assert_eq!(*a as usize, i);
            assert_eq!(Reason::from_index(i as u8), Some(*a));
            for b in &Reason::ALL[i + 1..] {
                assert_ne!(a.name(), b.name());
                assert_ne!(a.code(), b.code());
            }
        }
    }
}
