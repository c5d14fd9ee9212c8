//! Management: what it refuses, and that a refusal changes nothing.

mod support;

use caisson_core::*;
use support::*;

fn spec(nqn: &str) -> SubsystemSpec {
    SubsystemSpec::new(nqn, "S")
}

#[test]
fn names_and_texts_are_checked() {
    let w = World::new(4096);
    let long = format!("nqn.2024-01.io.caisson:{}", "x".repeat(201));
    assert_eq!(long.len(), 224);
    for bad in [
        "",
        "nqn",
        "iqn.2024-01.io.x",
        "nqn.2024.io.x",
        "nqn.2024-1.io.x",
        "nqn.2024-01.",
        "nqn.2024-01.a\nb",
        &long,
    ] {
        assert!(matches!(w.target.add_subsystem(spec(bad)), Err(ManageError::BadNqn { .. })), "{bad:?}");
        assert!(matches!(w.target.allow_host(NQN, bad), Err(ManageError::BadNqn { .. })));
    }
    assert!(w.target.add_subsystem(spec("nqn.2014-08.org.nvmexpress.discovery")).is_err());
    assert_eq!(w.target.add_subsystem(spec(NQN)), Err(ManageError::SubsystemExists(NQN.into())));
    let other = "nqn.2024-01.io.caisson:two";
    for serial in ["", "123456789012345678901", "ünicode", "tab\t"] {
        let bad = SubsystemSpec { serial: serial.into(), ..spec(other) };
        assert!(
            matches!(w.target.add_subsystem(bad), Err(ManageError::BadText { max: 20, .. })),
            "{serial:?}"
        );
    }
    let bad = SubsystemSpec { model: Some("m".repeat(41)), ..spec(other) };
    assert!(matches!(w.target.add_subsystem(bad), Err(ManageError::BadText { max: 40, .. })));
    for ids in [vec![], vec![0], vec![0xfff0], vec![1, 2, 1]] {
        let bad = SubsystemSpec { controllers: ControllerModel::Static(ids), ..spec(other) };
        assert_eq!(w.target.add_subsystem(bad), Err(ManageError::BadControllerIds));
    }
    let s = w.target.snapshot();
    assert_eq!(s.subsystems.len(), 1);
    assert!(s.subsystems[0].hosts.is_empty());
}

#[test]
fn namespaces_are_checked() {
    let w = World::new(4096);
    let uuid = |n: u128| uuid::Uuid::from_u128(n);
    let new = |nsid, n| NamespaceSpec { nsid, ..NamespaceSpec::new(Disk::new(4096, 8), uuid(n)) };
    let add = |spec| w.target.add_namespace(NQN, spec);
    assert_eq!(add(new(Some(0), 1)), Err(ManageError::BadNsid(0)));
    assert_eq!(add(new(Some(1025), 1)), Err(ManageError::BadNsid(1025)));
    assert_eq!(add(new(Some(1), 1)), Err(ManageError::NamespaceExists { nqn: NQN.into(), nsid: 1 }));
    assert_eq!(add(new(None, 0x1001)), Err(ManageError::IdentifierInUse { nqn: NQN.into(), nsid: 1 }));
    let odd = NamespaceSpec::new(Disk::new(1024, 8), uuid(3));
    assert_eq!(add(odd), Err(ManageError::BadBlockSize(1024)));
    assert_eq!(add(new(Some(3), 3)), Ok(3));
    assert_eq!(add(new(None, 2)), Ok(2), "the lowest free");
    let no = ManageError::NoNamespace { nqn: NQN.into(), nsid: 9 };
    assert_eq!(w.target.remove_namespace(NQN, 9), Err(no.clone()));
    assert_eq!(w.target.namespace_resized(NQN, 9), Err(no.clone()));
    assert_eq!(w.target.set_write_protected(NQN, 9, true), Err(no));
    assert!(matches!(w.target.remove_namespace("nqn.x", 1), Err(ManageError::NoSubsystem(_))));
    w.target.remove_namespace(NQN, 1).unwrap();
    assert_eq!(add(new(None, 0x1001)), Ok(1));
    let ids: Vec<u32> = w.target.snapshot().subsystems[0].namespaces.iter().map(|n| n.nsid).collect();
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn the_generation_moves_with_what_hosts_can_see() {
    let w = World::new(4096);
    let t = &w.target;
    let mut last = t.discovery_generation();
    let mut moved = |what: &str, by: bool| {
        let now = t.discovery_generation();
        assert_eq!(now != last, by, "{what}");
        last = now;
    };
    t.allow_host(NQN, HOST).unwrap();
    moved("host", true);
    t.allow_host(NQN, HOST).unwrap();
    moved("the same host", false);
    t.set_allow_any(NQN, true).unwrap();
    moved("any, as it was", false);
    t.set_allow_any(NQN, false).unwrap();
    moved("not any", true);
    t.add_namespace(NQN, NamespaceSpec::new(Disk::new(512, 8), uuid::Uuid::from_u128(9))).unwrap();
    moved("a namespace", false);
    t.remove_subsystem(NQN).unwrap();
    moved("a subsystem", true);
    assert!(t.remove_subsystem(NQN).is_err());
    t.set_exports(PORT, Exports::Only(vec![]), true).unwrap();
    moved("exports", true);
    t.remove_port(PORT).unwrap();
    moved("a port", true);
    assert_eq!(t.remove_port(PORT), Err(ManageError::NoPort(PORT)));
    assert_eq!(t.set_exports(PORT, Exports::All, true), Err(ManageError::NoPort(PORT)));
    moved("what was refused", false);
}

#[test]
fn a_full_house() {
    let w = World::new(4096);
    for n in 0..60u32 {
        let nqn = format!("nqn.2024-01.io.caisson:many-{n}");
        w.target.add_subsystem(SubsystemSpec { allow_any: true, ..spec(&nqn) }).unwrap();
        let disk = Disk::new(4096, 8);
        for nsid in 1..=1024 {
            let uuid = uuid::Uuid::from_u128(u128::from(n) << 32 | u128::from(nsid));
            let new = NamespaceSpec { nsid: Some(nsid), ..NamespaceSpec::new(disk.clone(), uuid) };
            w.target.add_namespace(&nqn, new).unwrap();
        }
    }
    assert_eq!(w.target.snapshot().subsystems.iter().map(|s| s.namespaces.len()).sum::<usize>(), 61_441);
    w.target.remove_subsystem("nqn.2024-01.io.caisson:many-3").unwrap();
    let again = NamespaceSpec::new(Disk::new(4096, 8), uuid::Uuid::from_u128(3 << 32 | 5));
    w.target.add_namespace(NQN, again).unwrap();
}
