//! Connections that stay on TCP, or go back to it, in every phase of the handshake: at first contact
//! and later.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::fallback::{ECHO, over_tcp};
use super::faults::ended;
use super::pause::trouble;
use crate::lab::interop::{Bench, Caller, Case, Seen};
use crate::lab::{Guest, Pair, kernel_peer};
use crate::scenario::process::Finished;

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

/// How long it may take until both ends know that RoCE does not work: Linux tests a link after 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

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
        bench.cell("RoCE gets through in neither direction", caller, |bench| {
            drop_roce(&bench.pair.client, &["ingress", "egress"])?;
            let seen = over_tcp(bench, caller);
            bench.pair.client.sh("tc qdisc del dev eth0 clsact")?;
            seen
        });
        for (name, way) in [
            ("RoCE does not get to the library", "ingress"),
            ("RoCE does not get to the kernel", "egress"),
        ] {
            bench.cell(name, caller, |bench| {
                drop_roce(&bench.pair.client, &[way])?;
                let ended = both_end(bench, caller);
                bench.pair.client.sh("tc qdisc del dev eth0 clsact")?;
                ended
            });
        }
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
        bench.cell("the library runs out of objects of RDMA", caller, |bench| {
            objects_run_out(bench, caller)
        });
    }
    bench.finish()
}

/// RoCE is UDP to one port; what comes for it, or goes there, is dropped.
fn drop_roce(guest: &Guest, ways: &[&str]) -> Result<()> {
    let mut line = "tc qdisc add dev eth0 clsact".to_owned();
    for way in ways {
        line += &format!(
            " && tc filter add dev eth0 {way} protocol ip u32 match ip protocol 17 0xff \
             match ip dport 4791 0xffff action drop"
        );
    }
    guest.sh(line).map(drop)
}

/// Where only one end can know that nothing works they may end differently: over TCP, or both with
/// an error, and soon. No byte gets to a program that its peer's did not send.
fn both_end(bench: &mut Bench<'_>, caller: Caller) -> Result<String> {
    let mut running = bench.start(caller, &ECHO)?;
    let library = ended(&mut running.library, PATIENCE).context("library")?;
    let told = running.kernel.wait_a_while(PATIENCE)?.is_some();
    let kernel = running.kernel.stop()?;
    // Linux may drop a connection that was reset during the handshake without telling the program
    // that listens.
    ensure!(
        told || kernel.stderr.is_empty(),
        "no end within {PATIENCE:?}: {kernel}"
    );
    let wrong = [&library, &kernel].map(|end| end.stderr.contains("wrong"));
    ensure!(wrong == [false; 2], "library: {library}; kernel: {kernel}");
    let went = [&library, &kernel].map(|end| end.status.success());
    ensure!(
        went == [true; 2] || went == [false; 2],
        "one end alone went on: library: {library}; kernel: {kernel}"
    );
    let said = |end: &Finished| match end.status.success() {
        true => "over TCP".to_owned(),
        false => trouble(&end.stderr).to_owned(),
    };
    let kernel = match told {
        true => said(&kernel),
        false => "the listener hears nothing of it".to_owned(),
    };
    Ok(format!("library: {}; kernel: {kernel}", said(&library)))
}

/// The kernel refuses the library's process more queue pairs, regions and the like than there are:
/// when the device is opened, at the next step, and so on until all connections get what they need.
fn objects_run_out(bench: &mut Bench<'_>, caller: Caller) -> Result<String> {
    let mut steps = Vec::new();
    for objects in 0..=20 {
        bench.pair.client.sh(format!(
            "echo +rdma >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p {GROUP}; \
             echo rxe0 hca_object={objects} >{GROUP}/rdma.max"
        ))?;
        kernel_peer::begin_fallbacks(&bench.pair.server)?;
        bench.prologue = ENTER;
        let seen = bench.talk(caller, &EIGHT);
        bench.prologue = "";
        let seen = seen.with_context(|| format!("{objects} objects"))?;
        let step = told(bench, &seen, 0..=8)?;
        if seen.library.made("tcp") == 0 {
            break;
        }
        steps.push((seen.library.made("rdma"), step));
    }
    let all = steps.iter().map(|(_, step)| step.as_str());
    let all = all.collect::<Vec<_>>().join(" / ");
    for reason in ["no-rdma-device", "link-failed", "memory"] {
        ensure!(all.contains(reason), "never {reason}: {all}");
    }
    let later = steps.iter().any(|(rdma, _)| *rdma > 0);
    ensure!(later, "no later contact was declined: {all}");
    Ok(all)
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
    let mut kernel: Vec<String> = kernel.iter().map(|code| format!("{code:#010x}")).collect();
    kernel.dedup();
    Ok(format!(
        "{:.2} s, {rdma} over RDMA, {tcp} over TCP; library: {}; kernel: {}",
        seen.time.as_secs_f64(),
        reasons.join(", "),
        kernel.join(", ")
    ))
}
