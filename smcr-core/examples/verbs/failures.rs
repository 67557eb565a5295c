//! Tests in which the link fails.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use smcr_core::clc::Rkey;
use smcr_core::rdma::fabric::{LinkError, PortEvent};

use super::end::{End, Outcome, Result, Side};

/// Polls until a failure is told that is no consequence of another. Gives the time it took.
fn wait_for_failure(end: &mut End, limit: Duration) -> Result<(LinkError, Duration)> {
    let begun = Instant::now();
    loop {
        end.poll();
        if let Some(cause) = end.failures.iter().find(|&&e| e != LinkError::Flushed) {
            return Ok((*cause, begun.elapsed()));
        }
        if begun.elapsed() > limit {
            return Err(format!("no failure in {limit:?}: {:?}", end.failures).into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// After a failure nothing can be posted.
fn expect_dead(end: &mut End) -> Outcome {
    match end.post(&[], &[7; 44], 9, true) {
        Err(Errno::NOTCONN) => Ok(()),
        other => Err(format!("posting on a broken link: {other:?}").into()),
    }
}

/// The client uses a key that the server did not give out.
pub(crate) fn refused(end: &mut End) -> Outcome {
    if end.side == Side::Client {
        let mut write = end.write(0, 100);
        write.rkey = Rkey(write.rkey.0 ^ 0x00ff_ff00);
        end.post(&[write], &[7; 44], 1, false)?;
        let (error, time) = wait_for_failure(end, Duration::from_secs(20))?;
        println!("refused: {error:?} after {} ms", time.as_millis());
        if error != LinkError::Refused {
            return Err(format!("a wrong key is {error:?}").into());
        }
        expect_dead(end)?;
        return end.meet();
    }
    end.meet()?;
    // What this end sees of it depends on the adapter; but no message, and no byte of the WRITE.
    end.poll();
    if !end.inbox.is_empty() || end.rmb.read(0, 100) != [0; 100] {
        return Err("a WRITE with a wrong key had an effect".into());
    }
    Ok(())
}

/// The client sends 100 bytes, the server has buffers of 44.
pub(crate) fn too_long(end: &mut End) -> Outcome {
    if end.side == Side::Client {
        end.post(&[], &[7; 100], 1, false)?;
        let (error, time) = wait_for_failure(end, Duration::from_secs(20))?;
        println!("too-long: {error:?} after {} ms", time.as_millis());
        if error != LinkError::Refused {
            return Err(format!("a message that is too long is {error:?}").into());
        }
        return end.meet();
    }
    let (error, _) = wait_for_failure(end, Duration::from_secs(20))?;
    if error != LinkError::Local || !end.inbox.is_empty() {
        return Err(format!("{error:?}, {} messages", end.inbox.len()).into());
    }
    end.meet()
}

/// The server dies without a word; the client finds out by itself.
pub(crate) fn killed(end: &mut End) -> Outcome {
    let mut line = String::new();
    if end.side == Side::Server {
        end.tcp.read_line(&mut line)?;
        // SAFETY: ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        unreachable!("killed");
    }
    writeln!(end.tcp.get_mut(), "die")?;
    // The kernel ends the TCP connection with the process.
    while matches!(end.tcp.read_line(&mut line), Ok(count) if count > 0) {}
    end.post(&[end.write(0, 100)], &[7; 44], 1, true)?;
    let (error, time) = wait_for_failure(end, Duration::from_secs(60))?;
    println!("killed: {error:?} after {} ms", time.as_millis());
    if error != LinkError::Unreachable {
        return Err(format!("a dead peer is {error:?}").into());
    }
    expect_dead(end)
}

/// Traffic in both directions until the client's network interface goes down and its link has
/// failed; then until the interface is up again.
pub(crate) fn down(end: &mut End) -> Outcome {
    if end.side == Side::Client {
        println!("running");
    }
    let begun = Instant::now();
    let (mut id, mut went_down, mut failed) = (0, None, None);
    while failed.is_none() || (end.side == Side::Client && went_down.is_none()) {
        if end.failures.is_empty() && end.link.room() >= 2 {
            id += 1;
            end.post(&[end.write(0, 1000)], &[7; 44], id, true)?;
        }
        if end.poll() == 0 {
            end.sleep(Duration::from_millis(20));
        }
        end.inbox.clear();
        match end.port.event() {
            Some(PortEvent::Down) => went_down = Some(Instant::now()),
            Some(event) => return Err(format!("{event:?} in place of Down").into()),
            None => {}
        }
        failed = failed.or_else(|| Some((*end.failures.first()?, Instant::now())));
        if begun.elapsed() > Duration::from_secs(40) {
            return Err(format!("after 40 s: {went_down:?}, {:?}", end.failures).into());
        }
    }
    let (error, at) = failed.ok_or("the loop ends with a failure")?;
    // Since Linux 6.10 soft RoCE breaks a queue pair whose packet the interface refuses, without a
    // completion that says so.
    let refused = end.side == Side::Client && error == LinkError::Flushed;
    if error != LinkError::Unreachable && !refused {
        return Err(format!("a peer that cannot be reached is {error:?}").into());
    }
    expect_dead(end)?;
    let Some(went_down) = went_down else {
        return Ok(());
    };
    println!(
        "failed: {} ms after Down",
        at.duration_since(went_down).as_millis()
    );
    println!("waiting");
    let begun = Instant::now();
    loop {
        let fd = end.port.event_fd();
        let ready = smcr_core::sys::poll_one(fd, libc::POLLIN, Some(1000))? != 0;
        match end.port.event() {
            Some(PortEvent::Up) => break,
            Some(event) => return Err(format!("{event:?} in place of Up").into()),
            None if begun.elapsed() > Duration::from_secs(30) => {
                return Err(format!("not up again after 30 s, readable: {ready}").into());
            }
            None => {}
        }
    }
    // The port can be used again.
    let (psn, gid) = (end.link.address().psn, end.gid);
    end.port.clone().domain()?.link(gid, psn, 44).map(drop)?;
    Ok(())
}
