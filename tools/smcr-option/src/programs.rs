//! The three programs, and what they keep for each socket.
//!
//! | program | runs | does |
//! | --- | --- | --- |
//! | `smcr_ops` (sock_ops) | at connect and listen, for the SYN and SYN-ACK of sockets that asked, and when a connection is established | writes the option, and notes whether the peer sent it |
//! | `smcr_set` (cgroup/setsockopt) | in setsockopt() | takes the request |
//! | `smcr_get` (cgroup/getsockopt) | in getsockopt() | tells the verdict |
//!
//! Their memory is one word pair for each socket that asked (`BPF_MAP_TYPE_SK_STORAGE`), which the
//! kernel frees with the socket and copies from a listening socket to those it accepts; and the
//! ports on which somebody listens who asked. The ports are there because a program that runs for a
//! SYN-ACK cannot get at the listening socket: it runs since that socket has a flag set, but the
//! flag may be a relic from before the programs were attached anew, or another program's.
//!
//! The option goes into a SYN if the socket asked, and into a SYN-ACK if the listening socket
//! asked *and* the SYN had it, as RFC 7609 §3.5.1.1 wants it of a server that sees the SYN. Both
//! ends then judge by what was really on the wire, and no per-packet work is left behind: once the
//! connection is established, the kernel no longer asks for options.

use crate::asm::{Assembler, If, Insn, Label, Reg, Size};
use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};

/// Socket option level of requests and verdicts. No protocol of the kernel has it.
pub const LEVEL: i32 = 0x534d_4352;

/// Option of setsockopt(): an `int`, 1 asks for SMC on the next connect() or listen() (also
/// during listen), 0 takes the request back.
pub const ASK: i32 = 1;

/// Option of getsockopt(): an `int`, the verdict. (And [`ASK`]: whether the socket asks.)
pub const VERDICT: i32 = 2;

/// Verdict: both ends sent the option.
pub const VERDICT_SMC: i32 = 1;
/// Verdict: we asked, and the peer did not send the option.
pub const VERDICT_PLAIN: i32 = 2;
/// Verdict of an accepted socket: the kernel did not keep the SYN (it uses SYN cookies), so that
/// nothing was sent back.
pub const VERDICT_NO_SYN: i32 = 3;

/// The option: kind 254 (experimental), length 6, "SMCR" in EBCDIC (RFC 7609 §A.1).
pub const OPTION: [u8; 6] = [254, 6, 0xe2, 0xd4, 0xc3, 0xd9];

/// Bytes kept for each socket: the state of the request, and the verdict.
pub const STORAGE_SIZE: u32 = 8;

/// Bytes that name a port: the cookie of its network namespace, the number, and 4 zeros.
pub const PORT_SIZE: u32 = 16;

/// The maps of a set of programs, by their descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Maps {
    /// What is kept for each socket.
    pub sockets: i32,
    /// The ports on which somebody listens who asked.
    pub ports: i32,
}

/// Where in the storage the request stands: 0, or one of the two below.
const REQUEST: i16 = 0;
/// The program asked; a connect() or listen() has still to come.
const ASKED: i32 = 1;
/// The handshake is under way, or the socket listens.
const ARMED: i32 = 2;
/// Where the verdict stands.
const PEER: i16 = 4;

/// Fields of `struct bpf_sock_ops`.
mod ops {
    pub(super) const OP: i16 = 0;
    pub(super) const ARG0: i16 = 4;
    pub(super) const LOCAL_PORT: i16 = 68;
    pub(super) const CB_FLAGS: i16 = 84;
    pub(super) const TOTAL_RETRANS: i16 = 136;
    pub(super) const SK: i16 = 184;
    pub(super) const SKB_TCP_FLAGS: i16 = 212;
}

/// Values of `bpf_sock_ops.op`.
mod op {
    pub(super) const CONNECT: i32 = 3;
    pub(super) const ACTIVE_ESTABLISHED: i32 = 4;
    pub(super) const PASSIVE_ESTABLISHED: i32 = 5;
    pub(super) const LISTEN: i32 = 11;
    pub(super) const OPTION_LENGTH: i32 = 14;
    pub(super) const WRITE_OPTION: i32 = 15;
}

/// Fields of `struct bpf_sockopt`.
mod sockopt {
    pub(super) const SK: i16 = 0;
    pub(super) const VALUE: i16 = 8;
    pub(super) const VALUE_END: i16 = 16;
    pub(super) const LEVEL: i16 = 24;
    pub(super) const NAME: i16 = 28;
    pub(super) const LENGTH: i16 = 32;
    pub(super) const RETURNED: i16 = 36;
}

