//! Faults for tests, at a chosen step of whatever is done: a key provider that does not answer, refuses, or whose answer is lost; a device or a
//! file that fails; a process that is killed there.
//!
//! Owns counting the steps ([`Plan`]), what stands between the pools and their providers ([`open`]), and a provider that keeps its root
//! keys in a file ([`Vault`]), so that nothing of it is in the process that is killed. And that locks and starts of processes do not meet.

use caisson_block::{IoKind, IoOp};
use caisson_device::execute;
use caisson_keys::{Context, KeyError, KeyProvider, KeyUri, ProviderStatus, Reason, Secret, Wrapped, seal};
use caisson_providers::{How, Opened, os_random};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What happens at the chosen step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed before it. Every kind of step counts.
    Kill,
    /// From there on no provider answers.
    Away,
    /// The provider refuses this one call.
    Refused,
    /// The provider does what it is asked, and its answer is lost; from there on none answers.
    Lost,
    /// Something is done to the provider before it ([`Plan::arm`]), and the call goes on to whatever is there then.
    Broken,
    /// From there on the device fails what is not a read.
    Device,
    /// From there on the state's files fail.
    Unkept,
}

/// A process that a test starts has all open files of this one, and with them their locks, from its fork until it executes another program: what
/// was closed meanwhile is still locked. So none begins while something is locked, and nothing is locked while one begins.
static STARTS: RwLock<()> = RwLock::new(());

/// Held while a process is started.
pub fn starts() -> RwLockWriteGuard<'static, ()> {
    STARTS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Held while the lock of a folder or a device is taken.
pub fn locks() -> RwLockReadGuard<'static, ()> {
    STARTS.read().unwrap_or_else(PoisonError::into_inner)
}

/// A kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A provider is opened or asked.
    Provider,
    /// A device is written to, synced, or punched.
    Device,
    /// A file of the state is written, synced or renamed.
    File,
}

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    Go,
    Fail,
    Refuse,
    Lose,
}

type Action = Box<dyn FnMut() + Send>;

/// Which fault comes when; none until it is armed.
#[derive(Default)]
pub struct Plan(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    armed: Option<(Fault, usize, Action)>,
    steps: usize,
    fired: bool,
}

impl Plan {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `fault` come after `at` steps of its kind. `action` is what is done to the world at a kill, or where something is broken.
    pub fn arm(&self, fault: Fault, at: usize, action: impl FnMut() + Send + 'static) {
        *self.lock() = Counted { armed: Some((fault, at, Box::new(action))), steps: 0, fired: false };
    }

    /// From now on all goes well. Gives whether the fault had come.
    pub fn disarm(&self) -> bool {
        let mut counted = self.lock();
        counted.armed = None;
        std::mem::take(&mut counted.fired)
    }

    /// Whether the process was killed: whatever it does yet, nobody sees.
    pub fn killed(&self) -> bool {
        let counted = self.lock();
        counted.fired && matches!(counted.armed, Some((Fault::Kill, ..)))
    }

    /// Whether the fault has come.
    pub fn fired(&self) -> bool {
        self.lock().fired
    }

    /// A step is about to be done.
    pub fn step(&self, step: Step) -> Does {
        let mut counted = self.lock();
        let Counted { armed, steps, fired } = &mut *counted;
        let Some((fault, at, action)) = armed else { return Does::Go };
        let of = match fault {
            // Whatever it is.
            Fault::Kill => step,
            Fault::Away | Fault::Refused | Fault::Lost | Fault::Broken => Step::Provider,
            Fault::Device => Step::Device,
            Fault::Unkept => Step::File,
        };
        if step != of {
            return Does::Go;
        }
        let (now, here) = (*steps, *steps == *at);
        *steps += 1;
        *fired |= here;
        match fault {
            _ if now < *at => Does::Go,
            Fault::Kill | Fault::Broken => {
                // While it is done, nobody takes another step.
                if here {
                    action();
                }
                Does::Go
            }
            Fault::Refused if here => Does::Refuse,
            Fault::Refused => Does::Go,
            Fault::Lost if here => Does::Lose,
            Fault::Away | Fault::Lost | Fault::Device | Fault::Unkept => Does::Fail,
        }
    }

