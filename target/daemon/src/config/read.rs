//! From TOML tables to settings and items.

use super::Config;
use super::pools::{domain, pools, services};
use super::problem::Problem;
use super::settings::{
    DEFAULT_SPIN, KEY_EPOCH_MIN, Limits, Log, METRICS_ADDRESS, Polling, SOCKET_FILE, Settings,
};
use super::walk::{At, Problems, Table};
use crate::model::text::{Address, DISCOVERY_PORT, IO_PORT, Scheme, nearest, parse_cores};
use crate::model::{self, Backing, DEFAULT_MODEL, DEFAULT_POOL, Item, Lookup, Objects, Serves};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeTable;

/// Items with the places of their tables and of the values that name them.
pub(super) struct Items {
    pub(super) objects: Objects,
    places: BTreeMap<String, Range<usize>>,
}

impl Items {
    pub(super) fn add(&mut self, item: Item, span: Range<usize>, text: &str, out: &mut Problems) {
        let key = item.key();
        if let Some(first) = self.places.get(&key) {
            let (line, _) = super::problem::line_column(text, first.start);
            let what = match &item {
                Item::Pool(p) => format!("pool {}", p.name),
                Item::Volume(v) => format!("volume {}", v.name),
                Item::Subsystem(s) => format!("subsystem {}", s.nqn),
                Item::Namespace(n) => format!("namespace {} of {}", n.nsid, n.nqn),
                Item::Host(h) => format!("host {} of {}", h.host, h.nqn),
                Item::Listener(l) => format!("listener {}", l.address),
                Item::Referral(r) => format!("referral {}", r.address),
            };
            out.push(Problem {
                span,
                error: format!("{what} is declared twice"),
                remedy: format!(
                    "it is first declared on line {line}: remove one, or give this one another name"
                ),
            });
            return;
        }
        self.places.insert(key.clone(), span);
        self.objects.insert(key, item);
    }
}

pub(super) fn config(file: &Path, text: &str) -> Result<Config, Problems> {
    let parsed = DeTable::parse(text).map_err(|e| {
        vec![Problem {
            span: e.span().unwrap_or(0..0),
            error: format!("this is not TOML: {}", e.message().lines().collect::<Vec<_>>().join(", ")),
            remedy:
                "see docs/caisson.example.toml for how each table is written; strings stand in \"quotes\""
                    .into(),
        }]
    })?;
    let mut out = Vec::new();
    let mut root = Table::new("the file", 0..0, parsed.get_ref());
    let base = file.parent().unwrap_or(Path::new(""));
    let mut items = Items { objects: Objects::new(), places: BTreeMap::new() };
    let settings = settings(&mut root, base, text, &mut items, &mut out);
    volumes(&mut root, base, &settings, text, &mut items, &mut out);
    subsystems(&mut root, text, &mut items, &mut out);
    listeners(&mut root, text, &mut items, &mut out);
    referrals(&mut root, text, &mut items, &mut out);
    root.finish(&mut out);
    // What could not be read is missing from the items: to complain about what refers to it would mislead.
    if out.is_empty() {
        for v in model::check(&items.objects) {
            let span = items.places.get(&v.key).cloned().unwrap_or(0..0);
            out.push(Problem { span, error: v.error, remedy: v.remedy });
        }
    }
    if !out.is_empty() {
        return Err(out);
    }
    Ok(Config {
        file: file.to_path_buf(),
        text: text.to_string(),
        settings,
        objects: items.objects,
        places: items.places,
    })
}

