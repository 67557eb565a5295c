//! TCP packets, as the middlebox and the capture see them.

use smcr_option::programs::OPTION;

/// An IPv4 or IPv6 packet (without extension headers) with a TCP segment.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    bytes: Vec<u8>,
    /// Where the TCP header begins.
    tcp: usize,
}

impl Packet {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (protocol, tcp) = match bytes.first()? >> 4 {
            4 => (*bytes.get(9)?, usize::from(bytes[0] & 15) * 4),
            6 => (*bytes.get(6)?, 40),
            _ => return None,
        };
        (protocol == 6 && bytes.len() >= tcp + 20).then(|| Self {
            bytes: bytes.to_vec(),
            tcp,
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn flags(&self) -> u8 {
        self.bytes[self.tcp + 13]
    }

    /// SYN or SYN-ACK.
    pub(crate) fn is_syn(&self) -> bool {
        self.flags() & 2 != 0
    }

    /// Bytes behind the TCP header.
    pub(crate) fn payload(&self) -> usize {
        let header = usize::from(self.bytes[self.tcp + 12] >> 4) * 4;
        self.bytes.len() - self.tcp - header
    }

    /// Where our option begins, if it is there: found as an option, not as bytes.
    pub(crate) fn option(&self) -> Option<usize> {
        let end = self.bytes.len() - self.payload();
        let mut at = self.tcp + 20;
        while at < end {
            match self.bytes[at] {
                0 => return None,
                1 => at += 1,
                254 if self.bytes[at + 2..end].starts_with(&OPTION[2..]) => return Some(at),
                _ => at += usize::from(self.bytes[at + 1]).max(2),
            }
        }
        None
    }

    /// Overwrites the header at `at`, and corrects the checksum.
    pub(crate) fn change(&mut self, at: usize, new: &[u8]) {
        self.bytes[at..at + new.len()].copy_from_slice(new);
        let checksum = self.tcp + 16;
        self.bytes[checksum..checksum + 2].fill(0);
        let sum = self.sum();
        self.bytes[checksum..checksum + 2].copy_from_slice(&sum.to_be_bytes());
    }

    fn sum(&self) -> u16 {
        let addresses = if self.tcp == 40 && self.bytes[0] >> 4 == 6 {
            8..40
        } else {
            12..20
        };
        let segment = &self.bytes[self.tcp..];
        let words = |bytes: &[u8]| -> u64 {
            let pairs = bytes.chunks(2);
            let word =
                |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u64::from);
            pairs.map(word).sum()
        };
        let mut sum = words(&self.bytes[addresses]) + 6 + segment.len() as u64 + words(segment);
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }
}

/// A capture file that tshark reads: one packet a millisecond.
pub(crate) fn pcap<'a>(packets: impl Iterator<Item = &'a Packet>) -> Vec<u8> {
    const RAW_IP: u32 = 101;
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 1 << 16, RAW_IP] {
        file.extend(u32::to_ne_bytes(word));
    }
    for (number, packet) in packets.enumerate() {
        let len = packet.bytes.len() as u32;
        for word in [1, number as u32 * 1000, len, len] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(&packet.bytes);
    }
    file
}
