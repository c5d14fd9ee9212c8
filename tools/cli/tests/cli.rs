//! The `caisson` program as people run it: what it prints, how it ends, and that what it serves can be used.

mod support;

use std::path::Path;
use support::{Dir, Running, bad, caisson, good};

const NQN: &str = "nqn.2024-01.com.example:cli";
const HOST: &str = "nqn.2024-01.com.example:host";

#[test]
fn help_teaches_and_exit_codes_are_as_documented() {
    let help = good(&["--help"]);
    for word in ["quickstart", "export ram:1G", "Exit status", "5  wrong configuration file", "--socket"] {
        assert!(help.contains(word), "{word} is not in the help");
    }
    for command in
        ["export", "serve", "quickstart", "volume", "subsystem", "host", "listener", "referral", "status"]
    {
        assert!(good(&[command, "--help"]).len() > 200, "{command}");
    }
    assert!(good(&["--version"]).starts_with("caisson "));
    bad(&[], 2, &["Usage"]);
    bad(&["exprot"], 2, &["export"]);
    bad(&["export", "ram:1G", "--listen", "tcp://nowhere"], 2, &["tcp://ADDRESS:PORT"]);
    bad(&["--socket", "/nonexistent.sock", "status"], 3, &["no target answers", "remedy:", "caisson serve"]);
    let o = caisson(&["--socket", "/nonexistent.sock", "status", "--json"]);
    let v: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert!(v["remedy"].as_str().unwrap().contains("--socket"));
}

#[test]
fn export_is_managed_without_being_told_where() {
    let dir = Dir::new("usual");
    let socket = dir.path("s");
    let args = ["export", "ram:1M", "--listen", "tcp://127.0.0.1:0"];
    let variables = [("CAISSON_SOCKET", socket.as_str())];
    let mut first = Running::start_with(&args, "Ctrl-C", &variables);
    assert!(first.said.contains(&socket), "{}", first.said);
    // Another one does without, and leaves it alone at its end.
    let mut second = Running::start_with(&args, "Ctrl-C", &variables);
    assert!(!second.said.contains(&socket), "{}", second.said);
    assert_eq!(second.signal("TERM"), Some(0));
    assert!(good(&["--socket", &socket, "status"]).contains(&first.listening()[0]));
    assert_eq!(first.signal("INT"), Some(0));
    assert!(!Path::new(&socket).exists(), "the socket is left behind");
}

#[test]
fn export_refuses_with_a_remedy() {
    let dir = Dir::new("refuse");
    let missing = dir.path("none.img");
    bad(&["export", &missing], 1, &["there is no", "remedy: give --size"]);
    bad(&["export", "rma:1G"], 1, &["'rma'", "ram:SIZE"]);
    bad(&["export", "ram:5000"], 1, &["not a multiple", "remedy: use 8192"]);
    bad(&["export", "ram:1G", "--block-size", "1024"], 1, &["block size 1024", "remedy: use 4096"]);
    bad(&["export", "ram:1G", "--nqn", "iqn.x"], 1, &["does not begin with `nqn.`", "remedy:"]);
    let long = dir.path(&"s".repeat(110));
    bad(
        &["export", "ram:1G", "--listen", "tcp://127.0.0.1:0", "--socket", &long],
        1,
        &["more than 107", "--socket"],
    );
    bad(&["export", "ram:1G", "--listen", "tcp://192.0.2.77:4420"], 1, &["cannot listen", "ip address"]);
    // Whatever of RDMA is missing here (no device anywhere has a documentation address), it says what to do.
    bad(&["export", "ram:1G", "--listen", "rdma://192.0.2.77:4420"], 1, &["RDMA", "remedy:", "tcp://"]);
}

#[test]
fn rdma_that_is_not_there_keeps_nothing_else_from_being_served() {
    let words = [
        "export",
        "ram:1M",
        "--nqn",
        NQN,
        "--listen",
        "rdma://192.0.2.77:4420",
        "--listen",
        "tcp://127.0.0.1:0",
    ];
    let t = Running::start(&words, "Ctrl-C");
    assert_eq!(t.listening().len(), 1, "{}", t.said);
    assert!(t.said.contains("waiting for rdma://192.0.2.77:4420: "), "{}", t.said);
    assert!(good(&["discover", &t.listening()[0]]).contains(NQN));
}