fn settings(
    root: &mut Table<'_, '_>,
    base: &Path,
    text: &str,
    items: &mut Items,
    out: &mut Problems,
) -> Settings {
    let mut s = Settings::default();
    if let Some(dir) = root.string("data_dir", "/var/lib/caisson", out) {
        s = Settings::in_dir(base.join(dir.value));
    }
    pools(root, base, &mut s, text, items, out);
    if let Some(mut t) = root.table("reactor", out) {
        reactor(&mut t, &mut s, out);
        t.finish(out);
    }
    if let Some(mut t) = root.table("management", out) {
        if let Some(path) = t.string("socket", "/run/caisson/caisson.sock", out) {
            s.socket = if path.value.is_empty() { None } else { Some(base.join(&path.value)) };
            check_socket(&s.socket, path.span, out);
        }
        t.finish(out);
    } else if let Some(dir) = &s.data_dir {
        s.socket = Some(dir.join(SOCKET_FILE));
    }
    s.metrics = Some(METRICS_ADDRESS);
    if let Some(mut t) = root.table("metrics", out) {
        let read = |text: &str| match text {
            "" => Ok(None),
            _ => text
                .parse::<SocketAddr>()
                .map(Some)
                .map_err(|_| format!("`{text}` is not an address and port")),
        };
        if let Some(a) = t.parsed("address", "127.0.0.1:9899", out, read) {
            s.metrics = a.value;
        }
        t.finish(out);
    }
    if let Some(mut t) = root.table("log", out) {
        let mut log = Log::default();
        if let Some(f) = t.string("filter", "info", out) {
            log.filter = f.value;
        }
        if let Some(j) = t.choice("format", &[("text", false), ("json", true)], out) {
            log.json = j.value;
        }
        s.log = log;
        t.finish(out);
    }
    if let Some(mut t) = root.table("limits", out) {
        s.limits = limits(&mut t, out);
        let all = caisson_keys::limits::LIMITS;
        let records = t.integer("key_epoch_records", KEY_EPOCH_MIN.records, all.records, out);
        let bytes = t.size("key_epoch_bytes", KEY_EPOCH_MIN.bytes, all.bytes, out);
        s.epochs.records = records.map_or(all.records, |n| n.value);
        s.epochs.bytes = bytes.map_or(all.bytes, |n| n.value);
        t.finish(out);
    }
    s
}

/// The longest path of a Unix socket: sun_path of unix(7), with its final zero byte.
pub(crate) const SOCKET_PATH_MAX: usize = 107;

fn check_socket(path: &Option<PathBuf>, span: Range<usize>, out: &mut Problems) {
    if let Some(p) = path
        && p.as_os_str().len() > SOCKET_PATH_MAX
    {
        out.push(Problem {
            span,
            error: format!(
                "the socket's path has {} bytes, more than {SOCKET_PATH_MAX}",
                p.as_os_str().len()
            ),
            remedy: "use a shorter one, such as \"/run/caisson/caisson.sock\"".into(),
        });
    }
}

fn reactor(t: &mut Table<'_, '_>, s: &mut Settings, out: &mut Problems) {
    if let Some(cores) = t.parsed("cores", "0-3,6", out, parse_cores) {
        s.cores = cores.value;
    }
    let spin =
        t.integer("spin_us", 0, 1_000_000, out).map_or(DEFAULT_SPIN, |n| Duration::from_micros(n.value));
    let modes =
        [("adaptive", Polling::Adaptive(spin)), ("never", Polling::Never), ("always", Polling::Always)];
    s.polling = t.choice("polling", &modes, out).map_or(Polling::Adaptive(spin), |p| p.value);
}

fn limits(t: &mut Table<'_, '_>, out: &mut Problems) -> Limits {
    let mut l = Limits::default();
    if let Some(n) = t.size("in_capsule_data", 4096, 1 << 20, out) {
        if n.value % 16 == 0 {
            l.in_capsule_data = n.value as u32;
        } else {
            out.push(Problem {
                span: n.span,
                error: "`in_capsule_data` is not a multiple of 16 bytes".into(),
                remedy: "IOCCSZ counts in units of 16 bytes: use \"16K\"".into(),
            });
        }
    }
    if let Some(n) = t.size("max_h2c_data", 4096, 16 << 20, out) {
        if n.value % 4 == 0 {
            l.max_h2c_data = n.value as u32;
        } else {
            out.push(Problem {
                span: n.span,
                error: "`max_h2c_data` is not a multiple of 4 bytes".into(),
                remedy: "MAXH2CDATA is a whole number of dwords: use \"128K\"".into(),
            });
        }
    }
    let mut number = |t: &mut Table<'_, '_>, key, from, to, value: u64| {
        t.integer(key, from, to, out).map_or(value, |n| n.value)
    };
    l.connections = number(t, "connections", 1, 4 << 20, l.connections.into()) as u32;
    let mut seconds = |key, value: Duration| Duration::from_secs(number(t, key, 1, 3600, value.as_secs()));
    l.handshake_timeout = seconds("handshake_timeout_s", l.handshake_timeout);
    l.stall_timeout = seconds("stall_timeout_s", l.stall_timeout);
    l.grace = seconds("grace_s", l.grace);
    l
}

