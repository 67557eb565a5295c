//! What the order of messages does not know: what is in them.

use std::fmt::Debug;

use super::Objection;
use crate::Reason;
use crate::clc::{Accept, Confirm, PeerId, Proposal};

/// One kind of memory that connections can move to, as far as its CLC messages go. There are two:
/// [`Shm`](super::shm::Shm) and [`Rdma`](super::rdma::Rdma).
///
/// The functions are for the machines of this module: they judge a message that parsed, and answer
/// with what the owner has to know of it and what has to be remembered of it.
pub trait Fabric: Clone + Debug + PartialEq + Eq {
    /// What a client offers, and who it is.
    type Offer: Debug;
    /// What a server can take, and who it is.
    type Server: Debug;
    /// What a server's owner learns from the Proposal.
    type Proposed: Clone + Debug + PartialEq + Eq;
    /// What a client's owner learns from the Accept.
    type Accepted: Clone + Debug + PartialEq + Eq;
    /// What a server's owner learns from the Confirm.
    type Confirmed: Clone + Debug + PartialEq + Eq;
    /// What is agreed so far, for the messages that follow.
    type Agreed: Clone + Debug;

    /// Who the client is.
    fn client(offer: &Self::Offer) -> PeerId;

    /// Who the server is.
    fn server(server: &Self::Server) -> PeerId;

    /// The Proposal.
    ///
    /// # Errors
    /// There is nothing to offer: a Decline goes out in its place.
    fn propose(offer: &Self::Offer) -> Result<Proposal, Reason>;

    /// The server: can this be accepted?
    ///
    /// # Errors
    /// Why not; it is declined.
    fn check_proposal(
        server: &Self::Server,
        proposal: &Proposal,
    ) -> Result<(Self::Proposed, Self::Agreed), Objection>;

    /// The client: did the server choose what was offered?
    ///
    /// # Errors
    /// Why it cannot be confirmed; it is declined, as Linux does.
    fn check_accept(
        offer: &Self::Offer,
        accept: &Accept,
    ) -> Result<(Self::Accepted, Self::Agreed), Objection>;

    /// The server: does the Confirm come from the client of the Proposal, on the terms of the
    /// Accept?
    ///
    /// # Errors
    /// What is wrong with it. [`Objection::Contradiction`] always ends the connection, anything
    /// else where it is too late for a Decline.
    fn check_confirm(
        server: &Self::Server,
        agreed: &Self::Agreed,
        confirm: &Confirm,
    ) -> Result<Self::Confirmed, Objection>;

    /// Does a new link have to be confirmed after the Confirm, before the connection is SMC's?
    fn has_link_phase(agreed: &Self::Agreed) -> bool;
}
