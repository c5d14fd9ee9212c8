//! Pools as people use them: exported, managed, looked into, checked, and what is said when keys or devices do not fit.

mod support;

use std::path::Path;
use support::{Dir, Running, bad, good};

const NQN: &str = "nqn.2024-01.com.example:pools";

/// A folder with a passphrase, and the paths in it.
struct Stage {
    dir: Dir,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let dir = Dir::new(&format!("pools-{name}"));
        std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
        Stage { dir }
    }

    fn export(&self, more: &[&str]) -> Running {
        let (store, key) = (format!("pool:{}", self.dir.path("p")), self.dir.path("key"));
        let (pass, socket) = (self.dir.path("pass"), self.dir.path("s"));
        let args = ["--socket", &socket, "export", &store, "--key-file", &key, "--passphrase-file", &pass];
        let fixed = ["--nqn", NQN, "--listen", "tcp://127.0.0.1:0"];
        Running::start(&[&args[..], &fixed, more].concat(), "Ctrl-C")
    }

    /// Writes with a pattern, or reads and compares it.
    fn perf(&self, t: &Running, pattern: &str) {
        let at = &t.listening()[0];
        let said = good(&[
            "perf",
            at,
            "--nqn",
            NQN,
            "--pattern",
            pattern,
            "--block-size",
            "64k",
            "--bytes",
            "16M",
            "--size",
            "16M",
            "--verify",
            "--quiet",
        ]);
        assert!(said.contains("all right (0 of them never written)"), "{said}");
    }

    /// A command to the running target.
    fn ask(&self, args: &[&str]) -> String {
        good(&[&["--socket", &self.dir.path("s")], args].concat())
    }

    fn refused(&self, args: &[&str], words: &[&str]) {
        bad(&[&["--socket", &self.dir.path("s")], args].concat(), 4, words);
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ask(args)).unwrap()
    }
}

#[test]
fn one_line_makes_a_pool_and_the_same_line_opens_it() {
    let s = Stage::new("export");
    let mut t = s.export(&["--size", "64M", "--compression", "zstd:3"]);
    for word in ["64 MiB", "made the pool", "made the key file", "keep a copy of both"] {
        assert!(t.said.contains(word), "{word} is not in: {}", t.said);
    }
    s.perf(&t, "write");
    let identify = good(&["identify", &t.listening()[0], "--nqn", NQN]);
    assert!(identify.contains("64 MiB"), "{identify}");
    let volume = s.ask(&["volume", "show", "disk"]);
    for word in ["zstd:3", "write cache", "16 MiB"] {
        assert!(volume.contains(word), "{word} is not in: {volume}");
    }
    assert_eq!(t.signal("INT"), Some(0));
    // What was chosen when it was made stays.
    let mut t = s.export(&[]);
    assert!(!t.said.contains("made the"), "{}", t.said);
    s.perf(&t, "read");
    assert!(s.ask(&["volume", "show", "disk"]).contains("zstd:3"));
    let status = s.json(&["pool", "status", "pool", "--json"]);
    assert_eq!(status["status"]["mapped"], 16 << 20);
    assert!(status["status"]["stored"].as_u64().unwrap() > 0);
    assert!(s.ask(&["metrics"]).contains("caisson_pool_mapped_bytes{pool=\"pool\"} 16777216"));
    // Killed in the middle of everything: it is there again, and larger when that is asked for.
    t.signal("KILL");
    let t = s.export(&["--size", "128M"]);
    s.perf(&t, "read");
    assert!(s.ask(&["volume", "show", "disk"]).contains("128 MiB"));
    let page = s.ask(&["status"]);
    for word in ["POOL", "RATIO", "pool:pool"] {
        assert!(page.contains(word), "{word} is not in: {page}");
    }
}

