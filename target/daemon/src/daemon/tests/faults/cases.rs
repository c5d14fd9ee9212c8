//! The operations on keys, each with every fault.

use super::*;
use crate::pools::offline;
use caisson_keys::{DEFAULT_DOMAIN, KeySlot, POOL_DOMAIN};
use std::io::Read;

fn two(s: &Stage) {
    s.with_pool(&["a", "b"]);
}

/// What every pool holds.
fn both(s: &Stage) {
    VOLUMES.iter().for_each(|(name, _)| s.holds(name));
}

/// Every provider of the pool wraps all of its keys.
pub(super) fn complete(s: &Stage) {
    let status = keys::status(&s.daemon(), Some("main")).unwrap().remove(0);
    assert!(status.incomplete.is_empty(), "{:?}", status.incomplete);
}

/// Whether all of these slots say so, or none.
fn all_or_none<'a>(slots: impl IntoIterator<Item = &'a KeySlot>, says: impl Fn(&KeySlot) -> bool) -> bool {
    let said: Vec<bool> = slots.into_iter().map(says).collect();
    let all = said.iter().all(|s| *s);
    assert!(all || !said.contains(&true), "some of the slots, and not all: {said:?}");
    all && !said.is_empty()
}

fn did(result: Result<Did, Refusal>) -> Result<(), Refusal> {
    result.map(drop)
}

/// What is gone already is well gone.
pub(super) fn or_gone(result: Result<Did, Refusal>) -> Result<(), Refusal> {
    match result {
        Err(e) if e.cause == Cause::NotFound => Ok(()),
        other => other.map(drop),
    }
}

fn domain(name: &str) -> ask::DomainAsk {
    ask::DomainAsk { domain: name.into() }
}

/// Both were seen.
fn either(found: &Found) {
    assert!(found.old > 0 && found.new > 0, "{found:?}");
}

#[test]
fn a_pool_is_made() {
    let case = Case {
        name: "create",
        before: |s| {
            *s.keys.borrow_mut() = vec![s.uri("a"), s.uri("b")];
            s.devices.set(2);
            s.start();
        },
        does: |s| match pools::create_pool(&s.daemon(), &s.ask()) {
            // It was made, and the state does not name it yet.
            Err(e) if e.remedy.contains("--adopt") => {
                did(pools::create_pool(&s.daemon(), &ask::CreatePool { adopt: true, ..s.ask() }))
            }
            other => did(other),
        },
        is: |s| {
            if s.daemon().objects().pool("main").is_none() {
                return Is::Old;
            }
            complete(s);
            if verbs::create_volume(&s.daemon(), &volume("v", None)) == Ok(Did::Changed) {
                s.write("v");
            }
            s.holds("v");
            Is::New
        },
        faults: ALL,
    };
    either(&case.run());
}

#[test]
fn a_pool_is_opened() {
    let case = Case {
        name: "open",
        before: |s| {
            s.with_pool(&["a"]);
            s.end();
        },
        does: |s| {
            s.end();
            match s.try_start() {
                Ok(()) => match s.daemon().waiting().remove("main") {
                    Some(waits) => Err(waits.why),
                    None => Ok(()),
                },
                Err(e) => Err(Refusal::busy(e.to_string(), "none")),
            }
        },
        is: |s| {
            both(s);
            Is::New
        },
        faults: ALL,
    };
    assert!(case.run().new > 0);
}

#[test]
fn a_root_is_rotated() {
    let case = Case {
        name: "rotate",
        before: |s| {
            two(s);
            *s.before.borrow_mut() = format!("{} {}", s.root("a"), s.root("b"));
        },
        does: |s| did(keys::rotate(&s.daemon(), "main", &ask::Rotate::default())),
        is: |s| {
            both(s);
            complete(s);
            let old = s.before.borrow().clone();
            let is_old = all_or_none(&s.slots(), |slot| old.contains(&slot.wrapped.root));
            if is_old { Is::Old } else { Is::New }
        },
        faults: ALL,
    };
    either(&case.run());
}

