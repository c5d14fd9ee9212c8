//! The declarations of `ffi` against the installed headers: a C program prints sizes and offsets, and says what is missing.

use caisson_verbs::ffi::*;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

macro_rules! table {
    ($($t:ident { $($ours:ident = $theirs:literal),* } $($size:literal)?;)*) => {{
        let mut lines: Vec<(String, String, usize)> = Vec::new();
        $(
            $(lines.push((
                format!("offsetof(struct {}, {})", stringify!($t), $theirs),
                format!("{}.{}", stringify!($t), stringify!($ours)),
                offset_of!($t, $ours),
            ));)*
            $(lines.push((format!("{}struct {})", $size, stringify!($t)), stringify!($t).to_string(), size_of::<$t>()));)?
        )*
        lines
    }};
}

fn declared() -> Vec<(String, String, usize)> {
    table! {
        ibv_device { transport_type = "transport_type" };
        ibv_context_ops { poll_cq = "poll_cq", req_notify_cq = "req_notify_cq", post_srq_recv = "post_srq_recv",
            post_send = "post_send", post_recv = "post_recv" } "sizeof(";
        ibv_context { device = "device", ops = "ops", cmd_fd = "cmd_fd", async_fd = "async_fd",
            num_comp_vectors = "num_comp_vectors" };
        ibv_device_attr { max_qp_wr = "max_qp_wr", device_cap_flags = "device_cap_flags", max_sge = "max_sge",
            max_sge_rd = "max_sge_rd", max_cqe = "max_cqe", max_qp_rd_atom = "max_qp_rd_atom", max_qp_init_rd_atom = "max_qp_init_rd_atom",
            max_srq_wr = "max_srq_wr", phys_port_cnt = "phys_port_cnt" } "sizeof(";
        ibv_mr { addr = "addr", length = "length", lkey = "lkey", rkey = "rkey" } "sizeof(";
        ibv_comp_channel { fd = "fd" } "sizeof(";
        ibv_cq { context = "context", cqe = "cqe" };
        ibv_srq { context = "context" };
        ibv_qp { context = "context", srq = "srq", qp_num = "qp_num" };
        ibv_wc { wr_id = "wr_id", status = "status", opcode = "opcode", byte_len = "byte_len", imm_data = "imm_data",
            qp_num = "qp_num", wc_flags = "wc_flags", dlid_path_bits = "dlid_path_bits" } "sizeof(";
        ibv_sge { addr = "addr", length = "length", lkey = "lkey" } "sizeof(";
        ibv_send_wr { wr_id = "wr_id", next = "next", sg_list = "sg_list", num_sge = "num_sge", opcode = "opcode",
            send_flags = "send_flags", invalidate_rkey = "invalidate_rkey", remote_addr = "wr.rdma.remote_addr",
            rkey = "wr.rdma.rkey" } "sizeof(";
        ibv_recv_wr { wr_id = "wr_id", next = "next", sg_list = "sg_list", num_sge = "num_sge" } "sizeof(";
        ibv_qp_cap { max_inline_data = "max_inline_data" } "sizeof(";
        ibv_qp_init_attr { send_cq = "send_cq", srq = "srq", cap = "cap", qp_type = "qp_type", sq_sig_all = "sq_sig_all" } "sizeof(";
        ibv_qp_attr { qp_state = "qp_state" } "sizeof(";
        ibv_srq_init_attr { max_wr = "attr.max_wr", max_sge = "attr.max_sge", srq_limit = "attr.srq_limit" } "sizeof(";
        ibv_async_event { element = "element.port_num", event_type = "event_type" } "sizeof(";
        rdma_event_channel { fd = "fd" } "sizeof(";
        rdma_cm_id { verbs = "verbs", channel = "channel", context = "context", qp = "qp", src_addr = "route.addr.src_storage",
            dst_addr = "route.addr.dst_storage", port_num = "port_num" };
        rdma_conn_param { private_data = "private_data", private_data_len = "private_data_len",
            responder_resources = "responder_resources", initiator_depth = "initiator_depth", flow_control = "flow_control",
            retry_count = "retry_count", rnr_retry_count = "rnr_retry_count", srq = "srq", qp_num = "qp_num" } "sizeof(";
        rdma_cm_event { id = "id", listen_id = "listen_id", event = "event", status = "status", conn = "param.conn" };
    }
}