fn volumes(
    root: &mut Table<'_, '_>,
    base: &Path,
    settings: &Settings,
    text: &str,
    items: &mut Items,
    out: &mut Problems,
) {
    for mut t in root.tables("volume", "volume", out) {
        let name = t.required("name", "data", out);
        let size = t.size("size", 1, model::MAX_SIZE, out);
        let block_size = t.integer("block_size", 512, 4096, out).map_or(4096, |n| n.value as u32);
        let path = t.string("path", "/dev/nvme1n1", out);
        let pool = t.string("pool", DEFAULT_POOL, out);
        let kinds = [("pool", 0), ("file", 1), ("ram", 2), ("null", 3)];
        let before = out.len();
        let chosen = t.choice("backing", &kinds, out);
        if out.len() > before {
            // An unknown word there says nothing of what was meant, and nothing against the other keys.
            domain(&mut t, true, out);
            services(&mut t, true, out);
            t.finish(out);
            continue;
        }
        let kind = chosen.as_ref().map_or(if path.is_some() { 1 } else { 0 }, |c| c.value);
        let span = name.as_ref().map_or(t.span.clone(), |n| n.span.clone());
        let mut odd = |at: &At<String>, key: &str, remedy: &str| {
            out.push(Problem {
                span: at.span.clone(),
                error: format!("`{key}` does not go with this backing"),
                remedy: remedy.into(),
            });
        };
        let backing = match (kind, &path, &pool) {
            (1, Some(p), None) => Some(Backing::Path { path: base.join(&p.value) }),
            (1, Some(_), Some(pool)) => {
                odd(pool, "pool", "a volume has `path` or `pool`, not both: remove one");
                None
            }
            (1, None, _) => {
                out.push(Problem {
                    span: chosen.map_or(span.clone(), |c| c.span),
                    error: "backing \"file\" needs a `path`".into(),
                    remedy: "add path = \"/dev/nvme1n1\" or the path of a file; or use backing = \"pool\""
                        .into(),
                });
                None
            }
            (_, Some(p), _) => {
                odd(p, "path", "remove `path`, or write backing = \"file\"");
                None
            }
            (2 | 3, None, Some(p)) => {
                odd(p, "pool", "remove `pool`, or write backing = \"pool\"");
                None
            }
            (2, None, None) => Some(Backing::Ram),
            (3, None, None) => Some(Backing::Null),
            (_, None, pool) => in_pool(pool.as_ref(), settings, &items.objects, &span, out),
        };
        let log = matches!(&backing, Some(Backing::Pool { pool }) if items.objects.pool(pool).is_some());
        let domain = domain(&mut t, log, out);
        let services = services(&mut t, log, out);
        if let (Some(name), Some(backing)) = (name, backing) {
            let size = size.map_or(0, |s| s.value);
            let volume = model::Volume::new(name.value, backing, size, block_size);
            let volume = model::Volume { services, domain, ..volume };
            items.add(Item::Volume(volume), span, text, out);
        }
        t.finish(out);
    }
}

fn in_pool(
    pool: Option<&At<String>>,
    settings: &Settings,
    objects: &Objects,
    span: &Range<usize>,
    out: &mut Problems,
) -> Option<Backing> {
    let name = pool.map_or(DEFAULT_POOL, |p| p.value.as_str());
    if settings.pools.contains_key(name) || objects.pool(name).is_some() {
        return Some(Backing::Pool { pool: name.to_string() });
    }
    let remedy = match nearest(
        name,
        settings.pools.keys().chain(objects.pools().map(|p| &p.name)).map(String::as_str),
    ) {
        Some(near) => format!("did you mean {near:?}?"),
        None if settings.pools.is_empty() => {
            "set data_dir = \"/var/lib/caisson\" at the top of the file: the default pool is in it".into()
        }
        None => format!("declare it: [[pool]] with name = {name:?} and path = \"/srv/{name}\""),
    };
    let span = pool.map_or(span.clone(), |p| p.span.clone());
    out.push(Problem { span, error: format!("there is no pool {name}"), remedy });
    None
}

fn subsystems(root: &mut Table<'_, '_>, text: &str, items: &mut Items, out: &mut Problems) {
    for mut t in root.tables("subsystem", "subsystem", out) {
        let nqn = t.required("nqn", "nqn.2024-01.com.example:disk1", out);
        let serial = t.string("serial", "CAISSON0001", out);
        let model = t.string("model", DEFAULT_MODEL, out);
        let any = t.boolean("allow_any_host", out);
        let erase = t.boolean("allow_erase", out);
        let hosts = t.strings("hosts", "nqn.2014-08.org.nvmexpress:uuid:...", out);
        let inner = t.tables("namespace", "subsystem.namespace", out);
        let Some(nqn) = nqn else {
            t.finish(out);
            continue;
        };
        let (span, nqn) = (nqn.span, nqn.value);
        if let (Some(any), Some(_)) = (&any, hosts.as_ref().filter(|h| !h.is_empty()))
            && any.value
        {
            out.push(Problem {
                span: any.span.clone(),
                error: format!("subsystem {nqn} allows any host and also names hosts"),
                remedy: "remove allow_any_host = true to admit only `hosts`, or remove `hosts`".into(),
            });
        }
        let subsystem = model::Subsystem {
            serial: serial.map_or_else(|| model::derived_serial(&nqn), |s| s.value),
            model: model.map_or(DEFAULT_MODEL.into(), |m| m.value),
            allow_any_host: any.is_some_and(|a| a.value),
            allow_erase: erase.is_some_and(|e| e.value),
            sanitize: None,
            nqn: nqn.clone(),
        };
        items.add(Item::Subsystem(subsystem), span, text, out);
        for host in hosts.unwrap_or_default() {
            let item = Item::Host(model::Host { nqn: nqn.clone(), host: host.value });
            items.add(item, host.span, text, out);
        }
        let mut next = 1;
        for n in inner {
            namespace(n, &nqn, &mut next, text, items, out);
        }
        t.finish(out);
    }
}

