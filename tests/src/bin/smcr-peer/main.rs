//! The two ends of the tests that kill one end, and of those that hold very many connections.
//! Plain std sockets: whether the library is under them is up to who starts it.

mod control;
mod killed;
mod many;
mod traffic;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match &words[..] {
        ["survivor", control] => killed::survivor(control),
        ["victim", role, port, seed, connections, kill_us] => {
            killed::victim(role, port, seed, connections, kill_us)
        }
        ["many-server", control, count] => many::server(control, count),
        ["many-client", control, port, count] => many::client(control, port, count),
        _ => Err("unknown arguments".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{words:?}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whatever went wrong.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
