//! Domains and key epochs as people use them: a tenant's volumes, the next keys for them, and their end.

mod support;

use support::{Dir, Running, bad, caisson, err, good};

const NQN: &str = "nqn.2024-01.com.example:domains";

/// A target with the pool `main`, and a volume of the default domain in it.
fn serve(dir: &Dir) -> Running {
    let socket = dir.path("s");
    let text = format!(
        "data_dir = 'd'\n[management]\nsocket = '{socket}'\n[metrics]\naddress = ''\n[[pool]]\nname = 'main'\n\
         key_file = 'key'\npassphrase_file = 'pass'\ndevice = [{{ path = 'p', size = '256M' }}]\n\
         [[volume]]\nname = 'disk'\npool = 'main'\nsize = '16M'\n[[subsystem]]\nnqn = '{NQN}'\nallow_any_host = true\n\
         namespace = [{{ volume = 'disk' }}]\n[[listener]]\naddress = 'tcp://127.0.0.1:0'\n"
    );
    std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
    std::fs::write(dir.path("c.toml"), text).unwrap();
    Running::start_with(&["serve", "--config", &dir.path("c.toml")], "managed over", &[])
}

#[test]
fn domains_are_made_rotated_and_destroyed_while_the_pool_serves() {
    let dir = Dir::new("domains");
    let mut t = serve(&dir);
    let socket = dir.path("s");
    let ask = |args: &[&str]| good(&[&["--socket", &socket][..], args].concat());
    let refused = |args: &[&str], words: &[&str]| bad(&[&["--socket", &socket][..], args].concat(), 4, words);
    let perf = |at: &str, nsid: &str, pattern: &str| {
        let fixed = ["perf", at, "--nqn", NQN, "--nsid", nsid, "--pattern", pattern, "--block-size", "64k"];
        caisson(&[&fixed[..], &["--bytes", "4M", "--size", "4M", "--verify", "--quiet"]].concat())
    };
    let works = |at: &str, nsid: &str, pattern: &str| {
        let o = perf(at, nsid, pattern);
        assert!(o.status.success(), "{nsid} {pattern}: {}", err(&o));
    };
    let create = ["volume", "create", "t", "--size", "16M", "--pool", "main", "--domain", "acme"];
    refused(&create, &["no domain acme", "caisson key create main --domain acme"]);
    ask(&["key", "create", "main", "--domain", "acme"]);
    assert!(ask(&["key", "create", "main", "--domain", "acme"]).contains("it was so already"));
    ask(&create);
    ask(&["volume", "snapshot", "t", "t-snap"]);
    ask(&["subsystem", "add-ns", NQN, "t"]);
    let at = t.listening()[0].clone();
    works(&at, "1", "write");
    works(&at, "2", "write");
    let page = ask(&["key", "status", "main"]);
    assert!(page.contains("acme: epoch 2") && page.contains("2 volumes"), "{page}");
    for domain in ["acme", "default", "pool"] {
        assert!(ask(&["key", "rotate", "main", "--domain", domain]).contains("under new keys"));
    }
    works(&at, "1", "read");
    works(&at, "2", "read");
    // Sealing anew ends by itself; how long that takes is the machine's business.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(300);
    while !ask(&["key", "status", "main"]).contains("nothing is left under earlier epochs") {
        assert!(std::time::Instant::now() < until, "{}", ask(&["key", "status", "main"]));
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let slots = ask(&["key", "list", "main", "--json"]);
    assert!(!slots.contains("\"pool\"") && slots.contains("pool, epoch 5"), "{slots}");
    works(&at, "1", "read");
    works(&at, "2", "read");
    let unsaid = ["--socket", &socket, "key", "destroy", "main", "--domain", "acme"];
    bad(&unsaid, 1, &["said again", "--confirm acme"]);
    refused(&["key", "destroy", "main", "--domain", "acme", "--confirm", "default"], &["--confirm acme"]);
    refused(&["key", "destroy", "main", "--domain", "pool", "--confirm", "pool"], &["cannot be destroyed"]);
    ask(&["key", "destroy", "main", "--domain", "acme", "--confirm", "acme"]);
    let o = perf(&at, "2", "read");
    assert!(!o.status.success() && err(&o).contains("Access Denied"), "{}", err(&o));
    works(&at, "1", "read");
    assert!(ask(&["key", "status", "main"]).contains("acme: KEYS DESTROYED; 2 volumes"));
    // It stays so over a restart, and what is left of it can be deleted.
    assert_eq!(t.signal("TERM"), Some(0));
    let t = serve(&dir);
    let at = t.listening()[0].clone();
    works(&at, "1", "read");
    assert!(!perf(&at, "2", "read").status.success());
    ask(&["subsystem", "remove-ns", NQN, "2"]);
    ask(&["volume", "delete", "t-snap"]);
    ask(&["volume", "delete", "t"]);
    let log = ask(&["key", "audit"]);
    for op in ["create-domain", "rotate-epoch", "destroy-domain"] {
        assert!(log.contains(op), "{op}: {log}");
    }
}

#[test]
fn the_key_of_a_deleted_volumes_map_is_erased() {
    let dir = Dir::new("map-keys");
    let mut t = serve(&dir);
    let socket = dir.path("s");
    let ask = |args: &[&str]| good(&[&["--socket", &socket][..], args].concat());
    ask(&["volume", "create", "x", "--size", "16M", "--pool", "main"]);
    ask(&["subsystem", "add-ns", NQN, "x"]);
    let at = t.listening()[0].clone();
    let written = caisson(&[
        "perf",
        &at,
        "--nqn",
        NQN,
        "--nsid",
        "2",
        "--pattern",
        "write",
        "--bytes",
        "1M",
        "--quiet",
    ]);
    assert!(written.status.success(), "{}", err(&written));
    ask(&["volume", "snapshot", "x", "x-snap"]);
    ask(&["subsystem", "remove-ns", NQN, "2"]);
    // With the end of a target there is a checkpoint, and so a key.
    assert_eq!(t.signal("TERM"), Some(0));
    let _t = serve(&dir);
    let page = ask(&["pool", "status", "main"]);
    assert!(
        page.contains("map keys")
            && page.contains("1, one for each volume that holds anything, with its copies; 0 erased"),
        "{page}"
    );
    let said = ask(&["volume", "delete", "x", "--wait"]);
    assert!(said.contains("stays for x-snap"), "{said}");
    let said = ask(&["volume", "delete", "x-snap", "--wait"]);
    assert!(said.contains("and the key of its map erased"), "{said}");
    let page = ask(&["key", "status", "main"]);
    assert!(
        page.contains("0, one for each volume that holds anything, with its copies; 1 erased since opened"),
        "{page}"
    );
    let until = std::time::Instant::now() + std::time::Duration::from_secs(300);
    while !ask(&["key", "audit"]).contains("erase-map-key") {
        assert!(std::time::Instant::now() < until, "{}", ask(&["key", "audit"]));
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let log = ask(&["key", "audit"]);
    assert!(
        log.contains("volume x-snap, which has map key 2")
            && log.contains("map key 2: nothing is stored under it"),
        "{log}"
    );
}
