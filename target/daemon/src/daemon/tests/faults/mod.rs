//! Operations on keys, and a fault at each of their steps in turn: a key provider that does not answer before a call, that refuses it, or whose
//! answer is lost; a process that is killed before a call, a write to a device or to the state; a device or a file that fails. Whatever it is, what
//! is found afterwards is the old state or the new one, whole; the pool opens and what it holds is read; and the same again ends it.
//!
//! The engine, devices, files and the daemon are real, and so is the way to the providers; the providers are vaults in files, and real ones in
//! [`real`]. A kill is a copy of all files, made at that step while nobody takes another one, which is put in their place afterwards.

mod cases;
#[path = "../../../../../../datapath/engine/tests/common/mod.rs"]
mod common;
mod real;

use super::super::*;
use super::{Dir, FakePlane, Steps, volume_in_main};
use crate::manage::{ask, keys, pools, verbs};
use crate::pools::engine_over;
use crate::pools::faulty_for_tests::{Does, Fault, Plan, Step, Vault, put, starts};
use caisson_block::{Extent, Op};
use caisson_device::sim::Rng;
use caisson_providers::Share;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The pool's volume in the domain that every pool has, and that of a tenant's.
const VOLUMES: [(&str, Option<&str>); 2] = [("v", None), ("t", Some("acme"))];
const SIZE: u64 = 1 << 20;
const BLOCKS: u64 = 4;

/// What a volume holds: nothing that compresses, or that another holds.
fn content(volume: &str) -> Vec<u8> {
    let mut rng = Rng::new(volume.bytes().map(u64::from).sum());
    (0..BLOCKS * 4096).map(|_| rng.below(256) as u8).collect()
}

/// The state's files, each operation a step.
struct Kept(Arc<Plan>);

impl Steps for Kept {
    fn step(&self) -> io::Result<()> {
        if self.0.step(Step::File) == Does::Go { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }
}

/// Old or new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Old,
    New,
}