    /// Does an operation of a device.
    pub fn device(&self, op: &mut IoOp) -> Result<u32, i32> {
        match op.kind {
            IoKind::Read => execute(op),
            _ if self.step(Step::Device) == Does::Go => execute(op),
            _ => Err(libc::EIO),
        }
    }
}

/// What stands between the pools and a provider.
#[derive(Clone)]
struct Between {
    plan: Arc<Plan>,
    /// The file of a [`Vault`]; none where the provider itself is asked.
    vault: Option<PathBuf>,
}

static BETWEEN: Mutex<BTreeMap<String, Between>> = Mutex::new(BTreeMap::new());

/// Has what `uri` names stand behind `plan`; in the place of the provider itself where there is a `vault`.
pub fn put(uri: &str, plan: &Arc<Plan>, vault: Option<PathBuf>) {
    let uri: KeyUri = uri.parse().unwrap();
    BETWEEN.lock().unwrap().insert(uri.to_string(), Between { plan: Arc::clone(plan), vault });
}

/// Opens what `uri` names, where something stands between.
pub fn open(uri: &KeyUri, how: How) -> Option<Result<Opened, KeyError>> {
    let Between { plan, vault } = BETWEEN.lock().unwrap().get(&uri.to_string())?.clone();
    let name = uri.scheme().name();
    let opened = ask(&plan, name, || match &vault {
        Some(path) => Vault::open(name, path, how),
        None => caisson_providers::open(uri, how),
    });
    let behind = |o: Opened| Opened { made: o.made, provider: Box::new(Faulty { inner: o.provider, plan }) };
    Some(opened.map(behind))
}

fn away(name: &str) -> KeyError {
    KeyError::Unavailable { provider: name.into(), cause: "a test has it away".into() }
}

fn ask<T>(plan: &Plan, name: &str, f: impl FnOnce() -> Result<T, KeyError>) -> Result<T, KeyError> {
    match plan.step(Step::Provider) {
        Does::Go => f(),
        Does::Fail => Err(away(name)),
        Does::Refuse => Err(KeyError::Refused {
            provider: name.into(),
            cause: "a test has it refuse".into(),
            remedy: "none".into(),
        }),
        Does::Lose => f().and(Err(away(name))),
    }
}

/// A provider, each call of which is a step.
struct Faulty {
    inner: Box<dyn KeyProvider>,
    plan: Arc<Plan>,
}

impl KeyProvider for Faulty {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError> {
        ask(&self.plan, self.name(), || self.inner.wrap(secret, context))
    }

    fn unwrap(&self, wrapped: &Wrapped, context: &Context) -> Result<Secret, KeyError> {
        ask(&self.plan, self.name(), || self.inner.unwrap(wrapped, context))
    }

    fn roots(&self) -> Result<Vec<String>, KeyError> {
        ask(&self.plan, self.name(), || self.inner.roots())
    }

    fn add_root(&mut self) -> Result<String, KeyError> {
        let name = self.inner.name().to_owned();
        ask(&self.plan, &name, || self.inner.add_root())
    }

    fn revoke(&mut self, root: &str, why: Reason) -> Result<(), KeyError> {
        let name = self.inner.name().to_owned();
        ask(&self.plan, &name, || self.inner.revoke(root, why))
    }

    fn destroy(&mut self, root: &str) -> Result<(), KeyError> {
        let name = self.inner.name().to_owned();
        ask(&self.plan, &name, || self.inner.destroy(root))
    }

    fn status(&self) -> ProviderStatus {
        self.inner.status()
    }
}

/// The first byte of what is wrapped.
const VERSION: u8 = 1;

/// A provider whose root keys stand in a file, one a line: name, state, key.
pub struct Vault {
    name: String,
    path: PathBuf,
}

/// A root key: its name, whether it is revoked, the key.
type Root = (String, bool, Vec<u8>);

impl Vault {
    fn open(name: &str, path: &Path, how: How) -> Result<Opened, KeyError> {
        let mut vault = Vault { name: name.into(), path: path.into() };
        let made = how.make && vault.read().is_empty();
        if made {
            vault.add_root()?;
        }
        Ok(Opened { provider: Box::new(vault), made })
    }

