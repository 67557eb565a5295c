//! Descriptors of streams in messages (`SCM_RIGHTS`).

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use libc::{c_int, c_void, cmsghdr, msghdr, ssize_t};
use smcr_core::engine::passing::{self, Parcel};
use smcr_core::engine::{PUBLISHER, engine};
use smcr_core::{Reason, sys};

use crate::{real, table};

/// The most descriptors in one message (the kernel's SCM_MAX_FD).
const MOST: usize = 253;

/// More ancillary data than any message has.
const LONGEST: usize = 1 << 20;

const HEADER: usize = size_of::<cmsghdr>();

fn aligned(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

/// One piece of ancillary data.
struct Piece<'a> {
    level: c_int,
    kind: c_int,
    data: &'a [u8],
}

impl Piece<'_> {
    fn is_rights(&self) -> bool {
        (self.level, self.kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS)
    }

    fn fds(&self) -> impl Iterator<Item = RawFd> {
        self.data
            .as_chunks::<4>()
            .0
            .iter()
            .map(|fd| RawFd::from_ne_bytes(*fd))
    }
}

/// Walks over ancillary data.
fn pieces(mut control: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    std::iter::from_fn(move || {
        let len = usize::from_ne_bytes(*control.first_chunk()?);
        let word = |at: usize| Some(c_int::from_ne_bytes(*control.get(at..)?.first_chunk()?));
        let piece = Piece {
            level: word(8)?,
            kind: word(12)?,
            data: control.get(HEADER..len)?,
        };
        control = control.get(aligned(len)..).unwrap_or(&[]);
        Some(piece)
    })
}

/// # Safety
/// The message's control buffer is what the program says it is.
unsafe fn control<'a>(message: &msghdr) -> &'a [u8] {
    if message.msg_control.is_null() || message.msg_controllen > LONGEST {
        return &[];
    }
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(message.msg_control.cast(), message.msg_controllen) }
}

/// Whether a message passes descriptors of streams.
///
/// # Safety
/// `message` is the program's, by sendmsg's contract.
pub(crate) unsafe fn passes_stream(message: &msghdr) -> bool {
    // SAFETY: by this function's contract.
    pieces(unsafe { control(message) })
        .filter(Piece::is_rights)
        .any(|piece| piece.fds().any(|fd| table::stream(fd).is_some()))
}

/// sendmsg() through what is not a stream; `call` makes the real call with a message that may
/// pass more on.
///
/// # Safety
/// `message` is the program's, by sendmsg's contract.
pub(crate) unsafe fn sending(
    message: &msghdr,
    call: impl FnOnce(*const msghdr) -> ssize_t,
) -> ssize_t {
    // SAFETY: by this function's contract.
    let given = unsafe { control(message) };
    let passed = || pieces(given).filter(Piece::is_rights);
    let streams: Vec<_> = passed()
        .flat_map(|piece| piece.fds().collect::<Vec<_>>())
        .filter_map(table::stream)
        .collect();
    if streams.is_empty() || engine().is_none() {
        return call(message);
    }
    let mut connections = Vec::new();
    for stream in &streams {
        // A handshake cannot move to another process.
        stream.connection.withdraw(Reason::Passed);
        let inode = stream.inode();
        if stream.connection.smc().is_some() && connections.iter().all(|(_, known)| *known != inode)
        {
            connections.push((Arc::clone(&stream.connection), inode));
        }
    }
    let count: usize = passed().map(|piece| piece.data.len() / 4).sum();
    let room = count + connections.len() * 4 < MOST;
    let parcel = match Parcel::pack(connections) {
        Ok(parcel) if room => parcel,
        _ => {
            // The receiver can do nothing with what it gets.
            log::warn!("a connection is passed to another process without what it needs");
            PUBLISHER.fallback(Reason::Passed);
            return call(message);
        }
    };
    let fds = parcel.fds();
    let mut longer = given.to_vec();
    longer.resize(aligned(longer.len()), 0);
    let mut writer = Writer {
        buf: &mut longer,
        room: usize::MAX,
        cut: false,
    };
    writer.rights(&fds);
    let with_more = msghdr {
        msg_control: longer.as_mut_ptr().cast::<c_void>(),
        msg_controllen: longer.len(),
        ..*message
    };
    let sent = call(&raw const with_more);
    let _errno = real::KeepErrno::new();
    if sent >= 0 {
        parcel.sent();
    }
    sent
}

