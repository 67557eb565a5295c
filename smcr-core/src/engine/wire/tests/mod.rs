//! Handshakes for RDMA, and what peers may do to them. One end is the engine, whose thread's work
//! is done here step by step; the other one is played by hand, on loopback TCP and on a simulated
//! RDMA network.

mod bench;
mod elements;
mod fields;
mod first_contact;
mod peer;

use std::time::{Duration, Instant};

use bench::{Bench, Conn};
use peer::{Peer, Talk};

use super::*;
use crate::clc::{Endpoint, Message, RdmaEndpoint, Version};
use crate::handshake::rdma::Contact;
