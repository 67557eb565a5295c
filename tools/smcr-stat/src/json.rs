//! The same as the tables, for programs. Numbers that are not to be had are `null`; names and
//! words are those of the tables.

use serde_json::{Value, json};
use smcr_core::Reason;
use smcr_core::stat::Counter;

use crate::view::{Process, Row, View};

/// The whole view as one object, indented.
pub(crate) fn render(view: &View) -> String {
    let totals = view.totals.iter().map(|total| {
        let value = json!({
            "open": total.open,
            "made": total.made,
            "sent": total.sent,
            "received": total.received,
        });
        (total.mode.to_string(), value)
    });
    let fallbacks = view.fallbacks.iter().map(|(reason, count)| {
        let mut value = fallback(*reason);
        value["count"] = (*count).into();
        value["advice"] = reason.advice().into();
        value
    });
    let all = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "processes": view.processes.iter().map(process).collect::<Vec<_>>(),
        "totals": totals.collect::<serde_json::Map<_, _>>(),
        "counters": counters(|counter| view.counter(counter)),
        "fallbacks": fallbacks.collect::<Vec<_>>(),
        "problems": view.problems,
    });
    format!("{all:#}\n")
}

fn process(process: &Process) -> Value {
    let stat = &process.stat;
    let fallbacks = stat.fallbacks().map(|(reason, count)| {
        let mut value = fallback(reason);
        value["count"] = count.into();
        value
    });
    json!({
        "pid": stat.pid,
        "start_time": stat.start_time,
        "uid": stat.uid,
        "alive": stat.alive,
        "comm": stat.comm,
        "exe": stat.exe,
        "command": stat.command,
        "library": stat.library,
        "opened_at": stat.opened_at,
        "unstable": stat.unstable,
        "connections": process.rows.iter().map(connection).collect::<Vec<_>>(),
        "counters": counters(|counter| stat.counter(counter)),
        "fallbacks": fallbacks.collect::<Vec<_>>(),
    })
}

fn connection(row: &Row) -> Value {
    json!({
        "state": row.state.name(),
        "local": row.local.map(|address| address.to_string()),
        "peer": row.peer.map(|address| address.to_string()),
        "mode": row.mode.name(),
        "role": row.role.name(),
        "fallback": row.reason.map(fallback),
        "group": row.group,
        "sent": row.sent,
        "received": row.received,
    })
}

fn fallback(reason: Reason) -> Value {
    json!({ "name": reason.name(), "code": format!("0x{:08x}", reason.code()) })
}

fn counters(value: impl Fn(Counter) -> u64) -> Value {
    let all = Counter::ALL.iter();
    all.map(|counter| (counter.name().to_owned(), value(*counter).into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
