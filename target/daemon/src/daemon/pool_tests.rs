//! Log-structured pools under the daemon: made, opened, changed, and never half there. The engine is a fake one; keys, files and
//! the registry are real.

use super::tests::{Dir, Failing, FakePlane, volume_in_main};
use super::*;
use crate::manage::{ask, pools, verbs, view};
use crate::model::{Compression, Services};
use crate::pools::fake_for_tests::Fake;
use std::sync::atomic::AtomicUsize;

/// A data directory with a passphrase in it, and an engine whose pools outlive daemons.
struct Stage {
    dir: Dir,
    engine: Arc<Fake>,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let dir = Dir::new(&format!("pools-{name}"));
        std::fs::create_dir_all(&dir.0).unwrap();
        std::fs::write(dir.0.join("passphrase"), "correct horse\n").unwrap();
        Stage { dir, engine: Arc::default() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.0.join(name)
    }

    fn try_start(&self, base: Objects, files: Arc<dyn Files>) -> Result<Arc<Daemon>, StartError> {
        let engine = Arc::clone(&self.engine) as Arc<dyn Engine>;
        let start = Start { files, engine, ..Start::new(self.dir.settings(), base, Mono(1)) };
        Daemon::start(start, |_, _| Ok(Arc::new(FakePlane::default())))
    }

    fn start(&self) -> Arc<Daemon> {
        self.try_start(Objects::new(), Arc::new(Disk)).unwrap_or_else(|e| panic!("{e}"))
    }

    fn ask(&self) -> ask::CreatePool {
        ask::CreatePool {
            name: "main".into(),
            devices: vec![self.device("a.pool")],
            key_file: Some(self.path("key")),
            passphrase_file: Some(self.path("passphrase")),
            keys: Vec::new(),
            memory: None,
            adopt: false,
        }
    }

    fn device(&self, name: &str) -> ask::DeviceAsk {
        ask::DeviceAsk { path: self.path(name), size: Some(ask::Size::Bytes(1 << 30)) }
    }

    /// A daemon with the pool `main`.
    fn with_pool(&self) -> Arc<Daemon> {
        let d = self.start();
        assert_eq!(pools::create_pool(&d, &self.ask()), Ok(Did::Changed));
        d
    }

    fn names(&self) -> Vec<String> {
        self.engine.only().names()
    }
}

/// Stops a daemon and lets its locks go.
fn end(d: Arc<Daemon>) {
    d.stop();
    // Threads that look at it now and then hold it for as long as that takes.
    let held = (0..1000).take_while(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        Arc::strong_count(&d) > 1
    });
    assert!(held.count() < 1000, "somebody holds it");
}

fn volume(name: &str) -> ask::CreateVolume {
    volume_in_main(name, ask::Size::Text("1M".into()), None)
}

#[test]
fn a_pool_its_volumes_and_settings_survive_a_restart() {
    let s = Stage::new("restart");
    let d = s.with_pool();
    assert_eq!(d.made()["main"], Made { pool: true, key_file: true });
    assert_eq!(pools::create_pool(&d, &s.ask()), Ok(Did::Nothing), "the same again changes nothing");
    let services = ask::ServicesAsk { dedup: Some(false), ..ask::ServicesAsk::default() };
    verbs::create_volume(&d, &ask::CreateVolume { services, ..volume("v") }).unwrap();
    verbs::create_volume(&d, &volume("w")).unwrap();
    let set = ask::ServicesAsk { compression: Some(Compression::Zstd(9)), ..ask::ServicesAsk::default() };
    assert_eq!(verbs::set_volume(&d, "v", &set), Ok(Did::Changed));
    assert_eq!(verbs::set_volume(&d, "v", &set), Ok(Did::Nothing));
    assert_eq!(verbs::copy_volume(&d, "v", &ask::Copy { name: "monday".into() }, true), Ok(Did::Changed));
    assert_eq!(verbs::copy_volume(&d, "v", &ask::Copy { name: "monday".into() }, true), Ok(Did::Nothing));
    verbs::copy_volume(&d, "monday", &ask::Copy { name: "test".into() }, false).unwrap();
    let resize = ask::Resize { size: ask::Size::Text("2M".into()), shrink: false };
    assert_eq!(verbs::resize_volume(&d, "test", &resize), Ok(Did::Changed));
    let refused = verbs::resize_volume(&d, "monday", &resize).unwrap_err();
    assert!(refused.error.contains("snapshot"), "{refused}");
    assert_eq!(s.names(), ["monday", "test", "v", "w"]);
    let before = serde_json::to_value(view::volumes(&d)).unwrap();
    end(d);
    assert!(!s.engine.only().lock().open);
    let d = s.start();
    assert_eq!(d.made()["main"], Made::default());
    assert_eq!(serde_json::to_value(view::volumes(&d)).unwrap(), before);
    let all = view::volumes(&d);
    let v = all.iter().find(|v| v.name == "v").unwrap();
    let wanted = Services { compression: Compression::Zstd(9), dedup: false, ..Services::default() };
    assert_eq!((v.services, v.backing.as_str()), (Some(wanted), "pool:main"));
    assert_eq!(v.space.unwrap().freed_by_delete, None);
    assert_eq!(view::volume(&d, "v").unwrap().space.unwrap().freed_by_delete, Some(1 << 17));
    assert_eq!(all.iter().find(|v| v.name == "test").unwrap().size, 2 << 20);
    assert_eq!(s.engine.only().lock().volumes["v"].0.services, wanted);
}

