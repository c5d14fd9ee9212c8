//! Format NVM and Sanitize: what is offered, each field and error, what is allowed meanwhile, the Sanitize Status log page and its events
//! (Base 2.1, 5.1.10, 5.1.22, 5.1.12.1.33, 8.1.24; the table of allowed admin commands as Base 2.3 has it, 5.1.1, figure 143).

use caisson_conformance::erasable::{SEALED, controller, sealed};
use caisson_conformance::subject::{NQN, SMALL, Subject, TINY, bytes, io};
use caisson_conformance::table::holds;
use caisson_conformance::{Row, judge};
use caisson_initiator::client::{get_log_page, identify, property_get, property_set, set_features};
use caisson_initiator::{Client, Command, Data, Queue};
use caisson_wire::Status;
use caisson_wire::erase::*;
use caisson_wire::fabrics::property;
use caisson_wire::feature::{AsyncEvent, HostBehavior, fid};
use caisson_wire::identify::*;
use caisson_wire::log::*;
use caisson_wire::opcode::{admin, fctype, io as op};
use caisson_wire::zerocopy::IntoBytes;
use std::time::Duration;

const INVALID: Status = Status::INVALID_FIELD.dnr();
const BAD_NS: Status = Status::INVALID_NAMESPACE.dnr();
const FORMATTING: Status = Status::FORMAT_IN_PROGRESS;
const SANITIZING: Status = Status::SANITIZE_IN_PROGRESS;

fn format(nsid: u32, ask: FormatNvm) -> Command {
    let mut c = Command::new(admin::FORMAT_NVM, nsid);
    ask.put(&mut c.sqe);
    c
}

fn with(ses: u8) -> FormatNvm {
    FormatNvm { ses, ..FormatNvm::default() }
}

fn sanitize(ask: Sanitize) -> Command {
    let mut c = Command::new(admin::SANITIZE, 0);
    ask.put(&mut c.sqe);
    c
}

const CRYPTO: Sanitize = Sanitize { action: sanact::CRYPTO_ERASE, ause: false, ndas: false, emvs: false };
const EXIT: Sanitize = Sanitize { action: sanact::EXIT_FAILURE, ..CRYPTO };

fn page(lid: u8) -> GetLogPage {
    GetLogPage { lid, ..GetLogPage::default() }
}

fn status(c: &mut Client) -> SanitizeStatus {
    SanitizeStatus::decode(&c.log_page(0, page(lid::SANITIZE), 512).unwrap()).unwrap()
}

/// SPROG, SSTAT and SCDW10.
fn told(c: &mut Client) -> (u16, u16, u32) {
    let s = status(c);
    (s.sprog.get(), s.sstat.get(), s.scdw10.get())
}

fn protect(nsid: u32, on: u32) -> Command {
    set_features(fid::WRITE_PROTECT, nsid, on, Vec::new())
}

fn run(c: &mut Client, command: Command) {
    let done = c.run(command).unwrap();
    assert!(done.status().is_success(), "{}", done.status());
}

/// Submits a command, and waits until it has been looked at: one behind it on the queue has been answered.
fn begun(c: &mut Client, command: Command) -> u16 {
    let cid = c.admin.submit(command).unwrap();
    run(c, Command::new(admin::KEEP_ALIVE, 0));
    cid
}

fn event(c: &mut Client) -> u16 {
    c.admin.submit(Command::new(admin::ASYNC_EVENT, 0)).unwrap()
}

/// The event that comes.
fn comes(c: &mut Client, cid: u16) -> AsyncEvent {
    let done = c.admin.wait(cid).unwrap_or_else(|e| panic!("no event came: {e}"));
    AsyncEvent::from_dw0(done.cqe.dw0.get())
}

/// Whether none has come that would have by now.
fn none(c: &mut Client, cid: u16) -> bool {
    c.admin.poll(Duration::from_millis(100)).unwrap();
    c.admin.take(cid).is_none()
}

