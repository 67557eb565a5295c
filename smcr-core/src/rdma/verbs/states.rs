//! A queue pair's way from RESET to RTS, with the values of Linux' own SMC-R where nothing else is said.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use rdma_sys::*;
use rustix::io::Errno;

use super::errno::check;
use super::library::Library;
use crate::clc::{MtuCode, Psn};
use crate::rdma::fabric::LinkAddress;

/// When a silent peer is given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Local ACK time-out: 4.096 us << this. Adapters may take up to four times as long
    /// (InfiniBand specification §9.7.6.1.3).
    timeout: u8,
    /// How often an unanswered packet is sent again.
    retries: u8,
}

impl Patience {
    /// As Linux' own SMC-R: eight times 134 ms.
    const ADAPTER: Self = Self {
        timeout: 15,
        retries: 7,
    };

    /// rxe answers when the peer's processor has time for it: seven times 537 ms. Not 7 retries,
    /// which rxe takes for "for ever", as it is for [`RNR_RETRIES`]. And not a shorter time-out:
    /// when rxe sends again what was about to be answered, it may confuse its packet numbers, and
    /// the peer refuses them.
    const SOFTWARE: Self = Self {
        timeout: 17,
        retries: 6,
    };

    /// For a device of this vendor.
    pub(super) fn with(vendor: u32) -> Self {
        /// What rxe says.
        const NO_VENDOR: u32 = 0x00ff_ffff;
        if vendor == NO_VENDOR {
            Self::SOFTWARE
        } else {
            Self::ADAPTER
        }
    }
}

/// For ever: a peer whose receive buffers are used up is slow, not gone.
const RNR_RETRIES: u8 = 7;

/// How long the peer is to wait when our receive buffers are used up: code 5 is 0.06 ms.
const RNR_TIMER: u8 = 5;

/// As far as a router may be away in version 2. For a neighbour the kernel lowers it.
const HOPS: u8 = 64;

fn attributes(state: ibv_qp_state::Type) -> ibv_qp_attr {
    // SAFETY: numbers only, for which 0 is valid.
    let mut attributes: ibv_qp_attr = unsafe { MaybeUninit::zeroed().assume_init() };
    attributes.qp_state = state;
    attributes
}

/// # Safety
/// The queue pair is alive.
unsafe fn modify(
    library: &Library,
    qp: NonNull<ibv_qp>,
    mut attributes: ibv_qp_attr,
    mask: ibv_qp_attr_mask,
) -> Result<(), Errno> {
    let mask = (mask | ibv_qp_attr_mask::IBV_QP_STATE).0 as i32;
    // SAFETY: by the contract; the attributes are only read.
    check(unsafe { (library.modify_qp)(qp.as_ptr(), &raw mut attributes, mask) })
}

/// RESET to INIT: receives can be posted.
///
/// # Safety
/// The queue pair is alive.
pub(super) unsafe fn init(library: &Library, qp: NonNull<ibv_qp>, port: u8) -> Result<(), Errno> {
    let mut attributes = attributes(ibv_qp_state::IBV_QPS_INIT);
    attributes.port_num = port;
    // No reads, no atomics: SMC-R needs none.
    attributes.qp_access_flags =
        (ibv_access_flags::IBV_ACCESS_LOCAL_WRITE | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE).0;
    let mask = ibv_qp_attr_mask::IBV_QP_PKEY_INDEX
        | ibv_qp_attr_mask::IBV_QP_PORT
        | ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS;
    // SAFETY: by the contract.
    unsafe { modify(library, qp, attributes, mask) }
}

/// INIT to RTR: what the peer sends can arrive. The kernel finds out the peer's MAC by its GID,
/// which takes up to some seconds if nobody answers.
///
/// # Safety
/// The queue pair is alive.
pub(super) unsafe fn ready_to_receive(
    library: &Library,
    qp: NonNull<ibv_qp>,
    port: u8,
    gid_index: u8,
    mtu: MtuCode,
    peer: &LinkAddress,
) -> Result<(), Errno> {
    let mtu = mtu.code().min(peer.mtu.code());
    if MtuCode::new(mtu).and_then(MtuCode::bytes).is_none() {
        return Err(Errno::INVAL);
    }
    let mut attributes = attributes(ibv_qp_state::IBV_QPS_RTR);
    attributes.path_mtu = mtu.into();
    attributes.dest_qp_num = peer.qpn.get();
    attributes.rq_psn = peer.psn.get();
    attributes.max_dest_rd_atomic = 1;
    attributes.min_rnr_timer = RNR_TIMER;
    attributes.ah_attr.is_global = 1;
    attributes.ah_attr.port_num = port;
    attributes.ah_attr.grh.dgid.raw = peer.gid.0;
    attributes.ah_attr.grh.sgid_index = gid_index;
    attributes.ah_attr.grh.hop_limit = HOPS;
    let mask = ibv_qp_attr_mask::IBV_QP_AV
        | ibv_qp_attr_mask::IBV_QP_PATH_MTU
        | ibv_qp_attr_mask::IBV_QP_DEST_QPN
        | ibv_qp_attr_mask::IBV_QP_RQ_PSN
        | ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC
        | ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER;
    // SAFETY: by the contract.
    unsafe { modify(library, qp, attributes, mask) }
}

/// RTR to RTS: posts can go out.
///
/// # Safety
/// The queue pair is alive.
pub(super) unsafe fn ready_to_send(
    library: &Library,
    qp: NonNull<ibv_qp>,
    psn: Psn,
    patience: Patience,
) -> Result<(), Errno> {
    let mut attributes = attributes(ibv_qp_state::IBV_QPS_RTS);
    attributes.sq_psn = psn.get();
    attributes.timeout = patience.timeout;
    attributes.retry_cnt = patience.retries;
    attributes.rnr_retry = RNR_RETRIES;
    attributes.max_rd_atomic = 1;
    let mask = ibv_qp_attr_mask::IBV_QP_TIMEOUT
        | ibv_qp_attr_mask::IBV_QP_RETRY_CNT
        | ibv_qp_attr_mask::IBV_QP_RNR_RETRY
        | ibv_qp_attr_mask::IBV_QP_SQ_PSN
        | ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC;
    // SAFETY: by the contract.
    unsafe { modify(library, qp, attributes, mask) }
}

/// To ERROR: everything that is posted comes back.
///
/// # Safety
/// The queue pair is alive.
pub(super) unsafe fn error(library: &Library, qp: NonNull<ibv_qp>) -> Result<(), Errno> {
    // SAFETY: by the contract.
    unsafe {
        let attributes = attributes(ibv_qp_state::IBV_QPS_ERR);
        modify(library, qp, attributes, ibv_qp_attr_mask(0))
    }
}