#[test]
fn deleting_frees_in_the_pool_and_pools_go_when_empty() {
    let s = Stage::new("delete");
    let d = s.with_pool();
    verbs::create_volume(&d, &volume("v")).unwrap();
    let refused = pools::remove_pool(&d, "main").unwrap_err();
    assert!(refused.error.contains("holds volume v") && refused.remedy.contains("delete v"), "{refused}");
    verbs::delete_volume(&d, "v").unwrap();
    assert_eq!(s.names(), Vec::<String>::new());
    assert_eq!(s.engine.only().lock().calls, ["create ~v", "rename ~v v", "rename v ~v", "delete ~v"]);
    pools::remove_pool(&d, "main").unwrap();
    assert!(!s.engine.only().lock().open);
    // The pool is on its devices still: made anew it is not, taken over it is.
    let refused = pools::create_pool(&d, &s.ask()).unwrap_err();
    assert!(refused.remedy.contains("--adopt"), "{refused}");
    pools::create_pool(&d, &ask::CreatePool { adopt: true, ..s.ask() }).unwrap();
    assert_eq!(pools::remove_pool(&d, "mian").unwrap_err().remedy, "did you mean main?");
    assert!(pools::remove_pool(&d, "default").unwrap_err().error.contains("folder"));
}

/// The state file fails at each of its operations: what was asked for is there whole or not at all, now and after a restart.
#[test]
fn a_change_that_is_not_kept_leaves_nothing() {
    for step in 0..4 {
        let s = Stage::new(&format!("steps-{step}"));
        end(s.with_pool());
        let files = Arc::new(Failing { left: AtomicUsize::new(usize::MAX) });
        let d = s.try_start(Objects::new(), Arc::clone(&files) as _).unwrap_or_else(|e| panic!("{e}"));
        verbs::create_volume(&d, &volume("kept")).unwrap();
        let left = |n: usize| files.left.store(n, std::sync::atomic::Ordering::Relaxed);
        left(step);
        verbs::create_volume(&d, &volume("new")).unwrap_err();
        left(step);
        verbs::delete_volume(&d, "kept").unwrap_err();
        left(usize::MAX);
        assert_eq!(s.names(), ["kept"], "step {step}");
        assert!(d.volume_health().contains_key("kept") && !d.volume_health().contains_key("new"));
        left(step);
        let second = ask::CreatePool { name: "second".into(), devices: vec![s.device("b.pool")], ..s.ask() };
        pools::create_pool(&d, &second).unwrap_err();
        assert!(!s.path("b.pool").exists(), "a pool that is not kept leaves no file, step {step}");
        left(usize::MAX);
        end(d);
    }
}