/// Has an LBA in the error log.
fn spoil(q: &mut Queue) {
    q.run(io(op::WRITE_UNCORRECTABLE, 1, 33, 1)).unwrap().ok("write uncorrectable").unwrap();
    let read = q.run(io(op::READ, 1, 33, 1).with(Data::In(4096))).unwrap();
    assert!(read.status().is(Status::UNRECOVERED_READ_ERROR), "{}", read.status());
}

/// The LBA of its newest entry.
fn last_lba(c: &mut Client) -> u64 {
    ErrorEntry::decode(&c.log_page(0, page(lid::ERROR), 64).unwrap()).unwrap().lba.get()
}

/// I/O commands on a namespace, each with the data that it needs; a Flush is apart.
fn commands(nsid: u32) -> Vec<(&'static str, Command)> {
    let block = || Data::Out(vec![1; 4096]);
    vec![
        ("Read", io(op::READ, nsid, 0, 1).with(Data::In(4096))),
        ("Write", io(op::WRITE, nsid, 0, 1).with(block())),
        ("Write of more than fits in a capsule", io(op::WRITE, nsid, 0, 16).with(Data::Out(vec![1; 65536]))),
        ("Compare", io(op::COMPARE, nsid, 0, 1).with(block())),
        ("Write Zeroes", io(op::WRITE_ZEROES, nsid, 0, 1)),
        ("Write Uncorrectable", io(op::WRITE_UNCORRECTABLE, nsid, 0, 1)),
        ("Verify", io(op::VERIFY, nsid, 0, 1)),
        (
            "Dataset Management",
            Command::new(op::DATASET_MANAGEMENT, nsid).dword(11, 4).with(Data::Out(vec![0; 16])),
        ),
        ("Copy", io(op::COPY, nsid, 0, 1).with(Data::Out(vec![0; 32]))),
    ]
}

fn all_end_with(nsid: u32, want: Status) -> Vec<Row> {
    commands(nsid).into_iter().map(|(name, c)| Row::is(name, c, want)).collect()
}

#[test]
fn erasing_is_offered_where_it_is_allowed_and_there_are_keys() {
    let s = Subject::start();
    sealed(&s);
    let effects = |c: &mut Client| {
        let e = EffectsLog::decode(&c.log_page(0, page(lid::EFFECTS), 4096).unwrap()).unwrap();
        [admin::FORMAT_NVM, admin::SANITIZE].map(|o| e.acs[usize::from(o)].get())
    };
    let mut c = controller(&s);
    let id = c.identify_controller().unwrap();
    assert_eq!(id.oacs.get() & oacs::FORMAT, oacs::FORMAT);
    assert_eq!(id.fna, fna::CRYPTO | fna::NO_BROADCAST, "of one namespace, by key, and not of all at once");
    let kinds = sanicap::CRYPTO_ERASE | sanicap::BLOCK_ERASE | sanicap::OVERWRITE;
    assert_eq!(id.sanicap.get() & kinds, sanicap::CRYPTO_ERASE);
    assert_eq!(id.sanicap.get() & 1 << 3, 0, "VERS: there is no media verification");
    assert_eq!(id.sanicap.get() & 1 << 29, 1 << 29, "NDI");
    assert_eq!(id.sanicap.get() >> 30, 1, "NODMMAS");
    let [f, z] = effects(&mut c);
    assert_eq!(f & 1, 1, "CSUPP");
    assert_eq!(f & (0b110 | 0b111 << 16), 0b110 | 1 << 16, "LBCC and NCC, and nothing else on the namespace");
    assert_eq!(z & (0b010 | 0b111 << 16), 0b010 | 2 << 16, "LBCC, and nothing else on any namespace");
    let pages = SupportedPages::decode(&c.log_page(0, page(lid::SUPPORTED), 1024).unwrap()).unwrap();
    assert_eq!(pages.lids[usize::from(lid::SANITIZE)].get() & 1, 1);
    // Not all namespaces have keys: then what all must have is not there.
    s.target.set_allow_erase(NQN, true).unwrap();
    let mut c = s.client();
    let id = c.identify_controller().unwrap();
    assert_eq!(
        (id.oacs.get() & oacs::FORMAT, id.fna, id.sanicap.get()),
        (oacs::FORMAT, fna::NO_BROADCAST, 0)
    );
    assert_eq!(effects(&mut c)[1], 0);
    s.target.set_allow_erase(NQN, false).unwrap();
    let id = c.identify_controller().unwrap();
    assert_eq!((id.oacs.get(), id.fna, id.sanicap.get()), (0, 0, 0));
    assert_eq!(effects(&mut c), [0, 0]);
    judge(
        "Where hosts may not erase",
        &mut c.admin,
        vec![
            Row::is("Format NVM", format(1, with(0)), Status::INVALID_OPCODE.dnr()),
            Row::is("Sanitize", sanitize(CRYPTO), Status::INVALID_OPCODE.dnr()),
            Row::is(
                "Sanitize Status",
                get_log_page(0, page(lid::SANITIZE), 512),
                Status::INVALID_LOG_PAGE.dnr(),
            ),
            Row::is("Sanitize Config", set_features(fid::SANITIZE, 0, 1, Vec::new()), INVALID),
        ],
    );
}

