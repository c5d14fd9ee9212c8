//! The same with real providers, which are taken away in the middle: a KMIP server and a TPM that are killed before a call or during it, a
//! token that is pulled out.

use super::cases::{complete, or_gone};
use super::*;
use caisson_keys::KeySlot;
use std::process::{Command, Output, Stdio};

#[path = "../../../../../../kms/kmip/tests/support/mod.rs"]
#[allow(unreachable_pub, reason = "it is the support of other tests")]
mod pykmip;
#[path = "../../../../../../kms/tpm/tests/support/mod.rs"]
#[allow(unreachable_pub, reason = "it is the support of other tests")]
mod swtpm;

thread_local! {
    /// How many runs this thread's case has had.
    static TURN: Cell<usize> = const { Cell::new(0) };
}

/// Does `breaks` before the call in every second run, and during it in the others; then `s.breaking` ends with it.
fn by_turns(s: &Stage, breaks: impl Fn() + Clone + Send + 'static) -> Box<dyn FnMut() + Send> {
    let (turn, breaking) = (TURN.replace(TURN.get() + 1), Arc::clone(&s.breaking));
    Box::new(move || {
        let breaks = breaks.clone();
        if turn.is_multiple_of(2) {
            let _starts = starts();
            return breaks();
        }
        let during = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(4));
            let _starts = starts();
            breaks();
        });
        *breaking.lock().unwrap() = Some(during);
    })
}

/// A running target whose pool has the provider that `uri` names, behind the plan.
fn with_pool(s: &Stage, uri: &str) {
    put(uri, &s.plan, None);
    *s.keys.borrow_mut() = vec![uri.to_owned()];
    s.start();
    assert_eq!(pools::create_pool(&s.daemon(), &s.ask()), Ok(Did::Changed));
    verbs::create_volume(&s.daemon(), &volume("v", None)).unwrap();
    s.write("v");
    *s.before.borrow_mut() = s.slots()[0].wrapped.root.clone();
}

fn rotate(s: &Stage) -> Result<(), Refusal> {
    keys::rotate(&s.daemon(), "main", &ask::Rotate::default()).map(drop)
}

/// Old or new, by the root key that wraps all.
fn rotated(s: &Stage) -> Is {
    s.holds("v");
    complete(s);
    let roots: BTreeSet<String> = s.slots().into_iter().map(|slot: KeySlot| slot.wrapped.root).collect();
    assert_eq!(roots.len(), 1, "{roots:?}");
    if roots.contains(&*s.before.borrow()) { Is::Old } else { Is::New }
}

/// The old root key ends: old while it is there.
fn old_root(s: &Stage) -> ask::RootAsk {
    let root = s.before.borrow().clone();
    ask::RootAsk { confirm: root.clone(), root, key: None, reason: None }
}

/// A KMIP server on its port, or none where it was killed.
type Kmip = (pykmip::Site, Arc<Mutex<Option<pykmip::Server>>>, u16);

thread_local! {
    /// What the cases of this thread are done with.
    static KMIP: RefCell<Option<Kmip>> = const { RefCell::new(None) };
}

/// Ends the server of this thread's cases.
fn over() {
    let _starts = starts();
    KMIP.take();
}

fn kmip(s: &Stage) {
    KMIP.with_borrow_mut(|site| {
        let (site, server, port) = site.get_or_insert_with(|| {
            let _starts = starts();
            let (site, port) = (pykmip::Site::new("faults"), pykmip::free_port());
            let server = site.server_at(port, "server", None);
            (site, Arc::new(Mutex::new(Some(server))), port)
        });
        let object = s.dir.0.file_name().unwrap().to_string_lossy().into_owned();
        with_pool(s, &site.uri(&[*port], &object, "client").to_string());
        let dies = Arc::clone(server);
        *s.breaks.borrow_mut() = Some(by_turns(s, move || drop(dies.lock().unwrap().take())));
    });
    *s.heal.borrow_mut() = Some(Box::new(|| {
        KMIP.with_borrow(|site| {
            let (site, server, port) = site.as_ref().unwrap();
            let _starts = starts();
            let mut server = server.lock().unwrap();
            if server.is_none() {
                *server = Some(site.server_at(*port, "server", None));
            }
        });
    }));
}

#[test]
fn a_kmip_server_is_killed_while_a_root_is_rotated() {
    Case { name: "kmip-rotate", before: kmip, does: rotate, is: rotated, faults: &[Fault::Broken] }.run();
    over();
}

#[test]
fn a_kmip_server_is_killed_while_a_root_is_destroyed() {
    let case = Case {
        name: "kmip-destroy",
        before: |s| {
            kmip(s);
            rotate(s).unwrap();
        },
        does: |s| or_gone(keys::destroy_root(&s.daemon(), "main", &old_root(s))),
        is: |s| {
            assert_eq!(rotated(s), Is::New);
            // Whether it is there is the server's to say.
            let uri = s.daemon().objects().pool("main").unwrap().providers().remove(0);
            let provider = caisson_providers::open(&uri, caisson_providers::How::default()).unwrap().provider;
            if provider.roots().unwrap().contains(&*s.before.borrow()) { Is::Old } else { Is::New }
        },
        faults: &[Fault::Broken],
    };
    case.run();
    over();
}

