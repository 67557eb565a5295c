//! CDC messages (RFC 7609 §4.3, §A.4): what one end of a connection tells the other about its
//! cursors and its state, in 44 bytes behind the data on the same queue pair.
//!
//! [`Cdc`] is a message as it came; it is either a [`CdcMessage`] or a [`FailoverValidation`].
//! [`Window`] and [`Cursor`] translate between the positions that this library counts with (bytes
//! since the connection began, 64 bits, never back) and the cursors on the wire (an offset into the
//! receive buffer and how often it wrapped).
//!
//! # Contract
//!
//! * No input makes this module panic, and nothing in it allocates.
//! * `emit` is the inverse of `parse`. Reserved fields and unknown flags are sent as zero and not
//!   looked at.
//! * A cursor of a peer is worth nothing until [`Window::advance`] has taken it: what it gives is
//!   never behind what was known, and never beyond what can be true.
//!
//! All integers are big-endian on the wire. Version 1 and version 2 are the same here.

mod cursor;
mod message;

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod tests;

pub use cursor::{Cursor, CursorError, EyeCatcher, Piece, Window};
pub use message::{
    Cdc, CdcError, CdcMessage, CdcSeq, ConnState, FailoverValidation, ProducerFlags,
};

/// The first byte of every CDC message. An LLC message never starts with it (RFC 7609 §A.3: the two
/// top bits are both set).
pub const TYPE: u8 = 0xfe;

/// Bytes of every CDC message.
pub const LEN: usize = 44;
