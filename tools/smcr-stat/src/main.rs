//! `smcr-stat`: shows which connections moved to SMC, and why the others did not.
//!
//! Reads the pages that processes under the library publish; the processes are neither stopped
//! nor asked.

mod args;
mod check;
mod json;
mod table;
mod tcp_info;
mod view;

use std::io::{self, Write};
use std::process::ExitCode;

use args::{Action, Args};
use view::View;

/// The configuration file was refused.
const EXIT_BAD_CONFIG: u8 = 1;
/// The command line was not understood.
const EXIT_USAGE: u8 = 2;
/// `--pid` names no process under the library.
const EXIT_NO_PROCESS: u8 = 3;
/// The output could not be written.
const EXIT_OUTPUT: u8 = 4;

fn main() -> ExitCode {
    let args = match Args::parse(lexopt::Parser::from_env()) {
        Ok(args) => args,
        Err(error) => {
            complain(&format!("{error}\nTry 'smcr-stat --help'."));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match args.action {
        Action::Help => print(args::HELP, 0),
        Action::Version => print(concat!("smcr-stat ", env!("CARGO_PKG_VERSION"), "\n"), 0),
        Action::CheckConfig(file) => match check::check(file) {
            Ok(text) => print(&text, 0),
            Err(error) => {
                complain(&error.to_string());
                ExitCode::from(EXIT_BAD_CONFIG)
            }
        },
        Action::Show => {
            let view = View::take(args.pid, args.all);
            let code = match args.pid {
                Some(_) if view.processes.is_empty() => EXIT_NO_PROCESS,
                _ => 0,
            };
            let text = if args.json {
                json::render(&view)
            } else {
                table::render(&view)
            };
            for problem in &view.problems {
                complain(problem);
            }
            let code = print(&text, code);
            smcr_core::stat::sweep();
            code
        }
    }
}

/// Writes to standard output. A reader that went away (`| head`) had what it wanted.
fn print(text: &str, code: u8) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::from(code),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(code),
        Err(e) => {
            complain(&format!("standard output: {e}"));
            ExitCode::from(EXIT_OUTPUT)
        }
    }
}

/// Writes to standard error; where that is closed there is nobody to tell.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "smcr-stat: {text}");
}
