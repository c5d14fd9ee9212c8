//! The key service in a process of its own: what it keeps from the target, whom it answers, and that either may go and come back.

mod support;

use caisson_keys::{Context, KeyError, KeyProvider, KeyUri, ProviderStatus, Purpose, Secret, Wrapped};
use caisson_providers::{How, format, open};
use caisson_service::{Server, Users};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use support::stage::Stage;
use support::{CAISSON, Running, err, good};

struct Scene {
    s: Stage,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let s = Stage::new(&format!("kms-{name}"));
        let (file, pass) = (s.dir.path("root"), s.dir.path("pass"));
        let audit = s.dir.path("kms");
        std::fs::create_dir(&audit).unwrap();
        // In the log that the service goes on with.
        good(&["key", "create", "--key-file", &file, "--passphrase-file", &pass, "--audit", &audit]);
        Scene { s }
    }

    fn key(&self) -> String {
        format!("kms:key=main?socket={}", self.s.dir.path("kms.sock"))
    }

    fn config(&self) {
        let key = self.key();
        self.s.config(&format!("keys = [\"{key}\"]\ndevice = [{{ path = 'p', size = '256M' }}]\n"));
    }

    /// The service's command line.
    fn args(&self, more: &[&str]) -> Vec<String> {
        let d = &self.s.dir;
        let uri = format!("main=file:{}?passphrase-file={}", d.path("root"), d.path("pass"));
        let (at, audit) = (d.path("kms.sock"), d.path("kms"));
        let fixed = ["kms", "serve", "--at", &at, "--audit", &audit, "--key", &uri];
        [&fixed[..], more].concat().iter().map(ToString::to_string).collect()
    }

    fn service(&self, more: &[&str]) -> Running {
        let args = self.args(more);
        Running::start(&args.iter().map(String::as_str).collect::<Vec<_>>(), "serving keys")
    }

    fn await_keys(&self) {
        for _ in 0..600 {
            if !self.s.ask(&["key", "status", "main"]).contains("WAITS FOR ITS KEYS") {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the pool waits on: {}", self.s.ask(&["key", "status", "main"]));
    }

    fn root_keys(&self) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(self.s.dir.path("root")).unwrap();
        let passphrase = Secret::take(&mut b"correct horse".to_vec());
        let (_, roots, _) = format::decode(&bytes, &passphrase).unwrap();
        roots.iter().map(|r| r.key.expose().to_vec()).collect()
    }
}

