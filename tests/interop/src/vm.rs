//! One boot of the guest: the image, the shared folder, the running VM, and the guest's requests.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::paths;

/// The image to boot, with soft-iWARP or without, prepared when it is not there yet (`tools/testbed/prepare` says how).
///
/// # Errors
/// What `prepare` had to say.
pub fn image(iwarp: bool) -> Result<PathBuf, String> {
    let output = Command::new(paths::script("prepare"))
        .args(iwarp.then_some("--iwarp"))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("tools/testbed/prepare does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("tools/testbed/prepare: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// The folder that the guest sees as `/share`.
#[derive(Debug)]
pub struct Share {
    path: PathBuf,
    answered: u32,
}

impl Share {
    /// Lays out the folder for one suite: the guest's scripts, its environment, and what to run.
    ///
    /// # Errors
    /// Any failure to write it.
    pub fn create(path: PathBuf, suite: &str, environment: &str) -> io::Result<Self> {
        let guest = path.join("guest");
        fs::create_dir_all(&guest)?;
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("guest"))? {
            let entry = entry?;
            fs::copy(entry.path(), guest.join(entry.file_name()))?;
        }
        fs::write(path.join("env"), environment)?;
        fs::write(path.join("run.sh"), format!(". /share/env\n. /share/guest/{suite}.sh\nends\n"))?;
        fs::write(path.join("results"), "")?;
        Ok(Self { path, answered: 0 })
    }

    /// The guest's next request, if it has made one: a verb and its arguments.
    ///
    /// # Errors
    /// A request that is there but cannot be read.
    pub fn request(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.path.join(format!("req.{}", self.answered + 1))) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Answers the request that [`Share::request`] returned. The file appears whole.
    ///
    /// # Errors
    /// Any failure to write it.
    pub fn answer(&mut self, text: &str) -> io::Result<()> {
        let whole = self.path.join("ack.tmp");
        fs::write(&whole, format!("{text}\n"))?;
        self.answered += 1;
        fs::rename(whole, self.path.join(format!("ack.{}", self.answered)))
    }

    /// The guest's result lines so far.
    pub fn results(&self) -> String {
        self.text("results")
    }

    /// The guest's console so far.
    pub fn console(&self) -> String {
        self.text("console.log")
    }

    fn text(&self, name: &str) -> String {
        fs::read(self.path.join(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

/// A running VM; dropped, it is stopped.
#[derive(Debug)]
pub struct Vm(Child);

impl Vm {
    /// Starts the guest, which runs what `share` holds for at most `limit`, with `memory` MiB.
    ///
    /// # Errors
    /// When `tools/testbed/boot` does not start.
    pub fn boot(image: &Path, share: &Share, limit: Duration, memory: u32) -> io::Result<Self> {
        Vm::boot_with(image, share, limit, memory, &[])
    }

    /// The same, with further arguments to QEMU: devices that not every guest has.
    ///
    /// # Errors
    /// As [`Vm::boot`].
    pub fn boot_with(
        image: &Path,
        share: &Share,
        limit: Duration,
        memory: u32,
        devices: &[String],
    ) -> io::Result<Self> {
        Command::new(paths::script("boot"))
            .arg("--image")
            .arg(image)
            .arg("--share")
            .arg(&share.path)
            .args(["--timeout", &limit.as_secs().to_string()])
            .args(["--memory", &memory.to_string()])
            .arg("--")
            .args(devices)
            .stdin(Stdio::null())
            .spawn()
            .map(Self)
    }

    /// `boot`'s exit status (its head says what each means), once the guest is gone.
    ///
    /// # Errors
    /// As [`Child::try_wait`].
    pub fn ended(&mut self) -> io::Result<Option<i32>> {
        Ok(self.0.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        // Asked, not killed: the script must take QEMU down with it.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_in_turn() {
        let folder = std::env::temp_dir().join(format!("caisson-interop-share-{}", std::process::id()));
        let mut share = Share::create(folder.clone(), "basics", "TARGET='caisson'\n").unwrap();
        assert!(folder.join("guest/lib.sh").exists());
        assert_eq!(share.request().unwrap(), None);
        fs::write(folder.join("req.1"), "kill 0\n").unwrap();
        assert_eq!(share.request().unwrap().as_deref(), Some("kill 0"));
        share.answer("done").unwrap();
        assert_eq!(share.request().unwrap(), None, "an answered request is not seen again");
        assert_eq!(fs::read_to_string(folder.join("ack.1")).unwrap(), "done\n");
        fs::remove_dir_all(folder).unwrap();
    }
}
