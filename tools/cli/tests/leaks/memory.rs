//! The memory of a target: what is left of keys in it, stacks of all threads included, when their domain was destroyed or their pool closed.

use crate::search::Search;
use crate::support::{Dir, Running, good};
use crate::{BLOCK, PASSPHRASE, planted};
use caisson_daemon::pools::{Found, engine};
use caisson_initiator::{Client, Command, Data, Options};
use caisson_keys::{PoolSecrets, Secret};
use caisson_log::{Keyring, PoolId, SUPERBLOCK_AT, Superblock, hkdf_sha256};
use caisson_providers::SealedFile;
use caisson_wire::opcode::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const NQN: &str = "nqn.2024-01.com.example:memory";

fn serve(dir: &Dir) -> Running {
    let text = format!(
        "data_dir = 'd'\n[management]\nsocket = '{}'\n[metrics]\naddress = ''\n[[pool]]\nname = 'main'\nkey_file = 'k'\n\
         passphrase_file = 'pass'\ndevice = [{{ path = 'p', size = '128M' }}]\n[[volume]]\nname = 'own'\npool = 'main'\n\
         size = '16M'\n[[volume]]\nname = 'tenant'\npool = 'main'\nsize = '16M'\ndomain = 'acme'\n[[subsystem]]\n\
         nqn = '{NQN}'\nallow_any_host = true\nnamespace = [{{ volume = 'own', nsid = 1 }}, {{ volume = 'tenant', nsid = 2 }}]\n\
         [[listener]]\naddress = 'tcp://127.0.0.1:0'\n",
        dir.path("s")
    );
    std::fs::write(dir.path("c.toml"), text).unwrap();
    // So that a user who is not root may look into it.
    Running::start_with(
        &["--allow-core-dumps", "serve", "--config", &dir.path("c.toml")],
        "managed over",
        &[],
    )
}

/// Writes to both namespaces, and reads back, so that keys of both domains are used on the data path.
fn used(t: &Running, nsids: &[u32]) {
    let mut client = Client::connect(Options::new(t.listening()[0].parse().unwrap(), NQN)).unwrap();
    let mut q = client.io_queue(1, 16).unwrap();
    for nsid in nsids {
        for (lba, (_, block)) in (0..).zip(planted()) {
            let at = |opcode| Command::new(opcode, *nsid).dword(10, lba);
            assert!(q.run(at(io::WRITE).with(Data::Out(block.clone()))).unwrap().status().is_success());
        }
        assert!(q.run(Command::new(io::FLUSH, *nsid)).unwrap().status().is_success());
        for (lba, (_, block)) in (0..).zip(planted()) {
            let read = Command::new(io::READ, *nsid).dword(10, lba).with(Data::In(BLOCK as u32));
            assert!(q.run(read).unwrap().data == block);
        }
    }
}

/// The secrets of the pool, from its slots, key file and passphrase.
fn secrets(dir: &Dir) -> PoolSecrets {
    let Found::Pool(plain) = engine().look(Path::new(&dir.path("p"))).unwrap() else { panic!("no pool") };
    let provider =
        SealedFile::open(Path::new(&dir.path("k")), &Secret::take(&mut PASSPHRASE.to_vec())).unwrap();
    caisson_keys::unlock(&[&provider], plain.pool, &plain.slots).unwrap()
}

/// All keys of the pool: secrets, fingerprint keys, and the keys of this opening that blocks are sealed with, of which the first round keys of
/// an expanded key are a copy.
fn keys(dir: &Dir) -> Vec<(u32, String, Vec<u8>)> {
    let secrets = secrets(dir);
    let front = std::fs::read(dir.path("p")).unwrap();
    let label = SUPERBLOCK_AT.iter().filter_map(|at| Superblock::decode_plain(&front[*at as usize..]).ok());
    let label = label.max_by_key(|l| l.counter).unwrap();
    let held = secrets.epochs().map(|(d, e, key)| ((d, e), Secret::take(&mut key.expose().to_vec())));
    let keyring = Keyring::new(PoolId(secrets.pool()), label.cipher, held).unwrap();
    let copies =
        SUPERBLOCK_AT.map(|at| Superblock::open(&keyring, &front[at as usize..][..caisson_log::SUPERBLOCK]));
    let newest = copies.into_iter().flatten().max_by_key(|(s, _)| s.counter).unwrap();
    let mut keys = Vec::new();
    for (domain, epoch, secret) in secrets.epochs() {
        let of = format!("domain {domain}, epoch {epoch}");
        keys.push((domain, format!("secret of {of}"), secret.expose().to_vec()));
        let (d, e) = (domain.to_le_bytes(), epoch.to_le_bytes());
        let info: [&[u8]; 5] = [b"caisson block v1", &secrets.pool(), &d, &e, &[label.cipher.code()]];
        let key = hkdf_sha256::<32>(secret.expose(), &newest.1.salt, &info);
        keys.push((domain, format!("block key of {of}"), key.to_vec()));
        if let Some(prints) = secrets.fingerprint(domain) {
            keys.push((domain, format!("fingerprint key of {of}"), prints.expose().to_vec()));
        }
    }
    keys
}

/// A part of a process's memory that it may write to.
struct Mapping {
    first: u64,
    end: u64,
    /// Whether it is locked.
    locked: bool,
    line: String,
}

