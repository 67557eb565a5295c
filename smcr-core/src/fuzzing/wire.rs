//! What comes over a link: CDC and LLC messages, and sequences of them.

use std::time::{Duration, Instant};

use crate::cdc::{self, Cdc, CdcMessage, CdcSeq, Cursor, EyeCatcher, Window};
use crate::clc::{Gid, Mac, MtuCode, Psn, QpNumber, Rkey, RmbeSize, Token, Version};
use crate::llc::flow::{
    Config, Event, Group, LinkConfig, LinkId, MAX_PEER_RMBS, MAX_QUEUED, RmbId, Role, Timeouts,
};
use crate::llc::{
    self, AddLink, AddLinkKind, ConfirmLink, DeleteReason, LinkEnd, LinkNumber, LinkUserId, Llc,
    RejectReason, Rtoken,
};

/// One end of a connection whose peer says `data`. The first byte is the window (bits 0..=3 its
/// size, bit 4 the eye catcher). Then operations of a byte, the lowest two bits of which say what:
/// 44 bytes of the peer's follow (0), the peer lies by a little (2), or both ends do what they may
/// (1, 3); the others say how much.
pub fn cdc(data: &[u8]) {
    let Some((&setup, mut rest)) = data.split_first() else {
        return;
    };
    let eye_catcher = if setup & 0x10 == 0 {
        EyeCatcher::None
    } else {
        EyeCatcher::FourBytes
    };
    let size = RmbeSize::new(setup & 0x0f).expect("four bits");
    let mut end = End::new(Window::new(size, eye_catcher));
    while let Some((&op, more)) = rest.split_first() {
        rest = more;
        let amount = u64::from(op >> 2);
        match op & 3 {
            0 => {
                let (message, more) = more.split_at(more.len().min(cdc::LEN));
                rest = more;
                end.hostile(message);
            }
            2 => end.lie(amount),
            _ => end.honest(amount),
        }
        end.check();
    }
}

/// What one end knows: positions of both streams.
struct End {
    window: Window,
    peer_produced: u64,
    consumed: u64,
    produced: u64,
    peer_consumed: u64,
}

impl End {
    /// Somewhere in the life of a connection, about to wrap its wrap counts.
    fn new(window: Window) -> Self {
        let at = (u64::from(window.capacity()) << 16) - 100;
        Self {
            window,
            peer_produced: at,
            consumed: at,
            produced: at,
            peer_consumed: at,
        }
    }

    fn hostile(&mut self, bytes: &[u8]) {
        let Ok(message) = Cdc::parse(bytes) else {
            return;
        };
        assert_eq!(Cdc::parse(&message.emit()), Ok(message));
        if let Cdc::Message(message) = message {
            self.take(&message);
        }
    }

    /// Takes what can be true of a message; tells whether all was.
    fn take(&mut self, message: &CdcMessage) -> bool {
        let capacity = u64::from(self.window.capacity());
        let limit = self.consumed + capacity;
        let produced = self
            .window
            .advance(self.peer_produced, limit, message.producer);
        let consumed = self
            .window
            .advance(self.peer_consumed, self.produced, message.consumer);
        for (known, limit, cursor, advanced) in [
            (self.peer_produced, limit, message.producer, produced),
            (
                self.peer_consumed,
                self.produced,
                message.consumer,
                consumed,
            ),
        ] {
            let Ok(position) = advanced else { continue };
            assert!((known..=limit).contains(&position));
            assert_eq!(Cursor::from_position(position, self.window), cursor);
        }
        self.peer_produced = produced.unwrap_or(self.peer_produced);
        self.peer_consumed = consumed.unwrap_or(self.peer_consumed);
        produced.is_ok() && consumed.is_ok()
    }

    /// A cursor just beyond what can be true, or just behind what was said before.
    fn lie(&self, amount: u64) {
        let limit = self.consumed + u64::from(self.window.capacity());
        for (known, limit) in [
            (self.peer_produced, limit),
            (self.peer_consumed, self.produced),
        ] {
            let lies = [limit + 1 + amount, known - 1 - amount];
            for cursor in lies.map(|lie| Cursor::from_position(lie, self.window)) {
                assert!(self.window.advance(known, limit, cursor).is_err());
            }
        }
    }