/// A target with a pool, to which faults happen.
struct Stage {
    dir: Dir,
    plan: Arc<Plan>,
    daemon: RefCell<Option<Arc<Daemon>>>,
    /// The providers that the pool is made with.
    keys: RefCell<Vec<String>>,
    /// What an operation is to remember: a number or a name of before.
    before: RefCell<String>,
    /// The recovery shares that people hold.
    shares: RefCell<Vec<Share>>,
    devices: Cell<usize>,
    /// Mends what was broken, where that is no matter of the plan.
    heal: RefCell<Option<Box<dyn FnMut()>>>,
    /// Breaks what is to be broken before or during a call.
    breaks: RefCell<Option<Box<dyn FnMut() + Send>>>,
    /// The thread that does so during a call.
    breaking: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Stage {
    fn new(name: &str) -> Stage {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Stage::over(Dir::new(&format!("faults-{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))))
    }

    /// In a folder, with what is there.
    fn over(dir: Dir) -> Stage {
        std::fs::create_dir_all(&dir.0).unwrap();
        let stage = Stage {
            dir,
            plan: Arc::default(),
            daemon: RefCell::default(),
            keys: RefCell::default(),
            before: RefCell::default(),
            shares: RefCell::default(),
            devices: Cell::new(1),
            heal: RefCell::default(),
            breaks: RefCell::default(),
            breaking: Arc::default(),
        };
        for name in ["a", "b", "c"] {
            put(&stage.uri(name), &stage.plan, Some(stage.vault(name)));
        }
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.0.join(name)
    }

    /// The file of a vault.
    fn vault(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.vault"))
    }

    /// What names a vault. Each is of another kind.
    fn uri(&self, name: &str) -> String {
        let path = self.path(name).display().to_string();
        match name {
            "a" => format!("file:{path}"),
            "b" => format!("pkcs11:token=b;object=root?module-path={path}"),
            _ => format!("kms:key=main?socket={path}"),
        }
    }

    fn try_start(&self) -> Result<(), StartError> {
        assert!(self.daemon.borrow().is_none(), "it runs");
        crate::daemon::keys::LOOKS_HERE.set(Duration::from_millis(5));
        let plan = Arc::clone(&self.plan);
        let start = Start {
            files: Arc::new(Kept(Arc::clone(&self.plan))),
            engine: engine_over(Arc::new(move |op: &mut _| plan.device(op))),
            ..Start::new(self.dir.settings(), Objects::new(), Mono(1))
        };
        let daemon = Daemon::start(start, |_, _| Ok(Arc::new(FakePlane::default())))?;
        *self.daemon.borrow_mut() = Some(daemon);
        Ok(())
    }

    fn start(&self) {
        self.try_start().unwrap_or_else(|e| panic!("{e}"));
    }

    fn daemon(&self) -> Arc<Daemon> {
        self.daemon.borrow().clone().expect("it runs")
    }

    /// Ends the target, where it runs.
    fn end(&self) {
        let Some(mut d) = self.daemon.borrow_mut().take() else { return };
        d.stop();
        // The thread that looks at it now and then holds it for as long as that takes.
        while let Err(held) = Arc::try_unwrap(d) {
            std::thread::sleep(Duration::from_millis(1));
            d = held;
        }
    }

    fn ask(&self) -> ask::CreatePool {
        let device = |n: usize| ask::DeviceAsk {
            path: self.path(&format!("{n}.pool")),
            size: Some(ask::Size::Bytes(128 << 20)),
        };
        ask::CreatePool {
            name: "main".into(),
            devices: (0..self.devices.get()).map(device).collect(),
            key_file: None,
            passphrase_file: None,
            keys: self.keys.borrow().clone(),
            memory: Some(ask::Size::Bytes(64 << 20)),
            adopt: false,
        }
    }

    /// A running target with the pool, that these vaults wrap, its domain `acme` and its volumes.
    fn with_pool(&self, vaults: &[&str]) {
        *self.keys.borrow_mut() = vaults.iter().map(|v| self.uri(v)).collect();
        self.start();
        let d = self.daemon();
        assert_eq!(pools::create_pool(&d, &self.ask()), Ok(Did::Changed));
        keys::create_domain(&d, "main", &ask::DomainAsk { domain: "acme".into() }).unwrap();
        for (name, domain) in VOLUMES {
            verbs::create_volume(&d, &volume(name, domain)).unwrap();
            self.write(name);
        }
    }

    fn pool(&self) -> Arc<dyn PoolHandle> {
        self.daemon().pools().remove("main").expect("the pool is open")
    }

    fn write(&self, name: &str) {
        let opened = self.pool().volume(name).unwrap();
        let at = Extent { lba: 0, blocks: BLOCKS };
        let write = Op::Write { at, data: content(name).into(), fua: true };
        run(&opened, write).unwrap();
    }

    /// What a volume holds; none where it is not read.
    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let opened = self.pool().volume(name).ok()?;
        let read = Op::Read { at: Extent { lba: 0, blocks: BLOCKS } };
        run(&opened, read).ok().map(|data| data.to_vec())
    }

    fn holds(&self, name: &str) {
        assert!(
            self.read(name).is_some_and(|read| read == content(name)),
            "volume {name} is as it was written"
        );
    }

    /// Asks again for what the pool waits for.
    fn unlocked(&self) {
        if self.daemon.borrow().is_none() {
            self.start();
        }
        if self.daemon().waiting().contains_key("main") {
            assert!(self.daemon().volume_health().is_empty(), "nothing is exported half open");
            keys::retry(&self.daemon(), "main").unwrap();
        }
    }

    /// All wrapped keys, by what and by whom.
    fn slots(&self) -> Vec<caisson_keys::KeySlot> {
        self.pool().slots().unwrap()
    }

    fn domain(&self, name: &str) -> Option<crate::pools::Domain> {
        self.pool().domains().into_iter().find(|d| d.name == name && d.epoch != 0)
    }

    /// The name of a vault's newest root key.
    fn root(&self, vault: &str) -> String {
        Vault::roots_in(&self.vault(vault)).pop().unwrap().0
    }

    /// Copies all files, as they are now, to where [`Stage::killed`] finds them.
    fn image(&self) -> impl FnMut() + Send + 'static {
        let (from, to) = (self.dir.0.clone(), self.dir.0.with_extension("killed"));
        move || copy(&from, &to).unwrap()
    }

    /// All files are as they were at the kill.
    fn killed(&self) {
        let image = self.dir.0.with_extension("killed");
        std::fs::remove_dir_all(&self.dir.0).unwrap();
        std::fs::rename(image, &self.dir.0).unwrap();
    }
}

/// Copies a folder, and leaves the holes of files: what was never written is not read. No process is started for it, as others
/// would have to wait for that ([`starts`]).
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    std::fs::set_permissions(to, from.metadata()?.permissions())?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&from, &to)?;
        } else {
            copy_file(&from, &to)?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (File::open(from)?, File::create(to)?);
    let len = from.metadata()?.len();
    to.set_permissions(from.metadata()?.permissions())?;
    to.set_len(len)?;
    let mut at = 0;
    while at < len {
        // Behind the last data there is none.
        let first = match seek(&from, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            first => first?,
        };
        let end = seek(&from, SeekFrom::Hole(first))?.min(len);
        let mut data = vec![0; (end - first) as usize];
        from.read_exact_at(&mut data, first)?;
        to.write_all_at(&data, first)?;
        at = end;
    }
    Ok(())
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.daemon.borrow_mut().take();
        } else {
            self.end();
        }
    }
}

