//! Admin commands: Identify, log pages, features, events, Abort (Base 2.1, chapter 5).

use caisson_conformance::subject::{BIG, NQN, SMALL, Subject, TINY, io, ram};
use caisson_conformance::table::holds;
use caisson_conformance::{Row, judge};
use caisson_core::NamespaceSpec;
use caisson_initiator::client::{get_log_page, identify, set_features};
use caisson_initiator::{Client, Command, Completion, Data, Transport};
use caisson_wire::Status;
use caisson_wire::feature::{AsyncEvent, HostBehavior, Timestamp, fid, sel};
use caisson_wire::identify::*;
use caisson_wire::log::*;
use caisson_wire::opcode::{admin, io as op};
use caisson_wire::zerocopy::{FromBytes, IntoBytes};
use std::time::{Duration, Instant};

const INVALID: Status = Status::INVALID_FIELD.dnr();
const BAD_NS: Status = Status::INVALID_NAMESPACE.dnr();

fn nsids(done: &Completion) -> Vec<u32> {
    NamespaceList::decode(&done.data).map(|l| l.iter().collect()).unwrap_or_default()
}

fn lists(name: &str, c: Command, want: &'static [u32]) -> Row {
    Row::that(name, c, move |done| holds(nsids(done) == want, format!("{:?}, not {want:?}", nsids(done))))
}

/// 4,096 bytes, all zero.
fn empty(name: &str, c: Command) -> Row {
    Row::that(name, c, |done| {
        holds(done.data.len() == 4096 && done.data.iter().all(|&b| b == 0), "it is not 4,096 zeroes")
    })
}

