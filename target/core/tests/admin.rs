//! Identify, features, log pages, asynchronous events, keep-alive.

mod support;

use caisson_block::{BlockError, Mono};
use caisson_core::*;
use caisson_wire::feature::{AsyncEvent, HostBehavior, Timestamp};
use caisson_wire::identify::*;
use caisson_wire::log::*;
use caisson_wire::opcode::{admin as adm, io as opc};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::{Sqe, Status};
use std::sync::{Arc, Mutex};
use support::*;

fn page(w: &mut World, c: usize, lid: u8, len: u64) -> Vec<u8> {
    w.run(c, log(lid, 0, len, false), room(len as u32)).ok().data
}

#[test]
fn identify_controller_says_what_is_kept() {
    let mut w = World::new(4096);
    let (a, id) = w.admin(NQN, HOST, 0);
    let d = IdentifyController::decode(&w.run(a, identify(1, 0), room(4096)).ok().data).unwrap();
    assert_eq!(ascii_of(&d.sn), "CAISSON0001");
    assert_eq!((d.cntlid.get(), d.ver.get(), d.mdts, d.cntrltype), (id, 0x2_0100, 8, 1));
    assert_eq!((d.ioccsz.get(), d.iorcsz.get(), d.icdoff.get()), ((64 + 16384) / 16, 1, 0));
    assert_eq!((d.nn.get(), d.mnan.get(), d.maxcmd.get()), (1024, 1024, 1024));
    assert!(d.kas.get() > 0 && d.sgls.get() & 3 != 0 && d.ctratt.get() & ctratt::TBKAS != 0);
    assert_eq!(&d.subnqn[..NQN.len()], NQN.as_bytes());
    assert_eq!((d.sqes, d.cqes, d.acwu.get(), d.awun.get()), (0x66, 0x44, 255, 0));
    // A read with room for more than its data is refused (io.rs), so nothing else may be told.
    assert_eq!(d.sgls.get(), sgls::SUPPORTED | sgls::OFFSET | sgls::TRANSPORT);
    w.run(a, identify(1, 0), room(4095)).is(Status::INVALID_SGL_LENGTH);
    w.run(a, identify(1, 0), Payload::None).is(Status::INVALID_SGL_LENGTH);
}

