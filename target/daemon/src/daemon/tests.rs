//! The target as a whole, over the real registry, real volumes and real files; only the data plane is a fake one.

mod faults;

use super::*;
use crate::manage::client::{Client, ClientError};
use crate::manage::{ask, http, verbs, view};
use crate::model::text::Address;
use crate::model::{Listener, Serves, Subsystem, Volume};
use crate::state::files::Files;
use caisson_core::bucket_end;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

/// A data plane that listens in name only.
#[derive(Default)]
pub(super) struct FakePlane {
    next: AtomicU16,
    listening: Mutex<Vec<SocketAddr>>,
}

impl DataPlane for FakePlane {
    fn listen(&self, at: Address, _port: u16) -> io::Result<SocketAddr> {
        let mut addr = at.socket;
        if addr.port() == 0 {
            addr.set_port(50_000 + self.next.fetch_add(1, Ordering::Relaxed));
        }
        let mut l = self.listening.lock().unwrap();
        if l.contains(&addr) || addr.port() == 1 {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        l.push(addr);
        Ok(addr)
    }
    fn expect(&self, _at: Address, _port: u16, _why: String) {}
    fn unlisten(&self, at: Address) {
        self.listening.lock().unwrap().retain(|a| *a != at.socket);
    }
    fn driver(&self) -> &'static str {
        "fake"
    }
    fn threads(&self) -> Vec<ThreadCounts> {
        let mut turn_lengths = vec![0; caisson_core::BUCKETS];
        (turn_lengths[0], turn_lengths[40]) = (6, 1);
        vec![ThreadCounts { turns: 7, turn_ns: 1_006_000, turn_lengths, ..ThreadCounts::default() }]
    }
    fn shutdown(&self) {}
}

/// The machine's files, each change of which is a step that may fail.
pub(super) trait Steps: Send + Sync {
    fn step(&self) -> io::Result<()>;
}

impl<S: Steps> Files for S {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        Disk.read(path)
    }
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step()?;
        Disk.write(path, bytes)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        Disk.sync(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        Disk.rename(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step()?;
        Disk.sync_dir(dir)
    }
}

/// They fail from a chosen operation on.
pub(super) struct Failing {
    pub(super) left: AtomicUsize,
}

impl Steps for Failing {
    fn step(&self) -> io::Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.left.store(left - 1, Ordering::Relaxed);
        Ok(())
    }
}

/// What makes a volume in the pool `main`.
pub(super) fn volume_in_main(name: &str, size: ask::Size, domain: Option<&str>) -> ask::CreateVolume {
    ask::CreateVolume {
        name: name.into(),
        size: Some(size),
        block_size: None,
        backing: ask::BackingKind::File,
        path: None,
        pool: Some("main".into()),
        adopt: false,
        services: ask::ServicesAsk::default(),
        domain: domain.map(str::to_owned),
    }
}

/// Where tests have their folders: in memory, where the system has room for them there. What they do is synced at every step, which takes minutes on
/// a disk, and none of them is about power that goes.
fn folder() -> PathBuf {
    const ROOM: u64 = 2 << 30;
    let memory = PathBuf::from("/dev/shm");
    let room = rustix::fs::statvfs(&memory).is_ok_and(|fs| fs.f_bavail * fs.f_frsize >= ROOM);
    if room { memory } else { std::env::temp_dir() }
}

/// A data directory of its own for a test, gone at the end.
pub(super) struct Dir(pub(super) PathBuf);

