//! Protection domains: what one link can reach, and another one cannot.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use smcr_core::clc::{Psn, Rkey};
use smcr_core::rdma::fabric::{
    Access, Completion, Domain, Link, LinkError, Region, Write as RdmaWrite,
};
use std::sync::Arc;

use super::end::{End, Outcome, Pages, RMB, Result, Side, describe, exchange, parse, rand};
use super::traffic;

/// One more link between the two processes, with memory of its own, in a domain of the same port.
struct Other {
    link: Box<dyn Link>,
    rmb: Pages,
    // Both keep the memory usable.
    _rmb_region: Box<dyn Region>,
    source_region: Box<dyn Region>,
    source: Pages,
    /// The peer's.
    peer_rmb: (u64, Rkey),
}

/// What became of a WRITE.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Failed(LinkError),
}

impl Other {
    fn new(end: &mut End, domain: &Arc<dyn Domain>) -> Result<Self> {
        let psn = Psn::new(rand() & 0xff_ffff).ok_or("24 bits")?;
        let mut link = domain.clone().link(end.gid, psn, 44)?;
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
        let (peer, at, key) = parse(&exchange(&mut end.tcp, &own)?)?;
        link.connect(&peer)?;
        end.meet()?;
        link.ready_to_send()?;
        end.meet()?;
        Ok(Self {
            link,
            rmb,
            _rmb_region: rmb_region,
            source_region,
            source,
            peer_rmb: (at, key),
        })
    }

    /// Writes 100 bytes over this link, and waits until it is known what became of them.
    fn write(&mut self, end: &End, (to, rkey): (u64, Rkey)) -> Result<Fate> {
        self.source.write(0, &[0xee; 100]);
        let write = RdmaWrite {
            from: self.source.base,
            lkey: self.source_region.lkey(),
            len: 100,
            to,
            rkey,
        };
        // SAFETY: the source pages stay as they are.
        unsafe { self.link.post(&[write], &[7; 44], 1, true)? };
        let (id, begun) = (self.link.id(), Instant::now());
        let mut fate = None;
        while fate.is_none() {
            end.port.poll(&mut |completion| match completion {
                Completion::Sent { link, .. } if link == id => fate = Some(Fate::Done),
                Completion::Failed { link, error } if link == id => {
                    if error != LinkError::Flushed {
                        fate = Some(Fate::Failed(error));
                    }
                }
                other => panic!("{other:?} while nothing else is posted"),
            });
            if begun.elapsed() > Duration::from_secs(20) {
                return Err("neither done nor refused in 20 s".into());
            }
            std::hint::spin_loop();
        }
        fate.ok_or_else(|| "unreachable".into())
    }
}

/// The client has three links with the server: the end's, one in the same domain, and one in
/// another. Over the latter it writes to the memory of the first, whose key and address it knows.
pub(crate) fn trespass(end: &mut End) -> Outcome {
    let same = end.domain.clone();
    let mut beside = Other::new(end, &same)?;
    let another = end.port.clone().domain()?;
    let mut outside = Other::new(end, &another)?;
    if end.side == Side::Server {
        // Nothing is posted at this end, and no receive is looked at.
        end.meet()?;
        check(&outside.rmb, 0xee, "the other domain's own memory")?;
        check(&end.rmb, 0xee, "memory of the same domain")?;
        end.rmb.write(0, &[0; 100]);
        end.meet()?;
        end.meet()?;
        check(&end.rmb, 0, "memory of another domain")?;
        drop((beside, outside));
        while end.port.poll(&mut |_| ()) > 0 {}
        end.meet()?;
        return traffic::pattern_after(end);
    }
    let own = outside.peer_rmb;
    for (name, fate) in [
        ("its own memory", outside.write(end, own)?),
        // Else the refusal below would prove nothing: the key is good.
        ("of the same domain", beside.write(end, end.peer_rmb)?),
    ] {
        if fate != Fate::Done {
            return Err(format!("a WRITE to {name}: {fate:?}").into());
        }
    }
    end.meet()?;
    end.meet()?;
    let fate = outside.write(end, end.peer_rmb)?;
    println!("trespass: {fate:?}");
    if fate != Fate::Failed(LinkError::Refused) {
        return Err(format!("a WRITE to memory of another domain: {fate:?}").into());
    }
    // SAFETY: no memory is named.
    match unsafe { outside.link.post(&[], &[7; 44], 2, true) } {
        Err(Errno::NOTCONN) => {}
        posted => return Err(format!("posting on the broken link: {posted:?}").into()),
    }
    end.meet()?;
    drop((beside, outside));
    while end.port.poll(&mut |_| ()) > 0 {}
    end.meet()?;
    // The link whose memory it was goes on.
    traffic::pattern_after(end)
}

/// The first bytes of the memory are all of that value.
fn check(rmb: &Pages, value: u8, name: &str) -> Outcome {
    if rmb.read(0, 100) == [value; 100] {
        Ok(())
    } else {
        Err(format!("{name} does not hold {value:#x}").into())
    }
}