#[test]
fn each_cns_is_answered_or_refused() {
    let mut w = World::new(512);
    w.add_namespace(1024, Disk::new(4096, 77));
    let (a, _) = w.admin(NQN, HOST, 0);
    for cns in 0..=255u8 {
        let known = [0x00, 1, 2, 3, 5, 6, 7, 8, 0x10, 0x11, 0x12, 0x13, 0x1a, 0x1b, 0x1c].contains(&cns);
        let status = if known { Status::SUCCESS } else { Status::INVALID_FIELD };
        let sqe = Sqe {
            cdw10: u32le(u32::from(cns) | if cns == 0x1c { 0xffff_0000 } else { 0 }),
            ..identify(cns, 1)
        };
        let reply = w.run(a, sqe, room(4096));
        assert!(reply.status().is(status), "CNS {cns:#x}: {}", reply.status());
        assert_eq!(reply.data.len(), if known { 4096 } else { 0 });
    }
    // Another command set, a UUID index.
    for cns in [5, 6, 7, 0x1a, 0x1b] {
        let sqe = Sqe { cdw11: u32le(2 << 24), ..identify(cns, 1) };
        w.run(a, sqe, room(4096)).is(Status::INVALID_FIELD);
    }
    w.run(a, Sqe { cdw14: u32le(1), ..identify(1, 0) }, room(4096)).is(Status::INVALID_FIELD);
    // NSIDs: inactive ones are zeroes, impossible ones are refused.
    for cns in [0, 5, 8, 0x11, 0x1b] {
        assert!(w.run(a, identify(cns, 500), room(4096)).ok().data.iter().all(|&b| b == 0));
        for nsid in [0, 1025, u32::MAX - 1, u32::MAX] {
            w.run(a, identify(cns, nsid), room(4096)).is(Status::INVALID_NAMESPACE);
        }
    }
    w.run(a, identify(3, 500), room(4096)).is(Status::INVALID_NAMESPACE);
    let ids = |w: &mut World, nsid: u32| {
        let data = w.run(a, identify(2, nsid), room(4096)).ok().data;
        NamespaceList::decode(&data).unwrap().iter().collect::<Vec<_>>()
    };
    assert_eq!(ids(&mut w, 0), [1, 1024]);
    assert_eq!(ids(&mut w, 1), [1024]);
    assert_eq!(ids(&mut w, 1024), []);
    for nsid in [u32::MAX - 1, u32::MAX] {
        w.run(a, identify(2, nsid), room(4096)).is(Status::INVALID_NAMESPACE);
    }
    let n = IdentifyNamespace::decode(&w.run(a, identify(0, 1024), room(4096)).ok().data).unwrap();
    assert_eq!((n.nsze.get(), n.ncap.get(), n.nuse.get(), n.block_size()), (77, 77, 0, Some(4096)));
    assert_eq!((n.nguid, n.msrc, n.nsattr), (*uuid::Uuid::from_u128(0x1400).as_bytes(), 127, 0));
    let n = IdentifyNamespace::decode(&w.run(a, identify(0, 1), room(4096)).ok().data).unwrap();
    assert_eq!((n.block_size(), n.npwg.get()), (Some(512), 7));
    let d = read_ns_descriptors(&w.run(a, identify(3, 1), room(4096)).ok().data);
    assert!(d.contains(&NsDescriptor::Uuid(*uuid::Uuid::from_u128(0x1001).as_bytes())));
    assert!(d.contains(&NsDescriptor::Csi(0)));
    let sets = IoCommandSets::decode(
        &w.run(a, Sqe { cdw10: u32le(0xffff_001c), ..identify(0x1c, 0) }, room(4096)).ok().data,
    )
    .unwrap();
    assert_eq!((sets.iocsc[0].get(), sets.iocsc[1].get()), (1, 0));
    let (_, second) = w.admin(NQN, HOST, 0);
    let sqe = Sqe { cdw10: u32le(0x13 | u32::from(second) << 16), ..identify(0x13, 0) };
    let list = ControllerList::decode(&w.run(a, sqe, room(4096)).ok().data).unwrap();
    assert_eq!(list.iter().collect::<Vec<_>>(), [second]);
}

#[test]
fn a_full_house_of_namespaces() {
    let mut w = World::new(4096);
    for nsid in 2..=1024 {
        w.add_namespace(nsid, Disk::new(4096, 8));
    }
    let spec = NamespaceSpec::new(Disk::new(4096, 8), uuid::Uuid::from_u128(1));
    assert!(matches!(w.target.add_namespace(NQN, spec), Err(ManageError::TooMany { .. })));
    let (a, q) = w.pair();
    let data = w.run(a, identify(2, 0), room(4096)).ok().data;
    assert_eq!(NamespaceList::decode(&data).unwrap().iter().count(), 1024);
    for nsid in (2..=1024).rev() {
        w.run(q, io(opc::READ, nsid, 0, 1), room(4096)).ok();
    }
}