/// Writes ancillary data as the kernel does, into as much room as there is.
struct Writer<'a> {
    buf: &'a mut Vec<u8>,
    room: usize,
    cut: bool,
}

impl Writer<'_> {
    fn piece(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let left = self.room - self.buf.len();
        if left < HEADER {
            self.cut = true;
            return;
        }
        let fits = data.len().min(left - HEADER);
        self.cut |= fits < data.len();
        self.buf.extend((HEADER + fits).to_ne_bytes());
        self.buf.extend(level.to_ne_bytes());
        self.buf.extend(kind.to_ne_bytes());
        self.buf.extend(&data[..fits]);
        let padded = aligned(self.buf.len()).min(self.room);
        self.buf.resize(padded, 0);
    }

    /// Returns how many went in.
    fn rights(&mut self, fds: &[RawFd]) -> usize {
        let room = (self.room - self.buf.len()).saturating_sub(HEADER) / 4;
        let fits = fds.len().min(room);
        self.cut |= fits < fds.len();
        if fits > 0 {
            let data: Vec<u8> = fds[..fits].iter().flat_map(|fd| fd.to_ne_bytes()).collect();
            self.piece(libc::SOL_SOCKET, libc::SCM_RIGHTS, &data);
        }
        fits
    }
}

/// Whether a message that is received here may bring descriptors.
///
/// # Safety
/// `message` is null, or valid as for recvmsg(2).
pub(crate) unsafe fn may_receive(fd: RawFd, message: *const msghdr) -> bool {
    // SAFETY: by this function's contract.
    let has_room = !message.is_null()
        && unsafe { !(*message).msg_control.is_null() && (*message).msg_controllen > HEADER };
    if !has_room || engine().is_none() {
        return false;
    }
    let _errno = real::KeepErrno::new();
    sys::get_int(borrow(fd), libc::SOL_SOCKET, libc::SO_DOMAIN) == Ok(libc::AF_UNIX)
}

fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the program's own descriptor, in its call on it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// recvmsg() from a unix socket; `call` makes the real call with a message that has room for what
/// a sender under the library adds.
///
/// # Safety
/// `message` is valid as for recvmsg(2).
pub(crate) unsafe fn receiving(
    fd: RawFd,
    message: *mut msghdr,
    flags: c_int,
    call: impl FnOnce(*mut msghdr) -> ssize_t,
) -> ssize_t {
    // SAFETY: by this function's contract.
    let asked = unsafe { *message };
    // usize words, for their alignment.
    let mut wide =
        vec![0usize; (asked.msg_controllen.min(LONGEST / 2) + HEADER + MOST * 4).div_ceil(8)];
    let mut inner = msghdr {
        msg_control: wide.as_mut_ptr().cast(),
        msg_controllen: wide.len() * 8,
        ..asked
    };
    let received = call(&raw mut inner);
    if received < 0 {
        return received;
    }
    let _errno = real::KeepErrno::new();
    let mut out = Vec::new();
    let mut writer = Writer {
        buf: &mut out,
        room: asked.msg_controllen,
        cut: false,
    };
    // SAFETY: the kernel wrote it.
    for piece in pieces(unsafe { control(&inner) }) {
        if !piece.is_rights() {
            writer.piece(piece.level, piece.kind, piece.data);
            continue;
        }
        let mut fds: Vec<RawFd> = piece.fds().collect();
        if let Some(engine) = engine() {
            let peeked = flags & libc::MSG_PEEK != 0;
            for arrived in passing::unpack(engine, borrow(fd), &mut fds, peeked) {
                super::exec::take(arrived);
            }
        }
        let fits = writer.rights(&fds);
        for &fd in &fds[fits..] {
            super::fds::closing(fd);
            real::close(fd);
        }
    }
    let cut = if writer.cut { libc::MSG_CTRUNC } else { 0 };
    // SAFETY: the program's message and control buffer, of the length it said.
    unsafe {
        std::ptr::copy_nonoverlapping(out.as_ptr(), asked.msg_control.cast(), out.len());
        (*message).msg_namelen = inner.msg_namelen;
        (*message).msg_controllen = out.len();
        (*message).msg_flags = inner.msg_flags | cut;
    }
    received
}
