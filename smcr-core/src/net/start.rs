//! Starts the engine when the program did not.

use std::sync::{Once, OnceLock};

use crate::Reason;
use crate::config::Config;
use crate::engine::{self, Engine, PUBLISHER};

/// The engine of this process.
///
/// # Errors
/// Why there is none, and everything is TCP.
pub(super) fn engine() -> Result<&'static Engine, Reason> {
    static OUTCOME: OnceLock<Result<(), Reason>> = OnceLock::new();
    publish();
    if let Some(engine) = engine::engine() {
        return Ok(engine);
    }
    let outcome = OUTCOME.get_or_init(|| {
        let config = Config::load().map_err(|error| {
            log::error!("{error}; this program stays on TCP");
            Reason::BadConfig
        })?;
        if config.is_disabled() {
            return Err(Reason::Disabled);
        }
        engine::start(config).map(drop).map_err(|errno| {
            log::error!("the engine did not start: {errno}");
            Reason::Internal
        })
    });
    (*outcome)?;
    engine::engine().ok_or(Reason::Internal)
}

/// Makes this process's page for `smcr-stat`, for as long as the process runs.
fn publish() {
    static PUBLISHED: Once = Once::new();
    extern "C" fn close() {
        if let Some(engine) = engine::engine() {
            engine.process_ends();
        }
        PUBLISHER.close();
    }
    PUBLISHED.call_once(|| {
        if let Err(error) = PUBLISHER.publish() {
            log::debug!("no statistics: {error}");
        }
        // SAFETY: the function lives as long as the process. (In a library that is unloaded, the C
        // library runs it then.)
        unsafe { libc::atexit(close) };
    });
}
