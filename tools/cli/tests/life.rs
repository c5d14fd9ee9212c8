//! What becomes of keys later: shares after rotations, the end of root keys, a key manager that hangs, limits of use, domains out of a
//! configuration file, and where all of that is recorded.

#[path = "../../../kms/kmip/tests/support/mod.rs"]
mod kmip;
mod support;

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use support::stage::Stage;
use support::token::uri;
use support::{CAISSON, Running, bad, good};

/// The root key that wraps the pool's keys.
fn newest_root(s: &Stage) -> String {
    let all: serde_json::Value = serde_json::from_str(&s.ask(&["key", "list", "main", "--json"])).unwrap();
    all[0]["root"].as_str().unwrap().to_string()
}

/// Waits until `done`; how long that takes is the machine's business.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(300);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Shares that people hold open the pool after its domains have been rotated and others made; a domain's end is theirs, too.
#[test]
fn shares_open_a_pool_whose_keys_were_rotated_since() {
    let s = Stage::new("recovery-later");
    let (file, pass) = (s.dir.path("key"), s.dir.path("pass"));
    s.config("key_file = 'key'\npassphrase_file = 'pass'\ndevice = [{ path = 'p', size = '256M' }]\n");
    let t = s.serve();
    s.perf(&t, "write");
    let out = s.dir.path("shares");
    s.ask(&["key", "export-recovery", "main", "--shares", "3", "--needed", "2", "--out", &out]);
    for args in [["rotate", "default"], ["create", "acme"], ["rotate", "pool"], ["rotate", "acme"]] {
        s.ask(&["key", args[0], "main", "--domain", args[1]]);
    }
    s.ask(&["key", "rotate", "main"]);
    let page = s.ask(&["key", "status", "main"]);
    assert!(!page.contains("INCOMPLETE") && page.contains("domain 2, epoch 5 by recovery"), "{page}");
    // When nothing is left under the first epochs, what is left of the slots opens it.
    until("the sealing anew ends", || {
        s.ask(&["key", "status", "main"]).contains("nothing is left under earlier epochs")
    });
    s.perf(&t, "read");
    drop(t);
    std::fs::rename(&file, s.dir.path("lost")).unwrap();
    let (pool, one, two) =
        (s.dir.path("p"), s.dir.path("shares/share-1.txt"), s.dir.path("shares/share-2.txt"));
    let import = ["key", "import-recovery", &pool, "--share", &one, "--share", &two];
    let said = s.ask(&[&import[..], &["--key-file", &file, "--passphrase-file", &pass]].concat());
    assert!(said.contains("the pool opens with file root:"), "{said}");
    let t = s.serve();
    s.perf(&t, "read");
    let page = s.ask(&["key", "status", "main"]);
    assert!(!page.contains("INCOMPLETE") && page.contains("acme: epoch 5"), "{page}");
}

