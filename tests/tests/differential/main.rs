//! The same small program over plain TCP and under the library: return values,
//! errno, poll masks and their order must be equal, line by line.
//!
//! The programs are the C scenarios in `tests/scenarios`. Each runs three times
//! under the library:
//!
//! - `O0::` built without optimisation, each connection given time to move to
//!   SMC before it is used, and the move verified by `smcr-stat`;
//! - `fortify::` the same, built with `-O2 -D_FORTIFY_SOURCE=2`;
//! - `eager::` not waiting: what is done first happens around the move.
//!
//! Environment:
//!
//! - `SMCR_LIB`: the library to test (else `target/release/libsmcr.so` is built);
//! - `SMCR_STAT`: the `smcr-stat` to ask (else the one beside the library);
//! - `SMCR_DIFF_REPEAT=N`: instead of all this, run each scenario N times over
//!   plain TCP and demand the same transcript: a scenario that is not stable
//!   there proves nothing.
//!
//! `tests/scenarios/known-differences.txt` lists the differences that are known;
//! one that no longer occurs is an error too.

mod build;
mod compare;
mod known;
mod run;
mod selfcheck;
mod stat;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};

use build::{Build, Programs};
use known::Known;
use run::{Outcome, Run, Transcript};

/// One way to run a scenario under the library.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    O0,
    Fortify,
    Eager,
}

impl Variant {
    const ALL: [Self; 3] = [Self::O0, Self::Fortify, Self::Eager];

    fn name(self) -> &'static str {
        match self {
            Self::O0 => "O0",
            Self::Fortify => "fortify",
            Self::Eager => "eager",
        }
    }

    fn build(self) -> Build {
        match self {
            Self::O0 => Build::O0,
            Self::Fortify | Self::Eager => Build::Fortify,
        }
    }
}

/// A line of `scenarios list`.
#[derive(Clone)]
struct Scenario {
    theme: String,
    name: String,
    /// At least one of its connections has to move to SMC.
    moves: bool,
}

/// Transcripts over plain TCP, made once for each build.
type PlainRuns = Mutex<HashMap<(Build, String), Arc<OnceLock<Result<Transcript, String>>>>>;

/// How often a run is made whose connections stay on TCP.
const ATTEMPTS: u32 = 3;

/// What all trials share.
struct Suite {
    programs: Programs,
    /// Not there when nothing is to run under it.
    library: Option<build::Library>,
    known: Known,
    plain: PlainRuns,
}

impl Suite {
    fn plain(&self, build: Build, scenario: &Scenario) -> Result<Transcript, String> {
        let slot = Arc::clone(
            self.plain
                .lock()
                .map_err(|_| "another trial panicked")?
                .entry((build, scenario.name.clone()))
                .or_default(),
        );
        slot.get_or_init(|| {
            let label = format!("plain-{}-{}", build.name(), scenario.name);
            Run::new(self.programs.path(build), &scenario.name, &label)
                .execute()
                .and_then(|outcome| outcome.whole())
        })
        .clone()
    }

    /// Runs a scenario under the library. On a loaded machine a connection may rightly stay on
    /// TCP; then the run shows nothing, and is made again.
    fn under(
        &self,
        library: &build::Library,
        variant: Variant,
        scenario: &Scenario,
    ) -> Result<Outcome, String> {
        let label = format!("{}-{}", variant.name(), scenario.name);
        let mut attempts = 0;
        loop {
            let mut run = Run::new(self.programs.path(variant.build()), &scenario.name, &label);
            run.preload(&library.so);
            if variant != Variant::Eager {
                run.checkpoints(&library.stat);
            }
            let outcome = run.execute()?;
            attempts += 1;
            let stayed = scenario.moves
                && variant != Variant::Eager
                && outcome.bad_end.is_none()
                && outcome.did_not_move().is_some();
            if !stayed || attempts == ATTEMPTS {
                return Ok(outcome);
            }
        }
    }