impl Dir {
    pub(super) fn new(name: &str) -> Dir {
        let path = folder().join(format!("caisson-daemon-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Dir(path)
    }

    pub(super) fn settings(&self) -> Settings {
        Settings { metrics: None, ..Settings::in_dir(self.0.clone()) }
    }

    fn start(&self, base: Objects) -> Arc<Daemon> {
        self.start_with(base, Arc::new(Disk)).unwrap_or_else(|e| panic!("{e}"))
    }

    fn start_with(&self, base: Objects, files: Arc<dyn Files>) -> Result<Arc<Daemon>, StartError> {
        let start = Start { files, ..Start::new(self.settings(), base, Mono(1)) };
        Daemon::start(start, |_, _| Ok(Arc::new(FakePlane::default())))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const NQN: &str = "nqn.2024-01.com.example:a";
const HOST: &str = "nqn.2024-01.com.example:host";

fn ram(name: &str) -> ask::CreateVolume {
    ask::CreateVolume {
        name: name.into(),
        size: Some(ask::Size::Text("1M".into())),
        block_size: None,
        backing: ask::BackingKind::Ram,
        path: None,
        pool: None,
        adopt: false,
        services: ask::ServicesAsk::default(),
        domain: None,
    }
}

fn subsystem() -> ask::CreateSubsystem {
    ask::CreateSubsystem {
        nqn: NQN.into(),
        serial: None,
        model: None,
        allow_any_host: false,
        allow_erase: false,
        hosts: vec![HOST.into()],
    }
}

fn export(volume: &str) -> ask::AddNamespace {
    ask::AddNamespace { volume: volume.into(), nsid: None, uuid: None, nguid: None }
}

/// What of the configuration a host could see, for comparing before and after.
fn seen(d: &Daemon) -> String {
    let s = view::status(d);
    let mut json = serde_json::to_value(&s).unwrap();
    for volatile in ["uptime_s", "reactors", "counters"] {
        json.as_object_mut().unwrap().remove(volatile);
    }
    json.to_string()
}

#[test]
fn changes_are_live_and_survive_a_restart() {
    let dir = Dir::new("restart");
    let before = {
        let d = dir.start(Objects::new());
        assert_eq!(verbs::create_volume(&d, &ram("v")).unwrap(), Did::Changed);
        assert_eq!(verbs::create_volume(&d, &ram("v")).unwrap(), Did::Nothing);
        verbs::create_subsystem(&d, &subsystem()).unwrap();
        assert_eq!(verbs::add_namespace(&d, NQN, &export("v")).unwrap(), (Did::Changed, 1));
        assert_eq!(verbs::add_namespace(&d, NQN, &export("v")).unwrap(), (Did::Nothing, 1));
        let listen = ask::AddListener { address: "tcp://127.0.0.1:4420".into(), serves: None };
        verbs::add_listener(&d, &listen).unwrap();
        verbs::add_referral(&d, &ask::AddReferral { address: "192.0.2.1".into() }).unwrap();
        verbs::write_protect(&d, NQN, 1, true).unwrap();
        let s = view::status(&d);
        assert_eq!(s.subsystems[0].namespaces[0].size, 1 << 20);
        assert_eq!(s.subsystems[0].hosts, [HOST]);
        assert!(s.subsystems[0].namespaces[0].write_protected);
        assert_eq!(s.referrals, ["tcp://192.0.2.1:8009"]);
        let before = seen(&d);
        d.stop();
        before
    };
    let d = dir.start(Objects::new());
    assert_eq!(seen(&d), before);
}

#[test]
fn a_change_that_cannot_be_kept_is_taken_back_whole() {
    let dir = Dir::new("unkept");
    for budget in 0..4 {
        let _ = std::fs::remove_dir_all(&dir.0);
        let files = Arc::new(Failing { left: AtomicUsize::new(1000) });
        let d = dir.start_with(Objects::new(), files.clone()).unwrap_or_else(|e| panic!("{e}"));
        verbs::create_volume(&d, &ram("v")).unwrap();
        let file = ask::CreateVolume { backing: ask::BackingKind::File, ..ram("f") };
        let before = seen(&d);
        files.left.store(budget, Ordering::Relaxed);
        let refused = verbs::create_subsystem(&d, &subsystem()).unwrap_err();
        assert_eq!(refused.cause, Cause::System);
        assert!(refused.remedy.contains("free space"), "{refused}");
        assert_eq!(seen(&d), before);
        files.left.store(budget, Ordering::Relaxed);
        verbs::create_volume(&d, &file).unwrap_err();
        assert_eq!(seen(&d), before);
        let left: Vec<_> =
            std::fs::read_dir(dir.0.join("pool")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["caisson.lock"], "a refused volume left a file");
        files.left.store(1000, Ordering::Relaxed);
        verbs::create_subsystem(&d, &subsystem()).unwrap();
        d.stop();
    }
}

#[test]
fn a_change_of_which_one_part_fails_changes_nothing() {
    let dir = Dir::new("parts");
    let d = dir.start(Objects::new());
    verbs::create_volume(&d, &ram("v")).unwrap();
    verbs::create_subsystem(&d, &subsystem()).unwrap();
    verbs::add_namespace(&d, NQN, &export("v")).unwrap();
    let before = seen(&d);
    // Everything goes, a volume comes, and a listener that cannot be had comes last.
    let refused = d.change(|o| {
        let mut all: Vec<Change> = o.keys().map(|k| (k.clone(), None)).collect();
        let items = [
            Item::Volume(Volume::new("w", Backing::Ram, 4096, 4096)),
            Item::Listener(Listener { address: "tcp://127.0.0.1:1".parse().unwrap(), serves: Serves::Io }),
        ];
        all.extend(items.into_iter().map(|i| (i.key(), Some(i))));
        Ok(all)
    });
    assert_eq!(refused.unwrap_err().cause, Cause::Busy);
    assert_eq!(seen(&d), before);
}

#[test]
fn refusals_name_the_remedy() {
    let dir = Dir::new("refusals");
    let d = dir.start(Objects::new());
    verbs::create_volume(&d, &ram("data")).unwrap();
    verbs::create_subsystem(&d, &subsystem()).unwrap();
    verbs::add_namespace(&d, NQN, &export("data")).unwrap();
    let resize = |size: &str| ask::Resize { size: ask::Size::Text(size.into()), shrink: false };
    let other = ask::CreateVolume { size: Some(ask::Size::Bytes(8192)), ..ram("data") };
    let relative = ask::CreateVolume { backing: ask::BackingKind::File, path: Some("x".into()), ..ram("p") };
    let cases: Vec<(Result<Did, Refusal>, Cause, &str)> = vec![
        (verbs::create_volume(&d, &other), Cause::Conflict, "another name"),
        (verbs::create_volume(&d, &relative), Cause::Invalid, "whole path"),
        (verbs::create_volume(&d, &ram("a/b")), Cause::Invalid, "letters"),
        (verbs::delete_volume(&d, "data"), Cause::Conflict, "caisson subsystem remove-ns"),
        (verbs::delete_volume(&d, "dat"), Cause::NotFound, "did you mean data"),
        (verbs::resize_volume(&d, "data", &resize("512K")), Cause::Conflict, "--shrink"),
        (verbs::resize_volume(&d, "data", &resize("1000001")), Cause::Conflict, "--shrink"),
        (verbs::resize_volume(&d, "data", &resize("2000001")), Cause::Invalid, "2002944"),
        (verbs::add_namespace(&d, NQN, &export("nope")).map(|x| x.0), Cause::NotFound, "caisson volume list"),
        (verbs::remove_namespace(&d, NQN, 9), Cause::NotFound, "caisson subsystem show"),
        (verbs::allow_host(&d, NQN, "me"), Cause::Invalid, "hostnqn"),
        (verbs::allow_host(&d, "nqn.2024-01.com.example:b", HOST), Cause::NotFound, "did you mean"),
        (verbs::remove_host(&d, NQN, NQN), Cause::NotFound, "caisson subsystem show"),
        (verbs::remove_listener(&d, "1.2.3.4"), Cause::NotFound, "caisson listener list"),
    ];
    for (i, (result, cause, remedy)) in cases.into_iter().enumerate() {
        let r = result.unwrap_err();
        assert_eq!(r.cause, cause, "case {i}: {r}");
        assert!(r.remedy.contains(remedy), "case {i}: {r}");
    }
}

#[test]
fn the_configuration_file_is_the_base() {
    let dir = Dir::new("base");
    let item = Item::Subsystem(Subsystem {
        nqn: NQN.into(),
        serial: "S".into(),
        model: "M".into(),
        allow_any_host: false,
        allow_erase: false,
        sanitize: None,
    });
    let base: Objects = [(item.key(), item.clone())].into();
    let d = dir.start(base.clone());
    verbs::allow_any(&d, NQN, true).unwrap();
    d.stop();
    drop(d);
    let d = dir.start(base);
    assert!(view::status(&d).subsystems[0].allow_any_host);
    d.stop();
    drop(d);
    // Edited since: refused, at that item.
    let Item::Subsystem(mut s) = item else { unreachable!() };
    s.model = "other".into();
    let item = Item::Subsystem(s);
    match dir.start_with([(item.key(), item)].into(), Arc::new(Disk)) {
        Err(StartError::Items(items)) => assert_eq!(items[0].0, key::subsystem(NQN)),
        _ => panic!("accepted"),
    }
}

#[test]
fn one_target_a_data_directory() {
    let dir = Dir::new("twice");
    let _first = dir.start(Objects::new());
    match dir.start_with(Objects::new(), Arc::new(Disk)) {
        Err(StartError::Refused(r)) => {
            assert_eq!(r.cause, Cause::Busy);
            assert!(r.error.contains(&std::process::id().to_string()), "{r}");
        }
        _ => panic!("accepted"),
    }
}

/// Serves the API of a daemon on its socket while `f` runs on another thread.
fn with_socket<R: Send>(d: &Arc<Daemon>, f: impl FnOnce(Client) -> R + Send) -> R {
    let path = d.settings().socket.clone().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|s| {
        let listener = runtime.block_on(async { http::bind(&path).unwrap() });
        let client = Client::new(&path);
        let thread = s.spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(client)));
            let _ = tell.send(());
            result
        });
        let app = http::router(Arc::clone(d));
        runtime.block_on(async {
            tokio::select! { r = axum::serve(listener, app) => r.unwrap(), _ = told => {} }
        });
        thread.join().unwrap().unwrap_or_else(|e| std::panic::resume_unwind(e))
    })
}

