//! `caisson status`: what a target exports, to whom, and how fast, in tables for people.

use crate::args::StatusArgs;
use crate::failure::Failure;
use crate::output::{Table, count, json, print};
use caisson_daemon::manage::client::Client;
use caisson_daemon::manage::view::{Controller, Listener, Namespace, Status, Subsystem, Volume};
use caisson_daemon::model::Serves;
use caisson_daemon::model::text::format_size;
use std::collections::BTreeMap;
use std::time::Instant;

/// Runs `status`.
pub fn run(c: &Client, args: &StatusArgs) -> Result<(), Failure> {
    let mut before: Option<(Instant, Status)> = None;
    loop {
        let now: Status = c.get("/v1/status")?;
        let at = Instant::now();
        if args.output.json {
            json(&now);
        } else {
            let seconds = before.as_ref().map(|(t, s)| (at.duration_since(*t).as_secs_f64(), s));
            let clear = if args.watch { "\x1b[H\x1b[2J" } else { "" };
            print(&format!("{clear}{}", page(&now, seconds)));
        }
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(args.interval);
        before = Some((at, now));
    }
}

/// A time for people.
fn duration(seconds: u64) -> String {
    match seconds {
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min {} s", s / 60, s % 60),
        s if s < 86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        s => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A latency for people.
fn latency(ns: Option<u64>) -> String {
    match ns {
        None => "-".into(),
        Some(u64::MAX) => "> 17 s".into(),
        Some(ns) if ns < 1_000_000 => format!("{:.0} us", ns as f64 / 1e3),
        Some(ns) if ns < 1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        Some(ns) => format!("{:.1} s", ns as f64 / 1e9),
    }
}

/// The whole page; rates since an earlier look when there is one.
pub fn page(s: &Status, before: Option<(f64, &Status)>) -> String {
    let mut out = format!(
        "caisson {}, process {}, up {}; data plane on {}, {} thread{}\n",
        s.version,
        s.pid,
        duration(s.uptime_s),
        s.driver,
        s.reactors.len(),
        if s.reactors.len() == 1 { "" } else { "s" }
    );
    if let Some(dir) = &s.data_dir {
        out.push_str(&format!("data in {dir}\n"));
    }
    if let Some(m) = &s.metrics {
        out.push_str(&format!("metrics at {m}\n"));
    }
    for v in s.volumes.iter().filter(|v| v.fault.is_some()) {
        out.push_str(&format!("FAULT: volume {}: {}\n", v.name, v.fault.as_deref().unwrap_or_default()));
    }
    for p in &s.pools {
        let Some(status) = &p.status else { continue };
        if let Some(fault) = &status.fault {
            out.push_str(&format!("FAULT: pool {}: {fault}\n", p.name));
        }
        if status.activity.damaged > 0 {
            out.push_str(&format!(
                "DAMAGED: pool {}: {}; see `caisson pool status {}`\n",
                p.name,
                count(status.activity.damaged, "block or page", "blocks or pages"),
                p.name
            ));
        }
    }
    let mut section = |table: Table| {
        if !table.is_empty() {
            out.push_str(&format!("\n{table}"));
        }
    };
    // A folder has nothing to say beyond what its volumes say.
    let logs: Vec<_> = s.pools.iter().filter(|p| p.status.is_some()).cloned().collect();
    section(crate::pools::table(&logs));
    section(volumes(&s.volumes));
    section(subsystems(&s.subsystems));
    section(namespaces(s, before));
    section(controllers(&s.subsystems.iter().flat_map(|s| s.controllers.clone()).collect::<Vec<_>>()));
    section(listeners(&s.listeners));
    if !s.referrals.is_empty() {
        out.push_str(&format!("\nreferrals: {}\n", s.referrals.join(", ")));
    }
    let c = &s.counters;
    let open: u64 = s.reactors.iter().map(|r| r.connections).sum();
    let shed: u64 = s.reactors.iter().map(|r| r.shed).sum();
    let broken: u64 = s.reactors.iter().map(|r| r.protocol_errors).sum();
    out.push_str(&format!(
        "\n{}, {}; {}, {} refused; {} failed, {} aborted; {}, {} shed, {} missed\n",
        count(open, "connection", "connections"),
        count(c.queues, "queue", "queues"),
        count(c.connects, "connect", "connects"),
        c.refused,
        count(c.failed_commands, "command", "commands"),
        c.aborted,
        count(broken, "protocol error", "protocol errors"),
        count(shed, "connection", "connections"),
        count(c.keep_alive_expired, "keep-alive", "keep-alives"),
    ));
    out
}

/// Volumes, one a row.
pub fn volumes(all: &[Volume]) -> Table {
    let mut t = Table::new(&["VOLUME", "BACKING", ">SIZE", ">IN USE", ">BLOCK", "STATE", "EXPORTED AS"]);
    for v in all {
        t.row([
            v.name.clone(),
            v.backing.clone(),
            format_size(v.size),
            v.allocated.map_or("-".into(), format_size),
            v.block_size.to_string(),
            match (&v.fault, &v.erase) {
                (Some(_), _) => "FAULT".into(),
                (None, Some(e)) => format!("erasing {} %", e.percent),
                (None, None) => "ok".into(),
            },
            if v.exports.is_empty() { "-".into() } else { v.exports.join(", ") },
        ]);
    }
    t
}

/// One volume, a line for each thing.
pub fn volume(v: &Volume) -> String {
    let mut t = Table::new(&["VOLUME", &v.name]);
    t.row(["backing".into(), v.backing.clone()]);
    t.row(["size".into(), format!("{} ({} bytes)", format_size(v.size), v.size)]);
    t.row(["in use".into(), v.allocated.map_or("not known".into(), format_size)]);
    t.row(["block size".into(), v.block_size.to_string()]);
    if let Some(domain) = &v.domain {
        t.row(["domain".into(), domain.clone()]);
    }
    if let Some(s) = &v.services {
        let on = |on: bool| if on { "on" } else { "off" };
        t.row(["compression".into(), s.compression.to_string()]);
        t.row(["dedup".into(), on(s.dedup).into()]);
        t.row(["write cache".into(), on(s.write_cache).into()]);
        t.row(["verify".into(), on(s.verify).into()]);
    }
    if let Some(o) = &v.origin {
        let what = if o.read_only { "snapshot" } else { "clone" };
        t.row([format!("{what} of"), o.volume.clone()]);
    }
    if let Some(s) = &v.space {
        t.row(["mapped".into(), format_size(s.mapped)]);
        t.row(["freed by delete".into(), s.freed_by_delete.map_or("not known".into(), format_size)]);
    }
    if let Some(e) = &v.erase {
        t.row(["erasing".into(), crate::erase::line(e)]);
    }
    t.row(["fault".into(), v.fault.clone().unwrap_or("none".into())]);
    t.row(["under way".into(), count(v.in_flight, "request", "requests")]);
    for e in &v.exports {
        t.row(["exported as".into(), e.clone()]);
    }
    t.to_string()
}

fn who(s: &Subsystem) -> String {
    match (s.allow_any_host, s.hosts.len()) {
        (true, _) => "any host".into(),
        (false, 0) => "no host".into(),
        (false, n) => count(n as u64, "host", "hosts"),
    }
}

/// Subsystems, one a row.
pub fn subsystems(all: &[Subsystem]) -> Table {
    let mut t = Table::new(&["SUBSYSTEM", "SERIAL", ">NAMESPACES", "ALLOWS", ">CONNECTED"]);
    for s in all {
        t.row([
            s.nqn.clone(),
            s.serial.clone(),
            s.namespaces.len().to_string(),
            who(s),
            s.controllers.len().to_string(),
        ]);
    }
    t
}

/// One subsystem, with all that is in it.
pub fn subsystem(s: &Subsystem) -> String {
    let mut out = format!(
        "{}\n  serial {}, model {}; allows {}; {} media errors\n",
        s.nqn,
        s.serial,
        s.model,
        who(s),
        s.media_errors
    );
    for h in &s.hosts {
        out.push_str(&format!("  host {h}\n"));
    }
    let mut t = Table::new(&[">NSID", "VOLUME", ">SIZE", ">BLOCK", "UUID", "WRITES"]);
    for n in &s.namespaces {
        t.row([
            n.nsid.to_string(),
            n.volume.clone(),
            format_size(n.size),
            n.block_size.to_string(),
            n.uuid.clone(),
            if n.write_protected { "protected".into() } else { "allowed".into() },
        ]);
    }
    if !t.is_empty() {
        out.push_str(&format!("\n{t}"));
    }
    let t = controllers(&s.controllers);
    if !t.is_empty() {
        out.push_str(&format!("\n{t}"));
    }
    out
}

/// Namespaces with their I/O: totals, or rates since an earlier look.
fn namespaces(s: &Status, before: Option<(f64, &Status)>) -> Table {
    let rates = before.is_some();
    let heads: [&str; 9] = if rates {
        [
            "NAMESPACE",
            "VOLUME",
            ">READ/s",
            ">READ B/s",
            ">WRITE/s",
            ">WRITE B/s",
            ">p50 r/w",
            ">p99 r/w",
            ">ERRORS",
        ]
    } else {
        ["NAMESPACE", "VOLUME", ">READS", ">READ", ">WRITES", ">WRITTEN", ">p50 r/w", ">p99 r/w", ">ERRORS"]
    };
    let mut t = Table::new(&heads);
    let mut old: BTreeMap<(&str, u32), &Namespace> = BTreeMap::new();
    if let Some((_, b)) = before {
        for sub in &b.subsystems {
            old.extend(sub.namespaces.iter().map(|n| ((sub.nqn.as_str(), n.nsid), n)));
        }
    }
    for sub in &s.subsystems {
        for n in &sub.namespaces {
            let was = old.get(&(sub.nqn.as_str(), n.nsid)).map(|n| &n.io);
            let count = |op: &str| n.io.commands.get(op).copied().unwrap_or(0);
            let then = |op: &str| was.and_then(|w| w.commands.get(op).copied()).unwrap_or(0);
            let seconds = before.map_or(1.0, |(s, _)| s.max(0.001));
            let per = |now: u64, then: u64| {
                if rates { (now.saturating_sub(then) as f64 / seconds) as u64 } else { now }
            };
            t.row([
                format!("{}/{}", sub.nqn, n.nsid),
                n.volume.clone(),
                per(count("read"), then("read")).to_string(),
                format_size(per(n.io.bytes_read, was.map_or(0, |w| w.bytes_read))),
                per(count("write"), then("write")).to_string(),
                format_size(per(n.io.bytes_written, was.map_or(0, |w| w.bytes_written))),
                format!("{} / {}", latency(n.io.read_p50_ns), latency(n.io.write_p50_ns)),
                format!("{} / {}", latency(n.io.read_p99_ns), latency(n.io.write_p99_ns)),
                n.io.errors.to_string(),
            ]);
        }
    }
    t
}

/// Connected hosts, one a row.
pub fn controllers(all: &[Controller]) -> Table {
    let mut t = Table::new(&["HOST", "SUBSYSTEM", ">CNTLID", "FROM", ">I/O QUEUES", ">COMMANDS", ">KATO"]);
    for c in all {
        t.row([
            c.host.clone(),
            c.subsystem.clone(),
            c.cntlid.to_string(),
            c.peer.clone(),
            c.queues.iter().filter(|q| q.qid > 0).count().to_string(),
            c.queues.iter().map(|q| q.commands).sum::<u64>().to_string(),
            if c.kato_ms == 0 { "none".into() } else { format!("{} s", c.kato_ms / 1000) },
        ]);
    }
    t
}

/// Listeners, one a row.
pub fn listeners(all: &[Listener]) -> Table {
    let mut t = Table::new(&["LISTENER", "SERVES"]);
    for l in all {
        let serves = match l.serves {
            Serves::Io => "subsystems",
            Serves::Discovery => "discovery",
            Serves::Both => "subsystems and discovery",
        };
        let serves = match &l.waits {
            Some(why) => format!("{serves}, once it can: {why}"),
            None => serves.into(),
        };
        t.row([l.bound.clone().unwrap_or_else(|| l.address.clone()), serves]);
    }
    t
}