#[test]
fn identify_answers_every_cns() {
    let s = Subject::start();
    let mut c = s.client();
    let cntlid = c.cntlid;
    // Keys of memory, or data that comes over the connection itself.
    let kind =
        if s.address.transport == Transport::Rdma { sgls::KEYED | sgls::OFFSET } else { sgls::TRANSPORT };
    let mut rows = vec![
        Row::that("controller", identify(cns::CONTROLLER, 0, 0, 0), move |done| {
            let id = IdentifyController::decode(&done.data).ok_or("short")?;
            holds(id.cntlid.get() == cntlid, "CNTLID is this controller's")?;
            holds(ascii_of(&id.sn) == "CONF0001", "the serial number")?;
            holds(caisson_wire::fabrics::nqn_of(&id.subnqn) == Some(NQN), "SUBNQN")?;
            holds(id.cntrltype == cntrltype::IO, "CNTRLTYPE is an I/O controller")?;
            holds(id.ioccsz.get() >= 4 + 1024 && id.iorcsz.get() == 1, "capsule sizes")?;
            holds(id.icdoff.get() == 0 && id.msdbd == 1, "ICDOFF and MSDBD of TCP")?;
            holds(id.sqes == 0x66 && id.cqes == 0x44, "entry sizes")?;
            holds(id.maxcmd.get() > 0 && id.nn.get() >= 1024, "MAXCMD and NN")?;
            holds(id.kas.get() > 0 && id.ctratt.get() & ctratt::TBKAS != 0, "keep-alive, traffic based")?;
            holds(id.sgls.get() & 0b11 != 0 && id.sgls.get() & kind == kind, "SGLs of the transport")?;
            holds(id.ver.get() >= 0x0002_0000, "version 2.0 at least")
        }),
        lists("active namespaces", identify(cns::ACTIVE_NS_LIST, 0, 0, 0), &[1, 2, 5]),
        lists("active namespaces after 1", identify(cns::ACTIVE_NS_LIST, 1, 0, 0), &[2, 5]),
        lists("active namespaces after 4", identify(cns::ACTIVE_NS_LIST, 4, 0, 0), &[5]),
        lists("active namespaces after 5", identify(cns::ACTIVE_NS_LIST, 5, 0, 0), &[]),
        lists("active namespaces after FFFFFFFDh", identify(cns::ACTIVE_NS_LIST, 0xffff_fffd, 0, 0), &[]),
        Row::is(
            "active namespaces after FFFFFFFEh",
            identify(cns::ACTIVE_NS_LIST, 0xffff_fffe, 0, 0),
            BAD_NS,
        ),
        Row::is(
            "active namespaces after FFFFFFFFh",
            identify(cns::ACTIVE_NS_LIST, 0xffff_ffff, 0, 0),
            BAD_NS,
        ),
        lists(
            "active namespaces of the NVM command set",
            identify(cns::CSI_ACTIVE_NS_LIST, 0, 0, 0),
            &[1, 2, 5],
        ),
        Row::is("active namespaces of zoned storage", identify(cns::CSI_ACTIVE_NS_LIST, 0, 0, 2), INVALID),
        lists("allocated namespaces", identify(cns::ALLOCATED_NS_LIST, 0, 0, 0), &[1, 2, 5]),
        empty("an inactive namespace", identify(cns::NAMESPACE, 3, 0, 0)),
        Row::is("namespace 0", identify(cns::NAMESPACE, 0, 0, 0), BAD_NS),
        Row::is("a namespace over NN", identify(cns::NAMESPACE, 100_000, 0, 0), BAD_NS),
        Row::is("namespace FFFFFFFEh", identify(cns::NAMESPACE, 0xffff_fffe, 0, 0), BAD_NS),
        Row::is("descriptors of namespace 0", identify(cns::NS_DESCRIPTORS, 0, 0, 0), BAD_NS),
        Row::is("descriptors of all", identify(cns::NS_DESCRIPTORS, 0xffff_ffff, 0, 0), BAD_NS),
        Row::is("descriptors of an inactive one", identify(cns::NS_DESCRIPTORS, 3, 0, 0), BAD_NS),
        Row::ok("NVM command set's namespace", identify(cns::CSI_NAMESPACE, 1, 0, 0)),
        Row::is("zoned storage's namespace", identify(cns::CSI_NAMESPACE, 1, 0, 2), INVALID),
        Row::ok("NVM command set's controller", identify(cns::CSI_CONTROLLER, 0, 0, 0)),
        Row::is("key value's controller", identify(cns::CSI_CONTROLLER, 0, 0, 1), INVALID),
        Row::is("command set FFh", identify(cns::CSI_CONTROLLER, 0, 0, 0xff), INVALID),
        Row::that("independent of command sets", identify(cns::INDEPENDENT_NAMESPACE, 1, 0, 0), |done| {
            let id = IndependentNamespace::decode(&done.data).ok_or("short")?;
            holds(id.nstat & NSTAT_READY != 0, "NRDY is set")
        }),
        Row::that("controllers of a namespace", identify(cns::NS_CONTROLLER_LIST, 1, 0, 0), move |done| {
            let l = ControllerList::decode(&done.data).ok_or("short")?;
            holds(l.iter().any(|id| id == cntlid), "this one is in it")
        }),
        Row::that("controllers", identify(cns::CONTROLLER_LIST, 0, 0, 0), move |done| {
            let l = ControllerList::decode(&done.data).ok_or("short")?;
            holds(l.iter().any(|id| id == cntlid), "this one is in it")
        }),
        Row::that("controllers above the highest", identify(cns::CONTROLLER_LIST, 0, 0xfff0, 0), |done| {
            let l = ControllerList::decode(&done.data).ok_or("short")?;
            holds(l.iter().count() == 0, "none")
        }),
        Row::that("I/O command sets", identify(cns::IO_COMMAND_SET, 0, 0xffff, 0), |done| {
            let sets = IoCommandSets::decode(&done.data).ok_or("short")?;
            holds(sets.iocsc[0].get() & 1 == 1, "the first combination has the NVM command set")
        }),
        Row::is("a UUID index without a UUID list", identify(1, 0, 0, 0).dword(14, 1), INVALID),
    ];
    for d in [BIG, SMALL, TINY] {
        let name = format!("namespace {}", d.nsid);
        rows.push(Row::that(name, identify(cns::NAMESPACE, d.nsid, 0, 0), move |done| {
            let id = IdentifyNamespace::decode(&done.data).ok_or("short")?;
            holds(id.nsze.get() == d.blocks, format!("NSZE {}", id.nsze.get()))?;
            holds(id.ncap.get() == d.blocks && id.nuse.get() <= d.blocks, "NCAP, NUSE")?;
            holds(id.block_size() == Some(d.block), "the format")?;
            holds(id.nguid != [0; 16], "an NGUID")
        }));
        let name = format!("descriptors of namespace {}", d.nsid);
        rows.push(Row::that(name, identify(cns::NS_DESCRIPTORS, d.nsid, 0, 0), move |done| {
            let list = read_ns_descriptors(&done.data);
            let has = |f: fn(&NsDescriptor) -> bool| list.iter().any(f);
            holds(has(|d| matches!(d, NsDescriptor::Uuid(u) if *u != [0; 16])), "a UUID")?;
            holds(has(|d| matches!(d, NsDescriptor::Nguid(_))), "an NGUID")?;
            holds(has(|d| matches!(d, NsDescriptor::Csi(0))), "a CSI of the NVM command set")
        }));
    }
    for unknown in [0x0d, 0x14, 0x15, 0x17, 0x1d, 0x20, 0x7f, 0x80, 0xff] {
        rows.push(Row::is(format!("CNS {unknown:02x}h"), identify(unknown, 0, 0, 0), INVALID));
    }
    for len in [0u32, 4, 4092] {
        let c = identify(1, 0, 0, 0).with(Data::In(len));
        rows.push(Row::is(format!("room for {len} bytes"), c, Status::INVALID_SGL_LENGTH.dnr()));
    }
    judge("Identify", &mut c.admin, rows);
}

