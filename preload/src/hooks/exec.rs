//! The exec family, posix_spawn, popen, system and vfork.
//!
//! libc's functions of these families call each other inside libc, where no hook sees it, so each
//! has its own.

use std::ffi::CStr;

use libc::{FILE, c_char, c_int, pid_t, posix_spawn_file_actions_t, posix_spawnattr_t};
use redhook::{hook, real};

use crate::ops::exec;
use crate::ops::image::Image;

super::resolves!(
    execve,
    execv,
    execvp,
    execvpe,
    fexecve,
    execveat,
    posix_spawn,
    posix_spawnp,
    popen,
    system
);

type Strings = *const *const c_char;

unsafe extern "C" {
    static environ: Strings;
}

/// A path that may be null, which the kernel reports.
///
/// # Safety
/// `path` is null or a C string that lives as long as the call.
unsafe fn string<'a>(path: *const c_char) -> &'a CStr {
    if path.is_null() {
        c""
    } else {
        // SAFETY: by this function's contract.
        unsafe { CStr::from_ptr(path) }
    }
}

hook! {
    unsafe fn execve(path: *const c_char, argv: Strings, envp: Strings) -> c_int => smcr_execve {
        // SAFETY: the program's arguments, by execve's contract.
        unsafe {
            exec::exec(Image::Path(string(path)), envp, || real!(execve)(path, argv, envp))
        }
    }
}

hook! {
    unsafe fn execv(path: *const c_char, argv: Strings) -> c_int => smcr_execv {
        // SAFETY: as above.
        unsafe {
            exec::exec(Image::Path(string(path)), environ, || real!(execv)(path, argv))
        }
    }
}

hook! {
    unsafe fn execvp(file: *const c_char, argv: Strings) -> c_int => smcr_execvp {
        // SAFETY: as above.
        unsafe {
            exec::exec(Image::Search(string(file)), environ, || real!(execvp)(file, argv))
        }
    }
}

hook! {
    unsafe fn execvpe(file: *const c_char, argv: Strings, envp: Strings) -> c_int
        => smcr_execvpe
    {
        // SAFETY: as above.
        unsafe {
            exec::exec(Image::Search(string(file)), envp, || real!(execvpe)(file, argv, envp))
        }
    }
}

hook! {
    unsafe fn fexecve(fd: c_int, argv: Strings, envp: Strings) -> c_int => smcr_fexecve {
        // SAFETY: as above.
        unsafe { exec::exec(Image::Fd(fd), envp, || real!(fexecve)(fd, argv, envp)) }
    }
}

hook! {
    unsafe fn execveat(
        dir: c_int, path: *const c_char, argv: Strings, envp: Strings, flags: c_int
    ) -> c_int => smcr_execveat {
        // SAFETY: as above.
        unsafe {
            let name = string(path);
            let image = if name.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
                Image::Fd(dir)
            } else {
                // Below a directory it may be another file than we look at, which matters only
                // for the warning.
                Image::Path(name)
            };
            exec::exec(image, envp, || real!(execveat)(dir, path, argv, envp, flags))
        }
    }
}

/// The descriptors that the file actions of a spawn copy.
///
/// # Safety
/// `actions` is null or was made by posix_spawn_file_actions_init.
unsafe fn copied(actions: *const posix_spawn_file_actions_t) -> Vec<c_int> {
    /// What glibc's type really is.
    #[repr(C)]
    struct Actions {
        allocated: c_int,
        used: c_int,
        list: *const Action,
    }
    #[repr(C)]
    struct Action {
        tag: c_int,
        _pad: c_int,
        fd: c_int,
        _rest: [c_int; 5],
    }
    const DUP2: c_int = 1;
    if actions.is_null() || !cfg!(all(target_env = "gnu", target_pointer_width = "64")) {
        return Vec::new();
    }
    // SAFETY: by this function's contract, and glibc's layout, which never changed.
    unsafe {
        let actions = &*actions.cast::<Actions>();
        if actions.list.is_null() || actions.used <= 0 || actions.used > actions.allocated {
            return Vec::new();
        }
        let list = std::slice::from_raw_parts(actions.list, actions.used as usize);
        let copies = list.iter().filter(|action| action.tag == DUP2);
        copies.map(|action| action.fd).collect()
    }
}

hook! {
    unsafe fn posix_spawn(
        pid: *mut pid_t, path: *const c_char, actions: *const posix_spawn_file_actions_t,
        attributes: *const posix_spawnattr_t, argv: Strings, envp: Strings
    ) -> c_int => smcr_posix_spawn {
        // SAFETY: the program's arguments, by posix_spawn's contract.
        unsafe {
            exec::spawn(
                Image::Path(string(path)),
                envp,
                &copied(actions),
                || real!(posix_spawn)(pid, path, actions, attributes, argv, envp),
                |&error| error == 0,
            )
        }
    }
}

