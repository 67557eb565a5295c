//! What the kernel knows of a TCP connection: bytes each way, by NETLINK_SOCK_DIAG.
//!
//! The library does not see the bytes of connections on TCP (that is what makes them as fast as
//! without it), but the kernel counts them and tells anybody.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;

use rustix::fd::OwnedFd;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h.
const NLMSG_HDR_LEN: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_INFO: u16 = 2;
const SOCKID_LEN: usize = 48;
/// Ports and both addresses, without interface and cookie.
const SOCKID_ADDRESSES_LEN: usize = 36;
const INET_DIAG_MSG_LEN: usize = 72;
const TCPI_BYTES_ACKED: usize = 120;
const TCPI_BYTES_RECEIVED: usize = 128;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const TCP_FIN_WAIT2: u8 = 5;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LAST_ACK: u8 = 9;
const TCP_CLOSING: u8 = 11;

/// Bytes of a connection as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpBytes {
    /// Sent and acknowledged by the peer.
    pub(crate) sent: u64,
    /// Received in order, whether the program has read them or not.
    pub(crate) received: u64,
}

/// A way to ask the kernel, for connections of the caller's network namespace.
#[derive(Debug)]
pub(crate) struct TcpInfo {
    socket: OwnedFd,
    sequence: u32,
    own_namespace: Option<u64>,
}

impl TcpInfo {
    /// # Errors
    /// Those of socket(2): kernels without the module, sandboxes without the permission.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(SOCK_DIAG),
        )?;
        Ok(Self {
            socket,
            sequence: 0,
            own_namespace: network_namespace("self"),
        })
    }

    /// Whether the process's connections can be asked about: the same addresses in another
    /// network namespace are another connection.
    pub(crate) fn covers(&self, pid: u32) -> bool {
        let theirs = network_namespace(&pid.to_string());
        theirs.is_none() || theirs == self.own_namespace
    }

    /// The bytes of the connection from `local` to `peer`, `None` if there is no such connection
    /// (any more). `is_client` tells who sent the first SYN.
    pub(crate) fn bytes(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        is_client: bool,
    ) -> Option<TcpBytes> {
        self.sequence += 1;
        let request = request(local, peer, self.sequence);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &request, SendFlags::empty(), &kernel).ok()?;
        // The kernel answers before sendto() returns. What is left of earlier questions comes
        // first.
        let mut buf = [0; 8192];
        loop {
            let (len, _) = rustix::net::recv(&self.socket, &mut buf, RecvFlags::DONTWAIT).ok()?;
            let reply = &buf[..len.min(buf.len())];
            if number::<4>(reply, 8).map(u32::from_ne_bytes) == Some(self.sequence) {
                return parse_reply(reply, local, peer, is_client);
            }
        }
    }
}

fn network_namespace(pid: &str) -> Option<u64> {
    let stat = fs::metadata(format!("/proc/{pid}/ns/net"));
    stat.ok().map(|stat| stat.ino())
}

