//! The status, as text and as JSON.

use std::fmt::Write;
use std::path::Path;

use serde_json::json;
use smcr_option::{State, Status};

pub(crate) fn text(path: &Path, status: &Status) -> String {
    let mut out = String::new();
    let words = match status.state {
        State::Detached => "not attached",
        State::Attached => "attached",
        State::Inherited => "attached, to a cgroup above",
        State::Broken => "not whole: run `smcr-option attach` (or `detach`) again",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}: {words}", path.display());
    for program in &status.programs {
        let tag = hex(&program.loaded.tag);
        let place = if program.inherited { "above" } else { "here" };
        let _ = writeln!(
            out,
            "  {:<10}  {}  id {}  tag {tag}  {place}",
            program.hook.name(),
            program.loaded.name,
            program.loaded.id,
        );
    }
    if !status.others.is_empty() {
        let names = status.others.join(", ");
        let _ = writeln!(
            out,
            "  sock_ops programs of others, which must not write TCP options: {names}"
        );
    }
    out
}

pub(crate) fn json(path: &Path, status: &Status) -> String {
    let programs = status.programs.iter().map(|program| {
        json!({
            "hook": program.hook.name(),
            "name": program.loaded.name,
            "id": program.loaded.id,
            "tag": hex(&program.loaded.tag),
            "map": program.loaded.map,
            "inherited": program.inherited,
        })
    });
    let all = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cgroup": path.to_string_lossy(),
        "state": status.state.name(),
        "in_effect": status.state.is_in_effect(),
        "programs": programs.collect::<Vec<_>>(),
        "others": status.others,
    });
    format!("{all:#}\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