#[test]
fn configuration_errors_point_at_their_line() {
    let dir = Dir::new("config");
    let file = dir.path("c.toml");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/caisson.example.toml");
    assert!(good(&["config", "check", example]).contains("good; 3 volumes, 2 subsystems, 2 listeners"));
    std::fs::write(&file, "[[listener]]\naddres = 'tcp://0.0.0.0:4420'\n").unwrap();
    for args in [["config", "check", &file], ["serve", "--config", &file]] {
        bad(
            &args,
            5,
            &[
                "c.toml:2:1: [[listener]] has no key `addres`",
                "2 | addres",
                "^^^^^^",
                "remedy: did you mean `address`?",
            ],
        );
    }
    let o = caisson(&["config", "check", &file, "--json"]);
    let v: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(v["problems"][0]["line"], 2);
    // What starting would refuse is no good configuration.
    std::fs::write(&file, "[log]\nfilter = 'a=b=c'\n").unwrap();
    bad(&["config", "check", &file], 5, &["c.toml:2:10: `a=b=c` is not a log filter", "remedy: use error"]);
    // Found only on starting, but shown at the line all the same.
    let text = "[management]\nsocket = ''\n[metrics]\naddress = ''\n[[volume]]\nname = 'x'\npath = '/nonexistent/disk'\n";
    std::fs::write(&file, text).unwrap();
    bad(&["serve", "--config", &file], 5, &["c.toml:6:8: ", "/nonexistent/disk", "remedy:"]);
    bad(&["serve", "--config", &dir.path("none.toml")], 5, &["none.toml", "cannot be read"]);
}

#[test]
fn export_is_used_and_managed_while_it_runs() {
    let dir = Dir::new("export");
    let socket = dir.path("s");
    let mut t = Running::start(
        &[
            "--socket",
            &socket,
            "export",
            "ram:64M",
            "--nqn",
            NQN,
            "--listen",
            "tcp://127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
            "--block-size",
            "512",
        ],
        "Ctrl-C",
    );
    let at = t.listening();
    assert_eq!(at.len(), 1, "{}", t.said);
    for word in
        ["nvme discover -t tcp -a 127.0.0.1 -s ", &format!("-n {NQN}"), "caisson identify", "metrics at http"]
    {
        assert!(t.said.contains(word), "{word} is not in: {}", t.said);
    }
    assert!(good(&["discover", &at[0]]).contains(NQN));
    assert!(good(&["identify", &at[0]]).contains("64 MiB"));
    let perf =
        ["perf", &at[0], "--pattern", "write", "--block-size", "16k", "--bytes", "8M", "--verify", "--json"];
    let report: serde_json::Value = serde_json::from_str(&good(&perf)).unwrap();
    assert_eq!(report["verified"]["checked"], 2048 * 8);
    let s = |args: &[&str]| good(&[&["--socket", &socket], args].concat());
    let status: serde_json::Value = serde_json::from_str(&s(&["status", "--json"])).unwrap();
    assert_eq!(status["subsystems"][0]["namespaces"][0]["io"]["bytes_written"], 8 << 20);
    let page = s(&["status"]);
    for word in ["VOLUME", "64 MiB", NQN, "any host", "subsystems and discovery", "connections"] {
        assert!(page.contains(word), "{word} is not in: {page}");
    }
    assert!(s(&["metrics"]).contains("caisson_io_bytes_total{host="));
    s(&["volume", "create", "more", "--size", "1M", "--backing", "ram"]);
    s(&["subsystem", "add-ns", NQN, "more", "--nsid", "7"]);
    assert!(good(&["identify", &at[0]]).contains("Namespace 7"));
    bad(
        &["--socket", &socket, "volume", "delete", "more"],
        4,
        &["exported as namespace 7", "remedy: first:"],
    );
    bad(&["--socket", &socket, "volume", "create", "f", "--size", "1M"], 4, &["no pool", "--backing ram"]);
    s(&["subsystem", "remove-ns", NQN, "7"]);
    s(&["volume", "delete", "more"]);
    // Any host may connect, until it may not.
    s(&["subsystem", "allow-any", NQN, "off"]);
    let o = caisson(&["identify", &at[0], "--nqn", NQN, "--hostnqn", HOST]);
    assert!(!o.status.success());
    s(&["host", "allow", NQN, HOST]);
    good(&["identify", &at[0], "--nqn", NQN, "--hostnqn", HOST]);
    assert_eq!(t.signal("INT"), Some(0));
    assert!(!Path::new(&socket).exists(), "the socket is left behind");
}

#[test]
fn serve_survives_restarts_and_refuses_a_second_target() {
    let dir = Dir::new("serve");
    let (file, socket) = (dir.path("c.toml"), dir.path("data/caisson.sock"));
    let text = "data_dir = 'data'\n[metrics]\naddress = ''\n[[listener]]\naddress = 'tcp://127.0.0.1:0'\n";
    std::fs::write(&file, text).unwrap();
    let start = || Running::start(&["serve", "--config", &file], "managed over");
    let s = |args: &[&str]| good(&[&["--socket", &socket], args].concat());
    let mut t = start();
    assert!(s(&["volume", "create", "a", "--size", "16M"]).contains("created"));
    assert!(s(&["volume", "create", "a", "--size", "16M"]).contains("it was so already"));
    assert!(s(&["subsystem", "create", NQN]).contains("no host may connect yet"));
    s(&["subsystem", "add-ns", NQN, "a"]);
    s(&["host", "allow", NQN, HOST]);
    s(&["volume", "resize", "a", "32M"]);
    s(&["referral", "add", "192.0.2.9"]);
    s(&["listener", "add", "tcp://127.0.0.2:0", "--serves", "discovery"]);
    let lists = || {
        let kinds: [&[&str]; 5] = [
            &["volume", "list"],
            &["subsystem", "show", NQN],
            &["host", "list"],
            &["referral", "list"],
            &["subsystem", "list"],
        ];
        kinds.map(&s).join("\n")
    };
    let before = lists();
    for word in ["32 MiB", HOST, "tcp://192.0.2.9:8009", "a  "] {
        assert!(before.contains(word), "{word} is not in: {before}");
    }
    let pid = t.child.id().to_string();
    bad(&["serve", "--config", &file], 1, &["in use by process", &pid, "remedy: stop it"]);
    assert_eq!(s(&["listener", "list"]).lines().count(), 3);
    // Killed, with no chance to tidy up.
    t.signal("KILL");
    let mut t = start();
    assert_eq!(lists(), before);
    assert_eq!(t.listening().len(), 2);
    assert_eq!(t.signal("TERM"), Some(0));
    let t = start();
    assert_eq!(lists(), before);
    let status: serde_json::Value = serde_json::from_str(&s(&["status", "--json"])).unwrap();
    assert_eq!(status["volumes"][0]["size"], 32 << 20);
    drop(t);
}

