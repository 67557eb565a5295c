//! Does the PNET table find the RoCE port that Linux would take, under VLANs and bonds too?

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::{Cmd, Guest, Pair, quote};
use crate::scenario::paths;

const SMALL: Duration = Duration::from_secs(30);

/// Resolves on `rxe0`, on a VLAN over its interface, and on a second device in a bond; and uses
/// what was found.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    let result = all(pair);
    // The others that run in these guests find them as they were.
    for guest in pair.guests() {
        guest.sh(
            "rm -f /tmp/pnet /tmp/.pnet.lock; ip link del eth0.5 2>/dev/null; \
             rdma link del rxe1 2>/dev/null; ip link del bond0 2>/dev/null; \
             ip link del port0 2>/dev/null; ip link del port1 2>/dev/null; true",
        )?;
    }
    result
}

fn all(pair: &mut Pair) -> Result<()> {
    plain(pair)?;
    vlan(pair)?;
    table(&pair.client)?;
    bond(pair)?;
    namespace(&pair.client)
}

/// No table: the GIDs of `rxe0` belong to `eth0`.
fn plain(pair: &Pair) -> Result<()> {
    let text = explain(&pair.client, "10.77.0.1", 0)?;
    has(&text, "from 10.77.0.2 to 10.77.0.1 leaves by eth0")?;
    has(&text, "base      eth0\n")?;
    has(&text, "SMC-R v2  rxe0 port 1, GID 1 (10.77.0.2)")?;
    has(&text, "SMC-R v1  none: rxe0 port 1 has no GID for SMC-R v1")?;
    // Over IPv6 there is no version 2.
    let text = explain(&pair.client, "fd77::1", 3)?;
    has(
        &text,
        "SMC-R v2  none: rxe0 port 1 has no GID for SMC-R v2: it works over IPv4",
    )?;
    // To itself the way is `lo`, as in Linux.
    let text = explain(&pair.client, "10.77.0.2", 3)?;
    has(&text, "leaves by lo")
}

/// A VLAN has GIDs of its own, and RDMA by those works.
fn vlan(pair: &mut Pair) -> Result<()> {
    let mut indices = Vec::new();
    for (guest, number) in pair.guests().into_iter().zip(1..) {
        guest.sh(format!(
            "modprobe 8021q && ip link add link eth0 name eth0.5 type vlan id 5 && \
             ip address add 10.77.5.{number}/24 dev eth0.5 && ip link set eth0.5 up"
        ))?;
        let peer = format!("10.77.5.{}", 3 - number);
        let text = served(guest, &peer)?;
        has(&text, "base      eth0.5 (VLAN 5) -> eth0\nVLAN      5\n")?;
        has(&text, "not on the VLAN of the connection")?;
        indices.push(gid_index(&text)?);
        // And the one of `eth0` is still its own.
        let text = explain(guest, &format!("10.77.0.{}", 3 - number), 0)?;
        has(&text, "GID 1 (10.77.0.")?;
        has(&text, ": on VLAN 5")?;
    }
    let pingpong = |index| format!("ibv_rc_pingpong -d rxe0 -g {index} -n 100");
    let mut server = pair.server.spawn(pingpong(indices[0]))?;
    pair.server.wait_for_listener(18515)?;
    let line = format!("{} 10.77.5.1", pingpong(indices[1]));
    pair.client.run(line, SMALL)?.success()?;
    server.wait(SMALL)?.success()?;
    let note = format!("{} and {}", indices[0], indices[1]);
    pair.note("GIDs on the VLAN that RDMA worked by", note);
    Ok(())
}

/// What the table says counts: for the base interface, for the VLAN, for `lo`.
fn table(client: &Guest) -> Result<()> {
    pnet(client, "-a NET1 -I eth0 -D rxe0")?;
    let text = explain(client, "10.77.5.1", 0)?;
    has(&text, "NET1, which the table has for eth0")?;
    pnet(client, "-f")?;
    pnet(client, "-a NET2 -I eth0.5 -D rxe9")?;
    let text = explain(client, "10.77.5.1", 3)?;
    has(&text, "NET2, which the table has for eth0.5")?;
    has(&text, "rxe9 port 1: there is no such device or port")?;
    pnet(client, "-d NET2 -D rxe9")?;
    let text = explain(client, "10.77.5.1", 3)?;
    has(
        &text,
        "no RoCE port has the PNETID NET2 of eth0 (below eth0.5)",
    )?;
    pnet(client, "-a NET3 -I lo -D rxe0")?;
    let text = explain(client, "10.77.0.2", 0)?;
    has(&text, "SMC-R v2  rxe0 port 1, GID 1 (10.77.0.2)")?;
    pnet(client, "-f")
}

