//! One end of a link: memory, completions, and the TCP connection over which the two ends learn of
//! each other.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smcr_core::clc::{Gid as WireGid, Mac, MtuCode, Psn, QpNumber, Rkey};
use smcr_core::rdma::fabric::{
    Access, Completion, Domain, Link, LinkAddress, LinkError, LocalGid, Port, Region,
    Write as RdmaWrite,
};
use smcr_core::rdma::verbs;
use smcr_core::sys;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;
pub(crate) type Outcome = Result<()>;

/// Bytes that the peer may write to.
pub(crate) const RMB: usize = 1 << 20;

/// Which GID of which device to use.
pub(crate) struct Gid {
    pub(crate) device: String,
    pub(crate) index: u8,
}

impl Gid {
    pub(crate) fn new(device: &str, index: &str) -> Self {
        Self {
            device: device.to_owned(),
            index: index.parse().expect("the index of a GID is a small number"),
        }
    }

    /// The GID itself, as the kernel shows it.
    pub(crate) fn local(&self) -> Result<LocalGid> {
        let Self { device, index } = self;
        let path = format!("/sys/class/infiniband/{device}/ports/1/gids/{index}");
        let text = std::fs::read_to_string(path)?.trim().replace(':', "");
        Ok(LocalGid {
            index: *index,
            gid: WireGid(u128::from_str_radix(&text, 16)?.to_be_bytes()),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// Zeroed shared pages.
pub(crate) struct Pages {
    pub(crate) base: NonNull<u8>,
}

impl Pages {
    pub(crate) fn new() -> Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags};
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: new pages, never given back.
        let base = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), RMB, access, MapFlags::SHARED)?
        };
        let base = NonNull::new(base.cast()).ok_or("mapped at 0")?;
        Ok(Self { base })
    }

    /// A copy of some bytes, which the peer may be changing.
    pub(crate) fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= RMB);
        // SAFETY: inside the pages; bytes have no invalid values.
        (0..len)
            .map(|i| unsafe { self.base.as_ptr().add(offset + i).read_volatile() })
            .collect()
    }

    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= RMB);
        // SAFETY: inside the pages, which only we write to.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.base.as_ptr().add(offset),
                bytes.len(),
            );
        }
    }
}

pub(crate) struct End {
    pub(crate) side: Side,
    pub(crate) gid: LocalGid,
    pub(crate) link: Box<dyn Link>,
    pub(crate) port: Arc<dyn Port>,
    /// Where the link and all memory are.
    pub(crate) domain: Arc<dyn Domain>,
    /// What the peer writes to.
    pub(crate) rmb: Pages,
    pub(crate) rmb_region: Box<dyn Region>,
    /// What we write from.
    pub(crate) source: Pages,
    pub(crate) source_region: Box<dyn Region>,
    pub(crate) tcp: BufReader<TcpStream>,
    pub(crate) peer_rmb: (u64, Rkey),
    pub(crate) inbox: VecDeque<Vec<u8>>,
    /// The last id that was said to be sent.
    pub(crate) sent: u64,
    pub(crate) failures: Vec<LinkError>,
}

impl End {
    /// Opens the port, makes a link and connects it with the other process's.
    pub(crate) fn new(
        gid: &Gid,
        mut tcp: BufReader<TcpStream>,
        side: Side,
        receive_size: usize,
    ) -> Result<Self> {
        let port = verbs::open(&gid.device, 1)?;
        let local = gid.local()?;
        let psn = Psn::new(rand() & 0xff_ffff).ok_or("24 bits")?;
        let domain = port.clone().domain()?;
        let mut link = domain.clone().link(local, psn, receive_size)?;
        let (rmb, source) = (Pages::new()?, Pages::new()?);
        // SAFETY: the pages are never given back.
        let (rmb_region, source_region) = unsafe {
            (
                domain
                    .clone()
                    .register(rmb.base, RMB, Access::RemoteWrite)?,
                domain.clone().register(source.base, RMB, Access::Local)?,
            )
        };
        let own = describe(&link.address(), rmb_region.address(), rmb_region.rkey());
        let (peer, at, key) = parse(&exchange(&mut tcp, &own)?)?;
        link.connect(&peer)?;
        // Nobody sends before both can receive.
        exchange(&mut tcp, "connected")?;
        link.ready_to_send()?;
        // A link that fails before it can send is another test than those here.
        exchange(&mut tcp, "ready")?;
        Ok(Self {
            side,
            gid: local,
            link,
            port,
            domain,
            rmb,
            rmb_region,
            source,
            source_region,
            tcp,
            peer_rmb: (at, key),
            inbox: VecDeque::new(),
            sent: 0,
            failures: Vec::new(),
        })
    }