#[test]
fn each_field_of_format() {
    let s = Subject::start();
    s.target.set_allow_erase(NQN, true).unwrap();
    let (mut c, mut q) = s.queue();
    let none = FormatNvm::default();
    let mut rows = vec![
        Row::is("all namespaces, FNVMBS being 1", format(NSID_ALL, none), INVALID),
        Row::is("NSID 0", format(0, none), BAD_NS),
        Row::is("an inactive namespace", format(3, none), BAD_NS),
        Row::is("beyond NN", format(NSID_ALL - 1, none), BAD_NS),
        Row::is("a cryptographic erase without a key", format(TINY.nsid, with(ses::CRYPTO)), INVALID),
    ];
    rows.extend((3..8).map(|n| Row::is(format!("SES {n}"), format(TINY.nsid, with(n)), INVALID)));
    let bad = Status::INVALID_FORMAT.dnr();
    rows.extend(
        (1..16)
            .map(|lbaf| Row::is(format!("LBAF {lbaf}"), format(TINY.nsid, FormatNvm { lbaf, ..none }), bad)),
    );
    rows.extend(
        (1..4).map(|pi| Row::is(format!("PI {pi}"), format(TINY.nsid, FormatNvm { pi, ..none }), bad)),
    );
    judge("Format NVM", &mut c.admin, rows);
    // Each way empties it, and nothing else.
    let data = bytes(1, 4096);
    for disk in [SMALL, TINY] {
        let blocks = 4096 / disk.block;
        let out = io(op::WRITE, disk.nsid, 8, blocks).with(Data::Out(data.clone()));
        q.run(out).unwrap().ok("write").unwrap();
    }
    let upper = FormatNvm { lbaf: 16, ..none };
    for (what, ask) in [("none", none), ("user data", with(ses::USER_DATA)), ("LBAFU without LBAFEE", upper)]
    {
        let out = io(op::WRITE, TINY.nsid, 3, 1).with(Data::Out(data.clone()));
        q.run(out).unwrap().ok("write").unwrap();
        run(&mut c, format(TINY.nsid, ask));
        let back = q.run(io(op::READ, TINY.nsid, 3, 1).with(Data::In(4096))).unwrap().ok("read").unwrap();
        assert!(back.data.iter().all(|b| *b == 0), "after {what}");
    }
    let back = q.run(io(op::READ, SMALL.nsid, 8, 8).with(Data::In(4096))).unwrap().ok("read").unwrap();
    assert!(back.data == data, "another namespace");
    let more = HostBehavior { lbafee: 1, ..HostBehavior::default() };
    run(&mut c, set_features(fid::HOST_BEHAVIOR, 0, 0, more.as_bytes().to_vec()));
    run(&mut c, protect(SMALL.nsid, 1));
    judge(
        "Format NVM",
        &mut c.admin,
        vec![
            Row::is("LBAFU with LBAFEE", format(TINY.nsid, upper), bad),
            Row::is("a write-protected one", format(SMALL.nsid, none), Status::NS_WRITE_PROTECTED.dnr()),
        ],
    );
}

