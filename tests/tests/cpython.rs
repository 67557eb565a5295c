//! CPython's own tests of everything that has to do with sockets and descriptors: what passes over
//! plain TCP passes under the library.
//!
//! They run in a network namespace that has nothing but a loopback interface.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use smcr_tests::scenario::paths;
use smcr_tests::scenario::process::Program;

const MODULES: [&str; 16] = [
    "test.test_socket",
    "test.test_select",
    "test.test_selectors",
    "test.test_poll",
    "test.test_epoll",
    "test.test_subprocess",
    "test.test_eintr",
    "test.test_os",
    "test.test_httplib",
    "test.test_httpservers",
    "test.test_ftplib",
    "test.test_smtplib",
    "test.test_asyncore",
    "test.test_asynchat",
    "test.test_asyncio.test_streams",
    "test.test_asyncio.test_sock_lowlevel",
];

/// They take a minute and a half where nothing else runs.
const DEADLINE: Duration = Duration::from_secs(900);

const AT_ONCE: Duration = Duration::from_secs(10);

/// How often a test is tried alone that passed over TCP only: some of them count seconds.
const AGAIN: usize = 3;

/// What came of each test.
type Outcomes = BTreeMap<String, String>;

fn run(preload: &str, names: &[&str]) -> Result<(Outcomes, String)> {
    let directory = tempfile::tempdir()?;
    let lines = directory.path().join("outcomes");
    let mut program = Program::new("unshare")?
        .args("--net sh -c")
        .arg("ip link set lo up && exec env LD_PRELOAD=\"$0\" \"$@\"")
        .arg(preload)
        .arg(paths::python())
        .arg(paths::app("suite.py"))
        .arg(&lines)
        .arg(directory.path());
    for name in names {
        program = program.arg(name);
    }
    let finished = program.run(DEADLINE)?;
    let text = std::fs::read_to_string(&lines).with_context(|| finished.to_string())?;
    let outcomes = text.lines().filter_map(|line| line.split_once(' '));
    let outcomes = outcomes.map(|(name, what)| (name.to_owned(), what.to_owned()));
    Ok((outcomes.collect(), finished.stdout))
}

#[test]
fn pythons_own_tests_end_as_over_tcp() -> Result<()> {
    paths::ensure_built()?;
    let library = paths::library();
    let library = library.to_str().context("a path that is no text")?;
    let namespace = Program::new("unshare")?.args("--net true").run(AT_ONCE)?;
    if !namespace.status.success() {
        println!("needs the right to make a network namespace");
        return Ok(());
    }
    let (plain, under) = std::thread::scope(|scope| {
        let plain = scope.spawn(|| run("", &MODULES));
        let under = run(library, &MODULES);
        (plain.join(), under)
    });
    let (plain, _) = plain.map_err(|_| anyhow::anyhow!("it panicked"))??;
    let (under, _) = under?;
    let passed = plain.values().filter(|what| *what == "ok").count();
    ensure!(passed > 1000, "only {passed} tests passed over plain TCP");
    println!("{passed} of {} tests passed over plain TCP", plain.len());

    let mut wrong = Vec::new();
    for (name, _) in plain.iter().filter(|(_, what)| *what == "ok") {
        let mut found = under
            .get(name)
            .cloned()
            .unwrap_or_else(|| "never begun".to_owned());
        let mut said = String::new();
        for _ in 0..AGAIN {
            if found == "ok" {
                break;
            }
            println!("{name}: {found}; once more");
            let (alone, output) = run(library, &[name])?;
            found = alone.get(name).cloned().unwrap_or_default();
            said = output;
        }
        if found != "ok" {
            wrong.push(format!("{name}: {found}\n{said}"));
        }
    }
    ensure!(wrong.is_empty(), "not as over TCP:\n{}", wrong.join("\n"));
    Ok(())
}
