//! A target with a pool whose keys are tested: its folder, its configuration, its commands.

use super::token::{PIN, token};
use super::{CAISSON, Dir, Running, err, out};
use std::process::Command;

/// The subsystem of a stage's target.
pub const NQN: &str = "nqn.2024-01.com.example:keys";

/// What a target prints last when it is ready.
pub const READY: &str = "managed over";

/// A folder with a passphrase, a token, and what a target in it keeps.
pub struct Stage {
    pub dir: Dir,
    pub conf: String,
}

impl Stage {
    pub fn new(name: &str) -> Stage {
        let dir = Dir::new(&format!("keys-{name}"));
        std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
        let conf = token(&dir, "Caisson");
        Stage { dir, conf }
    }

    pub fn args(&self, keys: &[&str]) -> Vec<String> {
        let store = format!("pool:{}", self.dir.path("p"));
        let fixed = ["--socket", &self.dir.path("s"), "export", &store, "--nqn", NQN, "--size", "64M"];
        let listen = ["--listen", "tcp://127.0.0.1:0"];
        [&fixed[..], &listen, keys].concat().iter().map(ToString::to_string).collect()
    }

    pub fn export(&self, keys: &[&str]) -> Running {
        let args = self.args(keys);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Running::start_with(&args, "Ctrl-C", &[("SOFTHSM2_CONF", &self.conf)])
    }

    /// Starts it, and expects that it does not.
    pub fn refused(&self, keys: &[&str], words: &[&str]) {
        self.fails(&self.args(keys), 1, words);
    }

    pub fn fails(&self, args: &[String], status: i32, words: &[&str]) {
        let o = Command::new(CAISSON).args(args).env("SOFTHSM2_CONF", &self.conf).output().unwrap();
        let said = err(&o);
        assert_eq!(o.status.code(), Some(status), "{said}");
        for w in words {
            assert!(said.contains(w), "{w:?} is not in: {said}");
        }
        assert!(said.contains("remedy:") && !said.contains(PIN), "{said}");
    }

    pub fn ask(&self, args: &[&str]) -> String {
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

    /// A configuration with the pool `main`, which is as `pool` says, and a volume in it.
    pub fn config(&self, pool: &str) {
        let text = format!(
            "data_dir = 'd'\n[management]\nsocket = '{}'\n[metrics]\naddress = ''\n[[pool]]\nname = 'main'\n{pool}\
             [[volume]]\nname = 'disk'\npool = 'main'\nsize = '64M'\n[[subsystem]]\nnqn = '{NQN}'\nallow_any_host = true\n\
             namespace = [{{ volume = 'disk' }}]\n[[listener]]\naddress = 'tcp://127.0.0.1:0'\n",
            self.dir.path("s")
        );
        std::fs::write(self.dir.path("c.toml"), text).unwrap();
    }

    pub fn serve(&self) -> Running {
        Running::start_with(
            &["serve", "--config", &self.dir.path("c.toml")],
            READY,
            &[("SOFTHSM2_CONF", &self.conf)],
        )
    }

    /// A command to this stage's target.
    pub fn own(&self, args: &[&str]) -> Vec<String> {
        let socket = self.dir.path("s");
        [&["--socket", &socket][..], args].concat().iter().map(ToString::to_string).collect()
    }

    pub fn perf(&self, t: &Running, pattern: &str) {
        let at = &t.listening()[0];
        let fixed = ["perf", at, "--nqn", NQN, "--pattern", pattern, "--block-size", "64k", "--bytes", "4M"];
        let said = self.ask(&[&fixed[..], &["--size", "4M", "--verify", "--quiet"]].concat());
        assert!(said.contains("all right (0 of them never written)"), "{said}");
    }
}

/// Rotates, rotates again, and kills the target in the middle of that: the pool opens each time, with `keys`. (Not with softhsm2:
/// it writes its own files such that a kill in the middle loses the token.) `killed` is called after each kill.
pub fn rotate_and_kill(s: &Stage, pauses: &[u64], keys: &[&str], mut killed: impl FnMut()) {
    let t = s.serve();
    s.perf(&t, "write");
    drop(t);
    for pause in pauses {
        let mut t = s.serve();
        s.ask(&["key", "rotate", "main"]);
        let mut again = Command::new(CAISSON)
            .args(s.own(&["key", "rotate", "main"]))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(*pause));
        t.signal("KILL");
        again.wait().unwrap();
        drop(t);
        killed();
        let checked = s.ask(&[&["check", &s.dir.path("p")], keys].concat());
        assert!(checked.contains("the pool is whole"), "after {pause} ms: {checked}");
    }
    let t = s.serve();
    s.perf(&t, "read");
    // Half a record of the log may have been left; the next start has cut it off, and the chain is whole.
    assert!(s.ask(&["key", "audit", "--verify"]).contains("whole and signed"));
}