fn request(local: SocketAddr, peer: SocketAddr, sequence: u32) -> Vec<u8> {
    let is_v4 = peer.ip().to_canonical().is_ipv4();
    let length = (NLMSG_HDR_LEN + 8 + SOCKID_LEN) as u32;
    let mut request = Vec::with_capacity(length as usize);
    request.extend(length.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    // struct inet_diag_req_v2
    let family = if is_v4 { AF_INET } else { AF_INET6 };
    let extensions = 1 << (INET_DIAG_INFO - 1);
    request.extend([family, IPPROTO_TCP, extensions, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(sockid(local, peer, family));
    request
}

/// struct inet_diag_sockid, any cookie, with the addresses as a socket of this family has them.
fn sockid(local: SocketAddr, peer: SocketAddr, family: u8) -> [u8; SOCKID_LEN] {
    let mut id = [0; SOCKID_LEN];
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&peer.port().to_be_bytes());
    for (at, address) in [(4, local), (20, peer)] {
        match (address.ip().to_canonical(), family) {
            (IpAddr::V4(ip), AF_INET) => id[at..at + 4].copy_from_slice(&ip.octets()),
            (IpAddr::V4(ip), _) => {
                id[at..at + 16].copy_from_slice(&ip.to_ipv6_mapped().octets());
            }
            (IpAddr::V6(ip), _) => id[at..at + 16].copy_from_slice(&ip.octets()),
        }
    }
    // A connection between link-local addresses is bound to its interface.
    if let SocketAddr::V6(address) = peer {
        id[36..40].copy_from_slice(&address.scope_id().to_ne_bytes());
    }
    id[40..].fill(0xff);
    id
}

fn parse_reply(
    reply: &[u8],
    local: SocketAddr,
    peer: SocketAddr,
    is_client: bool,
) -> Option<TcpBytes> {
    if number(reply, 4).map(u16::from_ne_bytes) != Some(SOCK_DIAG_BY_FAMILY) {
        return None;
    }
    let message = reply.get(NLMSG_HDR_LEN..NLMSG_HDR_LEN + INET_DIAG_MSG_LEN)?;
    let (family, state) = (message[0], message[1]);
    // Where there is no such connection the kernel may give the listening socket. An IPv6 socket
    // with an IPv4 connection is found by IPv4 addresses and answers with mapped ones.
    let id = sockid(local, peer, family);
    if message[4..4 + SOCKID_ADDRESSES_LEN] != id[..SOCKID_ADDRESSES_LEN] {
        return None;
    }
    let info = attribute(&reply[NLMSG_HDR_LEN + INET_DIAG_MSG_LEN..], INET_DIAG_INFO)?;
    let sent = u64::from_ne_bytes(number(info, TCPI_BYTES_ACKED)?);
    let received = u64::from_ne_bytes(number(info, TCPI_BYTES_RECEIVED)?);
    // SYN and FIN take a sequence number each and are counted as bytes (the server's SYN is not).
    let fin_acked = state == TCP_FIN_WAIT2;
    let fin_received = [TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING].contains(&state);
    Some(TcpBytes {
        sent: sent.saturating_sub(u64::from(is_client) + u64::from(fin_acked)),
        received: received.saturating_sub(fin_received.into()),
    })
}

/// The payload of the first attribute of this kind.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes(number(attributes, 0)?));
        let found = u16::from_ne_bytes(number(attributes, 2)?);
        let payload = attributes.get(4..len)?;
        if found == kind {
            return Some(payload);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn bytes(info: &mut TcpInfo, stream: &TcpStream, is_client: bool) -> Option<(u64, u64)> {
        let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let bytes = info.bytes(local, peer, is_client);
        bytes.map(|bytes| (bytes.sent, bytes.received))
    }

    #[test]
    fn bytes_of_both_ends_are_exact() {
        let mut info = TcpInfo::open().unwrap();
        assert!(info.covers(std::process::id()));
        for address in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let (mut client, mut server) = pair(address);
            client.write_all(&[7; 1000]).unwrap();
            server.read_exact(&mut [0; 1000]).unwrap();
            server.write_all(&[7; 50]).unwrap();
            client.read_exact(&mut [0; 50]).unwrap();
            // An acknowledgement may be held back for 40 ms.
            std::thread::sleep(std::time::Duration::from_millis(100));
            assert_eq!(
                bytes(&mut info, &client, true),
                Some((1000, 50)),
                "{address}"
            );
            assert_eq!(
                bytes(&mut info, &server, false),
                Some((50, 1000)),
                "{address}"
            );
            client.shutdown(Shutdown::Write).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(100));
            assert_eq!(
                bytes(&mut info, &client, true),
                Some((1000, 50)),
                "{address}"
            );
            assert_eq!(
                bytes(&mut info, &server, false),
                Some((50, 1000)),
                "{address}"
            );
        }
    }

    #[test]
    fn a_connection_that_is_gone_is_not_taken_for_its_listener() {
        let mut info = TcpInfo::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let peer = SocketAddr::new(local.ip(), 1);
        assert_eq!(info.bytes(local, peer, false), None);
        assert_eq!(info.bytes(peer, local, true), None);
    }

    #[test]
    fn damaged_replies_are_refused() {
        let (local, peer) = ("1.2.3.4:5".parse().unwrap(), "1.2.3.4:6".parse().unwrap());
        let id = sockid(local, peer, AF_INET);
        let mut reply = vec![0; NLMSG_HDR_LEN + INET_DIAG_MSG_LEN];
        reply[NLMSG_HDR_LEN] = AF_INET;
        reply[4] = SOCK_DIAG_BY_FAMILY as u8;
        reply[NLMSG_HDR_LEN + 4..][..SOCKID_LEN].copy_from_slice(&id);
        reply.extend((4 + 136u16).to_ne_bytes());
        reply.extend(INET_DIAG_INFO.to_ne_bytes());
        reply.extend([1; 136]);
        assert!(parse_reply(&reply, local, peer, true).is_some());
        for len in 0..reply.len() {
            assert_eq!(parse_reply(&reply[..len], local, peer, true), None);
        }
        for len in 0..4u16 {
            let at = NLMSG_HDR_LEN + INET_DIAG_MSG_LEN;
            reply[at..at + 2].copy_from_slice(&len.to_ne_bytes());
            reply[at + 2] = 9;
            assert_eq!(parse_reply(&reply, local, peer, true), None);
        }
    }
}
