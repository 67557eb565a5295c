//! `cargo xtask demo`: real programs, first over plain TCP, then under the library.

use anyhow::Result;
use smcr_tests::scenario::apps::iperf3::{self, Flow};
use smcr_tests::scenario::apps::{redis, sockperf};
use smcr_tests::scenario::{Outcome, Preload, Setup, process};

use crate::ui::{self, Unit};
use crate::{cargo, deps};

/// A pair of programs, and what of its figures is shown.
struct Act {
    programs: &'static str,
    run: fn(&Setup) -> Result<Outcome>,
    rows: &'static [(&'static str, &'static str, Unit)],
}

const ACTS: [Act; 3] = [
    Act {
        programs: "iperf3, one stream",
        run: |setup| iperf3::run(&setup.pinned(true).seconds(4), 1, Flow::Forward),
        rows: &[(
            "iperf3: throughput",
            "bytes_per_second",
            Unit::BytesPerSecond,
        )],
    },
    Act {
        programs: "sockperf, 64-byte ping-pong",
        run: |setup| sockperf::run(&setup.pinned(true).seconds(3), 64, false),
        rows: &[
            ("sockperf: round trip, median", "round_trip", Unit::Seconds),
            (
                "sockperf: round trip, 99 %",
                "round_trip_p99",
                Unit::Seconds,
            ),
        ],
    },
    Act {
        programs: "redis-server and redis-benchmark, 50 clients",
        run: |setup| redis::run(&setup.seconds(4), 1),
        rows: &[
            ("redis: GET operations", "get_per_second", Unit::PerSecond),
            ("redis: SET operations", "set_per_second", Unit::PerSecond),
        ],
    },
];

/// Builds, installs, runs and shows.
pub(crate) fn run() -> Result<()> {
    println!("Preparing: programs and release build");
    deps::install()?;
    cargo::build_for_scenarios()?;

    println!("\nRunning each pair of programs twice on this machine, about 40 s in all");
    if process::two_cpus().is_some() {
        println!("(iperf3 and sockperf: each end has one processor for itself)");
    } else {
        println!("(there is one processor only: both ends share it, so round trips are long)");
    }
    let mut rows = vec![
        ["", "plain TCP", "libsmcr.so", ""]
            .map(String::from)
            .to_vec(),
    ];
    let mut sights = vec![
        ["smcr-stat saw", "server", "client"]
            .map(String::from)
            .to_vec(),
    ];
    let mut moved = true;
    for act in &ACTS {
        let plain = perform(act, "over plain TCP", &Setup::plain())?;
        let library = perform(act, "under libsmcr.so", &Setup::library().watched())?;
        for (title, figure, unit) in act.rows {
            rows.push(compare(
                title,
                *unit,
                plain.figure(figure)?,
                library.figure(figure)?,
            ));
        }
        moved &= library.seen.main_mode() == "shm";
        sights.push(sight(act.programs, &library));
    }
    let mixed = Setup::new(Preload::Library, Preload::None).watched();
    let one_end = ui::with_progress("redis, only the server under libsmcr.so", || {
        redis::run(&mixed.seconds(2), 1)
    })?;
    sights.push(sight("redis, only the server under libsmcr.so", &one_end));

    println!("\nSide by side\n");
    ui::table(&rows);
    println!(
        "\nHow the connections ran: shm = moved to shared memory, tcp = stayed on TCP (why)\n"
    );
    ui::table(&sights);
    if !moved {
        println!("\nNot everything moved to shared memory: those lines compare TCP with TCP.");
    }
    println!(
        "\nTry it: LD_PRELOAD=target/release/libsmcr.so PROGRAM at both ends; target/release/smcr-stat shows what happens."
    );
    Ok(())
}

fn perform(act: &Act, how: &str, setup: &Setup) -> Result<Outcome> {
    let outcome = ui::with_progress(&format!("{} {how}", act.programs), || (act.run)(setup))?;
    let mut figures = Vec::new();
    for (title, figure, unit) in act.rows {
        let name = title.rsplit(": ").next().unwrap_or(title);
        figures.push(format!("{name} {}", unit.show(outcome.figure(figure)?)));
    }
    println!("  {:<46} {how:<17} {}", act.programs, figures.join(", "));
    Ok(outcome)
}

fn compare(title: &str, unit: Unit, plain: f64, library: f64) -> Vec<String> {
    let (ratio, better, worse) = if unit.smaller_is_better() {
        (plain / library, "shorter", "longer")
    } else {
        (library / plain, "faster", "slower")
    };
    let word = if (0.95..1.05).contains(&ratio) {
        "about the same".to_owned()
    } else if ratio >= 1.0 {
        format!("{ratio:.1} x {better}")
    } else {
        format!("{:.1} x {worse}", 1.0 / ratio)
    };
    vec![title.to_owned(), unit.show(plain), unit.show(library), word]
}

fn sight(programs: &str, outcome: &Outcome) -> Vec<String> {
    if let Some(trouble) = &outcome.seen.trouble {
        return vec![
            programs.to_owned(),
            format!("could not be asked: {trouble}"),
        ];
    }
    let [server, client] = [&outcome.seen.server, &outcome.seen.client];
    vec![programs.to_owned(), server.to_string(), client.to_string()]
}