#[test]
fn features_by_select() {
    let mut w = World::new(4096);
    let (a, _) = w.admin(NQN, HOST, 0);
    let get = |fid: u32, sel: u32| features(false, fid | sel << 8, 0, 0);
    // fid, value to set, value read back, default, capabilities
    let table: [(u32, u32, u32, u32, u32); 9] = [
        (0x01, 0x0302_0107, 0x0302_0107, 7, 4),
        (0x02, 1 << 5, 1 << 5, 0, 4),
        (0x04, 350, 350, 0xffff, 4),
        (0x05, 77, 77, 0, 4),
        (0x06, 0, 0, 1, 4),
        (0x0a, 1, 1, 0, 4),
        (0x0b, 0x104, 0x104, 0, 4),
        (0x0f, 4100, 5000, 0, 4),
        (0x19, 0, 0, 0, 4),
    ];
    for (fid, set, back, default, capabilities) in table {
        w.run(a, features(true, fid | 1 << 31, set, 0), Payload::None).is(Status::FEATURE_NOT_SAVEABLE);
        w.run(a, features(true, fid, set, 1), Payload::None).is(Status::FEATURE_NOT_NS_SPECIFIC);
        assert_eq!(w.run(a, get(fid, 0), Payload::None).ok().dw0(), default, "{fid:#x} at the start");
        w.run(a, features(true, fid, set, 0), Payload::None).ok();
        assert_eq!(w.run(a, get(fid, 0), Payload::None).ok().dw0(), back, "{fid:#x}");
        for sel in [1, 2] {
            assert_eq!(w.run(a, get(fid, sel), Payload::None).ok().dw0(), default, "{fid:#x} default");
        }
        assert_eq!(w.run(a, get(fid, 3), Payload::None).ok().dw0(), capabilities, "{fid:#x} capabilities");
        w.run(a, get(fid, 4), Payload::None).is(Status::INVALID_FIELD);
    }
    for fid in [0x00, 0x03, 0x08, 0x09, 0x0c, 0x0d, 0x10, 0x11, 0x12, 0x78, 0x80, 0x82, 0x83, 0xc0, 0xff] {
        w.run(a, get(fid, 0), Payload::None).is(Status::INVALID_FIELD);
        w.run(a, features(true, fid, 0, 0), Payload::None).is(Status::INVALID_FIELD);
    }
    // Values that cannot be.
    for (fid, value) in [(2, 1), (4, 3 << 20), (4, 1 << 16), (5, 1 << 16), (0x0b, 1 << 9), (0x0b, 1 << 31)] {
        w.run(a, features(true, fid, value, 0), Payload::None).is(Status::INVALID_FIELD);
    }
    assert_eq!(w.run(a, features(true, 0x19, 1, 0), Payload::None).status().code(), 0x12b);
}

#[test]
fn features_with_data() {
    let mut w = World::new(4096);
    let (a, _) = w.admin(NQN, HOST, 0);
    w.pass(2000);
    let stamp = |w: &mut World| {
        let data = w.run(a, features(false, 0x0e, 0, 0), room(8)).ok().data;
        let mut t = Timestamp::default();
        t.as_mut_bytes().copy_from_slice(&data);
        (t.millis(), t.origin())
    };
    assert_eq!(stamp(&mut w), (2000, 0));
    let set = Timestamp::new(1_700_000_000_000, 0);
    w.run_pull(a, features(true, 0x0e, 0, 0), set.as_bytes().to_vec()).ok();
    w.pass(500);
    assert_eq!(stamp(&mut w), (1_700_000_000_500, 1));
    w.run(a, features(true, 0x0e, 0, 0), Payload::None).is(Status::INVALID_SGL_LENGTH);
    let behavior = HostBehavior { acre: 1, ..HostBehavior::default() };
    w.run(a, features(true, 0x16, 0, 0), capsule(behavior.as_bytes().to_vec())).ok();
    assert_eq!(w.run(a, features(false, 0x16, 0, 0), room(512)).ok().data, behavior.as_bytes());
    let bad = HostBehavior { acre: 2, ..HostBehavior::default() };
    w.run(a, features(true, 0x16, 0, 0), capsule(bad.as_bytes().to_vec())).is(Status::INVALID_FIELD);
    assert_eq!(w.run(a, features(false, 0x81, 1, 0), room(16)).ok().data, HOSTID);
    w.run(a, features(false, 0x81, 0, 0), room(16)).is(Status::INVALID_FIELD);
    w.run(a, features(true, 0x81, 1, 0), Payload::None).is(Status::COMMAND_SEQUENCE_ERROR);
}

