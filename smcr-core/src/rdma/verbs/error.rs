//! Why a port cannot be used.

use rustix::io::Errno;

/// Why a port of a device could not be opened. The text says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// libibverbs is not installed, or too old; what the dynamic linker said.
    NoLibrary(String),
    /// There is no such device, as far as this process can see.
    NoDevice {
        /// The name asked for.
        device: String,
        /// What libibverbs said, if it could not look.
        errno: Option<Errno>,
    },
    /// The device has no such port.
    NoPort,
    /// The port is not up.
    PortDown,
    /// InfiniBand or iWARP: SMC-R needs Ethernet with RoCE (RFC 7609 §1.1).
    NotRoce,
    /// The network interface behind the port, and so its MAC, cannot be found.
    NoInterface,
    /// This process may not use the device.
    Forbidden(Errno),
    /// Too little memory can be locked, or the device has none left.
    Memory(Errno),
    /// The kernel cannot keep an adapter's memory apart when a process forks (before 5.12).
    OldKernel,
    /// Anything else, and the call that failed.
    Failed(&'static str, Errno),
}

impl OpenError {
    /// What `errno` means when `call` fails with it.
    pub(super) fn of(call: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::PERM | Errno::ACCESS => Self::Forbidden(errno),
            Errno::NOMEM => Self::Memory(errno),
            errno => Self::Failed(call, errno),
        }
    }
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoLibrary(reason) => write!(
                f,
                "libibverbs cannot be loaded ({reason}): install rdma-core's libibverbs1 and \
                 ibverbs-providers"
            ),
            Self::NoDevice { device, errno } => {
                write!(f, "there is no RDMA device {device}")?;
                if let Some(errno) = errno {
                    write!(f, " ({errno})")?;
                }
                f.write_str(
                    ": compare with `rdma link`; the module ib_uverbs and the device's provider \
                     (package ibverbs-providers) are needed",
                )
            }
            Self::NoPort => f.write_str("the RDMA device has no such port: see `rdma link`"),
            Self::PortDown => f.write_str(
                "the port of the RDMA device is not active: see `rdma link`, and set its network \
                 interface up",
            ),
            Self::NotRoce => f.write_str(
                "the RDMA device does not speak RoCE: SMC-R needs Ethernet, not InfiniBand or iWARP",
            ),
            Self::NoInterface => f.write_str(
                "the network interface of the RDMA device cannot be found: it has to be in this \
                 network namespace, and /sys to be mounted",
            ),
            Self::Forbidden(errno) => write!(
                f,
                "the RDMA device may not be used ({errno}): access to /dev/infiniband/uverbs* is \
                 needed"
            ),
            Self::Memory(errno) => write!(
                f,
                "no memory for the RDMA device ({errno}): raise the limit of locked memory \
                 (`ulimit -l`, LimitMEMLOCK=)"
            ),
            Self::OldKernel => f.write_str(
                "the kernel is too old to fork with an open RDMA device: Linux 5.12 is needed",
            ),
            Self::Failed(call, errno) => write!(f, "{call} failed: {errno}"),
        }
    }
}

impl std::error::Error for OpenError {}
