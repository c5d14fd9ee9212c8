//! Where the unreadable blocks of a file volume are kept across a restart: a small text file beside the store.
//!
//! Replaced as a whole (written anew, synced, renamed, folder synced), so that a crash leaves the old or the new one.

use caisson_block::Extent;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Keeps the set of unreadable runs, in bytes.
pub trait Keeper: Send + Sync {
    /// Makes `runs` (offset and length in bytes) the durable set. Blocks.
    ///
    /// # Errors
    /// The system's; the set is the old or the new one then.
    fn keep(&self, runs: &[Extent]) -> io::Result<()>;

    /// The set that was kept last.
    ///
    /// # Errors
    /// The system's; `InvalidData` with what is wrong when it cannot be understood.
    fn load(&self) -> io::Result<Vec<Extent>>;

    /// Whether [`Keeper::keep`] takes long, so that it is not called on a thread of the data plane.
    fn blocks(&self) -> bool {
        true
    }
}

/// Keeps them in a file.
pub(crate) struct Sidecar(PathBuf);

const HEAD: &str = "caisson unreadable blocks, version 1: offset and length in bytes";

impl Sidecar {
    /// Beside the store at `store`.
    pub(crate) fn beside(store: &Path) -> Sidecar {
        let mut name = store.as_os_str().to_owned();
        name.push(".unreadable");
        Sidecar(name.into())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let folder = self.0.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(folder)?.sync_all()
    }
}

fn write(runs: &[Extent]) -> String {
    let mut text = format!("{HEAD}\n");
    for run in runs {
        text += &format!("{} {}\n", run.lba, run.blocks);
    }
    text + &format!("end {}\n", runs.len())
}

fn parse(text: &str) -> Result<Vec<Extent>, &'static str> {
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return Err("its first line is not that of version 1");
    }
    let mut runs = Vec::new();
    for line in lines.by_ref() {
        let (a, b) = line.split_once(' ').ok_or("a line does not hold two words")?;
        let b = b.parse::<u64>().map_err(|_| "a line does not end with a number")?;
        if a == "end" {
            return if b == runs.len() as u64 { Ok(runs) } else { Err("lines are missing") };
        }
        let a = a.parse::<u64>().map_err(|_| "a line does not begin with a number")?;
        runs.push(Extent { lba: a, blocks: b });
    }
    Err("its end is missing")
}

impl Keeper for Sidecar {
    fn keep(&self, runs: &[Extent]) -> io::Result<()> {
        if runs.is_empty() {
            return match fs::remove_file(&self.0) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(e) => Err(e),
                Ok(()) => self.sync_folder(),
            };
        }
        let mut new = self.0.clone().into_os_string();
        new.push(".new");
        let mut file = fs::File::create(&new)?;
        file.write_all(write(runs).as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        self.sync_folder()
    }

    fn load(&self) -> io::Result<Vec<Extent>> {
        let text = match fs::read_to_string(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        parse(&text).map_err(|why| {
            let path = self.0.display();
            let why = format!("{path} is damaged: {why}; remove it to have its blocks readable again");
            io::Error::new(io::ErrorKind::InvalidData, why)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_and_notices_damage() {
        let path = std::env::temp_dir().join(format!("caisson-sidecar-{}", std::process::id()));
        let s = Sidecar::beside(&path);
        assert_eq!(s.load().unwrap(), []);
        let runs = [Extent { lba: 0, blocks: 512 }, Extent { lba: 1 << 50, blocks: 4096 }];
        s.keep(&runs).unwrap();
        assert_eq!(s.load().unwrap(), runs);
        let whole = fs::read_to_string(&s.0).unwrap();
        for cut in 0..whole.len() - 1 {
            fs::write(&s.0, &whole[..cut]).unwrap();
            let e = s.load().unwrap_err();
            assert!(
                e.kind() == io::ErrorKind::InvalidData && e.to_string().contains("remove it"),
                "cut at {cut}"
            );
        }
        s.keep(&[]).unwrap();
        s.keep(&[]).unwrap();
        assert!(!s.0.exists() && s.load().unwrap().is_empty());
    }
}