#[derive(Default)]
struct Saved(Mutex<Vec<(u32, bool)>>);

impl Observer for Saved {
    fn write_protection(&self, nqn: &str, nsid: u32, on: bool) {
        assert_eq!(nqn, NQN);
        self.0.lock().unwrap().push((nsid, on));
    }
}

#[test]
fn hosts_protect_namespaces_and_switch_the_cache_off() {
    let mut w = World::new(4096);
    let saved = Arc::new(Saved::default());
    w.target.set_observer(saved.clone());
    let (a, q) = w.pair();
    let protect = |nsid, value| features(true, 0x84, value, nsid);
    w.run(a, protect(0, 1), Payload::None).is(Status::INVALID_NAMESPACE);
    w.run(a, protect(2, 1), Payload::None).is(Status::INVALID_NAMESPACE);
    w.run(a, protect(u32::MAX, 1), Payload::None).is(Status::INVALID_NAMESPACE);
    for state in [2, 3, 7] {
        w.run(a, protect(1, state), Payload::None).is(Status::INVALID_FIELD);
    }
    w.run(a, protect(1, 1), Payload::None).ok();
    w.run(a, protect(1, 1), Payload::None).ok();
    assert_eq!(w.run(a, features(false, 0x84, 0, 1), Payload::None).ok().dw0(), 1);
    assert_eq!(w.run(a, features(false, 0x384, 0, 0), Payload::None).ok().dw0(), 6);
    w.run(q, io(opc::WRITE, 1, 0, 1), room(4096)).is(Status::NS_WRITE_PROTECTED);
    let n = IdentifyNamespace::decode(&w.run(a, identify(0, 1), room(4096)).ok().data).unwrap();
    assert_eq!(n.nsattr, 1);
    w.run(a, protect(1, 0), Payload::None).ok();
    assert_eq!(*saved.0.lock().unwrap(), [(1, true), (1, false)]);
    w.run(a, features(true, 6, 0, 0), Payload::None).ok();
    w.run(q, io(opc::WRITE, 1, 0, 1), capsule(vec![0; 4096])).ok();
    assert_eq!(w.disk.seen(), ["write 0+1 fua"]);
}

#[test]
fn log_pages_at_any_offset() {
    let mut w = World::new(4096);
    let (a, _) = w.admin(NQN, HOST, 0);
    for lid in 0..=255u8 {
        let known = [0, 1, 2, 3, 4, 5, 0x12, 0x13].contains(&lid);
        let reply = w.run(a, log(lid, 0, 512, true), room(512));
        assert!(
            reply.status().is(if known { Status::SUCCESS } else { Status::INVALID_LOG_PAGE }),
            "{lid:#x}"
        );
    }
    let supported = SupportedPages::decode(&page(&mut w, a, 0, 1024)).unwrap();
    let lids: Vec<usize> = (0..256).filter(|&l| supported.lids[l].get() & 1 != 0).collect();
    assert_eq!(lids, [0, 1, 2, 3, 4, 5, 0x12, 0x13]);
    let whole = page(&mut w, a, 5, 4096);
    for (offset, len) in [(4, 4), (1024, 512), (4092, 4), (4000, 96)] {
        let part = w.run(a, log(5, offset, len, true), room(len as u32)).ok().data;
        assert_eq!(part, whole[offset as usize..(offset + len) as usize]);
    }
    // Past the end: zeroes as far as asked, an error from beyond it.
    let tail = w.run(a, log(5, 4092, 64, true), room(64)).ok().data;
    assert_eq!((tail.len(), &tail[4..]), (64, &[0u8; 60][..]));
    w.run(a, log(5, 4096, 4, true), room(4)).ok();
    for offset in [4100, 1 << 32, u64::MAX - 3, 2] {
        w.run(a, log(5, offset, 4, true), room(4)).is(Status::INVALID_FIELD);
    }
    w.run(a, log(5, 0, 4096, true), room(4092)).is(Status::INVALID_SGL_LENGTH);
    w.run(a, log(5, 0, (1 << 20) + 4, true), room(u32::MAX)).is(Status::INVALID_FIELD);
    w.run(a, log(5, 0, 1 << 34, true), room(u32::MAX)).is(Status::INVALID_FIELD);
    for cdw14 in [1 << 23, 1] {
        w.run(a, Sqe { cdw14: u32le(cdw14), ..log(5, 0, 4, true) }, room(4)).is(Status::INVALID_FIELD);
    }
    // Of a command set that is not there, no I/O command is supported.
    let other = w.run(a, Sqe { cdw14: u32le(2 << 24), ..log(5, 0, 4096, true) }, room(4096)).ok().data;
    let other = EffectsLog::decode(&other).unwrap();
    assert!(other.iocs.iter().all(|e| e.get() == 0) && other.acs.iter().any(|e| e.get() != 0));
    w.run(a, Sqe { nsid: u32le(1), ..log(2, 0, 512, true) }, room(512)).is(Status::INVALID_FIELD);
    w.run(a, Sqe { nsid: u32le(u32::MAX), ..log(2, 0, 512, true) }, room(512)).ok();
    let firmware = FirmwareSlotLog::decode(&page(&mut w, a, 3, 512)).unwrap();
    assert_eq!((firmware.afi, ascii_of(&firmware.frs[0])), (1, Settings::default().firmware));
}

