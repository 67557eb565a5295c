//! Collects one message out of the stream, and nothing behind it.

use super::HandshakeError;
use crate::clc::{Header, Kind, Message, may_be_clc};

#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    header: Option<Header>,
}

impl Inbox {
    /// Is there nothing of a message yet?
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes the message still lacks, as far as is known: at first its header.
    pub(super) fn needed(&self) -> usize {
        self.header.map_or(Header::LEN, |header| header.len()) - self.bytes.len()
    }

    /// Takes bytes off the front of `input` until a message is complete or the input is empty.
    ///
    /// # Errors
    /// As soon as the bytes cannot become `expected` or a Decline any more: a peer that speaks
    /// something else should not cost a timeout.
    pub(super) fn take(
        &mut self,
        input: &mut &[u8],
        expected: Kind,
    ) -> Result<Option<Message>, HandshakeError> {
        while !input.is_empty() {
            let (head, rest) = input.split_at(self.needed().min(input.len()));
            self.bytes.extend_from_slice(head);
            *input = rest;
            if self.header.is_none() {
                self.read_header(expected)?;
            }
            if self.header.is_some() && self.needed() == 0 {
                let message = Message::parse(&self.bytes)?;
                *self = Self::default();
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn read_header(&mut self, expected: Kind) -> Result<(), HandshakeError> {
        if let Some((first, _)) = self.bytes.split_first_chunk() {
            let header = Header::parse(first)?;
            if header.kind != expected && header.kind != Kind::Decline {
                return Err(HandshakeError::Unexpected {
                    expected,
                    got: header.kind,
                });
            }
            self.header = Some(header);
        } else if !may_be_clc(&self.bytes) {
            return Err(crate::clc::ClcError::EyeCatcher(crate::clc::Field::EyeCatcher).into());
        }
        Ok(())
    }
}
