//! The command line.

use std::path::PathBuf;

use lexopt::prelude::*;

pub(crate) const HELP: &str = "\
Usage: smcr-stat [--json] [--pid PID] [--all]
       smcr-stat --check-config [FILE]

Shows the connections of processes that run under libsmcr.so: those that moved to
SMC, and why the others did not. Root sees all users' processes.

Options:
      --json                 the same content as JSON
      --pid PID              only this process
      --all                  also processes that died within the last seconds
      --check-config [FILE]  check a configuration file ($SMCR_CONFIG, else
                             /etc/smcr.conf) and print the settings in effect
  -h, --help                 this text
  -V, --version              the version

Columns:
  State     ACTIVE, INIT, LISTEN, ... as smcss(8)
  Mode      shm: shared memory, rdma: network adapter, tcp: fell back, or not moved
  Fallback  why the connection is on TCP
  Sent, Received
            bytes; for mode tcp as the kernel counts them, - if it cannot be asked

Exit status:
  0  all well
  1  --check-config: the file was refused
  2  the command line was not understood
  3  --pid: the process does not run under the library, or is not yours to see
  4  the output could not be written
";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) action: Action,
    pub(crate) json: bool,
    pub(crate) all: bool,
    pub(crate) pid: Option<u32>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Show,
    Help,
    Version,
    CheckConfig(Option<PathBuf>),
}

impl Args {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut args = Self {
            action: Action::Show,
            json: false,
            all: false,
            pid: None,
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Short('h') | Long("help") => args.action = Action::Help,
                Short('V') | Long("version") => args.action = Action::Version,
                Long("json") => args.json = true,
                Long("all") => args.all = true,
                Long("pid") => args.pid = Some(parser.value()?.parse()?),
                Long("check-config") => {
                    let file = parser.optional_value().map(PathBuf::from);
                    args.action = Action::CheckConfig(file);
                }
                Value(file) if args.action == Action::CheckConfig(None) => {
                    args.action = Action::CheckConfig(Some(file.into()));
                }
                other => return Err(other.unexpected()),
            }
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, String> {
        Args::parse(lexopt::Parser::from_args(args)).map_err(|e| e.to_string())
    }

    #[test]
    fn options_are_understood() {
        let args = parse(&["--json", "--pid=7", "--all"]).unwrap();
        assert!(args.json && args.all);
        assert_eq!((args.pid, args.action), (Some(7), Action::Show));
        for (words, action) in [
            (&["-h"][..], Action::Help),
            (&["--version"], Action::Version),
            (&["--check-config"], Action::CheckConfig(None)),
            (
                &["--check-config", "a"],
                Action::CheckConfig(Some("a".into())),
            ),
            (&["--check-config=a"], Action::CheckConfig(Some("a".into()))),
        ] {
            assert_eq!(parse(words).unwrap().action, action);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            &["x"][..],
            &["--pid"],
            &["--pid", "x"],
            &["--pid", "-1"],
            &["-q"],
        ] {
            parse(words).unwrap_err();
        }
        parse(&["--check-config", "a", "b"]).unwrap_err();
    }
}
