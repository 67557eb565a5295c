//! Where the things under test are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies one level below the workspace root")
        .to_path_buf()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => workspace().join(directory),
        None => workspace().join("target"),
    }
}

/// Set to the name of a cargo profile: what was built with it is tested, in place of the release
/// build. `quick` is quicker to build.
pub const PROFILE: &str = "SMCR_PROFILE";

/// The profile whose programs are tested.
pub fn profile() -> String {
    std::env::var(PROFILE).unwrap_or_else(|_| "release".to_owned())
}

/// Where cargo puts the programs under test.
pub fn programs() -> PathBuf {
    match profile().as_str() {
        "dev" => target().join("debug"),
        profile => target().join(profile),
    }
}

/// The library that is preloaded.
pub fn library() -> PathBuf {
    programs().join("libsmcr.so")
}

/// The statistics tool.
pub fn stat_tool() -> PathBuf {
    programs().join("smcr-stat")
}

/// The tool for the PNET table.
pub fn pnet_tool() -> PathBuf {
    programs().join("smcr-pnet")
}

/// The tool for the TCP option.
pub fn option_tool() -> PathBuf {
    programs().join("smcr-option")
}

/// The load program of this package.
pub fn load_tool() -> PathBuf {
    programs().join("smcr-load")
}

/// The program that tries the RDMA fabric alone, an example of smcr-core.
pub const FABRIC_TOOL: &str = "verbs";

/// Where that program is.
pub fn fabric_tool() -> PathBuf {
    programs().join("examples").join(FABRIC_TOOL)
}

/// The tests of the TCP option, which run in any machine's kernel.
pub const OPTION_CASES: &str = "handshakes";

/// The newest build of these tests.
pub fn option_cases() -> Result<PathBuf> {
    let begin = format!("{OPTION_CASES}-");
    let directory = programs().join("deps");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&directory)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&begin) && !name.contains('.') {
            found.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    let newest = found.into_iter().max().map(|(_, path)| path);
    newest.with_context(|| {
        format!(
            "{OPTION_CASES} is missing: run `cargo build --profile {} -p smcr-option --test {OPTION_CASES}`",
            profile()
        )
    })
}

/// The agent in the lab's guests.
pub fn guest_agent() -> PathBuf {
    programs().join("smcr-guest")
}

/// A small program that the tests bring along.
pub fn app(name: &str) -> PathBuf {
    workspace().join("tests/apps").join(name)
}

/// Python. The distribution's own is preferred: version managers put shell scripts in its place,
/// which would run under the library too.
pub fn python() -> PathBuf {
    let distribution = PathBuf::from("/usr/bin/python3");
    if distribution.exists() {
        distribution
    } else {
        PathBuf::from("python3")
    }
}

/// Set by whoever has built the release programs already.
pub const PREBUILT: &str = "SMCR_PREBUILT";

/// The packages whose programs scenarios need.
pub const PACKAGES: [&str; 5] = [
    "smcr-preload",
    "smcr-stat",
    "smcr-pnet",
    "smcr-option",
    "smcr-tests",
];

/// Builds the library and the tools once per process, so that a test never runs against a stale
/// library. Does nothing where [`PREBUILT`] is set.
pub fn ensure_built() -> Result<()> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let built = *BUILT.get_or_init(|| {
        if std::env::var_os(PREBUILT).is_some() {
            return true;
        }
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--quiet", "--bins", "--lib", "--profile"]);
        cargo.arg(profile());
        for package in PACKAGES {
            cargo.args(["--package", package]);
        }
        cargo.current_dir(workspace());
        cargo.status().is_ok_and(|status| status.success())
    });
    if !built {
        bail!("`cargo build` failed: the library is not there to be tested");
    }
    for file in [
        library(),
        stat_tool(),
        pnet_tool(),
        load_tool(),
        guest_agent(),
    ] {
        if !file.exists() {
            bail!(
                "{} is missing: run `cargo build --profile {} --workspace`",
                file.display(),
                profile()
            );
        }
    }
    Ok(())
}
