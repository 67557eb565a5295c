//! Asks `smcr-stat` how a process's connections run.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A connection moves when both ends have it; this is ample for that.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The mode of a connection over shared memory.
const MOVED: &str = "shm";

/// The `smcr-stat` program.
pub(crate) struct Stat {
    program: PathBuf,
}

/// What was found at one checkpoint.
pub(crate) struct Seen {
    pid: u32,
    /// Connection ends that should have moved by then.
    wanted: usize,
    /// The modes of all connections of the process, or why they are not known.
    modes: Result<Vec<String>, String>,
}

impl Seen {
    pub(crate) fn moved(&self) -> bool {
        self.modes
            .as_ref()
            .is_ok_and(|modes| modes.iter().filter(|m| *m == MOVED).count() >= self.wanted)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "checkpoint of process {}: {} wanted, ",
            self.pid, self.wanted
        )?;
        match &self.modes {
            Ok(modes) if modes.is_empty() => write!(f, "no connections"),
            Ok(modes) => write!(f, "modes {}", modes.join(" ")),
            Err(e) => write!(f, "{e}"),
        }
    }
}

impl Stat {
    pub(crate) fn new(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
        }
    }

    /// Looks until that many ends have moved, or patience ends.
    pub(crate) fn await_ends(&self, pid: u32, wanted: usize) -> Seen {
        let start = Instant::now();
        loop {
            let modes = self.modes(pid);
            let hopeless = modes.is_err();
            let seen = Seen { pid, wanted, modes };
            if seen.moved() || hopeless || start.elapsed() > PATIENCE {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn modes(&self, pid: u32) -> Result<Vec<String>, String> {
        let output = Command::new(&self.program)
            .args(["--json", "--pid", &pid.to_string()])
            .env_remove("LD_PRELOAD")
            .output()
            .map_err(|e| format!("{}: {e}", self.program.display()))?;
        let json: Value = serde_json::from_slice(&output.stdout).map_err(|e| {
            format!(
                "smcr-stat --json gave no JSON ({e}): {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        Ok(modes_of(&json, pid))
    }
}

fn modes_of(json: &Value, pid: u32) -> Vec<String> {
    let list = |value: &Value, key: &str| -> Vec<Value> {
        value
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    list(json, "processes")
        .iter()
        .filter(|process| process.get("pid").and_then(Value::as_u64) == Some(u64::from(pid)))
        .flat_map(|process| list(process, "connections"))
        .map(|connection| {
            connection
                .get("mode")
                .and_then(Value::as_str)
                .unwrap_or("?")
                .to_owned()
        })
        .collect()
}
