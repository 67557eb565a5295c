//! `smcr-option`: attaches the BPF programs that put the SMC-R option into TCP handshakes to a
//! cgroup, detaches them, and shows what is attached.

mod args;
mod show;

use std::process::ExitCode;

use args::{Action, Args};
use smcr_cli::Tool;
use smcr_option::{Cgroup, Done, Error};

const TOOL: Tool = Tool("smcr-option");

/// `status`: sockets of the cgroup cannot signal SMC.
const EXIT_NOT_IN_EFFECT: u8 = 1;
/// The command failed.
const EXIT_FAILED: u8 = 3;

fn main() -> ExitCode {
    let args = match Args::parse(lexopt::Parser::from_env()) {
        Ok(args) => args,
        Err(error) => return TOOL.refuse(error),
    };
    match run(&args) {
        Ok((text, code)) => TOOL.print(&text, code),
        Err(error) => {
            TOOL.complain(error);
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run(args: &Args) -> Result<(String, u8), Error> {
    let cgroup = match (args.action, &args.cgroup) {
        (Action::Help, _) => return Ok((args::HELP.into(), 0)),
        (Action::Version, _) => {
            let text = concat!("smcr-option ", env!("CARGO_PKG_VERSION"), "\n");
            return Ok((text.into(), 0));
        }
        (_, None) => Cgroup::root()?,
        (_, Some(path)) => Cgroup::open(path)?,
    };
    let path = cgroup.path().display();
    Ok(match args.action {
        Action::Attach => {
            let done = match cgroup.attach(args.with_others)? {
                Done::Attached => "attached",
                Done::Replaced => "attached, in the place of an older set",
                Done::Already => "attached already",
                Done::Inherited => "attached already, to a cgroup above",
            };
            (format!("{path}: {done}\n"), 0)
        }
        Action::Detach => {
            let done = match cgroup.detach()? {
                true => "detached",
                false => "nothing was attached",
            };
            (format!("{path}: {done}\n"), 0)
        }
        Action::Status | Action::Help | Action::Version => {
            let status = cgroup.status()?;
            let text = if args.json {
                show::json(cgroup.path(), &status)
            } else {
                show::text(cgroup.path(), &status)
            };
            let code = match status.state.is_in_effect() {
                true => 0,
                false => EXIT_NOT_IN_EFFECT,
            };
            (text, code)
        }
    })
}
