//! Keys that a machine's TPM opens: by itself after a restart, not in another state, and with the recovery passphrase whatever happens.

#[path = "../../../kms/tpm/tests/support/mod.rs"]
mod machine;
mod support;

use machine::Machine;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::stage::{Stage, rotate_and_kill};
use support::{CAISSON, out};

const RECOVERY: &str = "correct horse";

struct Scene {
    s: Stage,
    m: Machine,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let s = Stage::new(&format!("tpm-{name}"));
        let m = Machine::new(&s.dir.0.join("tpm"));
        Scene { s, m }
    }

    /// What names the key; `more` has `&` in front.
    fn key(&self, more: &str) -> String {
        format!("tpm2:pcrs=sha256+4,7?file={}&tcti={}{more}", self.s.dir.path("k"), self.m.tcti())
    }

    fn with_passphrase(&self) -> String {
        self.key(&format!("&passphrase-file={}", self.s.dir.path("pass")))
    }

    fn config(&self, key: &str) {
        self.s.config(&format!("keys = [\"{key}\"]\ndevice = [{{ path = 'p', size = '256M' }}]\n"));
    }

    fn starts_not(&self, status: i32, words: &[&str]) {
        let conf = self.s.dir.path("c.toml");
        self.s.fails(&self.s.own(&["serve", "--config", &conf]), status, words);
    }

    fn await_keys(&self) {
        for _ in 0..400 {
            if !self.s.ask(&["key", "status", "main"]).contains("WAITS FOR ITS KEYS") {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the pool waits on: {}", self.s.ask(&["key", "status", "main"]));
    }
}

#[test]
fn a_machine_opens_its_pool_and_a_changed_one_takes_the_recovery_passphrase() {
    let mut c = Scene::new("recovery");
    let create = c.s.own(&["key", "create", "--key", &c.key("")]);
    c.s.fails(&create, 1, &["no passphrase is given", "firmware update would lose all data"]);
    assert!(!c.s.dir.0.join("k").exists(), "nothing is left of it");
    let made = c.s.ask(&["key", "create", "--key", &c.with_passphrase()]);
    assert!(made.contains("recovery passphrase") && made.contains("opens by itself"), "{made}");
    c.config(&c.key(""));
    let t = c.s.serve();
    c.s.perf(&t, "write");
    assert!(c.s.ask(&["key", "status", "main"]).contains("ready"));
    drop(t);
    c.m.restart();
    let t = c.s.serve();
    c.s.perf(&t, "read");
    // The firmware is updated: what serves goes on, and says what the next start will meet.
    c.m.measure(7);
    let status = c.s.ask(&["key", "status", "main"]);
    assert!(status.contains("register 7") && status.contains("locked"), "{status}");
    c.s.perf(&t, "read");
    drop(t);
    c.starts_not(
        5,
        &["measured state has changed", "register 7", "caisson key reseal", "recovery passphrase"],
    );
    // Without the TPM, from anywhere, with the passphrase alone.
    let none = format!("tpm2:?file={}&tcti=none&passphrase-file={}", c.s.dir.path("k"), c.s.dir.path("pass"));
    assert!(c.s.ask(&["check", &c.s.dir.path("p"), "--key", &none]).contains("the pool is whole"));
    std::fs::write(c.s.dir.path("wrong"), "battery staple\n").unwrap();
    let wrong = c.key(&format!("&passphrase-file={}", c.s.dir.path("wrong")));
    c.s.fails(&c.s.own(&["key", "reseal", "--key", &wrong]), 1, &["passphrase is wrong"]);
    assert!(c.s.ask(&["key", "reseal", "--key", &c.with_passphrase()]).contains("sealed to this machine"));
    let t = c.s.serve();
    c.s.perf(&t, "read");
    drop(t);
    // Another TPM, as with another board.
    c.m.replace();
    c.m.measure(7);
    c.starts_not(5, &["did not make the seal", "caisson key reseal"]);
    c.s.ask(&["key", "reseal", "--key", &c.with_passphrase()]);
    let t = c.s.serve();
    c.s.perf(&t, "read");
    drop(t);
    // What is beside the file and is no seal, each said for itself.
    let seal = c.s.dir.path("k.tpm");
    let good = std::fs::read(&seal).unwrap();
    for (bytes, words) in [(&good[..40], "cut short"), (b"no", "no seal of Caisson")] {
        std::fs::write(&seal, bytes).unwrap();
        c.starts_not(5, &[words, "caisson key reseal"]);
    }
    std::fs::remove_file(&seal).unwrap();
    c.starts_not(5, &["not sealed by a TPM", "caisson key reseal"]);
    c.s.ask(&["key", "reseal", "--key", &c.with_passphrase()]);
    let missing = c.key("").replace(&c.m.tcti(), "device:/dev/none");
    c.s.fails(&c.s.own(&["check", &c.s.dir.path("p"), "--key", &missing]), 1, &["no TPM 2.0", "tcti=none"]);
    for name in ["p", "k", "k.tpm"] {
        let bytes = std::fs::read(c.s.dir.path(name)).unwrap();
        assert!(!bytes.windows(RECOVERY.len()).any(|w| w == RECOVERY.as_bytes()), "{name}");
    }
    let log = c.s.ask(&["key", "audit", &c.s.dir.path("d/audit.log"), "--verify"]);
    assert!(log.contains("whole and signed"), "{log}");
}

/// A TPM that is not there yet, or locked out: the pool waits, and nothing that it does makes it worse.
#[test]
fn a_pool_waits_for_its_tpm_and_never_counts_against_it() {
    let mut c = Scene::new("waits");
    std::fs::write(c.s.dir.path("tpm-pin"), "8642").unwrap();
    let key = |c: &Scene| {
        let key = c.with_passphrase().replace("sha256+4,7", "sha256+7;auth=pin");
        format!("{key}&pin-source=file:{}", c.s.dir.path("tpm-pin"))
    };
    c.config(&key(&c));
    let t = c.s.serve();
    c.s.perf(&t, "write");
    drop(t);
    c.m.off();
    let t = c.s.serve();
    let status = c.s.ask(&["key", "status", "main"]);
    assert!(status.contains("WAITS") && status.contains("does not answer"), "{status}");
    c.m.on();
    c.await_keys();
    c.s.perf(&t, "read");
    drop(t);
    // Three lock it, and a day forgives one. That it was switched off without being told counted as one.
    c.m.locks_after(3, 86_400);
    c.m.forgive();
    std::fs::write(c.s.dir.path("tpm-pin"), "1").unwrap();
    let lockout = || caisson_tpm::Tpm::open(Some(&c.m.tcti())).unwrap().lockout().unwrap();
    c.starts_not(5, &["the PIN is wrong"]);
    c.starts_not(5, &["the PIN is wrong"]);
    assert_eq!(lockout().failures, 2);
    // As a service manager would, again and again.
    for _ in 0..4 {
        let t = c.s.serve();
        let status = c.s.ask(&["key", "status", "main"]);
        assert!(status.contains("locked out") && status.contains("2 wrong values of 3"), "{status}");
        assert!(
            status.contains("86399 s") || status.contains("86400 s"),
            "waits as long as it lasts: {status}"
        );
        c.s.fails(&c.s.own(&["key", "retry", "main"]), 4, &["locked out"]);
        drop(t);
    }
    let stands = lockout();
    assert_eq!((stands.locked, stands.failures), (false, 2));
    // It forgives after a second: the pool opens by itself, with the right PIN.
    std::fs::write(c.s.dir.path("tpm-pin"), "8642").unwrap();
    let t = c.s.serve();
    c.m.locks_after(3, 1);
    assert!(c.s.ask(&["key", "status", "main"]).contains("WAITS"));
    c.m.forgive();
    assert!(c.s.ask(&["key", "retry", "main"]).contains("has its keys"));
    c.s.perf(&t, "read");
    assert_eq!(lockout().failures, 0);
    drop(t);
    c.m.locks_after(2, 2);
    std::fs::write(c.s.dir.path("tpm-pin"), "1").unwrap();
    c.starts_not(5, &["the PIN is wrong"]);
    std::fs::write(c.s.dir.path("tpm-pin"), "8642").unwrap();
    let t = c.s.serve();
    c.await_keys();
    c.s.perf(&t, "read");
}

#[test]
fn a_rotation_that_is_killed_leaves_the_old_or_the_new() {
    let mut c = Scene::new("kill");
    let key = c.with_passphrase();
    c.config(&key);
    // What a killed process leaves in a TPM, the kernel's resource manager flushes; the simulator has none.
    rotate_and_kill(&c.s, &[5, 40, 80, 160, 320], &["--key", &key], || c.m.restart());
}

/// From a key file to the TPM and back, killed at each step, and killed while it is sealed anew.
#[test]
fn moving_to_a_tpm_and_sealing_anew_may_be_killed_at_any_moment() {
    let mut c = Scene::new("move");
    c.s.config("key_file = 'key'\npassphrase_file = 'pass'\ndevice = [{ path = 'p', size = '256M' }]\n");
    let (file, pass) = (c.s.dir.path("key"), c.s.dir.path("pass"));
    let by_file = ["--key-file", &file, "--passphrase-file", &pass];
    let key = c.with_passphrase();
    let opens = |keys: &[&str]| {
        let o = Command::new(CAISSON).args(["check", &c.s.dir.path("p")]).args(keys).output().unwrap();
        out(&o).contains("the pool is whole")
    };
    let killed = |args: &[&str], pause: u64| {
        let child = Command::new(CAISSON)
            .args(c.s.own(args))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        child
    };
    let t = c.s.serve();
    c.s.perf(&t, "write");
    drop(t);
    for pause in [5, 60, 150, 300, 600] {
        for args in [&["key", "add", "main", "--key", &key][..], &["key", "remove", "main", "--key", &key]] {
            let mut t = c.s.serve();
            let mut command = killed(args, pause);
            t.signal("KILL");
            command.wait().unwrap();
            drop(t);
            assert!(opens(&by_file), "after {args:?} and {pause} ms");
            c.m.restart();
            // Between the key file and its seal: nothing is wrapped with it yet, and what the error names helps.
            let there = |name: &str| std::path::Path::new(&c.s.dir.path(name)).exists();
            if there("k") && !there("k.tpm") {
                c.s.ask(&["key", "reseal", "--key", &key]);
            }
        }
    }
    let t = c.s.serve();
    c.s.ask(&["key", "add", "main", "--key", &key]);
    c.s.ask(&["key", "remove", "main", "--key-file", &file]);
    drop(t);
    assert!(opens(&["--key", &key]) && !opens(&by_file));
    for pause in [5, 40, 80, 120, 160, 200, 240] {
        c.m.measure(4);
        let mut command = killed(&["key", "reseal", "--key", &key], pause);
        let _ = command.kill();
        command.wait().unwrap();
        c.m.restart();
        let none = format!("tpm2:?file={}&tcti=none&passphrase-file={pass}", c.s.dir.path("k"));
        assert!(opens(&["--key", &none]), "the passphrase opens it whatever was sealed");
        c.s.ask(&["key", "reseal", "--key", &key]);
        assert!(opens(&["--key", &key]), "after {pause} ms");
    }
}