/// Runs one request to its end, which may wait for what the pool's own thread does.
fn run(opened: &caisson_volume::Opened, op: Op) -> caisson_block::Outcome {
    let mut thread = common::Thread::default();
    thread.submit(opened.volume.as_ref(), 0, op);
    loop {
        if let Some((_, outcome)) = thread.completions().next() {
            return outcome;
        }
        if !thread.turn() {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn volume(name: &str, domain: Option<&str>) -> ask::CreateVolume {
    volume_in_main(name, ask::Size::Bytes(SIZE), domain)
}

/// An operation, and how it is judged.
struct Case {
    name: &'static str,
    /// Makes what there is before.
    before: fn(&Stage),
    /// Does it. What is refused because it is done already is well done.
    does: fn(&Stage) -> Result<(), Refusal>,
    /// Whether what is there is old or new; panics where it is neither, or where what is to be read is not.
    is: fn(&Stage) -> Is,
    /// What happens to it.
    faults: &'static [Fault],
}

/// What happens to what asks providers and writes.
const ALL: &[Fault] = &[Fault::Kill, Fault::Away, Fault::Refused, Fault::Lost, Fault::Device, Fault::Unkept];
/// What happens to what asks no provider.
const ALONE: &[Fault] = &[Fault::Kill, Fault::Device, Fault::Unkept];

/// How often each was found, for the test to see that it looked at both.
#[derive(Debug, Default)]
struct Found {
    runs: usize,
    old: usize,
    new: usize,
}

impl Case {
    /// Each fault at each step, until the operation goes through without meeting it.
    fn run(&self) -> Found {
        let mut found = Found::default();
        for fault in self.faults {
            let met = (0..).take_while(|at| self.once(*fault, *at, &mut found)).count();
            let must = matches!(fault, Fault::Kill) || self.faults == ALL && *fault != Fault::Unkept;
            assert!(met > 0 || !must, "{}: {fault:?} never came", self.name);
        }
        println!("{}: {found:?}", self.name);
        found
    }

    /// The fault at one step; false where the operation had fewer.
    fn once(&self, fault: Fault, at: usize, found: &mut Found) -> bool {
        let what = format!("{}, {fault:?} at step {at}", self.name);
        let s = Stage::new(self.name);
        (self.before)(&s);
        match (fault, s.breaks.borrow_mut().take()) {
            (Fault::Broken, Some(breaks)) => s.plan.arm(fault, at, breaks),
            _ => s.plan.arm(fault, at, s.image()),
        }
        let mut did = (self.does)(&s);
        let fired = s.plan.disarm();
        if let Some(breaking) = s.breaking.lock().unwrap().take() {
            breaking.join().unwrap();
        }
        s.heal.borrow_mut().iter_mut().for_each(|heal| heal());
        let judged = |when: &str| {
            eprintln!("{what}: {when}");
            s.unlocked();
            (self.is)(&s)
        };
        if !fired {
            did.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(judged("done"), Is::New);
            s.end();
            assert_eq!(judged("done, and started again"), Is::New);
            return false;
        }
        match fault {
            Fault::Kill => {
                s.end();
                s.killed();
                // Nobody was told.
                did = Err(Refusal::busy("it was killed", "none"));
            }
            // A pool whose device failed does no more.
            Fault::Device => s.end(),
            _ => {
                let is = judged("while it runs");
                assert!(did.is_err() || is == Is::New, "{what}: what was confirmed is there");
                s.end();
            }
        }
        let is = judged("started again");
        assert!(did.is_err() || is == Is::New, "{what}: what was confirmed is there");
        found.runs += 1;
        match is {
            Is::Old => found.old += 1,
            Is::New => found.new += 1,
        }
        (self.does)(&s).unwrap_or_else(|e| panic!("{what}: the same again: {e}"));
        assert_eq!(judged("the same again"), Is::New);
        if fault == Fault::Kill {
            s.end();
            assert_eq!(judged("the same again, and started again"), Is::New);
        }
        true
    }
}