fn page(lid: u8) -> GetLogPage {
    GetLogPage { lid, ..GetLogPage::default() }
}

#[test]
fn log_pages_have_real_contents_and_offsets() {
    let s = Subject::start();
    let (mut c, mut q) = s.queue();
    let none = Status::INVALID_LOG_PAGE.dnr();
    let supported = SupportedPages::decode(&c.log_page(0, page(lid::SUPPORTED), 1024).unwrap()).unwrap();
    let mut rows = Vec::new();
    for id in 0..=255u8 {
        if supported.lids[usize::from(id)].get() & 1 != 0 {
            rows.push(Row::ok(
                format!("log page {id:02x}h, which is told to be there"),
                get_log_page(0, page(id), 512),
            ));
        } else {
            rows.push(Row::is(format!("log page {id:02x}h"), get_log_page(0, page(id), 512), none));
        }
    }
    for id in
        [lid::ERROR, lid::SMART, lid::FIRMWARE_SLOT, lid::CHANGED_NS, lid::EFFECTS, lid::FEATURE_EFFECTS]
    {
        assert!(supported.lids[usize::from(id)].get() & 1 != 0, "log page {id:02x}h is there");
    }
    let at = |lid, offset| GetLogPage { offset, ..page(lid) };
    rows.extend([
        Row::ok("SMART of the controller", get_log_page(0xffff_ffff, page(lid::SMART), 512)),
        Row::ok("from an offset", get_log_page(0, at(lid::SMART, 128), 256)),
        Row::is("from an offset past the end", get_log_page(0, at(lid::SMART, 1 << 20), 64), INVALID),
        Row::is("from the highest offset", get_log_page(0, at(lid::SMART, u64::MAX - 3), 64), INVALID),
        Row::is("from an offset that is no dword", get_log_page(0, at(lid::SMART, 2), 64), INVALID),
        Row::is(
            "more than there is room for",
            {
                let mut c = get_log_page(0, page(lid::EFFECTS), 4096);
                c.data = Data::In(512);
                c
            },
            Status::INVALID_SGL_LENGTH.dnr(),
        ),
        Row::is("an index offset", get_log_page(0, GetLogPage { ot: true, ..page(lid::SMART) }, 64), INVALID),
        Row::is(
            "a UUID index",
            get_log_page(0, GetLogPage { uuid_index: 1, ..page(lid::SMART) }, 64),
            INVALID,
        ),
        Row::ok(
            "effects of zoned storage",
            get_log_page(0, GetLogPage { csi: 2, ..page(lid::EFFECTS) }, 4096),
        ),
        Row::ok("one dword", get_log_page(0, page(lid::SMART), 4)),
    ]);
    judge("Log pages", &mut c.admin, rows);
    // A page read in pieces is the page.
    let whole = c.log_page(0, page(lid::EFFECTS), 4096).unwrap();
    let mut pieces = Vec::new();
    for i in 0..8 {
        pieces.extend(c.log_page(0, at(lid::EFFECTS, 512 * i), 512).unwrap());
    }
    assert!(whole == pieces, "in pieces it is the same");
    // SMART counts what was done.
    let smart = |c: &mut Client| SmartLog::decode(&c.log_page(0, page(lid::SMART), 512).unwrap()).unwrap();
    let before = smart(&mut c);
    for i in 0..10 {
        q.run(io(op::WRITE, 1, i * 256, 256).with(Data::Out(vec![1; 1 << 20]))).unwrap().ok("write").unwrap();
    }
    for i in 0..5 {
        q.run(io(op::READ, 1, i * 256, 256).with(Data::In(1 << 20))).unwrap().ok("read").unwrap();
    }
    let after = smart(&mut c);
    assert_eq!(after.hwc.get() - before.hwc.get(), 10);
    assert_eq!(after.hrc.get() - before.hrc.get(), 5);
    // Units of 1,000 times 512 bytes, rounded up: 20,480 and 10,240 blocks.
    assert!(
        (20..=21).contains(&(after.duw.get() - before.duw.get())),
        "{} {}",
        before.duw.get(),
        after.duw.get()
    );
    assert!((10..=11).contains(&(after.dur.get() - before.dur.get())));
    let firmware = FirmwareSlotLog::decode(&c.log_page(0, page(lid::FIRMWARE_SLOT), 512).unwrap()).unwrap();
    let id = c.identify_controller().unwrap();
    assert_eq!(firmware.afi & 7, 1);
    assert_eq!(firmware.frs[0], id.fr);
}