fn namespace(
    mut t: Table<'_, '_>,
    nqn: &str,
    next: &mut u32,
    text: &str,
    items: &mut Items,
    out: &mut Problems,
) {
    let volume = t.required("volume", "data", out);
    let nsid = t.integer("nsid", 1, model::MAX_NSID.into(), out);
    let uuid = t.parsed("uuid", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", out, |s| {
        uuid::Uuid::try_parse(s).map_err(|_| format!("`{s}` is not a UUID"))
    });
    let nguid = t.string("nguid", "f81d4fae7dec11d0a76500a0c91e6bf6", out);
    let write_protected = t.boolean("write_protected", out).is_some_and(|w| w.value);
    if let Some(volume) = volume {
        let span = nsid.as_ref().map_or(volume.span, |n| n.span.clone());
        let nsid = nsid.map_or(*next, |n| n.value as u32);
        *next = nsid + 1;
        let uuid = uuid.map_or_else(|| model::derived_uuid(nqn, nsid, &volume.value), |u| u.value);
        let nguid = nguid.map(|n| n.value);
        let item =
            model::Namespace { nqn: nqn.into(), nsid, volume: volume.value, uuid, nguid, write_protected };
        items.add(Item::Namespace(item), span, text, out);
    }
    t.finish(out);
}

fn listeners(root: &mut Table<'_, '_>, text: &str, items: &mut Items, out: &mut Problems) {
    for mut t in root.tables("listener", "listener", out) {
        let kinds = [("io", Serves::Io), ("discovery", Serves::Discovery), ("both", Serves::Both)];
        let serves = t.choice("serves", &kinds, out);
        let port = if serves.as_ref().is_some_and(|s| s.value == Serves::Discovery) {
            DISCOVERY_PORT
        } else {
            IO_PORT
        };
        let kinds = [("tcp", Scheme::Tcp), ("rdma", Scheme::Rdma)];
        let trtype = t.choice("trtype", &kinds, out).map(|k| k.value);
        let example = match trtype {
            Some(Scheme::Rdma) => "rdma://192.0.2.1:4420",
            _ => "tcp://0.0.0.0:4420",
        };
        if t.required("address", example, out).is_some()
            && let Some(mut a) = t.parsed("address", example, out, |s| of_trtype(s, port, trtype))
        {
            if let Some(scheme) = trtype {
                a.value.scheme = scheme;
            }
            let serves = serves.map_or_else(|| default_serves(a.value), |s| s.value);
            items.add(Item::Listener(model::Listener { address: a.value, serves }), a.span, text, out);
        }
        t.finish(out);
    }
}

/// An address whose transport, where it says one, is that of `trtype`, where that is given.
fn of_trtype(text: &str, port: u16, trtype: Option<Scheme>) -> Result<Address, String> {
    let address = Address::parse(text, port)?;
    match trtype {
        Some(t) if text.contains("://") && t != address.scheme => {
            Err(format!("`{text}` is not of trtype \"{}\"", t.name()))
        }
        _ => Ok(address),
    }
}

/// What a listener serves where nobody chose: the port of discovery is for discovery, every other for both.
pub(crate) fn default_serves(address: Address) -> Serves {
    if address.socket.port() == DISCOVERY_PORT { Serves::Discovery } else { Serves::Both }
}

fn referrals(root: &mut Table<'_, '_>, text: &str, items: &mut Items, out: &mut Problems) {
    for mut t in root.tables("referral", "referral", out) {
        if t.required("address", "tcp://192.0.2.1:8009", out).is_some()
            && let Some(a) =
                t.parsed("address", "tcp://192.0.2.1:8009", out, |s| Address::parse(s, DISCOVERY_PORT))
        {
            items.add(Item::Referral(model::Referral { address: a.value }), a.span, text, out);
        }
        t.finish(out);
    }
}
