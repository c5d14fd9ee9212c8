//! Room that runs out, end to end: what a host is told of it, what goes on all the same, and that room comes back.

mod support;

use caisson_initiator::{Address, Client, Command, Data, Options, Queue};
use caisson_wire::Status;
use caisson_wire::feature::{AsyncEvent, fid};
use caisson_wire::identify::{IdentifyNamespace, nsfeat};
use caisson_wire::log::{GetLogPage, SmartLog, critical, lid};
use caisson_wire::opcode::{admin, io as op};
use caisson_wire::zerocopy::FromBytes;
use std::time::{Duration, Instant};
use support::{Dir, Running, good};

const NQN: &str = "nqn.2024-01.com.example:space";
/// Blocks of 4 KiB in a write.
const STEP: u32 = 16;

/// Sixteen blocks that nothing else is like, and that do not compress.
fn content(lba: u32, version: u64) -> Vec<u8> {
    let mut x = (u64::from(lba) + 1) << 8 | version;
    let mut word = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..STEP as usize * 512).flat_map(|_| word().to_le_bytes()).collect()
}

struct Stage {
    dir: Dir,
    client: Client,
    queue: Queue,
    _target: Running,
}

impl Stage {
    fn new() -> Stage {
        let dir = Dir::new("space");
        std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
        let (store, key) = (format!("pool:{}", dir.path("p")), dir.path("key"));
        let (pass, socket) = (dir.path("pass"), dir.path("s"));
        let args = ["--socket", &socket, "export", &store, "--key-file", &key, "--passphrase-file", &pass];
        let more = ["--size", "1G", "--pool-size", "64M", "--nqn", NQN, "--listen", "tcp://127.0.0.1:0"];
        let target = Running::start(&[&args[..], &more].concat(), "Ctrl-C");
        let port = target.listening()[0].rsplit_once(':').unwrap().1.parse().unwrap();
        let mut options = Options::new(Address::new("127.0.0.1", port), NQN);
        options.kato_ms = 0;
        let mut client = Client::connect(options).unwrap();
        let queue = client.io_queue(1, 32).unwrap();
        Stage { dir, client, queue, _target: target }
    }

    fn write(&mut self, lba: u32, version: u64) -> Status {
        let command = Command::new(op::WRITE, 1).dword(10, lba).dword(12, STEP - 1);
        self.queue.run(command.with(Data::Out(content(lba, version)))).unwrap().status()
    }

    fn read(&mut self, lba: u32) -> Vec<u8> {
        let command = Command::new(op::READ, 1).dword(10, lba).dword(12, STEP - 1);
        self.queue.run(command.with(Data::In(STEP * 4096))).unwrap().ok("a read").unwrap().data
    }

    fn smart(&mut self) -> SmartLog {
        let page = GetLogPage { lid: lid::SMART, ..GetLogPage::default() };
        let log = self.client.log_page(0xffff_ffff, page, 512).unwrap();
        SmartLog::read_from_prefix(&log).unwrap().0
    }

    fn namespace(&mut self) -> IdentifyNamespace {
        self.client.identify_namespace(1).unwrap()
    }

    fn ask(&self, args: &[&str]) -> serde_json::Value {
        let socket = self.dir.path("s");
        serde_json::from_str(&good(&[&["--socket", &socket], args, &["--json"]].concat())).unwrap()
    }
}

#[test]
fn hosts_are_told_that_room_runs_out_and_what_they_give_back_is_room_again() {
    let mut s = Stage::new();
    let id = s.namespace();
    assert!(id.nsfeat & nsfeat::THINP != 0 && id.nuse.get() == 0 && id.nsze.get() == 1 << 18);
    assert_eq!((s.smart().cw, s.smart().avspt), (0, 10));
    s.client.set_feature(fid::ASYNC_EVENT, 0, u32::from(critical::SPARE), Vec::new()).unwrap();
    let event = s.client.admin.submit(Command::new(admin::ASYNC_EVENT, 0)).unwrap();

    // Until nothing new is taken.
    let mut end = 0;
    let full = loop {
        let status = s.write(end, 0);
        if !status.is_success() {
            break status;
        }
        end += STEP;
        assert!(end < 64 << 8, "more is taken than the pool is large");
    };
    assert!(full.is(Status::CAPACITY_EXCEEDED), "{full}");
    let smart = s.smart();
    assert!(smart.cw & critical::SPARE != 0 && smart.avsp < smart.avspt, "{} {}", smart.cw, smart.avsp);
    let told = s.client.admin.wait(event).unwrap();
    assert_eq!(AsyncEvent::from_dw0(told.cqe.dw0.get()), AsyncEvent::SPARE);
    let written = u64::from(end);
    assert_eq!(s.namespace().nuse.get(), written, "what was refused is not in use");
    let freed = s.ask(&["volume", "show", "disk"])["space"]["freed_by_delete"].as_u64().unwrap();
    assert!(freed >= written * 4096 && freed < written * 4096 * 9 / 8, "{freed} of {written} blocks");

    // Reads and overwrites go on.
    assert!(s.read(0) == content(0, 0) && s.read(end - STEP) == content(end - STEP, 0));
    let status = s.write(STEP, 1);
    assert!(status.is_success(), "an overwrite: {status}");
    assert!(s.read(STEP) == content(STEP, 1));
    assert_eq!(s.namespace().nuse.get(), written);

    // Three quarters are given back.
    let back = end / 4 * 3;
    let range: Vec<u8> = [0u32, back, 0, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
    let trim = Command::new(op::DATASET_MANAGEMENT, 1).dword(11, 4).with(Data::Out(range));
    s.queue.run(trim).unwrap().ok("deallocate").unwrap();
    assert_eq!(s.namespace().nuse.get(), written - u64::from(back));
    let smart = s.smart();
    assert!(smart.cw & critical::SPARE == 0 && smart.avsp >= smart.avspt, "{} {}", smart.cw, smart.avsp);
    // The cleaner may have to gather it first.
    let until = Instant::now() + Duration::from_secs(60);
    for lba in (0..back / 2).step_by(STEP as usize) {
        while !s.write(lba, 2).is_success() {
            assert!(Instant::now() < until, "no room comes back");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(s.read(0) == content(0, 2) && s.read(end - STEP) == content(end - STEP, 0));

    // And all of it, when the volume goes.
    let unique = |s: &Stage| s.ask(&["pool", "status", "pool"])["status"]["unique"].as_u64().unwrap();
    assert!(unique(&s) > 0);
    let socket = s.dir.path("s");
    good(&["--socket", &socket, "subsystem", "remove-ns", NQN, "1"]);
    good(&["--socket", &socket, "volume", "delete", "disk"]);
    while unique(&s) > 0 {
        assert!(Instant::now() < until, "a deleted volume keeps its blocks: {}", unique(&s));
        std::thread::sleep(Duration::from_millis(20));
    }
}
