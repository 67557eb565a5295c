//! Connections that stay on TCP, or go back to it, in every phase of the handshake: at first contact
//! and later.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::fallback::over_tcp;
use crate::lab::interop::{Bench, Caller, Case, Seen};
use crate::lab::{Guest, Pair, kernel_peer};

/// Two connections, one after the other; before the second there is time to change something.
const TWO: Case = Case::new(
    "two",
    "both:1000,say:open,sleep:4000,both:1000,shut,eof",
    "both:1000,say:open,sleep:4000,both:1000,shut,eof",
)
.times(2);

/// More than the library's first RMB has elements.
const EIGHT: Case = Case::new("eight", "both:1000,shut,eof", "both:1000,shut,eof")
    .times(8)
    .together();

/// The control group in which the library may have only so many objects of RDMA.
const GROUP: &str = "/sys/fs/cgroup/smcr-lab";
const ENTER: &str = "echo $$ >/sys/fs/cgroup/smcr-lab/cgroup.procs;";

/// All of them.
pub(in super::super) fn run(pair: &mut Pair) -> Result<()> {
    let mut bench = Bench::new(pair)?;
    for caller in Caller::BOTH {
        bench.cell("SYN cookies at the listener", caller, |bench| {
            let listener = match caller {
                Caller::Library => &bench.pair.server,
                Caller::Kernel => &bench.pair.client,
            };
            listener.sh("sysctl -w net.ipv4.tcp_syncookies=2")?;
            let seen = over_tcp(bench, caller);
            for guest in bench.pair.guests() {
                guest.sh("sysctl -w net.ipv4.tcp_syncookies=1")?;
            }
            seen
        });
        bench.cell("RoCE does not get through", caller, |bench| {
            drop_roce(&bench.pair.client)?;
            let seen = over_tcp(bench, caller);
            bench.pair.client.sh("tc qdisc del dev eth0 clsact")?;
            seen
        });
        bench.cell("later: the kernel's UEID is gone", caller, |bench| {
            kernel_peer::begin_fallbacks(&bench.pair.server)?;
            let mut running = bench.start(caller, &TWO)?;
            let open = running.kernel.wait_for("open", Duration::from_secs(20));
            let gone = open.and_then(|()| kernel_peer::forget(&bench.pair.server));
            let seen = bench.end(running, &TWO);
            kernel_peer::configure(&bench.pair.server)?;
            gone?;
            told(bench, &seen?, 1..=1)
        });
        for objects in 1..=12 {
            let name = format!("the library may have {objects} objects of RDMA");
            bench.cell(&name, caller, |bench| limited(bench, caller, objects));
        }
    }
    bench.finish()
}

/// RoCE is UDP to one port; what comes for it is dropped.
fn drop_roce(guest: &Guest) -> Result<()> {
    guest
        .sh(
            "tc qdisc add dev eth0 clsact && tc filter add dev eth0 ingress protocol ip u32 \
             match ip protocol 17 0xff match ip dport 4791 0xffff action drop",
        )
        .map(drop)
}

/// The kernel refuses the library's process more queue pairs, regions and the like than that.
fn limited(bench: &mut Bench<'_>, caller: Caller, objects: u32) -> Result<String> {
    bench.pair.client.sh(format!(
        "echo +rdma >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p {GROUP}; \
         echo rxe0 hca_object={objects} >{GROUP}/rdma.max"
    ))?;
    kernel_peer::begin_fallbacks(&bench.pair.server)?;
    bench.prologue = ENTER;
    let seen = bench.talk(caller, &EIGHT);
    bench.prologue = "";
    told(bench, &seen?, 0..=8)
}

/// So many have to be over RDMA, and the others over TCP; says why.
fn told(bench: &Bench<'_>, seen: &Seen, expected: std::ops::RangeInclusive<u64>) -> Result<String> {
    let (rdma, tcp) = (seen.library.made("rdma"), seen.library.made("tcp"));
    ensure!(
        expected.contains(&rdma),
        "{rdma} over RDMA, {tcp} over TCP: {}",
        seen.said
    );
    let reasons = seen.library.fallbacks.iter().map(|it| it.name.as_str());
    let reasons: Vec<&str> = reasons.collect();
    let kernel = kernel_peer::fallbacks(&bench.pair.server)?;
    let kernel: Vec<String> = kernel.iter().map(|code| format!("{code:#010x}")).collect();
    Ok(format!(
        "{:.2} s, {rdma} over RDMA, {tcp} over TCP; library: {}; kernel: {}",
        seen.time.as_secs_f64(),
        reasons.join(", "),
        kernel.join(", ")
    ))
}
