//! What somebody meets who uses the program for the first time: mistakes that are easily made, and what it says of them.

mod support;

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{CAISSON, Dir, Running, bad, caisson, err, good};

const NQN: &str = "nqn.2024-01.com.example:first";
const HOST: &str = "nqn.2024-01.com.example:host";

fn export(socket: &str, store: &[&str]) -> Running {
    let fixed = ["--nqn", NQN, "--listen", "tcp://127.0.0.1:0"];
    Running::start(&[&["--socket", socket, "export"], store, &fixed].concat(), "Ctrl-C")
}

#[test]
fn a_refused_connect_says_what_to_do() {
    let dir = Dir::new("first-connect");
    let socket = dir.path("s");
    let t = export(&socket, &["ram:1M", "--allow", HOST]);
    let at = &t.listening()[0];
    let other = "nqn.2024-01.com.example:other";
    let o = caisson(&["identify", at, "--nqn", other]);
    let said = err(&o);
    assert!(said.contains(other) && said.contains("Connect Invalid Parameters (1h/82h)"), "{said}");
    assert!(said.contains("caisson discover") && !said.contains("Read Only"), "{said}");
    bad(&["identify", at, "--nqn", NQN], 1, &["Connect Invalid Host", "caisson host allow"]);
    bad(
        &["identify", at, "--nqn", NQN, "--hostnqn", HOST, "--nsid", "7"],
        1,
        &["there is no namespace 7", "--nsid"],
    );
    bad(&["perf", "tcp://nowhere.invalid:4420"], 1, &["the host nowhere.invalid is not found"]);
}

