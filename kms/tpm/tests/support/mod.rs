//! A machine with a TPM for tests: swtpm with a state of its own, restarted like a machine, and ended with the test.

#![allow(dead_code, reason = "each test uses some of it")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The lockout's and the platform's authorisation handles, and the registers' (part 2, 7.4).
const LOCKOUT: u32 = 0x4000_000a;

/// A machine.
pub struct Machine {
    dir: PathBuf,
    running: Option<Child>,
}

impl Machine {
    /// A new one in `dir`, switched on, with a TPM that nobody has used.
    pub fn new(dir: &Path) -> Machine {
        std::fs::create_dir_all(dir).unwrap();
        let mut machine = Machine { dir: dir.into(), running: None };
        machine.on();
        machine
    }

    /// The attribute that names its TPM.
    pub fn tcti(&self) -> String {
        format!("swtpm:path={}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("tpm.sock")
    }

    /// Switches it on: the registers are as they are at the start of a machine.
    pub fn on(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        let socket = |name: &str| format!("type=unixio,path={}", self.dir.join(name).display());
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", self.dir.display())])
            .args(["--server", &socket("tpm.sock"), "--ctrl", &socket("ctrl.sock")])
            .args(["--flags", "not-need-init,startup-clear"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm runs (tools/setup test installs it)");
        self.running = Some(child);
        let end = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < end, "swtpm does not listen");
            assert!(self.running.as_mut().unwrap().try_wait().unwrap().is_none(), "swtpm ended");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Switches it off.
    pub fn off(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_file(self.socket());
    }

    pub fn restart(&mut self) {
        self.off();
        self.on();
    }

    /// Another TPM in the place of the one that there was.
    pub fn replace(&mut self) {
        self.off();
        for file in std::fs::read_dir(&self.dir).unwrap().flatten() {
            if file.file_name().to_string_lossy().starts_with("tpm2-") {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
        self.on();
    }

    /// Sends a command of these bytes with the empty authorisation for its one handle; gives the response code.
    pub fn command(&self, code: u32, handle: u32, params: &[u8]) -> u32 {
        let mut body = handle.to_be_bytes().to_vec();
        body.extend([0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
        body.extend(params);
        let mut command = vec![0x80, 2];
        command.extend((10 + body.len() as u32).to_be_bytes());
        command.extend(code.to_be_bytes());
        command.extend(body);
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(&command).unwrap();
        let mut header = [0; 10];
        stream.read_exact(&mut header).unwrap();
        u32::from_be_bytes(header[6..].try_into().unwrap())
    }

    /// Extends a register, as a firmware that was updated does (TPM2_PCR_Extend).
    pub fn measure(&self, register: u32) {
        let params = [&[0, 0, 0, 1, 0, 0x0b][..], &[0x5a; 32]].concat();
        assert_eq!(self.command(0x182, register, &params), 0);
    }

    /// After `most` wrong values it is locked, and one is forgiven each `interval_s` (TPM2_DictionaryAttackParameters).
    pub fn locks_after(&self, most: u32, interval_s: u32) {
        let params: Vec<u8> = [most, interval_s, 1].iter().flat_map(|n| n.to_be_bytes()).collect();
        assert_eq!(self.command(0x13a, LOCKOUT, &params), 0);
    }

    /// Takes the lockout away (TPM2_DictionaryAttackLockReset).
    pub fn forgive(&self) {
        assert_eq!(self.command(0x139, LOCKOUT, &[]), 0);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.off();
    }
}