#[test]
fn a_provider_is_added() {
    let case = Case {
        name: "add",
        before: |s| s.with_pool(&["a"]),
        does: |s| did(keys::add(&s.daemon(), "main", &ask::KeyAsk { key: s.uri("b") })),
        is: |s| {
            both(s);
            complete(s);
            let named = s.daemon().objects().pool("main").unwrap().providers().len() == 2;
            let wraps = s.slots().iter().any(|slot| slot.provider == "pkcs11");
            assert!(wraps || !named, "one that is named wraps");
            if named { Is::New } else { Is::Old }
        },
        faults: ALL,
    };
    either(&case.run());
}

#[test]
fn a_provider_is_removed() {
    let case = Case {
        name: "remove",
        before: two,
        does: |s| match keys::remove(&s.daemon(), "main", &ask::KeyAsk { key: s.uri("a") }) {
            Err(e) if e.error.contains("has no key provider") => Ok(()),
            other => did(other),
        },
        is: |s| {
            both(s);
            complete(s);
            let named = s.daemon().objects().pool("main").unwrap().providers().len() == 2;
            let wraps = s.slots().iter().any(|slot| slot.provider == "file");
            assert!(named || !wraps, "what is not named wraps nothing");
            if named { Is::Old } else { Is::New }
        },
        faults: ALL,
    };
    either(&case.run());
}

#[test]
fn a_domain_is_made() {
    let case = Case {
        name: "domain",
        before: two,
        does: |s| did(keys::create_domain(&s.daemon(), "main", &domain("new"))),
        is: |s| {
            both(s);
            complete(s);
            let Some(new) = s.domain("new") else {
                assert_eq!(s.slots().len(), 6, "pool, default and acme, twice");
                return Is::Old;
            };
            assert!(s.slots().iter().any(|slot| slot.domain == new.domain));
            if verbs::create_volume(&s.daemon(), &volume("n", Some("new"))) == Ok(Did::Changed) {
                s.write("n");
            }
            s.holds("n");
            Is::New
        },
        faults: ALL,
    };
    either(&case.run());
}

fn epoch(name: &'static str, does: fn(&Stage) -> Result<(), Refusal>, is: fn(&Stage) -> Is) {
    let before = |s: &Stage| {
        two(s);
        // Shares that people hold have each new epoch sealed to them.
        *s.shares.borrow_mut() = export(s).unwrap();
    };
    either(&Case { name, before, does, is, faults: ALL }.run());
}

/// Whether a domain seals under what it began with; all that seals is wrapped by everybody.
fn rotated(s: &Stage, name: &str, first: u16) -> Is {
    both(s);
    complete(s);
    let now = s.domain(name).unwrap();
    let wrapped = |epoch: u16| {
        let stored = if epoch == 1 { 0 } else { epoch };
        s.slots().iter().filter(|slot| (slot.domain, slot.epoch) == (now.domain, stored)).count()
    };
    assert_eq!(wrapped(now.epoch), 3);
    if now.epoch == first { Is::Old } else { Is::New }
}

#[test]
fn a_domain_s_epoch_is_rotated() {
    epoch(
        "epoch",
        |s| did(keys::rotate_epoch(&s.daemon(), "main", &domain("acme"))),
        |s| rotated(s, "acme", 2),
    );
}

#[test]
fn the_pool_s_epoch_is_rotated() {
    epoch(
        "epoch-0",
        |s| did(keys::rotate_epoch(&s.daemon(), "main", &domain("pool"))),
        |s| rotated(s, "pool", 1),
    );
}

/// Whether a device has these bytes in its first MiB, where its superblocks are.
fn stands(path: &Path, bytes: &[u8]) -> bool {
    let mut front = vec![0; 1 << 20];
    std::fs::File::open(path).unwrap().read_exact(&mut front).unwrap();
    front.windows(bytes.len()).any(|w| w == bytes)
}

