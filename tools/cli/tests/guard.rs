//! The secrets of a target stay in its memory: locked, out of core dumps, and out of reach of other programs of its user.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use support::{CAISSON, Dir};

/// The user that nobody is, where the tests run as root: root may look anywhere.
const NOBODY: &str = "65534";

struct Target {
    child: Child,
    /// What it logged until it was ready.
    log: std::path::PathBuf,
}

impl Target {
    /// Starts a target with an open pool, by a shell that sets `limits` before it. It runs as nobody, where that can be had. SIGQUIT is as it
    /// is by default, also where these tests run in the background, which has it ignored.
    fn start(dir: &Dir, limits: &str, options: &str) -> Target {
        std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
        let log = dir.0.join(format!("log{}", options.len()));
        let script = format!(
            "{limits}; cd {dir}; exec env --default-signal=QUIT {CAISSON} {options} --socket {dir}/s export pool:{dir}/p --size 64M --key-file {dir}/k \
             --passphrase-file {dir}/pass --listen tcp://127.0.0.1:0 2>{log}",
            dir = dir.0.display(),
            log = log.display()
        );
        let mut command = if is_root() {
            Command::new("chown").args(["-R", NOBODY]).arg(&dir.0).status().unwrap();
            let mut c = Command::new("setpriv");
            c.args([
                "--reuid",
                NOBODY,
                "--regid",
                NOBODY,
                "--clear-groups",
                "--bounding-set",
                "-all",
                "sh",
                "-c",
                &script,
            ]);
            c
        } else {
            let mut c = Command::new("sh");
            c.args(["-c", &script]);
            c
        };
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|l| l.contains("Ctrl-C"));
        assert!(ready, "it ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
        std::thread::spawn(move || lines.count());
        Target { child, log }
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.child.id())
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.proc(name)).unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn locked_kib(&self) -> u64 {
        let status = self.read("status");
        let line = status.lines().find(|l| l.starts_with("VmLck:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn ends_on(&mut self, signal: &str) -> ExitStatus {
        // Twice: the runtime's own handler of SIGSEGV takes the first one that no fault comes with, and then gives way.
        for _ in 0..2 {
            let kill = format!("kill -{signal} {} 2>/dev/null || true", self.child.id());
            assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        self.child.wait().unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

fn cores(dir: &Dir) -> Vec<String> {
    let names =
        std::fs::read_dir(&dir.0).unwrap().map(|f| f.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|n| n.starts_with("core")).collect()
}

#[test]
fn secrets_are_locked_and_no_crash_writes_them_down() {
    let dir = Dir::new("guard");
    for signal in ["ABRT", "SEGV", "QUIT"] {
        let mut t = Target::start(&dir, "ulimit -S -c $(ulimit -H -c)", "");
        assert!(t.locked_kib() >= 64, "{}", t.read("status"));
        let limits = t.read("limits");
        let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
        // What is not dumpable belongs to root there, whoever runs it.
        assert_eq!(std::fs::metadata(t.proc("mem")).unwrap().uid(), 0);
        let maps = std::fs::read_to_string(t.proc("smaps"));
        if let Ok(maps) = maps {
            let flags = maps.lines().filter(|l| l.starts_with("VmFlags:"));
            let has = |l: &str, f: &str| l.split_whitespace().any(|x| x == f);
            assert!(
                flags.clone().any(|l| has(l, "lo") && has(l, "dd")),
                "no mapping is locked and left out of dumps"
            );
        }
        assert!(!t.log().contains("not locked") && !t.log().contains("core dumps"), "{}", t.log());
        let status = t.ends_on(signal);
        assert!(status.signal().is_some() && !status.core_dumped(), "{status}");
        assert_eq!(cores(&dir), [] as [&str; 0]);
    }
}

/// The same target when it is let: so the test above sees what it looks for.
#[test]
fn dumps_are_written_where_they_are_allowed_and_that_is_said() {
    let dir = Dir::new("guard-dumps");
    let mut t = Target::start(&dir, "ulimit -S -c $(ulimit -H -c)", "--allow-core-dumps");
    let limits = t.read("limits");
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap().to_string();
    assert!(t.log().contains("core dumps are allowed"), "{}", t.log());
    if is_root() {
        assert_eq!(std::fs::metadata(t.proc("mem")).unwrap().uid().to_string(), NOBODY);
    }
    let status = t.ends_on("ABRT");
    // A machine whose hard limit is zero writes none either way.
    assert_eq!(status.core_dumped(), core.split_whitespace().nth(4) != Some("0"), "{core}: {status}");
}

#[test]
fn a_limit_that_is_too_small_is_said_with_its_remedy_and_the_pool_serves() {
    let dir = Dir::new("guard-limit");
    let t = Target::start(&dir, "ulimit -l 0", "");
    let log = t.log();
    if is_root() || t.locked_kib() == 0 {
        assert_eq!(t.locked_kib(), 0);
        assert_eq!(log.matches("memory of keys is not locked").count(), 1, "{log}");
        assert!(log.contains("LimitMEMLOCK") && log.contains("ulimit -l"), "{log}");
    }
}
