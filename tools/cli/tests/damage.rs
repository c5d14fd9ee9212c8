//! Damage in the file of a pool, and reads that its device refuses, end to end: what a host is told of it, and what people are.

mod support;

use caisson_initiator::{Address, Client, Command, Data, Options};
use caisson_wire::Status;
use caisson_wire::feature::{AsyncEvent, aei, aet};
use caisson_wire::log::{ErrorEntry, GetLogPage, lid};
use caisson_wire::opcode::{admin, io as op};
use std::ops::Range;
use std::time::{Duration, Instant};
use support::refuse::{READS, refusing};
use support::{Dir, Running, bad, caisson, err, good};

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

/// A pool, written to, each block in a batch of its own, and closed; gives its bytes.
fn filled(dir: &Dir) -> Vec<u8> {
    std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
    let (mut t, mut client) = export(dir);
    let mut queue = client.io_queue(1, 32).unwrap();
    for lba in 0..BLOCKS {
        let fua = at(op::WRITE, lba).dword(12, 1 << 30);
        let done = queue.run(fua.with(Data::Out(content(lba)))).unwrap();
        assert!(done.status().is_success(), "{}", done.status());
    }
    drop((queue, client));
    assert_eq!(t.signal("INT"), Some(0));
    std::fs::read(dir.path("p")).unwrap()
}

/// The batches of the log that carry one of these blocks, which do not compress: all of it, and the record in it.
fn batches(bytes: &[u8]) -> Vec<(Range<usize>, Range<usize>)> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let of_log = |at: &usize| &bytes[*at..at + 8] == b"CAISBATC" && bytes[at + 10] == 1;
    let all = (1 << 20..bytes.len()).step_by(4096).filter(of_log);
    let parts = all.map(|at| (at..at + word(at + 20), at + word(at + 16)..at + word(at + 16) + 4096 + 16));
    parts.filter(|(all, _)| all.len() == 8192).collect()
}

/// Reads everything: what is read is right. Gives what is not, which the host is told of by an event and by the log page that it
/// names, with the LBA.
fn lost(client: &mut Client) -> Vec<u32> {
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
    client.admin.poll(Duration::from_millis(500)).unwrap();
    let told = client.admin.wait(event).unwrap();
    let told = AsyncEvent::from_dw0(told.cqe.dw0.get());
    assert_eq!(told, AsyncEvent { aet: aet::ERROR, aei: aei::ERROR_TRANSIENT, lid: lid::ERROR });
    let page = GetLogPage { lid: lid::ERROR, ..GetLogPage::default() };
    let log = client.log_page(0xffff_ffff, page, 64).unwrap();
    let entry = ErrorEntry::decode(&log).unwrap();
    assert_eq!((entry.nsid.get(), entry.sqid.get()), (1, 1), "{entry:?}");
    assert_eq!(entry.lba.get(), u64::from(*lost.last().unwrap()), "the newest comes first: {entry:?}");
    lost
}

