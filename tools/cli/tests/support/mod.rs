//! What the tests of the program share: running it, to its end or in the foreground.

#![allow(dead_code, reason = "each test uses some of it")]

pub mod refuse;
pub mod stage;
pub mod token;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const CAISSON: &str = env!("CARGO_BIN_EXE_caisson");

/// Runs it to its end.
pub fn caisson(args: &[&str]) -> Output {
    Command::new(CAISSON).args(args).env_remove("CAISSON_SOCKET").output().unwrap()
}

pub fn out(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}

pub fn err(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

/// Runs it, and expects success.
pub fn good(args: &[&str]) -> String {
    let o = caisson(args);
    assert!(o.status.success(), "caisson {}: {}{}", args.join(" "), out(&o), err(&o));
    out(&o)
}

/// Runs it, and expects this exit status, and these words on standard error.
pub fn bad(args: &[&str], status: i32, words: &[&str]) {
    let o = caisson(args);
    let said = err(&o);
    assert_eq!(o.status.code(), Some(status), "caisson {}: {said}", args.join(" "));
    for w in words {
        assert!(said.contains(w), "caisson {}: {w:?} is not in: {said}", args.join(" "));
    }
}

/// A folder of its own for a test, gone at the end.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("caisson-cli-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A target in the foreground, ended with the test.
pub struct Running {
    pub child: Child,
    /// What it printed until it was ready.
    pub said: String,
}

impl Running {
    /// Starts it, and reads what it prints until a line with `ready`.
    pub fn start(args: &[&str], ready: &str) -> Running {
        Running::start_with(args, ready, &[])
    }

    /// The same, with these variables in its environment.
    pub fn start_with(args: &[&str], ready: &str, env: &[(&str, &str)]) -> Running {
        let mut child = Command::new(CAISSON)
            .args(args)
            .env_remove("CAISSON_SOCKET")
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() == 0 {
                let mut errors = String::new();
                child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
                panic!("caisson {} ended: {said}{errors}", args.join(" "));
            }
            said.push_str(&line);
            if line.contains(ready) {
                break;
            }
        }
        // Kept open: a target whose reader is gone is another test.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Running { child, said }
    }

    /// The addresses it says it listens on.
    pub fn listening(&self) -> Vec<String> {
        self.said.lines().filter_map(|l| l.split_once("listening on ").map(|(_, a)| a.to_string())).collect()
    }

    pub fn signal(&mut self, name: &str) -> Option<i32> {
        // The shell's own, for not every machine has the program.
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it did not end on {name}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