/// What a crash in the middle leaves is ended at the next start, by what the state says.
#[test]
fn half_made_and_half_deleted_volumes_are_settled() {
    let s = Stage::new("settle");
    let d = s.with_pool();
    for name in ["kept", "deleted", "stranger"] {
        verbs::create_volume(&d, &volume(name)).unwrap();
    }
    end(d);
    let pool = s.engine.only();
    {
        let mut inner = pool.lock();
        let mut move_volume = |from: &str, to: &str| {
            let (mut record, opened) = inner.volumes.remove(from).unwrap();
            record.name = to.into();
            inner.volumes.insert(to.into(), (record, opened));
        };
        // Kept in the state, and not renamed yet; deleted in the pool and not in the state; in the pool alone.
        move_volume("kept", "~kept");
        move_volume("deleted", "~deleted");
        move_volume("stranger", "unknown");
    }
    // The state wants "deleted" and "stranger": the one comes back, the other is lost.
    let Err(e) = s.try_start(Objects::new(), Arc::new(Disk)) else { panic!("started") };
    assert!(e.to_string().contains("holds no volume stranger"), "{e}");
    assert!(!pool.lock().open, "a start that fails closes what it opened");
    assert_eq!(pool.names(), ["deleted", "kept", "unknown"]);
    let mut inner = pool.lock();
    let (mut record, opened) = inner.volumes.remove("unknown").unwrap();
    record.name = "stranger".into();
    inner.volumes.insert("stranger".into(), (record, opened));
    drop(inner);
    let d = s.start();
    assert_eq!(d.volume_health().len(), 3);
}

#[test]
fn volumes_that_the_pool_holds_are_adopted_and_not_overwritten() {
    let s = Stage::new("adopt");
    let d = s.with_pool();
    verbs::create_volume(&d, &volume("v")).unwrap();
    end(d);
    std::fs::remove_file(s.path("state.json")).unwrap();
    let d = s.start();
    assert!(d.pools().is_empty());
    pools::create_pool(&d, &ask::CreatePool { adopt: true, ..s.ask() }).unwrap();
    let refused = verbs::create_volume(&d, &volume("v")).unwrap_err();
    assert!(refused.error.contains("not configured") && refused.remedy.contains("--adopt"), "{refused}");
    let adopt = ask::CreateVolume { adopt: true, size: None, ..volume("v") };
    verbs::create_volume(&d, &adopt).unwrap();
    assert_eq!(d.volume_health()["v"].size, 1 << 20);
    let nothing = ask::CreateVolume { size: None, ..volume("w") };
    assert!(verbs::create_volume(&d, &nothing).unwrap_err().remedy.contains("--size"));
}

