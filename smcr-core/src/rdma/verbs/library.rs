//! libibverbs, loaded when it is needed: the machine may not have it.
//!
//! The types come from the headers through `rdma-sys`. Its functions are not called: a reference
//! to one of them would make the dynamic linker demand libibverbs of every program.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use rdma_sys::*;

use super::owner;

const NAME: &CStr = c"libibverbs.so.1";

/// Declares the functions that are looked up by name and symbol version. libibverbs has several
/// versions of most; without a version dlsym would be free to take the oldest, which has other
/// structures.
macro_rules! functions {
    ($($field:ident = $symbol:ident @ $version:literal: ($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions, as their manual pages describe them.
        pub(super) struct Library {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// It was loaded by this library, and for it alone.
            pub(super) is_ours: bool,
            is_fork_initialized: Option<unsafe extern "C" fn() -> ibv_fork_status>,
        }

        impl Library {
            /// Looks all of them up.
            fn find(handle: *mut c_void, is_ours: bool) -> Result<Self, String> {
                Ok(Self {
                    is_ours,
                    $($field: {
                        let name = concat!(stringify!($symbol), "\0");
                        let found = symbol(handle, name, concat!("IBVERBS_", $version, "\0"))?;
                        // SAFETY: the header says that this name has this type; `signatures`
                        // makes the compiler compare the two.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($argument),*) $(-> $result)?,
                            >(found)
                        }
                    },)*
                    // Since version 35 of rdma-core.
                    is_fork_initialized: symbol(
                        handle,
                        "ibv_is_fork_initialized\0",
                        "IBVERBS_1.13\0",
                    )
                    .ok()
                    // SAFETY: as above.
                    .map(|found| unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> ibv_fork_status>(
                            found,
                        )
                    }),
                })
            }
        }

        /// Never called, so that nothing refers to the functions: the compiler compares our types
        /// with the header's.
        #[allow(dead_code)]
        fn signatures(library: &mut Library) {
            $(library.$field = $symbol;)*
            library.is_fork_initialized = Some(ibv_is_fork_initialized);
        }
    };
}

functions! {
    get_device_list = ibv_get_device_list @ "1.1": (*mut c_int) -> *mut *mut ibv_device;
    free_device_list = ibv_free_device_list @ "1.1": (*mut *mut ibv_device);
    get_device_name = ibv_get_device_name @ "1.1": (*mut ibv_device) -> *const c_char;
    open_device = ibv_open_device @ "1.1": (*mut ibv_device) -> *mut ibv_context;
    close_device = ibv_close_device @ "1.1": (*mut ibv_context) -> c_int;
    query_device = ibv_query_device @ "1.1": (*mut ibv_context, *mut ibv_device_attr) -> c_int;
    query_port = ibv_query_port @ "1.1":
        (*mut ibv_context, u8, *mut _compat_ibv_port_attr) -> c_int;
    query_gid = ibv_query_gid @ "1.1": (*mut ibv_context, u8, c_int, *mut ibv_gid) -> c_int;
    alloc_pd = ibv_alloc_pd @ "1.1": (*mut ibv_context) -> *mut ibv_pd;
    dealloc_pd = ibv_dealloc_pd @ "1.1": (*mut ibv_pd) -> c_int;
    reg_mr = ibv_reg_mr @ "1.1": (*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
    dereg_mr = ibv_dereg_mr @ "1.1": (*mut ibv_mr) -> c_int;
    create_comp_channel = ibv_create_comp_channel @ "1.0":
        (*mut ibv_context) -> *mut ibv_comp_channel;
    destroy_comp_channel = ibv_destroy_comp_channel @ "1.0": (*mut ibv_comp_channel) -> c_int;
    create_cq = ibv_create_cq @ "1.1":
        (*mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int) -> *mut ibv_cq;
    resize_cq = ibv_resize_cq @ "1.1": (*mut ibv_cq, c_int) -> c_int;
    destroy_cq = ibv_destroy_cq @ "1.1": (*mut ibv_cq) -> c_int;
    get_cq_event = ibv_get_cq_event @ "1.1":
        (*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
    ack_cq_events = ibv_ack_cq_events @ "1.1": (*mut ibv_cq, c_uint);
    create_qp = ibv_create_qp @ "1.1": (*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp;
    modify_qp = ibv_modify_qp @ "1.1": (*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
    destroy_qp = ibv_destroy_qp @ "1.1": (*mut ibv_qp) -> c_int;
    get_async_event = ibv_get_async_event @ "1.1":
        (*mut ibv_context, *mut ibv_async_event) -> c_int;
    ack_async_event = ibv_ack_async_event @ "1.1": (*mut ibv_async_event);
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Library(libibverbs.so.1)")
    }
}

/// Loads libibverbs, once in the life of a process. It stays loaded.
///
/// # Errors
/// What the dynamic linker says, or which function is missing.
pub(super) fn load() -> Result<&'static Library, &'static str> {
    static LOADED: OnceLock<Result<Library, String>> = OnceLock::new();
    // Not across a fork: the child would wait for a thread that it does not have.
    let rest = LOADED.get().is_none().then(owner::before_fork);
    let loaded = LOADED.get_or_init(|| {
        let flags = libc::RTLD_NOW | libc::RTLD_LOCAL;
        // SAFETY: loads nothing.
        let is_ours = unsafe { libc::dlopen(NAME.as_ptr(), flags | libc::RTLD_NOLOAD) }.is_null();
        // SAFETY: loads a library by its proper name; what its constructors do is theirs.
        let handle = unsafe { libc::dlopen(NAME.as_ptr(), flags) };
        if handle.is_null() {
            return Err(reason());
        }
        Library::find(handle, is_ours)
    });
    drop(rest);
    loaded.as_ref().map_err(String::as_str)
}

impl Library {
    /// Whether the kernel copies pages that an adapter uses when a process forks, so that the
    /// parent keeps those that the adapter knows. `None`: libibverbs is too old to tell.
    pub(super) fn kernel_copies_on_fork(&self) -> Option<bool> {
        let function = self.is_fork_initialized?;
        // SAFETY: takes nothing; asks the kernel through a netlink socket of its own.
        Some(unsafe { function() } == IBV_FORK_UNNEEDED)
    }
}

/// Looks a function up; both strings end in NUL.
fn symbol(handle: *mut c_void, name: &str, version: &str) -> Result<*mut c_void, String> {
    // SAFETY: an open library and strings that end in NUL.
    let found = unsafe { libc::dlvsym(handle, name.as_ptr().cast(), version.as_ptr().cast()) };
    if found.is_null() {
        let (name, version) = (name.trim_end_matches('\0'), version.trim_end_matches('\0'));
        return Err(format!("it has no {name}@{version}"));
    }
    Ok(found)
}

/// Why the dynamic linker failed.
fn reason() -> String {
    // SAFETY: dlerror returns null, or a string that is valid until this thread's next such call.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the dynamic linker gives no reason".to_owned();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}
