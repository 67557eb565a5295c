//! What SMC-R needs of an RDMA device: the wall between the protocol and libibverbs.
//!
//! A [`Port`] is one port of a device, opened by this process, with one completion queue for all
//! its links. A [`Domain`] is a protection domain of the device's: what one peer may reach
//! (RFC 7609 §2.1). A [`Link`] is one RC queue pair in it (RFC 7609 §2.2). Everything that can be
//! waited for comes out of [`Port::poll`].
//!
//! Order is what SMC-R rests on: the WRITEs and the message of one [`Link::post`], and successive
//! posts, take effect at the peer in the order they were posted.
//!
//! Ports, domains and links belong to the process that made them. A child of a fork must not touch
//! them, not even to drop them.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::io::Errno;

use crate::clc::{Gid, Mac, MtuCode, Psn, QpNumber, Rkey};

/// Where a link's end is: what CLC and ADD LINK tell the peer of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddress {
    /// GID of the port that the queue pair uses.
    pub gid: Gid,
    /// MAC of the port.
    pub mac: Mac,
    /// The queue pair's number.
    pub qpn: QpNumber,
    /// First packet sequence number of what it sends.
    pub psn: Psn,
    /// The port's path MTU.
    pub mtu: MtuCode,
}

/// Which of a port's GIDs a link uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalGid {
    /// Its place in the port's GID table.
    pub index: u8,
    /// The GID: RoCEv1 for SMC-R version 1, IPv4-mapped RoCEv2 for version 2.
    pub gid: Gid,
}

/// One RDMA WRITE: `len` bytes of our registered memory to an address of the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// First byte, inside a [`Region`] of the same domain.
    pub from: NonNull<u8>,
    /// The region's local key.
    pub lkey: u32,
    /// Bytes, not 0.
    pub len: u32,
    /// Where to, as the peer named it.
    pub to: u64,
    /// The key the peer gave us for that memory.
    pub rkey: Rkey,
}

/// How a queue pair failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkError {
    /// The peer's adapter does not answer (retries exhausted).
    Unreachable,
    /// The peer refused: a wrong key or address, or a message longer than its buffers.
    Refused,
    /// We refused or failed what the peer or we asked for: a fault on our side.
    Local,
    /// The queue pair was in error already: everything posted comes back like this.
    Flushed,
}

/// Something that [`Port::poll`] found.
#[derive(Debug)]
pub enum Completion<'a> {
    /// A signalled post of this link is done: the message with this id has arrived, and so has
    /// everything posted before it.
    Sent {
        /// Which link.
        link: LinkId,
        /// What was given to [`Link::post`].
        id: u64,
    },
    /// The peer sent a message. The bytes are valid during the call only; the receive buffer is
    /// posted again afterwards.
    Received {
        /// Which link.
        link: LinkId,
        /// The message: LLC or CDC.
        message: &'a [u8],
    },
    /// The queue pair is in error. Comes once or more for a broken link.
    Failed {
        /// Which link.
        link: LinkId,
        /// How.
        error: LinkError,
    },
}

/// Names a link within its port: the number of our own queue pair, which is not used again while
/// completions of an earlier one may be outstanding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// Something about the port as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortEvent {
    /// The port went down: links will fail, but it may come back.
    Down,
    /// The port is active.
    Up,
    /// The device is gone or going (`rdma link del`, hot unplug): nothing works any more.
    Gone,
    /// A link failed; its completions say so, too.
    LinkFailed(LinkId),
}

/// What the peer may do with registered memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: it is a source of our own WRITEs.
    Local,
    /// Write: it is an RMB.
    RemoteWrite,
}

/// Registered memory; deregistered on drop. Keeps its domain.
pub trait Region: std::fmt::Debug + Send + Sync {
    /// For [`Write::lkey`].
    fn lkey(&self) -> u32;
    /// For the peer.
    fn rkey(&self) -> Rkey;
    /// The address that the peer uses for the first byte.
    fn address(&self) -> u64;
}

/// A port of an RDMA device. See the module's description.
pub trait Port: std::fmt::Debug + Send + Sync {
    /// `device/port`, as the administrator knows it.
    fn name(&self) -> &str;

    /// The port's MAC.
    fn mac(&self) -> Mac;

    /// Active path MTU.
    fn mtu(&self) -> MtuCode;

    /// Makes a protection domain, with nothing in it.
    ///
    /// # Errors
    /// `ENOMEM` when the device has no more, `ENODEV` or `EIO` when it is gone.
    fn domain(self: Arc<Self>) -> Result<Arc<dyn Domain>, Errno>;

