//! The loader: what it attaches, finds and leaves alone.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path as FilePath, PathBuf};
use std::process::{Command, Output};

use libtest_mimic::Trial;
use smcr_core::signal::option::{self, Verdict};
use smcr_option::asm::Assembler;
use smcr_option::programs::{Hook, Program};
use smcr_option::{Cgroup, Done, Error, State, bpf};

use crate::net::{Path, Way, as_nobody};
use crate::sockets::{Ends, Family, listener};
use crate::trial;

pub(crate) fn trials(home: &FilePath) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut add = |name: &str, test: fn(&FilePath)| {
        let home = home.to_owned();
        trials.push(trial(name, move || test(&home)));
    };
    add("attach_is_idempotent", attach_is_idempotent);
    add("half_a_set_is_mended", half_a_set_is_mended);
    add("below_and_above", below_and_above);
    add("others_are_left_alone", others_are_left_alone);
    add(
        "exclusive_programs_are_reported",
        exclusive_programs_are_reported,
    );
    add("a_new_set_does_not_speak_for_old_listeners", new_set);
    add("the_constants_are_the_librarys", constants);
    add("command_line", command_line);
    add("no_privileges", no_privileges);
    trials
}

/// A cgroup of a test's own; programs attached to it go with it.
struct Child {
    path: PathBuf,
    cgroup: Cgroup,
}

impl Child {
    /// Beside the tests' cgroup, so that nothing is attached above.
    fn new(home: &FilePath, name: &str) -> Self {
        let file = home.file_name().unwrap().to_string_lossy();
        Self::at(home.with_file_name(format!("{file}-{name}")))
    }

    fn at(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        let cgroup = Cgroup::open(&path).unwrap();
        Self { path, cgroup }
    }

    fn state(&self) -> State {
        self.cgroup.status().unwrap().state
    }

    fn dir(&self) -> std::fs::File {
        std::fs::File::open(&self.path).unwrap()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.path).unwrap();
    }
}

fn attach_is_idempotent(home: &FilePath) {
    let child = Child::new(home, "idem");
    assert_eq!(child.state(), State::Detached);
    assert!(!child.cgroup.detach().unwrap());
    assert_eq!(child.cgroup.attach(true).unwrap(), Done::Attached);
    let first = child.cgroup.status().unwrap();
    assert_eq!(first.state, State::Attached);
    assert_eq!(first.programs.len(), 3);
    assert_eq!(child.cgroup.attach(true).unwrap(), Done::Already);
    assert_eq!(child.cgroup.status().unwrap(), first);
    assert!(child.cgroup.detach().unwrap());
    assert_eq!(child.state(), State::Detached);
}

/// As after a loader that was killed.
fn half_a_set_is_mended(home: &FilePath) {
    let child = Child::new(home, "half");
    for missing in Hook::ALL {
        child.cgroup.attach(true).unwrap();
        let status = child.cgroup.status().unwrap();
        let program = status.programs.iter().find(|p| p.hook == missing).unwrap();
        let fd = bpf::by_id(program.loaded.id).unwrap();
        bpf::detach(child.dir().as_fd(), fd.as_fd(), missing).unwrap();
        assert_eq!(child.state(), State::Broken);
        assert_eq!(child.cgroup.attach(true).unwrap(), Done::Replaced);
        assert_eq!(child.state(), State::Attached);
        assert!(child.cgroup.detach().unwrap());
    }
}

fn below_and_above(home: &FilePath) {
    let child = Child::new(home, "above");
    let below = Child::at(child.path.join("a"));
    let deep = Child::at(below.path.join("b"));
    child.cgroup.attach(true).unwrap();
    assert_eq!(deep.state(), State::Inherited);
    assert_eq!(deep.cgroup.attach(true).unwrap(), Done::Inherited);
    assert!(matches!(deep.cgroup.detach(), Err(Error::Above(_))));
    assert!(child.cgroup.detach().unwrap());
    assert_eq!(deep.cgroup.attach(true).unwrap(), Done::Attached);
    assert_eq!(
        (child.state(), below.state()),
        (State::Detached, State::Detached)
    );
    match child.cgroup.attach(true) {
        Err(Error::Below(path)) => assert_eq!(path, deep.path),
        other => panic!("{other:?}"),
    }
    assert!(deep.cgroup.detach().unwrap());
}

/// A sock_ops program that does nothing.
fn stranger() -> OwnedFd {
    let mut nothing = Assembler::new();
    nothing.exit(1);
    let program = Program {
        name: "stranger",
        kind: 13,
        hook: Hook::SockOps,
        insns: nothing.finish(),
    };
    bpf::load(&program).unwrap()
}

fn others_are_left_alone(home: &FilePath) {
    let child = Child::new(home, "others");
    let stranger = stranger();
    bpf::attach(child.dir().as_fd(), stranger.as_fd(), Hook::SockOps).unwrap();
    match child.cgroup.attach(false) {
        Err(Error::Others(_, names)) => assert!(names.contains(&"stranger".to_owned())),
        other => panic!("{other:?}"),
    }
    assert_eq!(child.state(), State::Detached);
    assert_eq!(child.cgroup.attach(true).unwrap(), Done::Attached);
    let others = child.cgroup.status().unwrap().others;
    assert!(others.contains(&"stranger".to_owned()));
    assert!(child.cgroup.detach().unwrap());
    let others = child.cgroup.status().unwrap().others;
    assert!(others.contains(&"stranger".to_owned()));
}

