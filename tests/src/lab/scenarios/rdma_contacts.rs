//! What a new connection costs: the first one of a process in time, later ones in system calls.

use anyhow::{Context, Result, ensure};

use crate::lab::apps::load::{self, Work};
use crate::lab::apps::strace::Traced;
use crate::lab::{Library, Pair, Under};

/// How often a first contact is made. The host's files are read for the first one.
const FIRSTS: usize = 3;

/// How long connections are made one after the other while they are traced.
const SECONDS: u32 = 12;

/// Later contacts that say something.
const ENOUGH: usize = 3;

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    Library::start(pair)?;
    let counted = firsts(pair).and_then(|()| later(pair));
    Library::explain(pair, counted)
}

/// A program that makes two connections, from its start to its end: the first one is a first
/// contact.
fn firsts(pair: &mut Pair) -> Result<()> {
    for under in [Under::Tcp, Under::Library] {
        let mut times = Vec::new();
        for _ in 0..FIRSTS {
            times.push(load::once(pair, under)?);
        }
        let times: Vec<String> = times.iter().map(|time| format!("{time:.0?}")).collect();
        let name = format!("a program that connects, under {under:?}");
        pair.note(name, times.join(", "));
    }
    Ok(())
}

/// Both ends' system calls for a connection, without those of the first.
fn later(pair: &mut Pair) -> Result<()> {
    let (_, server, client) = load::traced(pair, Under::Library, Work::Rate(1), SECONDS)?;
    for (name, text, begins) in [
        ("client", client, "connect(AF_INET"),
        ("server", server, "getsockopt(0x534d4352"),
    ] {
        let file = pair.logs().join(format!("{name}.strace"));
        std::fs::write(&file, &text).with_context(|| file.display().to_string())?;
        let traced = Traced::read(&text);
        let counts = traced.per_unit(begins);
        ensure!(
            counts.units >= ENOUGH,
            "{} later contacts at the {name}, see {}",
            counts.units,
            file.display()
        );
        pair.note(
            format!("system calls of a later contact, {name}"),
            counts.text(),
        );
    }
    Ok(())
}
