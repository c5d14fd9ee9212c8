//! The end of root keys by way of the service: who may, that it is recorded before it is done, and what the provider makes of it.

use caisson_keys::{Context, KeyError, KeyProvider, KeyUri, ProviderStatus, Reason, Secret, Wrapped};
use caisson_service::{Asked, Remote, Server, Users};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

type Log = Arc<Mutex<Vec<String>>>;

/// A provider that only ends root keys.
struct Ends {
    roots: Vec<String>,
    log: Log,
}

impl Ends {
    fn end(&mut self, what: String, root: &str) -> Result<(), KeyError> {
        self.log.lock().unwrap().push(what);
        match self.roots.iter().position(|r| r == root) {
            Some(at) => drop(self.roots.remove(at)),
            None => return Err(KeyError::NoSuchKey { provider: "ends".into(), root: root.into() }),
        }
        Ok(())
    }
}

impl KeyProvider for Ends {
    fn name(&self) -> &str {
        "ends"
    }

    fn wrap(&self, _: &Secret, _: &Context) -> Result<Wrapped, KeyError> {
        Err(KeyError::NotAuthentic)
    }

    fn unwrap(&self, _: &Wrapped, _: &Context) -> Result<Secret, KeyError> {
        Err(KeyError::NotAuthentic)
    }

    fn roots(&self) -> Result<Vec<String>, KeyError> {
        Ok(self.roots.clone())
    }

    fn add_root(&mut self) -> Result<String, KeyError> {
        Err(KeyError::NotAuthentic)
    }

    fn revoke(&mut self, root: &str, why: Reason) -> Result<(), KeyError> {
        self.end(format!("revoke {root} {why:?}"), root)
    }

    fn destroy(&mut self, root: &str) -> Result<(), KeyError> {
        self.end(format!("destroy {root}"), root)
    }

    fn status(&self) -> ProviderStatus {
        ProviderStatus::Ready
    }
}

struct Scene {
    remote: Remote,
    /// What the provider was asked.
    done: Log,
    /// What was recorded: the operation, whether it was done, and what.
    record: Log,
    /// Recording fails.
    full: Arc<AtomicBool>,
    dir: PathBuf,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A service that lets this user ask, and end root keys where `end` says so.
fn scene(name: &str, end: bool) -> Scene {
    let dir = std::env::temp_dir().join(format!("caisson-ends-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let socket = dir.join("s");
    let me = rustix::process::geteuid().as_raw();
    let users = Users { ask: vec![me], end: if end { vec![me] } else { vec![me + 1] } };
    let (done, record, full): (Log, Log, Arc<AtomicBool>) = Default::default();
    let (log, told, fails) = (Arc::clone(&done), Arc::clone(&record), Arc::clone(&full));
    let open = move |_: &KeyUri| -> Result<Box<dyn KeyProvider>, KeyError> {
        let roots = ["a", "b", "c"].map(String::from).into();
        Ok(Box::new(Ends { roots, log: Arc::clone(&log) }))
    };
    let recorded = move |asked: &Asked<'_>| {
        if fails.load(Ordering::Relaxed) {
            return Err("no room".to_string());
        }
        told.lock().unwrap().push(format!("{} {} {}", asked.op, asked.done, asked.what));
        Ok(())
    };
    let keys = vec![("main".to_string(), "file:/nowhere".parse::<KeyUri>().unwrap())];
    let server = Server::start(&socket, users, keys, Box::new(open), Box::new(recorded)).unwrap();
    std::thread::spawn(move || server.run());
    let uri = format!("kms:key=main?socket={}", socket.display()).parse().unwrap();
    Scene { remote: Remote::open(&uri).unwrap(), done, record, full, dir }
}

#[test]
fn a_user_that_was_named_ends_root_keys() {
    let mut s = scene("named", true);
    s.remote.revoke("a", Reason::Compromise).unwrap();
    s.remote.destroy("b").unwrap();
    assert_eq!(s.remote.roots().unwrap(), ["c"]);
    let e = s.remote.destroy("b").unwrap_err();
    assert!(matches!(&e, KeyError::NoSuchKey { root, .. } if root == "b"), "the provider's own error: {e}");
    assert_eq!(*s.done.lock().unwrap(), ["revoke a Compromise", "destroy b", "destroy b"]);
    let main = format!("main, for user {}: root key", rustix::process::geteuid().as_raw());
    let record = s.record.lock().unwrap();
    assert_eq!(record[0], format!("revoke-root false begins: {main} a, Compromise"));
    assert_eq!(record[1], format!("revoke-root true {main} a, Compromise"));
    assert_eq!(record[2], format!("destroy-root false begins: {main} b"));
    assert_eq!(record[3], format!("destroy-root true {main} b"));
    assert!(record[5].starts_with(&format!("destroy-root false failed: {main} b")), "{}", record[5]);
}

#[test]
fn one_that_may_only_ask_is_refused_and_that_is_recorded() {
    let mut s = scene("asks", false);
    let me = rustix::process::geteuid().as_raw();
    for e in [s.remote.destroy("a"), s.remote.revoke("a", Reason::Cessation)].map(Result::unwrap_err) {
        assert!(matches!(e, KeyError::Refused { .. }), "{e}");
        assert!(e.remedy().contains(&format!("--allow-end {me}")), "{}", e.remedy());
    }
    assert_eq!(s.remote.roots().unwrap(), ["a", "b", "c"], "it may ask on");
    assert!(s.done.lock().unwrap().is_empty());
    let refused = format!("refused false user {me} may not end root keys: main, root key a");
    assert_eq!(*s.record.lock().unwrap(), [refused.clone(), refused]);
}

#[test]
fn what_cannot_be_recorded_is_not_done() {
    let mut s = scene("full", true);
    s.full.store(true, Ordering::Relaxed);
    for e in [s.remote.destroy("a"), s.remote.revoke("a", Reason::Cessation)].map(Result::unwrap_err) {
        assert!(e.to_string().contains("cannot be recorded: no room"), "{e}");
    }
    assert!(s.done.lock().unwrap().is_empty());
    s.full.store(false, Ordering::Relaxed);
    s.remote.destroy("a").unwrap();
}
