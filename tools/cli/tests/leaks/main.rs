//! Nothing secret leaves the program: neither on devices, nor in logs, answers, metrics, errors and records.
//!
//! A target writes planted blocks to a pool, deduplicates, checkpoints, rotates, is killed and closed; meanwhile everything that it says
//! is kept, at the most talkative level of its log. Then all of it is searched for the planted patterns, for each key of the
//! hierarchy, which the test has from the key file with the passphrase, and for fingerprints that anybody could compute.

#[path = "../support/mod.rs"]
mod support;

mod memory;
mod search;
#[path = "../../../../tests/sim/src/vault.rs"]
mod vault;

use caisson_daemon::pools::{Found, engine};
use caisson_initiator::{Client, Command, Data, Options};
use caisson_keys::{KeyProvider, PoolSecrets, Secret};
use caisson_log::{Cipher, Keyring, PoolId};
use caisson_providers::{SealedFile, format};
use caisson_wire::opcode::io;
use search::Search;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use support::{CAISSON, Dir};

const NQN: &str = "nqn.2024-01.com.example:leaks";
const PASSPHRASE: &[u8] = b"a passphrase that nobody may see";
const BLOCK: usize = 4096;

/// A block that compresses well, one that does not, and one that is mostly zeroes, each with something to be known by.
fn planted() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for n in 0..24u32 {
        let mark = format!("planted plaintext number {n:04} of a tenant; ");
        let text: Vec<u8> = mark.bytes().cycle().take(BLOCK).collect();
        let mut state = 0x9e37_79b9_u32.wrapping_mul(n + 1);
        let mut noise: Vec<u8> = (0..BLOCK)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                (state >> 9) as u8
            })
            .collect();
        noise[1000..1000 + mark.len()].copy_from_slice(mark.as_bytes());
        let mut sparse = vec![0; BLOCK];
        sparse[77..77 + mark.len()].copy_from_slice(mark.as_bytes());
        all.push((format!("text {n}"), text));
        all.push((format!("noise {n}"), noise));
        all.push((format!("sparse {n}"), sparse));
    }
    all
}

/// The planted blocks, their fingerprints without a key, names, and the passphrase.
fn content() -> Search {
    let mut search = Search::default();
    for (called, block) in planted() {
        let at = if called.starts_with("noise") {
            1000
        } else if called.starts_with("sparse") {
            77
        } else {
            0
        };
        search.add(&format!("plaintext of {called}"), &block[at..at + 40]);
        if called.starts_with("noise") {
            search.add(&format!("plaintext of {called}"), &block[2048..2112]);
        }
        search.add(&format!("unkeyed fingerprint of {called}"), blake3::hash(&block).as_bytes());
    }
    search.add("passphrase", PASSPHRASE);
    search
}

/// All keys of the pool, from its key file, its slots, and the derivations of the library.
fn keys(dir: &Dir, search: &mut Search) -> usize {
    let passphrase = || Secret::take(&mut PASSPHRASE.to_vec());
    let file = std::fs::read(dir.path("k")).unwrap();
    let (_, roots, _) = format::decode(&file, &passphrase()).unwrap();
    let mut n = roots.len();
    for root in &roots {
        search.add(&format!("root key {}", root.name()), root.key.expose());
    }
    let Found::Pool(plain) = engine().look(Path::new(&dir.path("p1"))).unwrap() else { panic!("no pool") };
    let provider = SealedFile::open(Path::new(&dir.path("k")), &passphrase()).unwrap();
    for slot in &plain.slots {
        let secret = provider.unwrap(&slot.wrapped, &slot.context(plain.pool)).unwrap();
        search.add(&format!("secret of domain {}", slot.domain), secret.expose());
        n += 1;
    }
    let secrets = caisson_keys::unlock(&[&provider], plain.pool, &plain.slots).unwrap();
    for domain in secrets.domains().collect::<Vec<_>>() {
        if let Some(key) = secrets.fingerprint(domain) {
            search.add(&format!("fingerprint key of domain {domain}"), key.expose());
            n += 1;
        }
    }
    for (domain, epoch, key) in secrets.epochs() {
        search.add(&format!("secret of domain {domain}, epoch {epoch}"), key.expose());
        n += 1;
    }
    let found = maps(dir, plain.pool, secrets);
    for vault in &found.vaults {
        search.add("vault key of a superblock", vault.expose());
    }
    for (family, key) in &found.keys {
        search.add(&format!("map key {family}"), key.expose());
    }
    n
}

impl vault::Disk for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        self[at as usize..][..len].to_vec()
    }
}

/// The map keys that the devices give, as they are now, to who can unlock the pool. A target may be writing them: what it is in the
/// middle of is not found.
fn maps(dir: &Dir, pool: [u8; 16], mut secrets: PoolSecrets) -> vault::Found {
    let devices: Vec<Vec<u8>> = ["p1", "p2"].map(|name| std::fs::read(dir.path(name)).unwrap()).to_vec();
    let epochs = secrets.take_epochs();
    let label = caisson_log::Superblock::decode_plain(&devices[0]);
    let cipher = label.map_or(Cipher::auto(), |label| label.cipher);
    vault::search(&devices, &Keyring::new(PoolId(pool), cipher, epochs).unwrap())
}

