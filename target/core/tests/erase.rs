//! Format NVM and Sanitize: what is offered, refused and waited for, and the Sanitize Status log page.

mod support;

use caisson_block::{BlockError, EraseBy, Erasure};
use caisson_core::*;
use caisson_wire::erase::*;
use caisson_wire::feature::AsyncEvent;
use caisson_wire::identify::*;
use caisson_wire::log::*;
use caisson_wire::opcode::{admin as adm, io as opc};
use caisson_wire::{Sqe, Status};
use std::sync::{Arc, Mutex};
use support::*;

fn format(nsid: u32, ask: FormatNvm) -> Sqe {
    let mut sqe = Sqe { opcode: adm::FORMAT_NVM, nsid: u32le(nsid), ..Sqe::default() };
    ask.put(&mut sqe);
    sqe
}

fn with(ses: u8) -> FormatNvm {
    FormatNvm { ses, ..FormatNvm::default() }
}

fn sanitize(ask: Sanitize) -> Sqe {
    let mut sqe = Sqe { opcode: adm::SANITIZE, ..Sqe::default() };
    ask.put(&mut sqe);
    sqe
}

fn crypto() -> Sanitize {
    Sanitize { action: sanact::CRYPTO_ERASE, ..Sanitize::default() }
}

fn status(w: &mut World, a: usize) -> SanitizeStatus {
    SanitizeStatus::decode(&w.run(a, log(lid::SANITIZE, 0, 512, false), room(512)).ok().data).unwrap()
}

fn controller(w: &mut World, a: usize) -> IdentifyController {
    IdentifyController::decode(&w.run(a, identify(1, 0), room(4096)).ok().data).unwrap()
}

fn running(by: EraseBy, recorded: bool, progress: u16, stalled: bool) -> Erasure {
    Erasure::Running { by, recorded, progress, stalled }
}

/// A world whose hosts may erase; the disk has keys or not.
fn world(erasable: bool) -> World {
    let w = World::new(4096);
    w.target.set_allow_erase(NQN, true).unwrap();
    w.disk.with(|d| d.erasable = erasable);
    w
}

#[test]
fn nothing_is_offered_unless_hosts_may() {
    let mut w = World::new(4096);
    w.disk.with(|d| d.erasable = true);
    let (a, _) = w.pair();
    let d = controller(&mut w, a);
    assert_eq!((d.oacs.get(), d.fna, d.sanicap.get()), (0, 0, 0));
    w.run(a, format(1, with(ses::CRYPTO)), Payload::None).is(Status::INVALID_OPCODE);
    w.run(a, sanitize(crypto()), Payload::None).is(Status::INVALID_OPCODE);
    w.run(a, log(lid::SANITIZE, 0, 512, false), room(512)).is(Status::INVALID_LOG_PAGE);
    w.run(a, features(false, 0x17, 0, 0), Payload::None).is(Status::INVALID_FIELD);
    assert_eq!(w.disk.seen(), [""; 0]);
}

#[test]
fn what_is_offered_is_what_the_volumes_can() {
    let mut w = world(true);
    let (a, _) = w.pair();
    let d = controller(&mut w, a);
    assert_eq!((d.oacs.get(), d.fna), (oacs::FORMAT, fna::CRYPTO | fna::NO_BROADCAST));
    assert_eq!(d.sanicap.get(), 1 | 1 << 29 | 1 << 30);
    let effects = |w: &mut World| {
        let e = EffectsLog::decode(&w.run(a, log(5, 0, 4096, false), room(4096)).ok().data).unwrap();
        (e.acs[0x80].get(), e.acs[0x84].get())
    };
    assert_eq!(effects(&mut w), (0x0011_0007, 0x0202_0003));
    let pages = SupportedPages::decode(&w.run(a, log(0, 0, 1024, false), room(1024)).ok().data).unwrap();
    assert_eq!(pages.lids[0x81].get(), 1);
    // One that has no keys: then not all can be sanitized, and each is formatted as it can be.
    w.add_namespace(2, Disk::new(4096, 64));
    let d = controller(&mut w, a);
    assert_eq!((d.fna, d.sanicap.get()), (fna::CRYPTO | fna::NO_BROADCAST, 0));
    assert_eq!(effects(&mut w), (0x0011_0007, 0));
    w.run(a, sanitize(crypto()), Payload::None).is(Status::INVALID_OPCODE);
    w.run(a, format(2, with(ses::CRYPTO)), Payload::None).is(Status::INVALID_FIELD);
    w.run(a, format(2, with(ses::USER_DATA)), Payload::None).ok();
}