/// The end of a server's root keys: revoked, destroyed, and refused while a pool needs them.
#[test]
fn root_keys_in_a_server_are_revoked_and_destroyed() {
    let s = Stage::new("root-end");
    let site = kmip::Site::new("cli-root-end");
    let server = site.server("server", None);
    let key = site.uri(&[server.port], "root", "client").to_string();
    s.config(&format!("keys = [\"{key}\"]\ndevice = [{{ path = 'p', size = '256M' }}]\n"));
    let t = s.serve();
    s.perf(&t, "write");
    let root = || newest_root(&s);
    let first = root();
    let ends = |verb: &str, root: &str, more: &[&str]| {
        s.own(&[&["key", verb, "main", "--root", root, "--confirm", root][..], more].concat())
    };
    for verb in ["revoke", "destroy"] {
        s.fails(&s.own(&["key", verb, "main", "--root", &first]), 1, &["said again", "--confirm"]);
        s.fails(&s.own(&["key", verb, "main", "--root", &first, "--confirm", "x"]), 4, &["said again"]);
        s.fails(&ends(verb, &first, &[]), 4, &["pool \"main\" needs root key", "caisson key rotate main"]);
        s.fails(&ends(verb, "no-such", &[]), 4, &["has a root key no-such"]);
    }
    s.perf(&t, "read");
    s.ask(&["key", "rotate", "main"]);
    let second = root();
    let copy = s.dir.path("copy");
    s.ask(&["key", "revoke", "main", "--root", &first, "--reason", "superseded", "--confirm", &first]);
    s.ask(&["key", "destroy", "main", "--root", &first, "--confirm", &first]);
    s.fails(&ends("destroy", &first, &[]), 4, &["has a root key"]);
    s.perf(&t, "read");
    // Compromised: a new one, and nothing opens with the old, not even a copy of before.
    drop(t);
    std::fs::copy(s.dir.path("p"), &copy).unwrap();
    let t = s.serve();
    s.ask(&["key", "rotate", "main"]);
    let third = root();
    s.ask(&["key", "revoke", "main", "--root", &second, "--reason", "compromise", "--confirm", &second]);
    s.fails(&s.own(&["check", &copy, "--key", &key]), 1, &["is compromised"]);
    s.ask(&["key", "destroy", "main", "--root", &second, "--confirm", &second]);
    s.fails(&s.own(&["check", &copy, "--key", &key]), 1, &["has no key"]);
    // One of two providers: the pool opens with the other alone.
    let (file, pass) = (s.dir.path("key"), s.dir.path("pass"));
    s.ask(&["key", "add", "main", "--key-file", &file, "--passphrase-file", &pass]);
    s.ask(&["key", "destroy", "main", "--root", &third, "--confirm", &third]);
    assert!(!s.ask(&["key", "list", "main"]).contains("kmip"));
    s.ask(&["key", "rotate", "main", "--domain", "default"]);
    // And has a new one when it is asked for.
    s.ask(&["key", "rotate", "main"]);
    assert!(s.ask(&["key", "list", "main"]).contains("kmip"));
    s.perf(&t, "read");
    drop(t);
    let t = s.serve();
    s.perf(&t, "read");
    let log = s.ask(&["key", "audit"]);
    for word in ["revoke-root", "destroy-root", "compromised", "another took its place", "whole and signed"] {
        assert!(log.contains(word), "{word} is not in: {log}");
    }
}