#[test]
fn effects_name_each_command_that_is_there() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    let effects = EffectsLog::decode(&page(&mut w, a, 5, 4096)).unwrap();
    for opcode in 0..=255u8 {
        let there = effects.iocs[usize::from(opcode)].get() & 1 != 0;
        let reply = w.run(q, Sqe { nsid: u32le(0), ..io(opcode, 0, 0, 1) }, Payload::None);
        let unknown = reply.status().is(Status::INVALID_OPCODE) && opcode != 0x7f;
        assert_eq!(there, !unknown, "I/O opcode {opcode:#x}: {}", reply.status());
    }
    for opcode in (0..=255u8).filter(|&o| o != adm::ASYNC_EVENT && o != 0x7f) {
        let there = effects.acs[usize::from(opcode)].get() & 1 != 0;
        let reply = w.run(a, Sqe { opcode, ..Sqe::default() }, Payload::None);
        assert_eq!(there, !reply.status().is(Status::INVALID_OPCODE), "admin opcode {opcode:#x}");
    }
    let fids = FeatureEffects::decode(&page(&mut w, a, 0x12, 1024)).unwrap();
    for fid in 0..256u32 {
        let there = fids.fids[fid as usize].get() & 1 != 0;
        let reply = w.run(a, features(false, fid | 3 << 8, 0, 0), Payload::None);
        assert_eq!(there, reply.status().is_success(), "feature {fid:#x}");
    }
}