/// Fields of `struct bpf_sock`.
mod sock {
    pub(super) const PROTOCOL: i16 = 12;
    pub(super) const LOCAL_PORT: i16 = 44;
    pub(super) const STATE: i16 = 72;
}

/// Numbers of helper functions.
mod helper {
    pub(super) const MAP_LOOKUP: i32 = 1;
    pub(super) const MAP_UPDATE: i32 = 2;
    pub(super) const MAP_DELETE: i32 = 3;
    pub(super) const SETSOCKOPT: i32 = 49;
    pub(super) const GETSOCKOPT: i32 = 57;
    pub(super) const SET_CB_FLAGS: i32 = 59;
    pub(super) const SK_STORAGE: i32 = 107;
    pub(super) const NETNS_COOKIE: i32 = 122;
    pub(super) const LOAD_OPTION: i32 = 142;
    pub(super) const STORE_OPTION: i32 = 143;
    pub(super) const RESERVE_OPTION: i32 = 144;
}

/// `BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG`: the kernel is to ask for options.
const WRITE_FLAG: i32 = 64;
/// `BPF_LOAD_HDR_OPT_TCP_SYN`: look at the SYN that was received, not at the packet at hand.
const OF_SYN: i32 = 1;
/// `BPF_WRITE_HDR_TCP_SYNACK_COOKIE`.
const FOR_COOKIE: i32 = 2;

const IPPROTO_TCP: i32 = 6;
const TCP_SAVE_SYN: i32 = 27;
/// The callback flags of a socket, as an option (Linux 6.12).
const TCP_BPF_SOCK_OPS_CB_FLAGS: i32 = 1008;
const STATE_CLOSE: i32 = 7;
const STATE_LISTEN: i32 = 10;
const FLAG_SYN: i32 = 2;
const FLAG_ACK: i32 = 16;
const ENOENT: i32 = 2;
const ENOSPC: i32 = 28;
/// More than this the kernel does not copy for a program.
const PAGE: i32 = 4096;

/// The stack, as offsets from its end: the option's bytes, an `int`, the name of a port.
const OPTION_AT: i16 = -6;
const INT_AT: i16 = -12;
const PORT_AT: i16 = -32;

/// A program before it is loaded.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name in the kernel, by which it is found again.
    pub name: &'static str,
    /// `enum bpf_prog_type`
    pub kind: u32,
    /// `enum bpf_attach_type`
    pub hook: Hook,
    /// What it does.
    pub insns: Vec<Insn>,
}

/// Where a program is attached to a cgroup: the values of `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// Events of TCP sockets.
    SockOps = 3,
    /// getsockopt()
    GetSockopt = 21,
    /// setsockopt()
    SetSockopt = 22,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SockOps, Self::GetSockopt, Self::SetSockopt];

    /// As bpftool calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SockOps => "sock_ops",
            Self::GetSockopt => "getsockopt",
            Self::SetSockopt => "setsockopt",
        }
    }

    /// The name of our program there.
    pub const fn program(self) -> &'static str {
        match self {
            Self::SockOps => "smcr_ops",
            Self::GetSockopt => "smcr_get",
            Self::SetSockopt => "smcr_set",
        }
    }
}

/// The programs, around these maps.
pub fn all(maps: Maps) -> [Program; 3] {
    const SOCK_OPS: u32 = 13;
    const CGROUP_SOCKOPT: u32 = 25;
    Hook::ALL.map(|hook| {
        let (kind, insns) = match hook {
            Hook::SockOps => (SOCK_OPS, sock_ops(maps)),
            Hook::GetSockopt => (CGROUP_SOCKOPT, getsockopt(maps)),
            Hook::SetSockopt => (CGROUP_SOCKOPT, setsockopt(maps)),
        };
        Program {
            name: hook.program(),
            kind,
            hook,
            insns,
        }
    })
}

