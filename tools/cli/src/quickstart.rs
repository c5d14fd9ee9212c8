//! `caisson quickstart`: from nothing to an exported volume, and a proof that it works.

use crate::args::{Cli, Command, Proof, QUICKSTART_LISTEN, QuickstartArgs};
use crate::failure::Failure;
use crate::host::{self, Hint};
use crate::local::{failed, is_discovery_port, log, say_listening, settle, start};
use crate::output::line;
use caisson_daemon::config::settings::{Log, Settings};
use caisson_daemon::daemon::{Daemon, StartError, serve};
use caisson_daemon::model::text::{Address, Scheme, format_size};
use caisson_daemon::model::{
    Backing, Change, DEFAULT_MODEL, DEFAULT_POOL, Device, Item, Listener, Lookup, Namespace, Objects, Pool,
    Serves, Services, Subsystem, Volume, derived_serial, key,
};
use caisson_daemon::{Cause, Refusal, daemon};
use clap::Parser;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The first volume's name.
const VOLUME: &str = "vol0";
/// The name of the volume that the proof is made on.
const PROOF: &str = "caisson-proof";
/// Its size: enough that a load does not stay in one corner.
const PROOF_SIZE: u64 = 256 << 20;

/// The pool's file in the data folder, its key file, and the passphrase that was generated for that.
const POOL_FILE: &str = "default.pool";
const KEY_FILE: &str = "quickstart.key";
const PASSPHRASE_FILE: &str = "quickstart.passphrase";
/// Random bytes of a generated passphrase.
const PASSPHRASE_BYTES: usize = 20;

/// What the first run makes.
fn seed(args: &QuickstartArgs, dir: &Path) -> Objects {
    let nqn = format!("nqn.2014-08.org.nvmexpress:uuid:{}", uuid::Uuid::new_v4());
    let mut items = export(&nqn, VOLUME, args.size, true);
    // The volume fits even if nothing of it compresses, and so does what the proof writes.
    let size = (args.size / 8 * 9 + PROOF_SIZE + (1 << 30)).next_multiple_of(1 << 20);
    items.push(Item::Pool(Pool {
        name: DEFAULT_POOL.into(),
        devices: vec![Device { path: dir.join(POOL_FILE), size }],
        key_file: Some(dir.join(KEY_FILE)),
        passphrase_file: Some(dir.join(PASSPHRASE_FILE)),
        keys: Vec::new(),
        memory: 0,
    }));
    items.extend(args.listen.iter().map(|a| {
        let serves = if is_discovery_port(a.socket.port()) { Serves::Discovery } else { Serves::Both };
        Item::Listener(Listener { address: *a, serves })
    }));
    items.into_iter().map(|i| (i.key(), i)).collect()
}

/// Makes a passphrase of 160 random bits that its owner alone may read, where there is none yet.
fn passphrase(dir: &Path) -> Result<(), Refusal> {
    let path = dir.join(PASSPHRASE_FILE);
    let fail = |e: &std::io::Error| Refusal::system(format!("{} cannot be made", path.display()), e);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| fail(&e))?;
    let mut random = [0; PASSPHRASE_BYTES];
    caisson_providers::os_random(&mut random).map_err(|e| Refusal::invalid(e.to_string(), e.remedy()))?;
    let words: Vec<String> =
        random.chunks(4).map(|c| c.iter().map(|b| format!("{b:02x}")).collect()).collect();
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let write =
        |mut f: File| f.write_all(format!("{}\n", words.join("-")).as_bytes()).and_then(|()| f.sync_all());
    match opened.and_then(write) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|e| fail(&e)),
    }
}

/// A volume in the default pool, and a subsystem of its own that any host may connect to.
fn export(nqn: &str, volume: &str, size: u64, services: bool) -> Vec<Item> {
    let backing = Backing::Pool { pool: DEFAULT_POOL.into() };
    vec![
        Item::Volume(Volume {
            services: services.then(Services::default),
            ..Volume::new(volume, backing, size, 4096)
        }),
        Item::Subsystem(Subsystem {
            nqn: nqn.into(),
            serial: derived_serial(nqn),
            model: DEFAULT_MODEL.into(),
            allow_any_host: true,
            allow_erase: false,
            sanitize: None,
        }),
        Item::Namespace(Namespace {
            nqn: nqn.into(),
            nsid: 1,
            volume: volume.into(),
            uuid: uuid::Uuid::new_v4(),
            nguid: None,
            write_protected: false,
        }),
    ]
}

