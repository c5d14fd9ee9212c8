//! Volumes that are erased, by the operator and by hosts: what is gone, what goes on after a kill, and what waits for a key provider.

mod support;

use caisson_initiator::{Client, Command, Data, Error, Options, Queue};
use caisson_wire::Status;
use caisson_wire::erase::{FormatNvm, Sanitize, SanitizeStatus, sanact, ses, sos};
use caisson_wire::identify::{fna, oacs};
use caisson_wire::log::{GetLogPage, lid};
use caisson_wire::opcode::{admin, io};
use std::time::{Duration, Instant};
use support::{Dir, Running, bad, good};

const NQN: &str = "nqn.2024-01.com.example:erase";
const BLOCK: usize = 4096;
const BLOCKS: u64 = 64;

/// A target with the pool `main`, a volume that a host has, and another.
fn serve(dir: &Dir) -> Running {
    let text = format!(
        "data_dir = 'd'\n[management]\nsocket = '{}'\n[metrics]\naddress = ''\n[[pool]]\nname = 'main'\n\
         key_file = 'key'\npassphrase_file = 'pass'\ndevice = [{{ path = 'p', size = '256M' }}]\n\
         [[volume]]\nname = 'disk'\npool = 'main'\nsize = '16M'\n[[volume]]\nname = 'own'\npool = 'main'\nsize = '16M'\n\
         [[volume]]\nname = 'memory'\nbacking = 'ram'\nsize = '1M'\n\
         [[subsystem]]\nnqn = '{NQN}'\nallow_any_host = true\nallow_erase = true\nnamespace = [{{ volume = 'disk' }}]\n\
         [[listener]]\naddress = 'tcp://127.0.0.1:0'\n",
        dir.path("s")
    );
    std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
    std::fs::write(dir.path("c.toml"), text).unwrap();
    Running::start_with(&["serve", "--config", &dir.path("c.toml")], "managed over", &[])
}

fn client(t: &Running) -> Client {
    Client::connect(Options::new(t.listening()[0].parse().unwrap(), NQN)).unwrap()
}

fn block(lba: u64) -> Vec<u8> {
    let mut state = lba as u32 + 7;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    noise.take(BLOCK).collect()
}

fn at(opcode: u8, lba: u64) -> Command {
    Command::new(opcode, 1).dword(10, lba as u32)
}

/// The I/O queue, once the target has seen that the one before it is gone: until then its number is taken.
fn queue(c: &mut Client) -> Queue {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match c.io_queue(1, 16) {
            Err(Error::Status { status, .. }) if status.is(Status::COMMAND_SEQUENCE_ERROR) => {
                assert!(Instant::now() < end, "the queue before it does not go");
                std::thread::sleep(Duration::from_millis(5));
            }
            made => return made.unwrap(),
        }
    }
}

fn fill(c: &mut Client) {
    let mut q = queue(c);
    for lba in 0..BLOCKS {
        let done = q.run(at(io::WRITE, lba).with(Data::Out(block(lba)))).unwrap();
        assert!(done.status().is_success());
    }
    assert!(q.run(Command::new(io::FLUSH, 1)).unwrap().status().is_success());
}

/// Whether every block reads as zeroes; none may be anything but that or what was written.
fn empty(c: &mut Client) -> bool {
    let mut q = queue(c);
    let mut zero = 0;
    for lba in 0..BLOCKS {
        let read = q.run(at(io::READ, lba).with(Data::In(BLOCK as u32))).unwrap();
        assert!(read.status().is_success(), "{}", read.status());
        let nothing = read.data.iter().all(|b| *b == 0);
        assert!(nothing || read.data == block(lba), "block {lba}");
        zero += u64::from(nothing);
    }
    zero == BLOCKS
}

fn format(c: &mut Client, how: u8) -> Status {
    let mut command = Command::new(admin::FORMAT_NVM, 1);
    FormatNvm { ses: how, ..FormatNvm::default() }.put(&mut command.sqe);
    c.run(command).unwrap().status()
}

fn sanitize(c: &mut Client) -> Status {
    let mut command = Command::new(admin::SANITIZE, 0);
    Sanitize { action: sanact::CRYPTO_ERASE, ..Sanitize::default() }.put(&mut command.sqe);
    c.run(command).unwrap().status()
}

