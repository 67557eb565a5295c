//! The programs under test: the scenarios by gcc, the library by cargo.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Scenario;

/// How the scenarios were compiled.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Build {
    /// Without optimisation: the plain libc calls.
    O0,
    /// Optimised and fortified: the checked variants of them.
    Fortify,
}

impl Build {
    pub(crate) const ALL: [Self; 2] = [Self::O0, Self::Fortify];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::O0 => "O0",
            Self::Fortify => "fortify",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::O0 => &["-O0"],
            Self::Fortify => &["-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"],
        }
    }
}

/// The scenarios, compiled.
pub(crate) struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Compiles the C files of the directory, once for each build, unless the
    /// programs are newer than all of them.
    pub(crate) fn compile(sources: &Path) -> Result<Self, String> {
        let programs = Self {
            directory: scratch()?,
        };
        let mut c_files = Vec::new();
        let mut newest = std::time::SystemTime::UNIX_EPOCH;
        for entry in
            std::fs::read_dir(sources).map_err(|e| format!("{}: {e}", sources.display()))?
        {
            let path = entry.map_err(|e| e.to_string())?.path();
            let extension = path.extension().and_then(|e| e.to_str());
            if !matches!(extension, Some("c" | "h")) {
                continue;
            }
            if let Ok(time) = path.metadata().and_then(|m| m.modified()) {
                newest = newest.max(time);
            }
            if extension == Some("c") {
                c_files.push(path);
            }
        }
        // The order of the files is the order of the list.
        c_files.sort();
        for build in Build::ALL {
            let program = programs.path(build);
            let up_to_date = program
                .metadata()
                .and_then(|m| m.modified())
                .is_ok_and(|time| time > newest);
            if !up_to_date {
                gcc(&c_files, build, &program)?;
            }
        }
        Ok(programs)
    }

    pub(crate) fn path(&self, build: Build) -> PathBuf {
        self.directory.join(format!("scenarios-{}", build.name()))
    }

    pub(crate) fn list(&self) -> Result<Vec<Scenario>, String> {
        let output = Command::new(self.path(Build::O0))
            .arg("list")
            .output()
            .map_err(|e| format!("scenarios list: {e}"))?;
        let mut scenarios = Vec::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let words: Vec<_> = line.split(' ').collect();
            let [theme, name, expect] = words[..] else {
                return Err(format!("scenarios list: {line}"));
            };
            scenarios.push(Scenario {
                theme: theme.to_owned(),
                name: name.to_owned(),
                moves: expect == "smc",
            });
        }
        // Registered back to front.
        scenarios.reverse();
        Ok(scenarios)
    }
}

fn gcc(c_files: &[PathBuf], build: Build, program: &Path) -> Result<(), String> {
    // Compiled aside and renamed: another run may be executing the old one.
    let fresh = program.with_extension(format!("new-{}", std::process::id()));
    let output = Command::new("gcc")
        .args(["-std=gnu11", "-Wall", "-g", "-pthread"])
        // Wrong arguments and ignored results are the point of some scenarios.
        .args([
            "-Wno-unused-result",
            "-Wno-nonnull",
            "-Wno-restrict",
            "-Wno-stringop-overflow",
            "-Wno-stringop-overread",
        ])
        .args(build.flags())
        .args(c_files)
        .arg("-o")
        .arg(&fresh)
        .output()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                "gcc is missing: the scenarios are C programs (apt-get install gcc libc6-dev)"
                    .to_owned()
            }
            _ => format!("gcc: {e}"),
        })?;
    if !output.status.success() {
        return Err(format!(
            "gcc failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    std::fs::rename(&fresh, program).map_err(|e| format!("{}: {e}", program.display()))
}

/// Where programs and transcripts are put.
pub(crate) fn scratch() -> Result<PathBuf, String> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("differential");
    std::fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    Ok(directory)
}

/// The library under test and the tool that looks into it.
pub(crate) struct Library {
    pub(crate) so: PathBuf,
    pub(crate) stat: PathBuf,
}

/// The library named by the environment, or the workspace's own, brought up to date.
pub(crate) fn library() -> Result<Library, String> {
    let so = match std::env::var_os("SMCR_LIB") {
        Some(path) => PathBuf::from(path),
        None => cargo_build()?,
    };
    let so = so
        .canonicalize()
        .map_err(|e| format!("{}: {e}", so.display()))?;
    let stat =
        std::env::var_os("SMCR_STAT").map_or_else(|| so.with_file_name("smcr-stat"), PathBuf::from);
    Ok(Library { so, stat })
}

fn cargo_build() -> Result<PathBuf, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("no workspace above the tests")?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .ok_or("no target directory above the temporary one")?;
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--target-dir"])
        .arg(target)
        .current_dir(workspace)
        .output()
        .map_err(|e| format!("cargo build --release: {e}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo build --release failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(target.join("release/libsmcr.so"))
}