#[test]
fn while_a_namespace_is_formatted() {
    let s = Subject::start();
    let [one, _] = sealed(&s);
    let mut c = controller(&s);
    let mut q = c.io_queue(1, 128).unwrap();
    spoil(&mut q);
    assert_eq!(last_lba(&mut c), 33);
    let cid = begun(&mut c, format(1, with(ses::CRYPTO)));
    judge("I/O on it", &mut q, all_end_with(1, FORMATTING));
    judge("I/O on another", &mut q, vec![Row::ok("Write Zeroes", io(op::WRITE_ZEROES, 2, 0, 1))]);
    let abort = Command::new(admin::ABORT, 0).dword(10, u32::from(cid) << 16);
    judge(
        "Admin commands during a Format",
        &mut c.admin,
        vec![
            Row::ok("Identify Namespace", identify(cns::NAMESPACE, 1, 0, 0)),
            Row::that("the error log tells no LBA", get_log_page(0, page(lid::ERROR), 64), |done| {
                let e = ErrorEntry::decode(&done.data).ok_or("short")?;
                holds(e.ecnt.get() > 0 && e.lba.get() == 0, format!("{e:?}"))
            }),
            Row::ok("SMART", get_log_page(0, page(lid::SMART), 512)),
            Row::ok("Sanitize Status", get_log_page(0, page(lid::SANITIZE), 512)),
            Row::ok("Set Features", set_features(fid::ARBITRATION, 0, 0, Vec::new())),
            Row::is("write protection of it", protect(1, 1), FORMATTING),
            Row::ok("Keep Alive", Command::new(admin::KEEP_ALIVE, 0)),
            Row::is("another Format of it", format(1, with(0)), FORMATTING),
            Row::is("Sanitize", sanitize(CRYPTO), FORMATTING),
            Row::that("Abort", abort, |done| holds(done.cqe.dw0.get() & 1 == 1, "it is not aborted")),
        ],
    );
    assert!(c.admin.take(cid).is_none(), "it goes on");
    one.done();
    c.admin.wait(cid).unwrap().ok("Format").unwrap();
    judge("I/O afterwards", &mut q, vec![Row::ok("Read", io(op::READ, 1, 0, 1).with(Data::In(4096)))]);
    // It could not begin, or not be begun.
    let cid = begun(&mut c, format(1, with(ses::USER_DATA)));
    one.fails();
    assert!(c.admin.wait(cid).unwrap().status().is(Status::INTERNAL_ERROR));
    one.done();
    one.refuses(true);
    judge(
        "A volume that refuses",
        &mut c.admin,
        vec![Row::is("Format", format(1, with(ses::CRYPTO)), Status::INTERNAL_ERROR.dnr())],
    );
    judge("I/O afterwards", &mut q, vec![Row::ok("Read", io(op::READ, 1, 0, 1).with(Data::In(4096)))]);
}

#[test]
fn each_field_of_sanitize() {
    let s = Subject::start();
    sealed(&s);
    let mut c = controller(&s);
    let st = status(&mut c);
    assert_eq!((st.sprog.get(), st.sstat.get(), st.scdw10.get(), st.ssi), (0xffff, 0, 0, 0));
    let times = [st.eto, st.etbe, st.etce, st.etond, st.etbend, st.etcend, st.etpvds];
    assert!(times.iter().all(|t| t.get() == u32::MAX), "no time is told");
    let mut rows: Vec<Row> = [0, 2, 3, 5, 6, 7]
        .map(|action| Row::is(format!("SANACT {action}"), sanitize(Sanitize { action, ..CRYPTO }), INVALID))
        .into();
    rows.extend([
        Row::is("EMVS, VERS being 0", sanitize(Sanitize { emvs: true, ..CRYPTO }), INVALID),
        Row::is("NDAS, NDI being 1 and NODRM 0", sanitize(Sanitize { ndas: true, ..CRYPTO }), INVALID),
        Row::ok("Exit Failure Mode, where there is none", sanitize(EXIT)),
        Row::ok("a namespace is protected", protect(2, 1)),
        Row::is("Sanitize then", sanitize(CRYPTO), Status::NS_WRITE_PROTECTED.dnr()),
        Row::is("and Exit Failure Mode", sanitize(EXIT), Status::NS_WRITE_PROTECTED.dnr()),
        Row::ok("and is not any more", protect(2, 0)),
    ]);
    judge("Sanitize", &mut c.admin, rows);
    assert_eq!(told(&mut c), (0xffff, 0, 0), "what is refused changes nothing");
}