#[test]
fn format_is_refused_field_by_field() {
    let mut w = world(false);
    let (a, _) = w.pair();
    let f = FormatNvm::default();
    for (nsid, ask, want) in [
        (u32::MAX, f, Status::INVALID_FIELD),
        (0, f, Status::INVALID_NAMESPACE),
        (2, f, Status::INVALID_NAMESPACE),
        (1, FormatNvm { lbaf: 1, ..f }, Status::INVALID_FORMAT),
        (1, FormatNvm { pi: 1, ..f }, Status::INVALID_FORMAT),
        (1, with(3), Status::INVALID_FIELD),
        (1, with(7), Status::INVALID_FIELD),
        (1, with(ses::CRYPTO), Status::INVALID_FIELD),
    ] {
        w.run(a, format(nsid, ask), Payload::None).is(want);
    }
    // The upper bits of the format are read of hosts that take formats from the 17th on, and of nobody else.
    let mut behavior = vec![0; 512];
    behavior[2] = 1;
    w.run(a, features(true, 0x16, 0, 0), capsule(behavior.clone())).ok();
    w.run(a, format(1, FormatNvm { lbaf: 16, ..f }), Payload::None).is(Status::INVALID_FORMAT);
    behavior[2] = 0;
    w.run(a, features(true, 0x16, 0, 0), capsule(behavior)).ok();
    w.target.set_write_protected(NQN, 1, true).unwrap();
    w.run(a, format(1, FormatNvm { lbaf: 16, ..f }), Payload::None).is(Status::NS_WRITE_PROTECTED);
    w.run(a, format(1, f), Payload::None).is(Status::NS_WRITE_PROTECTED);
    assert_eq!(w.disk.seen(), [""; 0]);
}

#[test]
fn without_keys_a_format_is_zeroes_over_everything() {
    let mut w = world(false);
    let (a, q) = w.pair();
    w.run(q, io(opc::WRITE, 1, 5, 1), capsule(vec![7; 4096])).ok();
    for how in [ses::NONE, ses::USER_DATA] {
        w.disk.seen();
        w.run(a, format(1, with(how)), Payload::None).ok();
        assert_eq!(w.disk.seen(), ["zero 0+1024 deac fua"]);
    }
    assert_eq!(w.run(q, io(opc::READ, 1, 5, 1), room(4096)).ok().data, vec![0; 4096]);
    w.disk.with(|d| d.hold = true);
    let slot = w.send(a, format(1, with(ses::NONE)), Payload::None);
    // A write whose data comes only now is refused, too.
    w.run(q, io(opc::READ, 1, 5, 1), room(4096)).is(Status::FORMAT_IN_PROGRESS);
    w.run(a, format(1, with(ses::NONE)), Payload::None).is(Status::FORMAT_IN_PROGRESS);
    w.run(a, Sqe { opcode: adm::KEEP_ALIVE, ..Sqe::default() }, Payload::None).ok();
    w.run(a, features(true, 0x84, 1, 1), Payload::None).is(Status::FORMAT_IN_PROGRESS);
    let abort = Sqe { opcode: adm::ABORT, cdw10: u32le((slot + 1) << 16), ..Sqe::default() };
    assert_eq!(w.run(a, abort, Payload::None).ok().dw0(), 1, "it is not aborted");
    assert!(w.reply(a, slot).is_none());
    w.disk.with(|d| d.hold = false);
    w.release();
    w.reply(a, slot).unwrap().ok();
    w.run(q, io(opc::READ, 1, 5, 1), room(4096)).ok();
    w.disk.with(|d| d.fail = Some(BlockError::WriteFault { lba: 0 }));
    w.run(a, format(1, with(ses::NONE)), Payload::None).is(Status::WRITE_FAULT);
    w.run(q, io(opc::READ, 1, 5, 1), room(4096)).ok();
}

