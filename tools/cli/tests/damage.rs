//! Damage in the file of a pool, end to end: what a host is told of it, and what people are.

mod support;

use caisson_initiator::{Address, Client, Command, Data, Options};
use caisson_wire::Status;
use caisson_wire::feature::{AsyncEvent, aei, aet};
use caisson_wire::log::{ErrorEntry, GetLogPage, lid};
use caisson_wire::opcode::{admin, io as op};
use std::time::Duration;
use support::{Dir, Running, bad, good};

const NQN: &str = "nqn.2024-01.com.example:damage";
const BLOCKS: u32 = 256;

fn content(lba: u32) -> Vec<u8> {
    let mut x = u64::from(lba) + 1;
    let mut word = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..512).flat_map(|_| word().to_le_bytes()).collect()
}

fn export(dir: &Dir) -> (Running, Client) {
    let (store, key) = (format!("pool:{}", dir.path("p")), dir.path("key"));
    let (pass, socket) = (dir.path("pass"), dir.path("s"));
    let args = [
        "--socket",
        &socket,
        "export",
        &store,
        "--key-file",
        &key,
        "--passphrase-file",
        &pass,
        "--size",
        "64M",
        "--pool-size",
        "128M",
        "--nqn",
        NQN,
        "--listen",
        "tcp://127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
    ];
    let t = Running::start(&args, "Ctrl-C");
    let at = t.listening()[0].clone();
    let port = at.rsplit_once(':').unwrap().1.parse().unwrap();
    let mut options = Options::new(Address::new("127.0.0.1", port), NQN);
    options.kato_ms = 0;
    (t, Client::connect(options).unwrap())
}

fn at(opcode: u8, lba: u32) -> Command {
    Command::new(opcode, 1).dword(10, lba)
}

#[test]
fn damage_is_told_to_the_host_with_its_lba_and_to_people() {
    let dir = Dir::new("damage");
    std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
    let (mut t, mut client) = export(&dir);
    let mut queue = client.io_queue(1, 32).unwrap();
    for lba in 0..BLOCKS {
        let done = queue.run(at(op::WRITE, lba).with(Data::Out(content(lba)))).unwrap();
        assert!(done.status().is_success(), "{}", done.status());
    }
    drop((queue, client));
    assert_eq!(t.signal("INT"), Some(0));
    drop(t);

    // A bit of some batches: wherever it is found, it is in a record, for these blocks do not compress.
    let mut bytes = std::fs::read(dir.path("p")).unwrap();
    let of_log =
        |at: &usize| &bytes[*at..at + 8] == b"CAISBATC" && bytes[at + 10] == 1 && bytes[at + 21] >= 0x20;
    let batches: Vec<usize> = (1 << 20..bytes.len()).step_by(4096).filter(of_log).collect();
    batches.iter().step_by(9).for_each(|at| bytes[at + 3000] ^= 1);
    std::fs::write(dir.path("p"), &bytes).unwrap();

    let (t, mut client) = export(&dir);
    let mut queue = client.io_queue(1, 32).unwrap();
    let event = client.admin.submit(Command::new(admin::ASYNC_EVENT, 0)).unwrap();
    let mut lost = Vec::new();
    for lba in 0..BLOCKS {
        let done = queue.run(at(op::READ, lba).with(Data::In(4096))).unwrap();
        if done.status().is_success() {
            assert!(done.data == content(lba), "wrong data at block {lba}");
        } else {
            assert!(done.status().is(Status::UNRECOVERED_READ_ERROR), "{}", done.status());
            lost.push(lba);
        }
    }
    assert!(!lost.is_empty() && lost.len() < BLOCKS as usize / 2, "{lost:?}");

    // The host: an event, and the entry in the log page that it names, with the LBA.
    client.admin.poll(Duration::from_millis(500)).unwrap();
    let told = client.admin.wait(event).unwrap();
    let told = AsyncEvent::from_dw0(told.cqe.dw0.get());
    assert_eq!(told, AsyncEvent { aet: aet::ERROR, aei: aei::ERROR_TRANSIENT, lid: lid::ERROR });
    let page = GetLogPage { lid: lid::ERROR, ..GetLogPage::default() };
    let log = client.log_page(0xffff_ffff, page, 64).unwrap();
    let entry = ErrorEntry::decode(&log).unwrap();
    assert_eq!((entry.nsid.get(), entry.sqid.get()), (1, 1), "{entry:?}");
    assert_eq!(entry.lba.get(), u64::from(*lost.last().unwrap()), "the newest comes first: {entry:?}");

    // People: the status names block and cause, the metrics count.
    let ask = |args: &[&str]| good(&[&["--socket", &dir.path("s")], args].concat());
    let status = ask(&["pool", "status", "pool"]);
    for lba in &lost {
        let line = format!("block {lba}: a block does not authenticate");
        assert!(status.contains(&line), "{line} is not in: {status}");
    }
    assert!(status.contains("write what is lost anew") && !status.contains("device errors"), "{status}");
    let metrics = ask(&["metrics"]);
    let count = |name: &str| {
        let line =
            metrics.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {metrics}"));
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert!(count("caisson_pool_damaged_total") >= lost.len() as f64);
    assert!(count("caisson_pool_device_errors_total") == 0.0);
    drop((queue, client, t));

    // And the check finds the same.
    let check =
        ["check", &dir.path("p"), "--key-file", &dir.path("key"), "--passphrase-file", &dir.path("pass")];
    bad(&check, 1, &[&format!("{} blocks of 4 KiB are lost", lost.len())]);
}
