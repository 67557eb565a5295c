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

use std::process::ExitCode;

use args::{Action, Args};
use smcr_cli::Tool;
use view::View;

const TOOL: Tool = Tool("smcr-stat");

/// The configuration file was refused.
const EXIT_BAD_CONFIG: u8 = 1;
/// `--pid` names no process under the library.
const EXIT_NO_PROCESS: u8 = 3;

fn main() -> ExitCode {
    let args = match Args::parse(lexopt::Parser::from_env()) {
        Ok(args) => args,
        Err(error) => return TOOL.refuse(error),
    };
    match args.action {
        Action::Help => TOOL.print(args::HELP, 0),
        Action::Version => TOOL.print(concat!("smcr-stat ", env!("CARGO_PKG_VERSION"), "\n"), 0),
        Action::CheckConfig(file) => match check::check(file) {
            Ok(text) => TOOL.print(&text, 0),
            Err(error) => {
                TOOL.complain(error);
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
                TOOL.complain(problem);
            }
            let code = TOOL.print(&text, code);
            smcr_core::stat::sweep();
            code
        }
    }
}