#[test]
fn a_format_by_keys_ends_when_that_is_proven_and_nothing_stops_it() {
    let mut w = world(true);
    let (a, q) = w.pair();
    let late = w.send(q, io(opc::WRITE, 1, 3, 1), room(4096));
    let slot = w.send(a, format(1, with(ses::CRYPTO)), Payload::None);
    assert_eq!(w.disk.seen(), ["erase Format"]);
    w.give(q, late, vec![1; 4096]);
    w.reply(q, late).unwrap().is(Status::FORMAT_IN_PROGRESS);
    w.run(q, io(opc::READ, 1, 0, 1), room(4096)).is(Status::FORMAT_IN_PROGRESS);
    w.disk.with(|d| d.erasure = running(EraseBy::Format, true, 40_000, false));
    w.pass(1000);
    assert!(w.reply(a, slot).is_none());
    w.disk.with(|d| d.erasure = Erasure::None);
    w.pass(50);
    w.reply(a, slot).unwrap().ok();
    w.run(q, io(opc::READ, 1, 0, 1), room(4096)).ok();
    // It could not begin, or not be begun.
    let slot = w.send(a, format(1, with(ses::USER_DATA)), Payload::None);
    w.disk.with(|d| d.erasure = Erasure::Failed);
    w.pass(50);
    w.reply(a, slot).unwrap().is(Status::INTERNAL_ERROR);
    w.disk.with(|d| (d.fail, d.erasure) = (Some(BlockError::Failed), Erasure::None));
    w.run(a, format(1, with(ses::USER_DATA)), Payload::None).is(Status::INTERNAL_ERROR);
    w.run(q, io(opc::READ, 1, 0, 1), room(4096)).ok();
    // What does not come by itself is waited for so long.
    let slot = w.send(a, format(1, with(ses::CRYPTO)), Payload::None);
    w.disk.with(|d| d.erasure = running(EraseBy::Format, true, 4096, true));
    w.pass(50);
    w.pass(29_900);
    assert!(w.reply(a, slot).is_none());
    w.pass(150);
    w.reply(a, slot).unwrap().is(Status::INTERNAL_ERROR);
    // The host goes away: it goes on, and the namespace comes back when it is over.
    w.disk.with(|d| d.erasure = Erasure::None);
    w.send(a, format(1, with(ses::CRYPTO)), Payload::None);
    w.hang_up(a);
    let (_, q) = w.pair();
    w.target.look_around();
    w.run(q, io(opc::READ, 1, 0, 1), room(4096)).is(Status::FORMAT_IN_PROGRESS);
    w.disk.with(|d| d.erasure = Erasure::None);
    w.target.look_around();
    w.run(q, io(opc::READ, 1, 0, 1), room(4096)).ok();
    // An earlier life of the target had begun one.
    let disk = Disk::new(4096, 64);
    disk.with(|d| d.erasure = running(EraseBy::Format, true, 9, false));
    w.add_namespace(2, disk.clone());
    w.run(q, io(opc::READ, 2, 0, 1), room(4096)).is(Status::FORMAT_IN_PROGRESS);
    disk.with(|d| d.erasure = Erasure::None);
    w.target.look_around();
    w.run(q, io(opc::READ, 2, 0, 1), room(4096)).ok();
}

#[derive(Default)]
struct Saved(Mutex<Vec<SanitizeRecord>>);

impl Observer for Saved {
    fn write_protection(&self, _: &str, _: u32, _: bool) {}

    fn sanitized(&self, nqn: &str, record: &SanitizeRecord) {
        assert_eq!(nqn, NQN);
        self.0.lock().unwrap().push(record.clone());
    }
}

