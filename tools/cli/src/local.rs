//! Commands that are a target themselves: `export` and `serve`. Start it, say where it is, serve until a signal.

use crate::args::{ExportArgs, LogArgs, PollMode, Running, ServeArgs, ServicesArgs};
use crate::failure::Failure;
use crate::guard;
use crate::host::{self, Hint};
use crate::output::line;
use crate::remote::SOCKET_VARIABLE;
use caisson_daemon::config::Config;
use caisson_daemon::config::settings::{DEFAULT_SPIN, Log, Polling, Settings};
use caisson_daemon::daemon::{Daemon, Start, StartError, serve, start_reactors};
use caisson_daemon::manage::ask::ServicesAsk;
use caisson_daemon::model::text::{DISCOVERY_PORT, derived_nqn, format_size};
use caisson_daemon::model::{
    self, Backing, DEFAULT_MODEL, Device, Host, Item, Listener, Namespace, Objects, Serves, Services,
    Subsystem, Volume, derived_serial, derived_uuid,
};
use caisson_daemon::pools::{Found, Made};
use caisson_daemon::reactor::clock;
use caisson_daemon::{Cause, Refusal, config};
use caisson_device::StoreSpec;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

fn log_filter(text: &str) -> Result<EnvFilter, Refusal> {
    EnvFilter::try_new(text).map_err(|e| {
        Refusal::invalid(
            format!("`{text}` is not a log filter: {e}"),
            "use error, warn, info, debug or trace, or by module, as in info,caisson_core=debug",
        )
    })
}

/// Starts the log, to standard error. `--log` wins over RUST_LOG, which wins over the file.
pub fn log(args: &LogArgs, log: &Log) -> Result<(), Refusal> {
    let filter =
        args.log.clone().or_else(|| std::env::var("RUST_LOG").ok()).unwrap_or_else(|| log.filter.clone());
    let env = log_filter(&filter)?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(env).with_writer(std::io::stderr).with_ansi(ansi);
    // Set once in the process's life; a second start has it already.
    let _ = if args.log_json || log.json {
        builder.json().try_init()
    } else {
        builder.with_target(false).try_init()
    };
    Ok(())
}

/// Puts what the command line says into the settings.
pub fn settle(running: &Running, socket: Option<PathBuf>, s: &mut Settings) {
    if let Some(c) = &running.cores {
        s.cores.clone_from(&c.0);
    }
    s.polling = match running.polling {
        PollMode::Adaptive => Polling::Adaptive(DEFAULT_SPIN),
        PollMode::Never => Polling::Never,
        PollMode::Always => Polling::Always,
    };
    if running.metrics.is_some() {
        s.metrics = running.metrics;
    }
    if socket.is_some() {
        s.socket = socket;
    }
}

/// Starts a target over the real data plane.
pub fn start(settings: Settings, base: Objects, seed: Objects) -> Result<Arc<Daemon>, StartError> {
    let settings = Settings { audit: crate::keys::audit_folder(), ..settings };
    let start = Start { seed, ..Start::new(settings, base, clock()) };
    Daemon::start(start, start_reactors)
}

/// What a start's failure is, where no file can be pointed at.
pub fn failed(e: StartError) -> Failure {
    let first = match e {
        StartError::Refused(r) => Some(r),
        StartError::Items(items) => items.into_iter().next().map(|(_, r)| r),
    };
    Failure::Here(first.unwrap_or_else(|| Refusal::invalid("the target does not start", "see the log")))
}

/// Says what was made for a pool, and what that means.
pub fn say_made(made: Made, key_file: Option<&Path>) {
    if made.pool {
        line("  made the pool: its volumes are deduplicated, compressed and encrypted");
    }
    if let Some(key_file) = key_file.filter(|_| made.key_file) {
        line(format!("  {}", crate::pools::key_file_made(key_file)));
    }
}

/// A line for each listener in force. Tests and scripts wait for these.
pub fn say_listening(d: &Daemon) {
    for a in d.bound().values() {
        line(format!("  listening on {a}"));
    }
    for (a, why) in d.awaited() {
        line(format!("  waiting for {a}: {why}"));
    }
}

/// The name of `export`'s pool.
const POOL: &str = "pool";