#[test]
fn smart_counts_what_was_done() {
    let mut w = World::new(4096);
    let nqn = "nqn.2024-01.io.caisson:old";
    let history = History { power_cycles: 5, power_on_hours: 100, unsafe_shutdowns: 2 };
    let spec = SubsystemSpec { allow_any: true, history, ..SubsystemSpec::new(nqn, "S") };
    w.target.add_subsystem(spec).unwrap();
    let (b, _) = w.admin(nqn, HOST, 0);
    w.pass(3 * 3_600_000);
    let s = SmartLog::decode(&page(&mut w, b, 2, 512)).unwrap();
    assert_eq!((s.pwrc.get(), s.poh.get(), s.upl.get(), s.cw), (5, 103, 2, 0));
    let (a, q) = w.pair();
    for i in 0..126 {
        w.run(q, io(opc::READ, 1, i, 1), room(4096)).ok();
    }
    w.run(q, io(opc::WRITE, 1, 0, 1), capsule(vec![1; 4096])).ok();
    let s = SmartLog::decode(&page(&mut w, a, 2, 512)).unwrap();
    assert_eq!((s.dur.get(), s.duw.get(), s.hrc.get(), s.hwc.get()), (2, 1, 126, 1));
    // Compare and Verify read, Copy reads and writes: 125 blocks each way are one more unit.
    w.run(q, io(opc::COMPARE, 1, 0, 1), capsule(vec![1; 4096])).ok();
    w.run(q, io(opc::VERIFY, 1, 0, 124), Payload::None).ok();
    let copy = [vec![0; 16], vec![124, 0], vec![0; 14]].concat();
    w.run(q, io(opc::COPY, 1, 500, 1), capsule(copy)).ok();
    let s = SmartLog::decode(&page(&mut w, a, 2, 512)).unwrap();
    assert_eq!((s.dur.get(), s.duw.get(), s.hrc.get(), s.hwc.get()), (3, 2, 128, 2));
    w.target.remove_namespace(NQN, 1).unwrap();
    let s = SmartLog::decode(&page(&mut w, a, 2, 512)).unwrap();
    assert_eq!((s.dur.get(), s.hrc.get()), (3, 128), "a removed namespace stays counted");
}

#[test]
fn events_are_told_once_and_again_after_the_page_is_read() {
    let mut w = World::new(4096);
    let (a, _) = w.admin(NQN, HOST, 0);
    let first = w.send(a, aer(), Payload::None);
    let second = w.send(a, aer(), Payload::None);
    // Not asked for: not told, though the list is kept.
    w.add_namespace(2, Disk::new(4096, 8));
    w.pump();
    assert!(w.conns[a].replies.is_empty());
    w.run(a, features(true, 0x0b, 0x104, 0), Payload::None).ok();
    w.add_namespace(3, Disk::new(4096, 8));
    w.pump();
    assert_eq!(w.reply(a, first).unwrap().ok().dw0(), AsyncEvent::NS_ATTR.dw0());
    w.add_namespace(4, Disk::new(4096, 8));
    w.pump();
    assert!(w.reply(a, second).is_none(), "masked until the page is read");
    // Reading with RAE leaves it masked and the list as it is.
    for rae in [true, false] {
        let data = w.run(a, log(4, 0, 4096, rae), room(4096)).ok().data;
        let list: Vec<u32> = ChangedNamespaces::decode(&data).unwrap().iter().collect();
        assert_eq!(list, [2, 3, 4]);
    }
    assert!(w.reply(a, second).is_none(), "what the page told is not told again");
    assert_eq!(ChangedNamespaces::decode(&page(&mut w, a, 4, 4096)).unwrap().iter().count(), 0);
    w.target.remove_namespace(NQN, 3).unwrap();
    w.pump();
    assert_eq!(w.reply(a, second).unwrap().ok().dw0(), AsyncEvent::NS_ATTR.dw0());
    // An event that comes while no request is there waits for one.
    page(&mut w, a, 4, 4096);
    w.target.remove_namespace(NQN, 4).unwrap();
    w.pump();
    let third = w.send(a, aer(), Payload::None);
    assert_eq!(w.reply(a, third).unwrap().ok().dw0(), AsyncEvent::NS_ATTR.dw0());
}

#[test]
fn event_requests_are_bounded() {
    let mut w = World::new(4096);
    let (a, _) = w.admin(NQN, HOST, 0);
    for _ in 0..8 {
        let slot = w.send(a, aer(), Payload::None);
        assert!(w.reply(a, slot).is_none());
    }
    w.run(a, aer(), Payload::None).is(Status::AER_LIMIT_EXCEEDED);
}