#[test]
fn features_are_got_and_set_as_they_say() {
    let s = Subject::start();
    let mut c = s.client();
    let effects = FeatureEffects::decode(&c.log_page(0, page(lid::FEATURE_EFFECTS), 1024).unwrap()).unwrap();
    let get = |fid: u8, sel: u8, nsid| {
        Command::new(admin::GET_FEATURES, nsid)
            .dword(10, u32::from(fid) | u32::from(sel) << 8)
            .dword(11, 1)
            .with(Data::In(4096))
    };
    let mut rows = Vec::new();
    for id in 0..=255u8 {
        let there = effects.fids[usize::from(id)].get() & 1 != 0;
        let nsid = u32::from(id == fid::WRITE_PROTECT);
        for (sel, name) in [(sel::CURRENT, "current"), (sel::DEFAULT, "default"), (sel::SAVED, "saved")] {
            let name = format!("feature {id:02x}h, {name}");
            let c = get(id, sel, nsid);
            rows.push(if there { Row::ok(name, c) } else { Row::is(name, c, INVALID) });
        }
        if there {
            let name = format!("feature {id:02x}h, capabilities");
            rows.push(Row::that(name, get(id, sel::CAPABILITIES, nsid), |done| {
                holds(done.cqe.dw0.get() & !0b111 == 0, "only the three capability bits")
            }));
            rows.push(Row::is(format!("feature {id:02x}h, select 4"), get(id, 4, nsid), INVALID));
        }
    }
    for id in [0x01, 0x02, 0x04, 0x05, 0x06, 0x07, 0x0a, 0x0b, 0x0e, 0x0f, 0x16, 0x81, 0x84] {
        assert!(effects.fids[id].get() & 1 != 0, "feature {id:02x}h is there");
    }
    judge("Get Features", &mut c.admin, rows);

    let set = |fid: u8, value: u32| set_features(fid, 0, value, Vec::new());
    let on = |fid: u8, nsid: u32, value: u32| set_features(fid, nsid, value, Vec::new());
    let save = |mut c: Command| {
        let old = c.sqe.cdw10.get();
        c.sqe.cdw10.set(old | 1 << 31);
        c
    };
    let not_saveable = Status::FEATURE_NOT_SAVEABLE.dnr();
    let behavior = HostBehavior { acre: 1, ..HostBehavior::default() };
    let behave = |b: HostBehavior| set_features(fid::HOST_BEHAVIOR, 0, 0, b.as_bytes().to_vec());
    let odd = HostBehavior { acre: 2, ..behavior };
    let stamp = Timestamp::new(1_700_000_000_000, 0);
    judge(
        "Set Features",
        &mut c.admin,
        vec![
            Row::ok("arbitration", set(fid::ARBITRATION, 0x0403_0205)),
            Row::is("arbitration, saved", save(set(fid::ARBITRATION, 1)), not_saveable),
            Row::ok("power state 0", set(fid::POWER, 0)),
            Row::is("power state 1, which is over NPSS", set(fid::POWER, 1), INVALID),
            Row::is("power state 31", set(fid::POWER, 31), INVALID),
            Row::ok("temperature threshold", set(fid::TEMPERATURE, 350)),
            Row::ok("temperature threshold, under", set(fid::TEMPERATURE, 1 << 20 | 250)),
            Row::is("temperature threshold of a reserved type", set(fid::TEMPERATURE, 2 << 20), INVALID),
            Row::ok("error recovery", set(fid::ERROR_RECOVERY, 5)),
            Row::ok("volatile write cache off", set(fid::VWC, 0)),
            Row::ok("volatile write cache on", set(fid::VWC, 1)),
            Row::ok("write atomicity", set(fid::WRITE_ATOMICITY, 1)),
            Row::ok("events of namespaces", set(fid::ASYNC_EVENT, 0x100)),
            Row::is("events that OAES does not have", set(fid::ASYNC_EVENT, 1 << 30), INVALID),
            Row::ok("keep-alive time-out", set(fid::KATO, 60_000)),
            Row::ok("no keep-alive time-out", set(fid::KATO, 0)),
            Row::ok("timestamp", set_features(fid::TIMESTAMP, 0, 0, stamp.as_bytes().to_vec())),
            Row::is("timestamp without data", set(fid::TIMESTAMP, 0), Status::INVALID_SGL_LENGTH.dnr()),
            Row::is(
                "timestamp of 4 bytes",
                set_features(fid::TIMESTAMP, 0, 0, vec![0; 4]),
                Status::INVALID_SGL_LENGTH.dnr(),
            ),
            Row::ok("host behavior", behave(behavior)),
            Row::is("host behavior, ACRE 2", behave(odd), INVALID),
            Row::is(
                "the host identifier over fabrics",
                set(fid::HOST_ID, 1),
                Status::COMMAND_SEQUENCE_ERROR.dnr(),
            ),
            Row::is(
                "a controller's feature on a namespace",
                on(fid::ARBITRATION, 1, 1),
                Status::FEATURE_NOT_NS_SPECIFIC.dnr(),
            ),
            Row::ok("a controller's feature on all", on(fid::ARBITRATION, 0xffff_ffff, 0)),
            Row::is("feature 00h", set(0, 0), INVALID),
            Row::is("feature 7Fh", set(0x7f, 0), INVALID),
            Row::is("write protection of no namespace", on(fid::WRITE_PROTECT, 0, 1), BAD_NS),
            Row::is("write protection of all", on(fid::WRITE_PROTECT, 0xffff_ffff, 1), BAD_NS),
            Row::is(
                "write protection until a power cycle, which NWPC has not",
                on(fid::WRITE_PROTECT, 1, 2),
                INVALID,
            ),
        ],
    );
    let value = |c: &mut Client, fid| c.feature(fid, 0, 0, 0).unwrap().value;
    assert_eq!(value(&mut c, fid::ARBITRATION) & 7, 0);
    assert_eq!(value(&mut c, fid::ERROR_RECOVERY), 5);
    assert_eq!(value(&mut c, fid::ASYNC_EVENT), 0x100);
    assert_eq!(value(&mut c, fid::VWC), 1);
    let now = Timestamp::read_from_bytes(&c.feature(fid::TIMESTAMP, 0, 0, 8).unwrap().data).unwrap();
    assert!((1_700_000_000_000..1_700_000_060_000).contains(&now.millis()), "{}", now.millis());
    assert_eq!(now.origin(), Timestamp::ORIGIN_HOST);
    assert_eq!(c.feature(fid::HOST_BEHAVIOR, 0, 0, 512).unwrap().data[0], 1);
    let id = c.run(get(fid::HOST_ID, 0, 0)).unwrap().ok("host id").unwrap();
    assert_eq!(id.data[..16], c.options.hostid, "the host identifier is that of Connect");
}

