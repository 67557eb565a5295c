//! What the SYN says: the hint that the client runs the library, and the time stamp that names
//! the connection.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::sys;

/// The TTL (hop limit) of a SYN sent under the library. No usual initial TTL is near it.
pub const HINT_TTL: u8 = 191;

/// The TTL of a SYN whose sender asks by [`crate::signal::networks`]. Routers count it down, at
/// most to [`NETWORK_HINT_LOWEST`].
pub const NETWORK_HINT_TTL: u8 = HINT_TTL - 1;

/// The lowest TTL that is taken for [`NETWORK_HINT_TTL`] after some hops.
pub const NETWORK_HINT_LOWEST: u8 = 160;

/// What an accepted connection's SYN said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syn {
    /// The TTL (hop limit) with which it arrived.
    pub ttl: u8,
    /// The time stamp option's TSval.
    pub tsval: u32,
}

impl Syn {
    /// Whether the client asks by [`crate::signal::networks`].
    pub fn is_from_network(self) -> bool {
        (NETWORK_HINT_LOWEST..=NETWORK_HINT_TTL).contains(&self.ttl)
    }
}

/// Asks the kernel to keep the SYNs of a listening socket.
pub fn keep(listener: BorrowedFd<'_>) -> bool {
    sys::set_int(listener, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, 1).is_ok()
}

/// The SYN of a connection just accepted, if it carried the hint and a time stamp.
pub fn hinted(accepted: BorrowedFd<'_>) -> Option<Syn> {
    saved(accepted).filter(|syn| syn.ttl == HINT_TTL)
}

/// The SYN of a connection just accepted, if it carried a time stamp. The kernel tells it once.
pub fn saved(accepted: BorrowedFd<'_>) -> Option<Syn> {
    let mut raw = [0u8; 160];
    let len = sys::get_bytes(accepted, libc::IPPROTO_TCP, libc::TCP_SAVED_SYN, &mut raw).ok()?;
    parse(&raw[..len])
}

/// Parses the IP and TCP headers of a SYN.
fn parse(raw: &[u8]) -> Option<Syn> {
    let (ttl, header) = match raw.first()? >> 4 {
        4 => (*raw.get(8)?, usize::from(raw[0] & 15) * 4),
        6 => (*raw.get(7)?, 40),
        _ => return None,
    };
    let tcp = raw.get(header..)?;
    let end = usize::from(tcp.get(12)? >> 4) * 4;
    let mut options = tcp.get(20..end)?;
    loop {
        match options {
            [1, rest @ ..] => options = rest,
            [8, 10, a, b, c, d, ..] => {
                return Some(Syn {
                    ttl,
                    tsval: u32::from_be_bytes([*a, *b, *c, *d]),
                });
            }
            [kind, len, ..] if *kind > 1 && *len >= 2 => {
                options = options.get(usize::from(*len)..)?
            }
            _ => return None,
        }
    }
}

/// Sets the hint on a socket that is about to connect. `clear` takes it back.
pub fn set_hint(fd: BorrowedFd<'_>, ipv6: bool) -> bool {
    set_ttl(fd, ipv6, i32::from(HINT_TTL))
}

/// The same for a peer in a network that is asked.
pub fn set_network_hint(fd: BorrowedFd<'_>, ipv6: bool) -> bool {
    set_ttl(fd, ipv6, i32::from(NETWORK_HINT_TTL))
}

/// Gives the socket the TTL back that the program asked for; -1: the system's default.
pub fn clear_hint(fd: BorrowedFd<'_>, ipv6: bool, ttl: i32) {
    set_ttl(fd, ipv6, ttl);
}

fn set_ttl(fd: BorrowedFd<'_>, ipv6: bool, ttl: i32) -> bool {
    let v4 = sys::set_int(fd, libc::IPPROTO_IP, libc::IP_TTL, ttl).is_ok();
    // A socket of the IPv6 family may connect to a v4-mapped address: set both.
    v4 | (ipv6 && sys::set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, ttl).is_ok())
}

/// The time stamps our SYN can have carried.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    newest: u32,
    span: u32,
}

impl Window {
    /// To be made right after `connect`, which began at `began`. `None` where time stamps are
    /// switched off.
    pub fn now(fd: BorrowedFd<'_>, began: Instant) -> Option<Self> {
        let now = sys::get_int(fd, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP).ok()? as u32;
        let elapsed = began.elapsed() + Duration::from_millis(1);
        // One tick is a millisecond, or a microsecond on routes that ask for it; the kernel
        // clears a bit of what it tells us.
        Some(Self {
            newest: now.wrapping_add(2),
            span: elapsed.as_millis() as u32 + 6,
        })
    }

    /// The `span + 1` time stamps up to `newest`.
    #[cfg(test)]
    pub(crate) fn of(newest: u32, span: u32) -> Self {
        Self { newest, span }
    }

    /// Whether a SYN of ours can have carried this time stamp.
    pub fn contains(&self, tsval: u32) -> bool {
        self.newest.wrapping_sub(tsval) <= self.span
    }
}

#[cfg(test)]
mod tests {
    use super::{HINT_TTL, NETWORK_HINT_LOWEST, NETWORK_HINT_TTL, Syn, Window, parse};

    fn syn(ttl: u8) -> Vec<u8> {
        let mut raw = vec![0u8; 20];
        raw[0] = 0x45;
        raw[8] = ttl;
        let mut tcp = vec![0u8; 20];
        tcp[12] = 10 << 4;
        tcp.extend([
            2, 4, 0xff, 0xd7, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
        ]);
        raw.extend(tcp);
        raw
    }

    #[test]
    fn finds_the_time_stamp_behind_other_options() {
        for ttl in [HINT_TTL, 64] {
            let tsval = 0x0102_0304;
            assert_eq!(parse(&syn(ttl)), Some(Syn { ttl, tsval }));
        }
    }

    #[test]
    fn the_hint_for_networks_survives_hops() {
        let asks = |ttl| Syn { ttl, tsval: 1 }.is_from_network();
        assert!(asks(NETWORK_HINT_TTL) && asks(NETWORK_HINT_TTL - 5));
        for usual in [32, 64, 128, 255, HINT_TTL] {
            assert!(!asks(usual), "{usual}");
        }
        // A usual initial TTL would take this many hops to look like one.
        const { assert!(255 - NETWORK_HINT_TTL > 60 && NETWORK_HINT_LOWEST > 128) };
    }

    #[test]
    fn truncation_is_no_syn() {
        let whole = syn(HINT_TTL);
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "{len}");
        }
    }

    #[test]
    fn window_wraps() {
        let window = Window { newest: 1, span: 5 };
        assert!(window.contains(u32::MAX) && window.contains(1));
        assert!(!window.contains(2) && !window.contains(u32::MAX - 4));
    }
}