hook! {
    unsafe fn posix_spawnp(
        pid: *mut pid_t, file: *const c_char, actions: *const posix_spawn_file_actions_t,
        attributes: *const posix_spawnattr_t, argv: Strings, envp: Strings
    ) -> c_int => smcr_posix_spawnp {
        // SAFETY: as above.
        unsafe {
            exec::spawn(
                Image::Search(string(file)),
                envp,
                &copied(actions),
                || real!(posix_spawnp)(pid, file, actions, attributes, argv, envp),
                |&error| error == 0,
            )
        }
    }
}

hook! {
    unsafe fn popen(command: *const c_char, mode: *const c_char) -> *mut FILE => smcr_popen {
        // SAFETY: as above.
        unsafe {
            exec::spawn(
                Image::Path(c"/bin/sh"),
                environ,
                &[],
                || real!(popen)(command, mode),
                |file| !file.is_null(),
            )
        }
    }
}

hook! {
    unsafe fn system(command: *const c_char) -> c_int => smcr_system {
        if command.is_null() || smcr_core::engine::engine().is_none() {
            // SAFETY: as above.
            return unsafe { real!(system)(command) };
        }
        crate::ops::system::system(|child, attributes| {
            let words = [c"sh".as_ptr(), c"-c".as_ptr(), command, std::ptr::null()];
            let shell = c"/bin/sh";
            // SAFETY: as above.
            unsafe {
                let call = || {
                    let argv = words.as_ptr();
                    real!(posix_spawn)(child, shell.as_ptr(), std::ptr::null(), attributes, argv, environ)
                };
                exec::spawn(Image::Path(shell), environ, &[], call, |&error| error == 0)
            }
        })
    }
}

/// vfork returns twice, to its caller's stack frame, so it cannot be called from one of ours: it
/// is jumped to.
#[cfg(target_arch = "x86_64")]
mod vfork {
    use std::sync::atomic::{AtomicPtr, Ordering};

    use libc::c_void;

    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

    pub(super) fn resolve() -> *mut c_void {
        let known = REAL.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"vfork".as_ptr()) };
        REAL.store(found, Ordering::Relaxed);
        found
    }

    extern "C" fn prepare() -> *mut c_void {
        let _ = std::panic::catch_unwind(crate::ops::exec::before_vfork);
        resolve()
    }

    #[unsafe(no_mangle)]
    #[unsafe(naked)]
    pub unsafe extern "C" fn vfork() -> libc::pid_t {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "sub rsp, 8",
            ".cfi_adjust_cfa_offset 8",
            "call {prepare}",
            "add rsp, 8",
            ".cfi_adjust_cfa_offset -8",
            "jmp rax",
            ".cfi_endproc",
            prepare = sym prepare,
        )
    }
}

/// Finds libc's functions of this module's hooks.
pub(super) fn resolve_all() {
    resolve();
    #[cfg(target_arch = "x86_64")]
    vfork::resolve();
}

#[cfg(target_arch = "x86_64")]
mod variadic {
    use std::panic::catch_unwind;

    use libc::{c_char, c_int};

    use crate::hooks::variadic::{VaList, variadic};

    /// The arguments up to the null that ends them.
    ///
    /// # Safety
    /// By execl's contract: `first` and what follows, if it is not null, are C strings or null.
    unsafe fn gather(first: *const c_char, rest: &mut VaList) -> Vec<*const c_char> {
        let mut argv = vec![first];
        while argv.last().is_some_and(|last| !last.is_null()) {
            // SAFETY: by this function's contract there is one more.
            argv.push(unsafe { rest.pointer() });
        }
        argv
    }

    unsafe extern "C" fn list(path: *const c_char, arg: *const c_char, rest: &mut VaList) -> c_int {
        // SAFETY: the program's arguments, by execl's contract.
        let call = std::panic::AssertUnwindSafe(|| unsafe {
            super::smcr_execv(path, gather(arg, rest).as_ptr())
        });
        catch_unwind(call).unwrap_or(-1)
    }

    unsafe extern "C" fn list_search(
        file: *const c_char,
        arg: *const c_char,
        rest: &mut VaList,
    ) -> c_int {
        // SAFETY: as above.
        let call = std::panic::AssertUnwindSafe(|| unsafe {
            super::smcr_execvp(file, gather(arg, rest).as_ptr())
        });
        catch_unwind(call).unwrap_or(-1)
    }

    unsafe extern "C" fn list_environ(
        path: *const c_char,
        arg: *const c_char,
        rest: &mut VaList,
    ) -> c_int {
        // SAFETY: as above; the environment follows the null.
        let call = std::panic::AssertUnwindSafe(|| unsafe {
            let argv = gather(arg, rest);
            super::smcr_execve(path, argv.as_ptr(), rest.pointer().cast())
        });
        catch_unwind(call).unwrap_or(-1)
    }

    variadic!(execl, 2, "rdx", list);
    variadic!(execlp, 2, "rdx", list_search);
    variadic!(execle, 2, "rdx", list_environ);
}