#[test]
fn sanitize_erases_all_namespaces_and_the_log_says_how_far_it_is() {
    let mut w = world(true);
    let saved = Arc::new(Saved::default());
    w.target.set_observer(saved.clone());
    let other = Disk::new(4096, 64);
    other.with(|d| d.erasable = true);
    w.add_namespace(2, other.clone());
    let (a, q) = w.pair();
    let s = status(&mut w, a);
    assert_eq!((s.sprog.get(), s.sstat.get(), s.scdw10.get()), (0xffff, 0, 0));
    assert_eq!([s.eto, s.etbe, s.etce, s.etond, s.etbend, s.etcend].map(|t| t.get()), [u32::MAX; 6]);
    for (ask, want) in [
        (Sanitize { action: 0, ..crypto() }, Status::INVALID_FIELD),
        (Sanitize { action: sanact::BLOCK_ERASE, ..crypto() }, Status::INVALID_FIELD),
        (Sanitize { action: sanact::OVERWRITE, ..crypto() }, Status::INVALID_FIELD),
        (Sanitize { emvs: true, ..crypto() }, Status::INVALID_FIELD),
        // SANICAP.NDI, and NODRM is 0.
        (Sanitize { ndas: true, ..crypto() }, Status::INVALID_FIELD),
    ] {
        w.run(a, sanitize(ask), Payload::None).is(want);
    }
    w.run(a, sanitize(Sanitize { action: sanact::EXIT_FAILURE, ..Sanitize::default() }), Payload::None).ok();
    w.target.set_write_protected(NQN, 2, true).unwrap();
    w.run(a, sanitize(crypto()), Payload::None).is(Status::NS_WRITE_PROTECTED);
    // Whatever it asks for.
    w.run(a, sanitize(Sanitize { action: sanact::EXIT_FAILURE, ..Sanitize::default() }), Payload::None)
        .is(Status::NS_WRITE_PROTECTED);
    w.target.set_write_protected(NQN, 2, false).unwrap();
    let error_lba = |w: &mut World| {
        let page = w.run(a, log(1, 0, 64, false), room(64)).ok().data;
        u64::from_le_bytes(page[16..24].try_into().unwrap())
    };
    w.disk.with(|d| d.fail = Some(BlockError::Unreadable { lba: 33 }));
    w.run(q, io(opc::READ, 1, 33, 1), room(4096)).is(Status::UNRECOVERED_READ_ERROR);
    w.disk.with(|d| d.fail = None);
    assert_eq!(error_lba(&mut w), 33);
    // (The changed namespace list is read, so that its event is not in the way.)
    w.run(a, log(4, 0, 4096, false), room(4096)).ok();
    let event = w.send(a, aer(), Payload::None);
    let (b, _) = w.pair();
    let silent = w.send(b, aer(), Payload::None);
    let late = w.send(q, io(opc::WRITE, 1, 3, 1), room(4096));
    let slot = w.send(a, sanitize(crypto()), Payload::None);
    let erased = vec!["erase Sanitize".to_string()];
    assert_eq!((w.disk.seen().split_off(1), other.seen()), (erased.clone(), erased));
    w.give(q, late, vec![1; 4096]);
    w.reply(q, late).unwrap().is(Status::SANITIZE_IN_PROGRESS);
    w.run(q, io(opc::READ, 1, 0, 1), room(4096)).is(Status::SANITIZE_IN_PROGRESS);
    w.run(q, io(opc::FLUSH, u32::MAX, 0, 1), Payload::None).is(Status::SANITIZE_IN_PROGRESS);
    w.pass(100);
    assert!(w.reply(a, slot).is_none(), "it completes when it will be done whatever happens");
    w.disk.with(|d| d.erasure = running(EraseBy::Sanitize, true, 9000, false));
    other.with(|d| d.erasure = running(EraseBy::Sanitize, true, 5000, true));
    w.pass(100);
    w.reply(a, slot).unwrap().ok();
    let s = status(&mut w, a);
    assert_eq!((s.sprog.get(), s.sstat.get(), s.scdw10.get()), (5000, 2, 4));
    w.run(a, sanitize(crypto()), Payload::None).is(Status::SANITIZE_IN_PROGRESS);
    w.run(a, format(1, with(0)), Payload::None).is(Status::SANITIZE_IN_PROGRESS);
    w.run(a, log(0xc, 0, 512, true), room(512)).is(Status::INVALID_LOG_PAGE);
    w.run(a, features(true, 0x84, 1, 1), Payload::None).is(Status::SANITIZE_IN_PROGRESS);
    for (page, allowed) in [(1, true), (2, true), (4, true), (3, false), (5, false)] {
        let want = if allowed { Status::SUCCESS } else { Status::SANITIZE_IN_PROGRESS };
        w.run(a, log(page, 0, 512, true), room(512)).is(want);
    }
    assert_eq!(error_lba(&mut w), 0, "no LBA is told meanwhile");
    w.run(a, features(false, 7, 0, 0), Payload::None).ok();
    controller(&mut w, a);
    // The controller goes, and another sees it go on and end.
    w.disk.with(|d| d.erasure = Erasure::None);
    w.target.look_around();
    assert_eq!(status(&mut w, a).sprog.get(), 5000, "by the one that is least far");
    other.with(|d| d.erasure = Erasure::None);
    w.target.look_around();
    w.pump();
    assert_eq!(w.reply(a, event).unwrap().ok().dw0(), AsyncEvent::SANITIZE.dw0());
    assert_eq!(AsyncEvent::SANITIZE.dw0(), 0x0081_0106);
    assert!(w.reply(b, silent).is_none(), "only the controller that was asked tells it");
    let s = status(&mut w, a);
    assert_eq!((s.sprog.get(), s.sstat.get(), s.scdw10.get()), (0xffff, 0x101, 4));
    let records: Vec<u8> = saved.0.lock().unwrap().iter().map(|r| r.sos).collect();
    assert_eq!(records, [sos::IN_PROGRESS, sos::COMPLETED]);
    w.run(q, io(opc::WRITE, 1, 0, 1), capsule(vec![1; 4096])).ok();
    assert_eq!(status(&mut w, a).sstat.get(), 1, "something was written");
}

