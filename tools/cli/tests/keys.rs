//! Pools whose keys are in a token beside a key file, as people use them.

mod support;

use std::process::Command;
use support::token::{PIN, token, uri};
use support::{CAISSON, Dir, Running, err, out};

const NQN: &str = "nqn.2024-01.com.example:keys";

struct Stage {
    dir: Dir,
    conf: String,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let dir = Dir::new(&format!("keys-{name}"));
        std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
        let conf = token(&dir, "Caisson");
        Stage { dir, conf }
    }

    fn args(&self, keys: &[&str]) -> Vec<String> {
        let store = format!("pool:{}", self.dir.path("p"));
        let fixed = ["--socket", &self.dir.path("s"), "export", &store, "--nqn", NQN, "--size", "64M"];
        let listen = ["--listen", "tcp://127.0.0.1:0"];
        [&fixed[..], &listen, keys].concat().iter().map(ToString::to_string).collect()
    }

    fn export(&self, keys: &[&str]) -> Running {
        let args = self.args(keys);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Running::start_with(&args, "Ctrl-C", &[("SOFTHSM2_CONF", &self.conf)])
    }

    /// Starts it, and expects that it does not.
    fn refused(&self, keys: &[&str], words: &[&str]) {
        self.fails(&self.args(keys), 1, words);
    }

    fn fails(&self, args: &[String], status: i32, words: &[&str]) {
        let o = Command::new(CAISSON).args(args).env("SOFTHSM2_CONF", &self.conf).output().unwrap();
        let said = err(&o);
        assert_eq!(o.status.code(), Some(status), "{said}");
        for w in words {
            assert!(said.contains(w), "{w:?} is not in: {said}");
        }
        assert!(said.contains("remedy:") && !said.contains(PIN), "{said}");
    }

    fn ask(&self, args: &[&str]) -> String {
        let socket = self.dir.path("s");
        let o = Command::new(CAISSON)
            .args(["--socket", &socket])
            .args(args)
            .env("SOFTHSM2_CONF", &self.conf)
            .output()
            .unwrap();
        assert!(o.status.success(), "caisson {}: {}{}", args.join(" "), out(&o), err(&o));
        out(&o)
    }

    fn perf(&self, t: &Running, pattern: &str) {
        let at = &t.listening()[0];
        let fixed = ["perf", at, "--nqn", NQN, "--pattern", pattern, "--block-size", "64k", "--bytes", "4M"];
        let said = self.ask(&[&fixed[..], &["--size", "4M", "--verify", "--quiet"]].concat());
        assert!(said.contains("all right (0 of them never written)"), "{said}");
    }
}

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
