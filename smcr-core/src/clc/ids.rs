//! Names in fixed fields of 32 bytes, padded with blanks.

use super::{ClcError, Field};

const LEN: usize = 32;

/// An enterprise ID, the name of the set of machines that may talk SMC version 2 with each other:
/// 1 to 32 of `A-Z 0-9 . -`, the first one a letter or a digit, padded with blanks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Eid([u8; LEN]);

impl Eid {
    /// The enterprise ID of that name.
    ///
    /// # Errors
    /// [`ClcError::Value`] with the first byte that is not allowed where it stands (0: the name is
    /// empty, or too long).
    pub const fn new(name: &str) -> Result<Self, ClcError> {
        let name = name.as_bytes();
        let mut padded = [b' '; LEN];
        if name.len() > LEN {
            return Err(bad(0));
        }
        let mut i = 0;
        while i < name.len() {
            padded[i] = name[i];
            i += 1;
        }
        if !name.is_empty() && name[name.len() - 1] == b' ' {
            return Err(bad(b' '));
        }
        WireEid(padded).check()
    }

    /// The name without its padding.
    pub fn name(&self) -> &str {
        // Only ASCII passes check(), so this is never the empty string.
        std::str::from_utf8(self.0.trim_ascii_end()).unwrap_or_default()
    }
}

impl std::fmt::Display for Eid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Debug for Eid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Eid({self})")
    }
}

/// An enterprise ID as received. Nothing is said about its characters: an odd one among a peer's
/// IDs matches none of ours, which is no reason to end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WireEid(pub [u8; LEN]);

impl WireEid {
    /// The enterprise ID, if it is one.
    ///
    /// # Errors
    /// [`ClcError::Value`] with the first byte that is not allowed where it stands (0: all blank).
    pub const fn check(self) -> Result<Eid, ClcError> {
        let mut i = 0;
        let mut padding = false;
        while i < LEN {
            let byte = self.0[i];
            let allowed = match byte {
                b' ' => i > 0,
                b'A'..=b'Z' | b'0'..=b'9' => !padding,
                b'.' | b'-' => i > 0 && !padding,
                _ => false,
            };
            if !allowed {
                return Err(bad(if byte == b' ' { 0 } else { byte }));
            }
            padding = byte == b' ';
            i += 1;
        }
        Ok(Eid(self.0))
    }
}

impl From<Eid> for WireEid {
    fn from(eid: Eid) -> Self {
        Self(eid.0)
    }
}

impl PartialEq<Eid> for WireEid {
    fn eq(&self, other: &Eid) -> bool {
        self.0 == other.0
    }
}

const fn bad(byte: u8) -> ClcError {
    ClcError::Value {
        field: Field::Eid,
        value: byte as u32,
    }
}

/// A host name as the first contact extension carries it: up to 32 bytes, blank padded. For people
/// to read, so nothing is asked of its characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostName(pub [u8; LEN]);

impl HostName {
    /// The name, cut off after 32 bytes.
    pub fn new(name: &[u8]) -> Self {
        let mut padded = [b' '; LEN];
        let len = name.len().min(LEN);
        padded[..len].copy_from_slice(&name[..len]);
        Self(padded)
    }
}

impl Default for HostName {
    fn default() -> Self {
        Self([b' '; LEN])
    }
}

impl std::fmt::Debug for HostName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostName({})", self.0.trim_ascii_end().escape_ascii())
    }
}
