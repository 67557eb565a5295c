//! What can be tested without a device.

use std::fmt::Write as _;
use std::io::Write as _;
use std::mem::{offset_of, size_of};
use std::process::{Command, Stdio};

use rdma_sys::*;

use super::*;

#[test]
fn a_device_that_is_not_there() {
    // Either libibverbs is missing, or it has no such device.
    match open("no_such_device", 1) {
        Err(OpenError::NoDevice { device, .. }) => assert_eq!(device, "no_such_device"),
        Err(OpenError::NoLibrary(reason)) => assert!(reason.contains("libibverbs"), "{reason}"),
        Err(OpenError::OldKernel) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_say_what_to_do() {
    use rustix::io::Errno;
    for (error, hint) in [
        (OpenError::of("f", Errno::PERM), "/dev/infiniband"),
        (OpenError::of("f", Errno::ACCESS), "/dev/infiniband"),
        (OpenError::of("f", Errno::NOMEM), "ulimit -l"),
        (
            OpenError::of("ibv_create_cq", Errno::IO),
            "ibv_create_cq failed",
        ),
        (OpenError::NoLibrary("gone".into()), "(gone): install"),
        (OpenError::PortDown, "rdma link"),
        (OpenError::OldKernel, "5.12"),
    ] {
        let text = error.to_string();
        assert!(text.contains(hint), "{text}");
    }
}

/// The structures that `rdma-sys` does not take from the headers by itself: those with unions,
/// and what holds them.
#[test]
fn structures_are_those_of_the_headers() {
    let mut program = String::from(
        "#include <infiniband/verbs.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n",
    );
    let mut expected = String::new();
    macro_rules! same {
        ($($type:ident { $($field:ident $(= $c_field:literal)?),* })*) => {$(
            let name = stringify!($type);
            // The only union; in Rust, it has no other keyword.
            let kind = if name == "ibv_gid" { "union" } else { "struct" };
            writeln!(program, "printf(\"%zu\\n\", sizeof({kind} {name}));").unwrap();
            writeln!(expected, "{}", size_of::<$type>()).unwrap();
            $(
                #[allow(unused_mut, unused_assignments)]
                let mut c_field = stringify!($field);
                $(c_field = $c_field;)?
                writeln!(program, "printf(\"%zu\\n\", offsetof({kind} {name}, {c_field}));").unwrap();
                writeln!(expected, "{}", offset_of!($type, $field)).unwrap();
            )*
        )*};
    }
    same! {
        ibv_gid { raw }
        ibv_global_route { dgid, flow_label, sgid_index, hop_limit, traffic_class }
        ibv_ah_attr { grh, dlid, sl, src_path_bits, static_rate, is_global, port_num }
        ibv_qp_attr { path_mtu, rq_psn, dest_qp_num, qp_access_flags, ah_attr, pkey_index, timeout }
        ibv_async_event { element, event_type }
        ibv_wc { wr_id, status, opcode, vendor_err, byte_len, qp_num, wc_flags, pkey_index }
        ibv_send_wr {
            wr_id, next, sg_list, num_sge, opcode, send_flags, wr, wr = "wr.rdma.remote_addr"
        }
        ibv_recv_wr { wr_id, next, sg_list, num_sge }
        ibv_qp_init_attr { send_cq, recv_cq, cap, qp_type, sq_sig_all }
        ibv_context { device, ops, cmd_fd, async_fd }
        ibv_qp { context, qp_num }
        ibv_cq { context, cqe }
        ibv_comp_channel { fd }
    }
    program.push_str("return 0; }\n");

    let directory = std::env::temp_dir().join(format!("smcr-layout-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let binary = directory.join("layout");
    let mut compiler = Command::new("cc")
        .args(["-x", "c", "-", "-o"])
        .arg(&binary)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = compiler.stdin.take().unwrap();
    input.write_all(program.as_bytes()).unwrap();
    drop(input);
    assert!(compiler.wait().unwrap().success());
    let output = Command::new(&binary).output().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