/// The same by way of a key service, which alone knows the server, its certificates and the name of its key.
#[test]
fn root_keys_in_a_server_end_by_way_of_the_service() {
    let s = Stage::new("root-end-kms");
    let site = kmip::Site::new("cli-root-end-kms");
    let server = site.server("server", None);
    let behind = site.uri(&[server.port], "root", "client");
    let (socket, audit) = (s.dir.path("kms.sock"), s.dir.path("kms"));
    std::fs::create_dir(&audit).unwrap();
    let said = good(&["key", "create", "--key", &behind.to_string(), "--audit", &audit]);
    assert!(said.contains("kmip"), "{said}");
    let (named, me) = (format!("main={behind}"), std::fs::metadata("/proc/self").unwrap().uid().to_string());
    let args = ["kms", "serve", "--at", &socket, "--audit", &audit, "--key", &named, "--allow-end", &me];
    let service = Running::start(&args, "serving keys");
    s.config(&format!(
        "keys = [\"kms:key=main?socket={socket}\"]\ndevice = [{{ path = 'p', size = '256M' }}]\n"
    ));
    let t = s.serve();
    s.perf(&t, "write");
    let root = || newest_root(&s);
    let first = root();
    let end = |verb: &str, root: &str| s.own(&["key", verb, "main", "--root", root, "--confirm", root]);
    for verb in ["revoke", "destroy"] {
        s.fails(&end(verb, &first), 4, &["pool \"main\" needs root key", "caisson key rotate main"]);
    }
    std::fs::copy(s.dir.path("p"), s.dir.path("copy")).unwrap();
    s.ask(&["key", "rotate", "main"]);
    assert_ne!(root(), first);
    s.ask(&["key", "revoke", "main", "--root", &first, "--reason", "compromise", "--confirm", &first]);
    // The server's own word for it comes through the service.
    let check = ["check", &s.dir.path("copy"), "--key", &format!("kms:key=main?socket={socket}")];
    let check: Vec<String> = check.iter().map(ToString::to_string).collect();
    s.fails(&check, 1, &["is compromised"]);
    s.ask(&["key", "destroy", "main", "--root", &first, "--confirm", &first]);
    s.fails(&check, 1, &["has no key"]);
    s.fails(&end("destroy", &first), 4, &["has a root key"]);
    // The server is away, and the service is not: nothing is given up.
    s.ask(&["key", "rotate", "main"]);
    let last = root();
    s.ask(&["key", "rotate", "main"]);
    drop(server);
    for verb in ["revoke", "destroy"] {
        s.fails(&end(verb, &last), 4, &["does not answer"]);
    }
    s.perf(&t, "read");
    drop((t, service));
    let said = s.ask(&["key", "audit", &s.dir.path("kms/audit.log")]);
    for word in ["revoke-root", "destroy-root", "begins: main, for user", &first, "whole and signed"] {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
}

/// Killed while a root key is destroyed that one of two providers holds: the pool opens with the other each time, and with the first as long
/// as its key is there.
#[test]
fn the_end_of_a_root_key_that_is_killed_leaves_a_pool_that_opens() {
    let s = Stage::new("kill-end");
    let site = kmip::Site::new("cli-kill-end");
    let server = site.server("server", None);
    let key = site.uri(&[server.port], "root", "client").to_string();
    s.config(&format!(
        "keys = [\"{key}\"]\nkey_file = 'key'\npassphrase_file = 'pass'\ndevice = [{{ path = 'p', size = '256M' }}]\n"
    ));
    let t = s.serve();
    s.perf(&t, "write");
    drop(t);
    let (file, pass) = (s.dir.path("key"), s.dir.path("pass"));
    for pause in [20, 60, 120, 200, 400] {
        let mut t = s.serve();
        s.ask(&["key", "rotate", "main", "--key", &key]);
        let all: serde_json::Value =
            serde_json::from_str(&s.ask(&["key", "list", "main", "--json"])).unwrap();
        let slot = all.as_array().unwrap().iter().find(|k| k["provider"] == "kmip").unwrap();
        let root = slot["root"].as_str().unwrap().to_string();
        let mut end = Command::new(CAISSON)
            .args(s.own(&["key", "destroy", "main", "--root", &root, "--confirm", &root]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        t.signal("KILL");
        let done = end.wait().unwrap().success();
        drop(t);
        let whole = |keys: &[&str]| {
            let out = Command::new(CAISSON).args(["check", &s.dir.path("p")]).args(keys).output().unwrap();
            String::from_utf8_lossy(&out.stdout).contains("the pool is whole")
        };
        assert!(whole(&["--key-file", &file, "--passphrase-file", &pass]), "after {pause} ms");
        assert!(!done || !whole(&["--key", &key]), "what was confirmed is done");
    }
    // The server is away: nothing is given up for a key that cannot be ended.
    let t = s.serve();
    s.ask(&["key", "rotate", "main", "--key", &key]);
    let before = s.ask(&["key", "list", "main"]);
    let root =
        before.lines().find(|l| l.contains("kmip")).unwrap().split_whitespace().last().unwrap().to_string();
    drop(server);
    for verb in ["revoke", "destroy"] {
        let end = s.own(&["key", verb, "main", "--root", &root, "--confirm", &root]);
        s.fails(&end, 4, &["cannot be asked", "does not answer"]);
    }
    assert_eq!(s.ask(&["key", "list", "main"]), before);
    s.perf(&t, "read");
}

/// A token's, in the same way: C_DestroyObject.
#[test]
fn root_keys_in_a_token_are_destroyed() {
    let s = Stage::new("token-end");
    let key = uri(&s.dir, "Caisson", "pin");
    s.config(&format!("keys = [\"{key}\"]\ndevice = [{{ path = 'p', size = '256M' }}]\n"));
    let t = s.serve();
    s.perf(&t, "write");
    let list = s.ask(&["key", "list", "main"]);
    let root = list.split_whitespace().find(|w| w.starts_with("root:")).unwrap().to_string();
    let end = s.own(&["key", "destroy", "main", "--root", &root, "--confirm", &root]);
    s.fails(&end, 4, &["pool \"main\" needs root key"]);
    s.ask(&["key", "rotate", "main"]);
    let revoke = s.own(&["key", "revoke", "main", "--root", &root, "--confirm", &root]);
    s.fails(&revoke, 4, &["cannot take root key", "key destroy"]);
    s.ask(&["key", "destroy", "main", "--root", &root, "--confirm", &root]);
    s.fails(&end, 4, &["has a root key"]);
    drop(t);
    let t = s.serve();
    s.perf(&t, "read");
}

/// A server that takes connections and says nothing: a pool that is to be made for the first time waits for it, and management goes on.
#[test]
fn management_answers_while_a_key_manager_hangs() {
    let s = Stage::new("hangs");
    let site = kmip::Site::new("cli-hangs");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let hold = Arc::new(AtomicBool::new(false));
    let (held, connections) = mpsc::channel::<TcpStream>();
    let holds = Arc::clone(&hold);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // At first it ends each connection, so that the target starts without it.
            if holds.load(Ordering::Acquire) && held.send(stream).is_err() {
                return;
            }
        }
    });
    let key = site.uri(&[port], "root", "client").to_string().replace("timeout=20", "timeout=120");
    s.config(&format!("keys = [\"{key}\"]\ndevice = [{{ path = 'p', size = '256M' }}]\n"));
    let t = s.serve();
    assert!(s.ask(&["key", "status", "main"]).contains("WAITS FOR ITS KEYS"));
    hold.store(true, Ordering::Release);
    let mut retry = Command::new(CAISSON)
        .args(s.own(&["key", "retry", "main"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let first = connections.recv_timeout(Duration::from_secs(100)).expect("it asks the key manager");
    // While that says nothing, what is configured is seen and changed.
    let nqn = "nqn.2024-01.com.example:meanwhile";
    s.ask(&["subsystem", "create", nqn, "--allow-any-host"]);
    assert!(s.ask(&["subsystem", "list"]).contains(nqn));
    s.ask(&["volume", "create", "v", "--backing", "ram", "--size", "1M"]);
    assert!(s.ask(&["pool", "list"]).contains("WAITS"));
    assert!(retry.try_wait().unwrap().is_none(), "the key manager was still being waited for");
    assert!(!s.dir.0.join("p").exists(), "nothing half made");
    hold.store(false, Ordering::Release);
    drop((first, connections));
    assert!(!retry.wait().unwrap().success());
    drop(t);
}

/// An epoch that has sealed as much as it may is followed by the next, by itself, and recorded.
#[test]
fn limits_of_use_begin_the_next_epoch_by_themselves() {
    let s = Stage::new("limits");
    s.config("key_file = 'key'\npassphrase_file = 'pass'\ndevice = [{ path = 'p', size = '256M' }]\n");
    let config = s.dir.path("c.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    // Neither compressed nor known already, each round seals its 4 MiB.
    let text = text.replacen("size = '64M'", "size = '64M'\ncompression = 'off'\ndedup = false", 1);
    let limits = "[limits]\nkey_epoch_bytes = '24M'\n";
    std::fs::write(&config, text.replacen("[management]", &format!("{limits}[management]"), 1)).unwrap();
    let t = s.serve();
    s.perf(&t, "write");
    let before = s.ask(&["key", "status", "main"]);
    assert!(before.contains("default: epoch 1,"), "{before}");
    let mut rounds = 0;
    until("the next epoch begins", || {
        if rounds < 8 {
            s.perf(&t, "write");
            rounds += 1;
        }
        !s.ask(&["key", "status", "main"]).contains("default: epoch 1,")
    });
    until("the sealing anew ends", || {
        s.ask(&["key", "status", "main"]).contains("nothing is left under earlier epochs")
    });
    s.perf(&t, "read");
    let list = s.ask(&["key", "list", "main"]);
    assert!(!list.lines().any(|l| l.starts_with("domain 1 ")), "the first is erased: {list}");
    let log = s.ask(&["key", "audit"]);
    assert!(log.contains("rotate-epoch") && log.contains("has sealed as much as one may"), "{log}");
    for (wrong, words) in [("'1K'", "out of range"), ("'512T'", "out of range")] {
        std::fs::write(
            &config,
            text.replacen("[management]", &format!("[limits]\nkey_epoch_bytes = {wrong}\n[management]"), 1),
        )
        .unwrap();
        bad(&["config", "check", &config], 5, &[words, "key_epoch_bytes"]);
    }
}

/// A volume's domain in the configuration file: made with the volume, kept, and never another.
#[test]
fn a_volumes_domain_stands_in_the_configuration() {
    let s = Stage::new("domain-file");
    s.config("key_file = 'key'\npassphrase_file = 'pass'\ndevice = [{ path = 'p', size = '256M' }]\n");
    let config = s.dir.path("c.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let named = |domain: &str| {
        std::fs::write(
            &config,
            text.replacen("size = '64M'", &format!("size = '64M'\ndomain = '{domain}'"), 1),
        )
        .unwrap();
    };
    named("tenant-a");
    let mut t = s.serve();
    s.perf(&t, "write");
    assert!(s.ask(&["volume", "show", "disk"]).contains("tenant-a"));
    let status = s.ask(&["key", "status", "main"]);
    assert!(status.contains("tenant-a: epoch 2") && status.contains("1 volume\n"), "{status}");
    assert!(s.ask(&["key", "audit"]).contains("create-domain"));
    t.signal("TERM");
    // As it is, and with nothing said, it is found; another domain is refused, and what the file says of it is pointed at.
    for again in [true, false] {
        if again {
            named("tenant-a")
        } else {
            std::fs::write(&config, &text).unwrap()
        }
        let mut t = s.serve();
        s.perf(&t, "read");
        t.signal("TERM");
    }
    for other in ["tenant-b", "default"] {
        named(other);
        s.fails(
            &s.own(&["serve", "--config", &config]),
            5,
            &["volume disk is in the domain tenant-a", &format!("not in {other}"), "c.toml:"],
        );
    }
    named("pool");
    bad(&["config", "check", &config], 5, &["belongs to no volume", "remedy:"]);
    named("../x");
    bad(&["config", "check", &config], 5, &["cannot be a domain's name", "remedy:"]);
}

/// A target without a data directory records beside its pool, says where, and the record is whole.
#[test]
fn what_export_does_with_keys_is_recorded() {
    let s = Stage::new("export-audit");
    let (file, pass) = (s.dir.path("key"), s.dir.path("pass"));
    let keys = ["--key-file", &file, "--passphrase-file", &pass];
    let mut t = s.export(&keys);
    let log = s.dir.path("p.audit/audit.log");
    assert!(t.said.contains(&format!("recorded in {log}")), "{}", t.said);
    s.ask(&["key", "rotate", "pool"]);
    let said = s.ask(&["key", "audit"]);
    for word in ["create", "rotate", "whole and signed"] {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
    assert_eq!(t.signal("INT"), Some(0));
    let mut t = s.export(&keys);
    assert_eq!(t.signal("INT"), Some(0));
    let said = good(&["key", "audit", &log]);
    assert!(said.contains("unlock"), "{said}");
    good(&["key", "audit", &log, "--verify"]);
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(s.dir.path("p.audit")).unwrap());
    assert_eq!(mode & 0o777, 0o700);
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replacen("\"rotate\"", "\"unlock\"", 1)).unwrap();
    bad(&["key", "audit", &log, "--verify"], 1, &["not what was written"]);
    // One without keys has nothing to record, and says so.
    let ram = ["--socket", &s.dir.path("r"), "export", "ram:1M", "--listen", "tcp://127.0.0.1:0"];
    let _t = support::Running::start(&ram, "Ctrl-C");
    bad(&["--socket", &s.dir.path("r"), "key", "audit"], 1, &["has recorded nothing"]);
}