#[test]
fn a_media_error_is_logged_told_and_counted() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    let event = w.send(a, aer(), Payload::None);
    w.disk.with(|d| d.fail = Some(BlockError::Unreadable { lba: 33 }));
    let reply = w.run(q, io(opc::READ, 1, 32, 4), room(16384));
    reply.is(Status::UNRECOVERED_READ_ERROR);
    assert_ne!(reply.cqe.status.get() & 1 << 14, 0, "More is set");
    assert_eq!(w.reply(a, event).unwrap().ok().dw0(), 0x0001_0400);
    let entry = ErrorEntry::decode(&page(&mut w, a, 1, 4096)).unwrap();
    assert_eq!((entry.ecnt.get(), entry.sqid.get(), entry.cid.get()), (1, 1, reply.cqe.cid.get()));
    assert_eq!((entry.lba.get(), entry.nsid.get(), entry.opc, entry.trtype), (33, 1, opc::READ, 3));
    assert_eq!(entry.sts.get(), reply.cqe.status.get());
    let s = SmartLog::decode(&page(&mut w, a, 2, 512)).unwrap();
    assert_eq!((s.mdie.get(), s.neile.get(), s.cw), (1, 1, 0));
    assert_eq!(w.target.snapshot().subsystems[0].media_errors, 1);
    // The newest comes first, and 64 are kept.
    for lba in 100..170 {
        w.disk.with(|d| d.fail = Some(BlockError::WriteFault { lba }));
        w.run(q, io(opc::WRITE, 1, lba, 1), capsule(vec![0; 4096])).is(Status::WRITE_FAULT);
    }
    let data = page(&mut w, a, 1, 4096);
    assert_eq!(ErrorEntry::decode(&data).unwrap().lba.get(), 169);
    assert_eq!(ErrorEntry::decode(&data[63 * 64..]).unwrap().lba.get(), 106);
}

#[test]
fn a_device_that_failed_for_good_shows() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    w.run(a, features(true, 0x0b, 4, 0), Payload::None).ok();
    let one = w.send(a, aer(), Payload::None);
    let two = w.send(a, aer(), Payload::None);
    w.disk.with(|d| (d.fail, d.fault) = (Some(BlockError::Failed), Some("gone".into())));
    w.run(q, io(opc::READ, 1, 0, 1), room(4096)).is(Status::INTERNAL_ERROR);
    let told: Vec<u32> = [one, two].iter().map(|&s| w.reply(a, s).unwrap().ok().dw0()).collect();
    // Not as Persistent Internal Error: Linux resets a controller that says so, healthy namespaces and all.
    assert_eq!(told, [0x0001_0400, AsyncEvent::RELIABILITY.dw0()]);
    let s = SmartLog::decode(&page(&mut w, a, 2, 512)).unwrap();
    assert_eq!(s.cw, critical::RELIABILITY);
    let snapshot = w.target.snapshot();
    assert_eq!(snapshot.subsystems[0].critical_warning, critical::RELIABILITY);
    assert_eq!(snapshot.subsystems[0].namespaces[0].fault.as_deref(), Some("gone"));
}

#[test]
fn little_room_is_told_once_and_again_when_it_comes_back() {
    let mut w = World::new(4096);
    let (a, _) = w.pair();
    w.run(a, features(true, 0x0b, u32::from(critical::SPARE), 0), Payload::None).ok();
    let mut event = w.send(a, aer(), Payload::None);
    for round in 0..2 {
        w.disk.with(|d| d.spare = 10);
        w.target.look_around();
        w.pump();
        assert!(w.reply(a, event).is_none(), "10 % is not below the threshold");
        w.disk.with(|d| d.spare = 9);
        w.target.look_around();
        w.pump();
        assert_eq!(w.reply(a, event).unwrap().ok().dw0(), AsyncEvent::SPARE.dw0(), "round {round}");
        let s = SmartLog::decode(&page(&mut w, a, 2, 512)).unwrap();
        assert_eq!((s.cw, s.avsp, s.avspt), (critical::SPARE, 9, 10));
        event = w.send(a, aer(), Payload::None);
        w.target.look_around();
        w.pump();
        assert!(w.reply(a, event).is_none(), "it was told");
        w.disk.with(|d| d.spare = 50);
        w.target.look_around();
        let s = SmartLog::decode(&page(&mut w, a, 2, 512)).unwrap();
        assert_eq!((s.cw, s.avsp), (0, 50));
    }
}

