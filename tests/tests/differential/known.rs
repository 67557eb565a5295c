//! Differences from TCP that are known and explained.
//!
//! The file has one record for each, separated by empty lines; `#` starts a comment:
//!
//! ```text
//! scenario: half_close_client_first
//! variant: eager
//! plain: [main] recv(s, 100, 0) = 0 ""
//! library: [main] recv(s, 100, 0) = -1 ECONNRESET
//! reason: why it is so, and why it is bearable
//! ```
//!
//! `variant` may be left out (all of them), and so may one of `plain` and `library`
//! (a line that only one of them has). Equal lines count as often as they occur.
//!
//! A scenario that does not come to its end under the library has a record with `end`, the
//! beginning of what is said of that, and the first line that is missing:
//!
//! ```text
//! scenario: bad_pointers_in_send
//! end: killed by signal 11
//! plain: [main] send(c, BAD, 8, 0) = -1 EFAULT
//! reason: why it is so, and why it is bearable
//! ```
//!
//! It stands for all further lines of that actor, too.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use crate::Variant;
use crate::compare::Line;
use crate::run::actor;

/// All records of the file.
pub(crate) struct Known(Vec<Record>);

#[derive(Clone, Default)]
struct Record {
    line: usize,
    scenario: String,
    variant: Option<String>,
    plain: Option<String>,
    library: Option<String>,
    end: Option<String>,
    reason: String,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "known-differences.txt:{}: {}", self.line, self.reason)
    }
}

/// A difference with what is known taken out of it.
pub(crate) struct Explained {
    /// Empty if nothing else differs.
    pub(crate) unknown: Vec<Line>,
    /// The bad end, if no record is about it.
    pub(crate) bad_end: Option<String>,
    /// Records for this scenario and variant that did not apply.
    pub(crate) unused: Vec<String>,
}

impl Known {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::parse(&text).map_err(|e| format!("{}:{e}", path.display()))
    }

    /// The records of a text; an error starts with the line's number.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut records = Vec::new();
        let mut current: Option<Record> = None;
        for (at, line) in text.lines().enumerate() {
            let number = at + 1;
            if line.starts_with('#') {
                continue;
            }
            if line.trim().is_empty() {
                records.extend(current.take());
                continue;
            }
            let (key, value) = line
                .split_once(':')
                .ok_or_else(|| format!("{number}: neither `key: value` nor empty"))?;
            // A transcript line may end in a space.
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            let record = current.get_or_insert_with(|| Record {
                line: number,
                ..Record::default()
            });
            match key {
                "scenario" => record.scenario = value,
                "variant" => record.variant = Some(value),
                "plain" => record.plain = Some(value),
                "library" => record.library = Some(value),
                "end" => record.end = Some(value),
                "reason" => record.reason = value,
                _ => return Err(format!("{number}: unknown key `{key}`")),
            }
        }
        records.extend(current);
        for record in &records {
            record
                .check()
                .map_err(|e| format!("{}: {e}", record.line))?;
        }
        Ok(Self(records))
    }

    /// Every record must be for a scenario that there is.
    pub(crate) fn check_names<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        let names: HashSet<_> = names.collect();
        match self
            .0
            .iter()
            .find(|record| !names.contains(record.scenario.as_str()))
        {
            Some(record) => Err(format!("{record}: no scenario `{}`", record.scenario)),
            None => Ok(()),
        }
    }

    /// Takes the known differences out. `bad_end`: how the run ended, if not well.
    pub(crate) fn explain(
        &self,
        scenario: &str,
        variant: &str,
        bad_end: Option<&str>,
        diff: Vec<Line>,
    ) -> Explained {
        let mut explained = Explained {
            unknown: Vec::new(),
            bad_end: bad_end.map(str::to_owned),
            unused: Vec::new(),
        };
        let mut covered = Vec::new();
        for record in self
            .0
            .iter()
            .filter(|r| r.scenario == scenario && r.variant.as_deref().is_none_or(|v| v == variant))
        {
            match record.covers(&diff, bad_end) {
                Some(lines) => {
                    covered.extend(lines);
                    if record.end.is_some() {
                        explained.bad_end = None;
                    }
                }
                None => explained.unused.push(record.to_string()),
            }
        }
        let left = |line: &Line| line.differs() && !covered.contains(line);
        if diff.iter().any(left) {
            explained.unknown = diff;
        }
        explained
    }
}

impl Record {
    /// The lines of a difference that the record explains; `None` if it does not apply.
    fn covers(&self, diff: &[Line], bad_end: Option<&str>) -> Option<Vec<Line>> {
        let lines = self.lines();
        let Some(end) = &self.end else {
            return lines
                .iter()
                .all(|line| diff.contains(line))
                .then_some(lines);
        };
        if !bad_end.is_some_and(|how| how.starts_with(end)) {
            return None;
        }
        let first = lines.first()?;
        let at = diff.iter().position(|line| line == first)?;
        let same_actor = |line: &&Line| actor(line.text()) == actor(first.text());
        let tail: Vec<Line> = diff[at..].iter().filter(same_actor).cloned().collect();
        let is_missing = |line: &Line| matches!(line, Line::Plain(_));
        tail.iter().all(is_missing).then_some(tail)
    }

    fn lines(&self) -> Vec<Line> {
        let plain = self.plain.iter().cloned().map(Line::Plain);
        let library = self.library.iter().cloned().map(Line::Library);
        plain.chain(library).collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.scenario.is_empty() || self.reason.is_empty() {
            return Err("a record needs a scenario and a reason".to_owned());
        }
        if self.plain.is_none() && self.library.is_none() {
            return Err("a record needs a plain or a library line".to_owned());
        }
        if self.end.is_some() && (self.plain.is_none() || self.library.is_some()) {
            return Err("a record with an end needs the first line that is missing".to_owned());
        }
        match &self.variant {
            Some(name) if Variant::ALL.iter().all(|v| v.name() != name) => {
                Err(format!("no variant `{name}`"))
            }
            _ => Ok(()),
        }
    }
}