#[test]
fn volumes_of_a_pool_are_managed_live() {
    let s = Stage::new("manage");
    let t = s.export(&["--size", "64M"]);
    s.perf(&t, "write");
    s.ask(&["volume", "create", "v", "--pool", "pool", "--size", "32M", "--dedup", "off", "--verify", "on"]);
    assert!(s.ask(&["volume", "set", "v", "--compression", "off"]).contains("changed"));
    assert!(s.ask(&["volume", "set", "v", "--compression", "off"]).contains("it was so already"));
    s.ask(&["volume", "snapshot", "disk", "monday"]);
    s.ask(&["volume", "clone", "monday", "test"]);
    s.ask(&["volume", "resize", "test", "80M"]);
    s.refused(&["volume", "resize", "monday", "80M"], &["snapshot", "remedy: make a clone"]);
    // It shares all its blocks, and has its root page at most.
    let free = s.json(&["volume", "show", "test", "--json"])["space"]["freed_by_delete"].as_u64().unwrap();
    assert!(free < 1 << 20, "{free}");
    let show = s.ask(&["volume", "show", "monday"]);
    assert!(show.contains("snapshot of") && show.contains("16 MiB"), "{show}");
    let v = s.json(&["volume", "show", "v", "--json"]);
    assert_eq!(v["services"]["compression"], "off");
    assert_eq!((&v["services"]["dedup"], &v["services"]["verify"]), (&false.into(), &true.into()));
    s.ask(&["subsystem", "add-ns", NQN, "test", "--nsid", "9"]);
    assert!(good(&["identify", &t.listening()[0], "--nqn", NQN]).contains("Namespace 9"));
    s.refused(&["volume", "delete", "test"], &["exported as namespace 9"]);
    s.ask(&["subsystem", "remove-ns", NQN, "9"]);
    for name in ["test", "monday", "v"] {
        s.ask(&["volume", "delete", name]);
    }
    assert_eq!(s.json(&["volume", "list", "--json"]).as_array().unwrap().len(), 1);
    s.refused(&["pool", "remove", "pool"], &["holds volume disk", "caisson volume delete"]);
    // At a rate that is chosen: so slow a one is still under way, whenever it is looked at.
    let scrub = || s.json(&["pool", "status", "pool", "--json"])["status"]["scrub"].clone();
    s.ask(&["pool", "scrub", "pool", "--rate", "64K"]);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while scrub()["running"] != true || scrub()["bytes"] == 0 {
        assert!(std::time::Instant::now() < end, "{}", scrub());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let status = s.ask(&["pool", "status", "pool"]);
    assert!(status.contains(" %, at most 64 KiB a second; "), "{status}");
    assert!(scrub()["rate"] == 64 << 10 && scrub()["percent"].as_u64().unwrap() < 100, "{}", scrub());
    s.ask(&["pool", "scrub", "pool", "--stop"]);
    while scrub()["running"] == true {
        assert!(std::time::Instant::now() < end, "{}", scrub());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(scrub()["completed"] == false && s.ask(&["pool", "status", "pool"]).contains("stopped at"));
    s.ask(&["pool", "scrub", "pool", "--rate", "1G"]);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while scrub()["completed"] != true {
        assert!(std::time::Instant::now() < end, "{}", scrub());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(scrub()["problems"], serde_json::json!([]));
    assert!(scrub()["bytes"].as_u64().unwrap() > 8 << 20, "{}", scrub());
    assert!(s.ask(&["pool", "status", "pool"]).contains("came to its end"));
    s.refused(&["pool", "status", "pol"], &["no pool pol", "caisson pool list"]);
    s.perf(&t, "read");
}

#[test]
fn pools_are_made_in_a_running_target_and_survive_restarts() {
    let s = Stage::new("serve");
    let file = s.dir.path("c.toml");
    let text = "data_dir = 'data'\n[management]\nsocket = 's'\n[metrics]\naddress = ''\n";
    std::fs::write(&file, text).unwrap();
    let start = || Running::start(&["serve", "--config", &file], "managed over");
    let mut t = start();
    let (device, key, pass) = (s.dir.path("m"), s.dir.path("key"), s.dir.path("pass"));
    let create = ["pool", "create", "main", "--device", &device, "--size", "1G", "--key-file", &key];
    s.refused(&create, &["no passphrase", "remedy: give --passphrase-file"]);
    assert!(!Path::new(&device).exists() && !Path::new(&key).exists());
    let create = [&create[..], &["--passphrase-file", &pass]].concat();
    let said = s.ask(&create);
    assert!(said.contains("pool \"main\" made") && said.contains("made the key file"), "{said}");
    assert!(s.ask(&create).contains("it was so already"));
    s.ask(&["volume", "create", "v", "--pool", "main", "--size", "16M"]);
    let refused = ["volume", "create", "w", "--size", "1M", "--dedup", "off"];
    s.refused(&refused, &["not in a pool that compresses", "caisson pool list"]);
    let size = || s.json(&["pool", "status", "main", "--json"])["status"]["size"].as_u64().unwrap();
    let first = size();
    assert!(s.ask(&["pool", "grow", "main"]).contains("it was so already"));
    s.ask(&["pool", "grow", "main", "--size", "2G"]);
    let second = size();
    assert!(second > first + (900 << 20), "{first} {second}");
    s.ask(&["pool", "add-device", "main", &s.dir.path("n"), "--size", "1G"]);
    assert!(size() > second + (900 << 20));
    s.refused(&["pool", "grow", "main", "--size", "3G"], &["several devices", "remedy: name one of"]);
    s.refused(&["pool", "add-device", "main", &pass], &["remedy:"]);
    let lists = || [s.ask(&["pool", "list"]), s.ask(&["volume", "list"])].concat();
    let before = lists();
    for word in ["main", "default", "plain", "pool:main"] {
        assert!(before.contains(word), "{word} is not in: {before}");
    }
    t.signal("KILL");
    let mut t = start();
    assert!(lists().contains("pool:main"));
    assert_eq!(t.signal("TERM"), Some(0));
    std::fs::write(&pass, "another\n").unwrap();
    bad(&["serve", "--config", &file], 1, &["passphrase is wrong", "remedy:"]);
    std::fs::write(&pass, "correct horse\n").unwrap();
    drop(start());
    // The same, declared by a file from the start.
    let declared = format!(
        "{text}[[pool]]\nname = 'main'\nkey_file = 'key'\npassphrase_file = 'pass'\ndevice = [{{ path = 'm' }}, {{ path = 'n' }}]\n\
         [[volume]]\nname = 'v'\npool = 'main'\nsize = '16M'\ncompression = 'off'\n"
    );
    std::fs::remove_dir_all(s.dir.path("data")).unwrap();
    std::fs::write(&file, &declared).unwrap();
    let t = start();
    assert_eq!(s.json(&["volume", "show", "v", "--json"])["services"]["compression"], "off");
    drop(t);
    std::fs::write(&file, declared.replace("'m' }", "'c.toml' }")).unwrap();
    bad(&["serve", "--config", &file], 5, &["c.toml:7:8: ", "and no pool", "remedy:"]);
}

#[test]
fn pools_are_checked_and_looked_into_without_a_target() {
    let s = Stage::new("offline");
    let mut t = s.export(&["--size", "64M", "--pool-size", "256M"]);
    s.perf(&t, "write");
    s.ask(&["volume", "snapshot", "disk", "kept"]);
    let (pool, key, pass) = (s.dir.path("p"), s.dir.path("key"), s.dir.path("pass"));
    let inspect = ["inspect", &pool];
    // The plain part, while it is served.
    let plain = good(&inspect);
    for word in ["1 of 1", "segments", "wrapped by file with root key root:"] {
        assert!(plain.contains(word), "{word} is not in: {plain}");
    }
    let keys = ["--key-file", &key[..], "--passphrase-file", &pass];
    let check = [&["check", &pool[..]], &keys[..]].concat();
    bad(&check, 1, &["in use by process", "remedy:"]);
    assert_eq!(t.signal("INT"), Some(0));
    assert!(good(&check).contains("the pool is whole"));
    let all = good(&[&inspect[..], &keys].concat());
    for word in ["kept", "snapshot", "64 MiB", "mapped"] {
        assert!(all.contains(word), "{word} is not in: {all}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&good(&[&inspect[..], &keys, &["--json"]].concat())).unwrap();
    assert_eq!(json["volumes"][0]["name"], "disk");
    // Neither writes anything.
    let before = std::fs::read(&pool).unwrap();
    let changed = || std::fs::metadata(&pool).unwrap().modified().unwrap();
    let then = changed();
    good(&check);
    good(&[&inspect[..], &keys].concat());
    assert_eq!(changed(), then, "the pool's file counts as modified");
    let mut bytes = std::fs::read(&pool).unwrap();
    assert!(before == bytes, "the pool was written to");
    // A bit in the middle of each segment: checkpoints are short and stand at the beginning of one.
    for at in ((1 << 20) + 400_000..bytes.len()).step_by(512 << 10) {
        bytes[at] ^= 4;
    }
    std::fs::write(&pool, &bytes).unwrap();
    bad(&check, 1, &["blocks of 4 KiB are lost", "remedy: write the lost blocks anew"]);
    bad(&["inspect", &pass], 1, &["there is no pool on", "remedy:"]);
    std::fs::write(s.dir.path("wrong"), "wrong").unwrap();
    bad(
        &["check", &pool, "--key-file", &key, "--passphrase-file", &s.dir.path("wrong")],
        1,
        &["passphrase is wrong"],
    );
    bad(&["check", &pool, "--key-file", &pass, "--passphrase-file", &pass], 1, &["chmod 600"]);
}

#[test]
fn export_says_what_a_pool_needs() {
    let s = Stage::new("refuse");
    let (store, key, pass) = (format!("pool:{}", s.dir.path("p")), s.dir.path("key"), s.dir.path("pass"));
    bad(&["export", &store, "--size", "64M"], 1, &["no key file is named", "remedy: add --key-file"]);
    bad(&["export", &store, "--key-file", &key], 1, &["there is no", "remedy: give --size"]);
    bad(&["export", "pool:", "--key-file", &key], 1, &["needs a path"]);
    bad(&["export", "ram:64M", "--key-file", &key], 1, &["is no pool", "remedy: write pool:PATH"]);
    bad(&["export", "ram:64M", "--dedup", "on"], 1, &["is no pool"]);
    bad(&["export", &store, "--compression", "lz4"], 2, &["zstd:LEVEL"]);
    bad(&["export", &store, "--compression", "zstd:20"], 2, &["-7 to -1 or 1 to 19"]);
    bad(&["volume", "set", "v"], 1, &["nothing is to be changed", "--compression"]);
    bad(&["pool", "create", "m", "--key-file", "k"], 2, &["--device"]);
    let export = ["export", &store[..], "--size", "64M", "--key-file", &key, "--listen", "tcp://127.0.0.1:0"];
    let missing = s.dir.path("none");
    bad(&[&export[..], &["--passphrase-file", &missing]].concat(), 1, &["none", "remedy: check the path"]);
    let small = ["--pool-size", "8M", "--passphrase-file", &pass];
    bad(&[&export[..], &small].concat(), 1, &["a pool needs", "remedy: use a larger file"]);
    assert!(!Path::new(&s.dir.path("p")).exists(), "no pool of half a making is left");
}
