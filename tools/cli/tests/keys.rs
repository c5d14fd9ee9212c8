//! Keys as people use them: in a key file, a token or a server, moved between them, lost and recovered.

#[path = "../../../kms/kmip/tests/support/mod.rs"]
mod kmip;
mod support;

use std::process::Command;
use support::stage::{NQN, Stage, rotate_and_kill};
use support::token::{PIN, uri};
use support::{CAISSON, err, out};

#[test]
fn a_pool_opens_with_its_token_or_its_key_file_and_with_nothing_else() {
    let s = Stage::new("either");
    let key = uri(&s.dir, "Caisson", "pin");
    let (file, pass) = (s.dir.path("key"), s.dir.path("pass"));
    let by_file = ["--key-file", &file, "--passphrase-file", &pass];
    let mut t = s.export(&[&by_file[..], &["--key", &key]].concat());
    s.perf(&t, "write");
    let page = s.ask(&["pool", "status", "pool"]);
    assert!(page.contains("pkcs11:token=Caisson;object=root") && page.contains("file:/"), "{page}");
    assert_eq!(t.signal("INT"), Some(0));
    for keys in [&by_file[..], &["--key", &key]] {
        let mut t = s.export(keys);
        s.perf(&t, "read");
        assert_eq!(t.signal("INT"), Some(0));
    }
    let plain = s.ask(&["inspect", &s.dir.path("p")]);
    assert!(plain.contains("pkcs11") && plain.contains("wrapped by file"), "{plain}");
    let inside = s.ask(&["inspect", &s.dir.path("p"), "--key", &key]);
    assert!(inside.contains("disk"), "{inside}");
    assert!(s.ask(&["check", &s.dir.path("p"), "--key", &key]).contains("the pool is whole"));
    // No byte of the pool is the PIN or passphrase.
    let raw = std::fs::read(s.dir.path("p")).unwrap();
    for secret in [PIN.as_bytes(), b"correct horse"] {
        assert!(!raw.windows(secret.len()).any(|w| w == secret));
    }
    std::fs::write(s.dir.path("wrong"), "no such pin").unwrap();
    s.refused(&["--key", &uri(&s.dir, "Caisson", "wrong")], &["the PIN is wrong", "correct the PIN"]);
    s.refused(&["--key", &uri(&s.dir, "Elsewhere", "pin")], &["no token \"Elsewhere\"", "\"Caisson\""]);
    s.refused(&["--key", &key.replace("object=root", "object=other")], &["has no key \"root:"]);
    s.refused(&["--key", &key.replace("libsofthsm2.so", "none.so")], &["cannot be loaded", "install"]);
    s.refused(&["--key", &key.replace("pin-source=file:", "pin-source=file:/no")], &["passphrase file /no"]);
    let unknown = ["--key", "pkcs11:token=a?pin-value=1", "--key-file", "k"];
    s.fails(&s.args(&unknown), 2, &["pin-source"]);
    // What else is wrong does not hinder a provider that opens it.
    let mut t = s.export(&[&by_file[..], &["--key", &uri(&s.dir, "Elsewhere", "wrong")]].concat());
    s.perf(&t, "read");
    assert_eq!(t.signal("INT"), Some(0));
}

