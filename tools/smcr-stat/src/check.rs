//! `--check-config`.

use std::io;
use std::path::PathBuf;

use smcr_core::config::{Config, ConfigError, DEFAULT_PATH, ErrorKind};

/// Checks the given file, or the one that a program started here would use, and gives the
/// settings in effect as the text of such a file.
pub(crate) fn check(file: Option<PathBuf>) -> Result<String, ConfigError> {
    let named = file.or_else(|| {
        let named = std::env::var_os("SMCR_CONFIG").filter(|path| !path.is_empty());
        named.map(PathBuf::from)
    });
    let is_named = named.is_some();
    let path = named.unwrap_or_else(|| DEFAULT_PATH.into());
    let shown = path.display();
    match Config::read(&path) {
        Ok(config) => Ok(format!("# {shown} is valid; in effect:\n{config}")),
        Err(e) if !is_named && is_missing(&e) => Ok(format!(
            "# {shown} does not exist; in effect:\n{}",
            Config::default()
        )),
        Err(e) => Err(e),
    }
}

fn is_missing(error: &ConfigError) -> bool {
    match error.kind {
        ErrorKind::Read(errno) => errno.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}