/// Runs `quickstart`.
pub fn run(args: &QuickstartArgs, socket: Option<PathBuf>, dumps: bool) -> Result<(), Failure> {
    log(&args.running.log, &Log { filter: "warn".into(), json: false })?;
    crate::guard::report(dumps);
    let dir = std::path::absolute(&args.data).unwrap_or_else(|_| args.data.clone());
    let mut settings = Settings::in_dir(dir.clone());
    settle(&args.running, socket, &mut settings);
    let was_there = dir.join(caisson_daemon::config::settings::STATE_FILE).exists();
    if !was_there {
        passphrase(&dir)?;
    }
    let started = start(settings, Objects::new(), seed(args, &dir));
    let d = started.map_err(|e| failed(if was_there { port_taken(e, &dir) } else { e }))?;
    if was_there {
        warn_of_listen(args, &d.objects());
    }
    // A run that was killed during its proof left these.
    let _ = remove_proof(&d);
    let prove = match args.proof {
        Proof::Always => true,
        Proof::Never => false,
        Proof::Auto => !host::kernel_has_initiator(),
    };
    let end = Arc::new(tokio::sync::Notify::new());
    let mut prover = None;
    let served = serve::run(
        &d,
        || {
            explain(&d, was_there);
            if prove {
                let daemon = Arc::clone(&d);
                let end = args.exit_after_proof.then(|| Arc::clone(&end));
                prover = Some(std::thread::spawn(move || {
                    let result = proof(&daemon);
                    match &result {
                        Ok(()) => line("\nIt works. Serving until Ctrl-C."),
                        Err(e) => eprintln!("the proof failed: {e}"),
                    }
                    if let Some(end) = end {
                        end.notify_one();
                    }
                    result
                }));
            } else if args.exit_after_proof {
                end.notify_one();
            } else {
                line("Serving until Ctrl-C.");
            }
        },
        end.notified(),
    );
    served?;
    match prover.map(std::thread::JoinHandle::join) {
        Some(Ok(result)) if args.exit_after_proof => result,
        _ => Ok(()),
    }
}

/// A later run cannot be told to listen elsewhere: says what can be done where an address of its first run is taken.
fn port_taken(e: StartError, dir: &Path) -> StartError {
    let StartError::Items(mut items) = e else { return e };
    for (_, r) in items.iter_mut().filter(|(k, r)| key::is_listener(k) && r.cause == Cause::Busy) {
        r.remedy = format!(
            "another program uses this address, perhaps another target: stop it. {} listens where its first run was told to, whatever \
             --listen says now, and `caisson listener add` and `remove` change that while it runs; or begin anew with --data DIR \
             and --listen",
            dir.display()
        );
    }
    StartError::Items(items)
}

/// Says so where `--listen` names an address that a later run does not listen on.
fn warn_of_listen(args: &QuickstartArgs, objects: &Objects) {
    let listens = |a: &Address| objects.listeners().any(|l| l.address == *a);
    if let Some(a) = args.listen.iter().find(|a| !listens(a))
        && !args.listen.iter().map(ToString::to_string).eq(QUICKSTART_LISTEN)
    {
        eprintln!(
            "warning: --listen {a} is not followed: it is for the first run; to listen there too, while this runs: \
             caisson listener add {a}"
        );
    }
}

fn explain(d: &daemon::Daemon, was_there: bool) {
    let objects = d.objects();
    let health = d.volume_health();
    let dir = d.settings().data_dir.clone().unwrap_or_default();
    line(if was_there {
        format!("the pool in {} is as it was left", dir.display())
    } else {
        format!("made a pool in {}", dir.display())
    });
    for p in objects.pools() {
        if d.made().get(&p.name).is_some_and(|m| m.key_file) {
            line(format!(
                "  the pool is encrypted; its key file {} is sealed with the passphrase in {PASSPHRASE_FILE} beside it: whoever \
                 copies this folder has both, so this protects nothing until the passphrase is kept elsewhere",
                p.key_file.clone().unwrap_or_default().display()
            ));
        }
    }
    if let Some(dir) = d.folders().get(DEFAULT_POOL) {
        line(format!(
            "  its volumes are plain files in {}, from an earlier version of caisson, and are served as they are: without \
             deduplication, compression and encryption; for those: caisson pool create, then caisson volume create --pool",
            dir.display()
        ));
    }
    for v in objects.volumes() {
        let h = health.get(&v.name);
        let size = h.map_or(v.size, |h| h.size);
        let used =
            h.and_then(|h| h.allocated).map_or(String::new(), |a| format!(", {} in use", format_size(a)));
        line(format!("  volume {}: {}{used}", v.name, format_size(size)));
    }
    say_listening(d);
    let bound = d.bound();
    let mut hints = Vec::new();
    for s in objects.subsystems() {
        for l in objects.listeners().filter(|l| l.serves != Serves::Discovery) {
            if let Some(a) = bound.get(&key::listener(l.address)) {
                hints.push(Hint { address: *a, nqn: &s.nqn });
            }
        }
    }
    host::explain(&hints, false);
    if let Some(s) = &d.settings().socket {
        line(format!("Status:   {} --socket {} status", host::program(), s.display()));
    }
    if let Some(m) = d.metrics() {
        line(format!("Metrics:  http://{m}/metrics"));
    }
}

