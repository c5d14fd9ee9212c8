//! A pool that fills, end to end: what the host is told before it is full and when it is, what goes on nevertheless, and whether the figures
//! that people are shown are true.

mod support;

use caisson_initiator::{Address, Client, Command, Data, Options, Queue};
use caisson_wire::Status;
use caisson_wire::feature::{AsyncEvent, fid};
use caisson_wire::identify::nsfeat;
use caisson_wire::log::{GetLogPage, SmartLog, critical, lid};
use caisson_wire::opcode::{admin, io as op};
use std::time::{Duration, Instant};
use support::{Dir, Running, good};

const NQN: &str = "nqn.2024-01.com.example:space";
const BLOCK: usize = 4096;
/// Blocks of one write.
const MANY: u32 = 16;

/// Content number `n`: unique, and does not compress.
fn content(n: u32) -> Vec<u8> {
    let mut x = u64::from(n) + 1;
    let mut word = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..BLOCK / 8).flat_map(|_| word().to_le_bytes()).collect()
}

struct Stage {
    dir: Dir,
    t: Running,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let dir = Dir::new(&format!("space-{name}"));
        std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
        let (store, key) = (format!("pool:{}", dir.path("p")), dir.path("key"));
        let (pass, socket) = (dir.path("pass"), dir.path("s"));
        let args = ["--socket", &socket, "export", &store, "--key-file", &key, "--passphrase-file", &pass];
        let more = ["--size", "1G", "--pool-size", "64M", "--nqn", NQN, "--listen", "tcp://127.0.0.1:0"];
        let t = Running::start(&[&args[..], &more].concat(), "Ctrl-C");
        Stage { dir, t }
    }

    fn connect(&self) -> Client {
        let at = self.t.listening()[0].clone();
        let port = at.rsplit_once(':').unwrap().1.parse().unwrap();
        let mut options = Options::new(Address::new("127.0.0.1", port), NQN);
        options.kato_ms = 0;
        Client::connect(options).unwrap()
    }

    fn ask(&self, args: &[&str]) -> String {
        good(&[&["--socket", &self.dir.path("s")], args].concat())
    }

    fn volume(&self, name: &str, what: &str) -> u64 {
        let v: serde_json::Value =
            serde_json::from_str(&self.ask(&["volume", "show", name, "--json"])).unwrap();
        v["space"][what].as_u64().unwrap_or_else(|| panic!("{v}"))
    }

    /// Bytes of the pool's devices that hold blocks, with their tags.
    fn stored(&self) -> u64 {
        let v: serde_json::Value =
            serde_json::from_str(&self.ask(&["pool", "status", "pool", "--json"])).unwrap();
        v["status"]["stored"].as_u64().unwrap_or_else(|| panic!("{v}"))
    }
}

fn smart(client: &mut Client) -> SmartLog {
    let page = GetLogPage { lid: lid::SMART, ..GetLogPage::default() };
    SmartLog::decode(&client.log_page(0xffff_ffff, page, 512).unwrap()).unwrap()
}

fn at(opcode: u8, lba: u32, blocks: u32) -> Command {
    Command::new(opcode, 1).dword(10, lba).dword(12, blocks - 1)
}

/// Writes contents `n`, `n + 1` and so on.
fn write(queue: &mut Queue, lba: u32, n: u32, blocks: u32) -> Status {
    let data = (n..n + blocks).flat_map(content).collect();
    queue.run(at(op::WRITE, lba, blocks).with(Data::Out(data))).unwrap().status()
}

fn deallocate(queue: &mut Queue, lba: u64, blocks: u32) {
    let mut range = vec![0; 16];
    range[4..8].copy_from_slice(&blocks.to_le_bytes());
    range[8..].copy_from_slice(&lba.to_le_bytes());
    let command = Command::new(op::DATASET_MANAGEMENT, 1).dword(11, 4).with(Data::Out(range));
    let done = queue.run(command).unwrap();
    assert!(done.status().is_success(), "{}", done.status());
}

