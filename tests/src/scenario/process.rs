//! Programs of a scenario: started in their own process group, read to the end, never left over.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Preload, paths};

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);

/// A program about to be started.
pub struct Program {
    name: String,
    command: Command,
    cpu: Option<usize>,
}

impl Program {
    /// A program by name or path. Names are looked up in PATH and in the directories of daemons.
    pub fn new(name: impl AsRef<OsStr>) -> Result<Self> {
        let name = name.as_ref();
        let path = find(name)
            .with_context(|| format!("{name:?} is not installed: run `cargo xtask deps`"))?;
        let mut command = Command::new(path);
        command
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        for (variable, _) in std::env::vars_os() {
            // What the caller's shell has set for the library, and cargo for the loader, is not
            // part of the scenario.
            let name = variable.to_string_lossy();
            if name.starts_with("LD_") || name.starts_with("SMCR_") {
                command.env_remove(variable);
            }
        }
        Ok(Self {
            name: Path::new(name)
                .file_name()
                .unwrap_or(name)
                .to_string_lossy()
                .into_owned(),
            command,
            cpu: None,
        })
    }

    /// Puts the library under the program, or not.
    #[must_use]
    pub fn preload(mut self, preload: Preload) -> Self {
        if preload != Preload::None {
            self.command.env("LD_PRELOAD", paths::library());
        }
        if preload == Preload::Disabled {
            self.command.env("SMCR_DISABLE", "1");
        }
        self
    }

