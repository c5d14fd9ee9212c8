//! Whatever may be wrong with a pool's key file: each thing is said in its own words, with what to do about it, and nothing is
//! changed, let alone made anew.

mod support;

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use support::{Dir, Running, caisson, err, good};

const NQN: &str = "nqn.2024-01.com.example:keyfile";

/// A command line that makes a pool where there is none, and opens it where there is.
fn export(dir: &Dir, pool: &str, key: &str, pass: &str) -> Vec<String> {
    let (socket, store) = (dir.path("s"), format!("pool:{}", dir.path(pool)));
    let (key, pass) = (dir.path(key), dir.path(pass));
    let keys = ["--key-file", &key, "--passphrase-file", &pass];
    let fixed = ["--nqn", NQN, "--listen", "tcp://127.0.0.1:0", "--size", "64M", "--pool-size", "128M"];
    [&["--socket", &socket, "export", &store], &keys[..], &fixed]
        .concat()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn make(dir: &Dir, pool: &str, key: &str) {
    let args = export(dir, pool, key, "pass");
    let mut t = Running::start(&args.iter().map(String::as_str).collect::<Vec<_>>(), "Ctrl-C");
    assert_eq!(t.signal("INT"), Some(0));
}

fn private(path: &str, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn each_fault_of_a_key_file_is_said_with_its_remedy() {
    let dir = Dir::new("keyfile");
    std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
    std::fs::write(dir.path("wrong"), "incorrect horse\n").unwrap();
    make(&dir, "p", "key");
    make(&dir, "q", "another");
    let (path, good_key) = (dir.path("key"), std::fs::read(dir.path("key")).unwrap());
    let pool = std::fs::read(dir.path("p")).unwrap();
    let damaged = ["it is damaged", "remedy: put back a copy of the key file"];
    let flipped = |at: usize| {
        let mut bytes = good_key.clone();
        bytes[at] ^= 1;
        bytes
    };
    let changed: [(&str, Vec<u8>, [&str; 2]); 7] = [
        ("truncated", good_key[..good_key.len() - 10].to_vec(), damaged),
        ("cut off in its header", good_key[..20].to_vec(), damaged),
        ("longer than it was", [&good_key[..], b"\n"].concat(), damaged),
        ("a bit of what it seals", flipped(good_key.len() / 2), damaged),
        ("empty", Vec::new(), ["is not a sealed key file", "remedy: name a file that Caisson made"]),
        ("another file", b"-----BEGIN".repeat(40), ["is not a sealed key file", "remedy: name a file"]),
        ("of a later version", flipped(9), ["it is of version 257", "remedy: use a newer caisson"]),
    ];
    let mut said = BTreeSet::new();
    // Both ways to open a pool; neither writes to the pool or the key file.
    let mut refused = |what: &str, key: &str, pass: &str, words: &[&str]| {
        let (p, k, pass_file) = (dir.path("p"), dir.path(key), dir.path(pass));
        let check: Vec<String> =
            ["check", &p, "--key-file", &k, "--passphrase-file", &pass_file].map(String::from).to_vec();
        let before = std::fs::read(&k).ok();
        for args in [export(&dir, "p", key, pass), check] {
            let o = caisson(&args.iter().map(String::as_str).collect::<Vec<_>>());
            let text = err(&o);
            assert_eq!(o.status.code(), Some(1), "{what}, {}: {text}", args[0]);
            for word in words {
                assert!(text.contains(word), "{what}, {}: {word:?} is not in: {text}", args[0]);
            }
            assert!(!text.contains("horse"), "{what}: {text}");
            said.insert(words.join("; "));
        }
        assert!(std::fs::read(&k).ok() == before, "{what}: the key file was changed");
        assert!(std::fs::read(dir.path("p")).unwrap() == pool, "{what}: the pool was changed");
    };
    refused(
        "wrong passphrase",
        "key",
        "wrong",
        &["the passphrase is wrong", "remedy: give the passphrase that"],
    );
    for (what, bytes, words) in changed {
        private(&path, &bytes);
        refused(what, "key", "pass", &words);
    }
    std::fs::remove_file(&path).unwrap();
    let words = ["there is no such file", "remedy: name the key file that the pool was created with"];
    refused("missing", "key", "pass", &words);
    std::fs::create_dir(&path).unwrap();
    refused("a folder", "key", "pass", &["is not a regular file", "remedy: name a regular file"]);
    std::fs::remove_dir(&path).unwrap();
    private(&path, &good_key);
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    refused(
        "open to all",
        "key",
        "pass",
        &["mode 0644 lets others read", &format!("remedy: chmod 600 {path}")],
    );
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let another = ["has no key \"root:", "remedy: name the provider or key file that holds root key"];
    refused("another pool's", "another", "pass", &another);
    assert_eq!(said.len(), 9, "{said:#?}");
    // And with its own file, as it was, the pool opens.
    let (p, pass) = (dir.path("p"), dir.path("pass"));
    let whole = good(&["check", &p, "--key-file", &path, "--passphrase-file", &pass]);
    assert!(whole.contains("the pool is whole"), "{whole}");
}