    /// The peer writes and reads up to `amount` of 63 parts of what it may, and says so; then our
    /// program does the same.
    fn honest(&mut self, amount: u64) {
        let capacity = u64::from(self.window.capacity());
        let part = |room: u64| room * amount / 63;
        let produced = self.peer_produced + part(self.consumed + capacity - self.peer_produced);
        let consumed = self.peer_consumed + part(self.produced - self.peer_consumed);
        let message = CdcMessage {
            seq: CdcSeq::FIRST,
            token: Token(1),
            producer: Cursor::from_position(produced, self.window),
            consumer: Cursor::from_position(consumed, self.window),
            flags: cdc::ProducerFlags::NONE,
            state: cdc::ConnState::NONE,
        };
        assert!(self.take(&message), "the truth is taken");
        assert_eq!(
            (self.peer_produced, self.peer_consumed),
            (produced, consumed)
        );
        self.consumed += part(self.peer_produced - self.consumed);
        self.produced += part(self.peer_consumed + capacity - self.produced);
    }

    fn check(&self) {
        let capacity = u64::from(self.window.capacity());
        assert!(self.consumed <= self.peer_produced);
        assert!(self.peer_produced - self.consumed <= capacity);
        assert!(self.peer_consumed <= self.produced);
        assert!(self.produced - self.peer_consumed <= capacity);
        let unread = (self.peer_produced - self.consumed) as u32;
        for piece in self.window.pieces(self.consumed, unread) {
            assert!(piece.offset + piece.len <= self.window.element_size());
        }
    }
}

/// Parses `data` as one LLC message. What parses can be said again, and then means the same.
pub fn llc_message(data: &[u8]) {
    let Ok((version, message)) = Llc::parse(data) else {
        return;
    };
    let bytes = message.emit(version);
    assert!(bytes.len() <= data.len());
    assert!(version == Version::V2 || bytes.len() == llc::LEN);
    assert_eq!(Llc::parse(&bytes), Ok((version, message)));
}

/// Runs a group of one link through the operations in `data`: messages of the peer, calls of the
/// owner, and time. The first byte sets it up; its bit 4 says that the first contact is over.
pub fn llc_flow(data: &[u8]) {
    let Some((&setup, mut rest)) = data.split_first() else {
        return;
    };
    let mut flow = Flow::new(setup);
    flow.settle(false);
    if setup & 0x10 != 0 {
        flow.first_contact();
    }
    while let Some((&op, more)) = rest.split_first() {
        rest = flow.step(op, more);
        if flow.group.is_ended() {
            break;
        }
    }
    flow.falls_silent();
}

/// The link of all groups.
const LINK: LinkId = LinkId(1);

struct Flow {
    group: Group,
    role: Role,
    /// The peer's end.
    peer: LinkEnd,
    version: Version,
    now: Instant,
    /// What we said last.
    last: Vec<u8>,
}