/// The whole life of a pool's keys, live: rotated, moved from a key file to a token, back, and each step recorded.
#[test]
fn keys_are_rotated_added_and_removed_while_the_pool_serves() {
    let s = Stage::new("life");
    let (file, pass) = (s.dir.path("key"), s.dir.path("pass"));
    let by_file = ["--key-file", &file, "--passphrase-file", &pass];
    let key = uri(&s.dir, "Caisson", "pin");
    s.config("key_file = 'key'\npassphrase_file = 'pass'\ndevice = [{ path = 'p', size = '256M' }]\n");
    let t = s.serve();
    s.perf(&t, "write");
    let slots = |s: &Stage| {
        let all: serde_json::Value =
            serde_json::from_str(&s.ask(&["key", "list", "main", "--json"])).unwrap();
        let roots = all.as_array().unwrap().iter().map(|k| format!("{}/{}", k["provider"], k["root"]));
        roots.collect::<Vec<_>>()
    };
    let first = slots(&s);
    assert_eq!(first.len(), 2);
    assert!(s.ask(&["key", "rotate", "main"]).contains("new root keys"));
    let second = slots(&s);
    assert!(second.len() == 2 && second.iter().all(|k| !first.contains(k)), "{first:?} {second:?}");
    let added = s.ask(&["key", "add", "main", "--key", &key]);
    assert!(added.contains("opens with pkcs11"), "{added}");
    assert!(s.ask(&["key", "add", "main", "--key", &key]).contains("it was so already"));
    assert_eq!(slots(&s).len(), 4);
    let status = s.ask(&["key", "status"]);
    for word in ["unlocked", "ready", "domain 1 by pkcs11 root:", "pool by file root:"] {
        assert!(status.contains(word), "{word} is not in: {status}");
    }
    s.fails(
        &s.own(&["key", "remove", "main", "--key", &key.replace("object=root", "object=none")]),
        4,
        &["no key provider"],
    );
    assert!(s.ask(&["key", "remove", "main", "--key-file", &file]).contains("no more"));
    assert!(slots(&s).iter().all(|k| k.contains("pkcs11")));
    s.fails(&s.own(&["key", "remove", "main", "--key", &key]), 4, &["the pool would not open"]);
    // In one provider of two, and all of it serves on.
    s.ask(&["key", "rotate", "main", "--key", &key]);
    s.perf(&t, "read");
    let log = s.ask(&["key", "audit"]);
    for word in ["create", "rotate", "add", "remove", "failed", "begins", "whole and signed"] {
        assert!(log.contains(word), "{word} is not in: {log}");
    }
    drop(t);
    // The key file opens it no more; the token does, as the state remembers.
    s.fails(&s.own(&[&["check", &s.dir.path("p")][..], &by_file].concat()), 1, &["is not configured"]);
    let t = s.serve();
    s.perf(&t, "read");
    assert!(s.ask(&["key", "status", "main"]).contains("pkcs11:token=Caisson"));
    drop(t);
    let audit = s.dir.path("d/audit.log");
    let said = s.ask(&["key", "audit", &audit, "--verify"]);
    let head = said.split("last hash ").nth(1).unwrap().trim().to_string();
    s.ask(&["key", "audit", &audit, "--verify", "--head", &head]);
    let text = std::fs::read_to_string(&audit).unwrap();
    assert!(!text.contains(PIN) && !text.contains("correct horse"));
    std::fs::write(&audit, text.replacen("\"rotate\"", "\"unlock\"", 1)).unwrap();
    s.fails(&s.own(&["key", "audit", &audit, "--verify"]), 1, &["not what was written"]);
    let cut = &text[..text.trim_end().rfind('\n').unwrap() + 1];
    std::fs::write(&audit, cut).unwrap();
    s.ask(&["key", "audit", &audit, "--verify"]);
    s.fails(&s.own(&["key", "audit", &audit, "--verify", "--head", &head]), 1, &["noted as the last"]);
}

#[test]
fn a_rotation_in_a_key_file_that_is_killed_leaves_the_old_or_the_new() {
    let s = Stage::new("kill-file");
    let (file, pass) = (s.dir.path("key"), s.dir.path("pass"));
    s.config("key_file = 'key'\npassphrase_file = 'pass'\ndevice = [{ path = 'p', size = '256M' }]\n");
    rotate_and_kill(
        &s,
        &[20, 120, 220, 320, 420, 520],
        &["--key-file", &file, "--passphrase-file", &pass],
        || {},
    );
}

#[test]
fn a_rotation_in_a_server_that_is_killed_leaves_the_old_or_the_new() {
    let s = Stage::new("kill-kmip");
    let site = kmip::Site::new("cli-kill");
    let server = site.server("server", None);
    let key = site.uri(&[server.port], "root", "client").to_string();
    s.config(&format!("keys = [\"{key}\"]\ndevice = [{{ path = 'p', size = '256M' }}]\n"));
    rotate_and_kill(&s, &[5, 40, 80, 120, 160, 240, 320, 400], &["--key", &key], || {});
}

