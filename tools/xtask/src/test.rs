//! `cargo xtask test`: everything that continuous integration runs.

use std::time::{Duration, Instant};

use anyhow::Result;
use smcr_tests::scenario::paths;

use crate::deny::Verdict;
use crate::{cargo, deps, lint, ui};

/// Far more than the tests take; only so that one that hangs does not hang the machine.
const TEST_DEADLINE: Duration = Duration::from_secs(20 * 60);

/// Steps, each counted as passed or failed, and the tests that one of them ran.
#[derive(Default)]
pub(crate) struct Steps {
    passed: usize,
    failed: usize,
    times: Vec<(String, Duration, String)>,
}

impl Steps {
    /// Runs one step and counts it. An error counts as a failure and is shown.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Verdict>) -> bool {
        println!("\n== {name}");
        let start = Instant::now();
        let verdict = work().unwrap_or_else(|error| {
            println!("{error:#}");
            Verdict::Failed
        });
        let word = match verdict {
            Verdict::Passed => {
                self.passed += 1;
                "passed"
            }
            Verdict::Failed => {
                self.failed += 1;
                "FAILED"
            }
            Verdict::Skipped => "skipped",
        };
        self.record(name, start, word);
        verdict != Verdict::Failed
    }

    fn record(&mut self, name: &str, start: Instant, word: &str) {
        println!("== {name}: {word} in {}", ui::seconds(start.elapsed()));
        self.times
            .push((name.to_owned(), start.elapsed(), word.to_owned()));
    }

    /// Prints the times and the closing line; true if nothing failed.
    pub(crate) fn close(self) -> bool {
        println!("\n== times");
        let mut rows = vec![vec!["step".to_owned(), "time".into(), "result".into()]];
        for (name, time, word) in self.times {
            rows.push(vec![name, ui::seconds(time), word]);
        }
        ui::table(&rows);
        println!("\n{} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}

/// Runs everything; false if something failed.
pub(crate) fn run() -> Result<bool> {
    let mut steps = Steps::default();
    steps.step("programs that the tests run", || {
        deps::install().map(|()| Verdict::Passed)
    });
    lint::add(&mut steps)?;
    let built = steps.step("release build", || {
        let built = cargo::run(&["build", "--release"])?;
        cargo::build_for_scenarios()?;
        Ok(if built {
            Verdict::Passed
        } else {
            Verdict::Failed
        })
    });
    if built {
        // Not in release form: that would build everything twice over with link-time
        // optimisation, and the programs under test are release builds anyway.
        let workspace = ["test", "--workspace", "--no-fail-fast"];
        tests(&mut steps, "tests", &workspace);
        steps.step("programs that the lab runs", || {
            Ok(match deps::install_with_lab() {
                Ok(()) => Verdict::Passed,
                Err(error) => {
                    println!("{error:#}");
                    Verdict::Skipped
                }
            })
        });
        // Says itself where it cannot run.
        let lab = ["test", "--package", "smcr-tests", "--test", "lab"];
        tests(&mut steps, "lab", &lab);
    }
    Ok(steps.close())
}

/// `cargo test`, whose tests are counted one by one.
fn tests(steps: &mut Steps, name: &str, arguments: &[&str]) {
    println!("\n== {name}");
    let start = Instant::now();
    let mut counts = Counts::default();
    let mut command = cargo::command(arguments);
    command
        .env(paths::PREBUILT, "1")
        .env("RUST_LIB_BACKTRACE", "0");
    let ended_well = cargo::stream(command, TEST_DEADLINE, |line| counts.add(line));
    let ended_well = ended_well.unwrap_or_else(|error| {
        println!("{error:#}");
        false
    });
    if !ended_well && counts.failed == 0 {
        // It did not build, or was stopped: no test says so.
        counts.failed = 1;
    }
    steps.passed += counts.passed;
    steps.failed += counts.failed;
    let word = match counts {
        Counts {
            failed: 0,
            passed: 0,
        } => "skipped".to_owned(),
        Counts { failed: 0, passed } => format!("{passed} passed"),
        Counts { failed, .. } => format!("{failed} FAILED"),
    };
    steps.record(name, start, &word);
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
}

impl Counts {
    /// Adds up `test result: ok. 3 passed; 0 failed; ...`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let words: Vec<&str> = result.split_whitespace().collect();
        for pair in words.windows(2) {
            let number = || pair[0].parse().unwrap_or(0);
            match pair[1] {
                "passed;" => self.passed += number(),
                "failed;" => self.failed += number(),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn counts_results() {
        let mut counts = Counts::default();
        counts.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured");
        counts.add("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured");
        counts.add("test a ... ok");
        assert_eq!(
            counts,
            Counts {
                passed: 5,
                failed: 4
            }
        );
    }
}