struct Stage {
    dir: Dir,
}

impl Stage {
    fn new(name: &str, pool: &str) -> Stage {
        let dir = Dir::new(&format!("leaks-{name}"));
        std::fs::write(dir.path("pass"), PASSPHRASE).unwrap();
        let text = format!(
            "data_dir = 'd'\n[management]\nsocket = '{}'\n[metrics]\naddress = ''\n[[pool]]\nname = 'main'\n{pool}\
             [[volume]]\nname = 'planted-name-of-a-volume'\npool = 'main'\nsize = '64M'\n[[subsystem]]\nnqn = '{NQN}'\n\
             allow_any_host = true\nnamespace = [{{ volume = 'planted-name-of-a-volume' }}]\n[[listener]]\naddress = \
             'tcp://127.0.0.1:0'\n",
            dir.path("s")
        );
        std::fs::write(dir.path("c.toml"), text).unwrap();
        Stage { dir }
    }

    /// Starts the target; all that it logs goes to the file `log`.
    fn serve(&self, log: &str) -> support::Running {
        let script = format!(
            "exec {CAISSON} serve --config {} --log trace 2>>{}",
            self.dir.path("c.toml"),
            self.dir.path(log)
        );
        let mut child = std::process::Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut said = String::new();
        let mut byte = [0];
        while !said.contains("managed over") || !said.ends_with('\n') {
            assert_eq!(out.read(&mut byte).unwrap(), 1, "it ended: {said}");
            said.push(char::from(byte[0]));
        }
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        support::Running { child, said }
    }

    /// Runs the program, and keeps what it said, whatever became of it.
    fn ask(&self, said: &mut Vec<u8>, args: &[&str]) {
        let socket = self.dir.path("s");
        let o = std::process::Command::new(CAISSON).args(["--socket", &socket]).args(args).output().unwrap();
        said.extend(o.stdout);
        said.extend(o.stderr);
    }