#[test]
fn write_protection_holds_and_is_seen_by_others() {
    let s = Subject::start();
    let (mut c, mut q) = s.queue();
    let protect = |on| set_features(fid::WRITE_PROTECT, 1, on, Vec::new());
    c.run(protect(1)).unwrap().ok("protect").unwrap();
    let no = Status::NS_WRITE_PROTECTED.dnr();
    let block = || Data::Out(vec![1; 4096]);
    let mut deallocate = Command::new(op::DATASET_MANAGEMENT, 1).dword(11, 4).with(Data::Out(vec![0; 16]));
    deallocate.sqe.cdw10.set(0);
    judge(
        "A write-protected namespace",
        &mut q,
        vec![
            Row::ok("Read", io(op::READ, 1, 0, 1).with(Data::In(4096))),
            Row::ok("Flush", Command::new(op::FLUSH, 1)),
            Row::is("Write", io(op::WRITE, 1, 0, 1).with(block()), no),
            Row::is("Write Zeroes", io(op::WRITE_ZEROES, 1, 0, 1), no),
            Row::is("Write Uncorrectable", io(op::WRITE_UNCORRECTABLE, 1, 0, 1), no),
            Row::is("deallocate", deallocate, no),
            Row::is("Copy", io(op::COPY, 1, 0, 1).with(Data::Out(vec![0; 32])), no),
            Row::ok("another namespace", io(op::WRITE_ZEROES, 2, 0, 1)),
        ],
    );
    let mut other = s.client();
    assert_eq!(other.feature(fid::WRITE_PROTECT, 0, 1, 0).unwrap().value, 1);
    assert_eq!(other.identify_namespace(1).unwrap().nsattr & 1, 1);
    c.run(protect(0)).unwrap().ok("unprotect").unwrap();
    q.run(io(op::WRITE, 1, 0, 1).with(block())).unwrap().ok("write").unwrap();
}

