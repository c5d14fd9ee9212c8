//! kill -9 on the real program, over a real file, under load: every write that was acknowledged and flushed is there after
//! the next start, and every block is whole and is one that was written.
//!
//! `CAISSON_KILLS` is how often (default 4); `CAISSON_KILL_STORE` what is exported, with its arguments, instead of a pool.
//! `CAISSON_BIN` names the program; without it, it is built.

use caisson_device::sim::Rng;
use caisson_initiator::{Address, Client, Command, Data, Options, Queue};
use caisson_sim::content::{Chooser, fill, recognise};
use caisson_wire::opcode::io as op;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const NQN: &str = "nqn.2026-01.io.example:kill";
const BLOCK: usize = 4096;
/// Blocks of each writer's part of the volume.
const PART: u64 = 1024;
const WRITERS: u64 = 3;
/// Commands that each keeps under way.
const DEPTH: usize = 12;

/// The program, built as this test is.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("CAISSON_BIN") {
        return path.into();
    }
    let exe = std::env::current_exe().unwrap();
    let folder = exe.parent().and_then(Path::parent).unwrap();
    let mut build = Process::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "caisson"]);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the program cannot be built");
    folder.join("caisson")
}

/// What is exported, and its arguments.
fn store(dir: &Path) -> Vec<String> {
    if let Ok(own) = std::env::var("CAISSON_KILL_STORE") {
        return own.split_whitespace().map(str::to_owned).collect();
    }
    let path = |name: &str| dir.join(name).display().to_string();
    std::fs::write(path("passphrase"), "correct horse battery staple\n").unwrap();
    let args = ["--size", "1G", "--key-file", &path("keys"), "--passphrase-file", &path("passphrase")];
    let mut all = vec![format!("pool:{}", path("pool"))];
    all.extend(args.map(str::to_owned));
    all
}

/// A target in a process of its own.
struct Target {
    child: Child,
    address: Address,
}

impl Target {
    /// Starts it, at once: the kernel may hold the files of a process that was killed a little longer than the process, and
    /// waiting for that is the program's affair.
    fn start(program: &Path, store: &[String]) -> Target {
        Target::try_start(program, store).unwrap_or_else(|said| panic!("it ended: {said}"))
    }