/// R6 is the context throughout, R8 the socket's storage.
fn sock_ops(maps: Maps) -> Vec<Insn> {
    let mut a = Assembler::new();
    let [connect, listen, header, active, passive, done] = std::array::from_fn(|_| a.label());
    a.mov(R6, R1);
    a.load(Size::Word, R7, R6, ops::OP);
    a.jump_if(R7, If::Equal, op::OPTION_LENGTH, header);
    a.jump_if(R7, If::Equal, op::WRITE_OPTION, header);
    a.jump_if(R7, If::Equal, op::CONNECT, connect);
    a.jump_if(R7, If::Equal, op::LISTEN, listen);
    a.jump_if(R7, If::Equal, op::ACTIVE_ESTABLISHED, active);
    a.jump_if(R7, If::Equal, op::PASSIVE_ESTABLISHED, passive);
    a.jump(done);

    a.place(connect);
    let arm = a.label();
    own_storage(&mut a, maps, done);
    a.load(Size::Word, R1, R8, REQUEST);
    a.jump_if(R1, If::Equal, ASKED, arm);
    // A request is good for one connect(). This one was made without: what an earlier one that
    // failed left behind must not speak for it.
    a.jump_if(R1, If::Equal, 0, done);
    a.store_imm(Size::Word, R8, REQUEST, 0);
    clear_write_flag(&mut a);
    a.jump(done);
    a.place(arm);
    a.store_imm(Size::Word, R8, REQUEST, ARMED);
    a.store_imm(Size::Word, R8, PEER, 0);
    set_write_flag(&mut a);
    a.jump(done);

    a.place(listen);
    let refused = a.label();
    own_storage(&mut a, maps, done);
    a.load(Size::Word, R1, R8, REQUEST);
    a.jump_if(R1, If::Equal, 0, done);
    a.store_imm(Size::Word, R8, PEER, 0);
    keep_syns(&mut a, R6);
    a.jump_if(R0, If::Differ, 0, refused);
    a.load(Size::Word, R7, R6, ops::LOCAL_PORT);
    port_add(&mut a, maps);
    a.jump_if(R0, If::Differ, 0, refused);
    a.store_imm(Size::Word, R8, REQUEST, ARMED);
    set_write_flag(&mut a);
    a.jump(done);
    a.place(refused);
    a.store_imm(Size::Word, R8, REQUEST, 0);
    a.jump(done);

    a.place(header);
    let (send, from_client, write) = (a.label(), a.label(), a.label());
    a.load(Size::Word, R1, R6, ops::SKB_TCP_FLAGS);
    a.mov(R2, R1);
    a.and(R2, FLAG_SYN);
    a.jump_if(R2, If::Equal, 0, done);
    a.and(R1, FLAG_ACK);
    a.jump_if(R1, If::Equal, 0, from_client);
    // A SYN-ACK. With a cookie, nothing is kept by which we would know of the option later.
    a.load(Size::Word, R1, R6, ops::ARG0);
    a.jump_if(R1, If::Equal, FOR_COOKIE, done);
    own_port_check(&mut a, maps, done);
    find_option(&mut a, OF_SYN);
    a.jump_if(R0, If::Greater, 0, send);
    a.jump_if(R0, If::Equal, -ENOSPC, send);
    a.jump(done);
    a.place(from_client);
    own_storage(&mut a, maps, done);
    a.load(Size::Word, R1, R8, REQUEST);
    a.jump_if(R1, If::Differ, ARMED, done);
    // Sent twice without an answer: perhaps the option is what the path does not let through.
    a.load(Size::Word, R1, R6, ops::TOTAL_RETRANS);
    a.jump_if(R1, If::Above, 1, done);
    a.place(send);
    a.jump_if(R7, If::Equal, op::WRITE_OPTION, write);
    a.mov(R1, R6);
    a.set(R2, OPTION.len() as i32);
    a.set(R3, 0);
    a.call(helper::RESERVE_OPTION);
    a.jump(done);
    a.place(write);
    put_option(&mut a);
    a.call(helper::STORE_OPTION);
    a.jump(done);

    a.place(active);
    let (smc, plain, judged) = (a.label(), a.label(), a.label());
    own_storage(&mut a, maps, done);
    a.load(Size::Word, R1, R8, REQUEST);
    a.jump_if(R1, If::Differ, ARMED, done);
    // The packet at hand is the SYN-ACK.
    find_option(&mut a, 0);
    a.jump_if(R0, If::Greater, 0, smc);
    a.jump_if(R0, If::Equal, -ENOSPC, smc);
    a.jump(plain);

    a.place(passive);
    own_storage(&mut a, maps, done);
    a.load(Size::Word, R1, R8, REQUEST);
    a.jump_if(R1, If::Differ, ARMED, done);
    // That the SYN had the option is not enough: ours has to have gone back. It did not if the
    // request came after the SYN-ACK, nor if this is the SYN still (TCP fast open).
    a.load(Size::Word, R1, R6, ops::CB_FLAGS);
    a.and(R1, WRITE_FLAG);
    a.jump_if(R1, If::Equal, 0, plain);
    a.load(Size::Word, R1, R6, ops::SKB_TCP_FLAGS);
    a.and(R1, FLAG_SYN);
    a.jump_if(R1, If::Differ, 0, plain);
    own_port_check(&mut a, maps, plain);
    find_option(&mut a, OF_SYN);
    a.jump_if(R0, If::Greater, 0, smc);
    a.jump_if(R0, If::Equal, -ENOSPC, smc);
    a.jump_if(R0, If::Differ, -ENOENT, plain);
    a.store_imm(Size::Word, R8, PEER, VERDICT_NO_SYN);
    a.jump(judged);

    a.place(smc);
    a.store_imm(Size::Word, R8, PEER, VERDICT_SMC);
    a.jump(judged);
    a.place(plain);
    a.store_imm(Size::Word, R8, PEER, VERDICT_PLAIN);
    a.place(judged);
    a.store_imm(Size::Word, R8, REQUEST, 0);
    clear_write_flag(&mut a);
    a.place(done);
    a.exit(1);
    a.finish()
}