/// Waits for the completion of an event request.
fn event(c: &mut Client, cid: u16) -> AsyncEvent {
    let done = c.admin.wait(cid).unwrap_or_else(|e| panic!("no event came: {e}"));
    assert!(done.status().is_success(), "{}", done.status());
    AsyncEvent::from_dw0(done.cqe.dw0.get())
}

#[test]
fn events_tell_of_namespaces_and_are_masked_until_read() {
    let s = Subject::start();
    let (mut c, mut q) = s.queue();
    let ask = || Command::new(admin::ASYNC_EVENT, 0);
    let changed = |c: &mut Client| {
        let data = c.log_page(0, page(lid::CHANGED_NS), 4096).unwrap();
        NamespaceList::decode(&data).unwrap().iter().collect::<Vec<_>>()
    };
    c.set_feature(fid::ASYNC_EVENT, 0, 0x100, Vec::new()).unwrap();
    let cid = c.admin.submit(ask()).unwrap();
    c.admin.poll(Duration::from_millis(100)).unwrap();
    assert!(c.admin.take(cid).is_none(), "nothing has happened yet");
    // Added.
    let (spec, _manage) = ram(4096, 64);
    s.target.add_namespace(NQN, NamespaceSpec { nsid: Some(7), ..spec }).unwrap();
    assert_eq!(event(&mut c, cid), AsyncEvent::NS_ATTR);
    assert_eq!(c.namespaces().unwrap(), [1, 2, 5, 7]);
    assert!(q.run(io(op::WRITE_ZEROES, 7, 0, 64)).unwrap().status().is_success(), "it is there at once");
    // Masked until the log page is read.
    let cid = c.admin.submit(ask()).unwrap();
    s.target.remove_namespace(NQN, 7).unwrap();
    c.admin.poll(Duration::from_millis(200)).unwrap();
    assert!(c.admin.take(cid).is_none(), "masked until the changed namespace list is read");
    assert_eq!(changed(&mut c), [7]);
    assert!(
        q.run(io(op::WRITE_ZEROES, 7, 0, 1)).unwrap().status().is(Status::INVALID_NAMESPACE),
        "it is gone at once"
    );
    // Resized.
    let (_, manage) = s.volumes.iter().find(|(nsid, _)| *nsid == 5).unwrap();
    manage.resize(32).unwrap();
    s.target.namespace_resized(NQN, 5).unwrap();
    assert_eq!(event(&mut c, cid), AsyncEvent::NS_ATTR);
    // Retained when asked for.
    let kept = GetLogPage { rae: true, ..page(lid::CHANGED_NS) };
    let first = c.log_page(0, kept, 4096).unwrap();
    assert_eq!(NamespaceList::decode(&first).unwrap().iter().collect::<Vec<_>>(), [5]);
    assert_eq!(changed(&mut c), [5]);
    assert_eq!(changed(&mut c), [0u32; 0]);
    assert_eq!(c.namespace(5).unwrap().blocks, 32);
    assert!(
        q.run(io(op::WRITE_ZEROES, 5, 16, 16)).unwrap().status().is_success(),
        "the new blocks are there"
    );
    manage.resize(8).unwrap();
    s.target.namespace_resized(NQN, 5).unwrap();
    assert!(q.run(io(op::READ, 5, 8, 1).with(Data::In(4096))).unwrap().status().is(Status::LBA_OUT_OF_RANGE));
}