fn remove_proof(d: &Daemon) -> Result<(), Refusal> {
    let mine = |o: &Objects| -> Vec<Change> {
        let nqns: Vec<String> = o.namespaces().filter(|n| n.volume == PROOF).map(|n| n.nqn.clone()).collect();
        let of_mine = |i: &Item| match i {
            Item::Volume(v) => v.name == PROOF,
            Item::Subsystem(s) => nqns.contains(&s.nqn),
            Item::Namespace(n) => nqns.contains(&n.nqn),
            Item::Host(h) => nqns.contains(&h.nqn),
            Item::Pool(_) | Item::Listener(_) | Item::Referral(_) => false,
        };
        o.iter().filter(|(_, i)| of_mine(i)).map(|(k, _)| (k.clone(), None)).collect()
    };
    d.change(|o| Ok(mine(o))).map(drop)
}

/// Identifies the first volume, then writes, reads back, compares and loads a volume made for that: a host's data is
/// never touched.
fn proof(d: &Daemon) -> Result<(), Failure> {
    let objects = d.objects();
    let nqn = objects.subsystems().next().map(|s| s.nqn.clone());
    let at = objects
        .listeners()
        // The proof's host speaks TCP.
        .filter(|l| l.serves != Serves::Discovery && l.address.scheme == Scheme::Tcp)
        .find_map(|l| d.bound().get(&key::listener(l.address)).map(|a| a.socket));
    let (Some(nqn), Some(at)) = (nqn, at) else {
        line("\nNothing is exported, so there is nothing to prove.");
        return Ok(());
    };
    let ip = if at.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { at.ip() };
    let address = format!("tcp://{}", SocketAddr::new(ip, at.port()));
    let why = if host::kernel_has_initiator() {
        "A proof was asked for"
    } else {
        "This kernel has no NVMe/TCP initiator"
    };
    line(format!("\n{why}: Caisson's own shows that it works."));
    command(&format!("caisson identify {address} --nqn {nqn}"))?;
    let proof = format!("nqn.2014-08.org.nvmexpress:uuid:{}", uuid::Uuid::new_v4());
    let services = objects.pool(DEFAULT_POOL).is_some();
    d.change(|_| {
        Ok(export(&proof, PROOF, PROOF_SIZE, services).into_iter().map(|i| (i.key(), Some(i))).collect())
    })?;
    line(format!("\n(on a volume of {} that is deleted afterwards)", format_size(PROOF_SIZE)));
    let result = command(&format!(
        "caisson perf {address} --nqn {proof} --pattern write --block-size 64k --depth 8 --bytes 64M --verify --quiet"
    ))
    .and_then(|()| command(&format!("caisson perf {address} --nqn {proof} --pattern randrw --depth 32 --time 3s --quiet")));
    remove_proof(d)?;
    result
}

/// Runs a command of this program in this process, and shows it as somebody would type it.
fn command(text: &str) -> Result<(), Failure> {
    line(format!("\n$ {}", text.replacen("caisson", &host::program(), 1)));
    let cli = Cli::try_parse_from(text.split_whitespace())
        .map_err(|e| Refusal::invalid(format!("the proof's own command is wrong: {e}"), "report it"))?;
    match cli.command {
        Command::Identify(args) => caisson_initiator::cli::identify(&args)?,
        Command::Perf(args) => caisson_initiator::cli::perf(&args)?,
        _ => {}
    }
    Ok(())
}
