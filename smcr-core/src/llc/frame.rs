//! The four bytes that all messages start with, and access to the rest by offset.

use super::{LEN, LlcError, MAX_LEN, kind};
use crate::cdc;
use crate::clc::Version;

/// Set in the type byte of version 2.
const V2: u8 = 0x20;

/// A message whose type and length are good.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    /// What every message has.
    fixed: &'a [u8; LEN],
    /// What is behind it; only in version 2.
    rest: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, LlcError> {
        let Some((fixed, rest)) = bytes.split_first_chunk::<LEN>() else {
            return Err(LlcError::Truncated { bytes: bytes.len() });
        };
        let [first, len, len_low, _] = *fixed.first_chunk().expect("44 are more than 4");
        if first == cdc::TYPE {
            return Err(LlcError::Cdc);
        }
        let v2 = first & V2 != 0;
        if first & !(V2 | 0x0f) != 0 || !kind::exists(first & 0x0f, v2) {
            return Err(LlcError::UnknownType(first));
        }
        if !v2 {
            if usize::from(len) != LEN {
                return Err(LlcError::Length {
                    announced: len.into(),
                    bytes: bytes.len(),
                });
            }
            return Ok(Self { fixed, rest: &[] });
        }
        let length = [len, len_low];
        let fits = |length: usize| (LEN..=bytes.len().min(MAX_LEN)).contains(&length);
        let whole = either_order(length, bytes.len(), fits).ok_or_else(|| LlcError::Length {
            announced: u16::from_be_bytes(length),
            bytes: bytes.len(),
        })?;
        Ok(Self {
            fixed,
            rest: &rest[..whole - LEN],
        })
    }

    pub(super) const fn type_byte(&self) -> u8 {
        self.fixed[0]
    }

    /// The type without the version.
    pub(super) const fn kind(&self) -> u8 {
        self.fixed[0] & 0x0f
    }

    pub(super) const fn version(&self) -> Version {
        if self.fixed[0] & V2 != 0 {
            Version::V2
        } else {
            Version::V1
        }
    }

    /// Is one of these flags set?
    pub(super) const fn has(&self, flags: u8) -> bool {
        self.fixed[3] & flags != 0
    }

    /// The `N` bytes at `at`; both are constants of the message's layout, within 44 bytes.
    pub(super) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(&self.fixed[at..at + N]);
        array
    }

    pub(super) fn u8(&self, at: usize) -> u8 {
        self.fixed[at]
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    /// The bytes behind the first 44.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// A 16-bit number in the byte order in which it is `exact`; else, in which it `fits`. Big-endian
/// where both do.
pub(super) fn either_order(
    bytes: [u8; 2],
    exact: usize,
    fits: impl Fn(usize) -> bool,
) -> Option<usize> {
    let orders = [u16::from_be_bytes(bytes), u16::from_le_bytes(bytes)].map(usize::from);
    let mut fitting = orders.into_iter().filter(|number| fits(*number));
    let first = fitting.next()?;
    Some(fitting.find(|number| *number == exact).unwrap_or(first))
}

/// A message of `len` bytes, all zero behind its header.
pub(super) fn start(kind: u8, version: Version, len: usize, flags: u8) -> Vec<u8> {
    debug_assert!((LEN..=MAX_LEN).contains(&len));
    let mut bytes = vec![0; len];
    match version {
        Version::V1 => {
            bytes[0] = kind;
            bytes[1] = len as u8;
        }
        Version::V2 => {
            bytes[0] = V2 | kind;
            bytes[1..3].copy_from_slice(&(len as u16).to_be_bytes());
        }
    }
    bytes[3] = flags;
    bytes
}

/// Fills in a field.
pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}
