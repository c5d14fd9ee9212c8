//! The `caisson` processes of one suite: started, asked, killed and started again.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::commands::{self, Change};
use crate::paths;
use crate::scenario::{Export, HOST_NQN, Mode, Ports, Scenario, Store};

const START_LIMIT: Duration = Duration::from_secs(20);

/// One `caisson` in the foreground.
#[derive(Debug)]
struct Process {
    words: Vec<String>,
    listeners: usize,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts it and waits until each listener is said to listen. The log is appended to, one start after the other.
    fn start(&mut self) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(&self.log).map_err(|e| e.to_string())?;
        let from = log.metadata().map_err(|e| e.to_string())?.len() as usize;
        let child = Command::new(paths::caisson()?)
            .args(&self.words)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("caisson does not start: {error}"))?;
        let child = self.child.insert(child);
        let end = Instant::now() + START_LIMIT;
        loop {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            let said = said.get(from..).unwrap_or_default();
            if said.lines().filter(|line| line.contains(commands::LISTENING)).count() >= self.listeners {
                return Ok(());
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("caisson {} ended with {status}: {said}", self.words.join(" ")));
            }
            if Instant::now() > end {
                return Err(format!("caisson {} does not listen: {said}", self.words.join(" ")));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL.
    fn kill(&mut self) -> Result<(), String> {
        let mut child = self.child.take().ok_or("caisson is not running")?;
        child.kill().and_then(|()| child.wait()).map(drop).map_err(|error| error.to_string())
    }

    /// SIGTERM; it must end in time and with success.
    fn stop(&mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("caisson had ended by itself with {status}"));
        }
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        let end = Instant::now() + START_LIMIT;
        while Instant::now() < end {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("caisson ended with {status} on SIGTERM")),
                _ => sleep(Duration::from_millis(20)),
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        Err("caisson did not end on SIGTERM".into())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill();
        }
    }
}

/// The target's side of a suite.
#[derive(Debug)]
pub struct Target {
    mode: Mode,
    exports: Vec<Export>,
    folder: PathBuf,
    socket: PathBuf,
    processes: Vec<Process>,
}

impl Target {
    /// Starts what the scenario asks for, keeping its files in `folder`.
    ///
    /// # Errors
    /// A sentence with what the program said.
    pub fn start(scenario: &Scenario, ports: &Ports, folder: &Path) -> Result<Self, String> {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        // A Unix socket's path has little room; the suite's folder may be deep.
        let socket =
            std::env::temp_dir().join(format!("caisson-{}-{}.sock", scenario.title(), std::process::id()));
        let mut target = Self {
            mode: scenario.mode,
            exports: scenario.exports.clone(),
            folder: folder.to_owned(),
            socket,
            processes: Vec::new(),
        };
        match scenario.mode {
            Mode::Export => target.start_exports(scenario, ports)?,
            Mode::Serve => target.start_serving(scenario, ports)?,
            Mode::Programs => return Err("programs have targets of their own".into()),
        }
        Ok(target)
    }

    fn start_exports(&mut self, scenario: &Scenario, ports: &Ports) -> Result<(), String> {
        for (index, export) in scenario.exports.iter().enumerate() {
            let io = ports.listener(ports.io[index]);
            let discovery = (index == 0).then(|| ports.listener(ports.discovery));
            let path = self.store(index);
            if matches!(export.store, Store::Pool { .. }) {
                private_passphrase(&path.with_extension("passphrase"))?;
            }
            let allow = scenario.restricted.then_some(HOST_NQN);
            let words = commands::export(export, scenario.transport, &path, &io, discovery.as_deref(), allow);
            self.launch(words, 1 + usize::from(discovery.is_some()))?;
        }
        Ok(())
    }

    fn start_serving(&mut self, scenario: &Scenario, ports: &Ports) -> Result<(), String> {
        let (io, discovery) = (ports.listener(ports.io[0]), ports.listener(ports.discovery));
        let config = self.folder.join("caisson.toml");
        let text = commands::config(&self.folder, &self.socket, &io, &discovery, &scenario.exports);
        fs::write(&config, text).map_err(|error| error.to_string())?;
        private_passphrase(&self.folder.join(commands::PASSPHRASE))?;
        self.launch(commands::serve(&config), 2)?;
        for (index, export) in scenario.exports.iter().enumerate() {
            let name = volume(index, 1);
            self.change(&Change::CreateVolume { name: &name, size: export.size, store: export.store })?;
            let (open, erase) = (!scenario.restricted, export.allow_erase);
            self.change(&Change::CreateSubsystem { nqn: &export.nqn, open, erase })?;
            self.change(&Change::AddNamespace { nqn: &export.nqn, volume: &name, nsid: 1 })?;
            if scenario.restricted {
                self.change(&Change::AllowHost { nqn: &export.nqn, host: HOST_NQN })?;
            }
        }
        Ok(())
    }