#[test]
fn event_requests_are_limited_and_can_be_aborted() {
    let s = Subject::start();
    let mut c = s.client();
    let limit = u16::from(c.identity.as_ref().unwrap().aerl) + 1;
    let cids: Vec<u16> =
        (0..limit).map(|_| c.admin.submit(Command::new(admin::ASYNC_EVENT, 0)).unwrap()).collect();
    let over = c.run(Command::new(admin::ASYNC_EVENT, 0)).unwrap();
    assert!(over.status().is(Status::AER_LIMIT_EXCEEDED), "{}", over.status());
    let abort = |sqid: u32, cid: u16| Command::new(admin::ABORT, 0).dword(10, sqid | u32::from(cid) << 16);
    for &cid in &cids {
        let done = c.run(abort(0, cid)).unwrap().ok("Abort").unwrap();
        assert_eq!(done.cqe.dw0.get() & 1, 0, "it was aborted");
        let gone = c.admin.wait(cid).unwrap();
        assert!(gone.status().is(Status::ABORT_REQUESTED), "{}", gone.status());
    }
    let none = c.run(abort(0, 0x1234)).unwrap().ok("Abort").unwrap();
    assert_eq!(none.cqe.dw0.get() & 1, 1, "there is no such command");
    let none = c.run(abort(55, 1)).unwrap().ok("Abort").unwrap();
    assert_eq!(none.cqe.dw0.get() & 1, 1, "there is no such queue");
}

