//! What happens when the library is loaded.

use std::io::Write;

use smcr_core::Reason;
use smcr_core::config::Config;
use smcr_core::engine::{self, PUBLISHER};

/// Runs when the dynamic linker loads the library, before the program's own constructors.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = construct;

/// Runs when the process exits in an orderly way.
#[used]
#[unsafe(link_section = ".fini_array")]
static DESTRUCTOR: extern "C" fn() = destruct;

extern "C" fn construct() {
    // A bug of ours is not for the program's stderr.
    std::panic::set_hook(Box::new(|info| log::error!("{info}")));
    // A panic must not reach the linker; without the engine every call is passed on.
    let _ = std::panic::catch_unwind(start);
}

extern "C" fn destruct() {
    process_ends();
    if std::env::var_os(KEEP_STATISTICS).is_none() {
        PUBLISHER.close();
    }
}

/// Where this is set, what an orderly process counted is kept as long as that of one that was
/// killed: `smcr-stat --all` shows it for some seconds.
const KEEP_STATISTICS: &str = "SMCR_STAT_KEEP";

/// The process is about to end, in an orderly way or by `_exit`.
pub(crate) fn process_ends() {
    if let Some(engine) = engine::engine() {
        engine.process_ends();
    }
}

fn start() {
    crate::hooks::resolve();
    crate::ops::fds::adopt_process();
    // SAFETY: reads a value that the kernel gave the process at its start.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        // A set-uid program: nothing of its user's environment counts, and nothing is shared.
        return;
    }
    start_log();
    let config = match Config::load() {
        Ok(config) => config,
        Err(error) => {
            // Said even without SMCR_LOG: the operator asked for something that does not happen.
            say(&format!("smcr: {error}; this program stays on TCP\n"));
            publish();
            PUBLISHER.fallback(Reason::BadConfig);
            return;
        }
    };
    if config.is_disabled() {
        return;
    }
    crate::ops::fork::install();
    crate::ops::image::remember();
    match engine::start(config) {
        Ok(engine) => crate::ops::exec::arrive(engine),
        Err(errno) => log::error!("the engine did not start: {errno}"),
    }
}

/// Makes this process's page for `smcr-stat`, when there is something to show.
pub(crate) fn publish() {
    if let Err(error) = PUBLISHER.publish() {
        log::debug!("no statistics: {error}");
    }
}

fn say(text: &str) {
    let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
}

/// `SMCR_LOG`: the levels as env_logger reads them, and optionally where to: `debug` or
/// `debug@/path/of/file`. Without it nothing is logged.
fn start_log() {
    let Ok(setting) = std::env::var("SMCR_LOG") else {
        return;
    };
    let (levels, path) = match setting.split_once('@') {
        Some((levels, path)) => (levels, Some(path)),
        None => (&*setting, None),
    };
    let target: Box<dyn Write + Send> = match path {
        None => Box::new(Stderr),
        Some(path) => {
            use rustix::fs::{Mode, OFlags};
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
            // The file's number is not to be one that the program counts on.
            smcr_core::fds::reserve();
            match rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)) {
                Ok(fd) => Box::new(LogFile(smcr_core::fds::raise(fd))),
                Err(errno) => {
                    say(&format!(
                        "smcr: SMCR_LOG: cannot write to {path}: {errno}\n"
                    ));
                    return;
                }
            }
        }
    };
    let mut builder = env_logger::Builder::new();
    builder
        .parse_filters(levels)
        .target(env_logger::Target::Pipe(target));
    let _ = builder.try_init();
}

/// The program's stderr, by direct system calls.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(rustix::io::write(rustix::stdio::stderr(), bytes)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A log file, by direct system calls.
struct LogFile(std::os::fd::OwnedFd);

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(rustix::io::write(&self.0, bytes)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
