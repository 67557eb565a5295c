//! The command line.

use std::path::PathBuf;

use lexopt::prelude::*;

pub(crate) const HELP: &str = "\
Usage: smcr-option attach [--with-others] [CGROUP]
       smcr-option detach [CGROUP]
       smcr-option status [--json] [CGROUP]

Lets the TCP handshakes of programs that run under libsmcr.so carry the SMC-R option
of RFC 7609, by BPF programs on a cgroup. It concerns all processes in CGROUP and in
the cgroups below, and of their sockets those that ask for it; sockets that exist
already belong to the cgroup in which they were made. CGROUP is a directory of the
cgroup v2 file system, its root if none is given.

The programs stay until they are detached, CGROUP is removed or the machine restarts.
attach can be repeated. detach takes away only what attach brought.

Options:
      --with-others  attach beside sock_ops programs of others, which must not write
                     TCP options
      --json         the status as JSON
  -h, --help         this text
  -V, --version      the version

Needs root (CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN) and Linux 5.15 or later. Sockets
that are listening when the library gets them need 6.12 or later.

Exit status:
  0  all well; status: attached, here or above
  1  status: not attached
  2  the command line was not understood
  3  the command failed; nothing was changed
  4  the output could not be written
";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) action: Action,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) with_others: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Attach,
    Detach,
    Status,
    Help,
    Version,
}

impl Args {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut action = None;
        let mut args = Self {
            action: Action::Help,
            cgroup: None,
            json: false,
            with_others: false,
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Short('h') | Long("help") => return Ok(args),
                Short('V') | Long("version") => {
                    args.action = Action::Version;
                    return Ok(args);
                }
                Long("json") if matches!(action, None | Some(Action::Status)) => args.json = true,
                Long("with-others") if matches!(action, None | Some(Action::Attach)) => {
                    args.with_others = true;
                }
                Value(word) if action.is_none() => {
                    action = Some(match word.to_str() {
                        Some("attach") => Action::Attach,
                        Some("detach") => Action::Detach,
                        Some("status") => Action::Status,
                        _ => {
                            let word = word.to_string_lossy();
                            return Err(format!("unknown command '{word}'").into());
                        }
                    });
                }
                Value(path) if args.cgroup.is_none() => args.cgroup = Some(path.into()),
                other => return Err(other.unexpected()),
            }
        }
        args.action = action.ok_or("say attach, detach or status")?;
        if args.json && args.action != Action::Status {
            return Err("--json belongs to status".into());
        }
        if args.with_others && args.action != Action::Attach {
            return Err("--with-others belongs to attach".into());
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Args};

    fn parse(words: &[&str]) -> Result<Args, String> {
        Args::parse(lexopt::Parser::from_args(words)).map_err(|e| e.to_string())
    }

    #[test]
    fn commands_are_understood() {
        let args = parse(&["attach", "/a/b", "--with-others"]).unwrap();
        assert_eq!(args.action, Action::Attach);
        assert_eq!(args.cgroup.as_deref(), Some("/a/b".as_ref()));
        assert!(args.with_others && !args.json);
        let args = parse(&["--json", "status"]).unwrap();
        assert_eq!((args.action, args.cgroup), (Action::Status, None));
        assert!(args.json);
        for (words, action) in [
            (&["detach"][..], Action::Detach),
            (&["-h"], Action::Help),
            (&["attach", "--help"], Action::Help),
            (&["--version"], Action::Version),
        ] {
            assert_eq!(parse(words).unwrap().action, action);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            &[][..],
            &["atach"],
            &["attach", "a", "b"],
            &["attach", "--json"],
            &["--json", "attach"],
            &["--with-others", "detach"],
            &["-q"],
        ] {
            parse(words).unwrap_err();
        }
    }
}
