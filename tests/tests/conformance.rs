//! `rfc7609-notes/conformance.md` cannot rot: what it names exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Requirements in the table.
const ROWS: usize = 365;

struct Row {
    id: String,
    state: String,
    why: String,
}

impl Row {
    /// What stands between backticks.
    fn quoted(&self) -> impl Iterator<Item = &str> {
        self.why.split('`').skip(1).step_by(2)
    }

    /// `file::function`, or `scenario::name`.
    fn tests(&self) -> impl Iterator<Item = (&str, &str)> {
        self.quoted().filter_map(|quoted| quoted.split_once("::"))
    }

    fn code(&self) -> impl Iterator<Item = &str> {
        self.why
            .split("code: `")
            .skip(1)
            .filter_map(|rest| rest.split('`').next())
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the repository")
}

fn rows() -> Vec<Row> {
    let table = fs::read_to_string(root().join("rfc7609-notes/conformance.md")).expect("the table");
    let rows = table.lines().filter(|line| line.starts_with("| R-"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, _section, _requirement, state, why] = cells[..] else {
            panic!("five columns are needed: {line}");
        };
        Row {
            id: id.to_owned(),
            state: state.to_owned(),
            why: why.to_owned(),
        }
    })
    .collect()
}

/// All sources of tests, by their path without its ending.
fn sources() -> BTreeMap<PathBuf, String> {
    let mut sources = BTreeMap::new();
    let mut folders: Vec<PathBuf> = ["smcr-core", "preload", "pnet", "tools", "tests"]
        .iter()
        .map(|folder| root().join(folder))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|ending| ending == "rs" || ending == "c")
            {
                let text = fs::read_to_string(&path).expect("a source");
                sources.insert(path, text);
            }
        }
    }
    sources
}

fn exists(sources: &BTreeMap<PathBuf, String>, file: &str, name: &str) -> bool {
    if file == "scenario" {
        let macro_call = format!("SCENARIO({name},");
        let mut texts = sources.iter();
        return texts.any(|(path, text)| {
            path.extension().is_some_and(|ending| ending == "c") && text.contains(&macro_call)
        });
    }
    let declared = format!("fn {name}(");
    let ending = format!("{file}.rs");
    let mut texts = sources.iter().filter(|(path, _)| path.ends_with(&ending));
    texts.any(|(_, text)| text.contains(&declared))
}

#[test]
fn every_requirement_has_one_row() {
    let rows = rows();
    assert_eq!(rows.len(), ROWS);
    for (row, number) in rows.iter().zip(1..) {
        assert_eq!(row.id, format!("R-{number:03}"), "in order, each once");
        let states = ["met", "partly", "differs", "not built", "n/a"];
        assert!(
            states.contains(&row.state.as_str()),
            "{}: {}",
            row.id,
            row.state
        );
        assert!(
            row.why.len() > 3,
            "{}: nothing shows it, and nothing is said",
            row.id
        );
    }
}

#[test]
fn every_named_test_exists() {
    let sources = sources();
    let mut missing = Vec::new();
    let mut named = 0;
    for row in rows() {
        for (file, name) in row.tests() {
            named += 1;
            if !exists(&sources, file, name) {
                missing.push(format!("{}: no test {file}::{name}", row.id));
            }
        }
        for path in row.code() {
            if !root().join(path).is_file() {
                missing.push(format!("{}: no file {path}", row.id));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(named > 200, "the table is read: {named}");
}

/// What is met without a test to show it says where to look, or that there is one link only.
#[test]
fn what_is_met_is_shown() {
    for row in rows().iter().filter(|row| row.state == "met") {
        let is_shown = row.tests().next().is_some() || row.code().next().is_some();
        let is_simple = [
            "one link",
            "One link",
            "never sent",
            "it does not ask",
            "it never asks",
            "shm has one",
        ];
        let is_simple = is_simple.iter().any(|words| row.why.contains(words));
        assert!(is_shown || is_simple, "{}: {}", row.id, row.why);
    }
}

#[test]
fn a_test_that_is_not_there_is_found_out() {
    let sources = sources();
    assert!(exists(
        &sources,
        "tests/conformance",
        "every_named_test_exists"
    ));
    assert!(exists(&sources, "scenario", "urgent_byte"));
    assert!(!exists(&sources, "tests/conformance", "every_named_test"));
    assert!(!exists(&sources, "conform", "every_named_test_exists"));
    assert!(!exists(&sources, "scenario", "urgent"));
}
