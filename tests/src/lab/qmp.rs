//! Telling an emulator what to do, in QEMU's machine protocol: one JSON object a line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(15);

/// A connection to one emulator.
pub(super) struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Begins the conversation on a connected stream.
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let mut qmp = Self {
            lines: BufReader::new(stream),
        };
        qmp.read()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes one command and gives what it returns.
    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        self.lines.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut answer = self.read()?;
            if let Some(error) = answer.get("error") {
                bail!("the emulator refuses {command}: {}", error["desc"]);
            }
            // Everything else is events that nobody asked for.
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self
            .lines
            .read_line(&mut line)
            .context("the emulator does not answer")?;
        if length == 0 {
            bail!("the emulator has ended");
        }
        serde_json::from_str(&line).context("the emulator does not speak JSON")
    }
}
