//! `cargo xtask bench`: the same programs over plain TCP, a unix stream where they can, and the
//! library, in turns. It reports; it never fails because something is slow.

mod jobs;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use smcr_tests::scenario::watch::Seen;
use smcr_tests::scenario::{Preload, Setup, process};

use crate::{cargo, deps, ui};
use jobs::Job;

/// What the command line asks for.
#[derive(Debug, Default)]
pub(crate) struct Options {
    json: Option<PathBuf>,
    quick: bool,
    list: bool,
    names: Vec<String>,
}

impl Options {
    pub(crate) fn parse(mut arguments: lexopt::Parser) -> Result<Self> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next()? {
            match argument {
                lexopt::Arg::Long("json") => options.json = Some(arguments.value()?.into()),
                lexopt::Arg::Long("quick") => options.quick = true,
                lexopt::Arg::Long("list") => options.list = true,
                lexopt::Arg::Value(name) => {
                    options.names.push(name.to_string_lossy().into_owned());
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(options)
    }

    fn rounds(&self, job: &Job) -> usize {
        match (self.quick, job.fine) {
            (true, _) => 3,
            (false, false) => 5,
            (false, true) => 11,
        }
    }

    fn seconds(&self, job: &Job) -> u32 {
        if self.quick || job.fine { 1 } else { 2 }
    }
}

/// One of the ways in which a job is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Tcp,
    Unix,
    Library,
    ServerOnly,
    ClientOnly,
    Disabled,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
            Self::Library => "library",
            Self::ServerOnly => "server-only",
            Self::ClientOnly => "client-only",
            Self::Disabled => "disabled",
        }
    }

    fn setup(self) -> Setup {
        match self {
            Self::Tcp => Setup::plain(),
            Self::Unix => Setup::unix(),
            Self::Library => Setup::library(),
            Self::ServerOnly => Setup::new(Preload::Library, Preload::None),
            Self::ClientOnly => Setup::new(Preload::None, Preload::Library),
            Self::Disabled => Setup::new(Preload::Disabled, Preload::Disabled),
        }
    }

    /// The mode in which its connections should run, as far as smcr-stat can see them.
    fn expected_mode(self) -> Option<&'static str> {
        match self {
            Self::Library => Some("shm"),
            Self::ServerOnly | Self::ClientOnly => Some("tcp"),
            Self::Tcp | Self::Unix | Self::Disabled => None,
        }
    }
}

/// Everything that was measured of one job: per way and figure one sample a round.
#[derive(Default)]
struct Samples {
    figures: BTreeMap<(Way, &'static str), Vec<f64>>,
    seen: BTreeMap<Way, Seen>,
    trouble: Option<String>,
}

/// Measures and reports.
pub(crate) fn run(options: Options) -> Result<()> {
    let jobs = select(&options)?;
    if options.list {
        for job in jobs {
            println!("{:<20} {}", job.name, job.title);
        }
        return Ok(());
    }
    deps::install()?;
    cargo::build_for_scenarios()?;
    let pinned = process::two_cpus();
    match pinned {
        Some((server, client)) => println!(
            "\nWhere marked \"pinned\", the server has processor {server} and the client {client} \
             (as by taskset -c); all else runs where the kernel puts it."
        ),
        None => println!("\nThere is one processor only: nothing is pinned."),
    }
    println!(
        "In a round every way has its turn, forwards and backwards by turns; a first round, in \
         which smcr-stat looks on, is not counted."
    );
    let start = Instant::now();
    let mut results = Vec::new();
    for job in jobs {
        let (rounds, seconds) = (options.rounds(job), options.seconds(job));
        println!("\n{}: {}", job.name, job.title);
        println!("  {rounds} rounds of about {seconds} s for each way");
        let samples = measure(job, rounds, seconds);
        report::print_job(job, &samples);
        if let Some(trouble) = &samples.trouble {
            println!("  given up: {trouble}");
        }
        results.push((job, samples));
    }
    println!("\nMeasured in {}.\n", ui::seconds(start.elapsed()));
    report::print(&results);
    if let Some(path) = &options.json {
        let json = report::json(&results);
        let text = serde_json::to_string_pretty(&json)? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
        println!("\nWritten to {}.", path.display());
    }
    Ok(())
}

fn select(options: &Options) -> Result<Vec<&'static Job>> {
    let mut all: Vec<&Job> = jobs::ALL.iter().collect();
    if let Some(unknown) = (options.names.iter()).find(|name| all.iter().all(|j| j.name != **name))
    {
        let names: Vec<&str> = all.iter().map(|job| job.name).collect();
        bail!(
            "no measurement {unknown:?}; there are: {}",
            names.join(", ")
        );
    }
    if !options.names.is_empty() {
        all.retain(|job| options.names.iter().any(|name| name == job.name));
    }
    Ok(all)
}

/// Runs the rounds of one job. A way that fails ends the job: a median of what is left would
/// compare unequal rounds.
fn measure(job: &Job, rounds: usize, seconds: u32) -> Samples {
    let mut samples = Samples::default();
    for round in 0..=rounds {
        let mut ways = job.ways.to_vec();
        if round % 2 == 1 {
            // A machine that gets slower or faster would favour whoever always comes first.
            ways.reverse();
        }
        for way in ways {
            let mut setup = way.setup().pinned(job.pinned).seconds(seconds);
            // The round that is not counted warms up, and is the one that smcr-stat looks at.
            if round == 0 {
                setup = setup.seconds(1).watched();
            }
            let what = format!("round {round} of {rounds}: {}", way.name());
            let outcome = match ui::with_progress(&what, || (job.run)(&setup)) {
                Ok(outcome) => outcome,
                Err(error) => {
                    samples.trouble = Some(format!("{what}: {error:#}"));
                    return samples;
                }
            };
            if round == 0 {
                samples.seen.insert(way, outcome.seen);
                continue;
            }
            for (figure, value) in outcome.figures {
                samples
                    .figures
                    .entry((way, figure))
                    .or_default()
                    .push(value);
            }
        }
    }
    samples
}