#[test]
fn abort_ends_a_write_that_waits_for_its_data_over_tcp() {
    let s = Subject::start();
    let mut c = s.client();
    // A bare queue, so that the R2T can be left unanswered.
    use caisson_conformance::pdu::{capsule, connect, icreq};
    use caisson_initiator::transport::{Pdu, RawConn};
    use caisson_wire::pdu::{CapsuleResp, R2t, kind};
    let mut raw = RawConn::connect(&s.address, Duration::from_secs(20)).unwrap();
    raw.send(&icreq(0).0).unwrap();
    raw.receive().unwrap();
    raw.send(&connect(1, &c.options.connect_data(c.cntlid)).0).unwrap();
    assert_eq!(raw.receive().unwrap().kind(), kind::CAPSULE_RESP);
    let mut sqe = io(op::WRITE, 1, 0, 1).sqe;
    sqe.cid.set(0x4242);
    sqe.sgl = caisson_wire::Sgl::transport(4096);
    raw.send(&capsule(&sqe, &[]).0).unwrap();
    let r2t = raw.receive().unwrap();
    assert_eq!(r2t.kind(), kind::R2T);
    let ttag = r2t.as_a::<R2t>().unwrap().ttag.get();
    let done = c.run(Command::new(admin::ABORT, 0).dword(10, 1 | 0x4242 << 16)).unwrap().ok("Abort").unwrap();
    assert_eq!(done.cqe.dw0.get() & 1, 0, "it was aborted");
    // The transfer that was begun has to end before the command may (TCP 1.1, 3.3.2.2); then it is told aborted.
    raw.set_timeout(Duration::from_millis(300));
    let answer = match raw.receive() {
        Ok(pdu) => pdu,
        Err(_) => {
            let data = caisson_conformance::pdu::h2c_data(0x4242, ttag, 0, 4, &[1; 4096]);
            raw.send(&data.0).unwrap();
            raw.set_timeout(Duration::from_secs(20));
            raw.receive().unwrap_or_else(|e| panic!("the aborted write is never completed: {e}"))
        }
    };
    let response: CapsuleResp = Pdu::as_a(&answer).unwrap();
    assert!(response.cqe.status().is(Status::ABORT_REQUESTED), "{}", response.cqe.status());
}

#[test]
fn opcodes_that_are_not_advertised_are_refused() {
    let s = Subject::start();
    let mut c = s.client();
    let log = c.log_page(0, page(lid::EFFECTS), 4096).unwrap();
    let effects = EffectsLog::decode(&log).unwrap();
    let mut rows = Vec::new();
    for opcode in 0..=255u8 {
        if effects.acs[usize::from(opcode)].get() & 1 == 0 && opcode != 0x7f {
            rows.push(Row::is(
                format!("opcode {opcode:02x}h"),
                Command::new(opcode, 0),
                Status::INVALID_OPCODE.dnr(),
            ));
        }
    }
    for must in [admin::IDENTIFY, admin::GET_LOG_PAGE, admin::ABORT, admin::SET_FEATURES, admin::GET_FEATURES]
    {
        assert!(effects.acs[usize::from(must)].get() & 1 != 0, "opcode {must:02x}h is advertised");
    }
    rows.push(Row::is("a fused admin command", Command::new(admin::KEEP_ALIVE, 0).flags(0x41), INVALID));
    rows.push(Row::is("PRPs", identify(1, 0, 0, 0).flags(0), INVALID));
    rows.push(Row::ok("Keep Alive", Command::new(admin::KEEP_ALIVE, 0)));
    judge("Admin opcodes", &mut c.admin, rows);
}

#[test]
fn a_thousand_namespaces_are_listed_and_used() {
    let s = Subject::start();
    let (mut c, mut q) = s.queue();
    let start = Instant::now();
    for nsid in (1..=1024).filter(|n| ![1, 2, 5].contains(n)) {
        let (spec, _) = ram(4096, 16);
        s.target.add_namespace(NQN, NamespaceSpec { nsid: Some(nsid), ..spec }).unwrap();
    }
    println!("  1,021 namespaces added in {:?}", start.elapsed());
    let (spec, _) = ram(4096, 16);
    assert!(s.target.add_namespace(NQN, spec).is_err(), "there is no room for another");
    assert_eq!(c.namespaces().unwrap(), (1..=1024).collect::<Vec<_>>());
    let cids = q.submit_all((3..=127).map(|n| io(op::WRITE_ZEROES, n, 0, 1))).unwrap();
    for cid in cids {
        assert!(q.wait(cid).unwrap().status().is_success());
    }
    for nsid in [1, 512, 1024] {
        assert!(q.run(io(op::READ, nsid, 0, 1).with(Data::In(4096))).unwrap().status().is_success());
    }
}
