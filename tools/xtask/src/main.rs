//! `cargo xtask`: the chores of this workspace.

mod bench;
mod cargo;
mod demo;
mod deny;
mod deps;
mod lab;
mod lint;
mod test;
mod ui;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask <command>

  deps                  install the programs that tests, demo and lab run (Debian, by apt-get)
  demo                  real programs over plain TCP and under the library, side by side
  bench [--json FILE] [--quick] [--list] [NAME...]
                        the same as numbers: medians, ratios, targets
  lab [--list] [--keep DIR] [--profile NAME] [SCENARIO... | shell [GUEST]]
                        real RDMA, between two emulated machines
  lint                  rustfmt, clippy per package, cargo deny
  test                  everything that continuous integration runs
";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True if all went well; false where what went wrong has been shown already.
fn run() -> Result<bool> {
    let mut arguments = lexopt::Parser::from_env();
    let command = match arguments.next()? {
        Some(lexopt::Arg::Value(command)) => command.to_string_lossy().into_owned(),
        Some(lexopt::Arg::Long("help") | lexopt::Arg::Short('h')) | None => {
            print!("{HELP}");
            return Ok(true);
        }
        Some(other) => return Err(other.unexpected().into()),
    };
    if command == "bench" {
        return bench::run(bench::Options::parse(arguments)?).map(|()| true);
    }
    if command == "lab" {
        return lab::run(arguments);
    }
    if let Some(extra) = arguments.next()? {
        return Err(extra.unexpected().into());
    }
    match command.as_str() {
        "deps" => deps::install_with_lab().map(|()| true),
        "demo" => demo::run().map(|()| true),
        "lint" => lint::run(),
        "test" => test::run(),
        "help" => {
            print!("{HELP}");
            Ok(true)
        }
        other => bail!("no command {other:?}\n\n{HELP}"),
    }
}
