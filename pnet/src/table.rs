//! The table in memory. It keeps the lines as they were written, so that a program that changes
//! one device leaves the operator's comments and order alone.

use std::fmt;
use std::str::FromStr;

use crate::error::{Problem, TableError};
use crate::names::{Device, PnetId, RocePort};

/// Which devices are attached to which physical network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    text: String,
    /// `None` for an empty line or a comment.
    entry: Option<(PnetId, Device)>,
}

impl Table {
    /// A table without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists a device under an id.
    ///
    /// # Errors
    /// [`Problem::Listed`] if the device is listed already: this very port, or another port under
    /// another id.
    pub fn add(&mut self, id: PnetId, device: Device) -> Result<(), Problem> {
        self.check_new(&id, &device)?;
        self.lines.push(Line {
            text: format!("{id:<16}  {device}"),
            entry: Some((id, device)),
        });
        Ok(())
    }

    /// Takes a device off the list.
    ///
    /// # Errors
    /// [`Problem::NotListed`] if it is not listed under this id.
    pub fn remove(&mut self, id: &PnetId, device: &Device) -> Result<(), Problem> {
        let is_it = |line: &Line| {
            line.entry
                .as_ref()
                .is_some_and(|e| (&e.0, &e.1) == (id, device))
        };
        let at = self
            .lines
            .iter()
            .position(is_it)
            .ok_or(Problem::NotListed)?;
        self.lines.remove(at);
        Ok(())
    }

    /// Takes all devices of an id off the list; returns how many there were.
    pub fn remove_id(&mut self, id: &PnetId) -> usize {
        self.remove_where(|listed| listed == id)
    }

    /// Takes all devices off the list; returns how many there were. Comments stay.
    pub fn clear(&mut self) -> usize {
        self.remove_where(|_| true)
    }

    fn remove_where(&mut self, mut is_to_go: impl FnMut(&PnetId) -> bool) -> usize {
        let before = self.lines.len();
        self.lines
            .retain(|line| !line.entry.as_ref().is_some_and(|(id, _)| is_to_go(id)));
        before - self.lines.len()
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.entries().next().is_none()
    }

    /// The id that a netdev is listed under.
    pub fn lookup_netdev(&self, name: &str) -> Option<&PnetId> {
        let mut entries = self.entries();
        let found = entries.find(|(_, d)| matches!(d, Device::Netdev(n) if n == name));
        found.map(|(id, _)| id)
    }

    /// The RoCE ports of an id, in the order of the file, which is that of preference.
    pub fn roce_ports<'a>(&'a self, id: &'a PnetId) -> impl Iterator<Item = &'a RocePort> + 'a {
        self.entries().filter_map(move |(i, device)| match device {
            Device::Roce(roce) if i == id => Some(roce),
            _ => None,
        })
    }

    /// Everything that is listed, in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = (&PnetId, &Device)> {
        let entries = self.lines.iter().filter_map(|line| line.entry.as_ref());
        entries.map(|(id, device)| (id, device))
    }

    fn check_new(&self, id: &PnetId, device: &Device) -> Result<(), Problem> {
        let clash = self
            .entries()
            .find(|(i, d)| *d == device || (d.shares_name(device) && *i != id));
        clash.map_or(Ok(()), |(id, _)| Err(Problem::Listed(id.clone())))
    }
}

impl FromStr for Table {
    type Err = TableError;

    fn from_str(text: &str) -> Result<Self, TableError> {
        let mut table = Self::new();
        for (line, text) in (1..).zip(text.lines()) {
            // Left over where the last line has no end, or by an editor's mistake.
            let text = text.trim_end_matches('\r');
            let entry = parse_line(text)
                .and_then(|entry| {
                    if let Some((id, device)) = &entry {
                        table.check_new(id, device)?;
                    }
                    Ok(entry)
                })
                .map_err(|problem| TableError::Line {
                    path: None,
                    line,
                    problem,
                })?;
            table.lines.push(Line {
                text: text.to_owned(),
                entry,
            });
        }
        Ok(table)
    }
}

/// The text of the file.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines
            .iter()
            .try_for_each(|line| writeln!(f, "{}", line.text))
    }
}

fn parse_line(text: &str) -> Result<Option<(PnetId, Device)>, Problem> {
    let text = text.split_once('#').map_or(text, |(before, _)| before);
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (id, device) = match words[..] {
        [] => return Ok(None),
        [id, "netdev", name] => (id, Device::netdev(name)?),
        [id, "roce", name, port] => {
            let bad = |_| Problem::BadPort(port.to_owned());
            (id, Device::roce(name, port.parse().map_err(bad)?)?)
        }
        [_, kind, ..] if kind != "netdev" && kind != "roce" => {
            return Err(Problem::BadKind(kind.to_owned()));
        }
        _ => return Err(Problem::BadShape),
    };
    Ok(Some((id.parse()?, device)))
}