/// Whether these bytes are anywhere in what a process may write to.
fn has_in_memory(process: &Running, what: &[u8]) -> bool {
    let id = process.child.id();
    let maps = std::fs::read_to_string(format!("/proc/{id}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{id}/mem")).unwrap();
    let mut page = vec![0; 1 << 20];
    for line in maps.lines().filter(|l| l.split(' ').nth(1).is_some_and(|p| p.starts_with("rw"))) {
        let (first, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(first, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        while at < end {
            let n = page.len().min((end - at) as usize);
            // Memory that a device or the kernel shares cannot be read so.
            if memory.read_exact_at(&mut page[..n], at).is_ok()
                && page[..n].iter().any(|b| *b != 0)
                && page[..n].windows(what.len()).any(|w| w[0] == what[0] && w == what)
            {
                return true;
            }
            at += n as u64;
        }
    }
    false
}

#[test]
fn the_target_holds_no_root_key_and_either_may_go_and_come_back() {
    let c = Scene::new("apart");
    c.config();
    // So that a user who is not root may look into both.
    let mut service = c.service(&["--allow-core-dumps"]);
    let t = c.s.serve();
    c.s.perf(&t, "write");
    let status = c.s.ask(&["key", "status", "main"]);
    assert!(status.contains("ready") && status.contains("kms root:"), "{status}");
    assert!(c.s.ask(&["key", "rotate", "main"]).contains("new root keys"));
    let keys = c.root_keys();
    assert_eq!(keys.len(), 2);
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        for key in &keys {
            assert!(!has_in_memory(&t, key), "a root key is in the memory of the target");
            assert!(has_in_memory(&service, key), "where it is, it is found");
        }
        assert!(!has_in_memory(&t, b"correct horse"), "the passphrase is in the memory of the target");
    }
    // The service goes: what is unlocked serves on, and what needs it says so.
    service.signal("KILL");
    c.s.perf(&t, "read");
    c.s.fails(&c.s.own(&["key", "rotate", "main"]), 4, &["does not answer"]);
    assert!(c.s.ask(&["key", "status", "main"]).contains("away"));
    let service = c.service(&[]);
    assert!(c.s.ask(&["key", "rotate", "main"]).contains("new root keys"));
    drop((t, service));
    let t = c.s.serve();
    let status = c.s.ask(&["key", "status", "main"]);
    assert!(status.contains("WAITS FOR ITS KEYS") && status.contains("by itself"), "{status}");
    let service = c.service(&[]);
    c.await_keys();
    c.s.perf(&t, "read");
    drop(service);
    let log = c.s.dir.path("kms/audit.log");
    let said = c.s.ask(&["key", "audit", &log]);
    for word in ["create", "wrap", "unwrap", "add-root", "begins: main, for user", "whole and signed"] {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
}

/// Killed while it wraps, unwraps or makes root keys: the pool opens with the old or the new.
#[test]
fn a_service_that_is_killed_leaves_the_old_or_the_new() {
    let c = Scene::new("killed");
    c.config();
    let first = c.service(&[]);
    let t = c.s.serve();
    c.s.perf(&t, "write");
    drop((t, first));
    for pause in [1, 5, 10, 20, 40, 60, 80, 120] {
        let mut service = c.service(&[]);
        let t = c.s.serve();
        let mut rotate = Command::new(CAISSON)
            .args(c.s.own(&["key", "rotate", "main"]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        service.signal("KILL");
        rotate.wait().unwrap();
        drop(t);
        let _again = c.service(&[]);
        let checked = c.s.ask(&["check", &c.s.dir.path("p"), "--key", &c.key()]);
        assert!(checked.contains("the pool is whole"), "after {pause} ms: {checked}");
    }
    let _last = c.service(&[]);
    let t = c.s.serve();
    c.s.perf(&t, "read");
    assert!(
        c.s.ask(&["key", "audit", &c.s.dir.path("kms/audit.log"), "--verify"]).contains("whole and signed")
    );
}

/// The root key that wraps the pool's keys.
fn root(c: &Scene) -> String {
    let all: serde_json::Value = serde_json::from_str(&c.s.ask(&["key", "list", "main", "--json"])).unwrap();
    all[0]["root"].as_str().unwrap().to_string()
}

/// This user, which the target and the service run as.
fn me() -> String {
    std::fs::metadata("/proc/self").unwrap().uid().to_string()
}

/// Only where the service was told so, by the name said again, and not while a pool needs the key.
#[test]
fn root_keys_end_by_way_of_the_service_where_it_may() {
    let c = Scene::new("ends");
    c.config();
    let service = c.service(&[]);
    let t = c.s.serve();
    c.s.perf(&t, "write");
    let first = root(&c);
    assert!(c.s.ask(&["key", "rotate", "main"]).contains("new root keys"));
    let second = root(&c);
    assert_ne!(first, second);
    let end = |verb: &str, root: &str| c.s.own(&["key", verb, "main", "--root", root, "--confirm", root]);
    for verb in ["revoke", "destroy"] {
        let user = format!("user {} may not end root keys", me());
        c.s.fails(&end(verb, &first), 4, &[&user, "in the key manager behind", "--allow-end"]);
    }
    assert_eq!(c.root_keys().len(), 2, "nothing is gone");
    drop(service);
    // One who is to end keys must be one who may ask.
    c.s.fails(
        &c.args(&["--allow-end", "12345"]),
        1,
        &["user 12345", "may not even ask", "--allow-uid 12345"],
    );
    let service = c.service(&["--allow-end", &me()]);
    let unsaid = c.s.own(&["key", "destroy", "main", "--root", &first, "--confirm", "x"]);
    c.s.fails(&unsaid, 4, &["said again"]);
    c.s.fails(&end("destroy", &second), 4, &["pool \"main\" needs root key", "caisson key rotate main"]);
    // What the provider behind it cannot do is its own to say.
    c.s.fails(&end("revoke", &first), 4, &["cannot take root key", "key destroy"]);
    c.s.ask(&["key", "destroy", "main", "--root", &first, "--confirm", &first]);
    assert_eq!(c.root_keys().len(), 1);
    c.s.fails(&end("destroy", &first), 4, &["has a root key"]);
    c.s.perf(&t, "read");
    drop((t, service));
    let _service = c.service(&[]);
    let t = c.s.serve();
    c.s.perf(&t, "read");
    let said = c.s.ask(&["key", "audit", &c.s.dir.path("kms/audit.log"), "--verify"]);
    assert!(said.contains("whole and signed"), "{said}");
    let said = c.s.ask(&["key", "audit", &c.s.dir.path("kms/audit.log")]);
    for word in ["refused", "may not end root keys", "begins: main, for user", "destroy-root", &first] {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
    assert!(c.s.ask(&["key", "audit"]).contains("destroy-root"), "in the target's own, too");
}

/// Killed while it destroys a root key, and away before: the pool opens each time, and asking again ends the key where it is still there.
#[test]
fn a_service_that_is_killed_while_it_ends_a_root_key_leaves_a_pool_that_opens() {
    let c = Scene::new("ends-killed");
    c.config();
    let may = ["--allow-end", &me()];
    let first = c.service(&may);
    let t = c.s.serve();
    c.s.perf(&t, "write");
    // Away: nothing is given up for a key that cannot be ended.
    let old = root(&c);
    c.s.ask(&["key", "rotate", "main"]);
    let before = c.s.ask(&["key", "list", "main"]);
    drop(first);
    let end = |root: &str| c.s.own(&["key", "destroy", "main", "--root", root, "--confirm", root]);
    c.s.fails(&end(&old), 4, &["cannot be asked", "does not answer"]);
    assert_eq!(c.s.ask(&["key", "list", "main"]), before);
    drop(t);
    for pause in [1, 5, 20, 80] {
        let mut service = c.service(&may);
        let t = c.s.serve();
        let old = root(&c);
        c.s.ask(&["key", "rotate", "main"]);
        let mut asks = Command::new(CAISSON)
            .args(end(&old))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        service.signal("KILL");
        let done = asks.wait().unwrap().success();
        drop(service);
        let _again = c.service(&may);
        let there = c.root_keys().len();
        let o = Command::new(CAISSON).args(end(&old)).output().unwrap();
        let ended = o.status.success();
        assert!(ended || err(&o).contains("has a root key"), "after {pause} ms: {}", err(&o));
        assert!(!done || !ended, "what was confirmed is done");
        assert_eq!(c.root_keys().len(), there - usize::from(ended), "after {pause} ms");
        drop(t);
        let checked = c.s.ask(&["check", &c.s.dir.path("p"), "--key", &c.key()]);
        assert!(checked.contains("the pool is whole"), "after {pause} ms: {checked}");
    }
    let _last = c.service(&[]);
    let t = c.s.serve();
    c.s.perf(&t, "read");
    let said = c.s.ask(&["key", "audit", &c.s.dir.path("kms/audit.log"), "--verify"]);
    assert!(said.contains("whole and signed"), "{said}");
}

#[test]
fn nobody_else_is_answered() {
    let c = Scene::new("others");
    let service = c.service(&[]);
    let socket = c.s.dir.path("kms.sock");
    let meta = std::fs::metadata(&socket).unwrap();
    assert_eq!(meta.mode() & 0o777, 0o600);
    let ask = |uri: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.args([CAISSON, "key", "create", "--key", uri]).output().unwrap()
    };
    c.s.fails(
        &c.s.own(&["key", "create", "--key", &c.key().replace("main", "none")]),
        1,
        &["no token \"none\"", "main"],
    );
    // A second service does not take the socket of one that runs, nor names twice.
    c.s.fails(&c.args(&[]), 1, &["cannot be listened at"]);
    c.s.fails(&c.args(&["--key", "main=file:/x"]), 1, &["two keys called main"]);
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    // By the permissions of the socket.
    Command::new("chmod").args(["755"]).arg(&c.s.dir.0).status().unwrap();
    let o = ask(&c.key());
    assert!(!o.status.success() && err(&o).contains("may not open its socket"), "{}", err(&o));
    drop(service);
    // By who they are: the socket is another user's, and root, who may open it, is not allowed to ask.
    let _service = c.service(&["--allow-uid", "65534"]);
    let refused = c.s.own(&["key", "create", "--key", &c.key()]);
    c.s.fails(&refused, 1, &["user 0 is not allowed to ask", "--allow-uid 0"]);
    let o = ask(&c.key());
    assert!(o.status.success(), "{}", err(&o));
    let said = c.s.ask(&["key", "audit", &c.s.dir.path("kms/audit.log")]);
    assert!(said.contains("refused") && said.contains("user 0 is not allowed"), "{said}");
    assert!(said.contains("add-root") && said.contains("for user 65534"), "{said}");
}

/// What a target that was taken over may send: each connection ends by itself, and the next is served.
#[test]
fn hostile_bytes_end_their_own_connection() {
    let c = Scene::new("hostile");
    let service = c.service(&[]);
    let connect = || {
        let s = UnixStream::connect(c.s.dir.path("kms.sock")).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        s
    };
    let roots = || {
        let mut s = connect();
        s.write_all(b"\x08\0\0\0\x01\x02\x04\0main").unwrap();
        let mut head = [0; 4];
        s.read_exact(&mut head).unwrap();
        let mut frame = vec![0; u32::from_le_bytes(head) as usize];
        s.read_exact(&mut frame).unwrap();
        assert_eq!(frame[..2], [1, 2]);
    };
    roots();
    let mut state = 0x1234_5678_u32;
    let mut random = |n: usize| -> Vec<u8> {
        let byte = |_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        (0..n).map(byte).collect()
    };
    let mut sent: Vec<Vec<u8>> = vec![
        vec![],
        vec![0xff; 4],
        vec![0; 4],
        vec![1, 0, 0, 0, 1],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\x08\0\0\0\x02\x02\x04\0main".to_vec(),
        b"\x08\0\0\0\x01\x09\x04\0main".to_vec(),
        // A reason that there is not, and more behind a root key's name.
        b"\x0e\0\0\0\x01\x06\x04\0main\x03\0r:1\x03".to_vec(),
        b"\x0e\0\0\0\x01\x07\x04\0main\x03\0r:1\x00".to_vec(),
        b"\x08\0\0\0\x01\x02\xff\xffmain".to_vec(),
        // A frame of the greatest length that says something short.
        [&[0, 0, 1, 0][..], b"\x01\x02\x04\0main", &vec![0; 65_528]].concat(),
    ];
    for n in [1, 7, 64, 300, 3000] {
        let body = random(n);
        sent.push([&(n as u32).to_le_bytes()[..], &body].concat());
        sent.push([&(n as u32 + 2).to_le_bytes()[..], b"\x01\x04", &body].concat());
        sent.push([&(n as u32 + 2).to_le_bytes()[..], b"\x01\x05", &body].concat());
    }
    for bytes in &sent {
        let mut s = connect();
        let _ = s.write_all(bytes);
        let _ = s.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = s.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{:?} was answered with {answer:?}", &bytes[..bytes.len().min(20)]);
    }
    roots();
    // More that say nothing than are served at once: they run into their deadline, and nobody has to end them.
    let silent: Vec<UnixStream> = (0..40).map(|_| connect()).collect();
    let mut ended = 0;
    for mut s in silent {
        ended += usize::from(matches!(s.read(&mut [0]), Ok(0)));
    }
    assert_eq!(ended, 40);
    roots();
    drop(service);
}

/// A provider that takes its time over the keys of a domain: it says when it is asked for them, and waits until it is let go.
struct Slow {
    inner: Box<dyn KeyProvider>,
    asked: mpsc::Sender<()>,
    go: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl KeyProvider for Slow {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn wrap(&self, secret: &Secret, context: &Context) -> Result<Wrapped, KeyError> {
        // The first domain's are made with the pool.
        if context.purpose == Purpose::Epoch {
            let _ = self.asked.send(());
            let _ = self.go.lock().unwrap().recv_timeout(Duration::from_secs(100));
        }
        self.inner.wrap(secret, context)
    }

    fn unwrap(&self, wrapped: &Wrapped, context: &Context) -> Result<Secret, KeyError> {
        self.inner.unwrap(wrapped, context)
    }

    fn roots(&self) -> Result<Vec<String>, KeyError> {
        self.inner.roots()
    }

    fn add_root(&mut self) -> Result<String, KeyError> {
        self.inner.add_root()
    }

    fn status(&self) -> ProviderStatus {
        self.inner.status()
    }
}

/// A pool that waited has its keys, and the keys of a configured volume's domain take long: management goes on, nothing of the pool is there
/// yet, and a stop in between leaves what the next start goes on with.
#[test]
fn a_waiting_pools_domain_holds_up_no_management() {
    let c = Scene::new("domain");
    c.config();
    let config = c.s.dir.path("c.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen("size = '64M'", "size = '64M'\ndomain = 'tenant-a'", 1)).unwrap();
    let t = c.s.serve();
    assert!(c.s.ask(&["key", "status", "main"]).contains("WAITS FOR ITS KEYS"));
    let (tell, asked) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let (tell, gone) = (Mutex::new(tell), Arc::new(Mutex::new(gone)));
    let open = move |uri: &KeyUri| -> Result<Box<dyn KeyProvider>, KeyError> {
        let inner = open(uri, How { ask: false, make: false })?.provider;
        Ok(Box::new(Slow { inner, asked: tell.lock().unwrap().clone(), go: Arc::clone(&gone) }))
    };
    let uri = format!("file:{}?passphrase-file={}", c.s.dir.path("root"), c.s.dir.path("pass"));
    let keys = vec![("main".to_string(), uri.parse().unwrap())];
    let users = Users { ask: vec![me().parse().unwrap()], end: vec![] };
    let socket = c.s.dir.0.join("kms.sock");
    let server = Server::start(&socket, users, keys, Box::new(open), Box::new(|_| Ok(()))).unwrap();
    std::thread::spawn(move || server.run());
    asked.recv_timeout(Duration::from_secs(100)).expect("it asks for the domain's keys");
    // Seen and changed meanwhile.
    let nqn = "nqn.2024-01.com.example:meanwhile";
    c.s.ask(&["subsystem", "create", nqn, "--allow-any-host"]);
    assert!(c.s.ask(&["subsystem", "list"]).contains(nqn));
    c.s.ask(&["volume", "create", "v", "--backing", "ram", "--size", "1M"]);
    assert!(c.s.ask(&["pool", "list"]).contains("WAITS"));
    c.s.fails(
        &c.s.own(&["volume", "create", "w", "--pool", "main", "--size", "1M"]),
        4,
        &["waits for its keys"],
    );
    // Another try does not get in the way of the one that has come so far.
    c.s.ask(&["key", "retry", "main"]);
    // Killed there: the pool was made and has no domain yet.
    drop(t);
    go.send(()).unwrap();
    let t = std::thread::scope(|s| {
        let starts = s.spawn(|| c.s.serve());
        asked.recv_timeout(Duration::from_secs(100)).expect("it asks again");
        go.send(()).unwrap();
        starts.join().unwrap()
    });
    c.await_keys();
    c.s.perf(&t, "write");
    assert!(c.s.ask(&["volume", "show", "disk"]).contains("tenant-a"));
    let said = c.s.ask(&["key", "audit"]);
    assert!(said.contains("domain tenant-a, for volume disk"), "{said}");
}

/// A pool that was never there yet, and whose keys nobody can make now: said, nothing half made, and made when they can be.
#[test]
fn a_first_creation_waits_for_the_service_or_says_that_it_is_away() {
    let c = Scene::new("first");
    c.config();
    let t = c.s.serve();
    let status = c.s.ask(&["key", "status", "main"]);
    assert!(status.contains("WAITS FOR ITS KEYS") && status.contains("does not answer"), "{status}");
    let other = c.s.dir.path("p2");
    let make = ["pool", "create", "other", "--device", &other, "--size", "256M", "--key"];
    c.s.fails(&c.s.own(&[&make[..], &[&c.key()]].concat()), 4, &["does not answer", "tries again"]);
    for file in ["p", "p2"] {
        assert!(!c.s.dir.0.join(file).exists(), "nothing of {file} is left");
    }
    let _service = c.service(&[]);
    c.await_keys();
    c.s.perf(&t, "write");
    assert!(c.s.ask(&[&make[..], &[&c.key()]].concat()).contains("pool \"other\" made"));
}