#[test]
fn a_failed_sanitize_restricts_until_another_is_done() {
    for restricted in [true, false] {
        let mut w = world(true);
        let (a, q) = w.pair();
        let ask = Sanitize { ause: !restricted, ..crypto() };
        let scdw10 = if restricted { 4 } else { 0xc };
        let slot = w.send(a, sanitize(ask), Payload::None);
        w.disk.with(|d| d.erasure = Erasure::Failed);
        w.pass(50);
        // It had begun.
        w.reply(a, slot).unwrap().ok();
        assert_eq!((status(&mut w, a).sstat.get(), status(&mut w, a).scdw10.get()), (3, scdw10));
        w.run(q, io(opc::READ, 1, 0, 1), room(4096)).is(Status::SANITIZE_FAILED);
        w.run(a, format(1, with(0)), Payload::None).is(Status::SANITIZE_IN_PROGRESS);
        w.run(a, log(5, 0, 512, true), room(512)).is(Status::SANITIZE_IN_PROGRESS);
        let exit = Sanitize { action: sanact::EXIT_FAILURE, ..Sanitize::default() };
        w.disk.with(|d| d.erasure = Erasure::None);
        if restricted {
            w.run(a, sanitize(exit), Payload::None).is(Status::SANITIZE_FAILED);
            w.run(a, sanitize(Sanitize { ause: true, ..crypto() }), Payload::None)
                .is(Status::SANITIZE_FAILED);
            let slot = w.send(a, sanitize(crypto()), Payload::None);
            w.disk.with(|d| d.erasure = Erasure::None);
            w.pass(50);
            w.reply(a, slot).unwrap().ok();
            assert_eq!(status(&mut w, a).sstat.get(), 0x101);
        } else {
            w.run(a, sanitize(exit), Payload::None).ok();
            assert_eq!(status(&mut w, a).sstat.get(), 3, "how the last one ended is told on");
        }
        w.run(q, io(opc::READ, 1, 0, 1), room(4096)).ok();
    }
}

/// What could not begin has changed nothing; what has begun somewhere is an operation, and has failed.
#[test]
fn what_begins_in_some_volumes_only_has_failed() {
    let mut w = world(true);
    let other = Disk::new(4096, 64);
    other.with(|d| d.erasable = true);
    w.add_namespace(2, other.clone());
    let (a, q) = w.pair();
    w.run(a, log(4, 0, 4096, false), room(4096)).ok();
    w.disk.with(|d| d.fail = Some(BlockError::Failed));
    other.with(|d| d.fail = Some(BlockError::Failed));
    w.run(a, sanitize(crypto()), Payload::None).is(Status::INTERNAL_ERROR);
    assert_eq!((status(&mut w, a).sstat.get(), status(&mut w, a).scdw10.get()), (0, 0));
    w.run(q, io(opc::READ, 1, 0, 1), room(4096)).ok();
    w.disk.with(|d| d.fail = Some(BlockError::Failed));
    let slot = w.send(a, sanitize(crypto()), Payload::None);
    w.pass(50);
    w.reply(a, slot).unwrap().ok();
    assert_eq!((status(&mut w, a).sstat.get(), status(&mut w, a).scdw10.get()), (3, 4));
}

/// An event that nobody asked for yet is out of date when another operation begins; one that deallocated unasked says so.
#[test]
fn each_operation_tells_its_own_end() {
    let mut w = world(true);
    let (a, _) = w.pair();
    let done = |w: &mut World, ask: Sanitize| {
        let slot = w.send(a, sanitize(ask), Payload::None);
        w.disk.with(|d| d.erasure = running(EraseBy::Sanitize, true, 1, false));
        w.pass(50);
        w.reply(a, slot).unwrap().ok();
        w.disk.with(|d| d.erasure = Erasure::None);
    };
    done(&mut w, crypto());
    w.target.look_around();
    // Its event waits for a request. The next one begins.
    done(&mut w, crypto());
    let event = w.send(a, aer(), Payload::None);
    assert!(w.reply(a, event).is_none(), "that was of the one before");
    w.target.look_around();
    w.pump();
    assert_eq!(w.reply(a, event).unwrap().ok().dw0(), AsyncEvent::SANITIZE.dw0());
    status(&mut w, a);
    w.run(a, features(true, 0x17, 1, 0), Payload::None).ok();
    let event = w.send(a, aer(), Payload::None);
    done(&mut w, Sanitize { ndas: true, ..crypto() });
    w.target.look_around();
    w.pump();
    assert_eq!(w.reply(a, event).unwrap().ok().dw0(), 0x0081_0206);
    assert_eq!(status(&mut w, a).sstat.get(), 0x104);
}