    fn try_start(program: &Path, store: &[String]) -> Result<Target, String> {
        let mut child = Process::new(program)
            .arg("export")
            .args(store)
            .args(["--listen", "tcp://127.0.0.1:0", "--nqn", NQN])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        let port = loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() == 0 {
                let mut errors = String::new();
                child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
                child.wait().unwrap();
                return Err(said + &errors);
            }
            if let Some((_, port)) = line.split_once("listening on tcp://127.0.0.1:") {
                break port.trim().parse().unwrap();
            }
            said.push_str(&line);
        };
        let mut errors = child.stderr.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::stderr()));
        Ok(Target { child, address: Address::new("127.0.0.1", port) })
    }

    fn connect(&self) -> (Client, Queue) {
        let mut options = Options::new(self.address.clone(), NQN);
        options.kato_ms = 0;
        let mut client = Client::connect(options).unwrap();
        client.ask_queues(1).unwrap();
        let queue = client.io_queue(1, 64).unwrap();
        (client, queue)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(opcode: u8, lba: u64, blocks: u64) -> Command {
    Command::new(opcode, 1).dword(10, lba as u32).dword(12, blocks as u32 - 1)
}

/// What a block may be after a kill: the content that is certainly there, and those written since, in order.
type May = Vec<u64>;

/// A command under way.
enum Sent {
    Write {
        first: u64,
        versions: Vec<usize>,
        fua: bool,
    },
    /// With how many versions each block had that was acknowledged when it was sent.
    Flush(Vec<usize>),
}

/// One writer: its part of the volume, block by block.
struct Writer {
    from: u64,
    may: Vec<May>,
    /// How many of `may` are acknowledged.
    acknowledged: Vec<usize>,
    busy: Vec<bool>,
    rng: Rng,
    chooser: Chooser,
}

impl Writer {
    fn new(number: u64, seed: u64) -> Writer {
        let mut rng = Rng::new(seed ^ number << 32);
        Writer {
            from: number * PART,
            may: vec![vec![0]; PART as usize],
            acknowledged: vec![1; PART as usize],
            busy: vec![false; PART as usize],
            chooser: Chooser::new(&mut rng),
            rng,
        }
    }

    /// Writes until the target is gone.
    fn load(&mut self, target: &Target, done: &AtomicU64) {
        let (_client, mut queue) = target.connect();
        let mut sent: HashMap<u16, Sent> = HashMap::new();
        loop {
            while sent.len() < DEPTH {
                let Some((command, what)) = self.next() else { break };
                match queue.submit(command) {
                    Ok(cid) => drop(sent.insert(cid, what)),
                    Err(_) => return,
                }
            }
            if queue.poll(Duration::from_millis(20)).is_err() {
                return;
            }
            let over: Vec<u16> = sent.keys().copied().collect();
            for cid in over {
                let Some(completion) = queue.take(cid) else { continue };
                let status = completion.status();
                assert!(status.is_success(), "a write failed: {status:?}");
                done.fetch_add(1, Ordering::Relaxed);
                if let Some(what) = sent.remove(&cid) {
                    self.over(what);
                }
            }
        }
    }

    fn next(&mut self) -> Option<(Command, Sent)> {
        if self.rng.below(12) == 0 {
            return Some((Command::new(op::FLUSH, 1), Sent::Flush(self.acknowledged.clone())));
        }
        let first = self.rng.below(PART);
        let most = if self.rng.below(4) == 0 { 32 } else { 2 };
        let blocks = (1 + self.rng.below(most)).min(PART - first);
        let range = first as usize..(first + blocks) as usize;
        if self.busy[range.clone()].contains(&true) {
            return None;
        }
        let mut data = vec![0; range.len() * BLOCK];
        let mut versions = Vec::new();
        for (i, bytes) in range.zip(data.chunks_mut(BLOCK)) {
            let content = self.chooser.next(&mut self.rng);
            fill(content, 0, bytes);
            self.may[i].push(content);
            self.busy[i] = true;
            versions.push(self.may[i].len());
        }
        let fua = self.rng.below(8) == 0;
        let command = command(op::WRITE, self.from + first, blocks).with(Data::Out(data));
        // Bit 30 of dword 12 is FUA.
        let command = if fua { command.dword(12, (blocks as u32 - 1) | (1 << 30)) } else { command };
        Some((command, Sent::Write { first, versions, fua }))
    }

    fn over(&mut self, what: Sent) {
        match what {
            Sent::Write { first, versions, fua } => {
                for (i, version) in (first as usize..).zip(versions) {
                    self.busy[i] = false;
                    self.acknowledged[i] = version;
                    if fua {
                        self.durable(i, version);
                    }
                }
            }
            Sent::Flush(acknowledged) => {
                for (i, version) in acknowledged.into_iter().enumerate() {
                    self.durable(i, version);
                }
            }
        }
    }

    /// The first `version` of what a block may be are replaced, but for the last of them.
    fn durable(&mut self, block: usize, version: usize) {
        for old in &mut self.may[block][..version - 1] {
            *old = u64::MAX;
        }
    }

    /// Judges what is there now, and goes on from it.
    fn judge(&mut self, queue: &mut Queue) {
        for first in (0..PART).step_by(32) {
            let read = command(op::READ, self.from + first, 32).with(Data::In(32 * BLOCK as u32));
            let read = queue.run(read).unwrap().ok("reading after a kill").unwrap();
            for (i, bytes) in (first as usize..).zip(read.data.chunks(BLOCK)) {
                let lba = self.from + i as u64;
                let found = recognise(bytes, 0);
                let found = found.unwrap_or_else(|| panic!("block {lba} is torn: {:x?}", &bytes[..16]));
                let may: Vec<u64> = self.may[i].iter().copied().filter(|&v| v != u64::MAX).collect();
                assert!(may.contains(&found), "block {lba} is {found:x}, not one of {may:x?}");
                self.may[i] = vec![found];
                self.acknowledged[i] = 1;
                self.busy[i] = false;
            }
        }
    }
}

#[test]
fn a_killed_target_keeps_what_was_flushed() {
    let kills = std::env::var("CAISSON_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let seed = std::env::var("CAISSON_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let dir = std::env::temp_dir().join(format!("caisson-kill-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (program, store) = (program(), store(&dir));
    let mut rng = Rng::new(seed);
    let mut writers: Vec<Writer> = (0..WRITERS).map(|n| Writer::new(n, seed)).collect();
    for round in 0..kills {
        let target = Target::start(&program, &store);
        let (_client, mut queue) = target.connect();
        writers.iter_mut().for_each(|w| w.judge(&mut queue));
        let done = AtomicU64::new(0);
        let until = 200 + rng.below(4000);
        std::thread::scope(|scope| {
            for w in &mut writers {
                scope.spawn(|| w.load(&target, &done));
            }
            while done.load(Ordering::Relaxed) < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            let pid = rustix::process::Pid::from_child(&target.child);
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        });
        drop(target);
        println!("kill {round} after {} commands (CAISSON_SEED={seed})", done.load(Ordering::Relaxed));
    }
    let target = Target::start(&program, &store);
    let (_client, mut queue) = target.connect();
    writers.iter_mut().for_each(|w| w.judge(&mut queue));
    drop(target);
    let _ = std::fs::remove_dir_all(&dir);
}