#[test]
fn a_domain_is_destroyed() {
    let case = Case {
        name: "destroy",
        before: |s| {
            two(s);
            s.devices.set(2);
            pools::add_device(&s.daemon(), "main", &s.ask().devices[1]).unwrap();
            let number = s.domain("acme").unwrap().domain;
            let blobs = s.slots().into_iter().filter(|slot| slot.domain == number);
            *s.before.borrow_mut() =
                serde_json::to_string(&blobs.map(|b| b.wrapped.blob).collect::<Vec<_>>()).unwrap();
        },
        does: |s| {
            let destroy = ask::Destroy { domain: "acme".into(), confirm: "acme".into() };
            or_gone(keys::destroy_domain(&s.daemon(), "main", &destroy))
        },
        is: |s| {
            s.holds("v");
            complete(s);
            if s.domain("acme").is_some() {
                s.holds("t");
                return Is::Old;
            }
            assert_eq!(s.read("t"), None, "what was destroyed is not read");
            assert!(s.slots().iter().all(|slot| [POOL_DOMAIN, DEFAULT_DOMAIN].contains(&slot.domain)));
            let blobs: Vec<Vec<u8>> = serde_json::from_str(&s.before.borrow()).unwrap();
            assert_eq!(blobs.len(), 2);
            for (blob, n) in blobs.iter().flat_map(|b| [(b, 0), (b, 1)]) {
                assert!(!stands(&s.path(&format!("{n}.pool")), blob), "a wrapped key is left on device {n}");
            }
            Is::New
        },
        faults: ALONE,
    };
    either(&case.run());
}

/// Waits for `over`; an error once the fault has come, which may be what it waits for.
fn wait(s: &Stage, over: impl Fn(&crate::pools::PoolStatus) -> bool) -> Result<(), Refusal> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if over(&s.pool().status()) {
            return Ok(());
        }
        if s.plan.fired() {
            return Err(Refusal::busy("it waits", "none"));
        }
        assert!(Instant::now() < end, "it does not come to its end: {:?}", s.pool().status());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_volume_is_deleted_and_its_map_key_ends() {
    let case = Case {
        name: "delete",
        before: |s| {
            s.with_pool(&["a"]);
            // Maps have keys from the first checkpoint on that writes a page of theirs.
            s.pool().set_slots(&s.slots()).unwrap();
            *s.before.borrow_mut() = s.pool().status().map_keys.keys.to_string();
        },
        does: |s| {
            or_gone(verbs::delete_volume(&s.daemon(), "v"))?;
            // A checkpoint, which would come by itself in its time.
            s.pool().set_slots(&s.slots())?;
            wait(s, |status| status.map_keys.erasing.is_empty())
        },
        is: |s| {
            s.holds("t");
            if s.daemon().objects().volume("v").is_some() {
                s.holds("v");
                return Is::Old;
            }
            assert!(s.pool().record("v").is_none() && s.pool().record("~v").is_none());
            wait(s, |status| status.map_keys.erasing.is_empty() || s.pool().set_slots(&s.slots()).is_err())
                .unwrap();
            let before: usize = s.before.borrow().parse().unwrap();
            assert_eq!(s.pool().status().map_keys.keys, before - 1);
            Is::New
        },
        faults: ALONE,
    };
    either(&case.run());
}

#[test]
fn a_volume_is_erased() {
    let case = Case {
        name: "erase",
        before: |s| {
            two(s);
            *s.before.borrow_mut() = s.domain("default").unwrap().epoch.to_string();
        },
        does: |s| {
            let erase = ask::EraseAsk { confirm: "v".into(), delete: false };
            verbs::erase_volume(&s.daemon(), "v", &erase)?;
            wait(s, |status| status.erases.is_empty())
        },
        is: |s| {
            s.holds("t");
            // What had begun goes on by itself, once the provider is asked again; in a target that ran on, in a while.
            let begun = !s.pool().erases().is_empty();
            if begun && s.pool().erases().iter().any(|e| e.waits.is_some()) {
                s.end();
                s.start();
            }
            wait(s, |status| status.erases.is_empty()).unwrap();
            let read = s.read("v").unwrap();
            if read == content("v") {
                assert!(!begun, "what was begun is done");
                return Is::Old;
            }
            assert!(read.iter().all(|b| *b == 0));
            let now = s.domain("default").unwrap();
            assert!(now.epoch > s.before.borrow().parse().unwrap() && now.old_epochs.is_empty(), "{now:?}");
            assert!(!s.slots().iter().any(|slot| slot.domain == DEFAULT_DOMAIN && slot.epoch < now.epoch));
            complete(s);
            Is::New
        },
        faults: ALL,
    };
    either(&case.run());
}