#[test]
fn a_reader_that_has_had_enough_is_no_fault() {
    let dir = Dir::new("first-pipe");
    let t = export(&dir.path("s"), &["ram:1M"]);
    for args in [&["identify"][..], &["identify", "--json"], &["discover"], &["discover", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(CAISSON);
        let o = command.args(args).arg(&t.listening()[0]).stdout(writer).stderr(Stdio::piped()).output();
        let o = o.unwrap();
        assert!(o.status.success() && o.stderr.is_empty(), "{args:?}: {}", err(&o));
    }
}

#[test]
fn a_store_that_is_none_is_told_apart_from_one_that_is_missing() {
    bad(&["export", "ram"], 1, &["there is no ram", "remedy: write ram:SIZE"]);
    let dir = Dir::new("first-store");
    bad(&["export", &dir.path(""), "--size", "1M"], 1, &["is a directory", "remedy: check that"]);
    let file = dir.path("file");
    std::fs::write(&file, [0; 5000]).unwrap();
    let o = caisson(&["export", &file]);
    assert!(err(&o).contains("use 4096 or 8192") && !err(&o).contains("in use elsewhere"), "{}", err(&o));
    // As what this user may not look into is.
    let below = format!("{file}/disk");
    bad(&["export", &below, "--size", "1M"], 1, &["cannot be looked at"]);
    bad(
        &["export", &format!("pool:{below}"), "--size", "1M", "--key-file", "k"],
        1,
        &["cannot be looked at"],
    );
    bad(&["check", &dir.path("none"), "--key-file", "k"], 1, &["there is no", "none"]);
}

#[test]
fn a_pool_that_is_exported_as_a_plain_disk_is_warned_of() {
    let dir = Dir::new("first-plain");
    std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
    let (file, key, pass, socket) = (dir.path("p"), dir.path("key"), dir.path("pass"), dir.path("s"));
    let (store, volume) = (format!("pool:{file}"), ["--size", "64M", "--pool-size", "256M"]);
    let keys = ["--key-file", &key, "--passphrase-file", &pass];
    let mut t = export(&socket, &[&[store.as_str()], &volume[..], &keys].concat());
    let s = |args: &[&str]| good(&[&["--socket", &socket], args].concat());
    // A copy that there is already is not the volume as it is now.
    assert_eq!(s(&["volume", "snapshot", "disk", "mon"]), "mon keeps what disk holds\n");
    assert!(s(&["volume", "snapshot", "disk", "mon"]).starts_with("mon is a snapshot of disk already"));
    assert_eq!(s(&["volume", "clone", "mon", "copy"]), "copy begins as what mon holds\n");
    assert!(s(&["volume", "clone", "mon", "copy"]).starts_with("copy is a clone of mon already"));
    let made = s(&["volume", "create", "new", "--size", "1M", "--pool", "pool"]);
    assert_eq!(made, "volume new created\nno host sees it yet: caisson subsystem add-ns NQN new\n");
    assert_eq!(t.signal("INT"), Some(0));
    let errors = |t: &mut Running| {
        let mut said = String::new();
        assert_eq!(t.signal("INT"), Some(0));
        t.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    };
    let said = errors(&mut export(&socket, &[&file]));
    assert!(said.contains("holds a pool") && said.contains(&store), "{said}");
    let plain = dir.path("plain");
    assert_eq!(errors(&mut export(&socket, &[&plain, "--size", "1M"])), "");
}

#[test]
fn a_blank_file_is_made_no_pool_without_a_size_for_the_volume() {
    let dir = Dir::new("first-blank");
    let (blank, key, pass) = (dir.path("blank"), dir.path("key"), dir.path("pass"));
    std::fs::write(&blank, vec![0; 64 << 20]).unwrap();
    std::fs::write(&pass, "correct horse\n").unwrap();
    let store = format!("pool:{blank}");
    let args = ["export", &store, "--key-file", &key, "--passphrase-file", &pass];
    bad(&args, 1, &["is blank", "remedy: give --size, the size of the volume"]);
    assert!(std::fs::read(&blank).unwrap().iter().all(|b| *b == 0), "there is something on it");
    let left: Vec<_> = dir.0.read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    // The same with a size makes it, and from then on it goes without; a pool is told apart from its name.
    let socket = dir.path("s");
    let mut t = export(&socket, &[&args[1..], &["--size", "16M"]].concat());
    assert!(t.said.contains("made the pool"), "{}", t.said);
    assert_eq!(t.signal("INT"), Some(0));
    assert_eq!(export(&socket, &args[1..]).signal("INT"), Some(0));
    std::fs::write(&pass, "wrong\n").unwrap();
    bad(&args, 1, &["pool \"pool\" cannot be unlocked"]);
    let named = format!("pool {blank:?} cannot be unlocked");
    bad(&["check", &blank, "--key-file", &key, "--passphrase-file", &pass], 1, &[&named]);
}

#[test]
fn an_address_that_is_taken_is_told_with_what_can_be_done() {
    let dir = Dir::new("first-taken");
    // Below what the system gives to outgoing connections, and beside what other tests' servers have: it is freed and taken again.
    let port = |n| 10_000 + (std::process::id().wrapping_mul(16).wrapping_add(n) % 8_000) as u16;
    let taken = (0..8_000).find_map(|n| std::net::TcpListener::bind(("127.0.0.1", port(n))).ok()).unwrap();
    let address = taken.local_addr().unwrap();
    let (at, data) = (format!("tcp://{address}"), dir.path("d"));
    let start = |listen: &str| {
        let listen = ["--listen", listen, "--metrics", "127.0.0.1:0"];
        let to = ["quickstart", "--data", &data, "--size", "1M", "--proof", "never", "--exit-after-proof"];
        caisson(&[&to[..], &listen].concat())
    };
    bad(&["export", "ram:1M", "--listen", &at], 1, &[&at, "in use", "choose another", "--listen"]);
    let first = err(&start(&at));
    assert!(first.contains(&at) && first.contains("--listen or") && !first.contains("first run"), "{first}");
    // Nothing is half made: the same where the address is free is a first run.
    drop(taken);
    let o = start(&at);
    let said = String::from_utf8_lossy(&o.stdout).into_owned();
    assert!(o.status.success() && said.contains("made a pool in"), "{said}{}", err(&o));
    assert_eq!(err(&start(&at)), "");
    let elsewhere = "tcp://127.0.0.1:0";
    let o = start(elsewhere);
    assert!(o.status.success() && err(&o).contains("caisson listener add"), "{}", err(&o));
    assert!(err(&o).contains(elsewhere) && err(&o).contains("is for the first run"), "{}", err(&o));
    // A later run listens where the first did, so that another --listen is no remedy.
    // The system closes what a ring had open a moment after the ring's process has ended.
    let again =
        || std::net::TcpListener::bind(address).map_err(|_| std::thread::sleep(Duration::from_millis(5)));
    let _taken = (0..2000).find_map(|_| again().ok()).expect("the address stays taken");
    let later = err(&start(elsewhere));
    assert!(later.contains(&at) && later.contains("where its first run was told to"), "{later}");
    assert!(later.contains("--data DIR"), "{later}");
}

#[test]
fn a_host_that_is_allowed_where_any_host_may_connect_is_no_restriction() {
    let dir = Dir::new("first-allow");
    let socket = dir.path("s");
    let _t = export(&socket, &["ram:1M"]);
    let s = |args: &[&str]| good(&[&["--socket", &socket], args].concat());
    let said = s(&["host", "allow", NQN, HOST]);
    let remedy = format!("so may any other host: caisson subsystem allow-any {NQN} off\n");
    assert!(said.starts_with(&format!("{HOST} may connect")) && said.ends_with(&remedy), "{said}");
    s(&["subsystem", "allow-any", NQN, "off"]);
    assert!(!s(&["host", "allow", NQN, HOST]).contains("any other host"));
    // Where there is no pool, that is said, and not nothing.
    assert!(s(&["pool", "status"]).starts_with("no pools; make one"));
}