/// A failure that a host left stays left over a restart, and one that nobody left restricts on.
#[test]
fn a_failure_is_as_it_was_after_a_restart() {
    for (scdw10, left, refused) in [(0xc, true, false), (0xc, false, true), (4, false, true)] {
        let mut w = World::new(4096);
        let mut spec = SubsystemSpec::new("nqn.2024-01.io.caisson:again", "CAISSON0002");
        (spec.allow_any, spec.allow_erase) = (true, true);
        spec.sanitize = SanitizeRecord { sos: sos::FAILED, scdw10, nsids: vec![], left };
        w.target.add_subsystem(spec).unwrap();
        let (a, _) = w.admin("nqn.2024-01.io.caisson:again", HOST, 0);
        assert_eq!(status(&mut w, a).sstat.get(), 3);
        let want = if refused { Status::SANITIZE_IN_PROGRESS } else { Status::SUCCESS };
        w.run(a, log(5, 0, 512, true), room(512)).is(want);
        // What it began in one volume ends, and makes it no success.
        let disk = Disk::new(4096, 64);
        disk.with(|d| (d.erasable, d.erasure) = (true, running(EraseBy::Sanitize, true, 1, false)));
        let spec = NamespaceSpec::new(disk.clone(), uuid::Uuid::from_u128(7));
        w.target.add_namespace("nqn.2024-01.io.caisson:again", spec).unwrap();
        disk.with(|d| d.erasure = Erasure::None);
        w.target.look_around();
        assert_eq!(status(&mut w, a).sstat.get(), 3);
    }
}

#[test]
fn a_sanitize_goes_on_in_the_target_s_next_life() {
    let mut w = World::new(4096);
    let mut spec = SubsystemSpec::new("nqn.2024-01.io.caisson:again", "CAISSON0002");
    (spec.allow_any, spec.allow_erase) = (true, true);
    spec.sanitize = SanitizeRecord {
        sos: sos::IN_PROGRESS,
        scdw10: 0x204,
        nsids: vec![1, 2],
        ..SanitizeRecord::default()
    };
    w.target.add_subsystem(spec).unwrap();
    let add = |w: &World, nsid: u32, erasure| {
        let disk = Disk::new(4096, 64);
        disk.with(|d| (d.erasable, d.erasure) = (true, erasure));
        let spec = NamespaceSpec::new(disk.clone(), uuid::Uuid::from_u128(77 + u128::from(nsid)));
        let spec = NamespaceSpec { nsid: Some(nsid), ..spec };
        w.target.add_namespace("nqn.2024-01.io.caisson:again", spec).unwrap();
        disk
    };
    let one = add(&w, 1, running(EraseBy::Sanitize, true, 700, false));
    let (a, _) = w.admin("nqn.2024-01.io.caisson:again", HOST, 0);
    one.with(|d| d.erasure = Erasure::None);
    w.target.look_around();
    assert_eq!(status(&mut w, a).sstat.get(), 2, "the other's pool waits for its keys");
    let two = add(&w, 2, running(EraseBy::Sanitize, true, 700, false));
    w.target.look_around();
    assert_eq!((status(&mut w, a).sstat.get(), status(&mut w, a).sprog.get()), (2, 700));
    two.with(|d| d.erasure = Erasure::None);
    w.target.look_around();
    // It had asked for nothing to be deallocated.
    let s = status(&mut w, a);
    assert_eq!((s.sstat.get(), s.scdw10.get()), (0x104, 0x204));
    // Without a record, the volumes remember.
    w.target.set_allow_erase(NQN, true).unwrap();
    let disk = Disk::new(4096, 64);
    disk.with(|d| d.erasure = running(EraseBy::Sanitize, true, 1, false));
    w.add_namespace(9, disk);
    let (a, _) = w.pair();
    assert_eq!(status(&mut w, a).sstat.get(), 2);
}