    /// A WRITE to the same place of the peer's memory as it has in our source pages.
    pub(crate) fn write(&self, offset: usize, len: usize) -> RdmaWrite {
        assert!(offset + len <= RMB);
        RdmaWrite {
            // SAFETY: inside the pages.
            from: unsafe { self.source.base.add(offset) },
            lkey: self.source_region.lkey(),
            len: len as u32,
            to: self.peer_rmb.0 + offset as u64,
            rkey: self.peer_rmb.1,
        }
    }

    pub(crate) fn post(
        &mut self,
        writes: &[RdmaWrite],
        message: &[u8],
        id: u64,
        signal: bool,
    ) -> std::result::Result<(), rustix::io::Errno> {
        // SAFETY: the tests change source pages only when a post is done.
        unsafe { self.link.post(writes, message, id, signal) }
    }

    /// Takes what is completed.
    pub(crate) fn poll(&mut self) -> usize {
        let id = self.link.id();
        let Self {
            port,
            inbox,
            sent,
            failures,
            ..
        } = self;
        port.poll(&mut |completion| match completion {
            Completion::Sent { link, id: done } => {
                assert_eq!(link, id);
                assert!(done >= *sent, "{done} after {sent}");
                *sent = done;
            }
            Completion::Received { link, message } => {
                assert_eq!(link, id);
                inbox.push_back(message.to_vec());
            }
            Completion::Failed { link, error } => {
                assert_eq!(link, id);
                failures.push(error);
            }
        })
    }

    /// Polls until there is a message. A failure of the link is an error.
    pub(crate) fn receive(&mut self) -> Result<Vec<u8>> {
        let begun = Instant::now();
        loop {
            if let Some(message) = self.inbox.pop_front() {
                return Ok(message);
            }
            if self.poll() == 0 {
                self.check()?;
                if begun.elapsed() > Duration::from_secs(20) {
                    return Err("no message for 20 s".into());
                }
                // No sched_yield: where rxe shares the processor, it keeps its workers waiting.
                std::hint::spin_loop();
            }
        }
    }

    /// Sleeps until there is something to poll, as a thread does that must not miss anything.
    /// False at the time-out.
    pub(crate) fn sleep(&mut self, limit: Duration) -> bool {
        self.port.arm();
        if self.poll() > 0 {
            return true;
        }
        let ms = limit.as_millis() as i32;
        let events = sys::poll_one(self.port.completion_fd(), libc::POLLIN, Some(ms));
        // Else it would stay readable, and nobody would sleep from here on.
        self.port.take_event();
        self.poll();
        events.is_ok_and(|events| events != 0)
    }

    pub(crate) fn check(&self) -> Outcome {
        if self.failures.is_empty() {
            Ok(())
        } else {
            Err(format!("the link failed: {:?}", self.failures).into())
        }
    }

    /// Waits until the other end is there, too.
    pub(crate) fn meet(&mut self) -> Outcome {
        exchange(&mut self.tcp, "here").map(drop)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // An end that leaves while the other still sends would be a failure over there.
        if self.failures.is_empty() {
            let _ = self.meet();
        }
    }
}

/// Sends a line and gets the other end's.
pub(crate) fn exchange(tcp: &mut BufReader<TcpStream>, line: &str) -> Result<String> {
    writeln!(tcp.get_mut(), "{line}")?;
    let mut answer = String::new();
    if tcp.read_line(&mut answer)? == 0 {
        return Err(format!("the peer (fd {}) has left", tcp.get_ref().as_raw_fd()).into());
    }
    Ok(answer)
}

/// A link's address and that of the memory, in one line.
pub(crate) fn describe(link: &LinkAddress, at: u64, key: Rkey) -> String {
    let gid = u128::from_be_bytes(link.gid.0);
    let mac = link.mac.0.map(|byte| format!("{byte:02x}")).concat();
    let (qpn, psn, mtu) = (link.qpn.get(), link.psn.get(), link.mtu.code());
    format!("{gid:x} {mac} {qpn:x} {psn:x} {mtu:x} {at:x} {:x}", key.0)
}

pub(crate) fn parse(line: &str) -> Result<(LinkAddress, u64, Rkey)> {
    let mut numbers = line.split_whitespace();
    let mut next = || -> Result<u128> {
        Ok(u128::from_str_radix(
            numbers.next().ok_or("a short line")?,
            16,
        )?)
    };
    let gid = WireGid(next()?.to_be_bytes());
    let mut mac = [0; 6];
    mac.copy_from_slice(&next()?.to_be_bytes()[10..]);
    let link = LinkAddress {
        gid,
        mac: Mac(mac),
        qpn: QpNumber::new(next()? as u32).ok_or("24 bits")?,
        psn: Psn::new(next()? as u32).ok_or("24 bits")?,
        mtu: MtuCode::new(next()? as u8).ok_or("4 bits")?,
    };
    Ok((link, next()? as u64, Rkey(next()? as u32)))
}

pub(crate) fn rand() -> u32 {
    let mut bytes = [0; 4];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u32::from_ne_bytes(bytes)
}

/// Numbers that look random and are the same at both ends (xorshift64*).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }
}
