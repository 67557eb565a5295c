//! The tables for people.

use std::fmt::Write;

use smcr_core::stat::Counter;

use crate::view::{Process, View};

/// All tables.
pub(crate) fn render(view: &View) -> String {
    let mut out = String::new();
    if view.processes.is_empty() {
        out.push_str("No process under the library is visible (root sees those of all users).\n");
        return out;
    }
    let mut connections = Table::new(&[
        "State",
        "Local Address",
        "Peer Address",
        "Mode",
        "Role",
        "Fallback",
        ">Sent",
        ">Received",
        ">PID",
        "Command",
    ]);
    for process in &view.processes {
        for row in &process.rows {
            connections.row(vec![
                row.state.to_string(),
                or_dash(row.local),
                or_dash(row.peer),
                row.mode.to_string(),
                row.role.to_string(),
                or_dash(row.reason),
                or_dash(row.sent),
                or_dash(row.received),
                process.stat.pid.to_string(),
                command(process),
            ]);
        }
    }
    connections.render(&mut out);

    let mut processes = Table::new(&[
        ">PID",
        ">UID",
        "Library",
        ">Handshakes",
        ">Done",
        ">Passed on",
        ">Unlisted",
        "Command",
    ]);
    for process in &view.processes {
        let count = |counter| process.stat.counter(counter).to_string();
        processes.row(vec![
            process.stat.pid.to_string(),
            process.stat.uid.to_string(),
            process.stat.library.clone(),
            count(Counter::HandshakesStarted),
            count(Counter::HandshakesDone),
            count(Counter::PassedOn),
            (process
                .stat
                .counter(Counter::Unlisted)
                .saturating_add(process.stat.unstable.into()))
            .to_string(),
            command(process),
        ]);
    }
    out.push('\n');
    processes.render(&mut out);

    let mut totals = Table::new(&["Total", ">Open", ">Ever made", ">Sent", ">Received"]);
    for total in &view.totals {
        totals.row(vec![
            total.mode.to_string(),
            total.open.to_string(),
            total.made.to_string(),
            total.sent.to_string(),
            total.received.to_string(),
        ]);
    }
    out.push('\n');
    totals.render(&mut out);

    if !view.fallbacks.is_empty() {
        let mut fallbacks = Table::new(&["Fallback", ">Count", "What to do"]);
        for (reason, count) in &view.fallbacks {
            fallbacks.row(vec![
                reason.to_string(),
                count.to_string(),
                reason.advice().to_owned(),
            ]);
        }
        out.push('\n');
        fallbacks.render(&mut out);
    }
    out
}

fn command(process: &Process) -> String {
    let mark = if process.stat.alive { "" } else { " (dead)" };
    format!("{}{mark}", process.name())
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Columns as wide as their widest cell. A title that begins with `>` is aligned to the right.
struct Table {
    titles: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(titles: &'static [&'static str]) -> Self {
        Self {
            titles,
            rows: Vec::new(),
        }
    }

    fn row(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    fn render(self, out: &mut String) {
        let titles = self.titles.iter();
        let titles = titles.map(|title| title.trim_start_matches('>').to_owned());
        let lines: Vec<Vec<String>> = std::iter::once(titles.collect()).chain(self.rows).collect();
        let widths: Vec<usize> = (0..self.titles.len())
            .map(|column| {
                let cells = lines.iter().map(|line| line[column].chars().count());
                cells.max().unwrap_or(0)
            })
            .collect();
        for line in lines {
            let start = out.len();
            for ((cell, width), title) in line.iter().zip(&widths).zip(self.titles) {
                // Writing to a string cannot fail.
                let _ = match title.starts_with('>') {
                    true => write!(out, "{cell:>width$}  "),
                    false => write!(out, "{cell:<width$}  "),
                };
            }
            out.truncate(start + out[start..].trim_end().len());
            out.push('\n');
        }
    }
}