#[test]
fn shares_open_a_pool_whose_keys_are_lost() {
    let s = Stage::new("recovery");
    let (file, pass) = (s.dir.path("key"), s.dir.path("pass"));
    s.config("key_file = 'key'\npassphrase_file = 'pass'\ndevice = [{ path = 'p', size = '256M' }]\n");
    let t = s.serve();
    s.perf(&t, "write");
    let out = s.dir.path("shares");
    let said = s.ask(&["key", "export-recovery", "main", "--shares", "3", "--needed", "2", "--out", &out]);
    assert!(said.contains("share-3.txt") && said.contains("any 2 of these"), "{said}");
    s.fails(&s.own(&["key", "export-recovery", "main", "--out", &out]), 1, &["is not empty"]);
    let share = |n: u8| s.dir.path(&format!("shares/share-{n}.txt"));
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(share(1)).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    drop(t);
    std::fs::rename(&file, s.dir.path("lost")).unwrap();
    let import = |shares: &[&str]| {
        let mut args = vec!["key", "import-recovery"];
        let pool = s.dir.path("p");
        args.push(&pool);
        shares.iter().for_each(|n| args.extend(["--share", n]));
        args.extend(["--key-file", &file, "--passphrase-file", &pass]);
        s.own(&args)
    };
    s.fails(&import(&[&share(1)]), 1, &["1 of the 2 shares"]);
    s.fails(&import(&[&share(1), &s.dir.path("pass")]), 1, &["is no share"]);
    let o = Command::new(CAISSON).args(import(&[&share(3), &share(1)])).output().unwrap();
    assert!(o.status.success(), "{}{}", out_of(&o), err(&o));
    assert!(out_of(&o).contains("the pool opens with file root:"), "{}", out_of(&o));
    let t = s.serve();
    s.perf(&t, "read");
    drop(t);
    // Of the pool nothing is known by one share, nor anything written down in the log.
    let value = std::fs::read_to_string(share(2)).unwrap();
    let value = value.lines().last().unwrap().split(':').nth(5).unwrap().to_string();
    let log = std::fs::read_to_string(s.dir.path("d/audit.log")).unwrap();
    assert!(value.len() == 64 && !log.contains(&value) && log.contains("export-recovery"));
}

/// A key manager that is away when the target starts: it starts, exports nothing of the pool, says why, and goes on by itself.
#[test]
fn a_pool_waits_for_its_key_manager() {
    let s = Stage::new("waits");
    let site = kmip::Site::new("cli-waits");
    let server = site.server("server", None);
    let port = server.port;
    let key = site.uri(&[port], "root", "client").to_string().replace("timeout=20", "timeout=5");
    s.config(&format!("keys = [\"{key}\"]\ndevice = [{{ path = 'p', size = '256M' }}]\n"));
    let t = s.serve();
    s.perf(&t, "write");
    assert!(s.ask(&["key", "rotate", "main"]).contains("new root keys"));
    drop(server);
    // What is unlocked serves on; what needs the key manager says that it is away, and changes nothing.
    s.perf(&t, "read");
    let before = s.ask(&["key", "list", "main"]);
    s.fails(&s.own(&["key", "rotate", "main"]), 4, &["does not answer"]);
    assert_eq!(s.ask(&["key", "list", "main"]), before);
    assert!(s.ask(&["key", "status", "main"]).contains("away"));
    drop(t);
    let t = s.serve();
    let status = s.ask(&["key", "status", "main"]);
    for word in ["WAITS FOR ITS KEYS", "does not answer", "by itself", "127.0.0.1"] {
        assert!(status.contains(word), "{word} is not in: {status}");
    }
    assert!(s.ask(&["metrics"]).contains("caisson_pool_waiting{pool=\"main\"} 1"));
    assert!(s.ask(&["pool", "list"]).contains("WAITS"));
    assert!(s.ask(&["pool", "status", "main"]).contains("nothing of it is exported"));
    let identify =
        Command::new(CAISSON).args(["identify", &t.listening()[0], "--nqn", NQN]).output().unwrap();
    assert!(!out(&identify).contains("256 MiB"), "no namespace is there: {}", out(&identify));
    s.fails(&s.own(&["volume", "delete", "disk"]), 4, &["exported as namespace"]);
    s.fails(&s.own(&["volume", "resize", "disk", "128M"]), 4, &["waits for its keys"]);
    s.fails(&s.own(&["pool", "grow", "main"]), 4, &["waits for its keys"]);
    s.fails(&s.own(&["key", "retry", "main"]), 4, &["does not answer"]);
    let server = site.server_at(port, "server", None);
    let mut tries = 0;
    while s.ask(&["key", "status", "main"]).contains("WAITS FOR ITS KEYS") {
        tries += 1;
        assert!(tries < 400, "it never asked again");
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    s.perf(&t, "read");
    assert!(s.ask(&["volume", "resize", "disk", "128M"]).contains("128 MiB"));
    drop(t);
    // A key that was revoked meanwhile is no reason to wait: it takes a person, and the target says so and ends.
    let root = before.split("kmip").nth(1).unwrap().split_whitespace().next().unwrap().to_string();
    let mut kmip = caisson_kmip::Kmip::open(&key.parse().unwrap()).unwrap();
    caisson_keys::KeyProvider::revoke(&mut kmip, &root, caisson_keys::Reason::Compromise).unwrap();
    let socket = s.dir.path("s");
    let args: Vec<String> =
        ["--socket", &socket, "serve", "--config", &s.dir.path("c.toml")].map(String::from).to_vec();
    s.fails(&args, 5, &["is compromised"]);
    drop(server);
}

fn out_of(o: &std::process::Output) -> String {
    out(o)
}
