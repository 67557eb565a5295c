//! What the tests that drive `smcr-peer` share.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use smcr_tests::scenario::Preload;
use smcr_tests::scenario::process::{Program, Running};

/// An end that takes commands.
pub(crate) struct Peer {
    /// Its process.
    pub(crate) running: Running,
    control: BufReader<UnixStream>,
}

impl Peer {
    /// Starts one; its control socket is made in `dir`.
    pub(crate) fn start(dir: &Path, name: &str, rest: &str, preload: Preload) -> Result<Self> {
        let path = dir.join(name);
        let mut running = Program::new(env!("CARGO_BIN_EXE_smcr-peer"))?
            .preload(preload)
            .arg(name)
            .arg(&path)
            .args(rest)
            .start()?;
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                    let control = BufReader::new(stream);
                    return Ok(Self { running, control });
                }
                Err(_) if running.exited().is_none() && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => bail!("{error}: {}", running.stop()),
            }
        }
    }

    /// Gives a command.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.control.get_mut(), "{line}").context("the end is gone")
    }

    /// Waits for the answer.
    pub(crate) fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.control.read_line(&mut line);
        if !matches!(read, Ok(1..)) {
            bail!("no answer ({read:?}): {}", self.running.stop());
        }
        if let Some(error) = line.strip_prefix("error ") {
            bail!("{}", error.trim());
        }
        Ok(line.trim().to_owned())
    }

    /// Gives a command and waits for the answer.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        self.say(line)?;
        self.hear().with_context(|| line.to_owned())
    }

    /// An answer of names and numbers.
    pub(crate) fn numbers(&mut self, line: &str) -> Result<BTreeMap<String, i64>> {
        let answer = self.ask(line)?;
        let words: Vec<&str> = answer.split_whitespace().collect();
        ensure!(words.len().is_multiple_of(2), "{answer}");
        let pairs = words.chunks(2);
        pairs
            .map(|pair| Ok((pair[0].to_owned(), pair[1].parse()?)))
            .collect()
    }
}
