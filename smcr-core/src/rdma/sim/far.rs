//! A connection as a raw peer keeps it: what it has written and read, and the next CDC message. It
//! keeps to the protocol by itself; whoever holds it may say something else.

use super::RawPeer;
use super::hostile::CdcFacts;
use crate::cdc::{CdcMessage, CdcSeq, ConnState, Cursor, EyeCatcher, ProducerFlags, Window};
use crate::clc::{RdmaEndpoint, Rkey, RmbeSize, Token};

/// The other end's element, as its Accept or Confirm named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The key of its RMB.
    pub rkey: Rkey,
    /// Address of the element's first byte.
    pub address: u64,
    /// Its size.
    pub size: RmbeSize,
    /// What CDC messages to it carry.
    pub token: Token,
}

impl Place {
    /// What a CLC message says of it.
    pub fn of(end: &RdmaEndpoint) -> Self {
        let before = u64::from(end.rmbe_index.get() - 1) * end.rmbe_size.bytes() as u64;
        Self {
            rkey: end.rkey,
            address: end.address + before,
            size: end.rmbe_size,
            token: end.token,
        }
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct FarEnd {
    theirs: Place,
    /// Where our element is in the raw peer's memory, and its size.
    ours: (usize, RmbeSize),
    /// Of both elements, as CONFIRM LINK has it.
    eye_catcher: EyeCatcher,
    /// Of the last message in each direction.
    seq: CdcSeq,
    /// Bytes written; of these, what the other end has read.
    produced: u64,
    acknowledged: u64,
    /// Bytes that the other end has written; of these, what was read here.
    received: u64,
    consumed: u64,
    /// What the other end said of its end.
    pub state: ConnState,
    /// Said in every message from now on.
    pub said: ConnState,
}

impl FarEnd {
    /// `at`: where our element is in the raw peer's memory.
    pub fn new(theirs: Place, at: usize, size: RmbeSize, eye_catcher: EyeCatcher) -> Self {
        Self {
            theirs,
            ours: (at, size),
            eye_catcher,
            seq: CdcSeq::BEFORE_FIRST,
            produced: 0,
            acknowledged: 0,
            received: 0,
            consumed: 0,
            state: ConnState::NONE,
            said: ConnState::NONE,
        }
    }

    fn windows(&self) -> [Window; 2] {
        [self.theirs.size, self.ours.1].map(|size| Window::new(size, self.eye_catcher))
    }

    /// What is true of it, for [`hostile`](super::hostile).
    pub fn facts(&self) -> CdcFacts {
        let [theirs, ours] = self.windows();
        CdcFacts {
            seq: self.seq.next(),
            token: self.theirs.token,
            theirs,
            ours,
            produced: self.produced,
            acknowledged: self.acknowledged,
            received: self.received,
            consumed: self.consumed,
        }
    }

    /// The other end's element.
    pub fn theirs(&self) -> Place {
        self.theirs
    }

    /// Writes as many of the bytes as there is room for, and tells of them. Returns how many.
    pub fn write(&mut self, raw: &mut RawPeer, bytes: &[u8]) -> usize {
        let [theirs, _] = self.windows();
        let room = u64::from(theirs.capacity()) - (self.produced - self.acknowledged);
        let len = bytes.len().min(room as usize);
        let mut rest = &bytes[..len];
        let mut writes = Vec::new();
        for piece in theirs.pieces(self.produced, len as u32) {
            let (now, later) = rest.split_at(piece.len as usize);
            rest = later;
            if !now.is_empty() {
                let to = self.theirs.address + u64::from(piece.offset);
                writes.push((self.theirs.rkey, to, now));
            }
        }
        self.produced += len as u64;
        let message = self.next_message(ProducerFlags::NONE);
        let _ = raw.write_and_say(&writes, &message.emit());
        len
    }

    /// Writes bytes to the other end's element at an offset that is for nobody to write to, and tells
    /// of as many.
    pub fn overwrite(&mut self, raw: &mut RawPeer, offset: u64, bytes: &[u8]) {
        self.produced += bytes.len() as u64;
        let message = self.next_message(ProducerFlags::NONE);
        let write = (self.theirs.rkey, self.theirs.address + offset, bytes);
        let _ = raw.write_and_say(&[write], &message.emit());
    }

    /// Says what is true now.
    pub fn tell(&mut self, raw: &mut RawPeer) {
        let message = self.next_message(ProducerFlags::NONE);
        let _ = raw.say(&message.emit());
    }

    /// Takes a message of the other end's. It must not lie.
    ///
    /// # Panics
    /// If it does.
    pub fn take(&mut self, message: &CdcMessage) {
        let [theirs, ours] = self.windows();
        let limit = self.consumed + u64::from(ours.capacity());
        self.received = ours
            .advance(self.received, limit, message.producer)
            .expect("a producer cursor that can be");
        self.acknowledged = theirs
            .advance(self.acknowledged, self.produced, message.consumer)
            .expect("a consumer cursor that can be");
        self.state = self.state | message.state;
    }

    /// Reads what the other end has written.
    pub fn read(&mut self, raw: &RawPeer) -> Vec<u8> {
        let [_, ours] = self.windows();
        let mut bytes = Vec::new();
        for piece in ours.pieces(self.consumed, (self.received - self.consumed) as u32) {
            let at = self.ours.0 + piece.offset as usize;
            bytes.extend(raw.read(at, piece.len as usize));
        }
        self.consumed = self.received;
        bytes
    }

    /// The first bytes of our element, which the other end has to leave alone.
    pub fn eye_catcher(&self, raw: &RawPeer) -> Vec<u8> {
        raw.read(self.ours.0, self.eye_catcher.base() as usize)
    }

    fn next_message(&mut self, flags: ProducerFlags) -> CdcMessage {
        let state = self.said;
        let message = CdcMessage {
            flags,
            state,
            ..self.facts().good()
        };
        self.seq = message.seq;
        message
    }

    /// A message was said by hand, with the number that was due.
    pub fn skip(&mut self, messages: usize) {
        for _ in 0..messages {
            self.seq = self.seq.next();
        }
    }

    /// Where our element is in the raw peer's memory: first byte, and the one behind the last.
    pub fn element(&self) -> (usize, usize) {
        (self.ours.0, self.ours.0 + self.ours.1.bytes())
    }

    /// The last good cursors: of what was written, and of what was read.
    pub fn cursors(&self) -> [Cursor; 2] {
        let good = self.facts().good();
        [good.producer, good.consumer]
    }
}