fn exclusive_programs_are_reported(home: &FilePath) {
    let child = Child::new(home, "exclusive");
    let stranger = stranger();
    let dir = child.dir();
    // Without ALLOW_MULTI.
    let attr = [
        dir.as_raw_fd(),
        stranger.as_raw_fd(),
        Hook::SockOps as i32,
        0,
    ];
    // SAFETY: BPF_PROG_ATTACH (8) with four numbers.
    let done = unsafe { libc::syscall(libc::SYS_bpf, 8, attr.as_ptr(), size_of_val(&attr)) };
    assert_eq!(done, 0);
    match child.cgroup.attach(true) {
        Err(error @ Error::Exclusive(..)) => assert!(error.to_string().contains("bpftool")),
        other => panic!("{other:?}"),
    }
    assert_eq!(child.state(), State::Detached);
}

/// A listener keeps its flag when the programs go. New ones know nothing of its request, and must
/// not confirm anything for it; whoever holds it may not load the library any more.
fn new_set(home: &FilePath) {
    let cgroup = Cgroup::open(home).unwrap();
    let path = Path::clear();
    let (first, second) = path
        .server
        .enter(|| (listener(Family::V4, true), listener(Family::V6, true)));
    let ends = Ends::on(&path, &first, Family::V4);
    assert_eq!(ends.connect(true).client(), Verdict::PeerSmc);
    assert!(cgroup.detach().unwrap());
    assert!(
        option::withdraw(second.as_fd()),
        "there is nothing to take back"
    );
    assert!(!option::ask(first.as_fd()));
    assert_eq!(cgroup.attach(true).unwrap(), Done::Attached);
    let old = ends.connect(true);
    assert_eq!(old.verdicts(), (Verdict::Plain, Verdict::NotAsked));
    let gone = Ends::on(&path, &second, Family::V6).connect(true);
    assert_eq!(gone.verdicts(), (Verdict::Plain, Verdict::NotAsked));
    assert_eq!(path.options(Way::ToServer), [true; 3]);
    assert_eq!(path.options(Way::ToClient), [true, false, false]);
    assert!(option::ask(first.as_fd()));
    let pair = ends.connect(true);
    assert_eq!(pair.verdicts(), (Verdict::PeerSmc, Verdict::PeerSmc));
}

/// The library has its own copy of the numbers; that it works shows that they are the same, except
/// for those of rare verdicts.
fn constants(_: &FilePath) {
    use smcr_option::programs::{OPTION, VERDICT_NO_SYN, VERDICT_PLAIN, VERDICT_SMC};
    assert_eq!([VERDICT_SMC, VERDICT_PLAIN, VERDICT_NO_SYN], [1, 2, 3]);
    assert_eq!(OPTION[2..], [0xe2, 0xd4, 0xc3, 0xd9], "SMCR in EBCDIC");
}

fn run(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smcr-option"));
    command.args(words).output().unwrap()
}

fn command_line(home: &FilePath) {
    let child = Child::new(home, "command");
    let path = child.path.to_str().unwrap();
    let said = |words: &[&str], code: i32, out: &str| {
        let run = run(words);
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        assert_eq!(run.status.code(), Some(code), "{words:?}: {run:?}");
        assert!(text.contains(out), "{words:?}: {text}");
        text
    };
    said(&["status", path], 1, "not attached");
    said(&["attach", "--with-others", path], 0, "attached");
    said(&["attach", "--with-others", path], 0, "attached already");
    said(&["status", path], 0, "smcr_ops");
    let json = said(&["status", "--json", path], 0, "");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["state"], "attached");
    assert_eq!(json["in_effect"], true);
    assert_eq!(json["programs"].as_array().unwrap().len(), 3);
    said(&["detach", path], 0, "detached");
    said(&["detach", path], 0, "nothing was attached");
    let json = said(&["status", "--json", path], 1, "");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["state"], "detached");
    for (wrong, words) in [
        ("/proc", "not in a cgroup v2"),
        ("/does/not/exist", "No such file"),
    ] {
        let run = run(&["attach", wrong]);
        assert_eq!(run.status.code(), Some(3));
        let error = String::from_utf8_lossy(&run.stderr);
        assert!(error.contains(words), "{error}");
    }
}

fn no_privileges(home: &FilePath) {
    let child = Child::new(home, "nobody");
    let path = child.path.clone();
    as_nobody(move || {
        let cgroup = Cgroup::open(&path).unwrap();
        for error in [
            cgroup.attach(true).unwrap_err(),
            cgroup.status().unwrap_err(),
        ] {
            assert!(matches!(error, Error::NotAllowed(_)), "{error:?}");
            assert!(error.to_string().contains("CAP_BPF"));
        }
    });
}