#[test]
fn keep_alive_is_by_traffic_on_any_queue() {
    let mut w = World::new(4096);
    let (a, id) = w.admin(NQN, HOST, 4500);
    assert_eq!(w.target.snapshot().subsystems[0].controllers[0].kato_ms, 5000, "rounded up to KAS");
    let q = w.io(id, 1);
    for _ in 0..10 {
        w.pass(4000);
        w.run(q, io(opc::FLUSH, 1, 0, 1), Payload::None).ok();
    }
    for _ in 0..10 {
        w.pass(4000);
        w.run(a, Sqe { opcode: adm::KEEP_ALIVE, ..Sqe::default() }, Payload::None).ok();
    }
    assert_eq!(w.conns[a].closed, None);
    w.pass(5000);
    assert_eq!(w.conns[a].closed, Some(CloseReason::KeepAliveExpired));
    assert_eq!(w.conns[q].closed, Some(CloseReason::KeepAliveExpired));
    assert_eq!(w.target.snapshot().counters.keep_alive_expired, 1);
}

#[test]
fn silence_ends_an_association_within_two_intervals() {
    let mut w = World::new(4096);
    let (a, _) = w.admin(NQN, HOST, 5000);
    w.pass(4999);
    w.pass(1);
    assert_eq!(w.conns[a].closed, None, "the commands that enabled it were traffic");
    w.pass(4999);
    assert_eq!(w.conns[a].closed, None);
    w.pass(1);
    assert_eq!(w.conns[a].closed, Some(CloseReason::KeepAliveExpired));
}

#[test]
fn keep_alive_can_be_changed_and_switched_off() {
    let mut w = World::new(4096);
    let (a, _) = w.admin(NQN, HOST, 5000);
    w.run(a, features(true, 0x0f, 0, 0), Payload::None).ok();
    assert_eq!(w.conns[a].queue.deadline(), None);
    w.pass(3_600_000);
    assert_eq!(w.conns[a].closed, None);
    w.run(a, features(true, 0x0f, u32::MAX, 0), Payload::None).ok();
    assert!(w.conns[a].queue.deadline() > Some(Mono(w.now.0 + 4_000_000_000_000)));
}

#[test]
fn a_controller_that_is_not_enabled_is_given_up() {
    let mut w = World::new(4096);
    let (a, _) = w.admin_disabled(NQN, HOST, 0);
    w.pass(119_999);
    assert_eq!(w.conns[a].closed, None);
    w.pass(1);
    assert_eq!(w.conns[a].closed, Some(CloseReason::Idle));
}

#[test]
fn management_sees_and_ends_associations() {
    let mut w = World::new(4096);
    let (a, q) = w.pair();
    let s = w.target.snapshot();
    let c = &s.subsystems[0].controllers[0];
    assert_eq!((c.host.as_str(), c.ready, c.queues.len(), c.port), (HOST, true, 2, 1));
    assert_eq!((c.queues[1].qid, c.queues[1].entries), (1, 128));
    assert_eq!((s.counters.queues, s.counters.connects), (2, 2));
    w.target.disconnect(NQN, c.cntlid).unwrap();
    w.pump();
    for c in [a, q] {
        assert_eq!(w.conns[c].closed, Some(CloseReason::Operator));
    }
    assert!(w.target.disconnect(NQN, 77).is_err());
    let (b, _) = w.admin(NQN, HOST, 0);
    w.target.remove_subsystem(NQN).unwrap();
    w.pump();
    assert_eq!(w.conns[b].closed, Some(CloseReason::SubsystemRemoved));
}