    /// Binds the program to one processor.
    #[must_use]
    pub fn cpu(mut self, cpu: Option<usize>) -> Self {
        self.cpu = cpu;
        self
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments that are separated by blanks; for fixed text and numbers.
    #[must_use]
    pub fn args(mut self, arguments: &str) -> Self {
        self.command.args(arguments.split_whitespace());
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives it a file as standard input.
    pub fn stdin(mut self, path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        self.command.stdin(file);
        Ok(self)
    }

    /// Starts it.
    pub fn start(mut self) -> Result<Running> {
        let cpu = self.cpu;
        let parent = std::process::id();
        // SAFETY: between fork and exec the closure only makes system calls and touches its own
        // stack; it neither allocates nor takes a lock.
        unsafe {
            self.command.pre_exec(move || prepare_child(parent, cpu));
        }
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        remember(child.id());
        Ok(Running {
            name: self.name,
            group: child.id(),
            child,
            stdout: Some(stdout),
            stderr: Some(stderr),
            status: None,
        })
    }

    /// Starts it and waits until it ends.
    pub fn run(self, deadline: Duration) -> Result<Finished> {
        self.start()?.wait(deadline)
    }
}

/// A program that was started. Dropping it ends it.
pub struct Running {
    name: String,
    group: u32,
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    status: Option<ExitStatus>,
}

impl Running {
    /// Waits for its end. At the deadline it is ended, and that is an error.
    pub fn wait(&mut self, deadline: Duration) -> Result<Finished> {
        let end = Instant::now() + deadline;
        while self.exited().is_none() {
            if Instant::now() > end {
                bail!(
                    "no end after {} s, stopped it: {}",
                    deadline.as_secs(),
                    self.stop()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(self.stop())
    }

    /// Ends it (SIGTERM, then SIGKILL, to its group) and says what it left.
    pub fn stop(&mut self) -> Finished {
        if self.exited().is_none() {
            self.signal(libc::SIGTERM);
            let end = Instant::now() + GRACE;
            while self.exited().is_none() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        // Also reaches children that outlived it, which would keep the pipes open.
        self.signal(libc::SIGKILL);
        let status = match self.exited() {
            Some(status) => status,
            None => self.child.wait().unwrap_or_default(),
        };
        self.status = Some(status);
        Finished {
            name: self.name.clone(),
            status,
            stdout: text(self.stdout.take()),
            stderr: text(self.stderr.take()),
        }
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Its process group, which is also its process id.
    pub fn group(&self) -> u32 {
        self.group
    }

    fn signal(&self, signal: libc::c_int) {
        if self.group == 0 || group_members(self.group).is_empty() {
            return;
        }
        // SAFETY: plain system call; the group is one that we made and that has members, so its
        // number cannot have been given to anybody else.
        unsafe { libc::kill(-(self.group as libc::pid_t), signal) };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.stdout.is_some() {
            self.stop();
        }
    }
}

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Finished {
    /// The same, or an error with all its output if it did not succeed.
    pub fn success(self) -> Result<Self> {
        if !self.status.success() {
            bail!("failed: {self}");
        }
        Ok(self)
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = |text: &str| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n  ")
        };
        write!(
            f,
            "{} ({})\n  {}\n  {}",
            self.name,
            self.status,
            tail(&self.stdout),
            tail(&self.stderr)
        )
    }
}

/// Runs in the child before exec.
fn prepare_child(parent: u32, cpu: Option<usize>) -> std::io::Result<()> {
    // SAFETY: plain system calls; `set` is a plain bit set for which all zeroes is a valid value.
    unsafe {
        // Ctrl-C ends us but not the groups we started: the kernel passes it on. SIGTERM, not
        // SIGKILL, so that a server takes its workers along.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
        if libc::getppid() as u32 != parent {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
        if let Some(cpu) = cpu {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Two processors that this process may use, if there are two.
pub fn two_cpus() -> Option<(usize, usize)> {
    // SAFETY: `set` is a plain bit set that the call fills in.
    let usable: Vec<usize> = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return None;
        }
        (0..libc::CPU_SETSIZE as usize)
            .filter(|cpu| libc::CPU_ISSET(*cpu, &set))
            .collect()
    };
    Some((*usable.first()?, *usable.get(1)?))
}

/// The living processes of a group.
pub fn group_members(group: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| process_group(*pid) == Some(group))
        .inspect(|pid| remember(*pid))
        .collect()
}

fn process_group(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command is in parentheses and may hold anything, even parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    // A dead process stays listed until its parent notices, which may be a slow init.
    let alive = fields.next()? != "Z";
    fields.nth(1)?.parse().ok().filter(|_| alive)
}

/// CPU time that all threads of a group have used since they started.
pub fn cpu_time(group: u32) -> Duration {
    let nanoseconds = group_members(group)
        .iter()
        .filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok())
        .flat_map(|tasks| tasks.flatten())
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanoseconds)
}

fn started() -> &'static Mutex<Vec<u32>> {
    static STARTED: OnceLock<Mutex<Vec<u32>>> = OnceLock::new();
    STARTED.get_or_init(Mutex::default)
}

fn remember(pid: u32) {
    let mut pids = started().lock().unwrap_or_else(|e| e.into_inner());
    if !pids.contains(&pid) {
        pids.push(pid);
    }
}

/// Every process that scenarios of this process have started or seen in their groups.
pub fn started_pids() -> Vec<u32> {
    started().lock().unwrap_or_else(|e| e.into_inner()).clone()
}

/// Where a program is, if it is installed.
pub fn find(name: &OsStr) -> Option<PathBuf> {
    if Path::new(name).components().count() > 1 {
        return Path::new(name).exists().then(|| PathBuf::from(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still wanted.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn text(collector: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = collector.and_then(|thread| thread.join().ok());
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Program, cpu_time, group_members};

    #[test]
    fn cpu_time_of_a_busy_program_grows() {
        let busy = Program::new("sh")
            .unwrap()
            .arg("-c")
            .arg("while :; do :; done");
        let mut busy = busy.start().unwrap();
        let before = cpu_time(busy.group());
        std::thread::sleep(Duration::from_millis(300));
        assert!(cpu_time(busy.group()) > before);
        busy.stop();
    }

    #[test]
    fn a_stopped_program_takes_its_children_along() {
        let family = Program::new("sh")
            .unwrap()
            .arg("-c")
            .arg("sleep 100 & sleep 100");
        let mut family = family.start().unwrap();
        let group = family.group();
        std::thread::sleep(Duration::from_millis(200));
        assert!(!group_members(group).is_empty());
        family.stop();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(group_members(group), Vec::<u32>::new());
    }

    #[test]
    fn a_deadline_ends_the_program_and_tells_what_it_wrote() {
        let slow = Program::new("sh")
            .unwrap()
            .arg("-c")
            .arg("echo begun; sleep 100");
        let error = slow.run(Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("begun"), "{error}");
    }
}