#[test]
fn the_whole_api_over_its_socket() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new("socket");
    let d = dir.start(Objects::new());
    with_socket(&d, |c| {
        assert_eq!(std::fs::metadata(c.socket()).unwrap().permissions().mode() & 0o777, 0o600);
        let done: view::Done = c.send("POST", "/v1/volumes", &ram("v")).unwrap();
        assert!(done.changed);
        let _: view::Done = c.send("POST", "/v1/subsystems", &subsystem()).unwrap();
        let done: view::Done =
            c.send("POST", &format!("/v1/subsystems/{NQN}/namespaces"), &export("v")).unwrap();
        assert_eq!(done.nsid, Some(1));
        let size = ask::Resize { size: ask::Size::Text("2M".into()), shrink: false };
        let _: view::Done = c.send("POST", "/v1/volumes/v/resize", &size).unwrap();
        let v: view::Volume = c.get("/v1/volumes/v").unwrap();
        assert_eq!((v.size, v.exports.as_slice()), (2 << 20, [format!("{NQN}/1")].as_slice()));
        let s: view::Subsystem = c.get(&format!("/v1/subsystems/{NQN}")).unwrap();
        assert_eq!(s.namespaces[0].size, 2 << 20);
        let host = crate::manage::client::segment("nqn.2024-01.com.example:with/slash%");
        let path = format!("/v1/subsystems/{NQN}/hosts/{host}");
        let _: view::Done = c.send("PUT", &path, &()).unwrap();
        let s: view::Subsystem = c.get(&format!("/v1/subsystems/{NQN}")).unwrap();
        assert!(s.hosts.iter().any(|h| h.ends_with("with/slash%")));
        let _: view::Done = c.send("DELETE", &path, &()).unwrap();
        let listen = ask::AddListener { address: "tcp://127.0.0.1:0".into(), serves: Some(Serves::Io) };
        let _: view::Done = c.send("POST", "/v1/listeners", &listen).unwrap();
        let l: Vec<view::Listener> = c.get("/v1/listeners").unwrap();
        assert_eq!(l[0].bound.as_deref(), Some("tcp://127.0.0.1:50000"));
        let gone = crate::manage::client::segment("tcp://127.0.0.1:0");
        let _: view::Done = c.send("DELETE", &format!("/v1/listeners/{gone}"), &()).unwrap();
        let s: view::Status = c.get("/v1/status").unwrap();
        assert!(s.listeners.is_empty() && s.reactors[0].turns == 7);
        assert_eq!((s.reactors[0].turn_p50_ns, s.reactors[0].turn_p99_ns), (Some(1024), bucket_end(40)));
        let connections: view::Connections = c.get("/v1/connections").unwrap();
        assert!(connections.controllers.is_empty());
        let metrics = c.text("/metrics").unwrap();
        for line in [
            "# TYPE caisson_volume_size_bytes gauge",
            "caisson_volume_size_bytes{volume=\"v\"} 2097152",
            "caisson_reactor_turns_total{reactor=\"0\"} 7",
            "caisson_reactor_turn_seconds_count{reactor=\"0\"} 7",
            "caisson_reactor_turn_seconds_sum{reactor=\"0\"} 0.001006",
            "caisson_connects_total 0",
        ] {
            assert!(metrics.lines().any(|l| l == line), "{line} is not in:\n{metrics}");
        }
        for (method, path, cause) in [
            ("GET", "/v1/nothing", Cause::NotFound),
            ("DELETE", "/v1/status", Cause::Invalid),
            ("GET", "/v1/volumes/none", Cause::NotFound),
            ("DELETE", "/v1/volumes/v", Cause::Conflict),
            ("POST", "/v1/volumes", Cause::Invalid),
        ] {
            match c.send::<serde_json::Value>(method, path, &"not an object") {
                Err(ClientError::Refused(r)) => assert_eq!(r.cause, cause, "{method} {path}: {r}"),
                other => panic!("{method} {path}: {other:?}"),
            }
        }
        // A key that is misspelt is not swallowed.
        let odd = serde_json::json!({ "name": "x", "szie": "1M" });
        match c.send::<view::Done>("POST", "/v1/volumes", &odd) {
            Err(ClientError::Refused(r)) => assert!(r.error.contains("szie"), "{r}"),
            other => panic!("{other:?}"),
        }
    });
    let c = Client::new(&dir.0.join("elsewhere.sock"));
    match c.get::<view::Status>("/v1/status") {
        Err(ClientError::Unreachable(r)) => assert!(r.remedy.contains("--socket"), "{r}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_volume_whose_file_is_lost_is_not_made_anew() {
    let dir = Dir::new("lost");
    let d = dir.start(Objects::new());
    verbs::create_volume(&d, &ask::CreateVolume { backing: ask::BackingKind::File, ..ram("f") }).unwrap();
    d.stop();
    drop(d);
    std::fs::remove_file(dir.0.join("pool/f.vol")).unwrap();
    match dir.start_with(Objects::new(), Arc::new(Disk)) {
        Err(StartError::Items(items)) => assert!(items[0].1.error.contains("is missing"), "{}", items[0].1),
        _ => panic!("accepted"),
    }
    assert!(!dir.0.join("pool/f.vol").exists());
}

#[test]
fn file_volumes_grow_and_go_with_their_files() {
    let dir = Dir::new("files");
    let d = dir.start(Objects::new());
    let file = dir.0.join("pool/f.vol");
    verbs::create_volume(&d, &ask::CreateVolume { backing: ask::BackingKind::File, ..ram("f") }).unwrap();
    let resize = |size: &str, shrink| ask::Resize { size: ask::Size::Text(size.into()), shrink };
    verbs::resize_volume(&d, "f", &resize("3M", false)).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 3 << 20);
    verbs::resize_volume(&d, "f", &resize("2M", true)).unwrap();
    d.stop();
    drop(d);
    // A growth that was kept but not made: the next start makes it.
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(1 << 20).unwrap();
    let d = dir.start(Objects::new());
    assert_eq!(view::volumes(&d)[0].size, 2 << 20);
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 2 << 20);
    verbs::delete_volume(&d, "f").unwrap();
    let left: Vec<_> =
        std::fs::read_dir(dir.0.join("pool")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["caisson.lock"]);
    verbs::create_volume(&d, &ask::CreateVolume { backing: ask::BackingKind::File, ..ram("f") }).unwrap();
}
