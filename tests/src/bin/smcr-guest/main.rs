//! The agent in a guest of the lab. As the guest's first process (`init`) it reaps what nobody
//! waits for and powers off in the end; its child (`serve`) starts programs for the host.

mod job;
mod port;

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("init") => init(),
        Some("serve") => port::serve(),
        _ => {
            eprintln!("smcr-guest runs in the guests of `cargo xtask lab`");
            ExitCode::FAILURE
        }
    }
}

/// Process 1: starts the agent, and ends with it.
fn init() -> ! {
    let agent = Command::new("/proc/self/exe").arg("serve").spawn();
    match agent {
        Ok(agent) => reap_until(agent.id()),
        Err(error) => eprintln!("lab: cannot start the agent: {error}"),
    }
    // SAFETY: plain system call. There is nothing to be saved: all that is writable is memory.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    loop {
        std::thread::park();
    }
}

/// Waits for children, also those that lost their parents, until this one has ended.
fn reap_until(last: u32) {
    loop {
        let mut status = 0;
        // SAFETY: plain system call that writes one integer.
        let pid = unsafe { libc::waitpid(-1, &mut status, 0) };
        if pid == last as libc::pid_t {
            return;
        }
        if pid < 0 && std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return;
        }
    }
}
