//! The calls of bpf(2) that are needed here.
//!
//! The structures are the heads of the members of `union bpf_attr` (linux/bpf.h); the kernel takes
//! what is missing behind them as zero.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::programs::{Hook, PORT_SIZE, Program, STORAGE_SIZE};

const MAP_CREATE: i32 = 0;
const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const PROG_QUERY: i32 = 16;
const BTF_LOAD: i32 = 18;

/// Other programs may be attached to the same cgroup, and to those below.
const ALLOW_MULTI: u32 = 2;
/// The programs that run for a cgroup: those of the cgroups above, too.
const QUERY_EFFECTIVE: u32 = 1;

/// A program's name in the kernel, with the terminating zero.
type Name = [u8; 16];

#[repr(C)]
#[derive(Default)]
struct BtfLoad {
    btf: u64,
    log: u64,
    btf_size: u32,
    log_size: u32,
    log_level: u32,
    _pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: Name,
    ifindex: u32,
    btf_fd: u32,
    btf_key_type: u32,
    btf_value_type: u32,
    _vmlinux_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    kind: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: Name,
    ifindex: u32,
    expected_attach: u32,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    hook: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    hook: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    _pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
    _pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// The head of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    pointers: [u64; 2],
    load_time: u64,
    uid: u32,
    map_count: u32,
    map_ids: u64,
    name: Name,
}

/// What the kernel says of a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its number.
    pub id: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// A digest of its instructions: two programs with one tag do the same.
    pub tag: [u8; 8],
    /// The map it works on, 0 if none.
    pub map: u32,
}

/// A program was refused.
#[derive(Debug)]
pub struct Refused {
    /// The error of bpf(2).
    pub error: io::Error,
    /// What the verifier said, if it was asked.
    pub log: String,
}

/// Makes the map with what is kept for each socket.
///
/// # Errors
/// Those of bpf(2): EPERM without CAP_BPF, EINVAL if the kernel does not know such maps.
pub fn socket_storage() -> io::Result<OwnedFd> {
    const SK_STORAGE: u32 = 24;
    const NO_PREALLOC: u32 = 1;
    /// Accepted sockets get a copy of what the listening one has.
    const CLONE: u32 = 512;
    let btf = load_btf()?;
    let mut attr = MapCreate {
        kind: SK_STORAGE,
        key_size: 4,
        value_size: STORAGE_SIZE,
        flags: NO_PREALLOC | CLONE,
        name: name("smcr_sockets"),
        btf_fd: btf.as_raw_fd() as u32,
        btf_key_type: 1,
        btf_value_type: 2,
        ..MapCreate::default()
    };
    // SAFETY: the structure is the one of the command and holds no pointer.
    unsafe { make(MAP_CREATE, &mut attr) }
}

/// Makes the map of the ports on which somebody listens who asked. If there are more than it
/// holds, the oldest go, and their listeners are plain.
///
/// # Errors
/// Those of bpf(2).
pub fn listening_ports() -> io::Result<OwnedFd> {
    const LRU_HASH: u32 = 9;
    let mut attr = MapCreate {
        kind: LRU_HASH,
        key_size: PORT_SIZE,
        value_size: 4,
        max_entries: 1 << 14,
        name: name("smcr_ports"),
        ..MapCreate::default()
    };
    // SAFETY: the structure is the one of the command and holds no pointer.
    unsafe { make(MAP_CREATE, &mut attr) }
}

/// Loads a program.
///
/// # Errors
/// As the kernel refuses it: EPERM without CAP_BPF and CAP_NET_ADMIN.
pub fn load(program: &Program) -> Result<OwnedFd, Refused> {
    match load_with_log(program, &mut []) {
        Ok(fd) => Ok(fd),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(Refused {
            error,
            log: String::new(),
        }),
        Err(_) => {
            // Once more, to learn why.
            let mut log = vec![0; 64 << 10];
            load_with_log(program, &mut log).map_err(|error| {
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                let log = String::from_utf8_lossy(&log[..end]).trim().to_owned();
                Refused { error, log }
            })
        }
    }
}

fn load_with_log(program: &Program, log: &mut [u8]) -> io::Result<OwnedFd> {
    // No helper that the programs call asks for another licence.
    let license = c"MIT OR Apache-2.0";
    let mut attr = ProgLoad {
        kind: program.kind,
        insn_count: program.insns.len() as u32,
        insns: program.insns.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log: if log.is_empty() {
            0
        } else {
            log.as_mut_ptr() as u64
        },
        name: name(program.name),
        expected_attach: program.hook as u32,
        ..ProgLoad::default()
    };
    // SAFETY: the structure is the one of the command; its pointers go to `insn_count`
    // instructions, a C string and `log_size` writable bytes, which outlive the call.
    unsafe { make(PROG_LOAD, &mut attr) }
}

/// Attaches a program to a cgroup, beside others.
///
/// # Errors
/// EPERM if a program is attached there, or above, that admits no others.
pub fn attach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, hook: Hook) -> io::Result<()> {
    let mut attr = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        hook: hook as u32,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure is the one of the command and holds no pointer.
    unsafe { call(PROG_ATTACH, &mut attr) }.map(drop)
}

