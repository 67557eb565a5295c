//! A program in a guest that does to a stream what it is told, and says what came of it.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::guest::{Guest, Process};
use super::library::{Under, snapshot};
use super::quote;
use crate::scenario::paths;
use crate::scenario::stat;

/// How long emulated machines may take for what takes no time.
pub const PROMPT: Duration = Duration::from_secs(30);

/// See `tests/apps/stream_actor.py` for the commands. Dropping it ends the program.
pub struct Actor {
    process: Process,
    asked: usize,
    pid: u32,
}

/// What came of a command.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `ok`, or what was counted, or an error by its name and what was counted before.
    pub text: String,
    /// How long it took, by the guest's clock.
    pub seconds: f64,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:.1} s)", self.text, self.seconds)
    }
}

impl Answer {
    /// Whether its first word is one of these.
    pub fn is_one_of(&self, words: &[&str]) -> bool {
        let first = self.text.split(' ').next().unwrap_or_default();
        words.contains(&first)
    }

    /// An error unless it is this text.
    pub fn expect(self, text: &str) -> Result<Self> {
        match self.text == text {
            true => Ok(self),
            false => bail!("{self}, not {text:?}"),
        }
    }
}

impl Actor {
    /// Starts one.
    pub fn start(guest: &Guest, under: Under) -> Result<Self> {
        let python = paths::python().display().to_string();
        let script = paths::app("stream_actor.py").display().to_string();
        let line = under.line(&format!("{} {}", quote(&python), quote(&script)));
        let mut actor = Self {
            process: guest.spawn(line)?,
            asked: 0,
            pid: 0,
        };
        actor.process.wait_for(" ;0\n", PROMPT)?;
        let pid = actor.parse(0).context("no greeting")?.text;
        actor.pid = pid.parse()?;
        Ok(actor)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Gives it a command, and its number.
    pub fn tell(&mut self, command: &str) -> Result<usize> {
        self.process.write(format!("{command}\n").as_bytes())?;
        self.asked += 1;
        Ok(self.asked)
    }

    /// Waits for what came of a command. None within the deadline is an error: it hangs.
    pub fn answer(&mut self, number: usize, deadline: Duration) -> Result<Answer> {
        let end = format!(" ;{number}\n");
        self.process.wait_for(&end, deadline)?;
        self.parse(number)
            .with_context(|| format!("no answer to command {number}"))
    }

    /// Waits the whole time; what came of a command, if anything did.
    pub fn look(&mut self, number: usize, time: Duration) -> Result<Option<Answer>> {
        self.process.wait_a_while(time)?;
        Ok(self.parse(number))
    }

    /// Gives it a command and waits for what comes of it.
    pub fn ask(&mut self, command: &str) -> Result<Answer> {
        let number = self.tell(command)?;
        let answer = self.answer(number, PROMPT);
        answer.with_context(|| command.to_owned())
    }

    fn parse(&self, number: usize) -> Option<Answer> {
        let (begin, end) = (format!("{number} "), format!(" ;{number}"));
        self.process.stdout().lines().find_map(|line| {
            let rest = line.strip_prefix(&begin)?.strip_suffix(&end)?;
            let (seconds, text) = rest.split_once(' ')?;
            Some(Answer {
                text: text.to_owned(),
                seconds: seconds.parse().ok()?,
            })
        })
    }

    /// The program itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What `smcr-stat` shows of it, if anything.
    pub fn seen(&self, guest: &Guest) -> Result<stat::Process> {
        let found = snapshot(guest)?.processes;
        let mut found = found.into_iter();
        Ok(found.find(|p| p.pid == self.pid).unwrap_or_default())
    }
}

/// The reasons counted in a process, in one line.
pub fn reasons(process: &stat::Process) -> String {
    let reasons = process.fallbacks.iter();
    let reasons: Vec<&str> = reasons
        .filter(|reason| reason.count > 0)
        .map(|reason| reason.name.as_str())
        .collect();
    match reasons.is_empty() {
        true => "no reason".to_owned(),
        false => reasons.join(", "),
    }
}