fn status(c: &mut Client) -> SanitizeStatus {
    let page = GetLogPage { lid: lid::SANITIZE, ..GetLogPage::default() };
    SanitizeStatus::decode(&c.log_page(0, page, 512).unwrap()).unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_operator_erases_and_deletes() {
    let dir = Dir::new("erase-operator");
    let t = serve(&dir);
    let socket = dir.path("s");
    let ask = |args: &[&str]| good(&[&["--socket", &socket][..], args].concat());
    let refused = |args: &[&str], words: &[&str]| bad(&[&["--socket", &socket][..], args].concat(), 4, words);
    fill(&mut client(&t));
    refused(&["volume", "erase", "disk", "--confirm", "own"], &["said again", "--confirm disk"]);
    refused(&["volume", "erase", "memory", "--confirm", "memory"], &["memory is not in a pool"]);
    refused(&["volume", "delete", "disk", "--erase"], &["is exported as namespace 1"]);
    ask(&["volume", "snapshot", "disk", "before"]);
    refused(&["volume", "erase", "before", "--confirm", "before"], &["a snapshot's content never changes"]);
    assert!(ask(&["volume", "erase", "disk", "--confirm", "disk", "--wait"]).contains("its keys are erased"));
    assert!(empty(&mut client(&t)));
    assert!(
        ask(&["key", "status", "main"]).contains("default: epoch 2"),
        "{}",
        ask(&["key", "status", "main"])
    );
    assert!(ask(&["volume", "delete", "before", "--erase", "--wait"]).contains("is deleted"));
    assert!(ask(&["key", "status", "main"]).contains("default: epoch 3"));
    // Its provider is away: what it waits for is told, and it goes on by itself.
    std::fs::rename(dir.path("key"), dir.path("away")).unwrap();
    ask(&["volume", "delete", "own", "--erase"]);
    until("nothing is said of the provider", || ask(&["key", "status", "main"]).contains("WAITS: "));
    assert!(ask(&["pool", "status", "main", "--json"]).contains("\"needs-epoch\""));
    std::fs::rename(dir.path("away"), dir.path("key")).unwrap();
    until("it does not go on", || !ask(&["key", "status", "main"]).contains("erasing"));
    assert!(ask(&["key", "status", "main"]).contains("default: epoch 4"));
    let log = ask(&["key", "audit"]);
    assert!(log.contains("erase") && log.contains("begins: volume disk"), "{log}");
    ask(&["key", "audit", "--verify"]);
}

#[test]
fn a_host_formats_and_sanitizes_over_kills() {
    let dir = Dir::new("erase-host");
    let t = serve(&dir);
    let mut c = client(&t);
    let d = c.identify_controller().unwrap();
    assert_eq!((d.oacs.get(), d.fna), (oacs::FORMAT, fna::CRYPTO | fna::NO_BROADCAST));
    assert_eq!(d.sanicap.get() & 0b111, 1);
    fill(&mut c);
    assert_eq!(format(&mut c, ses::CRYPTO), Status::SUCCESS);
    assert!(empty(&mut c));
    assert_eq!((status(&mut c).sprog.get(), status(&mut c).sstat.get()), (0xffff, 0));
    fill(&mut c);
    assert_eq!(sanitize(&mut c), Status::SUCCESS);
    until("it does not end", || status(&mut c).sstat.get() & 7 == u16::from(sos::COMPLETED));
    assert_eq!((status(&mut c).sstat.get(), status(&mut c).scdw10.get()), (0x101, 4));
    assert!(empty(&mut c));
    fill(&mut c);
    assert_eq!(status(&mut c).sstat.get(), 1, "something was written since");
    // Killed as soon as it is said to go on: it does, and the log says so.
    assert_eq!(sanitize(&mut c), Status::SUCCESS);
    drop(t);
    let t = serve(&dir);
    let mut c = client(&t);
    until("it does not end after a kill", || status(&mut c).sstat.get() & 7 == u16::from(sos::COMPLETED));
    assert!(empty(&mut c));
    // What it came to is kept, too.
    until("it is not kept", || {
        std::fs::read_dir(dir.path("d"))
            .unwrap()
            .any(|f| std::fs::read_to_string(f.unwrap().path()).is_ok_and(|s| s.contains("\"sanitize\"")))
    });
    let mut t = t;
    assert_eq!(t.signal("TERM"), Some(0));
    let t = serve(&dir);
    let mut c = client(&t);
    assert_eq!((status(&mut c).sstat.get() & 7, status(&mut c).scdw10.get()), (1, 4));
    let socket = dir.path("s");
    good(&["--socket", &socket, "subsystem", "allow-erase", NQN, "off"]);
    assert!(format(&mut c, ses::CRYPTO).is(Status::INVALID_OPCODE));
}