fn setsockopt(maps: Maps) -> Vec<Insn> {
    let mut a = Assembler::new();
    let [other, refuse, listening, forget, take, done] = std::array::from_fn(|_| a.label());
    a.mov(R6, R1);
    a.load(Size::Word, R1, R6, sockopt::LEVEL);
    a.jump_if(R1, If::Differ, LEVEL, other);
    a.load(Size::Word, R1, R6, sockopt::NAME);
    a.jump_if(R1, If::Differ, ASK, refuse);
    read_int(&mut a, R7, refuse);
    a.jump_if(R7, If::Above, 1, refuse);
    a.load(Size::Double, R2, R6, sockopt::SK);
    a.load(Size::Word, R1, R2, sock::PROTOCOL);
    a.jump_if(R1, If::Differ, IPPROTO_TCP, refuse);
    storage(&mut a, maps, true, refuse);
    a.load(Size::Double, R1, R6, sockopt::SK);
    a.load(Size::Word, R1, R1, sock::STATE);
    a.jump_if(R1, If::Equal, STATE_LISTEN, listening);
    a.jump_if(R7, If::Equal, 0, forget);
    // Later the SYN is on its way already.
    a.jump_if(R1, If::Differ, STATE_CLOSE, refuse);
    a.store_imm(Size::Word, R8, REQUEST, ASKED);
    a.store_imm(Size::Word, R8, PEER, 0);
    a.jump(take);

    // The kernel looks at the flag for each SYN: it comes and goes with the request.
    a.place(listening);
    let (flags, lower, write, no_flags) = (a.label(), a.label(), a.label(), a.label());
    a.jump_if(R7, If::Equal, 0, flags);
    a.load(Size::Double, R1, R6, sockopt::SK);
    keep_syns(&mut a, R1);
    a.jump_if(R0, If::Differ, 0, refuse);
    a.place(flags);
    a.store_imm(Size::Word, R10, INT_AT, 0);
    a.load(Size::Double, R1, R6, sockopt::SK);
    int_arguments(&mut a, TCP_BPF_SOCK_OPS_CB_FLAGS);
    a.call(helper::GETSOCKOPT);
    a.jump_if(R0, If::Differ, 0, no_flags);
    a.load(Size::Word, R1, R10, INT_AT);
    a.jump_if(R7, If::Equal, 0, lower);
    a.or(R1, WRITE_FLAG);
    a.jump(write);
    a.place(lower);
    a.and(R1, !WRITE_FLAG);
    a.place(write);
    a.store(Size::Word, R10, INT_AT, R1);
    a.load(Size::Double, R1, R6, sockopt::SK);
    int_arguments(&mut a, TCP_BPF_SOCK_OPS_CB_FLAGS);
    a.call(helper::SETSOCKOPT);
    a.jump_if(R0, If::Differ, 0, refuse);
    a.jump_if(R7, If::Equal, 0, forget);
    a.load(Size::Double, R1, R6, sockopt::SK);
    a.load(Size::Word, R7, R1, sock::LOCAL_PORT);
    port_add(&mut a, maps);
    a.jump_if(R0, If::Differ, 0, refuse);
    a.store_imm(Size::Word, R8, REQUEST, ARMED);
    a.jump(take);
    // An older kernel. To give the flag is not possible; to have it count no longer is, for all
    // that listen on the port.
    a.place(no_flags);
    a.jump_if(R7, If::Differ, 0, refuse);
    a.load(Size::Double, R1, R6, sockopt::SK);
    a.load(Size::Word, R7, R1, sock::LOCAL_PORT);
    port_name(&mut a);
    a.map(R1, maps.ports);
    a.call(helper::MAP_DELETE);

    a.place(forget);
    a.store_imm(Size::Word, R8, REQUEST, 0);
    a.place(take);
    // The kernel is not to look at the option itself.
    a.set(R1, -1);
    a.store(Size::Word, R6, sockopt::LENGTH, R1);
    a.exit(1);
    a.place(refuse);
    a.exit(0);
    leave_to_kernel(&mut a, other, done);
    a.finish()
}