/// Admin commands that figure 143 permits and that do not end with success here: of a memory-based transport, vendor specific, or of
/// what is not here. Whether they are refused for that or for the operation is the controller's to say.
fn permitted_but_not_here(opcode: u8) -> bool {
    matches!(opcode, 0x00 | 0x01 | 0x04 | 0x05 | 0x1d | 0x1e | 0x38 | 0xc0..)
}

#[test]
fn while_there_is_a_sanitize_operation() {
    let s = Subject::start();
    let [one, two] = sealed(&s);
    let mut c = controller(&s);
    let mut q = c.io_queue(1, 128).unwrap();
    spoil(&mut q);
    run(&mut c, sanitize(CRYPTO));
    one.at(9000);
    two.at(5000);
    s.target.look_around();
    assert_eq!(told(&mut c), (5000, 2, 4), "by the one that is least far");
    one.at(4000);
    s.target.look_around();
    assert_eq!(told(&mut c).0, 5000, "it does not go back");
    assert_eq!(last_lba(&mut c), 0);
    let mut other = controller(&s);
    for who in [&mut c, &mut other] {
        let mut rows = Vec::new();
        for opcode in 0..=255u8 {
            let row = |name: &str| format!("opcode {opcode:02x}h: {name}");
            let bare = Command::new(opcode, 1);
            match opcode {
                admin::GET_LOG_PAGE | admin::SET_FEATURES | admin::SANITIZE | 0x7f => {}
                admin::IDENTIFY => {
                    rows.push(Row::ok(row("Identify"), identify(cns::CONTROLLER, 0, 0, 0)));
                }
                admin::ABORT => rows.push(Row::ok(row("Abort"), Command::new(opcode, 0).dword(10, 0x7777))),
                admin::GET_FEATURES => {
                    rows.push(Row::ok(row("Get Features"), Command::new(opcode, 0).dword(10, 7)));
                }
                admin::KEEP_ALIVE => rows.push(Row::ok(row("Keep Alive"), Command::new(opcode, 0))),
                admin::ASYNC_EVENT => {}
                _ if permitted_but_not_here(opcode) => {
                    rows.push(Row::one_of(row("not here"), bare, &[SANITIZING, Status::INVALID_OPCODE]));
                }
                _ => rows.push(Row::is(row("not permitted"), bare, SANITIZING)),
            }
        }
        for lid in 0..=255u8 {
            let ask = get_log_page(0, page(lid), 512);
            rows.push(match lid {
                lid::ERROR | lid::SMART | lid::CHANGED_NS | lid::SANITIZE => {
                    Row::ok(format!("LID {lid:02x}h"), ask)
                }
                lid::ANA | lid::BOOT_PARTITION | lid::RESERVATION => {
                    Row::is(format!("LID {lid:02x}h, not here"), ask, Status::INVALID_LOG_PAGE.dnr())
                }
                _ => Row::is(format!("LID {lid:02x}h"), ask, SANITIZING),
            });
        }
        rows.extend([
            Row::that("the error log tells no LBA", get_log_page(0, page(lid::ERROR), 4096), |done| {
                let lbas = done.data.chunks(64).filter_map(ErrorEntry::decode).map(|e| e.lba.get());
                holds(lbas.sum::<u64>() == 0, "there is one")
            }),
            Row::ok("Set Features", set_features(fid::ARBITRATION, 0, 0, Vec::new())),
            Row::is("write protection", protect(1, 1), SANITIZING),
            Row::is("Sanitize", sanitize(CRYPTO), SANITIZING),
            Row::is("Exit Failure Mode", sanitize(EXIT), SANITIZING),
            Row::ok("Property Get", property_get(property::CSTS, 4)),
        ]);
        judge("Admin commands during a sanitize operation", &mut who.admin, rows);
    }
    let mut rows = all_end_with(1, SANITIZING);
    rows.extend(all_end_with(2, SANITIZING));
    // 7.2: it may complete well where there is no volatile cache; there is nothing that it would have to keep.
    rows.push(Row::one_of("Flush", Command::new(op::FLUSH, 1), &[Status::SUCCESS, SANITIZING]));
    judge("I/O during a sanitize operation", &mut q, rows);
    // Queues come and go, and a controller may be reset: nothing ends the operation.
    let mut more = c.io_queue(2, 16).unwrap();
    judge("Disconnect", &mut more, vec![Row::ok("of an I/O queue", Command::fabrics(fctype::DISCONNECT))]);
    let cc = c.property(property::CC, 4).unwrap() as u32;
    judge("Property Set", &mut c.admin, vec![Row::ok("CC as it is", property_set(property::CC, cc))]);
    drop(q);
    c.disable().unwrap();
    c.enable().unwrap();
    assert_eq!(told(&mut c), (5000, 2, 4), "after a reset");
    drop((c, other));
    let mut c = controller(&s);
    assert_eq!(told(&mut c), (5000, 2, 4), "in a new association");
    one.done();
    two.done();
    s.target.look_around();
    assert_eq!(told(&mut c), (0xffff, 0x101, 4));
    let mut q = c.io_queue(1, 128).unwrap();
    judge("I/O afterwards", &mut q, vec![Row::ok("Read", io(op::READ, 1, 0, 1).with(Data::In(4096)))]);
}