#[test]
fn pools_grow_and_scrub() {
    let s = Stage::new("grow");
    let d = s.with_pool();
    assert_eq!(pools::add_device(&d, "main", &s.device("b.pool")), Ok(Did::Changed));
    assert_eq!(pools::add_device(&d, "main", &s.device("b.pool")), Ok(Did::Nothing));
    let grow = |path: Option<&str>, size: u64| ask::Grow {
        path: path.map(|p| s.path(p)),
        size: Some(ask::Size::Bytes(size)),
    };
    let refused = pools::grow_pool(&d, "main", &grow(None, 2 << 30)).unwrap_err();
    assert!(refused.remedy.contains("a.pool, "), "{refused}");
    assert_eq!(pools::grow_pool(&d, "main", &grow(Some("a.pool"), 2 << 30)), Ok(Did::Changed));
    assert_eq!(s.path("a.pool").metadata().unwrap().len(), 2 << 30);
    let refused = pools::grow_pool(&d, "main", &grow(Some("a.pool"), 1 << 20)).unwrap_err();
    assert!(refused.error.contains("cannot become smaller"), "{refused}");
    assert_eq!(pools::grow_pool(&d, "main", &ask::Grow::default()), Ok(Did::Nothing));
    pools::scrub_pool(&d, "main", &ask::ScrubAsk { rate: ask::Size::Text("64M".into()) }).unwrap();
    let all = view::pools(&d);
    let main = all.iter().find(|p| p.name == "main").unwrap();
    assert!(main.status.as_ref().unwrap().scrub.as_ref().unwrap().running);
    assert_eq!((main.kind.as_str(), main.devices.len()), ("log", 2));
    assert!(all.iter().any(|p| p.name == "default" && p.kind == "folder"));
    let metrics = crate::metrics::text(&d).unwrap();
    for line in
        ["caisson_pool_stored_bytes{pool=\"main\"} 1024", "caisson_pool_scrub_running{pool=\"main\"} 1"]
    {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    // A device more is kept before it is taken into use, and taken back where that fails.
    s.engine.only().lock().failing = Some("add");
    pools::add_device(&d, "main", &s.device("c.pool")).unwrap_err();
    assert_eq!(d.objects().pool("main").unwrap().devices.len(), 2);
    s.engine.only().lock().failing = None;
    end(d);
    // Kept, and not done when the power went: done at the next start.
    let text = std::fs::read_to_string(s.path("state.json")).unwrap();
    let b = s.path("b.pool").display().to_string();
    let more = format!("{b}\", \"size\": 1073741824 }}, {{ \"path\": \"{}", s.path("c.pool").display());
    std::fs::write(s.path("state.json"), text.replacen(&b, &more, 1)).unwrap();
    let d = s.start();
    assert_eq!(s.engine.only().lock().devices.len(), 3);
    drop(d);
}

#[test]
fn keys_that_do_not_fit_say_so() {
    let s = Stage::new("keys");
    let relative = ask::CreatePool { key_file: Some("key".into()), ..s.ask() };
    let d = s.start();
    assert!(pools::create_pool(&d, &relative).unwrap_err().error.contains("relative"));
    let missing = ask::CreatePool { passphrase_file: Some(s.path("none")), ..s.ask() };
    assert!(pools::create_pool(&d, &missing).unwrap_err().error.contains("passphrase file"));
    assert!(!s.path("a.pool").exists() && !s.path("key").exists());
    pools::create_pool(&d, &s.ask()).unwrap();
    end(d);
    let refused = |s: &Stage| match s.try_start(Objects::new(), Arc::new(Disk)) {
        Err(StartError::Items(items)) => {
            assert_eq!(items[0].0, "pool/main");
            items[0].1.clone()
        }
        Err(StartError::Refused(r)) => panic!("{r}"),
        Ok(_) => panic!("started"),
    };
    std::fs::write(s.path("passphrase"), "wrong horse").unwrap();
    let r = refused(&s);
    assert!(r.error.contains("passphrase is wrong") && r.remedy.contains("case"), "{r}");
    std::fs::write(s.path("passphrase"), "correct horse").unwrap();
    std::fs::rename(s.path("key"), s.path("moved")).unwrap();
    assert!(refused(&s).error.contains("no such file"));
    std::fs::write(s.path("key"), "something").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(s.path("key"), PermissionsExt::from_mode(0o644)).unwrap();
    assert!(refused(&s).remedy.contains("chmod 600"));
    std::fs::set_permissions(s.path("key"), PermissionsExt::from_mode(0o600)).unwrap();
    assert!(refused(&s).error.contains("not a sealed key file"));
    std::fs::rename(s.path("moved"), s.path("key")).unwrap();
    // The devices are gone, or blank, or hold something else: never a reason to make an empty pool.
    std::fs::rename(s.path("a.pool"), s.path("away")).unwrap();
    assert!(refused(&s).error.contains("which is missing"));
    std::fs::write(s.path("a.pool"), [0; 4096]).unwrap();
    assert!(refused(&s).error.contains("which is blank"));
    std::fs::write(s.path("a.pool"), "a file system").unwrap();
    assert!(refused(&s).error.contains("holds some data"));
    std::fs::rename(s.path("away"), s.path("a.pool")).unwrap();
    s.start();
}

#[test]
fn services_are_for_pools_that_have_them() {
    let s = Stage::new("services");
    let d = s.with_pool();
    let services = ask::ServicesAsk { verify: Some(true), ..ask::ServicesAsk::default() };
    let plain = ask::CreateVolume { pool: None, services, ..volume("p") };
    let refused = verbs::create_volume(&d, &plain).unwrap_err();
    assert!(refused.error.contains("not in a pool that compresses"), "{refused}");
    verbs::create_volume(&d, &ask::CreateVolume { services: Default::default(), ..plain }).unwrap();
    assert!(verbs::set_volume(&d, "p", &services).unwrap_err().error.contains("data services"));
    let copy = ask::Copy { name: "q".into() };
    assert!(verbs::copy_volume(&d, "p", &copy, true).unwrap_err().error.contains("snapshots"));
    assert!(verbs::copy_volume(&d, "none", &copy, true).unwrap_err().error.contains("no volume none"));
}

/// What `quickstart` makes at its first start: kept only once all of it is there.
#[test]
fn a_first_start_that_fails_is_begun_anew() {
    use crate::model::{self, Device, Listener, Serves, Volume};
    let s = Stage::new("seed");
    let seed = |port: u16| -> Objects {
        let backing = Backing::Pool { pool: "default".into() };
        let items = [
            Item::Pool(model::Pool {
                name: "default".into(),
                devices: vec![Device { path: s.path("d.pool"), size: 1 << 30 }],
                key_file: Some(s.path("key")),
                passphrase_file: Some(s.path("passphrase")),
                keys: Vec::new(),
                memory: 0,
            }),
            Item::Volume(Volume {
                services: Some(Services::default()),
                ..Volume::new("v", backing, 1 << 20, 4096)
            }),
            Item::Listener(Listener {
                address: format!("tcp://127.0.0.1:{port}").parse().unwrap(),
                serves: Serves::Io,
            }),
        ];
        items.into_iter().map(|i| (i.key(), i)).collect()
    };
    let start = |port: u16, files: Arc<dyn Files>| {
        let engine = Arc::clone(&s.engine) as Arc<dyn Engine>;
        let start = Start {
            seed: seed(port),
            files,
            engine,
            ..Start::new(s.dir.settings(), Objects::new(), Mono(1))
        };
        Daemon::start(start, |_, _| Ok(Arc::new(FakePlane::default()) as Arc<dyn DataPlane>))
    };
    // The plane refuses port 1: nothing is kept, no pool is left, and the key file made for it is used the next time.
    let Err(e) = start(1, Arc::new(Disk)) else { panic!("started") };
    assert!(e.to_string().contains("cannot listen"), "{e}");
    assert!(!s.path("d.pool").exists() && !s.path("state.json").exists() && s.path("key").exists());
    // Nor is anything left where the state cannot be written.
    assert!(start(0, Arc::new(Failing { left: AtomicUsize::new(2) })).is_err());
    assert!(!s.path("d.pool").exists());
    let d = start(0, Arc::new(Disk)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(d.made()["default"], Made { pool: true, key_file: false });
    assert!(d.folders().is_empty(), "the pool stands in the place of the folder");
    verbs::create_volume(&d, &ask::CreateVolume { pool: None, ..volume("w") }).unwrap();
    end(d);
    // The power went before the state was kept: what was made is found, and there is no second one of it.
    std::fs::remove_file(s.path("state.json")).unwrap();
    let d = start(0, Arc::new(Disk)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(d.made()["default"], Made::default());
    assert!(d.volume_health().contains_key("v"));
    end(d);
    // A seed is for the first start only.
    let d = s.start();
    assert_eq!(d.objects().volumes().count(), 1);
}

#[test]
fn domains_and_epochs_are_made_by_every_provider_and_recorded() {
    use crate::manage::keys;
    use caisson_keys::limits::Limits;
    let s = Stage::new("domains");
    let d = s.with_pool();
    let domain = |name: &str| ask::DomainAsk { domain: name.into() };
    assert_eq!(keys::create_domain(&d, "main", &domain("acme")), Ok(Did::Changed));
    let refused = keys::create_domain(&d, "main", &domain("a b")).unwrap_err();
    assert!(refused.error.contains("domain"), "{refused}");
    assert_eq!(keys::rotate_epoch(&d, "main", &domain("default")), Ok(Did::Changed));
    assert!(keys::rotate_epoch(&d, "main", &domain("other")).unwrap_err().remedy.contains("key create"));
    let slots = s.engine.only().lock().slots.clone();
    let names: Vec<_> = slots.iter().map(|slot| (slot.domain, slot.epoch)).collect();
    assert_eq!(names, [(0, 0), (1, 0), (2, 2), (1, 3)]);
    let status = keys::status(&d, Some("main")).unwrap().remove(0);
    assert!(status.incomplete.is_empty(), "{:?}", status.incomplete);
    assert_eq!(status.slots[3].of, "domain 1, epoch 3");
    // Destruction takes the name twice.
    let destroy = |confirm: &str| ask::Destroy { domain: "default".into(), confirm: confirm.into() };
    let refused = keys::destroy_domain(&d, "main", &destroy("defualt")).unwrap_err();
    assert!(refused.remedy.contains("--confirm default"), "{refused}");
    assert!(!s.engine.only().lock().calls.iter().any(|c| c.starts_with("destroy")));
    assert_eq!(keys::destroy_domain(&d, "main", &destroy("default")), Ok(Did::Changed));
    let pool = ask::Destroy { domain: "pool".into(), confirm: "pool".into() };
    assert!(keys::destroy_domain(&d, "main", &pool).is_err());
    // Nothing is used up, until the limit says so.
    assert!(d.rotate_used_up(Limits { records: 1, bytes: 1 }).is_empty());
    let rotated = d.rotate_used_up(Limits { records: 0, bytes: 1 });
    assert!(rotated.iter().all(Result::is_ok) && rotated.len() == 2, "{rotated:?}");
    let text = std::fs::read_to_string(s.dir.settings().data_dir.unwrap().join(AUDIT_FILE)).unwrap();
    for op in ["create-domain", "rotate-epoch", "destroy-domain"] {
        assert!(text.contains(op), "{op} is not recorded: {text}");
    }
    end(d);
}

#[test]
fn a_root_key_ends_when_no_pool_needs_it() {
    use crate::manage::keys;
    let s = Stage::new("roots");
    let d = s.with_pool();
    let other = ask::CreatePool { name: "other".into(), devices: vec![s.device("b.pool")], ..s.ask() };
    assert_eq!(pools::create_pool(&d, &other), Ok(Did::Changed));
    let root = |pool: &str| keys::status(&d, Some(pool)).unwrap().remove(0).slots[0].root.clone();
    let first = root("main");
    assert_eq!(first, root("other"), "of one key file");
    let end = |root: &str, confirm: &str| ask::RootAsk {
        root: root.into(),
        key: None,
        reason: None,
        confirm: confirm.into(),
    };
    let refused = |ask: &ask::RootAsk, words: [&str; 2]| {
        let refused = keys::destroy_root(&d, "main", ask).unwrap_err();
        for w in words {
            assert!(
                format!("{refused} {}", refused.remedy).contains(w),
                "{w:?}: {refused} {}",
                refused.remedy
            );
        }
    };
    refused(&end(&first, "first"), ["said again", "--confirm"]);
    refused(&end("root:00", "root:00"), ["has a root key root:00", "key list main"]);
    refused(&end(&first, &first), ["pool \"main\" needs root key", "key rotate main"]);
    assert_eq!(keys::rotate(&d, "main", &ask::Rotate::default()), Ok(Did::Changed));
    // The other pool has the same key file, and is looked at, too.
    refused(&end(&first, &first), ["pool \"other\" needs root key", "key rotate other"]);
    let revoke = ask::RootAsk { reason: Some(ask::Why::Compromise), ..end(&first, &first) };
    assert!(keys::revoke_root(&d, "main", &revoke).unwrap_err().error.contains("pool \"other\" needs"));
    // With another provider it opens without: what the key wrapped is given up, and then the key.
    let more =
        format!("file:{}?passphrase-file={}", s.path("key2").display(), s.path("passphrase").display());
    keys::add(&d, "other", &ask::KeyAsk { key: more }).unwrap();
    // A key file has no such state as revoked: nothing has changed for that.
    let refused = keys::revoke_root(&d, "main", &revoke).unwrap_err();
    assert!(refused.error.contains("is not ended") && refused.remedy.contains("destroy"), "{refused}");
    assert_eq!(root("other"), first, "its slots are as they were");
    let before = root("main");
    assert_eq!(keys::destroy_root(&d, "main", &end(&first, &first)), Ok(Did::Changed));
    assert_eq!(root("main"), before);
    assert_ne!(root("other"), first);
    let gone = keys::destroy_root(&d, "main", &end(&first, &first)).unwrap_err();
    assert_eq!(gone.cause, Cause::NotFound, "{gone}");
    let last = keys::destroy_root(&d, "main", &end(&before, &before)).unwrap_err();
    assert!(last.error.contains("pool \"main\" needs"), "{last}");
    let text = std::fs::read_to_string(s.dir.settings().data_dir.unwrap().join(AUDIT_FILE)).unwrap();
    for op in ["revoke-root", "destroy-root", "compromised", &first] {
        assert!(text.contains(op), "{op} is not recorded: {text}");
    }
    end_all(d, &s);
}

/// Ends it, and sees that its pools open again.
fn end_all(d: Arc<Daemon>, s: &Stage) {
    end(d);
    end(s.start());
}

#[test]
fn a_volume_is_made_in_its_domain_and_stays_there() {
    let s = Stage::new("volume-domain");
    let d = s.with_pool();
    let refused = verbs::create_volume(&d, &ask::CreateVolume { domain: Some("acme".into()), ..volume("v") });
    assert_eq!(refused.unwrap_err().cause, Cause::NotFound);
    // What every pool has is said, or not.
    let said = ask::CreateVolume { domain: Some("default".into()), ..volume("v") };
    assert_eq!(verbs::create_volume(&d, &said), Ok(Did::Changed));
    assert_eq!(verbs::create_volume(&d, &volume("v")), Ok(Did::Nothing));
    assert_eq!(view::volume(&d, "v").unwrap().domain, None);
    end(d);
}
