//! What is shown on the terminal: numbers with units, tables, a line that moves while we wait.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    BytesPerSecond,
    Seconds,
    PerSecond,
    /// Seconds of CPU time per second.
    CpuShare,
}

impl Unit {
    /// True where a smaller figure is the better one.
    pub(crate) fn smaller_is_better(self) -> bool {
        matches!(self, Self::Seconds | Self::CpuShare)
    }

    /// The unit in which figures are kept, for machines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BytesPerSecond => "B/s",
            Self::Seconds => "s",
            Self::PerSecond => "1/s",
            Self::CpuShare => "s/s",
        }
    }

    /// A figure for people.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::BytesPerSecond => format!("{:.2} GB/s", value * 1e-9),
            Self::Seconds => format!("{:.2} us", value * 1e6),
            Self::PerSecond => format!("{} /s", thousands(value)),
            Self::CpuShare => format!("{:.2} %", value * 100.0),
        }
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut shown = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A duration in seconds, for progress lines.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Runs something and shows, on a terminal, that time passes meanwhile. Clears its line at the
/// end; where stdout is not a terminal nothing is shown.
pub(crate) fn with_progress<T>(what: &str, work: impl FnOnce() -> T) -> T {
    if !std::io::stdout().is_terminal() {
        return work();
    }
    let done = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&done);
    let label = what.to_owned();
    let start = Instant::now();
    let ticker = std::thread::spawn(move || {
        let marks = ['|', '/', '-', '\\'];
        for mark in marks.iter().cycle() {
            if ended.load(Ordering::Relaxed) {
                break;
            }
            print!("\r  {mark} {label}  {} ", seconds(start.elapsed()));
            let _ = std::io::stdout().flush();
            std::thread::park_timeout(Duration::from_millis(200));
        }
        print!("\r\x1b[K");
        let _ = std::io::stdout().flush();
    });
    let result = work();
    done.store(true, Ordering::Relaxed);
    ticker.thread().unpark();
    let _ = ticker.join();
    result
}

/// Prints rows in columns; the first column to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        println!("  {}", cells.join("   ").trim_end());
        if number == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            println!("  {}", rule.join("   "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Unit;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(Unit::PerSecond.show(1234567.4), "1,234,567 /s");
        assert_eq!(Unit::PerSecond.show(12.0), "12 /s");
        assert_eq!(Unit::Seconds.show(17.5e-6), "17.50 us");
        assert_eq!(Unit::BytesPerSecond.show(2.5e9), "2.50 GB/s");
    }
}