    /// Hands what is completed to `found`, at most some dozens at a time. Returns how many there
    /// were. No system call. Callers take turns (one lock for all of a port), so `found` must not
    /// poll; it may make, use and drop links.
    fn poll(&self, found: &mut dyn FnMut(Completion<'_>)) -> usize;

    /// Readable when there is an event: one for each [`Self::arm`] that completions came after.
    fn completion_fd(&self) -> BorrowedFd<'_>;

    /// Takes an event out of [`Self::completion_fd`], if there is one.
    fn take_event(&self);

    /// Asks for an event with the next completion. Poll once more afterwards: what completed before
    /// is not told.
    fn arm(&self);

    /// Readable when there is a [`PortEvent`].
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// The next event, without waiting. After [`PortEvent::Gone`] the descriptor may stay
    /// readable for ever: the port is to be dropped.
    fn event(&self) -> Option<PortEvent>;

    /// Whether [`PortEvent::Gone`] was told or it was found [removed](Self::is_removed): it will
    /// never be used again.
    fn is_gone(&self) -> bool;

    /// Whether the administrator removed the device, or wants to: not every kernel tells its users
    /// (by [`PortEvent::Gone`]); some wait until all have closed it. From then on
    /// [`Self::is_gone`] is true. A system call.
    fn is_removed(&self) -> bool {
        self.is_gone()
    }

    /// Work requests and doorbells so far, for statistics.
    fn counts(&self) -> Counts;
}

/// A protection domain: memory, and the links through which it can be reached. A key of its memory
/// is refused on every link of another domain, so two peers that share none cannot touch each
/// other's memory, whatever keys they know or guess (RFC 7609 §2.1). Freed after the last of its
/// regions and links.
pub trait Domain: std::fmt::Debug + Send + Sync {
    /// Registers memory.
    ///
    /// # Safety
    /// `base` is valid for `len` bytes until the region is dropped, and may be read and (with
    /// [`Access::RemoteWrite`]) written by others at any time.
    ///
    /// # Errors
    /// `ENOMEM` when RLIMIT_MEMLOCK or the device's limits are reached.
    unsafe fn register(
        self: Arc<Self>,
        base: NonNull<u8>,
        len: usize,
        access: Access,
    ) -> Result<Box<dyn Region>, Errno>;

    /// Makes a queue pair (RC, in INIT) and posts its receives.
    /// `receive_size`: bytes of each receive buffer: 44 for version 1, 8192 for version 2 (LLC
    /// messages can be that long).
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` if the GID is no longer at its place, `ENOBUFS` for too many links,
    /// `ENOMEM` as in [`Self::register`].
    fn link(
        self: Arc<Self>,
        gid: LocalGid,
        psn: Psn,
        receive_size: usize,
    ) -> Result<Box<dyn Link>, Errno>;
}

/// What a port did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// RDMA WRITE work requests.
    pub writes: u64,
    /// SEND work requests.
    pub sends: u64,
    /// Calls that told the adapter of new requests.
    pub doorbells: u64,
}

/// A queue pair. Destroyed on drop; the peer finds that out by itself. Keeps its domain.
pub trait Link: std::fmt::Debug + Send {
    /// Names it in completions.
    fn id(&self) -> LinkId;

    /// What the peer has to know.
    fn address(&self) -> LinkAddress;

    /// To RTR: receives can arrive. Uses the smaller MTU of the two. May take some seconds if
    /// nobody answers for the peer's GID.
    ///
    /// # Errors
    /// `EINVAL`, `ENETUNREACH`, `ETIMEDOUT`: the peer's address leads nowhere.
    fn connect(&mut self, peer: &LinkAddress) -> Result<(), Errno>;

    /// To RTS: posts can go out. After [`Self::connect`].
    fn ready_to_send(&mut self) -> Result<(), Errno>;

    /// How many more work requests can be posted now. A post needs one for each WRITE and one for
    /// the message.
    fn room(&self) -> usize;

    /// Posts the WRITEs, and behind them the message (one SEND, solicited; copied inline, or
    /// before this returns), as one chain: one doorbell. The message's completion says `id`, now
    /// or together with a later one: every Nth message is signalled, or each with `signal`.
    ///
    /// # Safety
    /// The memory of the writes stays as it is until the post is completed.
    ///
    /// # Errors
    /// `EAGAIN` if there is no room (nothing was posted), `ENOTCONN` if the queue pair is not in
    /// RTS or broken, `EMSGSIZE` for a message longer than the receive buffers, `EINVAL` for an
    /// empty message, an empty WRITE, or more requests than the queue ever holds.
    unsafe fn post(
        &mut self,
        writes: &[Write],
        message: &[u8],
        id: u64,
        signal: bool,
    ) -> Result<(), Errno>;
}
