//! Cursors on the wire, positions in the stream, and the arithmetic between them.

use crate::clc::RmbeSize;

/// A cursor as CDC messages carry it: where in the element the next byte goes or comes from, and
/// how often the cursor went around (RFC 7609 §4.3, §A.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// How often the cursor wrapped, modulo 2^16.
    pub wrap: u16,
    /// Bytes from the start of the element; from 0 or 4 (see [`EyeCatcher`]) to its size less 1.
    pub count: u32,
}

/// Whether the elements of a link group start with an eye catcher: one answer for both ends, from
/// the first CONFIRM LINK exchange on.
///
/// RFC 7609 §4.2 puts one in front of the data of every element. Linux has none, says so by bits
/// that the RFC keeps reserved (§A.3.1), and declines whoever does not say the same. So there are
/// none only if both ends say so: a peer without the bits may know the RFC alone, and then skips
/// four bytes in our elements as well as in its own, whatever we have said. One that knows the bits
/// and leaves them out insists, which comes to the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EyeCatcher {
    /// As Linux does it: the data start at offset 0.
    #[default]
    None,
    /// As RFC 7609 §4.2 has it: four bytes of the owner's come first, and cursors start at 4 and
    /// wrap to 4.
    FourBytes,
}

impl EyeCatcher {
    /// Offset of the first byte of data, 0 or 4.
    pub const fn base(self) -> u32 {
        match self {
            Self::None => 0,
            Self::FourBytes => 4,
        }
    }
}

/// The part of an element (RMBE) that holds data: what cursors are relative to.
///
/// A *position* is the number of bytes since the connection began; positions of one stream only
/// grow. 2^64 is taken as never reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    size: RmbeSize,
    eye_catcher: EyeCatcher,
}

/// One of the at most two runs of bytes that a range of the stream is in the element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Bytes from the start of the element, the eye catcher included.
    pub offset: u32,
    /// How many bytes.
    pub len: u32,
}

/// Why a peer's cursor cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CursorError {
    /// The count is outside of the element, or inside of its eye catcher.
    Count {
        /// The count.
        count: u32,
    },
    /// The cursor is behind one that the peer has sent before, by at most one window. Also what an
    /// old message looks like; Linux goes on with the newer cursor.
    GoesBack {
        /// How many bytes behind.
        bytes: u64,
    },
    /// The cursor is beyond the other one: more was produced than fits, or more consumed than was
    /// produced. By less than a window.
    Overtakes {
        /// How many bytes beyond.
        bytes: u64,
    },
    /// The wrap count is nowhere near the last one.
    WrapJump {
        /// The wrap count.
        wrap: u16,
    },
}

impl Cursor {
    /// The cursor that stands for `position`.
    pub const fn from_position(position: u64, window: Window) -> Self {
        let (wraps, at) = window.split(position);
        Self {
            wrap: wraps as u16, // modulo 2^16 is what the wire has
            count: window.eye_catcher.base() + at,
        }
    }
}

impl Window {
    /// The window of an element of that size.
    pub const fn new(size: RmbeSize, eye_catcher: EyeCatcher) -> Self {
        Self { size, eye_catcher }
    }

    /// How many bytes of data the element holds: its size, less the eye catcher.
    pub const fn capacity(self) -> u32 {
        self.size.bytes() as u32 - self.eye_catcher.base()
    }

    /// The size of the element in bytes, eye catcher included.
    pub const fn element_size(self) -> u32 {
        self.size.bytes() as u32
    }

    /// Whether the element starts with an eye catcher.
    pub const fn eye_catcher(self) -> EyeCatcher {
        self.eye_catcher
    }

    /// Where `position` is in the element, in bytes from its start.
    pub const fn offset(self, position: u64) -> u32 {
        self.eye_catcher.base() + self.split(position).1
    }

    /// Where the `len` bytes from `position` on are in the element: the second piece is empty
    /// unless they wrap.
    ///
    /// # Panics
    /// In debug builds if `len` is above the capacity.
    pub const fn pieces(self, position: u64, len: u32) -> [Piece; 2] {
        debug_assert!(len <= self.capacity());
        let offset = self.offset(position);
        let room = self.element_size() - offset;
        let first = if len < room { len } else { room };
        [
            Piece { offset, len: first },
            Piece {
                offset: self.eye_catcher.base(),
                len: len - first,
            },
        ]
    }

    /// The position that a peer's `cursor` stands for, given that it was at `known` before and
    /// cannot be beyond `limit`.
    ///
    /// For the peer's producer cursor, `known` is its last position and `limit` is what we have
    /// consumed plus [`capacity`](Self::capacity). For the peer's consumer cursor, `known` is its
    /// last position and `limit` is what we have produced.
    ///
    /// `limit` is at least `known` and at most one capacity beyond it; a caller that keeps to the
    /// two rules above has it so, since every position it knows went through here.
    ///
    /// # Errors
    /// What is wrong with the cursor. Except for [`CursorError::GoesBack`] in an old message, the
    /// connection is not to be trusted any more.
    pub const fn advance(self, known: u64, limit: u64, cursor: Cursor) -> Result<u64, CursorError> {
        let base = self.eye_catcher.base();
        if cursor.count < base || cursor.count >= self.element_size() {
            return Err(CursorError::Count {
                count: cursor.count,
            });
        }
        let capacity = self.capacity() as u64;
        // Cursors repeat after 2^16 times around, so the distance is known modulo that.
        let period = capacity << 16;
        let there = cursor.wrap as u64 * capacity + (cursor.count - base) as u64;
        let here = known % period;
        let ahead = if there >= here {
            there - here
        } else {
            period - here + there
        };
        let allowed = limit.saturating_sub(known);
        debug_assert!(allowed <= capacity);
        if ahead <= allowed && ahead <= capacity {
            return Ok(known.wrapping_add(ahead));
        }
        if period - ahead <= capacity {
            return Err(CursorError::GoesBack {
                bytes: period - ahead,
            });
        }
        if ahead - allowed <= capacity {
            return Err(CursorError::Overtakes {
                bytes: ahead - allowed,
            });
        }
        Err(CursorError::WrapJump { wrap: cursor.wrap })
    }

    /// How often the position went around, and how far into the window it is.
    const fn split(self, position: u64) -> (u64, u32) {
        match self.eye_catcher {
            // Spares the division on the path of every message.
            EyeCatcher::None => {
                let shift = self.size.bytes().trailing_zeros();
                let mask = self.size.bytes() as u64 - 1;
                (position >> shift, (position & mask) as u32)
            }
            EyeCatcher::FourBytes => {
                let capacity = self.capacity() as u64;
                (position / capacity, (position % capacity) as u32)
            }
        }
    }
}

impl std::fmt::Display for CursorError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count { count } => write!(f, "cursor at {count} is outside of the element"),
            Self::GoesBack { bytes } => write!(f, "cursor goes back by {bytes} bytes"),
            Self::Overtakes { bytes } => write!(f, "cursor is {bytes} bytes beyond the other one"),
            Self::WrapJump { wrap } => write!(f, "wrap count jumps to {wrap}"),
        }
    }
}

impl std::error::Error for CursorError {}
