//! `cargo xtask lab`: scenarios between two emulated machines with RDMA.

use std::path::PathBuf;

use anyhow::{Context, Result};
use lexopt::prelude::{Long, Short, Value, ValueExt};
use smcr_tests::lab::kernel::Kernel;
use smcr_tests::lab::runner::{Lab, select};
use smcr_tests::lab::{scenarios, shell};
use smcr_tests::scenario::paths;

use crate::{cargo, deps, ui};

const HELP: &str = "\
cargo xtask lab [OPTION...] [SCENARIO...]   run scenarios between two guests, all if none is named
cargo xtask lab [OPTION...] shell [GUEST]   a shell in guest 1 of a new pair; with GUEST (1 or 2), in
                                            a guest of the pair that runs

  --list          show the scenarios
  --full          also those that take too long for every run; a SCENARIO means all whose names
                  begin so: lab --full interop
  --keep DIR      keep logs and captures in DIR, not under target/lab/runs
  --profile NAME  test what cargo builds with this profile (release)
";

#[derive(Default)]
struct Options {
    names: Vec<String>,
    list: bool,
    full: bool,
    keep: Option<PathBuf>,
    profile: Option<String>,
}

/// Runs what the arguments say; false if something failed.
pub(crate) fn run(mut arguments: lexopt::Parser) -> Result<bool> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("list") => options.list = true,
            Long("full") => options.full = true,
            Long("keep") => options.keep = Some(arguments.value()?.into()),
            Long("profile") => options.profile = Some(arguments.value()?.string()?),
            Long("help") | Short('h') => {
                print!("{HELP}");
                return Ok(true);
            }
            Value(name) => options.names.push(name.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if options.list {
        for scenario in scenarios::ALL {
            println!("  {:<16} {}", scenario.name, scenario.about);
        }
        return Ok(true);
    }
    if let Some(profile) = &options.profile {
        // SAFETY: no other thread has been started yet.
        unsafe { std::env::set_var(paths::PROFILE, profile) };
    }
    if let [word, rest @ ..] = options.names.as_slice()
        && word == "shell"
    {
        return enter(&options, rest);
    }
    let scenarios = select(&options.names, options.full)?;
    let mut lab = Lab::new(prepare()?, options.keep)?;
    let mut rows = vec![["scenario", "time", "result"].map(String::from).to_vec()];
    let mut failed = 0;
    for scenario in &scenarios {
        println!("\n== {}: {}", scenario.name, scenario.about);
        let outcome = ui::with_progress(scenario.name, || lab.run(scenario));
        for (name, value) in &outcome.notes {
            println!("  {name}: {value}");
        }
        let word = match &outcome.trouble {
            None => "passed",
            Some(trouble) => {
                failed += 1;
                println!("{trouble}");
                "FAILED"
            }
        };
        let time = ui::seconds(outcome.time);
        println!(
            "== {}: {word} in {time}; {}",
            scenario.name,
            outcome.logs.display()
        );
        rows.push(vec![scenario.name.to_owned(), time, word.to_owned()]);
    }
    lab.power_off();
    println!();
    ui::table(&rows);
    let boots: Vec<String> = lab
        .boot_times
        .iter()
        .map(|time| ui::seconds(*time))
        .collect();
    println!("\nboots: {}", boots.join(", "));
    println!("logs and captures: {}", lab.logs().display());
    println!("{} passed, {failed} failed", scenarios.len() - failed);
    Ok(failed == 0)
}

/// Installs, fetches and builds what is missing.
fn prepare() -> Result<Kernel> {
    deps::install_with_lab()?;
    let kernel = Kernel::fetch()?;
    if std::env::var_os(paths::PREBUILT).is_none() {
        cargo::build_for_scenarios()?;
    }
    Ok(kernel)
}

fn enter(options: &Options, rest: &[String]) -> Result<bool> {
    let status = match rest {
        [] => {
            let kernel = prepare()?;
            let lab = Lab::new(kernel.clone(), options.keep.clone())?;
            shell::first(&kernel, lab.logs())?
        }
        [guest] => {
            let number: usize = guest.parse().context("guests are 1 and 2")?;
            shell::another(number)?
        }
        _ => anyhow::bail!("too many arguments\n\n{HELP}"),
    };
    Ok(status == 0)
}