/// What `export pool:PATH` is made of: the pool, and the volume in it.
fn in_pool(args: &ExportArgs, path: &str) -> Result<(model::Pool, Volume), Refusal> {
    let p = &args.pool;
    let example = "for example: caisson export pool:disk.pool --size 100G --key-file disk.key";
    if path.is_empty() {
        return Err(Refusal::invalid("pool: needs a path", example));
    }
    if p.keys.is_empty() {
        return Err(Refusal::invalid(
            "a pool is encrypted, and no key file is named",
            format!("add --key-file FILE; it is made where there is none; or --key URI. {example}"),
        ));
    }
    let path = PathBuf::from(path);
    let size = match (exists(&path)?, args.size) {
        (true, None) if matches!(caisson_daemon::pools::engine().look(&path), Ok(Found::Blank)) => {
            return Err(Refusal::invalid(
                format!("{} is blank, and the volume of a new pool needs a size", path.display()),
                format!("give --size, the size of the volume, to make a pool there. {example}"),
            ));
        }
        (true, _) => p.pool_size.unwrap_or(0),
        // What does not compress at all, and the tables, fit too; the file is sparse.
        (false, Some(size)) => {
            p.pool_size.unwrap_or_else(|| (size / 8 * 9 + (1 << 30)).next_multiple_of(1 << 20))
        }
        (false, None) => {
            return Err(Refusal::not_found(
                format!("there is no {}", path.display()),
                format!("give --size, the size of the volume, to make a pool there. {example}"),
            ));
        }
    };
    let pool = model::Pool {
        name: POOL.into(),
        devices: vec![Device { path, size }],
        key_file: p.keys.key_file.clone(),
        passphrase_file: p.keys.passphrase_file.clone(),
        keys: p.keys.uris(),
        memory: 0,
    };
    let backing = Backing::Pool { pool: POOL.into() };
    // A volume that there is goes on as it does, unless something is said.
    let said = ServicesAsk::from(p.services);
    let services = (!said.is_empty()).then(|| said.over(Services::default()));
    let size = args.size.unwrap_or(0);
    Ok((pool, Volume { services, ..Volume::new(p.volume.clone(), backing, size, args.block_size) }))
}

/// Whether there is something at `path`: what may not be looked at is not taken for missing.
pub fn exists(path: &Path) -> Result<bool, Refusal> {
    path.try_exists().map_err(|e| Refusal::system(format!("{} cannot be looked at", path.display()), &e))
}

/// Says so where what is to be exported as a plain disk is a pool. Not refused: the host of a plain disk may have a pool on it.
fn warn_of_pool(path: &Path) {
    if caisson_daemon::pools::offline::label(path).is_ok() {
        let path = path.display();
        eprintln!(
            "warning: {path} holds a pool, and is exported as it lies there: a host that writes to it destroys the pool. To export \
             a volume of the pool, end this and write pool:{path}"
        );
    }
}

/// The store of `export`, as a volume.
fn volume(args: &ExportArgs) -> Result<Volume, Refusal> {
    let p = &args.pool;
    if !p.keys.is_empty() || p.pool_size.is_some() || p.services != ServicesArgs::default() {
        return Err(Refusal::invalid(
            format!("{} is no pool, and has no keys and no data services", args.store),
            "write pool:PATH to export a volume of a pool; or leave out --key-file, --key, --passphrase-file, --pool-size, --compression, \
             --dedup, --write-cache and --verify",
        ));
    }
    let spec: StoreSpec = args.store.parse().map_err(|e| {
        Refusal::invalid(
            format!("{e}"),
            "for example: caisson export ram:1G, or caisson export ./disk.img --size 10G",
        )
    })?;
    let sized = |kind: &str| match args.size {
        None => Ok(()),
        Some(_) => Err(Refusal::invalid(
            format!("{kind} has its size in its name"),
            format!("leave out --size, or write {kind}:SIZE alone"),
        )),
    };
    let (backing, size, name) = match spec {
        StoreSpec::Ram(s) => {
            sized("ram")?;
            (Backing::Ram, s.bytes(), "ram".to_string())
        }
        StoreSpec::Null(s) => {
            sized("null")?;
            (Backing::Null, s.bytes(), "null".to_string())
        }
        StoreSpec::Path(path) => {
            if !exists(&path)? && args.size.is_none() {
                let remedy = match args.store.as_str() {
                    kind @ ("ram" | "null") => format!("write {kind}:SIZE, such as {kind}:1G"),
                    _ => "give --size to make a sparse file of that size there".into(),
                };
                return Err(Refusal::not_found(format!("there is no {}", path.display()), remedy));
            }
            warn_of_pool(&path);
            (Backing::Path { path }, args.size.unwrap_or(0), "disk".to_string())
        }
    };
    Ok(Volume::new(name, backing, size, args.block_size))
}