#[test]
fn the_end_is_told_by_the_page_and_to_who_asked() {
    let s = Subject::start();
    let [one, two] = sealed(&s);
    let (mut c, mut other) = (controller(&s), controller(&s));
    let mut q = c.io_queue(1, 128).unwrap();
    let end = |s: &Subject| {
        one.done();
        two.done();
        s.target.look_around();
    };
    let (mine, its) = (event(&mut c), event(&mut other));
    run(&mut c, sanitize(CRYPTO));
    assert!(none(&mut c, mine), "it has not ended");
    one.done();
    s.target.look_around();
    assert_eq!(told(&mut c).1, 2, "one is not all");
    end(&s);
    assert_eq!(comes(&mut c, mine), AsyncEvent::SANITIZE);
    assert_eq!(AsyncEvent::SANITIZE.dw0(), 0x0081_0106);
    assert!(none(&mut other, its), "it was asked on another controller");
    assert_eq!((told(&mut c), told(&mut other)), ((0xffff, 0x101, 4), (0xffff, 0x101, 4)));
    // GDE goes with the first write of user data.
    q.run(io(op::READ, 1, 0, 1).with(Data::In(4096))).unwrap().ok("read").unwrap();
    assert_eq!(told(&mut c).1, 0x101);
    q.run(io(op::WRITE, 1, 0, 1).with(Data::Out(vec![1; 4096]))).unwrap().ok("write").unwrap();
    assert_eq!(told(&mut c).1, 1);
    // NODRM: it is deallocated though that was not asked for, and says so.
    run(&mut c, set_features(fid::SANITIZE, 0, 1, Vec::new()));
    let mine = event(&mut c);
    run(&mut c, sanitize(Sanitize { ndas: true, ..CRYPTO }));
    assert_eq!(told(&mut c), (0, 2, 0x204));
    end(&s);
    assert_eq!(comes(&mut c, mine), AsyncEvent::SANITIZE_DEALLOCATED);
    assert_eq!(AsyncEvent::SANITIZE_DEALLOCATED.dw0(), 0x0081_0206);
    assert_eq!(told(&mut c), (0xffff, 0x104, 0x204));
    // Who asked is gone: the page tells it, and nobody else is told.
    run(&mut c, sanitize(CRYPTO));
    drop((c, q));
    s.settle(1);
    end(&s);
    assert!(none(&mut other, its), "nobody is told in its place");
    assert_eq!(told(&mut other), (0xffff, 0x101, 4));
}

