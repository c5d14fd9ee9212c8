//! The dependency edges of the house run one way, and every crate keeps the workspace's settings.
//!
//! Owns the table of edges, which ARCHITECTURE.md draws.

use caisson_tidy::{Faults, Manifest, files, manifests, strip};

/// What a crate may depend on among the project's own. A folder that ends in `/` stands for the crates below it.
const EDGES: &[(&str, &[&str])] = &[
    ("transports/wire", &[]),
    ("transports/tcp", &["transports/wire", "datapath/block"]),
    ("transports/rdma", &["transports/wire", "datapath/block"]),
    ("transports/verbs", &["transports/rdma"]),
    ("target/core", &["transports/wire", "datapath/block"]),
    ("target/daemon", &["transports/", "target/core", "datapath/", "dedupe/", "kms/"]),
    ("datapath/block", &[]),
    ("datapath/device", &["datapath/block"]),
    ("datapath/task", &["datapath/block", "datapath/device"]),
    ("datapath/tables", &[]),
    ("datapath/log", &["kms/keys"]),
    ("datapath/codec", &[]),
    ("datapath/volume", &["datapath/block", "datapath/device", "datapath/task"]),
    (
        "datapath/engine",
        &[
            "datapath/block",
            "datapath/device",
            "datapath/task",
            "datapath/tables",
            "datapath/log",
            "datapath/codec",
            "datapath/volume",
            "dedupe/",
            "kms/keys",
        ],
    ),
    ("dedupe/fingerprint", &["kms/keys"]),
    ("dedupe/index", &["dedupe/fingerprint"]),
    ("kms/audit", &[]),
    ("kms/keys", &[]),
    ("kms/kmip", &["kms/keys"]),
    ("kms/pkcs11", &["kms/keys"]),
    ("kms/service", &["kms/keys"]),
    ("kms/tpm", &["kms/keys"]),
    ("kms/providers", &["kms/"]),
    ("tools/", &["transports/", "target/", "datapath/", "dedupe/", "kms/", "tools/"]),
    ("tests/", &["transports/", "target/", "datapath/", "dedupe/", "kms/", "tools/", "tests/"]),
];

/// What no test of a library may depend on either: a library's own tests know nothing of what is built from it.
const NEVER_BELOW: &[&str] = &["target/daemon", "tools/", "tests/"];

fn covers(pattern: &str, folder: &str) -> bool {
    pattern == folder || pattern.ends_with('/') && folder.starts_with(pattern)
}

/// The project's own crates in one of `manifest`'s tables, as folders.
fn own<'a>(manifest: &'a Manifest, all: &'a [Manifest], table: &str) -> Vec<&'a str> {
    let folder_of = |name: &str| all.iter().find(|m| m.package() == Some(name)).map(|m| &m.folder[..]);
    manifest.dependencies(table).into_iter().filter_map(|(name, _)| folder_of(name)).collect()
}

#[test]
fn edges_run_one_way() {
    let all = manifests();
    let mut faults = Faults::default();
    for m in all.iter().filter(|m| m.package().is_some()) {
        let Some((_, allowed)) = EDGES.iter().find(|(crates, _)| covers(crates, &m.folder)) else {
            faults.add(format!("{}: not in the table of edges (tests/tidy/tests/edges.rs)", m.folder));
            continue;
        };
        for table in ["dependencies", "build-dependencies"] {
            for to in own(m, &all, table) {
                if !allowed.iter().any(|a| covers(a, to)) {
                    faults.add(format!("{} -> {to}", m.folder));
                }
            }
        }
        let library = !m.folder.starts_with("tools/") && !m.folder.starts_with("tests/");
        for to in own(m, &all, "dev-dependencies") {
            if library && m.folder != "target/daemon" && NEVER_BELOW.iter().any(|n| covers(n, to)) {
                faults.add(format!("{} -> {to} (in its tests)", m.folder));
            }
        }
    }
    faults.report("Dependencies that the design does not have (ARCHITECTURE.md, \"Edges\"):");
}

#[test]
fn every_crate_keeps_the_workspaces_settings() {
    let all = manifests();
    let workspace = all.iter().find(|m| m.folder.is_empty()).expect("the root has a Cargo.toml");
    let listed = |key: &str| -> Vec<&str> {
        let list = workspace.toml["workspace"].get(key).and_then(|m| m.as_array());
        list.into_iter().flatten().filter_map(|m| m.as_str()).collect()
    };
    let (members, excluded) = (listed("members"), listed("exclude"));
    let mut faults = Faults::default();
    for m in all.iter().filter(|m| m.package().is_some()) {
        if excluded.contains(&&m.folder[..]) {
            continue;
        }
        if !members.contains(&&m.folder[..]) {
            faults.add(format!("{}: no member of the workspace", m.folder));
        }
        let inherits = |t: Option<&toml::Value>| {
            t.and_then(|v| v.get("workspace")).and_then(|v| v.as_bool()) == Some(true)
        };
        if !inherits(m.toml.get("lints")) {
            faults.add(format!("{}: lacks [lints] workspace = true", m.folder));
        }
        for field in ["version", "edition", "rust-version", "license", "publish"] {
            if !inherits(m.toml["package"].get(field)) {
                faults.add(format!("{}: package.{field} is not the workspace's", m.folder));
            }
        }
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in m.dependencies(table) {
                if !inherits(Some(value)) {
                    faults.add(format!("{}: the version of {name} is not the workspace's", m.folder));
                }
            }
        }
        if m.toml["package"].get("description").is_none() {
            faults.add(format!("{}: lacks a description", m.folder));
        }
    }
    faults.report("Crates with settings of their own:");
}

/// Crates without sockets, disks, clocks or randomness, so that one seed replays a whole run.
const SANS_IO: &[&str] = &[
    "transports/wire/",
    "transports/tcp/",
    "transports/rdma/",
    "target/core/",
    "datapath/block/",
    "datapath/codec/",
    "datapath/log/",
    "datapath/tables/",
    "dedupe/fingerprint/",
    "dedupe/index/",
    "kms/keys/",
];

/// What such a crate does not call, and what it has instead.
const FORBIDDEN_CALLS: &[(&str, &str)] = &[
    // Addresses (std::net::IpAddr) are values; these are not.
    ("TcpStream", "bytes are handed in"),
    ("TcpListener", "connections are handed in"),
    ("UdpSocket", "bytes are handed in"),
    ("ToSocketAddrs", "names are resolved by the caller"),
    ("std::fs", "volumes and stores are handed in"),
    ("std::process", "nothing is started"),
    ("std::env", "settings are handed in"),
    ("Instant::now", "the time is handed in (Mono)"),
    ("SystemTime", "the time is handed in"),
    ("thread::spawn", "the daemon owns threads"),
    ("thread::sleep", "deadlines are handed out"),
    ("println!", "the caller decides what is printed"),
    ("eprintln!", "the caller decides what is printed"),
];

#[test]
fn cores_are_without_io() {
    let mut faults = Faults::default();
    for f in files().iter().filter(|f| f.is_rust() && !f.is_test()) {
        if !SANS_IO.iter().any(|s| f.path.starts_with(s)) {
            continue;
        }
        let code = strip(&f.text);
        for (n, line) in code.code[..code.tests_start()].iter().enumerate() {
            for (call, instead) in FORBIDDEN_CALLS {
                if line.contains(call) {
                    faults.add(format!("{}:{}: {call}: {instead}", f.path, n + 1));
                }
            }
        }
    }
    faults.report("Calls that a sans-IO crate does not make:");
}
