//! The state against a file system that stops at each step, and the rule that joins it with the file.

use super::files::Files;
use super::*;
use crate::model::{Backing, Volume};
use std::io;
use std::sync::Mutex;

/// A file system in memory that knows what is durable, and fails from a chosen step on, as a machine that stops does.
#[derive(Default)]
struct Fake {
    inner: Mutex<Inner>,
}

#[derive(Default, Clone)]
struct Inner {
    /// By name: contents as programs see them, and as the disk has them.
    seen: BTreeMap<PathBuf, Vec<u8>>,
    /// Contents that were synced.
    synced: BTreeMap<PathBuf, Vec<u8>>,
    /// Names as the disk has them: which contents each is.
    durable: BTreeMap<PathBuf, Vec<u8>>,
    steps: usize,
    stop_at: Option<usize>,
}

impl Fake {
    fn step(&self) -> io::Result<std::sync::MutexGuard<'_, Inner>> {
        let mut i = self.inner.lock().unwrap();
        i.steps += 1;
        if i.stop_at.is_some_and(|s| i.steps > s) {
            return Err(io::Error::other("the machine has stopped"));
        }
        Ok(i)
    }

    /// After a power failure: `kind` 0 keeps what was durable only; 1 also all names and contents that reached the page
    /// cache; 2 the names but of unsynced contents only half.
    fn reboot(&self, kind: u8) -> Fake {
        let i = self.inner.lock().unwrap().clone();
        let files = match kind {
            0 => i.durable.clone(),
            1 => i.seen.clone(),
            _ => i
                .seen
                .iter()
                .map(|(p, b)| {
                    let whole = i.synced.get(p) == Some(b);
                    (p.clone(), if whole { b.clone() } else { b[..b.len() / 2].to_vec() })
                })
                .collect(),
        };
        let inner = Inner { seen: files.clone(), synced: files.clone(), durable: files, ..Inner::default() };
        Fake { inner: Mutex::new(inner) }
    }
}

impl Files for Fake {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        Ok(self.inner.lock().unwrap().seen.get(path).cloned())
    }
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // A write that is cut short leaves a part.
        let mut i = self.inner.lock().unwrap();
        i.seen.insert(path.into(), bytes[..bytes.len() / 3].to_vec());
        i.synced.remove(path);
        drop(i);
        self.step()?.seen.insert(path.into(), bytes.to_vec());
        Ok(())
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut i = self.step()?;
        let bytes = i.seen.get(path).cloned().unwrap();
        i.synced.insert(path.into(), bytes);
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut i = self.step()?;
        let bytes = i.seen.remove(from).unwrap();
        i.seen.insert(to.into(), bytes);
        if let Some(b) = i.synced.remove(from) {
            i.synced.insert(to.into(), b);
        } else {
            i.synced.remove(to);
        }
        Ok(())
    }
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut i = self.step()?;
        // Names are durable; contents only as far as they were synced.
        let names: Vec<PathBuf> = i.seen.keys().cloned().collect();
        let synced = i.synced.clone();
        i.durable =
            names.into_iter().map(|n| (n.clone(), synced.get(&n).cloned().unwrap_or_default())).collect();
        Ok(())
    }
}

const FILE: &str = "/data/state.json";

fn volume(name: &str, size: u64) -> Item {
    Item::Volume(Volume::new(name, Backing::Ram, size, 4096))
}

fn set(item: &Item) -> Change {
    (item.key(), Some(item.clone()))
}

fn base(items: &[Item]) -> Objects {
    items.iter().map(|i| (i.key(), i.clone())).collect()
}

fn open(files: &Arc<Fake>, base: Objects) -> State {
    let files: Arc<dyn Files> = files.clone();
    State::open(Path::new(FILE), files, base).unwrap_or_else(|e| panic!("{e:?}"))
}