/// Constants, by their C names.
fn constants() -> Vec<(&'static str, i64)> {
    vec![
        ("IBV_WR_RDMA_WRITE", IBV_WR_RDMA_WRITE.into()),
        ("IBV_WR_SEND", IBV_WR_SEND.into()),
        ("IBV_WR_RDMA_READ", IBV_WR_RDMA_READ.into()),
        ("IBV_WR_SEND_WITH_INV", IBV_WR_SEND_WITH_INV.into()),
        ("IBV_SEND_SIGNALED", IBV_SEND_SIGNALED.into()),
        ("IBV_SEND_INLINE", IBV_SEND_INLINE.into()),
        ("IBV_ACCESS_LOCAL_WRITE", IBV_ACCESS_LOCAL_WRITE.into()),
        ("IBV_ACCESS_REMOTE_WRITE", IBV_ACCESS_REMOTE_WRITE.into()),
        ("IBV_ACCESS_REMOTE_READ", IBV_ACCESS_REMOTE_READ.into()),
        ("IBV_QPT_RC", IBV_QPT_RC.into()),
        ("IBV_QPS_ERR", IBV_QPS_ERR.into()),
        ("IBV_QP_STATE", IBV_QP_STATE.into()),
        ("IBV_TRANSPORT_IWARP", IBV_TRANSPORT_IWARP.into()),
        ("IBV_DEVICE_MEM_MGT_EXTENSIONS", IBV_DEVICE_MEM_MGT_EXTENSIONS.into()),
        ("IBV_EVENT_QP_FATAL", IBV_EVENT_QP_FATAL.into()),
        ("IBV_EVENT_QP_ACCESS_ERR", IBV_EVENT_QP_ACCESS_ERR.into()),
        ("IBV_EVENT_DEVICE_FATAL", IBV_EVENT_DEVICE_FATAL.into()),
        ("IBV_EVENT_PORT_ACTIVE", IBV_EVENT_PORT_ACTIVE.into()),
        ("IBV_EVENT_PORT_ERR", IBV_EVENT_PORT_ERR.into()),
        ("IBV_EVENT_QP_LAST_WQE_REACHED", IBV_EVENT_QP_LAST_WQE_REACHED.into()),
        ("RDMA_PS_TCP", RDMA_PS_TCP.into()),
        ("RDMA_OPTION_ID", RDMA_OPTION_ID.into()),
        ("RDMA_OPTION_ID_REUSEADDR", RDMA_OPTION_ID_REUSEADDR.into()),
        ("IBV_WC_SUCCESS", 0),
        ("IBV_WC_LOC_LEN_ERR", 1),
        ("IBV_WC_LOC_PROT_ERR", 4),
        ("IBV_WC_WR_FLUSH_ERR", 5),
        ("IBV_WC_LOC_ACCESS_ERR", 8),
        ("IBV_WC_REM_INV_REQ_ERR", 9),
        ("IBV_WC_REM_ACCESS_ERR", 10),
        ("IBV_WC_REM_OP_ERR", 11),
        ("IBV_WC_RETRY_EXC_ERR", 12),
        ("IBV_WC_RNR_RETRY_EXC_ERR", 13),
        ("RDMA_CM_EVENT_ADDR_RESOLVED", 0),
        ("RDMA_CM_EVENT_ADDR_ERROR", 1),
        ("RDMA_CM_EVENT_ROUTE_RESOLVED", 2),
        ("RDMA_CM_EVENT_ROUTE_ERROR", 3),
        ("RDMA_CM_EVENT_CONNECT_REQUEST", 4),
        ("RDMA_CM_EVENT_CONNECT_ERROR", 6),
        ("RDMA_CM_EVENT_UNREACHABLE", 7),
        ("RDMA_CM_EVENT_REJECTED", 8),
        ("RDMA_CM_EVENT_ESTABLISHED", 9),
        ("RDMA_CM_EVENT_DISCONNECTED", 10),
        ("RDMA_CM_EVENT_DEVICE_REMOVAL", 11),
        ("RDMA_CM_EVENT_ADDR_CHANGE", 14),
    ]
}

#[test]
fn declarations_are_the_headers() {
    let header = ["/usr/include/infiniband/verbs.h", "/usr/include/rdma/rdma_cma.h"];
    for file in header {
        assert!(
            Path::new(file).exists(),
            "{file} is missing, without which this cannot be checked: tools/setup test (Debian: apt install libibverbs-dev librdmacm-dev)"
        );
    }
    let folder = std::env::temp_dir().join(format!("caisson-verbs-layout-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (lines, constants) = (declared(), constants());
    let print = |expression: &str| format!("  printf(\"%lld\\n\", (long long)({expression}));\n");
    let body: String =
        lines.iter().map(|l| print(&l.0)).chain(constants.iter().map(|c| print(c.0))).collect();
    let source = format!(
        "#include <infiniband/verbs.h>\n#include <rdma/rdma_cma.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\n{body}  return 0;\n}}\n"
    );
    let (c, program) = (folder.join("layout.c"), folder.join("layout"));
    std::fs::write(&c, source).unwrap();
    let compiled = Command::new("cc").arg("-o").arg(&program).arg(&c).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let printed = Command::new(&program).output().unwrap().stdout;
    std::fs::remove_dir_all(&folder).unwrap();
    let theirs: Vec<i64> = String::from_utf8(printed).unwrap().lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(theirs.len(), lines.len() + constants.len());
    let ours = lines
        .iter()
        .map(|(_, name, at)| (name.as_str(), *at as i64))
        .chain(constants.iter().map(|&(name, value)| (name, value)));
    for ((name, ours), theirs) in ours.zip(theirs) {
        assert_eq!(ours, theirs, "{name}");
    }
}

/// With or without rdma-core and devices, asking for RDMA gives a channel or says what to do next; it never fails otherwise.
#[test]
fn what_is_missing_is_said() {
    if let Err(e) = caisson_verbs::Channel::new() {
        let text = e.to_string();
        assert!(text.contains("apt install") || text.contains("modprobe"), "{text}");
    }
}
