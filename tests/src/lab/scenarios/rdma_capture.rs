//! A connection of the library on the wire, from its first SYN to its end, as tshark reads it.

use anyhow::{Context, Result, ensure};

use crate::lab::apps::load;
use crate::lab::{Decoded, Library, Pair, Traffic, Under};

/// What is said until data flow. LLC messages of version 2 carry their length in network order,
/// as tshark expects it.
const FIRST_CONTACT: [&str; 6] = [
    "[SMC-Rv2-Proposal]",
    "[SMC-Rv2-Accept]",
    "[SMC-Rv2-Confirm]",
    "Confirm Link (v2)",
    "Confirm Link (v2)(Resp)",
    "CDC Message",
];

/// RC SEND Only and RC RDMA WRITE Only.
const SEND: &str = "infiniband.bth.opcode == 4";
const WRITE: &str = "infiniband.bth.opcode == 10";

/// Everything that it says decodes, in both guests' captures.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    Library::start(pair)?;
    let before = Traffic::read(pair)?;
    let ran = load::ping(pair, Under::Library, 1, false);
    let right = ran.and_then(|(ran, _)| ran.expect_rdma(pair, &before));
    Library::explain(pair, right)?;
    for guest in ["server", "client"] {
        decodes(pair, guest).with_context(|| format!("the {guest}'s capture"))?;
    }
    Ok(())
}

fn decodes(pair: &mut Pair, guest: &str) -> Result<()> {
    let capture = pair.capture(guest);
    let syns = Decoded::full(&capture, "tcp.flags.syn == 1")?;
    let options = syns.count("Shared Memory communications over RMDA protocol (0xe2d4)");
    ensure!(options >= 2, "{options} SYN and SYN-ACK have the option");

    let smc = Decoded::smc(&capture)?;
    smc.expect_in_order(&FIRST_CONTACT)?;
    smc.expect_none("Decline")?;
    smc.expect_none("Malformed")?;
    // One connection's messages: what each end says is numbered without a gap, and the client's
    // last word is that it closed. (Its process ends then and takes the link along, perhaps before
    // the server has said the same.)
    let (mut ends, mut messages) = (0, 0);
    for source in [pair.server.address(), pair.client.address()] {
        let filter = format!("{SEND} && smc.rmbe.ctrl.seqno && ip.src == {source}");
        let numbers = Decoded::fields(&capture, &filter, &["smc.rmbe.ctrl.seqno"])?;
        messages += numbers.lines().len();
        let mut expected = 1u16;
        for line in numbers.lines() {
            let digits = line.trim_start_matches("0x");
            let number = u16::from_str_radix(digits, 16).with_context(|| line.clone())?;
            ensure!(number == expected, "{source}: {number}, not {expected}");
            expected = expected.wrapping_add(1);
        }
        let filter = format!("{filter} && smc.rmbe.ctrl.peer.closed.conn == 1");
        ends += Decoded::short(&capture, &filter)?.lines().len();
    }
    ensure!((1..=2).contains(&ends), "{ends} ends closed");

    // Not of WRITEs: what a program sends may begin like an EtherType (06 00), and tshark takes it
    // for that protocol then.
    let bad = format!("_ws.malformed && (tcp || {SEND})");
    Decoded::short(&capture, &bad)?.expect_none("")?;
    let writes = Decoded::short(&capture, WRITE)?.lines().len();
    ensure!(
        writes > 0 && writes <= messages,
        "{writes} WRITEs, {messages} CDC messages"
    );
    pair.note(
        format!("in the {guest}'s capture"),
        format!("{writes} WRITEs, {messages} CDC messages"),
    );
    Ok(())
}