#[test]
fn quickstart_proves_itself_and_finds_its_volume_again() {
    let dir = Dir::new("quick");
    let data = dir.path("d");
    let args = [
        "quickstart",
        "--data",
        &data,
        "--size",
        "64M",
        "--listen",
        "tcp://127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
        "--proof",
        "always",
        "--exit-after-proof",
    ];
    let first = good(&args);
    for word in [
        "made a pool in",
        "volume vol0: 64 MiB",
        "is sealed with the passphrase in quickstart.passphrase",
        "this protects nothing until",
        "listening on",
        "nvme connect",
        "Status:",
        "Metrics:",
        "It works.",
        "all right",
    ] {
        assert!(first.contains(word), "{word} is not in: {first}");
    }
    let nqn = |said: &str| {
        let line = said.lines().find(|l| l.contains("nvme disconnect -n ")).unwrap();
        line.rsplit(' ').next().unwrap().to_string()
    };
    for secret in ["quickstart.key", "quickstart.passphrase", "default.pool"] {
        use std::os::unix::fs::MetadataExt;
        let mode = dir.0.join("d").join(secret).metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    // What a host wrote is there after the next start, untouched by its proof.
    let t = Running::start(
        &[&args[..7], &["--metrics", "127.0.0.1:0", "--proof", "never"]].concat(),
        "Serving until",
    );
    let perf = |at: &str, more: &[&str]| {
        good(
            &[&["perf", at, "--nqn", &nqn(&t.said), "--block-size", "64k", "--verify", "--quiet"], more]
                .concat(),
        )
    };
    assert!(
        perf(&t.listening()[0], &["--pattern", "write", "--bytes", "8M", "--size", "8M"])
            .contains("all right")
    );
    drop(t);
    let again = good(&args);
    assert!(again.contains("is as it was left") && nqn(&again) == nqn(&first), "{again}");
    let t = Running::start(
        &[&args[..7], &["--metrics", "127.0.0.1:0", "--proof", "never"]].concat(),
        "Serving until",
    );
    let read = good(&[
        "perf",
        &t.listening()[0],
        "--nqn",
        &nqn(&t.said),
        "--block-size",
        "64k",
        "--verify",
        "--quiet",
        "--pattern",
        "read",
        "--bytes",
        "8M",
        "--size",
        "8M",
    ]);
    assert!(read.contains("(0 of them never written)"), "{read}");
}

/// A data folder from before there were pools of this kind: served as it is, with a word about it.
#[test]
fn quickstart_serves_plain_volumes_from_before() {
    let dir = Dir::new("plain");
    let config = dir.path("c.toml");
    let (data, socket) = (dir.path("d"), dir.path("d/caisson.sock"));
    std::fs::write(&config, "data_dir = 'd'\n[metrics]\naddress = ''\n").unwrap();
    let t = Running::start(&["serve", "--config", &config], "managed over");
    good(&["--socket", &socket, "volume", "create", "vol0", "--size", "32M"]);
    drop(t);
    let args = ["quickstart", "--data", &data, "--metrics", "127.0.0.1:0", "--proof", "never"];
    let t = Running::start(&args, "Serving until");
    for word in ["volume vol0: 32 MiB", "plain files in", "without deduplication", "caisson pool create"] {
        assert!(t.said.contains(word), "{word} is not in: {}", t.said);
    }
    assert!(!dir.0.join("d/quickstart.key").exists());
}

#[test]
fn completions_and_manual_pages() {
    assert!(good(&["completions", "bash"]).contains("_caisson"));
    assert!(good(&["completions", "zsh"]).contains("#compdef caisson"));
    assert!(good(&["man"]).contains(".TH caisson"));
    let dir = Dir::new("man");
    good(&["man", &dir.path("m")]);
    let pages = std::fs::read_dir(dir.0.join("m")).unwrap().count();
    assert!(pages > 15, "{pages} pages");
}
