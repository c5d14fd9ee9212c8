//! A target that a benchmark starts, pauses and stops, the folder it works in, and the processor time that it has used.

use super::bench::BenchArgs;
use crate::error::{Error, Result};
use crate::net::Address;
use crate::sys;
use rustix::process::{Pid, Signal, kill_process};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a target may take to answer at its port.
const START: Duration = Duration::from_secs(20);
/// How long it may take to end before it is killed.
const END: Duration = Duration::from_secs(5);

/// The subsystem of targets that [`export`] starts.
pub(super) const NQN: &str = "nqn.2026-11.io.caisson:bench";

/// A folder that goes when it is dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// A new one in `at`, with a file `passphrase`.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn new(at: &Path) -> Result<Folder> {
        let path = at.join(format!("caisson-bench-{}", std::process::id()));
        let failed = |source| Error::File { path: path.display().to_string(), source };
        std::fs::create_dir_all(&path).map_err(failed)?;
        std::fs::write(path.join("passphrase"), "of a benchmark\n").map_err(failed)?;
        Ok(Folder(path))
    }

    /// A path in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is in the way of nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A target of this program, as [`export`] started it.
pub(super) struct Exported {
    pub(super) target: Target,
    pub(super) address: Address,
    /// Its management socket.
    pub(super) socket: PathBuf,
}

/// The program that targets are started with.
///
/// # Errors
/// The system's, when it does not know which one runs.
pub(super) fn program(args: &BenchArgs) -> std::io::Result<Command> {
    Ok(Command::new(args.program.clone().map_or_else(std::env::current_exe, Ok)?))
}

/// Starts the program's `export` of `store`, served by one thread on `--target-core`, with the arguments `more`. `whole`:
/// the target's other threads are kept there, too.
///
/// # Errors
/// When it cannot be started.
pub(super) fn export(
    args: &BenchArgs,
    folder: &Folder,
    store: &str,
    size: u64,
    whole: bool,
    more: &[String],
) -> Result<Exported> {
    let failed = |source| Error::Io { doing: "starting a target", source };
    let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(failed)?;
    let address = Address::new("127.0.0.1", free.port());
    let socket = folder.file(&format!("{}.sock", free.port()));
    let mut command = program(args).map_err(failed)?;
    command.arg("--socket").arg(&socket);
    command.args(["export", store, "--nqn", NQN, "--log", "error"]);
    // The others have their size in their names.
    if !["ram:", "null:"].iter().any(|kind| store.starts_with(kind)) {
        command.args(["--size", &size.to_string()]);
    }
    let cores = args.target_cores.clone().unwrap_or_else(|| args.target_core.to_string());
    command.args(["--listen", &format!("tcp://{free}"), "--cores", &cores]);
    command.args(more);
    let target = Target::start(command, &address, whole.then_some(args.target_core))?;
    Ok(Exported { target, address, socket })
}

/// A target that was started here: stopped when dropped.
pub(super) struct Target(Child);

impl Target {
    /// Starts `command`, on `core` alone where one is named, and waits until it answers at `address`.
    ///
    /// # Errors
    /// When it cannot be started, ends at once, or does not answer.
    pub(super) fn start(mut command: Command, address: &Address, core: Option<usize>) -> Result<Target> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // Cores are inherited, so a thread that has nothing else to do takes them first.
        let spawn = || -> std::io::Result<Child> {
            if let Some(core) = core {
                sys::pin(core)?;
            }
            command.spawn()
        };
        let spawned = match std::thread::scope(|s| s.spawn(spawn).join()) {
            Ok(spawned) => spawned,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let child = spawned.map_err(|source| Error::Io { doing: "starting the target", source })?;
        let mut target = Target(child);
        let to = address.resolve()?;
        let deadline = Instant::now() + START;
        while TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_err() {
            if let Ok(Some(status)) = target.0.try_wait() {
                return Err(Error::unsuitable(
                    format!("the target command ended at once ({status})"),
                    "try it by itself",
                ));
            }
            if Instant::now() > deadline {
                return Err(Error::Timeout { what: "the target's port".into(), after: START });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(target)
    }

    /// Has it stand still.
    pub(super) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Has it go on.
    pub(super) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.0.id() as i32) {
            // A target that has ended shows at the next connection.
            let _ = kill_process(pid, signal);
        }
    }

    /// Processor time that its threads have used: those that serve connections, and all others.
    pub(super) fn spent(&self) -> Spent {
        let mut spent = Spent::default();
        let tasks = format!("/proc/{}/task", self.0.id());
        for task in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            // The first number: nanoseconds on a processor (Documentation/scheduler/sched-stats.rst).
            let ns = read("schedstat").split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            if read("comm").starts_with("caisson-io") {
                spent.serving += ns;
            } else {
                spent.beside += ns;
            }
        }
        spent
    }
}

/// Processor time in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    /// Of the threads that serve connections.
    pub(super) serving: u64,
    /// Of all others.
    pub(super) beside: u64,
}

impl Spent {
    /// Since `earlier`.
    pub(super) fn since(self, earlier: Spent) -> Spent {
        Spent {
            serving: self.serving.saturating_sub(earlier.serving),
            beside: self.beside.saturating_sub(earlier.beside),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.resume();
        self.signal(Signal::TERM);
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