/// Below a bond, and a VLAN over it, is the port that joined first, whatever its number.
fn bond(pair: &mut Pair) -> Result<()> {
    let client = &pair.client;
    client.sh(
        "modprobe -a bonding veth && ip link add bond0 type bond mode active-backup miimon 50 && \
         ip link add port0 type veth peer name end0 && ip link set end0 up && \
         ip link add port1 type veth peer name end1 && ip link set end1 up && \
         rdma link add rxe1 type rxe netdev port1 && \
         ip link set port1 master bond0 && ip link set port0 master bond0 && \
         ip link set bond0 up && ip address add 10.77.6.1/24 dev bond0 && \
         ip link add link bond0 name bond0.7 type vlan id 7 && \
         ip address add 10.77.7.1/24 dev bond0.7 && ip link set bond0.7 up",
    )?;
    let text = served(client, "10.77.7.9")?;
    let base = "bond0.7 (VLAN 7) -> bond0 (bond) -> port1 (veth)\nVLAN      7\n";
    has(&text, base)?;
    has(&text, "SMC-R v2  rxe1 port 1, GID ")?;
    has(&text, "(10.77.7.1)")?;
    let text = served(client, "10.77.6.9")?;
    has(&text, "base      bond0 (bond) -> port1 (veth)\n")?;
    has(&text, "(10.77.6.1)")?;
    // A port without a link is no use.
    client.sh("ip link set port1 down")?;
    pnet(client, "-a NET1 -I bond0 -D rxe1")?;
    let text = until(client, "10.77.6.9", |text| text.contains("not active"))?;
    has(&text, "NET1, which the table has for bond0")?;
    has(
        &text,
        "SMC-R v2  none: no port can be used: rxe1 port 1: not active (DOWN)",
    )?;
    pnet(client, "-f")?;
    // It leaves, and joins again as the second.
    client.sh("ip link set port1 nomaster && ip link set port1 master bond0")?;
    let text = explained(client, "10.77.6.9")?;
    has(&text, "base      bond0 (bond) -> port0 (veth)\n")
}

/// RDMA devices are seen from all network namespaces; names of interfaces mean others there.
fn namespace(client: &Guest) -> Result<()> {
    let inside = format!(
        "ip link add eth0 type veth peer name other && ip address add 10.77.0.9/24 dev eth0 && \
         ip link set other up && ip link set eth0 up && ls /sys/class/infiniband >&2; {}",
        command("-r 10.77.0.1")
    );
    let line = format!("unshare --net sh -c {}", quote(&inside));
    let finished = client.run(line, SMALL)?;
    ensure!(finished.status.code() == Some(3), "served: {finished}");
    has(&finished.stderr, "rxe0")?;
    has(
        &finished.stdout,
        "from 10.77.0.9 to 10.77.0.1 leaves by eth0",
    )?;
    has(
        &finished.stdout,
        "eth0 has no PNETID, and no GID of a RoCE port belongs to it",
    )
}

fn command(words: &str) -> String {
    let tool = paths::pnet_tool();
    format!(
        "{} --table /tmp/pnet {words}",
        quote(&tool.display().to_string())
    )
}

fn pnet(guest: &Guest, words: &str) -> Result<()> {
    guest.sh(Cmd::new(command(words))).map(drop)
}

/// The explanation of how `peer` resolves.
fn explained(guest: &Guest, peer: &str) -> Result<String> {
    let finished = guest.run(command(&format!("-r {peer}")), SMALL)?;
    let code = finished.status.code();
    ensure!(matches!(code, Some(0 | 3)), "{finished}");
    Ok(finished.stdout)
}

/// The explanation, which has to end with this status.
fn explain(guest: &Guest, peer: &str, status: i32) -> Result<String> {
    let finished = guest.run(command(&format!("-r {peer}")), SMALL)?;
    ensure!(
        finished.status.code() == Some(status),
        "not {status}: {finished}"
    );
    Ok(finished.stdout)
}

/// The explanation once `peer` resolves: GIDs follow addresses a moment later.
fn served(guest: &Guest, peer: &str) -> Result<String> {
    until(guest, peer, |text| text.contains("SMC-R v2  rxe"))
}

fn until(guest: &Guest, peer: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
    for _ in 0..50 {
        let text = explained(guest, peer)?;
        if wanted(&text) {
            return Ok(text);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let text = explained(guest, peer)?;
    ensure!(wanted(&text), "not after 5 s:\n{text}");
    Ok(text)
}

/// The number in `SMC-R v2  rxe0 port 1, GID 3 (10.77.5.1)`.
fn gid_index(text: &str) -> Result<u32> {
    let number = last_line(text)
        .split_once("GID ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    number.with_context(|| format!("no GID in {text}"))
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default()
}

fn has(text: &str, part: &str) -> Result<()> {
    ensure!(text.contains(part), "{part:?} is not in:\n{text}");
    Ok(())
}
