//! What went over the wire, as tshark reads it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// SMC has no port of its own: it is recognised by what it looks like, which has to be tried before
/// the port and before others that would take it for theirs.
const PREFERENCES: [&str; 4] = [
    "-o",
    "tcp.try_heuristic_first:TRUE",
    "--disable-protocol",
    "rpcordma",
];

/// Bytes around the payload of a RoCEv2 SEND: the transport header, and the checksum.
const HEADER: usize = 12;
const CHECKSUM: usize = 4;

/// The lines of a decoded capture.
#[derive(Clone, Debug)]
pub struct Decoded {
    lines: Vec<String>,
}

impl Decoded {
    /// Decodes a capture in tshark's short form, one line a packet, of those packets that the
    /// display filter lets through (`smc`, `tcp.port == 5201`; all if it is empty).
    pub fn short(capture: &Path, filter: &str) -> Result<Self> {
        Self::tshark(capture, filter, &[])
    }

    /// One line a packet with these fields, separated by blanks; a field that a packet has more
    /// than once has commas in it, one that it has not is `-`.
    pub fn fields(capture: &Path, filter: &str, fields: &[&str]) -> Result<Self> {
        let mut arguments = vec!["-T", "fields", "-E", "separator=\t"];
        for field in fields {
            arguments.extend(["-e", field]);
        }
        let mut decoded = Self::tshark(capture, filter, &arguments)?;
        for line in &mut decoded.lines {
            let values = line.split('\t');
            let values = values.map(|value| if value.is_empty() { "-" } else { value });
            *line = values.collect::<Vec<_>>().join(" ");
        }
        Ok(decoded)
    }

    /// Everything that tshark knows about these packets.
    pub fn full(capture: &Path, filter: &str) -> Result<Self> {
        Self::tshark(capture, filter, &["-V"])
    }

    /// The SMC messages, one a line: the packet's number, who sent it, what tshark says of it. LLC
    /// messages of version 2 from x86 Linux, whose length is in host order so that tshark does not
    /// know them, get a line of ours, `[LLC v2] CONFIRM LINK response` for instance.
    pub fn smc(capture: &Path) -> Result<Self> {
        let fields = ["frame.number", "ip.src", "_ws.col.Info", "udp.payload"];
        let mut arguments = vec!["-T", "fields", "-E", "separator=\t"];
        for field in fields {
            arguments.extend(["-e", field]);
        }
        let filter = "smc || infiniband.bth.opcode == 4";
        let packets = Self::tshark(capture, filter, &arguments)?;
        let mut lines = Vec::new();
        for packet in &packets.lines {
            let fields: Vec<&str> = packet.split('\t').collect();
            let [number, source, info, payload] = fields[..] else {
                bail!("tshark prints other fields than it was asked for: {packet}");
            };
            let what = match info.contains("[SMC") {
                true => Some(info.to_owned()),
                false => llc(payload),
            };
            lines.extend(what.map(|what| format!("{number} {source} {what}")));
        }
        Ok(Self { lines })
    }

    fn tshark(capture: &Path, filter: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new("tshark");
        command.arg("-r").arg(capture).arg("-n").args(PREFERENCES);
        command.args(arguments);
        if !filter.is_empty() {
            command.args(["-Y", filter]);
        }
        let output = command
            .output()
            .context("cannot run tshark: run `cargo xtask deps`")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        // A capture that is cut short is read up to there, and tshark complains.
        ensure!(
            output.status.success() || errors.contains("cut short"),
            "tshark: {errors}"
        );
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(Self {
            lines: text.lines().map(str::to_owned).collect(),
        })
    }

    /// The lines.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// How many lines have this text in them.
    pub fn count(&self, text: &str) -> usize {
        self.lines.iter().filter(|line| line.contains(text)).count()
    }

    /// An error unless lines with these texts follow each other in this order; others may lie
    /// between them.
    pub fn expect_in_order(&self, texts: &[&str]) -> Result<()> {
        let mut lines = self.lines.iter();
        for (number, text) in texts.iter().enumerate() {
            if !lines.any(|line| line.contains(text)) {
                let before = number.checked_sub(1).map(|before| texts[before]);
                bail!(
                    "no {text:?} {}among these packets:\n{}",
                    before.map(|b| format!("after {b:?} ")).unwrap_or_default(),
                    self.excerpt()
                );
            }
        }
        Ok(())
    }

    /// An error if a line has this text in it, as `Malformed` or `Retransmission`.
    pub fn expect_none(&self, text: &str) -> Result<()> {
        match self.lines.iter().find(|line| line.contains(text)) {
            Some(line) => bail!("{text:?}, which should not occur: {line}"),
            None => Ok(()),
        }
    }

    fn excerpt(&self) -> String {
        let shown = 60;
        let mut text = self.lines[..self.lines.len().min(shown)].join("\n");
        if self.lines.len() > shown {
            text += &format!("\n({} more)", self.lines.len() - shown);
        }
        text
    }
}

/// What an LLC message of version 2 is called, given the UDP payload that it came in, in hex.
fn llc(payload: &str) -> Option<String> {
    let digits: Vec<u8> = payload.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Vec<u8> = digits.chunks(2).filter_map(byte).collect();
    let message = bytes.get(HEADER..bytes.len().checked_sub(CHECKSUM)?)?;
    let [kind, .., flags] = *message.get(..4)? else {
        return None;
    };
    let name = match kind {
        0x21 => "CONFIRM LINK",
        0x22 => "ADD LINK",
        0x24 => "DELETE LINK",
        0x25 => "REQUEST ADD LINK",
        0x26 => "CONFIRM RKEY",
        0x27 => "TEST LINK",
        0x29 => "DELETE RKEY",
        _ => return None,
    };
    let direction = if flags & 0x80 != 0 {
        "response"
    } else {
        "request"
    };
    Some(format!("[LLC v2] {name} {direction}, flags 0x{flags:02x}"))
}

#[cfg(test)]
mod tests {
    use super::{Decoded, llc};

    #[test]
    fn names_of_llc_messages() {
        let header = "0480ffff000000118082871b";
        let response = format!("{header}212c00835254007700015e730f3f");
        let name = llc(&response).unwrap();
        assert_eq!(name, "[LLC v2] CONFIRM LINK response, flags 0x83");
        let colons = format!("{header}22:58:00:00:52:54:00:77:00:01:5e:73:0f:3f");
        assert_eq!(
            llc(&colons).unwrap(),
            "[LLC v2] ADD LINK request, flags 0x00"
        );
        assert_eq!(llc("0480"), None);
        assert_eq!(llc(&format!("{header}fe2c000100005e730f3f")), None);
    }

    #[test]
    fn order_matters() {
        let decoded = Decoded {
            lines: ["SYN", "Proposal", "Accept"].map(String::from).to_vec(),
        };
        assert!(decoded.expect_in_order(&["SYN", "Accept"]).is_ok());
        assert!(decoded.expect_in_order(&["Accept", "SYN"]).is_err());
        assert!(decoded.expect_in_order(&["SYN", "SYN"]).is_err());
        assert!(decoded.expect_none("Decline").is_ok());
        assert!(decoded.expect_none("Accept").is_err());
    }
}