fn mappings(t: &Running) -> Vec<Mapping> {
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps", t.child.id())).unwrap();
    let mut all: Vec<Mapping> = Vec::new();
    for line in maps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            all.last_mut().unwrap().locked = flags.split(' ').any(|flag| flag == "lo");
        } else if let Some((range, _)) = line.split_once(' ')
            && let Some((first, end)) = range.split_once('-')
        {
            let at = |hex| u64::from_str_radix(hex, 16).unwrap();
            all.push(Mapping { first: at(first), end: at(end), locked: false, line: line.into() });
        }
    }
    all.retain(|m| m.line.split(' ').nth(1).is_some_and(|p| p.starts_with("rw")));
    all
}

/// Its memory in pieces that overlap by what the longest form of anything may be, with their places.
fn memory(t: &Running, each: &mut dyn FnMut(&Mapping, u64, &[u8])) {
    let memory = std::fs::File::open(format!("/proc/{}/mem", t.child.id())).unwrap();
    for m in mappings(t) {
        for at in (m.first..m.end).step_by(1 << 20) {
            let mut piece = vec![0; (m.end - at).min((1 << 20) + 4096) as usize];
            // Memory that a device or the kernel shares cannot be read so.
            if memory.read_exact_at(&mut piece, at).is_ok() {
                each(&m, at, &piece);
            }
        }
    }
}

/// What of it is anywhere in a process's memory, and where.
fn found(t: &Running, search: &Search) -> Vec<String> {
    let mut all = Vec::new();
    memory(t, &mut |m, at, piece| {
        all.extend(search.find(piece).into_iter().map(|f| format!("{f} of {at:x}, in {}", m.line)));
    });
    all
}

/// Where the process's code is.
fn code(t: &Running) -> Vec<std::ops::Range<u64>> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", t.child.id())).unwrap();
    let executable = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|p| p.contains('x')));
    let range = executable.filter_map(|line| line.split_once(' ')?.0.split_once('-'));
    let at = |hex| u64::from_str_radix(hex, 16).unwrap();
    range.map(|(first, end)| at(first)..at(end)).collect()
}

/// What a block key was expanded to, out of the locked memory where it is, in pieces of 16 bytes: the round keys, of which the first are the
/// key, and the hash keys of GCM. What stands around those is no secret and the same for all keys: the count of rounds, and the functions
/// that compute with them. A piece is that where each half of it is a small number or a place in the program's code, as no half of a
/// key is.
fn expanded(t: &Running, key: &[u8]) -> Vec<Vec<u8>> {
    /// Bytes of an expanded key, which begins with the key.
    const LEN: usize = 544;
    let code = code(t);
    let plain = |half: u64| half <= u64::from(u32::MAX) || code.iter().any(|range| range.contains(&half));
    let mut pieces = Vec::new();
    memory(t, &mut |m, _, piece| {
        let at = m.locked.then(|| piece.windows(key.len()).position(|w| w == key)).flatten();
        let whole = at.and_then(|at| piece.get(at..at + LEN)).unwrap_or_default();
        pieces.extend(whole.as_chunks::<16>().0.iter().map(|p| p.to_vec()));
    });
    pieces.retain(|p| !p.as_chunks::<8>().0.iter().all(|half| plain(u64::from_le_bytes(*half))));
    pieces
}

#[test]
fn no_key_of_a_destroyed_domain_or_a_closed_pool_is_left() {
    let dir = Dir::new("memory");
    std::fs::write(dir.path("pass"), PASSPHRASE).unwrap();
    let t = serve(&dir);
    used(&t, &[1, 2]);
    let mut all = keys(&dir);
    let blocks: Vec<_> = all.iter().filter(|(_, called, _)| called.starts_with("block")).cloned().collect();
    for (domain, called, key) in blocks {
        let pieces = expanded(&t, &key);
        assert!(pieces.len() >= 15, "{called} is expanded in locked memory");
        let name = |n: usize| format!("expanded {called}, piece {n}");
        all.extend(pieces.into_iter().enumerate().map(|(n, piece)| (domain, name(n), piece)));
    }
    let looked = |which: &dyn Fn(u32) -> bool| {
        let mut search = Search::default();
        all.iter().filter(|(domain, ..)| which(*domain)).for_each(|(_, called, key)| search.add(called, key));
        // Those who work end their work, and rest.
        std::thread::sleep(Duration::from_millis(500));
        found(&t, &search)
    };
    // The search finds each, where it may be.
    let there = looked(&|_| true);
    for (_, called, _) in &all {
        assert!(there.iter().any(|f| f.starts_with(called.as_str())), "{called} is not found: {there:?}");
    }
    let ask = |args: &[&str]| good(&[&["--socket", &dir.path("s")][..], args].concat());
    ask(&["key", "destroy", "main", "--domain", "acme", "--confirm", "acme"]);
    let left = looked(&|domain| domain == 2);
    assert!(left.is_empty(), "of the destroyed domain: {left:#?}");
    used(&t, &[1]);
    for nsid in ["1", "2"] {
        ask(&["subsystem", "remove-ns", NQN, nsid]);
    }
    ask(&["volume", "delete", "own"]);
    ask(&["volume", "delete", "tenant"]);
    ask(&["pool", "remove", "main"]);
    let left = looked(&|_| true);
    assert!(left.is_empty(), "of the closed pool: {left:#?}");
}
