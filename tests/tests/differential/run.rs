//! One run of one scenario: start, answer its checkpoints, wait, collect.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::build;
use crate::stat::{Seen, Stat};

/// No scenario takes longer than a few seconds.
const DEADLINE: Duration = Duration::from_secs(20);

/// The lines of a run, brought into an order that does not depend on how the
/// threads and processes of the scenario took turns: actor by actor, each
/// actor's lines in its own order.
#[derive(Clone)]
pub(crate) struct Transcript(Vec<String>);

impl Transcript {
    fn parse(text: &str) -> Self {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        // A stable sort by actor alone.
        lines.sort_by(|a, b| actor(a).cmp(actor(b)));
        Self(lines)
    }

    pub(crate) fn lines(&self) -> &[String] {
        &self.0
    }
}

/// Which thread or process wrote a line.
pub(crate) fn actor(line: &str) -> &str {
    line.split_once(']').map_or("", |(actor, _)| actor)
}

/// A run to be made.
pub(crate) struct Run {
    program: PathBuf,
    scenario: String,
    label: String,
    preload: Option<PathBuf>,
    stat: Option<Stat>,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) transcript: Transcript,
    /// Killed, out of time, or with an exit status other than 0.
    pub(crate) bad_end: Option<String>,
    pub(crate) stderr: String,
    checkpoints: Vec<Seen>,
}

impl Outcome {
    /// The transcript, if the run came to a good end.
    pub(crate) fn whole(self) -> Result<Transcript, String> {
        match self.bad_end {
            None => Ok(self.transcript),
            Some(end) => Err(format!(
                "{end}\ntranscript:\n{}\n{}",
                self.transcript.0.join("\n"),
                self.stderr
            )),
        }
    }

    /// Why this run does not count as one over SMC, if so.
    pub(crate) fn did_not_move(&self) -> Option<String> {
        if self.checkpoints.is_empty() {
            return Some("the scenario passed no checkpoint".to_owned());
        }
        let seen: Vec<_> = self
            .checkpoints
            .iter()
            .filter(|seen| !seen.moved())
            .map(Seen::to_string)
            .collect();
        if seen.is_empty() {
            return None;
        }
        Some(format!(
            "not on SMC, so that TCP was compared with TCP:\n{}",
            seen.join("\n")
        ))
    }
}

impl Run {
    pub(crate) fn new(program: PathBuf, scenario: &str, label: &str) -> Self {
        Self {
            program,
            scenario: scenario.to_owned(),
            label: label.to_owned(),
            preload: None,
            stat: None,
        }
    }

    pub(crate) fn preload(&mut self, so: &Path) {
        self.preload = Some(so.to_owned());
    }

    /// Let the scenario stop at its checkpoints, and look at its connections there.
    pub(crate) fn checkpoints(&mut self, stat: &Path) {
        self.stat = Some(Stat::new(stat));
    }

    pub(crate) fn execute(self) -> Result<Outcome, String> {
        let out_path = build::scratch()?.join(format!("{}.out", self.label));
        let out = File::create(&out_path).map_err(|e| format!("{}: {e}", out_path.display()))?;
        // Questions come on standard error, answers go to standard input.
        let (questions, stderr) = std::io::pipe().map_err(|e| e.to_string())?;
        let (stdin, answers) = std::io::pipe().map_err(|e| e.to_string())?;

        let mut command = Command::new(&self.program);
        command
            .args(["run", &self.scenario])
            .stdin(stdin)
            .stdout(out)
            .stderr(stderr)
            .env_remove("LD_PRELOAD")
            .env_remove("SCENARIO_CHECKPOINTS")
            .process_group(0);
        if let Some(so) = &self.preload {
            command.env("LD_PRELOAD", so);
        }
        if self.stat.is_some() {
            command.env("SCENARIO_CHECKPOINTS", "1");
        }
        let mut child = command
            .spawn()
            .map_err(|e| format!("{}: {e}", self.program.display()))?;
        // Drops our copies of the child's ends of the pipes.
        drop(command);

        let stat = self.stat;
        let listener = std::thread::spawn(move || answer(questions, answers, stat.as_ref()));
        let end = wait(&mut child);
        let (stderr, checkpoints) = listener.join().map_err(|_| "the listener panicked")?;
        let bytes = std::fs::read(&out_path).map_err(|e| format!("{}: {e}", out_path.display()))?;
        // Kept only while something is wrong with it.
        let bad_end = end?;
        if bad_end.is_none() {
            let _ = std::fs::remove_file(&out_path);
        }
        Ok(Outcome {
            transcript: Transcript::parse(&String::from_utf8_lossy(&bytes)),
            bad_end,
            stderr,
            checkpoints,
        })
    }
}

/// Serves the checkpoints until every process of the scenario is gone; keeps
/// what else comes on standard error.
fn answer(
    questions: PipeReader,
    mut answers: PipeWriter,
    stat: Option<&Stat>,
) -> (String, Vec<Seen>) {
    let mut rest = String::new();
    let mut seen = Vec::new();
    for line in BufReader::new(questions).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        match (parse_checkpoint(&line), stat) {
            (Some((pid, ends)), Some(stat)) => {
                seen.push(stat.await_ends(pid, ends));
                // It may be gone by now.
                let _ = answers.write_all(b".");
            }
            _ => {
                rest.push_str(&line);
                rest.push('\n');
            }
        }
    }
    (rest, seen)
}

/// `@checkpoint PID ENDS`
fn parse_checkpoint(line: &str) -> Option<(u32, usize)> {
    let (pid, ends) = line.strip_prefix("@checkpoint ")?.split_once(' ')?;
    Some((pid.parse().ok()?, ends.parse().ok()?))
}

/// Waits for the scenario, and ends what it may have left behind: all of its
/// processes are in the group that it leads.
fn wait(child: &mut Child) -> Result<Option<String>, String> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or("no process id")?;
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    let in_time = loop {
        // Leaves the process unreaped, so that its group id stays taken.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match rustix::process::waitid(WaitId::Pid(pid), options) {
            Ok(Some(_)) => break true,
            Ok(None) if start.elapsed() > DEADLINE => break false,
            Ok(None) => std::thread::sleep(pause),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(format!("waitid: {e}")),
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    let status = child.wait().map_err(|e| format!("wait: {e}"))?;
    if !in_time {
        return Ok(Some(format!(
            "not finished after {} s: hangs after the last line of each actor",
            DEADLINE.as_secs()
        )));
    }
    Ok(bad_status(status))
}

fn bad_status(status: ExitStatus) -> Option<String> {
    if status.success() {
        return None;
    }
    Some(status.signal().map_or_else(
        || format!("ended with {status}"),
        |signal| format!("killed by signal {signal}"),
    ))
}
