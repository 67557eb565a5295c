//! The status, as text and as JSON.

use std::ffi::CStr;
use std::fmt::Write;
use std::path::Path;

use serde_json::json;
use smcr_option::{State, Status};

const NO_LISTENERS: &str = "this kernel lets programs that connect signal SMC, but not those that \
    listen: that takes Linux 6.12 or later";

/// What this kernel cannot do, going by its version.
pub(crate) fn kernel_limit() -> Option<&'static str> {
    let mut name = std::mem::MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: room for the result.
    if unsafe { libc::uname(name.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: filled in by the call above.
    let name = unsafe { name.assume_init() };
    // SAFETY: a C string in an array.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) };
    let is_older = is_older_than(release.to_str().unwrap_or_default(), (6, 12));
    is_older.then_some(NO_LISTENERS)
}

fn is_older_than(release: &str, version: (u32, u32)) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut part = || parts.next().and_then(|part| part.parse::<u32>().ok());
    match (part(), part()) {
        (Some(major), Some(minor)) => (major, minor) < version,
        _ => false,
    }
}

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
    if let (true, Some(limit)) = (status.state.is_in_effect(), kernel_limit()) {
        let _ = writeln!(out, "  {limit}");
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
        "listeners": status.state.is_in_effect() && kernel_limit().is_none(),
        "programs": programs.collect::<Vec<_>>(),
        "others": status.others,
    });
    format!("{all:#}\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::is_older_than;

    #[test]
    fn versions_compare_as_numbers() {
        for old in ["6.1.0-23-amd64", "5.15.0", "6.11.9+deb13"] {
            assert!(is_older_than(old, (6, 12)), "{old}");
        }
        for new in ["6.12.0", "6.18.44-fc", "7.0", "unknown", ""] {
            assert!(!is_older_than(new, (6, 12)), "{new}");
        }
    }
}