#[test]
fn a_crash_at_any_step_leaves_old_or_new() {
    let (a, b, c) = (volume("a", 4096), volume("b", 8192), volume("c", 4096));
    for stop in 0..=4 {
        for reboot in 0..3 {
            let files = Arc::new(Fake::default());
            let mut state = open(&files, Objects::new());
            state.commit(&[set(&a), set(&c)]).unwrap();
            let old = state.objects();
            let steps = files.inner.lock().unwrap().steps;
            files.inner.lock().unwrap().stop_at = Some(steps + stop);
            let done = state.commit(&[set(&b), (a.key(), None)]);
            let new = base(&[b.clone(), c.clone()]);
            assert_eq!(done.is_ok(), stop == 4);
            assert_eq!(state.objects(), if done.is_ok() { new.clone() } else { old.clone() });
            let after = open(&Arc::new(files.reboot(reboot)), Objects::new()).objects();
            assert!(after == old || after == new, "stopped at step {stop}, reboot {reboot}: {after:?}");
            if done.is_ok() {
                assert_eq!(after, new, "an acknowledged change was lost");
            }
        }
    }
}

#[test]
fn changes_lie_over_the_file_item_by_item() {
    let files = Arc::new(Fake::default());
    let (a10, a20, b) = (volume("a", 10 << 12), volume("a", 20 << 12), volume("b", 4096));
    let mut state = open(&files, base(&[a10.clone(), b.clone()]));
    state.commit(&[set(&a20), (b.key(), None)]).unwrap();
    // The file as it was: the changes hold.
    assert_eq!(open(&files, base(&[a10.clone(), b.clone()])).objects(), base(std::slice::from_ref(&a20)));
    // The file says by now what the changes say: they are forgotten.
    let adopted = open(&files, base(std::slice::from_ref(&a20)));
    assert!(adopted.changes().is_empty());
    // The file says a third thing: nobody knows which is meant.
    let dynamic: Arc<dyn Files> = files.clone();
    let err = State::open(Path::new(FILE), dynamic, base(&[volume("a", 30 << 12), b]));
    let Err(StateError::Clash(clashes)) = err else { panic!("accepted") };
    assert_eq!(clashes.len(), 1);
    assert!(clashes[0].error.contains("volume/a") && clashes[0].remedy.contains(FILE));
}

#[test]
fn undoing_a_change_forgets_it() {
    let files = Arc::new(Fake::default());
    let a = volume("a", 4096);
    let mut state = open(&files, base(std::slice::from_ref(&a)));
    state.commit(&[(a.key(), None)]).unwrap();
    state.commit(&[set(&a)]).unwrap();
    assert!(state.changes().is_empty());
}

#[test]
fn refuses_what_it_did_not_write() {
    for (text, word) in [
        ("{", "cannot be understood"),
        ("{\"version\": 9, \"later\": []}", "version 9"),
        ("{\"version\": 1, \"changes\": {}, \"extra\": 1}", "cannot be understood"),
        (
            "{\"version\": 1, \"changes\": {\"volume/x\": {\"now\": {\"type\": \"volume\", \"name\": \"y\", \"backing\": \
             {\"kind\": \"ram\"}, \"size\": 4096, \"block_size\": 4096}, \"file\": null}}}",
            "under the key volume/x",
        ),
    ] {
        let files = Arc::new(Fake::default());
        files.inner.lock().unwrap().seen.insert(FILE.into(), text.as_bytes().to_vec());
        let Err(StateError::Unusable(r)) = State::open(Path::new(FILE), files, Objects::new()) else {
            panic!("accepted {text}")
        };
        assert!(r.error.contains(word), "{r}");
        assert!(!r.remedy.is_empty());
    }
}

#[test]
fn history_counts_starts_and_crashes() {
    let files = Arc::new(Fake::default());
    let mut s = open(&files, Objects::new());
    assert_eq!(begin(&mut s), History { starts: 1, seconds: 0, unclean: 0, running: true });
    s.ran(100);
    s.ran(160);
    s.end().unwrap();
    let mut s = open(&files, Objects::new());
    assert_eq!(begin(&mut s), History { starts: 2, seconds: 160, unclean: 0, running: true });
    let mut s = open(&files, Objects::new());
    assert_eq!(begin(&mut s).unclean, 1);
}

/// Counts a start and keeps it.
fn begin(s: &mut State) -> History {
    let history = s.begin();
    s.started(&[]).unwrap();
    history
}
