//! `smcr-pnet`: shows and changes the PNET table, and explains what comes of it.

mod args;
mod edit;
mod resolve;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use args::{Action, Args};
use pnet::{Problem, TableError};
use smcr_cli::Tool;
use smcr_core::config::{Config, ConfigError, DEFAULT_PATH, DEFAULT_PNET_TABLE, ErrorKind};

const TOOL: Tool = Tool("smcr-pnet");

/// The table or the configuration was refused, or what was asked for cannot be done.
const EXIT_REFUSED: u8 = 1;
/// `--resolve`: no RoCE port serves the connection.
const EXIT_NO_PORT: u8 = 3;

fn main() -> ExitCode {
    let args = match Args::parse(lexopt::Parser::from_env()) {
        Ok(args) => args,
        Err(error) => return TOOL.refuse(error),
    };
    match run(args) {
        Ok((text, code)) => TOOL.print(&text, code),
        Err(failure) => {
            TOOL.complain(failure);
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

/// Does what was asked for; gives what is to be printed and the exit status.
fn run(args: Args) -> Result<(String, u8), Failure> {
    let text = match &args.action {
        Action::Help => args::HELP.to_owned(),
        Action::Version => concat!("smcr-pnet ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
        Action::Resolve(question) => {
            let (text, is_served) = resolve::explain(&table_path(args.table)?, question)?;
            return Ok((text, if is_served { 0 } else { EXIT_NO_PORT }));
        }
        Action::Show(id) => edit::show(&table_path(args.table)?, id.as_ref())?,
        Action::Add(id, devices) => {
            edit::add(&table_path(args.table)?, id, devices)?;
            String::new()
        }
        Action::Delete(id, devices) => {
            edit::delete(&table_path(args.table)?, id, devices)?;
            String::new()
        }
        Action::Flush => {
            edit::flush(&table_path(args.table)?)?;
            String::new()
        }
    };
    Ok((text, 0))
}

/// The table that programs started here would use.
fn table_path(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return Ok(path);
    }
    let config = std::env::var_os("SMCR_CONFIG").filter(|path| !path.is_empty());
    let is_named = config.is_some();
    let config = config.map_or_else(|| DEFAULT_PATH.into(), PathBuf::from);
    match Config::read(&config) {
        Ok(config) => Ok(config.pnet_table().to_owned()),
        Err(e) if !is_named && is_missing(&e) => Ok(DEFAULT_PNET_TABLE.into()),
        Err(e) => Err(Failure::Config(e)),
    }
}

fn is_missing(error: &ConfigError) -> bool {
    matches!(error.kind, ErrorKind::Read(errno) if errno.kind() == io::ErrorKind::NotFound)
}

/// Why something was not done.
#[derive(Debug)]
enum Failure {
    Config(ConfigError),
    Table(TableError),
    /// About a device, or an id.
    Edit(String, Problem),
    NoSuchId(String),
    Resolve(String),
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => write!(f, "the configuration file is refused: {error}"),
            Self::Table(error @ TableError::Io { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                write!(
                    f,
                    "{error}: try it as root, or name another table by --table"
                )
            }
            Self::Table(error) => error.fmt(f),
            Self::Edit(subject, problem) => write!(f, "{subject}: {problem}"),
            Self::NoSuchId(id) => write!(
                f,
                "{id}: nothing is listed under this PNETID: 'smcr-pnet' shows all that are"
            ),
            Self::Resolve(text) => f.write_str(text),
        }
    }
}