impl Flow {
    /// The ends of the link are those of the known messages.
    fn new(setup: u8) -> Self {
        let end = |host| {
            let mut gid = [0; 16];
            gid[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, host]);
            LinkEnd {
                mac: Mac([0x52, 0x54, 0, 0, 0, host]),
                gid: Gid(gid),
                qp_number: QpNumber::new(0x11).expect("24 bits"),
            }
        };
        let is_client = setup & 1 == 0;
        let version = if setup & 2 == 0 {
            Version::V2
        } else {
            Version::V1
        };
        let (role, local, peer) = if is_client {
            (Role::Client, end(2), end(1))
        } else {
            (Role::Server, end(1), end(2))
        };
        let config = Config {
            role,
            version,
            max_links: 2,
            max_conns: 255,
            add_link_follows: setup & 4 == 0,
            eye_catcher: if setup & 0x10 == 0 {
                EyeCatcher::None
            } else {
                EyeCatcher::FourBytes
            },
            strict: setup & 8 != 0,
            timeouts: Timeouts::default(),
        };
        let link = LinkConfig {
            id: LINK,
            user_id: LinkUserId(1),
            local,
            peer,
        };
        let now = Instant::now();
        Self {
            group: Group::new(config, link, now),
            role,
            peer,
            version,
            now,
            last: Vec::new(),
        }
    }

    /// The peer does what it has to do.
    fn first_contact(&mut self) {
        let confirm = Llc::ConfirmLink(ConfirmLink {
            response: self.role == Role::Server,
            no_eye_catcher: true,
            end: self.peer,
            link: LinkNumber(1),
            user_id: LinkUserId(1),
            max_links: 2,
            max_conns: 255,
        });
        let add = Llc::AddLink(AddLink {
            kind: match self.role {
                Role::Client => AddLinkKind::Request,
                Role::Server => AddLinkKind::Rejected(RejectReason::NO_ALTERNATE_PATH),
            },
            end: self.peer,
            link: LinkNumber(2),
            mtu: MtuCode::new(0).expect("four bits"),
            psn: Psn::default(),
            extension: None,
        });
        for message in [confirm, add] {
            if self.group.is_settled() {
                break; // no ADD LINK follows
            }
            let bytes = message.emit(self.version);
            self.group.handle_message(self.now, LINK, &bytes);
            self.settle(false);
        }
        assert!(self.group.is_settled());
    }

    /// One operation; gives what it leaves of `data`.
    fn step<'a>(&mut self, op: u8, data: &'a [u8]) -> &'a [u8] {
        let what = op >> 3;
        let rtokens = [(
            LINK,
            Rtoken {
                rkey: Rkey(what.into()),
                address: 0,
            },
        )];
        let rmb = RmbId(what.into());
        let mut rest = data;
        let mut slow = false;
        // Calls fail where they are out of place.
        match op & 7 {
            0..=2 => {
                let len = match op & 7 {
                    0 => llc::LEN,
                    1 => 88,
                    _ => usize::from(what) * 4,
                };
                let (message, more) = data.split_at(data.len().min(len));
                rest = more;
                self.group.handle_message(self.now, LINK, message);
            }
            3 => drop(self.group.confirm_rkey(self.now, rmb, &rtokens)),
            4 => drop(self.group.delete_rkey(self.now, rmb, &rtokens)),
            5 if what == 0 => {
                self.now = self.group.poll_timeout().unwrap_or(self.now);
                self.group.handle_timeout(self.now);
            }
            5 => {
                self.now += Duration::from_millis(u64::from(what) * 100);
                self.group.handle_timeout(self.now);
            }
            6 => match what {
                0 => drop(self.group.end(self.now, DeleteReason::PROGRAM)),
                1 => drop(
                    self.group
                        .delete_link(self.now, LINK, DeleteReason::OPERATOR),
                ),
                2 => self.group.link_failed(self.now, LINK),
                3 => drop(self.group.activated(self.now, LINK)),
                4..=7 => slow = true,
                _ => drop(self.group.test_link(self.now, LINK)),
            },
            // A peer that answers.
            _ => {
                let mut answer = self.last.clone();
                if let Some(flags) = answer.get_mut(3) {
                    *flags |= 0x80 | (what << 3);
                }
                self.group.handle_message(self.now, LINK, &answer);
            }
        }
        self.settle(slow);
        rest
    }

    /// Takes what the group has to say, and checks it. An owner that is `slow` does so later.
    fn settle(&mut self, slow: bool) {
        if slow {
            return;
        }
        let mut sent = 0;
        let mut events = 0;
        loop {
            if let Some(transmit) = self.group.poll_transmit() {
                sent += 1;
                let (_, message) = Llc::parse(&transmit.bytes).expect("we say what we understand");
                let longer = matches!(message, Llc::RequestAddLink(_));
                assert!(self.version == Version::V2 || transmit.bytes.len() == llc::LEN || longer);
                self.last = transmit.bytes;
            } else if let Some(event) = self.group.poll_event() {
                events += 1;
                if let Event::Activate { link } = event {
                    self.group
                        .activated(self.now, link)
                        .expect("it was asked for");
                }
            } else {
                break;
            }
        }
        assert!(sent <= MAX_QUEUED + 1 && events <= 64, "{sent}, {events}");
        assert!(self.group.peer_rmbs() <= MAX_PEER_RMBS);
        // As long as there is a link, something is due some day.
        assert_eq!(
            self.group.is_ended(),
            self.group.poll_timeout().is_none(),
            "a wait without an end"
        );
    }

    /// A group whose peer says nothing more ends soon, and does not spin until then.
    fn falls_silent(mut self) {
        let start = self.now;
        for _ in 0..200 {
            self.settle(false);
            let Some(due) = self.group.poll_timeout() else {
                return;
            };
            self.now = self.now.max(due);
            self.group.handle_timeout(self.now);
            let next = self.group.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "due again at once");
        }
        panic!("still there after {:?}", self.now - start);
    }
}
