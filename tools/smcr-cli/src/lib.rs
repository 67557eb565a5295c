//! How the command-line tools print, complain and end. Exit statuses other than these are each
//! tool's own.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// The command line was not understood.
pub const EXIT_USAGE: u8 = 2;
/// The output could not be written.
pub const EXIT_OUTPUT: u8 = 4;

/// A tool, by the name that its messages begin with.
#[derive(Debug, Clone, Copy)]
pub struct Tool(pub &'static str);

impl Tool {
    /// Writes to standard output, and gives the tool's exit status: `code`, or [`EXIT_OUTPUT`]. A
    /// reader that went away (`| head`) had what it wanted.
    #[must_use]
    pub fn print(self, text: &str, code: u8) -> ExitCode {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => ExitCode::from(code),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(code),
            Err(e) => {
                self.complain(format_args!("standard output: {e}"));
                ExitCode::from(EXIT_OUTPUT)
            }
        }
    }

    /// Writes to standard error; where that is closed there is nobody to tell.
    pub fn complain(self, problem: impl Display) {
        let _ = writeln!(io::stderr(), "{}: {problem}", self.0);
    }

    /// Complains about the command line; gives [`EXIT_USAGE`].
    #[must_use]
    pub fn refuse(self, problem: impl Display) -> ExitCode {
        self.complain(format_args!("{problem}\nTry '{} --help'.", self.0));
        ExitCode::from(EXIT_USAGE)
    }
}
