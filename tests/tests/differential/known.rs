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

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use crate::Variant;
use crate::compare::Line;

/// All records of the file.
pub(crate) struct Known(Vec<Record>);

#[derive(Clone, Default)]
struct Record {
    line: usize,
    scenario: String,
    variant: Option<String>,
    plain: Option<String>,
    library: Option<String>,
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

    /// Takes the known differences out.
    pub(crate) fn explain(&self, scenario: &str, variant: &str, diff: Vec<Line>) -> Explained {
        let records: Vec<_> = self
            .0
            .iter()
            .filter(|r| r.scenario == scenario && r.variant.as_deref().is_none_or(|v| v == variant))
            .collect();
        let has = |line: &Line| diff.contains(line);
        let (used, unused): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|record| record.lines().iter().all(has));
        let covered: Vec<Line> = used.iter().flat_map(|record| record.lines()).collect();
        let left = |line: &Line| line.differs() && !covered.contains(line);
        let unknown = if diff.iter().any(left) {
            diff
        } else {
            Vec::new()
        };
        Explained {
            unknown,
            unused: unused.into_iter().map(Record::to_string).collect(),
        }
    }
}

impl Record {
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
        match &self.variant {
            Some(name) if Variant::ALL.iter().all(|v| v.name() != name) => {
                Err(format!("no variant `{name}`"))
            }
            _ => Ok(()),
        }
    }
}