/// What people see of it: a line of status for each block, which says `why`, and the metrics. Gives how many reads devices refused.
fn told(dir: &Dir, lost: &[u32], why: &str) -> f64 {
    let ask = |args: &[&str]| good(&[&["--socket", &dir.path("s")], args].concat());
    let status = ask(&["pool", "status", "pool"]);
    for lba in lost {
        let line = status.lines().find(|l| l.contains(&format!("volume disk, block {lba}: a block")));
        assert!(line.is_some_and(|l| l.contains(why)), "block {lba}, {why}: {status}");
    }
    assert!(status.contains("write what is lost anew"), "{status}");
    let summary = ask(&["status"]);
    assert!(summary.contains("DAMAGED: pool pool"), "{summary}");
    let metrics = ask(&["metrics"]);
    let count = |name: &str| {
        let line =
            metrics.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {metrics}"));
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert!(count("caisson_pool_damaged_total") >= lost.len() as f64);
    let refused = count("caisson_pool_device_errors_total");
    assert_eq!(status.contains("device errors"), refused > 0.0, "{status}");
    refused
}

/// Has the pool scrubbed, which finds the same.
fn scrubbed(dir: &Dir, lost: &[u32]) {
    let ask = |args: &[&str]| good(&[&["--socket", &dir.path("s")], args].concat());
    ask(&["pool", "scrub", "pool", "--rate", "1G"]);
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        let status = ask(&["pool", "status", "pool"]);
        if status.contains("came to its end") {
            break status;
        }
        assert!(Instant::now() < end, "{status}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let blocks = if lost.len() == 1 { "1 block".to_owned() } else { format!("{} blocks", lost.len()) };
    assert!(status.contains(&format!("{blocks} of 4 KiB lost")), "{status}");
    for lba in lost {
        let line = format!("volume \"disk\": LBA {lba}: stored at segment ");
        assert!(status.contains(&line), "{line} is not in: {status}");
    }
}

/// Some damage to a pool's bytes, which are given with where its batches and the records in them stand.
type Damage = fn(&mut [u8], &[(Range<usize>, Range<usize>)]);

fn swap(bytes: &mut [u8], a: &Range<usize>, b: &Range<usize>) {
    let one = bytes[a.clone()].to_vec();
    bytes.copy_within(b.clone(), a.start);
    bytes[b.clone()].copy_from_slice(&one);
}

#[test]
fn damage_is_told_to_the_host_with_its_lba_and_to_people() {
    let dir = Dir::new("damage");
    let whole = filled(&dir);
    let batches = batches(&whole);
    assert!(batches.len() > BLOCKS as usize / 2, "{}", batches.len());
    let kinds: [(&str, usize, Damage); 5] = [
        ("flipped bits", 20, |bytes, at| {
            at.iter().step_by(at.len().div_ceil(20)).for_each(|(_, record)| bytes[record.start + 3000] ^= 1);
        }),
        ("two records swapped", 2, |bytes, at| swap(bytes, &at[7].1, &at[90].1)),
        ("two batches swapped", 2, |bytes, at| swap(bytes, &at[3].0, &at[55].0)),
        ("a batch written over another", 1, |bytes, at| bytes.copy_within(at[3].0.clone(), at[55].0.start)),
        ("batches that were never written", 3, |bytes, at| {
            at[20..23].iter().for_each(|(all, _)| bytes[all.clone()].fill(0));
        }),
    ];
    for (what, most, damage) in kinds {
        println!("{what}");
        let mut bytes = whole.clone();
        damage(&mut bytes, &batches);
        std::fs::write(dir.path("p"), &bytes).unwrap();
        let (mut t, mut client) = export(&dir);
        let lost = lost(&mut client);
        assert!(lost.len() <= most, "{what}: {lost:?}");
        let refused = told(&dir, &lost, "does not authenticate");
        assert!(refused == 0.0, "{what}");
        scrubbed(&dir, &lost);
        drop(client);
        assert_eq!(t.signal("INT"), Some(0));
        drop(t);
        // And the check finds the same.
        let (pool, key, pass) = (dir.path("p"), dir.path("key"), dir.path("pass"));
        let check = ["check", &pool, "--key-file", &key, "--passphrase-file", &pass];
        let blocks = if lost.len() == 1 {
            "1 block of 4 KiB is lost".into()
        } else {
            format!("{} blocks of 4 KiB are lost", lost.len())
        };
        bad(&check, 1, &[&blocks]);
    }
}

/// The system answers reads of some bytes with EIO, as it does for a disk that has lost them.
#[test]
fn a_read_that_the_device_refuses_is_told_as_the_devices() {
    let dir = Dir::new("refused");
    let whole = filled(&dir);
    let batches = batches(&whole);
    // A device that wants aligned reads is read from the batch's beginning on.
    let bad_bytes = batches[40].0.start as u64..batches[40].0.end as u64;
    let (mut t, mut client) = refusing(READS, bad_bytes.clone(), || export(&dir));
    let lost = lost(&mut client);
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(told(&dir, &lost, "os error 5") >= 1.0);
    let status = good(&["--socket", &dir.path("s"), "pool", "status", "pool"]);
    for words in ["cannot be read from", &dir.path("p"), "SMART"] {
        assert!(status.contains(words), "{words} is not in: {status}");
    }
    drop(client);
    assert_eq!(t.signal("INT"), Some(0));
    drop(t);
    let (pool, key, pass) = (dir.path("p"), dir.path("key"), dir.path("pass"));
    let check = ["check", &pool, "--key-file", &key, "--passphrase-file", &pass];
    let checked = refusing(READS, bad_bytes, || caisson(&check));
    assert_eq!(checked.status.code(), Some(1), "{}", err(&checked));
    assert!(err(&checked).contains("1 block of 4 KiB is lost"), "{}", err(&checked));
    assert!(String::from_utf8_lossy(&checked.stdout).contains("os error 5"));
    // The device is what it was: nothing of it was given up.
    assert!(good(&check).contains("the pool is whole"));
}