/// Detaches a program.
///
/// # Errors
/// ENOENT if it is not attached there.
pub fn detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, hook: Hook) -> io::Result<()> {
    let mut attr = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        hook: hook as u32,
        flags: 0,
    };
    // SAFETY: as in `attach`.
    unsafe { call(PROG_DETACH, &mut attr) }.map(drop)
}

/// The numbers of the programs at a cgroup: those attached to it, or (`effective`) all that run
/// for it, those of the cgroups above included.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN.
pub fn attached(cgroup: BorrowedFd<'_>, hook: Hook, effective: bool) -> io::Result<Vec<u32>> {
    // The kernel allows 64 for each cgroup.
    let mut room = 64;
    loop {
        let mut ids = vec![0u32; room];
        let mut attr = Query {
            target: cgroup.as_raw_fd() as u32,
            hook: hook as u32,
            query_flags: if effective { QUERY_EFFECTIVE } else { 0 },
            ids: ids.as_mut_ptr() as u64,
            count: room as u32,
            ..Query::default()
        };
        // SAFETY: the structure is the one of the command; `ids` has room for `count` numbers and
        // outlives the call.
        match unsafe { call(PROG_QUERY, &mut attr) } {
            Ok(_) => {
                ids.truncate(attr.count as usize);
                return Ok(ids);
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 16 => room *= 4,
            Err(e) => return Err(e),
        }
    }
}

/// A program by its number.
///
/// # Errors
/// ENOENT if it is gone, EPERM without CAP_SYS_ADMIN.
pub fn by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = ById {
        id,
        ..ById::default()
    };
    // SAFETY: the structure is the one of the command and holds no pointer.
    unsafe { make(PROG_GET_FD_BY_ID, &mut attr) }
}

/// What the kernel says of a program.
///
/// # Errors
/// Those of bpf(2).
pub fn info(program: BorrowedFd<'_>) -> io::Result<Loaded> {
    let mut map = 0u32;
    let mut info = ProgInfo {
        map_count: 1,
        map_ids: &raw mut map as u64,
        ..ProgInfo::default()
    };
    let mut attr = InfoByFd {
        fd: program.as_raw_fd() as u32,
        length: size_of::<ProgInfo>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: the structure is the one of the command; `info` is valid for writes of `length`
    // bytes, and what it points to for one number, as it says; both outlive the call.
    unsafe { call(OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let end = info.name.iter().position(|byte| *byte == 0);
    let name = &info.name[..end.unwrap_or(info.name.len())];
    Ok(Loaded {
        id: info.id,
        name: String::from_utf8_lossy(name).into_owned(),
        tag: info.tag,
        map,
    })
}

/// Types for the map: the key an `int`, the value a 64-bit number, which is as good as any of its
/// size.
fn load_btf() -> io::Result<OwnedFd> {
    const INT: u32 = 1 << 24;
    const SIGNED: u32 = 1 << 24;
    const HEADER: u32 = 24;
    const STRINGS: &[u8] = b"\0int\0u64\0";
    let types = [1, INT, 4, SIGNED | 32, 5, INT, 8, 64];
    let types_size = size_of_val(&types) as u32;
    // Magic, version 1, no flags.
    let magic = u32::from(0xeb9f_u16);
    let magic = if cfg!(target_endian = "little") {
        magic | 1 << 16
    } else {
        magic << 16 | 1 << 8
    };
    let header = [
        magic,
        HEADER,
        0,
        types_size,
        types_size,
        STRINGS.len() as u32,
    ];
    let words = header.iter().chain(&types);
    let mut btf: Vec<u8> = words.flat_map(|word| word.to_ne_bytes()).collect();
    btf.extend(STRINGS);
    let mut attr = BtfLoad {
        btf: btf.as_ptr() as u64,
        btf_size: btf.len() as u32,
        ..BtfLoad::default()
    };
    // SAFETY: the structure is the one of the command; `btf` is valid for reads of `btf_size`
    // bytes and outlives the call.
    unsafe { make(BTF_LOAD, &mut attr) }
}

fn name(text: &str) -> Name {
    let mut name = [0; 16];
    name[..text.len()].copy_from_slice(text.as_bytes());
    name
}

/// A command that makes a descriptor.
///
/// # Safety
/// As for [`call`].
unsafe fn make<T>(command: i32, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: by this function's contract.
    let fd = unsafe { call(command, attr) }?;
    // SAFETY: the kernel just made it (with close-on-exec) for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2)
///
/// # Safety
/// `attr` is a head of the structure that belongs to `command`, and what it points to is valid.
unsafe fn call<T>(command: i32, attr: &mut T) -> io::Result<i32> {
    // The verifier gives way to signals.
    const TRIES: u32 = 20;
    let mut tries = 0;
    loop {
        // SAFETY: by this function's contract.
        let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
        if done >= 0 {
            return Ok(done as i32);
        }
        let error = io::Error::last_os_error();
        tries += 1;
        if error.raw_os_error() != Some(libc::EAGAIN) || tries == TRIES {
            return Err(error);
        }
    }
}