#[test]
fn a_tpm_is_killed_while_a_root_is_rotated() {
    let case = Case {
        name: "tpm-rotate",
        before: |s| {
            let machine = {
                let _starts = starts();
                Arc::new(Mutex::new(swtpm::Machine::new(&s.path("tpm"))))
            };
            std::fs::write(s.path("pass"), "correct horse\n").unwrap();
            let (file, pass) = (s.path("key"), s.path("pass"));
            let tcti = machine.lock().unwrap().tcti();
            let (file, pass) = (file.display(), pass.display());
            with_pool(s, &format!("tpm2:pcrs=sha256+7?file={file}&tcti={tcti}&passphrase-file={pass}"));
            let dies = Arc::clone(&machine);
            *s.breaks.borrow_mut() = Some(by_turns(s, move || dies.lock().unwrap().off()));
            *s.heal.borrow_mut() = Some(Box::new(move || {
                let _starts = starts();
                machine.lock().unwrap().restart();
            }));
        },
        does: rotate,
        is: rotated,
        faults: &[Fault::Broken],
    };
    case.run();
}

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// softhsm2 reads its configuration once a process, and sees a token that was away again in another process alone: so the target whose token is
/// pulled out, and the one after it, are processes of their own, which this test runs as itself.
#[test]
fn a_token_is_pulled_out_while_a_root_is_rotated() {
    let var = |name: &str| std::env::var(name).ok();
    match (var("CAISSON_FAULTS_DIR"), var("CAISSON_FAULTS_AT")) {
        (Some(dir), Some(at)) => pulled(Path::new(&dir), at.parse().unwrap()),
        (Some(dir), None) => put_back(Path::new(&dir)),
        _ => {
            // Until a rotation goes through without having met it.
            let met = (0..).take_while(|at| once(*at)).count();
            assert!(met >= 10, "a rotation of two secrets asks {met} times only");
        }
    }
}

fn token_uri(dir: &Path) -> String {
    format!(
        "pkcs11:token=Caisson;object=root?module-path={MODULE}&pin-source=file:{}",
        dir.join("pin").display()
    )
}

/// Rotates while the token is pulled out before this call, never during one: softhsm2 that is stopped while it writes loses the token
/// (kms/README.md). Ends the process, with 3 where there were fewer calls.
fn pulled(dir: &Path, at: usize) {
    let s = Stage::over(Dir(dir.join("target")));
    with_pool(&s, &token_uri(dir));
    std::fs::write(dir.join("before"), &*s.before.borrow()).unwrap();
    let tokens = dir.join("tokens");
    s.plan.arm(Fault::Broken, at, move || std::fs::rename(&tokens, tokens.with_extension("away")).unwrap());
    let did = rotate(&s);
    let fired = s.plan.disarm();
    s.holds("v");
    s.end();
    assert!(fired || did.is_ok(), "{did:?}");
    std::process::exit(if fired { 0 } else { 3 });
}

/// What is found when the token is there again.
fn put_back(dir: &Path) {
    let s = Stage::over(Dir(dir.join("target")));
    put(&token_uri(dir), &s.plan, None);
    *s.before.borrow_mut() = std::fs::read_to_string(dir.join("before")).unwrap();
    s.start();
    rotated(&s);
    rotate(&s).unwrap();
    assert_eq!(rotated(&s), Is::New);
}

/// Runs it to its end; others wait until it has begun.
fn output(command: &mut Command) -> Output {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let starts = starts();
    let child = command.spawn().expect("it runs (tools/setup test installs softhsm2)");
    drop(starts);
    child.wait_with_output().unwrap()
}

fn once(at: usize) -> bool {
    let dir = Dir::new("faults-token");
    let tokens = dir.0.join("tokens");
    std::fs::create_dir_all(&tokens).unwrap();
    std::fs::write(dir.0.join("pin"), "8642-pin\n").unwrap();
    let conf = dir.0.join("softhsm2.conf");
    std::fs::write(&conf, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()))
        .unwrap();
    let made = output(
        Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", "Caisson", "--so-pin", "13579", "--pin", "8642-pin"])
            .env("SOFTHSM2_CONF", &conf),
    );
    assert!(made.status.success(), "{made:?}");
    let run = |phase: Option<usize>| {
        let test = "daemon::tests::faults::real::a_token_is_pulled_out_while_a_root_is_rotated";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env("SOFTHSM2_CONF", &conf);
        command.env("CAISSON_FAULTS_DIR", &dir.0);
        command.envs(phase.map(|at| ("CAISSON_FAULTS_AT", at.to_string())));
        let run = output(&mut command);
        let said = [run.stdout, run.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        (run.status.code(), said)
    };
    let (code, said) = run(Some(at));
    assert!([Some(0), Some(3)].contains(&code), "pulled out at call {at}: {said}");
    if code == Some(0) {
        std::fs::rename(tokens.with_extension("away"), &tokens).unwrap();
    }
    let (judged, said) = run(None);
    assert!(judged == Some(0) && said.contains("1 passed"), "put back after call {at}: {said}");
    code == Some(0)
}
