//! A raw peer with the least manners that a link group needs: it confirms the link, wants no second
//! one, and answers what it is asked. What else it says is up to whoever holds it.

use super::RawPeer;
use crate::cdc::{self, Cdc, CdcMessage, EyeCatcher};
use crate::clc::{Bounded, MtuCode, Psn, QpNumber, Version};
use crate::llc::flow::Role;
use crate::llc::{
    AddLink, AddLinkKind, ConfirmLink, ConfirmRkey, DeleteRkey, DeleteTarget, LinkEnd, LinkNumber,
    LinkUserId, Llc, RejectReason, RequestAddLink, Rtoken, TestLink, Verdict,
};
use crate::rdma::fabric::LinkAddress;

/// The number that a server of this kind gives to its link.
const LINK: LinkNumber = LinkNumber(1);

/// See the module's description.
#[derive(Debug)]
pub struct Manners {
    /// The one that has them.
    pub raw: RawPeer,
    role: Role,
    version: Version,
    /// What it wants in front of the data of each element.
    pub eye_catcher: EyeCatcher,
    link: LinkNumber,
    /// The link works for both.
    is_confirmed: bool,
    /// The other end took the link down.
    is_dismissed: bool,
    /// CDC messages that came and were not taken.
    heard: Vec<CdcMessage>,
    /// Keys of RMBs that the other end has told of.
    pub(super) told: Vec<Rtoken>,
}

impl Manners {
    /// For a raw peer whose link is not connected yet. `role` is its own.
    pub fn new(raw: RawPeer, role: Role, version: Version) -> Self {
        Self {
            raw,
            role,
            version,
            eye_catcher: EyeCatcher::None,
            link: LINK,
            is_confirmed: false,
            is_dismissed: false,
            heard: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Its end of the link, as LLC messages have it.
    pub fn end(&self) -> LinkEnd {
        let LinkAddress { gid, mac, qpn, .. } = self.raw.address();
        LinkEnd {
            mac,
            gid,
            qp_number: qpn,
        }
    }

    /// The link's number.
    pub fn link(&self) -> LinkNumber {
        self.link
    }

    /// Whether both ends have said that the link works.
    pub fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// Whether the other end said that the link, or the group, goes.
    pub fn is_dismissed(&self) -> bool {
        self.is_dismissed
    }

    /// The server's first word.
    pub fn begin(&mut self) {
        if self.role == Role::Server {
            let message = self.confirm_link(false);
            self.say(&message);
        }
    }

    /// Takes what came, and answers it.
    pub fn answer(&mut self) {
        for message in self.raw.take_messages() {
            if message.first() == Some(&cdc::TYPE) {
                if let Ok(Cdc::Message(message)) = Cdc::parse(&message) {
                    self.heard.push(message);
                }
            } else if let Ok((version, message)) = Llc::parse(&message)
                && let Some(answer) = self.answer_to(message)
            {
                // It fails if the link does.
                let _ = self.raw.say(&answer.emit(version));
            }
        }
    }

    /// CDC messages since the last call.
    pub fn take_heard(&mut self) -> Vec<CdcMessage> {
        self.answer();
        std::mem::take(&mut self.heard)
    }

    fn say(&mut self, message: &Llc) {
        let _ = self.raw.say(&message.emit(self.version));
    }

    fn answer_to(&mut self, message: Llc) -> Option<Llc> {
        match message {
            Llc::ConfirmLink(message) if !message.response => {
                self.link = message.link;
                self.is_confirmed = true;
                Some(self.confirm_link(true))
            }
            Llc::ConfirmLink(_) => {
                self.is_confirmed = true;
                // One that nobody can use. A client that does not wait for it rejects it, too.
                Some(Llc::AddLink(AddLink {
                    kind: AddLinkKind::Request,
                    end: LinkEnd {
                        qp_number: QpNumber::default(),
                        ..self.end()
                    },
                    link: LinkNumber(LINK.0 + 1),
                    mtu: MtuCode::new(0).expect("four bits"),
                    psn: Psn::default(),
                    extension: None,
                }))
            }
            Llc::AddLink(message) if message.kind == AddLinkKind::Request => {
                Some(Llc::AddLink(AddLink {
                    kind: AddLinkKind::Rejected(RejectReason::NO_ALTERNATE_PATH),
                    extension: None,
                    ..message
                }))
            }
            Llc::ConfirmRkey(message) if message.verdict == Verdict::Request => {
                self.told.push(message.rtoken);
                Some(Llc::ConfirmRkey(ConfirmRkey {
                    verdict: Verdict::Confirmed,
                    ..message
                }))
            }
            Llc::DeleteRkey(message) if message.failed.is_none() => {
                Some(Llc::DeleteRkey(DeleteRkey {
                    failed: Some(0),
                    ..message
                }))
            }
            Llc::TestLink(message) if !message.response => Some(Llc::TestLink(TestLink {
                response: true,
                ..message
            })),
            Llc::RequestAddLink(message) if !message.response => {
                Some(Llc::RequestAddLink(RequestAddLink {
                    response: true,
                    gids: Bounded::default(),
                }))
            }
            Llc::DeleteLink(message) if message.target == DeleteTarget::All => {
                self.is_dismissed = true;
                None
            }
            _ => None,
        }
    }

    fn confirm_link(&self, response: bool) -> Llc {
        Llc::ConfirmLink(ConfirmLink {
            response,
            no_eye_catcher: self.eye_catcher == EyeCatcher::None,
            end: self.end(),
            link: self.link,
            user_id: LinkUserId(1),
            max_links: 1,
            max_conns: 255,
        })
    }
}