    fn launch(&mut self, words: Vec<String>, listeners: usize) -> Result<(), String> {
        let log = self.folder.join(format!("caisson-{}.log", self.processes.len()));
        let mut process = Process { words, listeners, log, child: None };
        process.start()?;
        self.processes.push(process);
        Ok(())
    }

    fn store(&self, index: usize) -> PathBuf {
        self.folder.join(format!("store-{index}.img"))
    }

    /// Runs one change over the management socket.
    fn change(&self, change: &Change) -> Result<(), String> {
        let words = change.words();
        self.caisson(&words).map(drop)
    }

    /// Moves the pool's key file out of the way, or back.
    fn move_key(&self, from: &str, to: &str) -> Result<(), String> {
        let at = |end: &str| self.folder.join(format!("{}{end}", commands::KEY_FILE));
        fs::rename(at(from), at(to)).map_err(|error| error.to_string())
    }

    /// Runs one command of the program over the management socket, and gives what it says.
    fn caisson<W: AsRef<std::ffi::OsStr> + AsRef<str>>(&self, words: &[W]) -> Result<String, String> {
        let output = Command::new(paths::caisson()?)
            .arg("--socket")
            .arg(&self.socket)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("caisson does not start: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        Err(format!("caisson {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Does what the guest asks for: `VERB INDEX ARGUMENTS`, INDEX being the export's. Returns the answer.
    ///
    /// # Errors
    /// A sentence for the guest to report.
    pub fn act(&mut self, request: &str) -> Result<String, String> {
        let mut words = request.split_whitespace();
        let verb = words.next().ok_or("an empty request")?;
        let index: usize = words.next().and_then(|word| word.parse().ok()).ok_or("no export's number")?;
        let arguments: Vec<&str> = words.collect();
        let nqn = self.exports.get(index).ok_or("no such export")?.nqn.clone();
        match (verb, arguments.as_slice()) {
            ("add-ns", [nsid, size]) => {
                let nsid = number(nsid)?;
                let name = volume(index, nsid);
                self.change(&Change::CreateVolume { name: &name, size: number(size)?, store: Store::File })?;
                self.change(&Change::AddNamespace { nqn: &nqn, volume: &name, nsid })?;
            }
            ("remove-ns", [nsid]) => {
                self.change(&Change::RemoveNamespace { nqn: &nqn, nsid: number(nsid)? })?
            }
            ("resize-ns", [nsid, size]) => {
                let name = volume(index, number(nsid)?);
                self.change(&Change::ResizeVolume { name: &name, size: number(size)? })?;
            }
            ("allow", [host]) => self.change(&Change::AllowHost { nqn: &nqn, host })?,
            ("remove-host", [host]) => self.change(&Change::RemoveHost { nqn: &nqn, host })?,
            ("add-subsystem", [nqn]) => {
                self.change(&Change::CreateSubsystem { nqn, open: true, erase: false })?;
            }
            ("remove-subsystem", [nqn]) => self.change(&Change::DeleteSubsystem { nqn })?,
            ("caisson", words) => return self.caisson(words),
            ("lose-key", []) => self.move_key("", ".away")?,
            ("find-key", []) => self.move_key(".away", "")?,
            ("kill", []) => self.process(index)?.kill()?,
            ("restart", []) => self.process(index)?.start()?,
            _ => return Err(format!("no such request: {request}")),
        }
        Ok("done".into())
    }

    fn process(&mut self, index: usize) -> Result<&mut Process, String> {
        let index = if self.mode == Mode::Serve { 0 } else { index };
        self.processes.get_mut(index).ok_or_else(|| "no such process".into())
    }

    /// Ends every process with SIGTERM.
    ///
    /// # Errors
    /// When one had died, does not end, or ends badly.
    pub fn stop(mut self) -> Result<(), String> {
        let stopped = self.processes.iter_mut().try_for_each(Process::stop);
        let _ = fs::remove_file(&self.socket);
        stopped
    }
}

fn private_passphrase(path: &Path) -> Result<(), String> {
    let private = fs::Permissions::from_mode(0o600);
    fs::write(path, "a passphrase of the test\n")
        .and_then(|()| fs::set_permissions(path, private))
        .map_err(|error| error.to_string())
}

fn volume(index: usize, nsid: u32) -> String {
    format!("v{index}-{nsid}")
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}