/// Tries until it holds; what it waits for is done in the background, or looked at once a second.
fn within(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_pool_that_fills_says_so_and_serves_on() {
    let s = Stage::new("full");
    let mut client = s.connect();
    let fresh = smart(&mut client);
    assert_eq!((fresh.cw & critical::SPARE, fresh.avspt), (0, 10));
    assert!(fresh.avsp > 90, "{}", fresh.avsp);
    let empty = client.identify_namespace(1).unwrap();
    assert_eq!((empty.nuse.get(), empty.nsze.get()), (0, 1 << 18));
    assert_eq!(empty.nsfeat & nsfeat::THINP, nsfeat::THINP);

    // Filled until new data is refused, by a host that wants to be told.
    let mut queue = client.io_queue(1, 32).unwrap();
    client.set_feature(fid::ASYNC_EVENT, 0, u32::from(critical::SPARE), Vec::new()).unwrap();
    let event = client.admin.submit(Command::new(admin::ASYNC_EVENT, 0)).unwrap();
    let mut held = 0;
    let refused = loop {
        let status = write(&mut queue, held, held, MANY);
        if !status.is_success() {
            break status;
        }
        held += MANY;
    };
    assert!(refused.is(Status::CAPACITY_EXCEEDED), "{refused}");
    assert!(u64::from(held) * BLOCK as u64 > 40 << 20, "full with {held} blocks");

    // The host was told, and sees it where it looks.
    client.admin.poll(Duration::from_secs(3)).unwrap();
    let told = client.admin.wait(event).unwrap();
    assert_eq!(AsyncEvent::from_dw0(told.cqe.dw0.get()), AsyncEvent::SPARE);
    let full = smart(&mut client);
    assert_eq!(full.cw & critical::SPARE, critical::SPARE);
    assert!(full.avsp < 10, "{}", full.avsp);
    let used = client.identify_namespace(1).unwrap().nuse.get();
    // What was refused may have got in part of the way.
    assert!((u64::from(held)..=u64::from(held + MANY)).contains(&used), "{used} of {held}");
    assert_eq!(s.volume("disk", "mapped"), used * BLOCK as u64);

    // Overwrites, reads and zeroes go on.
    for lba in (0..held).step_by(MANY as usize) {
        let status = write(&mut queue, lba, 1_000_000 + lba, MANY);
        assert!(status.is_success(), "overwrite of {lba}: {status}");
    }
    for lba in 0..held {
        let done = queue.run(at(op::READ, lba, 1).with(Data::In(BLOCK as u32))).unwrap();
        assert!(done.status().is_success(), "{}", done.status());
        assert!(done.data == content(1_000_000 + lba), "wrong data at block {lba}");
    }

    // What is deallocated is room again: in NUSE at once, for new data when the pool has cleaned.
    deallocate(&mut queue, 0, held / 2);
    let less = client.identify_namespace(1).unwrap().nuse.get();
    assert_eq!(less, used - u64::from(held / 2));
    within("no room after half of it was deallocated", || smart(&mut client).cw & critical::SPARE == 0);
    within("new data is refused still", || write(&mut queue, 200_000, 2_000_000, MANY).is_success());
}

#[test]
fn what_a_deletion_frees_is_what_was_said() {
    let s = Stage::new("freed");
    let mut client = s.connect();
    let mut queue = client.io_queue(1, 32).unwrap();
    let block = BLOCK as u64;
    for lba in (0..2048).step_by(MANY as usize) {
        assert!(write(&mut queue, lba, lba, MANY).is_success());
    }
    // Shared whole, a snapshot would free nothing.
    s.ask(&["volume", "snapshot", "disk", "before"]);
    assert!(s.volume("before", "freed_by_delete") < 64 << 10);
    // Now it alone holds the old contents of 1024 blocks, and the volume the new ones; 512 of these are the same as others that it holds.
    for lba in (0..1024).step_by(MANY as usize) {
        let n = if lba < 512 { 1_000_000 + lba } else { 1024 + lba };
        assert!(write(&mut queue, lba, n, MANY).is_success());
    }
    assert_eq!(s.volume("disk", "mapped"), 2048 * block);
    let said = s.volume("before", "freed_by_delete");
    assert!((1024 * block..1024 * (block + 128)).contains(&said), "{said}");
    let before = s.stored();
    s.ask(&["volume", "delete", "before"]);
    within("what the snapshot held is not free", || s.stored() < before - 1024 * block);
    std::thread::sleep(Duration::from_millis(200));
    let freed = before - s.stored();
    assert!(freed.abs_diff(said) < 256 << 10, "said {said}, freed {freed}");
}
