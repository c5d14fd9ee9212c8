//! What somebody meets who uses the program for the first time: mistakes that are easily made, and what it says of them.

mod support;

use std::io::Read;
use std::process::{Command, Stdio};
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