    fn read(&self) -> Vec<Root> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let root = |line: &str| {
            let [name, state, key] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let byte = |i: usize| u8::from_str_radix(&key[i..i + 2], 16).unwrap();
            (name.to_owned(), state == "revoked", (0..key.len()).step_by(2).map(byte).collect())
        };
        text.lines().map(root).collect()
    }

    fn write(&self, roots: &[Root]) {
        let line = |(name, revoked, key): &Root| {
            let key: String = key.iter().map(|b| format!("{b:02x}")).collect();
            format!("{name} {} {key}\n", if *revoked { "revoked" } else { "active" })
        };
        let new = self.path.with_extension("new");
        std::fs::write(&new, roots.iter().map(line).collect::<String>()).unwrap();
        std::fs::rename(&new, &self.path).unwrap();
    }

    /// The root keys in the file, and whether each is revoked.
    pub fn roots_in(path: &Path) -> Vec<(String, bool)> {
        let vault = Vault { name: String::new(), path: path.into() };
        vault.read().into_iter().map(|(name, revoked, _)| (name, revoked)).collect()
    }

    fn missing(&self, root: &str) -> KeyError {
        KeyError::NoSuchKey { provider: self.name.clone(), root: root.into() }
    }

    fn usable(&self, root: Option<Root>, name: &str) -> Result<Secret, KeyError> {
        let (root, revoked, mut key) = root.ok_or_else(|| self.missing(name))?;
        if revoked {
            let state = "deactivated".into();
            return Err(KeyError::Revoked { provider: self.name.clone(), root, state });
        }
        Ok(Secret::take(&mut key))
    }

    /// Changes the root keys; false where there is none of that name.
    fn change(&self, root: &str, change: impl FnOnce(&mut Vec<Root>, usize)) -> Result<(), KeyError> {
        let mut roots = self.read();
        let at = roots.iter().position(|(name, _, _)| name == root).ok_or_else(|| self.missing(root))?;
        change(&mut roots, at);
        self.write(&roots);
        Ok(())
    }
}

impl KeyProvider for Vault {
    fn name(&self) -> &str {
        &self.name
    }

    fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError> {
        let newest = self.read().pop();
        let root = newest.as_ref().map(|(name, _, _)| name.clone()).unwrap_or_default();
        let key = self.usable(newest, "")?;
        let blob = seal::wrap(VERSION, &key, &context.encode(), secret, &self.name, &mut os_random)?;
        Ok(Wrapped { root, blob })
    }

    fn unwrap(&self, wrapped: &Wrapped, context: &Context) -> Result<Secret, KeyError> {
        let root = self.read().into_iter().find(|(name, _, _)| *name == wrapped.root);
        let key = self.usable(root, &wrapped.root)?;
        seal::unwrap(VERSION, &key, &context.encode(), &wrapped.blob)
    }

    fn roots(&self) -> Result<Vec<String>, KeyError> {
        Ok(self.read().into_iter().map(|(name, _, _)| name).collect())
    }

    fn add_root(&mut self) -> Result<String, KeyError> {
        let mut roots = self.read();
        let mut bytes = [0; 40];
        os_random(&mut bytes)?;
        let number: String = bytes[32..].iter().map(|b| format!("{b:02x}")).collect();
        let name = format!("{}-{number}", self.name);
        roots.push((name.clone(), false, bytes[..32].to_vec()));
        self.write(&roots);
        Ok(name)
    }

    fn revoke(&mut self, root: &str, _: Reason) -> Result<(), KeyError> {
        self.change(root, |roots, at| roots[at].1 = true)
    }

    fn destroy(&mut self, root: &str) -> Result<(), KeyError> {
        self.change(root, |roots, at| drop(roots.remove(at)))
    }

    fn status(&self) -> ProviderStatus {
        ProviderStatus::Ready
    }
}

#[test]
fn the_vault_keeps_the_contract_of_providers() {
    let path = std::env::temp_dir().join(format!("caisson-vault-{}", std::process::id()));
    let opened = Vault::open("file", &path, How { make: true, ask: false }).unwrap();
    caisson_keys::contract::check(opened.provider.as_ref()).unwrap();
    std::fs::remove_file(path).unwrap();
}
