//! `--wait`, while what it waits for cannot come: the target is killed, the pool fails, is taken away, or is not open again. It ends, says
//! so, and never takes that for done.

mod support;

use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};
use support::refuse::{WRITES, refusing};
use support::{CAISSON, Dir, Running, good};

const NQN: &str = "nqn.2024-01.com.example:wait";

/// A key service, and a target whose pool `main` has its keys from it: `own` is in it, and `disk`, which a host has, unless it is to be
/// `alone`.
struct Scene {
    dir: Dir,
    service: Option<Running>,
}

impl Scene {
    fn new(name: &str, alone: bool) -> Scene {
        let dir = Dir::new(&format!("wait-{name}"));
        std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
        let disk = "[[volume]]\nname = 'disk'\npool = 'main'\nsize = '64M'\n";
        let namespace = "namespace = [{ volume = 'disk' }]\n";
        let (disk, namespace) = if alone { ("", "") } else { (disk, namespace) };
        let text = format!(
            "data_dir = 'd'\n[management]\nsocket = '{}'\n[metrics]\naddress = ''\n[[pool]]\nname = 'main'\n\
             keys = ['kms:key=main?socket={}']\ndevice = [{{ path = 'p', size = '256M' }}]\n\
             [[volume]]\nname = 'own'\npool = 'main'\nsize = '16M'\n{disk}\
             [[subsystem]]\nnqn = '{NQN}'\nallow_any_host = true\n{namespace}\
             [[listener]]\naddress = 'tcp://127.0.0.1:0'\n",
            dir.path("s"),
            dir.path("kms.sock")
        );
        std::fs::write(dir.path("c.toml"), text).unwrap();
        let (file, pass, audit) = (dir.path("root"), dir.path("pass"), dir.path("kms"));
        std::fs::create_dir(&audit).unwrap();
        good(&["key", "create", "--key-file", &file, "--passphrase-file", &pass, "--audit", &audit]);
        let mut scene = Scene { dir, service: None };
        scene.answers(true);
        scene
    }

    /// Has the key service answer, or be away.
    fn answers(&mut self, on: bool) {
        self.service = None;
        if on {
            let uri =
                format!("main=file:{}?passphrase-file={}", self.dir.path("root"), self.dir.path("pass"));
            let (at, audit) = (self.dir.path("kms.sock"), self.dir.path("kms"));
            let args = ["kms", "serve", "--at", &at, "--audit", &audit, "--key", &uri];
            self.service = Some(Running::start(&args, "serving keys"));
        }
    }

    fn serve(&self) -> Running {
        Running::start_with(&["serve", "--config", &self.dir.path("c.toml")], "managed over", &[])
    }

    fn ask(&self, args: &[&str]) -> String {
        good(&[&["--socket", &self.dir.path("s")][..], args].concat())
    }

    /// Waits until nothing is being erased any more.
    fn done(&self) {
        let end = Instant::now() + Duration::from_secs(120);
        while self.ask(&["key", "status", "main"]).contains("erasing") {
            assert!(Instant::now() < end, "it does not go on");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Begins what waits for the service, which is away, and sees that it waits.
    fn waiting(&mut self, what: &[&str]) -> Child {
        self.answers(false);
        let child = Process::new(CAISSON)
            .args(["--socket", &self.dir.path("s")])
            .args(what)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(120);
        while !self.ask(&["key", "status", "main"]).contains("WAITS: ") {
            assert!(Instant::now() < end, "it does not wait: {}", self.ask(&["key", "status", "main"]));
            std::thread::sleep(Duration::from_millis(50));
        }
        child
    }
}

/// It ends with this exit status and says these words, and nothing of an end.
fn ends(child: Child, status: i32, words: &[&str]) {
    let o = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&o.stderr).into_owned();
    assert_eq!(o.status.code(), Some(status), "{said}");
    for w in words {
        assert!(said.contains(w), "{w:?} is not in: {said}");
    }
    assert!(o.stdout.is_empty(), "nothing is told as done: {}", String::from_utf8_lossy(&o.stdout));
}

const ERASE: &[&str] = &["volume", "delete", "own", "--erase", "--wait"];
const UNKNOWN: &str = "so that it is not known whether all is erased";
const GOES_ON: &str = "goes on by itself when the pool is open again";

#[test]
fn the_target_is_killed() {
    let mut s = Scene::new("killed", false);
    let mut t = s.serve();
    let waits = s.waiting(ERASE);
    t.signal("KILL");
    ends(waits, 3, &["the target is away", UNKNOWN, GOES_ON]);
    // As it says.
    s.answers(true);
    let _t = s.serve();
    s.done();
    assert!(s.ask(&["key", "status", "main"]).contains("default: epoch 2"));
}

#[test]
fn the_pool_is_not_open_again() {
    let mut s = Scene::new("closed", false);
    let mut t = s.serve();
    // Where it is stopped in the middle of asking, it finds the target away.
    for _ in 0..8 {
        let waits = s.waiting(&["volume", "erase", "disk", "--confirm", "disk", "--wait"]);
        let signal = |name: &str| {
            let kill = format!("kill -{name} {}", waits.id());
            assert!(Process::new("sh").args(["-c", &kill]).status().unwrap().success());
        };
        signal("STOP");
        t.signal("KILL");
        t = s.serve();
        assert!(s.ask(&["key", "status", "main"]).contains("WAITS FOR ITS KEYS"));
        signal("CONT");
        let o = waits.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&o.stderr).into_owned();
        assert!(said.contains(UNKNOWN) && said.contains(GOES_ON) && o.stdout.is_empty(), "{said}");
        if said.contains("the pool is not open") {
            assert_eq!(o.status.code(), Some(1));
            return;
        }
        s.answers(true);
        s.ask(&["key", "retry", "main"]);
        s.done();
    }
    panic!("it was never found waiting between two questions");
}

#[test]
fn the_pool_is_taken_away() {
    let mut s = Scene::new("removed", true);
    let _t = s.serve();
    let waits = s.waiting(ERASE);
    s.ask(&["pool", "remove", "main"]);
    ends(waits, 4, &["there is no pool main"]);
}

#[test]
fn the_pool_fails() {
    let mut s = Scene::new("failed", false);
    // Behind what a new pool begins with, the device takes no write.
    let mut t = refusing(WRITES, 64 << 20..1 << 40, || s.serve());
    let mut waits = s.waiting(ERASE);
    let at = &t.listening()[0];
    let write =
        ["perf", at, "--nqn", NQN, "--pattern", "write", "--block-size", "64k", "--quiet", "--dedup", "0"];
    let end = Instant::now() + Duration::from_secs(120);
    while waits.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "the pool does not fail: {}", s.ask(&["pool", "status", "main"]));
        // New contents each time, until what is written comes there: then it is refused, and so is what comes later.
        let _ = support::caisson(&[&write[..], &["--size", "64M", "--bytes", "64M"]].concat());
    }
    ends(waits, 1, &["the pool has failed", UNKNOWN, GOES_ON]);
    // As it says, once the device is as it was.
    t.signal("KILL");
    s.answers(true);
    let _t = s.serve();
    s.done();
    assert!(s.ask(&["key", "status", "main"]).contains("default: epoch 2"));
}