/// The end of a root key of `a`, which wraps all keys, where `b` does, too.
fn root_end(name: &'static str, does: fn(&Stage) -> Result<(), Refusal>, is: fn(&Stage) -> Is) {
    let before = |s: &Stage| {
        two(s);
        *s.before.borrow_mut() = s.root("a");
    };
    either(&Case { name, before, does, is, faults: ALL }.run());
}

/// Whether it has ended, which is so where its provider has it no more, or as `ended` says of it.
fn root_is(s: &Stage, ended: impl Fn(bool) -> bool) -> Is {
    both(s);
    complete(s);
    let root = s.before.borrow().clone();
    let of_file: Vec<KeySlot> = s.slots().into_iter().filter(|slot| slot.provider == "file").collect();
    assert!(of_file.iter().all(|slot| slot.wrapped.root == root));
    let roots = Vault::roots_in(&s.vault("a"));
    let ended = roots.iter().find(|(name, _)| *name == root).is_none_or(|(_, revoked)| ended(*revoked));
    assert!(of_file.is_empty() || !ended, "what has ended wraps nothing");
    if ended { Is::New } else { Is::Old }
}

fn root(s: &Stage, reason: Option<ask::Why>) -> ask::RootAsk {
    let root = s.before.borrow().clone();
    ask::RootAsk { confirm: root.clone(), root, key: None, reason }
}

#[test]
fn a_root_is_destroyed() {
    root_end(
        "root-destroy",
        |s| or_gone(keys::destroy_root(&s.daemon(), "main", &root(s, None))),
        |s| root_is(s, |_| false),
    );
}

#[test]
fn a_root_is_revoked() {
    root_end(
        "root-revoke",
        |s| did(keys::revoke_root(&s.daemon(), "main", &root(s, Some(ask::Why::Superseded)))),
        |s| root_is(s, |revoked| revoked),
    );
}

fn export(s: &Stage) -> Result<Vec<Share>, Refusal> {
    let made = keys::export_recovery(&s.daemon(), "main", &ask::Export { shares: 3, needed: 2 })?;
    Ok(made.shares.iter().map(|text| text.parse().unwrap()).collect())
}

/// Whether the shares that people hold open the pool as it is.
fn open_by_shares(s: &Stage) -> bool {
    let shares = s.shares.borrow();
    let recovery = caisson_providers::Recovery::join(&shares).unwrap();
    caisson_keys::unlock(&[&recovery], s.pool().id(), &s.slots()).is_ok()
}