#[test]
fn a_failure_restricts_until_it_is_left() {
    for free in [false, true] {
        let s = Subject::start();
        let [one, two] = sealed(&s);
        let mut c = controller(&s);
        let mut q = c.io_queue(1, 128).unwrap();
        // Nothing begins: nothing changes.
        one.refuses(true);
        two.refuses(true);
        let row = Row::is("Sanitize that cannot begin", sanitize(CRYPTO), Status::INTERNAL_ERROR.dnr());
        judge("A volume that refuses", &mut c.admin, vec![row]);
        assert_eq!(told(&mut c), (0xffff, 0, 0));
        // It begins in one of two: it has begun, and fails.
        one.refuses(false);
        let mine = event(&mut c);
        let scdw10 = if free { 0xc } else { 4 };
        run(&mut c, sanitize(Sanitize { ause: free, ..CRYPTO }));
        s.target.look_around();
        assert_eq!(told(&mut c), (0xffff, 3, scdw10));
        assert_eq!(comes(&mut c, mine), AsyncEvent::SANITIZE);
        one.done();
        two.refuses(false);
        let failed = Status::SANITIZE_FAILED.dnr();
        let mut rows = all_end_with(1, failed);
        rows.push(Row::one_of(
            "Flush",
            Command::new(op::FLUSH, 1),
            &[Status::SUCCESS, Status::SANITIZE_FAILED],
        ));
        judge("I/O after a failure", &mut q, rows);
        let mut rows = vec![
            Row::ok("Identify", identify(cns::CONTROLLER, 0, 0, 0)),
            Row::is("a log page", get_log_page(0, page(lid::EFFECTS), 512), SANITIZING),
            Row::is("Format", format(1, with(0)), SANITIZING),
            Row::is("Block Erase", sanitize(Sanitize { action: sanact::BLOCK_ERASE, ..CRYPTO }), INVALID),
        ];
        if free {
            rows.push(Row::ok("Exit Failure Mode", sanitize(EXIT)));
            rows.push(Row::ok("a log page", get_log_page(0, page(lid::EFFECTS), 512)));
        } else {
            rows.push(Row::is("Exit Failure Mode", sanitize(EXIT), failed));
            rows.push(Row::is("AUSE", sanitize(Sanitize { ause: true, ..CRYPTO }), failed));
            rows.push(Row::ok("a restricted one", sanitize(CRYPTO)));
        }
        judge("Admin commands after a failure", &mut c.admin, rows);
        one.done();
        two.done();
        s.target.look_around();
        let want = if free { (0xffff, 3, 0xc) } else { (0xffff, 0x101, 4) };
        assert_eq!(told(&mut c), want, "how the last one ended");
        judge("I/O afterwards", &mut q, vec![Row::ok("Read", io(op::READ, 1, 0, 1).with(Data::In(4096)))]);
    }
}

/// Whether hosts may erase is taken back while one does: what has begun goes on.
#[test]
fn what_has_begun_goes_on_where_it_is_allowed_no_more() {
    let s = Subject::start();
    let [one, two] = sealed(&s);
    let mut c = controller(&s);
    run(&mut c, sanitize(CRYPTO));
    s.target.set_allow_erase(SEALED, false).unwrap();
    judge(
        "Where hosts may not erase any more",
        &mut c.admin,
        vec![Row::is("Sanitize", sanitize(CRYPTO), Status::INVALID_OPCODE.dnr())],
    );
    let mut q = c.io_queue(1, 128).unwrap();
    judge("I/O", &mut q, all_end_with(1, SANITIZING));
    one.done();
    two.done();
    s.target.look_around();
    s.target.set_allow_erase(SEALED, true).unwrap();
    assert_eq!(told(&mut c), (0xffff, 0x101, 4));
}
