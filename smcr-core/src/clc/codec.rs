//! Bounded reading and writing of a message's body.

use super::header::{EYE_SMCR, Version};
use super::{ClcError, Field, Kind, MAX_LEN};

/// Reads fields off the front of a message's body (between header and trailer).
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, field: Field) -> Result<[u8; N], ClcError> {
        let (head, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(ClcError::Truncated(field))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self, field: Field) -> Result<u8, ClcError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: Field) -> Result<u16, ClcError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: Field) -> Result<u32, ClcError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, field: Field) -> Result<u64, ClcError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A count that must not be above `max`.
    pub(super) fn count(&mut self, field: Field, max: usize) -> Result<usize, ClcError> {
        let value = self.u8(field)?;
        if usize::from(value) > max {
            return Err(ClcError::Value {
                field,
                value: value.into(),
            });
        }
        Ok(value.into())
    }

    /// A reader of the next `len` bytes only.
    pub(super) fn sub(&mut self, len: usize, field: Field) -> Result<Self, ClcError> {
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(ClcError::Truncated(field))?;
        self.rest = rest;
        Ok(Self::new(head))
    }

    /// Passes over a reserved field.
    pub(super) fn skip(&mut self, len: usize, field: Field) -> Result<(), ClcError> {
        self.sub(len, field).map(drop)
    }

    /// How many bytes are left.
    pub(super) const fn left(&self) -> usize {
        self.rest.len()
    }

    /// Fails unless everything was read.
    pub(super) const fn finish(&self) -> Result<(), ClcError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(ClcError::Trailing { bytes }),
        }
    }
}

/// Builds a message: header first, then the fields in order, then [`Writer::finish`].
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    eye: [u8; 4],
}

impl Writer {
    /// `flags` is the low half of byte 7.
    pub(super) fn new(kind: Kind, version: Version, flags: u8) -> Self {
        Self::with_eye(EYE_SMCR, kind, version, flags)
    }

    pub(super) fn with_eye(eye: [u8; 4], kind: Kind, version: Version, flags: u8) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(eye);
        bytes.push(kind as u8);
        bytes.extend([0; 2]); // the length, known in finish()
        bytes.push((version as u8) << 4 | (flags & 0x0f));
        Self { bytes, eye }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    /// A reserved field of `len` bytes.
    pub(super) fn zeros(&mut self, len: usize) {
        self.bytes.resize(self.bytes.len() + len, 0);
    }

    /// Appends the trailer and fills in the length.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.put(&self.eye.clone());
        debug_assert!(
            self.bytes.len() <= MAX_LEN,
            "the lists in a message are bounded so that it fits"
        );
        let len = self.bytes.len() as u16;
        self.bytes[5..7].copy_from_slice(&len.to_be_bytes());
        self.bytes
    }
}
