//! The binary, on tables in directories of their own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

struct Table(TempDir);

impl Table {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("table")
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smcr-pnet"));
        command.arg("--table").arg(self.path());
        command.args(words.split_whitespace());
        command.env_remove("SMCR_CONFIG");
        command
    }

    fn run(&self, words: &str) -> Output {
        self.command(words).output().unwrap()
    }

    /// What a command prints that has to work.
    fn good(&self, words: &str) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words}: {output:?}");
        assert!(output.stderr.is_empty(), "{words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command complains about that must not work.
    fn bad(&self, words: &str, code: i32) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(code), "{words}: {output:?}");
        assert!(output.stdout.is_empty(), "{words}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn the_examples_of_smc_pnet_work() {
    let table = Table::new();
    assert_eq!(table.good(""), "");
    table.good("-a ABC -I encf500");
    table.good("-a ABC -I bond0");
    table.good("-a abc -D 0001:00:00.0 -P 2");
    table.good("-a XYZ -I vlan0201 -D mlx5_0 -P 1");
    let xyz = "XYZ vlan0201 n/a 255\nXYZ n/a mlx5_0 1\n";
    let abc = "ABC encf500 n/a 255\nABC bond0 n/a 255\nABC n/a 0001:00:00.0 2\n";
    assert_eq!(table.good(""), format!("{abc}{xyz}"));
    assert_eq!(table.good("-s"), format!("{abc}{xyz}"));
    assert_eq!(table.good("-s xyz"), xyz);
    table.good("-d XYZ -I vlan0201");
    assert_eq!(table.good("-s XYZ"), "XYZ n/a mlx5_0 1\n");
    table.good("-d ABC");
    assert_eq!(table.good(""), "XYZ n/a mlx5_0 1\n");
    table.good("-f");
    assert_eq!(table.good(""), "");
    table.good("--flush");
}

#[test]
fn what_cannot_be_done_is_not_done_by_half() {
    let table = Table::new();
    let text = "# by hand\nNET1  netdev eth0 # uplink\n";
    fs::write(table.path(), text).unwrap();
    let error = table.bad("-a NET2 -D mlx5_0 -I eth0", 1);
    assert_eq!(
        error,
        "smcr-pnet: eth0: the device is listed under NET1 already: remove it there first\n"
    );
    let error = table.bad("-d NET1 -I eth0 -D mlx5_0", 1);
    assert!(
        error.contains("mlx5_0 port 1: the device is not listed"),
        "{error}"
    );
    let error = table.bad("-d NET9", 1);
    assert!(error.contains("NET9: nothing is listed"), "{error}");
    table.bad("-s NET9", 1);
    assert_eq!(fs::read_to_string(table.path()).unwrap(), text);

    fs::write(table.path(), "\nNET1 netdv eth0\n").unwrap();
    for words in ["", "-a NET2 -I eth1", "-d NET1", "-f", "-r 127.0.0.1"] {
        let error = table.bad(words, 1);
        let place = format!("{}:2: unknown kind of device", table.path().display());
        assert!(error.contains(&place), "{words}: {error}");
    }
    assert!(table.bad("-a NET1", 2).contains("--help"));
}

#[test]
fn the_table_is_that_of_the_configuration() {
    let table = Table::new();
    table.good("-a NET1 -I eth0");
    let config = table.0.path().join("smcr.conf");
    let run = || {
        Command::new(env!("CARGO_BIN_EXE_smcr-pnet"))
            .env("SMCR_CONFIG", &config)
            .output()
            .unwrap()
    };
    let error = String::from_utf8(run().stderr).unwrap();
    assert!(error.contains("smcr.conf: cannot be read"), "{error}");
    fs::write(
        &config,
        format!("pnet_table = {}\n", table.path().display()),
    )
    .unwrap();
    assert_eq!(
        String::from_utf8(run().stdout).unwrap(),
        "NET1 eth0 n/a 255\n"
    );
    fs::write(&config, "pnet_table = table\n").unwrap();
    let output = run();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("smcr.conf:1: `pnet_table` is `table`"),
        "{error}"
    );
}

/// Many processes at once, each with devices of its own: all of them are listed in the end.
#[test]
fn no_edit_is_lost() {
    const PROCESSES: u32 = 8;
    const EDITS: u32 = 12;
    let table = Table::new();
    fs::write(table.path(), "# kept\n").unwrap();
    let editors = (0..PROCESSES).map(|process| {
        let commands: Vec<Command> = (0..EDITS)
            .map(|n| table.command(&format!("-a NET{process} -I eth{process}.{n}")))
            .collect();
        std::thread::spawn(move || {
            for mut command in commands {
                assert!(command.status().unwrap().success());
            }
        })
    });
    let editors: Vec<_> = editors.collect();
    // Whoever reads meanwhile sees a table, not part of one.
    while editors.iter().any(|editor| !editor.is_finished()) {
        let text = fs::read_to_string(table.path()).unwrap();
        assert!(
            text.starts_with("# kept\n") && text.ends_with('\n'),
            "{text:?}"
        );
    }
    for editor in editors {
        editor.join().unwrap();
    }
    let shown = table.good("");
    for process in 0..PROCESSES {
        for n in 0..EDITS {
            let line = format!("NET{process} eth{process}.{n} n/a 255");
            assert!(shown.lines().any(|l| l == line), "{line}");
        }
    }
    assert_eq!(shown.lines().count() as u32, PROCESSES * EDITS);
    assert_eq!(fs::read_dir(table.0.path()).unwrap().count(), 2);
}

#[test]
fn an_explanation_goes_all_the_way() {
    let table = Table::new();
    let output = table.run("--resolve 127.0.0.1");
    // No test machine has a RoCE port for `lo`.
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |label: &str| {
        let line = text.lines().find(|line| line.starts_with(label));
        line.unwrap_or_else(|| panic!("{label}: {text}")).to_owned()
    };
    assert!(line("table").contains("does not exist"));
    assert!(line("route").ends_with("from 127.0.0.1 to 127.0.0.1 leaves by lo"));
    assert!(line("base").ends_with(" lo"));
    assert!(line("PNETID").contains("does not list lo"));
    line("devices");
    assert!(line("SMC-R v1").contains("none: "));
    table.good("-a NET1 -I lo");
    let output = table.run("-r 127.0.0.1:80 --from 127.0.0.1");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("NET1, which the table has for lo"), "{text}");
    let error = table.bad("-r 127.0.0.1 --from 192.0.2.1", 1);
    assert!(error.contains("no route"), "{error}");
}