    /// What the management socket answers, to the byte.
    fn raw(&self, said: &mut Vec<u8>, path: &str) {
        let mut s = UnixStream::connect(self.dir.path("s")).unwrap();
        write!(s, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let before = said.len();
        s.read_to_end(said).unwrap();
        assert!(said[before..].starts_with(b"HTTP/1.1 200"), "{path}");
    }

    fn clean(&self, search: &Search, said: &[u8], when: &str) {
        let mut found = search.find(said);
        found.extend(search.find_in(&self.dir.0, &["pass", "wrong"]));
        assert_eq!(found, [] as [String; 0], "{when}");
    }
}

/// Writes the planted blocks from `lba` on and again further behind, so that they are duplicates, and reads one back.
fn write(t: &support::Running, lba: u64) {
    let address = t.listening()[0].parse().unwrap();
    let mut client = Client::connect(Options::new(address, NQN)).unwrap();
    let mut q = client.io_queue(1, 16).unwrap();
    let at = |opcode, lba: u64| Command::new(opcode, 1).dword(10, lba as u32);
    for round in 0..2 {
        for (n, (_, block)) in (0..).zip(planted()) {
            let done = q.run(at(io::WRITE, lba + round * 1000 + n).with(Data::Out(block))).unwrap();
            assert!(done.status().is_success());
        }
    }
    assert!(q.run(Command::new(io::FLUSH, 1)).unwrap().status().is_success());
    let read = q.run(at(io::READ, lba + 1001).with(Data::In(BLOCK as u32))).unwrap();
    assert_eq!(read.data, planted()[1].1);
}

const ANSWERS: &[&str] = &[
    "/v1/status",
    "/v1/connections",
    "/v1/pools",
    "/v1/pools/main",
    "/v1/keys",
    "/v1/pools/main/keys",
    "/v1/volumes",
    "/v1/subsystems",
    "/metrics",
];

const COMMANDS: &[&[&str]] = &[
    &["status", "--json"],
    &["pool", "status", "main", "--json"],
    &["key", "status", "--json"],
    &["key", "list", "main", "--json"],
    &["key", "rotate", "main", "--json"],
    &["key", "rotate", "main", "--domain", "default", "--json"],
    &["key", "audit", "--json"],
    &["pool", "scrub", "main"],
    &["metrics"],
];

#[test]
fn no_key_content_or_open_fingerprint_leaves_the_program() {
    let s = Stage::new(
        "pool",
        "key_file = 'k'\npassphrase_file = 'pass'\ndevice = [{ path = 'p1', size = '128M' }, { path = 'p2', size = '128M' }]\n",
    );
    let mut said = Vec::new();
    let t = s.serve("log");
    write(&t, 0);
    // Those of before the rotations, too, which are erased when nothing is sealed with them any more.
    let mut search = content();
    let before = keys(&s.dir, &mut search);
    COMMANDS.iter().for_each(|args| s.ask(&mut said, args));
    s.ask(&mut said, &["volume", "snapshot", "planted-name-of-a-volume", "planted-name-of-a-copy"]);
    ANSWERS.iter().for_each(|path| s.raw(&mut said, path));
    let shown = String::from_utf8_lossy(&said).into_owned();
    assert!(
        shown.contains("\"duplicate_blocks\":") && shown.contains("caisson_pool"),
        "the answers are there"
    );
    let after = keys(&s.dir, &mut search);
    assert!(before >= 6 && after >= 6, "{before} and {after} keys");
    s.clean(&search, &said, "while it serves");
    // Killed in the middle of a write, and recovered.
    write(&t, 3000);
    drop(t);
    s.clean(&search, &said, "after it was killed");
    let mut t = s.serve("log");
    write(&t, 6000);
    COMMANDS.iter().for_each(|args| s.ask(&mut said, args));
    // Errors of each kind.
    std::fs::write(s.dir.path("wrong"), "another passphrase of some length").unwrap();
    let (k, p, wrong) = (s.dir.path("k"), s.dir.path("p1"), s.dir.path("wrong"));
    s.ask(&mut said, &["key", "add", "main", "--key-file", &k, "--passphrase-file", &wrong]);
    s.ask(&mut said, &["key", "remove", "main", "--key-file", &k]);
    s.ask(&mut said, &["volume", "create", "planted-name-of-a-volume", "--size", "1G", "--pool", "main"]);
    s.ask(&mut said, &["check", &p, "--key-file", &k, "--passphrase-file", &wrong]);
    s.ask(&mut said, &["inspect", &p, "--json"]);
    assert!(String::from_utf8_lossy(&said).contains("passphrase is wrong"));
    assert_eq!(t.signal("INT"), Some(0));
    let n = keys(&s.dir, &mut search);
    // Closed, the devices give both: of the volume and its snapshot there is one map key.
    for what in ["vault key of a superblock", "map key 1"] {
        assert!(search.looks_for(what), "{what}");
    }
    assert!(n >= before + 2, "rotating made more root keys: {n}");
    s.clean(&search, &said, "after a clean end");
    let log = std::fs::read_to_string(s.dir.path("log")).unwrap();
    assert!(log.contains("INFO") && log.contains("wrapped by file root"), "the log is there: {log}");
    // On the devices, names of volumes are content, too.
    let mut names = Search::default();
    names.add("name of a volume", b"planted-name-of-a-volume");
    names.add("name of a snapshot", b"planted-name-of-a-copy");
    for device in ["p1", "p2"] {
        assert_eq!(names.find_in(Path::new(&s.dir.path(device)), &[]), [] as [String; 0]);
    }
    planted_leaks_are_found(&s, &search);
}

/// The search would have seen it: each kind of secret, put where it must not be.
fn planted_leaks_are_found(s: &Stage, search: &Search) {
    let passphrase = Secret::take(&mut PASSPHRASE.to_vec());
    let file = std::fs::read(s.dir.path("k")).unwrap();
    let (_, roots, _) = format::decode(&file, &passphrase).unwrap();
    let root = roots[0].key.expose();
    let (called, block) = planted().swap_remove(1);
    let fingerprint = *blake3::hash(&block).as_bytes();
    let mut device = std::fs::read(s.dir.path("p1")).unwrap();
    for (what, leak) in [
        ("root key", root),
        ("plaintext", &block[1000..1040]),
        ("unkeyed fingerprint", &fingerprint[..16]),
        ("passphrase", PASSPHRASE),
    ] {
        // In the midst of what the pool wrote.
        let at = (2 << 20) + 77;
        let was = device[at..at + leak.len()].to_vec();
        device[at..at + leak.len()].copy_from_slice(leak);
        let found = search.find(&device);
        assert!(
            found.iter().any(|f| f.starts_with(what) && f.ends_with(&format!("at byte {at}"))),
            "{what}: {found:?}"
        );
        device[at..at + leak.len()].copy_from_slice(&was);
        let line = format!("TRACE a line of a log with key={leak:?} in it");
        assert!(search.find(line.as_bytes()).iter().any(|f| f.starts_with(what)), "{what} in a log");
    }
    assert!(called.starts_with("noise"));
}

/// A volume without encryption is the counterexample: its content is on the disk, and the search says so.
#[test]
fn a_plain_volume_is_found_out() {
    let s = Stage::new("plain", "path = 'folder'\n");
    let mut t = s.serve("log");
    write(&t, 0);
    assert_eq!(t.signal("INT"), Some(0));
    let search = content();
    let found = search.find_in(&s.dir.0.join("folder"), &[]);
    for what in ["plaintext of text 0", "plaintext of noise 23", "plaintext of sparse 11"] {
        assert!(found.iter().any(|f| f.contains(what)), "{what} is not in {found:?}");
    }
    assert_eq!(search.find_in(Path::new(&s.dir.path("log")), &[]), [] as [String; 0]);
}
