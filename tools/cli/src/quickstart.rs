//! `caisson quickstart`: from nothing to an exported volume, and a proof that it works.

use crate::args::{Cli, Command, Proof, QuickstartArgs};
use crate::failure::Failure;
use crate::host::{self, Hint};
use crate::local::{failed, is_discovery_port, log, say_listening, settle, start};
use crate::output::line;
use caisson_daemon::config::settings::{Log, Settings};
use caisson_daemon::daemon::{Daemon, serve};
use caisson_daemon::model::text::format_size;
use caisson_daemon::model::{
    Backing, Change, DEFAULT_MODEL, DEFAULT_POOL, Item, Listener, Lookup, Namespace, Objects, Serves,
    Subsystem, Volume, derived_serial, key,
};
use caisson_daemon::{Refusal, daemon};
use clap::Parser;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// The first volume's name.
const VOLUME: &str = "vol0";
/// The name of the volume that the proof is made on.
const PROOF: &str = "caisson-proof";
/// Its size: enough that a load does not stay in one corner.
const PROOF_SIZE: u64 = 256 << 20;

/// What the first run makes.
fn seed(args: &QuickstartArgs) -> Objects {
    let nqn = format!("nqn.2014-08.org.nvmexpress:uuid:{}", uuid::Uuid::new_v4());
    let mut items = export(&nqn, VOLUME, args.size);
    items.extend(args.listen.iter().map(|a| {
        let serves = if is_discovery_port(a.0.port()) { Serves::Discovery } else { Serves::Both };
        Item::Listener(Listener { address: *a, serves })
    }));
    items.into_iter().map(|i| (i.key(), i)).collect()
}

/// A volume in the default pool, and a subsystem of its own that any host may connect to.
fn export(nqn: &str, volume: &str, size: u64) -> Vec<Item> {
    vec![
        Item::Volume(Volume {
            name: volume.into(),
            backing: Backing::Pool { pool: DEFAULT_POOL.into() },
            size,
            block_size: 4096,
        }),
        Item::Subsystem(Subsystem {
            nqn: nqn.into(),
            serial: derived_serial(nqn),
            model: DEFAULT_MODEL.into(),
            allow_any_host: true,
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
pub fn run(args: &QuickstartArgs, socket: Option<PathBuf>) -> Result<(), Failure> {
    log(&args.running.log, &Log { filter: "warn".into(), json: false })?;
    let dir = std::path::absolute(&args.data).unwrap_or_else(|_| args.data.clone());
    let mut settings = Settings::in_dir(dir.clone());
    settle(&args.running, socket, &mut settings);
    let was_there = dir.join(caisson_daemon::config::settings::STATE_FILE).exists();
    let d = start(settings, Objects::new(), seed(args)).map_err(failed)?;
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

fn explain(d: &daemon::Daemon, was_there: bool) {
    let objects = d.objects();
    let health = d.volume_health();
    let dir = d.settings().data_dir.clone().unwrap_or_default();
    line(if was_there {
        format!("the pool in {} is as it was left", dir.display())
    } else {
        format!("made a pool in {}", dir.display())
    });
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
        line(format!("Status:   caisson --socket {} status", s.display()));
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
            Item::Listener(_) | Item::Referral(_) => false,
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
        .filter(|l| l.serves != Serves::Discovery)
        .find_map(|l| d.bound().get(&key::listener(l.address)).copied());
    let (Some(nqn), Some(at)) = (nqn, at) else {
        line("\nNothing is exported, so there is nothing to prove.");
        return Ok(());
    };
    let ip = if at.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { at.ip() };
    let address = format!("tcp://{}", SocketAddr::new(ip, at.port()));
    line(
        "\nThis kernel has no NVMe/TCP initiator, or a proof was asked for: Caisson's own shows that it works.",
    );
    command(&format!("caisson identify {address} --nqn {nqn}"))?;
    let proof = format!("nqn.2014-08.org.nvmexpress:uuid:{}", uuid::Uuid::new_v4());
    d.change(|_| Ok(export(&proof, PROOF, PROOF_SIZE).into_iter().map(|i| (i.key(), Some(i))).collect()))?;
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
    line(format!("\n$ {text}"));
    let cli = Cli::try_parse_from(text.split_whitespace())
        .map_err(|e| Refusal::invalid(format!("the proof's own command is wrong: {e}"), "report it"))?;
    match cli.command {
        Command::Identify(args) => caisson_initiator::cli::identify(&args)?,
        Command::Perf(args) => caisson_initiator::cli::perf(&args)?,
        _ => {}
    }
    Ok(())
}
