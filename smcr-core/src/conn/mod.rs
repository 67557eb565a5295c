//! What a program's calls do once its stream has moved to SMC.

mod arming;
pub mod bell;
mod ending;
pub(crate) mod exec;
pub mod io;
mod rx;
mod smc;
pub mod spin;
mod tx;
mod waiting;

pub use rx::{Arming, Received};
pub(crate) use smc::state;
pub use smc::{Home, Smc};
pub use waiting::{Asleep, Slept, Waiting, timeouts_used};
