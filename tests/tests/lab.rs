//! The scenarios of the lab as tests: one boot of two emulated machines for all that get along.
//!
//! Skipped, with the reason on stderr, where the emulator or the guests' kernel cannot be had.

use std::ffi::OsStr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use smcr_tests::lab::kernel::Kernel;
use smcr_tests::lab::runner::{Lab, select};
use smcr_tests::scenario::{paths, process};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share the guests, and the order matters.
    arguments.test_threads = Some(1);
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let kernel = match (arguments.list, kernel()) {
        (true, _) => None,
        (false, Ok(kernel)) => Some(kernel),
        (false, Err(reason)) => {
            eprintln!("\nTHE LAB IS SKIPPED, nothing is tested over RDMA: {reason:#}\n");
            None
        }
    };
    let skipped = kernel.is_none() && !arguments.list;
    let lab = match kernel {
        Some(kernel) => {
            paths::ensure_built()?;
            Some(Lab::new(kernel, None)?)
        }
        None => None,
    };
    let lab = Arc::new(Mutex::new(lab));
    let mut trials = Vec::new();
    for scenario in select(&[], false)? {
        let lab = Arc::clone(&lab);
        let trial = Trial::test(scenario.name, move || {
            let mut lab = lab.lock().unwrap_or_else(PoisonError::into_inner);
            let lab = lab.as_mut().ok_or("there is no lab")?;
            let mut outcome = lab.run(&scenario);
            if let Some(trouble) = &outcome.trouble {
                // Emulated machines on a busy one lose whole seconds now and then, and deadlines
                // with them. What fails twice, in two boots, fails for another reason.
                println!("  FAILED AT THE FIRST TRY: {trouble}");
                outcome = lab.run(&scenario);
            }
            for (name, value) in &outcome.notes {
                println!("  {name}: {value}");
            }
            match outcome.trouble {
                None => Ok(()),
                Some(trouble) => Err(Failed::from(format!(
                    "{trouble}\nlogs and captures: {}",
                    outcome.logs.display()
                ))),
            }
        });
        trials.push(trial.with_ignored_flag(skipped));
    }
    let conclusion = libtest_mimic::run(arguments, trials);
    if let Some(lab) = &mut *lab.lock().unwrap_or_else(PoisonError::into_inner) {
        lab.power_off();
    }
    Ok(conclusion.exit_code())
}

/// The guests' kernel, if there is something to run it in.
fn kernel() -> Result<Kernel> {
    process::find(OsStr::new("qemu-system-x86_64"))
        .context("qemu-system-x86_64 is not installed: run `cargo xtask deps`")?;
    Kernel::fetch()
}
