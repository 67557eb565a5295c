//! Very many connections at once.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::{Outcome, control};

/// Sends on each connection what only that connection would say, and expects the like.
fn talk(streams: &mut [TcpStream], round: u64, client: bool) -> Outcome<()> {
    for (send, i) in [(client, 0), (!client, 1)] {
        for stream in streams.iter_mut() {
            let name = stream.local_addr()?.port() ^ stream.peer_addr()?.port();
            let said = format!("{name:05} {round:05} {i:05}");
            if send {
                stream.write_all(said.as_bytes())?;
            } else {
                let mut heard = vec![0; said.len()];
                stream.read_exact(&mut heard)?;
                if heard != said.as_bytes() {
                    let heard = String::from_utf8_lossy(&heard);
                    return Err(format!("expected {said:?}, heard {heard:?}").into());
                }
            }
        }
    }
    Ok(())
}

/// Makes room for `count` sockets of this program. What the library needs beyond that is its own
/// business, up to the hard limit.
fn raise_limit(count: &str) -> Outcome<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid struct.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur = count.parse::<u64>()? + 100;
    // SAFETY: a valid struct.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}

pub(crate) fn server(path: &str, count: &str) -> Outcome<()> {
    raise_limit(count)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let mut streams = Vec::new();
    control::serve(path, |words| match words {
        ["port"] => Ok(port.to_string()),
        ["accept", count] => {
            for _ in 0..count.parse::<usize>()? {
                streams.push(listener.accept()?.0);
            }
            Ok(streams.len().to_string())
        }
        ["talk", round] => {
            let round = round.parse()?;
            talk(&mut streams, round, false)?;
            Ok("ok".into())
        }
        ["close"] => {
            streams.clear();
            Ok("ok".into())
        }
        ["usage"] => control::usage(),
        _ => Err("unknown command".into()),
    })
}

pub(crate) fn client(path: &str, port: &str, count: &str) -> Outcome<()> {
    raise_limit(count)?;
    let port: u16 = port.parse()?;
    let mut streams = Vec::new();
    control::serve(path, |words| match words {
        ["connect", count] => {
            for _ in 0..count.parse::<usize>()? {
                streams.push(TcpStream::connect(("127.0.0.1", port))?);
            }
            Ok(streams.len().to_string())
        }
        ["talk", round] => {
            let round = round.parse()?;
            talk(&mut streams, round, true)?;
            Ok("ok".into())
        }
        ["close"] => {
            streams.clear();
            Ok("ok".into())
        }
        ["usage"] => control::usage(),
        _ => Err("unknown command".into()),
    })
}