fn getsockopt(maps: Maps) -> Vec<Insn> {
    let mut a = Assembler::new();
    let [other, known, none, done] = std::array::from_fn(|_| a.label());
    a.mov(R6, R1);
    a.load(Size::Word, R1, R6, sockopt::LEVEL);
    a.jump_if(R1, If::Differ, LEVEL, other);
    a.load(Size::Word, R1, R6, sockopt::NAME);
    a.jump_if(R1, If::Equal, VERDICT, known);
    a.jump_if(R1, If::Differ, ASK, done);
    a.place(known);
    a.load(Size::Double, R2, R6, sockopt::SK);
    a.load(Size::Word, R1, R2, sock::PROTOCOL);
    a.jump_if(R1, If::Differ, IPPROTO_TCP, done);
    a.set(R7, 0);
    storage(&mut a, maps, false, none);
    a.load(Size::Word, R1, R6, sockopt::NAME);
    let request = a.label();
    a.jump_if(R1, If::Equal, ASK, request);
    a.load(Size::Word, R7, R8, PEER);
    a.jump(none);
    a.place(request);
    a.load(Size::Word, R1, R8, REQUEST);
    a.jump_if(R1, If::Equal, 0, none);
    a.set(R7, 1);
    a.place(none);
    a.load(Size::Double, R2, R6, sockopt::VALUE);
    a.load(Size::Double, R3, R6, sockopt::VALUE_END);
    a.mov(R1, R2);
    a.add(R1, 4);
    a.jump_if_reg(R1, If::Above, R3, done);
    a.store(Size::Word, R2, 0, R7);
    a.set(R1, 4);
    a.store(Size::Word, R6, sockopt::LENGTH, R1);
    a.set(R1, 0);
    a.store(Size::Word, R6, sockopt::RETURNED, R1);
    a.exit(1);
    leave_to_kernel(&mut a, other, done);
    a.finish()
}

/// R8 = storage of the context's socket; goes to `none` if it has none, or if there is no full
/// socket.
fn own_storage(a: &mut Assembler, maps: Maps, none: Label) {
    a.load(Size::Double, R2, R6, ops::SK);
    a.jump_if(R2, If::Equal, 0, none);
    storage(a, maps, false, none);
}

/// R8 = storage of the socket in R2, made if wanted; goes to `none` without.
fn storage(a: &mut Assembler, maps: Maps, create: bool, none: Label) {
    a.map(R1, maps.sockets);
    a.set(R3, 0);
    a.set(R4, i32::from(create));
    a.call(helper::SK_STORAGE);
    a.jump_if(R0, If::Equal, 0, none);
    a.mov(R8, R0);
}

/// R0 = 0 if R7, a number, is now among the ports with listeners that asked.
fn port_add(a: &mut Assembler, maps: Maps) {
    port_name(a);
    a.store_imm(Size::Word, R10, INT_AT, 1);
    a.map(R1, maps.ports);
    a.mov(R3, R10);
    a.add(R3, i32::from(INT_AT));
    a.set(R4, 0);
    a.call(helper::MAP_UPDATE);
}

/// Goes to `absent` if nobody who asked listens on the context's own port. Changes R9.
fn own_port_check(a: &mut Assembler, maps: Maps, absent: Label) {
    a.mov(R9, R7);
    a.load(Size::Word, R7, R6, ops::LOCAL_PORT);
    port_name(a);
    a.mov(R7, R9);
    a.map(R1, maps.ports);
    a.call(helper::MAP_LOOKUP);
    a.jump_if(R0, If::Equal, 0, absent);
}

