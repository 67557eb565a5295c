//! Running scenarios: one boot for as many as get along with each other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use super::kernel::{self, Kernel};
use super::pair::Pair;
use super::scenarios::{ALL, Scenario};

/// How many runs' logs are kept.
const KEPT_RUNS: usize = 5;

/// How one scenario ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its name.
    pub name: &'static str,
    /// What went wrong, with all that is known about it.
    pub trouble: Option<String>,
    /// How long it took, without booting.
    pub time: Duration,
    /// What it found out, by name.
    pub notes: Vec<(String, String)>,
    /// Its logs and captures.
    pub logs: PathBuf,
}

/// A pair of guests that is booted when needed, and the scenarios that ran in it.
pub struct Lab {
    kernel: Kernel,
    logs: PathBuf,
    pair: Option<Pair>,
    boots: u32,
    /// How long each boot took.
    pub boot_times: Vec<Duration>,
}

impl Lab {
    /// A lab that keeps its logs in this directory, or in a new one under `target/lab/runs`.
    pub fn new(kernel: Kernel, logs: Option<PathBuf>) -> Result<Self> {
        let logs = match logs {
            Some(logs) => logs,
            None => new_run()?,
        };
        std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        Ok(Self {
            kernel,
            // The emulator runs elsewhere.
            logs: logs.canonicalize()?,
            pair: None,
            boots: 0,
            boot_times: Vec::new(),
        })
    }

    /// Where logs and captures are.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Runs one scenario, booting first if need be. Never panics.
    pub fn run(&mut self, scenario: &Scenario) -> Outcome {
        let outcome = self.attempt(scenario);
        if outcome.trouble.is_some() && self.has_double_fault() {
            println!("a guest's kernel ended in a double fault, see its console; once more");
            return self.attempt(scenario);
        }
        outcome
    }

    /// Whether a kernel of the last boot ended in a double fault. That comes some times in a hundred
    /// boots, in soft RoCE under load, with processor flags that cannot be: it is the emulator's
    /// doing. What a program does cannot lead there.
    fn has_double_fault(&self) -> bool {
        let boot = self.logs.join(format!("boot-{}", self.boots));
        let files = std::fs::read_dir(boot).into_iter().flatten().flatten();
        files.map(|file| file.path()).any(|path| {
            let is_console = path.extension().is_some_and(|end| end == "console");
            is_console && is_in_file(&path, b"PANIC: double fault")
        })
    }

    fn attempt(&mut self, scenario: &Scenario) -> Outcome {
        let logs = self.logs.join(scenario.name);
        let mut outcome = Outcome {
            name: scenario.name,
            trouble: None,
            time: Duration::ZERO,
            notes: Vec::new(),
            logs: logs.clone(),
        };
        if scenario.own_boot {
            self.power_off();
        }
        let mut pair = match self.take_pair() {
            Ok(pair) => pair,
            Err(error) => {
                outcome.trouble = Some(format!("{error:#}"));
                return outcome;
            }
        };
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| inside(scenario, &mut pair, &logs)));
        outcome.time = start.elapsed();
        outcome.notes = pair.take_notes();
        outcome.trouble = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(panic) => Some(message(&panic)),
        };
        self.pair = Some(pair);
        if scenario.own_boot || outcome.trouble.is_some() {
            // Nobody else shall suffer from what it left.
            self.power_off();
        }
        outcome
    }

    fn take_pair(&mut self) -> Result<Pair> {
        if let Some(mut pair) = self.pair.take()
            && pair.guests().into_iter().all(|guest| guest.check().is_ok())
        {
            return Ok(pair);
        }
        // Once more, should it fail: on a machine that has no time for them, emulated ones may.
        self.boot().or_else(|error| {
            println!("{error:#}\nbooting again");
            self.boot()
        })
    }

    fn boot(&mut self) -> Result<Pair> {
        self.boots += 1;
        let start = Instant::now();
        let logs = self.logs.join(format!("boot-{}", self.boots));
        let pair = Pair::boot(&self.kernel, &logs, None)?;
        self.boot_times.push(start.elapsed());
        Ok(pair)
    }

    /// Ends the guests, if there are any.
    pub fn power_off(&mut self) {
        if let Some(pair) = self.pair.take() {
            pair.power_off();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// The scenario itself, with its logs, modules and captures.
fn inside(scenario: &Scenario, pair: &mut Pair, logs: &Path) -> Result<()> {
    std::fs::create_dir_all(logs).with_context(|| logs.display().to_string())?;
    let mut captures = Vec::new();
    for guest in pair.guests() {
        let name = guest.name().to_owned();
        guest.log_to(&logs.join(format!("{name}.log")))?;
        if !scenario.modules.is_empty() {
            guest.load(scenario.modules)?;
        }
        let file = logs.join(format!("{name}.pcap"));
        captures.push(guest.begin_capture(&file, scenario.captured)?);
    }
    pair.set_logs(logs);
    let result = (scenario.run)(pair);
    for (guest, capture) in pair.guests().into_iter().zip(captures) {
        // After a failure the emulator may be gone; the failure is what counts.
        let ended = guest.end_capture(&capture);
        if result.is_ok() {
            ended?;
        }
    }
    result
}

fn is_in_file(path: &Path, words: &[u8]) -> bool {
    let text = std::fs::read(path).unwrap_or_default();
    text.windows(words.len()).any(|part| part == words)
}

fn message(panic: &Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("(no message)"))
}

/// The scenarios of these names, in the order in which to run them; without names all but those on
/// request. `full`: also those on request, and of each name those whose names begin with it.
pub fn select(names: &[String], full: bool) -> Result<Vec<Scenario>> {
    let is = |scenario: &Scenario, name: &String| {
        scenario.name == name || full && scenario.name.starts_with(name)
    };
    for name in names {
        if !ALL.iter().any(|scenario| is(scenario, name)) {
            let known: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
            bail!("no scenario {name:?}; there are: {}", known.join(", "));
        }
    }
    let wanted = |scenario: &&Scenario| match names {
        [] => full || !scenario.on_request,
        names => names.iter().any(|name| is(scenario, name)),
    };
    let mut scenarios: Vec<Scenario> = ALL.iter().filter(wanted).copied().collect();
    // A module stays once it is loaded, so those that want fewer come first.
    scenarios.sort_by_key(|scenario| (scenario.own_boot, scenario.modules.len()));
    Ok(scenarios)
}

/// A new directory for a run; the oldest ones go.
fn new_run() -> Result<PathBuf> {
    let runs = kernel::directory().join("runs");
    std::fs::create_dir_all(&runs)?;
    let mut old: Vec<PathBuf> = std::fs::read_dir(&runs)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    old.sort();
    let excess = (old.len() + 1).saturating_sub(KEPT_RUNS);
    for run in &old[..excess] {
        let _ = std::fs::remove_dir_all(run);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let run = runs.join(format!("{}-{}", now.as_secs(), std::process::id()));
    std::fs::create_dir(&run)?;
    Ok(run)
}
