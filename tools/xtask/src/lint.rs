//! rustfmt, clippy and cargo deny, as counted steps.

use anyhow::Result;

use crate::deny::{self, Verdict};
use crate::{cargo, test::Steps};

/// Runs the lints; false if one failed.
pub(crate) fn run() -> Result<bool> {
    let mut steps = Steps::default();
    add(&mut steps)?;
    Ok(steps.close())
}

/// Adds the lints to a longer run.
pub(crate) fn add(steps: &mut Steps) -> Result<()> {
    steps.step("rustfmt", || {
        verdict(cargo::run(&["fmt", "--all", "--check"])?)
    });
    // Per package: in one go, features that one package turns on would hide errors in another.
    for package in cargo::packages()? {
        steps.step(&format!("clippy {package}"), || {
            verdict(cargo::run(&[
                "clippy",
                "--no-deps",
                "--quiet",
                "--package",
                &package,
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ])?)
        });
    }
    // A target that is only built when it is named.
    steps.step("clippy, the lab's scenarios as tests", || {
        let target = ["--package", "smcr-tests", "--test", "lab"];
        let mut arguments = vec!["clippy", "--no-deps", "--quiet"];
        arguments.extend(target);
        arguments.extend(["--", "-D", "warnings"]);
        verdict(cargo::run(&arguments)?)
    });
    steps.step("cargo deny: licences, bans, sources", deny::check);
    steps.step("cargo deny: advisories", deny::advisories);
    Ok(())
}

fn verdict(passed: bool) -> Result<Verdict> {
    Ok(if passed {
        Verdict::Passed
    } else {
        Verdict::Failed
    })
}
