//! Models of a ring's two ends: `shm/cursors.rs` as it is, on atomics of which each order that the
//! memory model allows is tried. No byte is lost, doubled or read before it is written, and nobody
//! sleeps for ever.
//!
//! What is done around the cursors, with bells that the kernel counts, is written down here as
//! `conn/rx.rs`, `conn/tx.rs`, `conn/bell.rs` and `rdma/connection/send.rs` have it.

mod ends;
mod shm;

use ends::{Reader, Wire, Writer, connected};

/// Tries all orders in which threads are interrupted up to `times` times.
fn model(times: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(times);
    builder.check(run);
}

fn both(
    writer: impl FnOnce(&mut Writer) + Send + 'static,
    reader: impl FnOnce(&mut Reader) + Send + 'static,
) {
    let (mut tx, mut rx) = connected();
    let thread = loom::thread::spawn(move || writer(&mut tx));
    reader(&mut rx);
    thread.join().unwrap();
}

/// The reader sleeps whenever there is nothing to read.
#[test]
fn a_reader_that_sleeps_is_rung() {
    model(3, || {
        both(
            |writer| {
                writer.try_send(1);
                writer.try_send(1);
            },
            |reader| reader.receive(2),
        );
    });
}

/// A watcher that wants an edge for each arrival.
#[test]
fn a_reader_that_wants_every_bell_is_rung() {
    model(3, || {
        both(
            |writer| {
                writer.try_send(1);
                writer.try_send(1);
            },
            |reader| reader.receive_by_edges(2),
        );
    });
}

/// A reader that leaves something unread wakes a writer all the same, once there is space for it.
#[test]
fn a_writer_is_woken_by_who_reads_no_further() {
    model(3, || {
        both(|writer| writer.send(3), |reader| reader.receive_awake(1));
    });
}

/// The same where the writer waits twice.
#[test]
fn a_writer_is_woken_again() {
    model(2, || {
        both(|writer| writer.send(4), |reader| reader.receive_awake(2));
    });
}

/// The wire takes what a program has written, and never sleeps on the program's bells.
#[test]
fn a_writer_that_sleeps_is_woken_by_the_wire() {
    model(3, || {
        let (mut writer, reader) = connected();
        let mut wire = Wire::new(reader);
        let program = loom::thread::spawn(move || writer.send(3));
        wire.deliver(1);
        program.join().unwrap();
    });
}
