//! What went over the wire, for tests that ask what was (not) sent.

use crate::rdma::fabric::LinkId;

/// Something that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// A piece of a WRITE, allowed or not.
    Write {
        /// Nanoseconds since the beginning.
        at: u64,
        /// The sender's link.
        link: LinkId,
        /// The address that it asked for.
        to: u64,
        /// Bytes.
        len: usize,
        /// The key that it showed.
        rkey: u32,
    },
    /// A message.
    Message {
        /// Nanoseconds since the beginning.
        at: u64,
        /// The sender's link.
        link: LinkId,
        /// The message.
        bytes: Vec<u8>,
    },
}

/// The recording, while it is on.
#[derive(Debug, Default)]
pub(super) struct Record(Option<Vec<Recorded>>);

impl Record {
    pub(super) fn start(&mut self) {
        self.0.get_or_insert_default();
    }

    pub(super) fn take(&mut self) -> Vec<Recorded> {
        self.0.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn write(&mut self, at: u64, qpn: u32, to: u64, len: usize, rkey: u32) {
        if let Some(record) = &mut self.0 {
            let link = LinkId(qpn);
            record.push(Recorded::Write {
                at,
                link,
                to,
                len,
                rkey,
            });
        }
    }

    pub(super) fn message(&mut self, at: u64, qpn: u32, bytes: &[u8]) {
        if let Some(record) = &mut self.0 {
            let (link, bytes) = (LinkId(qpn), bytes.to_vec());
            record.push(Recorded::Message { at, link, bytes });
        }
    }
}