/// What names this machine, for names that should be the same on each start and nowhere else.
fn machine() -> String {
    let id = std::fs::read_to_string("/etc/machine-id").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    id.unwrap_or_default().trim().to_string()
}

fn export_objects(args: &ExportArgs, pool: Option<model::Pool>, v: Volume) -> (String, Objects) {
    let path = match (&v.backing, &pool) {
        (Backing::Path { path }, _) => Some(path),
        (_, Some(pool)) => pool.devices.first().map(|d| &d.path),
        _ => None,
    };
    let whole = |p: &PathBuf| std::path::absolute(p).unwrap_or_else(|_| p.clone()).display().to_string();
    let store = path.map_or_else(|| args.store.clone(), whole);
    let nqn = args.nqn.clone().unwrap_or_else(|| derived_nqn(&format!("{}/{store}", machine())));
    let mut items = vec![
        Item::Subsystem(Subsystem {
            nqn: nqn.clone(),
            serial: args.serial.clone().unwrap_or_else(|| derived_serial(&nqn)),
            model: DEFAULT_MODEL.into(),
            allow_any_host: args.allow.is_empty(),
            allow_erase: false,
            sanitize: None,
        }),
        Item::Namespace(Namespace {
            nqn: nqn.clone(),
            nsid: 1,
            volume: v.name.clone(),
            uuid: derived_uuid(&nqn, 1, &v.name),
            nguid: None,
            write_protected: false,
        }),
        Item::Volume(v),
    ];
    items.extend(pool.map(Item::Pool));
    items.extend(args.allow.iter().map(|h| Item::Host(Host { nqn: nqn.clone(), host: h.clone() })));
    // A --listen on the discovery port serves the disk too: somebody who names one port wants the disk there.
    items.extend(args.listen.iter().map(|a| Item::Listener(Listener { address: *a, serves: Serves::Both })));
    items.extend(
        args.discovery.iter().map(|a| Item::Listener(Listener { address: *a, serves: Serves::Discovery })),
    );
    (nqn, items.into_iter().map(|i| (i.key(), i)).collect())
}

/// The socket that `export` opens where none is named and nobody has it: one that other commands look at by themselves.
fn usual_socket() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(SOCKET_VARIABLE) {
        return Some(path.into());
    }
    if rustix::process::geteuid().is_root() {
        return Some("/run/caisson/caisson.sock".into());
    }
    std::env::var_os("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("caisson.sock"))
}

