//! The library, Linux's own SMC-R and TCP side by side: how long, how fast, how many. Emulated
//! processors say nothing about the figures themselves, but something about their ratios.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::side_by_side::{ALL, Before, library_counters};
use crate::lab::apps::load::{self, Work};
use crate::lab::apps::rsockets;
use crate::lab::{Library, Pair};

const WORK: [Work; 4] = [
    Work::Ping,
    Work::Stream(64 << 10),
    Work::Rate(1),
    Work::Rate(4),
];

/// Every pair of ends is measured so often, in turn with the others: the host has other work, too.
const ROUNDS: usize = 3;
const SECONDS: u32 = 2;

/// A row of figures for each kind of work.
type Figures = [[Vec<f64>; ALL.len()]; WORK.len()];

/// Prints and keeps tables of the medians and of the best, with their ratios. What else the host does
/// shows in the medians; the best say more about the programs.
pub(in super::super) fn run(pair: &mut Pair) -> Result<()> {
    let mut log = String::new();
    let measured = measure(pair, &mut log);
    // Also what a run that failed has seen.
    let file = pair.logs().join("measured.txt");
    std::fs::write(&file, &log).with_context(|| file.display().to_string())?;
    let figures = Library::explain(pair, measured)?;
    let table = format!(
        "Medians:\n\n{}\nBest:\n\n{}",
        table(&figures, median),
        table(&figures, best)
    );
    let file = pair.logs().join("rates.md");
    std::fs::write(&file, &table).with_context(|| file.display().to_string())?;
    pair.note("table", format!("{}\n{table}", file.display()));
    for (bytes, count) in [(64, 100), (64 << 10, 100)] {
        let seconds = rsockets::transfer(pair, bytes, count)?;
        let text = seconds.map_or_else(
            |trouble| trouble,
            |seconds| match bytes {
                64 => Work::Ping.text(2.0 * seconds),
                bytes => Work::Stream(bytes).text(f64::from(bytes) / seconds),
            },
        );
        pair.note(format!("rsockets (rstream), {bytes} bytes"), text);
    }
    Ok(())
}

fn measure(pair: &Pair, log: &mut String) -> Result<Figures> {
    let mut figures = Figures::default();
    for round in 1..=ROUNDS {
        for (number, work) in WORK.into_iter().enumerate() {
            for (row, (name, ends)) in ALL.into_iter().enumerate() {
                let what = || format!("{}, {name}", work.name());
                let before = Before::prepare(pair, ends).with_context(what)?;
                let (ran, figure) =
                    load::run(pair, ends, work, SECONDS, false).with_context(what)?;
                let packets = before.expect(pair, &ran).with_context(what)?;
                figures[number][row].push(figure);
                let text = work.text(figure);
                writeln!(log, "{round}: {}: {text}; {packets} RDMA packets", what())?;
                log.push_str(&library_counters(pair, ends)?);
            }
        }
    }
    Ok(figures)
}

/// One figure of each row in Markdown, with its ratio to that of Linux: more than 1 is better than
/// Linux.
fn table(figures: &Figures, one: fn(Work, &[f64]) -> f64) -> String {
    let mut text = "|".to_owned();
    for (name, _) in ALL {
        text += &format!(" | {name}");
    }
    text += " |\n| ---";
    text += &" | ---".repeat(ALL.len());
    text += " |\n";
    for (work, rows) in WORK.into_iter().zip(figures) {
        text += &format!("| {}", work.name());
        let linux = one(work, &rows[1]);
        for row in rows {
            let figure = one(work, row);
            let ratio = match work {
                Work::Ping => linux / figure,
                _ => figure / linux,
            };
            text += &format!(" | {} ({ratio:.2})", work.text(figure));
        }
        text += " |\n";
    }
    text
}

fn best(work: Work, figures: &[f64]) -> f64 {
    let better = match work {
        Work::Ping => f64::min,
        _ => f64::max,
    };
    figures.iter().copied().reduce(better).unwrap_or(f64::NAN)
}

fn median(_: Work, figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::{ALL, Figures, best, median, table};

    #[test]
    fn ratios_say_who_is_better() {
        let mut figures = Figures::default();
        for rows in &mut figures {
            for (row, figures) in rows.iter_mut().enumerate() {
                *figures = vec![9.0, 1.0 + row as f64, 0.0];
            }
        }
        let text = table(&figures, median);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].matches('|').count(), ALL.len() + 2);
        assert!(lines[2].contains("| 1000000 us (2.00) | 2000000 us (1.00)"));
        assert!(lines[4].contains("| 1 /s (0.50) | 2 /s (1.00) | 3 /s (1.50)"));
        let text = table(&figures, best);
        assert!(text.contains("| 0 us"));
        assert!(text.contains("| 9 /s (1.00) | 9 /s (1.00)"));
    }
}
