//! What came of an intercepted call.

use rustix::io::Errno;
use smcr_core::engine::PUBLISHER;
use smcr_core::stat::Counter;

/// The result of an operation behind a hook.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    /// The library did it.
    Done(T),
    /// The library did it, and it failed.
    Failed(Errno),
    /// It is libc's business.
    PassOn(PassOn),
}

/// Why a call is passed on to libc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PassOn {
    /// The descriptor is not one of ours: nothing to count.
    NotOurs,
    /// It was, but its stream is on TCP now.
    OnTcp,
}

impl<T> From<Result<T, Errno>> for Outcome<T> {
    #[inline]
    fn from(result: Result<T, Errno>) -> Self {
        match result {
            Ok(value) => Self::Done(value),
            Err(errno) => Self::Failed(errno),
        }
    }
}

impl<T> Outcome<T> {
    /// The C result: the value, or -1 with errno set, or what `pass_on` returns.
    #[inline]
    pub(crate) fn or_else<R>(self, value: impl FnOnce(T) -> R, pass_on: impl FnOnce() -> R) -> R
    where
        R: From<i8>,
    {
        match self {
            Self::Done(done) => value(done),
            Self::Failed(errno) => {
                crate::real::set_errno(errno);
                R::from(-1)
            }
            Self::PassOn(why) => {
                if why == PassOn::OnTcp {
                    PUBLISHER.count(Counter::PassedOn);
                }
                pass_on()
            }
        }
    }
}