/// R2 = the name, on the stack, of the port with the number R7 in the context's namespace.
fn port_name(a: &mut Assembler) {
    a.mov(R1, R6);
    a.call(helper::NETNS_COOKIE);
    a.store(Size::Double, R10, PORT_AT, R0);
    a.store(Size::Word, R10, PORT_AT + 8, R7);
    a.store_imm(Size::Word, R10, PORT_AT + 12, 0);
    a.mov(R2, R10);
    a.add(R2, i32::from(PORT_AT));
}

/// The kernel is to ask for options; the flags of other programs stay.
fn set_write_flag(a: &mut Assembler) {
    a.load(Size::Word, R2, R6, ops::CB_FLAGS);
    a.or(R2, WRITE_FLAG);
    a.mov(R1, R6);
    a.call(helper::SET_CB_FLAGS);
}

fn clear_write_flag(a: &mut Assembler) {
    a.load(Size::Word, R2, R6, ops::CB_FLAGS);
    a.and(R2, !WRITE_FLAG);
    a.mov(R1, R6);
    a.call(helper::SET_CB_FLAGS);
}

/// R0 = setsockopt(`of`, TCP_SAVE_SYN, 1), where `of` is a context or a socket.
fn keep_syns(a: &mut Assembler, of: Reg) {
    a.store_imm(Size::Word, R10, INT_AT, 1);
    a.mov(R1, of);
    int_arguments(a, TCP_SAVE_SYN);
    a.call(helper::SETSOCKOPT);
}

/// The arguments behind the first of a call about a TCP option, whose value is the `int` on the
/// stack.
fn int_arguments(a: &mut Assembler, option: i32) {
    a.set(R2, IPPROTO_TCP);
    a.set(R3, option);
    a.mov(R4, R10);
    a.add(R4, i32::from(INT_AT));
    a.set(R5, 4);
}

/// The arguments (context, option, length, flags 0) of a call about our option.
fn put_option(a: &mut Assembler) {
    let [kind, length, id @ ..] = OPTION;
    let kind = u16::from_ne_bytes([kind, length]);
    a.store_imm(Size::Half, R10, OPTION_AT, i32::from(kind));
    a.store_imm(Size::Word, R10, OPTION_AT + 2, i32::from_ne_bytes(id));
    a.mov(R1, R6);
    a.mov(R2, R10);
    a.add(R2, i32::from(OPTION_AT));
    a.set(R3, OPTION.len() as i32);
    a.set(R4, 0);
}

/// R0 = length of our option in the packet; `-ENOSPC` if it is there and longer than 6 bytes
/// (which Linux takes, too); `-ENOENT` if there is no such packet; something else below 0 if it is
/// not in it.
fn find_option(a: &mut Assembler, flags: i32) {
    put_option(a);
    a.set(R4, flags);
    a.call(helper::LOAD_OPTION);
}

/// `to` = the `int` that the program passed; goes to `missing` if it passed less.
fn read_int(a: &mut Assembler, to: Reg, missing: Label) {
    let enough = a.label();
    // There is room for 16 bytes, whatever was passed.
    a.load(Size::Word, R1, R6, sockopt::LENGTH);
    a.jump_if(R1, If::Above, 3, enough);
    a.jump(missing);
    a.place(enough);
    a.load(Size::Double, R2, R6, sockopt::VALUE);
    a.load(Size::Double, R3, R6, sockopt::VALUE_END);
    a.mov(R1, R2);
    a.add(R1, 4);
    a.jump_if_reg(R1, If::Above, R3, missing);
    a.load(Size::Word, to, R2, 0);
}

/// Ends a program for an option that is not ours. The kernel refuses values that it did not copy
/// whole, unless told that the program left them alone.
fn leave_to_kernel(a: &mut Assembler, other: Label, done: Label) {
    a.place(other);
    a.load(Size::Word, R1, R6, sockopt::LENGTH);
    // Negative lengths are the kernel's to refuse.
    a.jump_if(R1, If::Above, i32::MAX, done);
    let large = a.label();
    a.jump_if(R1, If::Above, PAGE, large);
    a.jump(done);
    a.place(large);
    a.set(R1, 0);
    a.store(Size::Word, R6, sockopt::LENGTH, R1);
    a.place(done);
    a.exit(1);
}

#[cfg(test)]
mod tests {
    use super::{Hook, Maps, all};

    const MAPS: Maps = Maps {
        sockets: 0,
        ports: 0,
    };

    #[test]
    fn names_fit_the_kernels_field() {
        for program in all(MAPS) {
            assert!(program.name.len() < 16);
            assert_eq!(program.name, program.hook.program());
        }
        assert_eq!(Hook::ALL.len(), all(MAPS).len());
    }
}
