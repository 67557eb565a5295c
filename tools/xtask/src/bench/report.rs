//! Medians, ratios and verdicts, as a table and as JSON.

use serde_json::{Value, json};
use smcr_tests::scenario::process;

use super::jobs::{Job, Row, Target};
use super::{Samples, Way};
use crate::ui;

/// What a row came to.
struct Finding {
    tcp: Option<f64>,
    unix: Option<f64>,
    measured: Option<f64>,
    /// How many times as good as plain TCP: the median over the rounds of each round's ratio, so
    /// that a machine that is slower for a while does not shift it.
    ratio: Option<f64>,
    /// The quartiles of the rounds' ratios: how much of a difference is noise.
    quartiles: Option<(f64, f64)>,
    met: Option<bool>,
    /// Set where the connections did not run in the mode that was to be measured.
    wrong_mode: Option<String>,
}

impl Finding {
    fn new(row: &Row, samples: &Samples) -> Self {
        let of = |way: Way| samples.figures.get(&(way, row.figure)).map(Vec::as_slice);
        let median_of = |way: Way| of(way).and_then(median);
        let mut ratios: Vec<f64> = Vec::new();
        if let Some((tcp, measured)) = of(Way::Tcp).zip(of(row.way)) {
            ratios = tcp
                .iter()
                .zip(measured)
                .map(|(tcp, measured)| {
                    if row.unit.smaller_is_better() {
                        tcp / measured
                    } else {
                        measured / tcp
                    }
                })
                .filter(|ratio| ratio.is_finite())
                .collect();
            ratios.sort_by(f64::total_cmp);
        }
        let ratio = median(&ratios);
        let measured = median_of(row.way);
        let wrong_mode = wrong_mode(row.way, samples);
        let reached = match row.target {
            Target::Ratio(least) => ratio.map(|ratio| ratio >= least),
            Target::Most(most) => measured.map(|value| value <= most),
            Target::None => None,
        };
        Self {
            tcp: median_of(Way::Tcp),
            unix: median_of(Way::Unix),
            measured,
            ratio,
            quartiles: quartiles(&ratios),
            met: reached.map(|reached| reached && wrong_mode.is_none()),
            wrong_mode,
        }
    }
}

/// Names the mode that connections ran in, if it is not the one to be measured.
fn wrong_mode(way: Way, samples: &Samples) -> Option<String> {
    let expected = way.expected_mode()?;
    let seen = samples.seen.get(&way)?;
    if let Some(trouble) = &seen.trouble {
        return Some(format!("mode unknown: {trouble}"));
    }
    let mode = seen.main_mode();
    (mode != expected).then(|| {
        format!(
            "mode {mode}, not {expected} (server: {}; client: {})",
            seen.server, seen.client
        )
    })
}

/// The middle value, or the mean of the two middle ones.
fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// The values a quarter and three quarters of the way up a sorted list.
fn quartiles(sorted: &[f64]) -> Option<(f64, f64)> {
    let last = sorted.len().checked_sub(1)?;
    Some((sorted[last / 4], sorted[last - last / 4]))
}

/// Prints the medians of one job, as soon as they are known.
pub(super) fn print_job(job: &Job, samples: &Samples) {
    for row in job.rows {
        let shown: Vec<String> = samples
            .figures
            .iter()
            .filter(|((_, figure), _)| *figure == row.figure)
            .filter_map(|((way, _), values)| {
                Some(format!("{} {}", way.name(), row.unit.show(median(values)?)))
            })
            .collect();
        println!("  {}: {}", row.figure.replace('_', " "), shown.join(", "));
        if row.way != Way::Library {
            // The other rows show the same figure of the same ways.
            break;
        }
    }
}

/// Prints the table.
pub(super) fn print(results: &[(&Job, Samples)]) {
    let head = [
        "medians",
        "plain TCP",
        "unix stream",
        "library",
        "ratio",
        "(quartiles)",
        "target",
        "",
    ];
    let mut table = vec![head.map(String::from).to_vec()];
    let mut remarks = Vec::new();
    for (job, samples) in results {
        for row in job.rows {
            let finding = Finding::new(row, samples);
            let show = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| row.unit.show(v));
            let verdict = match finding.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None if samples.trouble.is_some() => "FAILED",
                None => "",
            };
            table.push(vec![
                row.title.to_owned(),
                show(finding.tcp),
                show(finding.unix),
                show(finding.measured),
                ratio_text(row, finding.ratio),
                finding.quartiles.map_or_else(String::new, |(low, high)| {
                    let [low, high] = [low, high].map(|ratio| ratio_text(row, Some(ratio)));
                    format!("({low}..{high})")
                }),
                target_text(row),
                verdict.to_owned(),
            ]);
            if let Some(mode) = finding.wrong_mode {
                remarks.push(format!("{}: {mode}", row.title));
            }
        }
        if let Some(trouble) = &samples.trouble {
            remarks.push(format!("{}: {trouble}", job.name));
        }
    }
    ui::table(&table);
    println!("\nratio: how many times as good as plain TCP, median over the rounds.");
    for remark in remarks {
        println!("! {remark}");
    }
}

fn ratio_text(row: &Row, ratio: Option<f64>) -> String {
    match (row.target, ratio) {
        // Both figures are close to nothing: their ratio says nothing.
        (Target::Most(_), _) => "-".into(),
        (_, Some(ratio)) => format!("{ratio:.2}"),
        (_, None) => "-".into(),
    }
}

fn target_text(row: &Row) -> String {
    match row.target {
        Target::Ratio(least) => format!(">= {least}"),
        Target::Most(most) => format!("<= {}", row.unit.show(most)),
        Target::None => String::new(),
    }
}

/// The same for machines, with every sample.
pub(super) fn json(results: &[(&Job, Samples)]) -> Value {
    let rows: Vec<Value> = results
        .iter()
        .flat_map(|(job, samples)| job.rows.iter().map(move |row| row_json(job, row, samples)))
        .collect();
    json!({
        "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "processors": std::thread::available_parallelism().map_or(1, |count| count.get()),
        "pinned_to": process::two_cpus().map(|(server, client)| [server, client]),
        "results": rows,
    })
}

fn row_json(job: &Job, row: &Row, samples: &Samples) -> Value {
    let finding = Finding::new(row, samples);
    let of_figure = samples
        .figures
        .iter()
        .filter(|((_, figure), _)| *figure == row.figure);
    let all: serde_json::Map<String, Value> = of_figure
        .map(|((way, _), values)| (way.name().to_owned(), json!(values)))
        .collect();
    let target = match row.target {
        Target::Ratio(least) => json!({ "ratio_at_least": least }),
        Target::Most(most) => json!({ "at_most": most }),
        Target::None => Value::Null,
    };
    json!({
        "name": job.name,
        "title": row.title,
        "unit": row.unit.name(),
        "smaller_is_better": row.unit.smaller_is_better(),
        "pinned": job.pinned,
        "compared": row.way.name(),
        "samples": all,
        "median_tcp": finding.tcp,
        "median_unix": finding.unix,
        "median_library": finding.measured,
        "ratio": finding.ratio,
        "ratio_quartiles": finding.quartiles.map(|(low, high)| [low, high]),
        "target": target,
        "met": finding.met,
        "wrong_mode": finding.wrong_mode,
        "trouble": samples.trouble,
    })
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
