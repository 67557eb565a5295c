//! A command for a guest's shell.

use super::wire::Start;

/// A command line, with what it finds around it.
#[derive(Clone, Debug)]
pub struct Cmd {
    /// The line, for `/bin/sh`.
    pub line: String,
    pub(super) env: Vec<(String, String)>,
    pub(super) directory: String,
}

impl Cmd {
    /// A command line for `/bin/sh`.
    pub fn new(line: impl Into<String>) -> Self {
        Self {
            line: line.into(),
            env: Vec::new(),
            directory: String::new(),
        }
    }

    /// Sets a variable of its environment (the shell's, too).
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Starts it in this directory of the guest, else in the root directory.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<String>) -> Self {
        self.directory = directory.into();
        self
    }

    pub(super) fn start(&self) -> Start {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let fixed = [("PATH", path), ("LC_ALL", "C"), ("HOME", "/root")];
        let mut env: Vec<(String, String)> = fixed
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
        env.extend(self.env.iter().cloned());
        Start {
            argv: ["/bin/sh", "-c", &self.line].map(String::from).to_vec(),
            env,
            directory: self.directory.clone(),
            terminal: None,
        }
    }
}

impl From<&str> for Cmd {
    fn from(line: &str) -> Self {
        Self::new(line)
    }
}

impl From<String> for Cmd {
    fn from(line: String) -> Self {
        Self::new(line)
    }
}

/// One word for a shell, whatever is in it.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