    fn compare(&self, variant: Variant, scenario: &Scenario) -> Result<(), String> {
        let library = self.library.as_ref().ok_or("no library")?;
        let plain = self
            .plain(variant.build(), scenario)
            .map_err(|e| format!("over plain TCP: {e}"))?;

        let outcome = self.under(library, variant, scenario)?;

        let diff = compare::diff(plain.lines(), outcome.transcript.lines());
        let bad_end = outcome.bad_end.as_deref();
        let rest = self
            .known
            .explain(&scenario.name, variant.name(), bad_end, diff);
        let mut trouble = Vec::new();
        trouble.extend(rest.bad_end);
        if !rest.unknown.is_empty() {
            trouble.push(format!(
                "differs from plain TCP (-) under the library (+):\n{}",
                compare::render(&rest.unknown)
            ));
        }
        for entry in &rest.unused {
            trouble.push(format!("known difference no longer occurs: {entry}"));
        }
        if scenario.moves && variant != Variant::Eager && outcome.bad_end.is_none() {
            trouble.extend(outcome.did_not_move());
        }
        if trouble.is_empty() {
            return Ok(());
        }
        if !outcome.stderr.is_empty() {
            trouble.push(format!("standard error:\n{}", outcome.stderr));
        }
        Err(trouble.join("\n"))
    }

    fn stable(&self, build: Build, scenario: &Scenario, times: u32) -> Result<(), String> {
        let first = self.plain(build, scenario)?;
        for turn in 2..=times {
            let label = format!("stable-{}-{}", build.name(), scenario.name);
            let again = Run::new(self.programs.path(build), &scenario.name, &label)
                .execute()
                .and_then(|outcome| outcome.whole())
                .map_err(|e| format!("run {turn}: {e}"))?;
            let diff = compare::diff(first.lines(), again.lines());
            if diff.iter().any(compare::Line::differs) {
                return Err(format!("run {turn} differs:\n{}", compare::render(&diff)));
            }
        }
        Ok(())
    }
}

fn trials(suite: &Arc<Suite>, scenarios: &[Scenario], repeat: Option<u32>) -> Vec<Trial> {
    let mut trials = selfcheck::trials();
    for scenario in scenarios {
        if let Some(times) = repeat {
            for build in Build::ALL {
                let (suite, scenario) = (Arc::clone(suite), scenario.clone());
                let name = format!("{}::{}::{}", build.name(), scenario.theme, scenario.name);
                trials.push(
                    Trial::test(name, move || {
                        suite.stable(build, &scenario, times).map_err(Failed::from)
                    })
                    .with_kind("stable"),
                );
            }
            continue;
        }
        for variant in Variant::ALL {
            let (suite, scenario) = (Arc::clone(suite), scenario.clone());
            let name = format!("{}::{}::{}", variant.name(), scenario.theme, scenario.name);
            trials.push(Trial::test(name, move || {
                suite.compare(variant, &scenario).map_err(Failed::from)
            }));
        }
    }
    trials
}

fn prepare(with_library: bool) -> Result<(Arc<Suite>, Vec<Scenario>), String> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let programs = Programs::compile(&directory)?;
    let scenarios = programs.list()?;
    let known = Known::read(&directory.join("known-differences.txt"))?;
    known.check_names(scenarios.iter().map(|s| s.name.as_str()))?;
    let library = with_library.then(build::library).transpose()?;
    let suite = Arc::new(Suite {
        programs,
        library,
        known,
        plain: Mutex::default(),
    });
    Ok((suite, scenarios))
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The scenarios sleep most of the time.
    arguments.test_threads.get_or_insert(4);
    let repeat = std::env::var("SMCR_DIFF_REPEAT")
        .ok()
        .and_then(|n| n.parse().ok());
    match prepare(repeat.is_none() && !arguments.list) {
        Ok((suite, scenarios)) => {
            libtest_mimic::run(&arguments, trials(&suite, &scenarios, repeat)).exit_code()
        }
        Err(e) => {
            eprintln!("differential tests: {e}");
            ExitCode::FAILURE
        }
    }
}