#[test]
fn recovery_shares_are_made_anew() {
    let case = Case {
        name: "export",
        before: |s| {
            two(s);
            *s.shares.borrow_mut() = export(s).unwrap();
            *s.before.borrow_mut() = hex(&s.shares.borrow()[0].id);
        },
        does: |s| {
            let made = export(s)?;
            if !s.plan.killed() {
                *s.shares.borrow_mut() = made;
            }
            Ok(())
        },
        is: |s| {
            both(s);
            complete(s);
            let old = s.before.borrow().clone();
            let slots = s.slots();
            let of_shares = slots.iter().filter(|slot| slot.provider == caisson_providers::RECOVERY);
            if all_or_none(of_shares, |slot| slot.wrapped.root == old) {
                // Those that people hold open the pool; where shares were given out, the new ones are in.
                assert!(open_by_shares(s));
                return Is::Old;
            }
            // Where the answer was lost, nobody has those that open it now: they are made again.
            let held = hex(&s.shares.borrow()[0].id);
            assert!(held == old || open_by_shares(s), "what was given out opens the pool");
            Is::New
        },
        faults: ALL,
    };
    either(&case.run());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The pool's providers are lost, and the shares have another wrap its keys.
#[test]
fn a_pool_is_recovered() {
    fn model(s: &Stage) -> crate::model::Pool {
        let mut pool = crate::model::Pool {
            name: "main".into(),
            devices: Vec::new(),
            key_file: None,
            passphrase_file: None,
            keys: vec![s.uri("c").parse().unwrap()],
            memory: 0,
        };
        pool.devices.push(crate::model::Device { path: s.path("0.pool"), size: 0 });
        pool
    }
    let case = Case {
        name: "import",
        before: |s| {
            two(s);
            *s.shares.borrow_mut() = export(s).unwrap();
        },
        does: |s| {
            s.end();
            let plan = Arc::clone(&s.plan);
            let engine = engine_over(Arc::new(move |op: &mut _| plan.device(op)));
            offline::recover_with(engine.as_ref(), &model(s), &s.shares.borrow()).map(drop)
        },
        is: |s| {
            both(s);
            complete(s);
            if !s.slots().iter().any(|slot| slot.provider == "kms") {
                return Is::Old;
            }
            let c: caisson_keys::KeyUri = s.uri("c").parse().unwrap();
            let opened = crate::pools::faulty_for_tests::open(&c, caisson_providers::How::default());
            let provider = opened.unwrap().unwrap().provider;
            caisson_keys::unlock(&[provider.as_ref()], s.pool().id(), &s.slots()).unwrap();
            Is::New
        },
        faults: &[Fault::Kill, Fault::Away, Fault::Refused, Fault::Lost, Fault::Device],
    };
    either(&case.run());
}

/// What is for good is recorded before it is done, or not done.
#[test]
fn what_cannot_be_recorded_is_not_erased() {
    let s = Stage::new("unrecorded");
    two(&s);
    s.end();
    let (log, away) = (s.path(AUDIT_FILE), s.path("away"));
    std::fs::rename(&log, &away).unwrap();
    std::fs::create_dir(&log).unwrap();
    s.start();
    let erase =
        || verbs::erase_volume(&s.daemon(), "v", &ask::EraseAsk { confirm: "v".into(), delete: false });
    let refused = erase().unwrap_err();
    assert!(refused.error.contains("cannot be recorded"), "{refused}");
    assert!(s.pool().erases().is_empty());
    // Nor is a key made for a pool.
    let other = ask::CreatePool {
        name: "other".into(),
        devices: vec![ask::DeviceAsk { path: s.path("other"), size: s.ask().devices[0].size.clone() }],
        keys: vec![s.uri("c")],
        ..s.ask()
    };
    let refused = pools::create_pool(&s.daemon(), &other).unwrap_err();
    assert!(refused.error.contains("cannot be recorded"), "{refused}");
    assert!(Vault::roots_in(&s.vault("c")).is_empty() && !s.path("other").exists());
    both(&s);
    s.end();
    std::fs::remove_dir(&log).unwrap();
    std::fs::rename(&away, &log).unwrap();
    s.start();
    erase().unwrap();
    wait(&s, |status| status.erases.is_empty()).unwrap();
    assert_eq!(s.read("v"), Some(vec![0; (BLOCKS * 4096) as usize]));
    let ends = |text: &str| {
        let begun = text.find("\"erase-volume\"").expect("it is recorded");
        text[begun..].contains("for the operator\",\"done\":true")
    };
    let end = Instant::now() + Duration::from_secs(60);
    while !ends(&std::fs::read_to_string(&log).unwrap()) {
        assert!(Instant::now() < end, "{}", std::fs::read_to_string(&log).unwrap());
        std::thread::sleep(Duration::from_millis(5));
    }
}