/// Runs `export`.
pub fn export(args: &ExportArgs, socket: Option<PathBuf>, dumps: bool) -> Result<(), Failure> {
    log(&args.running.log, &Log { filter: "warn".into(), json: false })?;
    guard::report(dumps);
    let (pool, v) = match args.store.strip_prefix("pool:") {
        Some(path) => in_pool(args, path).map(|(pool, v)| (Some(pool), v))?,
        None => (None, volume(args)?),
    };
    let key_file = pool.as_ref().and_then(|p| p.key_file.clone());
    let (nqn, objects) = export_objects(args, pool, v);
    if let Some(v) = model::check(&objects).into_iter().next() {
        return Err(Failure::Here(Refusal::new(v.cause, v.error, v.remedy)));
    }
    let mut settings = Settings { socket_optional: socket.is_none(), ..Settings::default() };
    settle(&args.running, socket.or_else(usual_socket), &mut settings);
    let d = start(settings, objects, Objects::new()).map_err(failed)?;
    if let (true, Some((address, why))) = (d.bound().is_empty(), d.awaited().into_iter().next()) {
        return Err(Failure::Here(Refusal::new(
            Cause::System,
            format!("nothing can be listened on: {address}: {why}"),
            "do what it says, or listen on TCP: --listen tcp://0.0.0.0:4420",
        )));
    }
    serve::run(
        &d,
        || {
            let health = d.volume_health();
            let size = health.values().next().map_or(0, |h| h.size);
            line(format!(
                "exporting {} ({}, blocks of {}) as {nqn}",
                args.store,
                format_size(size),
                args.block_size
            ));
            if let Some(made) = d.made().get(POOL) {
                say_made(*made, key_file.as_deref());
            }
            if let Some(file) = d.audit().file() {
                line(format!("  operations on its keys are recorded in {}", file.display()));
            }
            say_listening(&d);
            if let Some(s) = d.socket() {
                let named = if d.settings().socket_optional {
                    String::new()
                } else {
                    format!("--socket {} ", s.display())
                };
                let program = host::program();
                line(format!(
                    "  managed over {} ({program} {named}status); changes are not kept",
                    s.display()
                ));
            } else {
                line(
                    "  not managed: `caisson status` and the like do not reach it; with --socket PATH they do",
                );
            }
            if let Some(m) = d.metrics() {
                line(format!("  metrics at http://{m}/metrics"));
            }
            let hints: Vec<Hint> = args
                .listen
                .iter()
                .filter_map(|a| d.bound().get(&model::key::listener(*a)).copied())
                .map(|address| Hint { address, nqn: &nqn })
                .collect();
            host::explain(&hints, !args.allow.is_empty());
            line("Ctrl-C ends it.");
        },
        std::future::pending(),
    )?;
    Ok(())
}

/// Runs `serve`.
pub fn serve(args: &ServeArgs, socket: Option<PathBuf>, dumps: bool) -> Result<(), Failure> {
    let file = Config::load(&args.config)?;
    log(&args.log, &file.settings.log)?;
    guard::report(dumps);
    let mut settings = file.settings.clone();
    if socket.is_some() {
        settings.socket = socket;
    }
    if settings.data_dir.is_none() {
        tracing::warn!(
            "the configuration has no data_dir: changes made at run time will not survive a restart"
        );
    }
    let d = start(settings, file.objects.clone(), Objects::new()).map_err(|e| in_file(&file, e))?;
    serve::run(
        &d,
        || {
            line(format!("serving {}", file.file.display()));
            say_listening(&d);
            let s = d.settings();
            if let Some(p) = &s.socket {
                let program = host::program();
                line(format!("  managed over {}: {program} --socket {} status", p.display(), p.display()));
            }
            if let Some(m) = d.metrics() {
                line(format!("  metrics at http://{m}/metrics"));
            }
        },
        std::future::pending(),
    )?;
    Ok(())
}

/// A start's failure, shown at the lines of the file that it is about.
fn in_file(file: &Config, e: StartError) -> Failure {
    match e {
        StartError::Refused(r) => Failure::Here(r),
        StartError::Items(items) => {
            let declared = items.iter().all(|(key, _)| file.places.contains_key(key));
            if !declared {
                return failed(StartError::Items(items));
            }
            let problems = items.into_iter().map(|(key, r)| config::problem::Problem {
                span: file.places.get(&key).cloned().unwrap_or(0..0),
                error: r.error,
                remedy: r.remedy,
            });
            Failure::from(config::problem::Rejected::new(&file.file, &file.text, problems.collect()))
        }
    }
}

/// Runs `config check`.
pub fn check(file: &Path) -> Result<Config, Failure> {
    let config = Config::load(file)?;
    // What a filter is only the log knows: `serve` would refuse it.
    let filter = &config.settings.log.filter;
    if let Err(r) = log_filter(filter) {
        let written = [format!("\"{filter}\""), format!("'{filter}'")];
        let place = written.iter().find_map(|w| config.text.find(w).map(|at| at..at + w.len()));
        let span = place.unwrap_or(0..0);
        let problem = config::problem::Problem { span, error: r.error, remedy: r.remedy };
        return Err(config::problem::Rejected::new(&config.file, &config.text, vec![problem]).into());
    }
    Ok(config)
}

/// Whether a listener at `port` is for discovery alone.
pub fn is_discovery_port(port: u16) -> bool {
    port == DISCOVERY_PORT
}
