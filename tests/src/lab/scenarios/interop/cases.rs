//! What the two ends do, case by case.

use crate::lab::interop::Case;

/// For every run of the tests.
pub(super) const QUICK: &[Case] = &[
    Case::new(
        "first contact, echo of 300 KB",
        "both:300000,shut,eof",
        "echo",
    ),
    Case::new("ten later contacts", "both:1000,shut,eof", "echo").times(10),
    Case::new(
        "urgent byte, caller sends",
        "send:1000,urgent:33,send:1000,shut,eof",
        "pri:33,recv:1000,recv:1000,eof",
    ),
    Case::new(
        "full close, caller first",
        "both:1000,close",
        "both:1000,eof,close",
    ),
    Case::new(
        "close with unread data, caller",
        "pile:1000,close",
        "send:1000,gone",
    ),
];

/// Data.
pub(super) const DATA: &[Case] = &[
    Case::new(
        "16 MiB to the listener",
        "send:16777216,shut,eof",
        "recv:16777216,eof",
    )
    .within(180),
    Case::new(
        "16 MiB to the caller",
        "recv:16777216,eof",
        "send:16777216,shut,eof",
    )
    .within(180),
    Case::new(
        "16 MiB both ways at once",
        "both:16777216,shut,eof",
        "both:16777216,shut,eof",
    )
    .within(300),
    Case::new(
        "200 ping-pongs of 1 byte",
        "ping:200,shut,eof",
        "pong:200,eof",
    ),
    Case::new(
        "listener stops reading for 5 s",
        "send:4000000,shut,eof",
        "sleep:5000,recv:4000000,eof",
    )
    .within(120),
    Case::new(
        "caller stops reading for 5 s",
        "sleep:5000,recv:4000000,eof",
        "send:4000000,shut,eof",
    )
    .within(120),
    Case::new(
        "urgent byte, listener sends",
        "pri:33,recv:1000,recv:1000,eof",
        "send:1000,urgent:33,send:1000,shut,eof",
    ),
    Case::new(
        "four at once, both ways",
        "both:500000,shut,eof",
        "both:500000,shut,eof",
    )
    .times(4)
    .together(),
];

/// 1 GiB, at which the cursors have wrapped often; 256 MiB for those who have less time.
pub(super) const BULK: &[Case] = &[
    Case::new(
        "256 MiB to the listener",
        "send:268435456,shut,eof",
        "recv:268435456,eof",
    )
    .within(600),
    Case::new(
        "256 MiB to the caller",
        "recv:268435456,eof",
        "send:268435456,shut,eof",
    )
    .within(600),
    Case::new(
        "256 MiB both ways at once",
        "both:268435456,shut,eof",
        "both:268435456,shut,eof",
    )
    .within(900),
    Case::new(
        "1 GiB to the listener",
        "send:1073741824,shut,eof",
        "recv:1073741824,eof",
    )
    .within(1800),
    Case::new(
        "1 GiB to the caller",
        "recv:1073741824,eof",
        "send:1073741824,shut,eof",
    )
    .within(1800),
    Case::new(
        "1 GiB both ways at once",
        "both:1073741824,shut,eof",
        "both:1073741824,shut,eof",
    )
    .within(2400),
];

/// The reader stands before the urgent byte when it comes, and takes it by `MSG_OOB`. Linux's own
/// reader never moves on then, whoever sends: its cursor stays before the byte, and the sender may
/// not write before that has passed (`smc_rx_recv_urg` skips the byte only where other data are
/// unread).
pub(super) const URGENT_LAST: [Case; 2] = [
    Case::new(
        "urgent byte alone, caller sends",
        "send:1000,sleep:1000,urgent:33,send:1000,shut,eof",
        "recv:1000,pri:33,recv:1000,eof",
    ),
    Case::new(
        "urgent byte alone, listener sends",
        "recv:1000,pri:33,recv:1000,eof",
        "send:1000,sleep:1000,urgent:33,send:1000,shut,eof",
    ),
];

/// Ends.
pub(super) const CLOSE: &[Case] = &[
    Case::new(
        "half close, caller first",
        "send:1000,shut,recv:200000,eof",
        "recv:1000,eof,send:200000",
    ),
    Case::new(
        "half close, listener first",
        "recv:1000,eof,send:200000",
        "send:1000,shut,recv:200000,eof",
    ),
    Case::new(
        "half close, both",
        "both:1000,shut,eof",
        "both:1000,shut,eof",
    ),
    Case::new(
        "full close, listener first",
        "both:1000,eof,close",
        "both:1000,close",
    ),
    Case::new(
        "full close, both at once",
        "both:1000,close",
        "both:1000,close",
    ),
    Case::new("close at once", "close", "eof,close"),
    Case::new(
        "close with unread data, listener",
        "send:1000,gone",
        "pile:1000,close",
    ),
    Case::new(
        "reset by the caller",
        "both:1000,linger0,close",
        "both:1000,gone",
    ),
    Case::new(
        "reset by the listener",
        "both:1000,gone",
        "both:1000,linger0,close",
    ),
    Case::new(
        "sending to a caller that closed",
        "both:1000,close",
        "both:1000,sleep:500,refused",
    ),
    Case::new(
        "sending to a listener that closed",
        "both:1000,sleep:500,refused",
        "both:1000,close",
    ),
];

/// Nothing happens for two periods of TEST LINK, then data.
pub(super) const IDLE: Case = Case::new(
    "idle for 12 s",
    "both:1000,sleep:12000,both:100000,shut,eof",
    "both:1000,sleep:12000,both:100000,shut,eof",
);

/// More than one group has room for.
pub(super) const MANY: Case = Case::new("300 at once", "both:1000,shut,eof", "both:1000,shut,eof")
    .times(300)
    .together()
    .within(240);
