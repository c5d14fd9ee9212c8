//! `caisson pool ...`, `caisson check` and `caisson inspect`: what is said of pools.

use crate::args::{CheckArgs, InspectArgs, KeyArgs, PoolCommand};
use crate::failure::Failure;
use crate::output::{Table, count, json, line, print};
use crate::remote::{listed, told};
use caisson_daemon::Refusal;
use caisson_daemon::manage::ask::{CreatePool, DeviceAsk, Grow, ScrubAsk, Size};
use caisson_daemon::manage::client::{Client, segment};
use caisson_daemon::manage::view::Pool;
use caisson_daemon::model::text::format_size;
use caisson_daemon::model::{self, Device};
use caisson_daemon::pools::{PoolStatus, Scrub, offline};
use std::path::{Path, PathBuf};

const NO_POOLS: &str = "no pools; make one with `caisson pool create NAME --device PATH --key-file FILE`";

/// The target may run in another folder.
fn whole(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Runs `pool ...`.
pub fn run(c: &Client, command: PoolCommand) -> Result<(), Failure> {
    let at = |name: &str| format!("/v1/pools/{}", segment(name));
    match command {
        PoolCommand::Create { name, device, size, keys, memory, adopt, output } => {
            let key_file = keys.key_file.clone().map(whole);
            let made = key_file.clone().filter(|k| !k.exists());
            let said = format!("pool {name:?} {}", if adopt { "taken over" } else { "made" });
            let size = size.map(Size::Bytes);
            let ask = CreatePool {
                name,
                devices: device
                    .into_iter()
                    .map(|p| DeviceAsk { path: whole(p), size: size.clone() })
                    .collect(),
                key_file,
                passphrase_file: keys.passphrase_file.clone().map(whole),
                keys: keys.uris().iter().map(ToString::to_string).collect(),
                memory: memory.map(Size::Bytes),
                adopt,
            };
            told(output, &c.send("POST", "/v1/pools", &ask)?, &said);
            if let Some(made) = made.filter(|_| !output.json) {
                line(key_file_made(&made));
            }
        }
        PoolCommand::Remove { name, output } => {
            let done = c.send("DELETE", &at(&name), &())?;
            told(output, &done, &format!("pool {name:?} let go; what it holds is on its devices"));
        }
        PoolCommand::List(output) => {
            let all: Vec<Pool> = c.get("/v1/pools")?;
            if output.json {
                json(&all);
            } else {
                listed(&table(&all), NO_POOLS);
            }
        }
        PoolCommand::Status { name, output } => {
            let all: Vec<Pool> = match &name {
                Some(name) => vec![c.get(&at(name))?],
                None => c.get("/v1/pools")?,
            };
            match (output.json, name) {
                (true, Some(_)) => all.first().into_iter().for_each(json),
                (true, None) => json(&all),
                _ if all.is_empty() => line(NO_POOLS),
                _ => print(&all.iter().map(page).collect::<Vec<_>>().join("\n")),
            }
        }
        PoolCommand::Grow { name, size, device, output } => {
            let ask = Grow { path: device.map(whole), size: size.map(Size::Bytes) };
            let done = c.send("POST", &format!("{}/grow", at(&name)), &ask)?;
            told(output, &done, &format!("pool {name:?} uses all of its devices"));
        }
        PoolCommand::AddDevice { name, path, size, output } => {
            let path = whole(path);
            let said = format!("pool {name:?} uses {}", path.display());
            let ask = DeviceAsk { path, size: size.map(Size::Bytes) };
            told(output, &c.send("POST", &format!("{}/devices", at(&name)), &ask)?, &said);
        }
        PoolCommand::Scrub { name, rate, stop, output } => {
            let rate = if stop { 0 } else { rate };
            let done =
                c.send("POST", &format!("{}/scrub", at(&name)), &ScrubAsk { rate: Size::Bytes(rate) })?;
            let said = match stop {
                true => format!("the scrub of pool {name:?} is stopped"),
                false => format!(
                    "the scrub of pool {name:?} has begun; `caisson pool status {name}` shows how far it is"
                ),
            };
            told(output, &done, &said);
        }
    }
    Ok(())
}

/// What a key file that was made means.
pub fn key_file_made(path: &Path) -> String {
    format!(
        "made the key file {}: without it and its passphrase, nothing in the pool can be read again; keep a copy of both \
         somewhere else",
        path.display()
    )
}

/// Pools, one a row.
pub fn table(all: &[Pool]) -> Table {
    let heads = ["POOL", "ON", ">SIZE", ">USED", ">MAPPED", ">STORED", ">RATIO", ">VOLUMES", "STATE"];
    let mut t = Table::new(&heads);
    for p in all {
        let size =
            |pick: fn(&PoolStatus) -> u64| p.status.as_ref().map_or("-".into(), |s| format_size(pick(s)));
        t.row([
            p.name.clone(),
            p.devices.join(", "),
            size(|s| s.size),
            size(|s| s.used),
            size(|s| s.mapped),
            size(|s| s.stored),
            p.status.as_ref().map_or("-".into(), ratio),
            p.volumes.to_string(),
            if p.waiting.is_some() { "WAITS FOR ITS KEYS".into() } else { state(p.status.as_ref()) },
        ]);
    }
    t
}

fn ratio(s: &PoolStatus) -> String {
    s.ratio().map_or("-".into(), |r| format!("{r:.2}"))
}

fn state(s: Option<&PoolStatus>) -> String {
    match s {
        None => "plain: no data services".into(),
        Some(s) if s.fault.is_some() => "FAULT".into(),
        Some(s) if s.activity.damaged > 0 => "DAMAGED".into(),
        Some(_) => "ok".into(),
    }
}

fn scrub(s: &Scrub) -> String {
    let how = match (s.running, s.completed) {
        (true, _) if s.rate > 0 => {
            format!("under way, {} %, at most {} a second", s.percent, format_size(s.rate))
        }
        (true, _) => format!("under way, {} %", s.percent),
        (false, true) => "came to its end".into(),
        (false, false) => format!("stopped at {} %", s.percent),
    };
    let found = match s.problems.len() {
        0 => "nothing wrong".to_string(),
        n => format!(
            "{}, {} of 4 KiB lost",
            count(n as u64, "problem", "problems"),
            count(s.lost_blocks, "block", "blocks")
        ),
    };
    format!("{how}; {} read, {found}", format_size(s.bytes))
}

/// One pool, a line for each thing.
pub fn page(p: &Pool) -> String {
    let mut t = Table::new(&["POOL", &p.name]);
    t.row(["on".into(), p.devices.join(", ")]);
    t.row(["volumes".into(), p.volumes.to_string()]);
    if let Some(w) = &p.waiting {
        t.row(["state".into(), "waits for its keys; nothing of it is exported".into()]);
        crate::keys::waits(w).into_iter().for_each(|[k, v]| t.row([k, v]));
        p.keys.iter().for_each(|k| t.row(["key".into(), k.clone()]));
        return t.to_string();
    }
    let Some(s) = &p.status else {
        t.row([
            "kind".into(),
            "a folder of sparse files: no deduplication, compression or encryption".into(),
        ]);
        return t.to_string();
    };
    t.row(["id".into(), s.id.clone()]);
    p.keys.iter().for_each(|k| t.row(["key".into(), k.clone()]));
    t.row(["state".into(), s.fault.clone().unwrap_or_else(|| state(Some(s)))]);
    t.row(["size".into(), format!("{}, of it in use {}", format_size(s.size), format_size(s.used))]);
    t.row(["free for data".into(), format_size(s.free)]);
    t.row(["logical".into(), format!("{} (sizes of all volumes)", format_size(s.logical))]);
    t.row(["mapped".into(), format!("{} (written by hosts and not given back)", format_size(s.mapped))]);
    t.row(["unique".into(), format!("{} (without duplicates)", format_size(s.unique))]);
    t.row([
        "stored".into(),
        format!("{} (compressed and sealed); ratio {}", format_size(s.stored), ratio(s)),
    ]);
    t.row(["metadata".into(), format_size(s.metadata)]);
    t.row(["memory".into(), format_size(s.memory)]);
    let a = &s.activity;
    t.row([
        "since opened".into(),
        format!(
            "{} written, of them {} zero, {} duplicate; the others took {}",
            count(a.written_blocks, "block", "blocks"),
            a.zero_blocks,
            a.duplicate_blocks,
            format_size(a.stored_bytes),
        ),
    ]);
    t.row([
        "to devices".into(),
        format!(
            "{}, of it {} by the cleaner, {} by checkpoints; write amplification {}",
            format_size(a.device_bytes),
            format_size(a.moved_bytes),
            format_size(a.checkpoint_bytes),
            a.write_amplification().map_or("-".into(), |w| format!("{w:.2}"))
        ),
    ]);
    for e in &s.erases {
        t.row(["erasing".into(), crate::erase::line(e)]);
    }
    if let Some(r) = s.reseal.as_ref().filter(|r| r.running) {
        t.row(["sealing anew".into(), crate::domains::reseal(r)]);
    }
    t.row(["map keys".into(), crate::erase::map_keys(&s.map_keys)]);
    if let Some(s) = &s.scrub {
        t.row(["scrub".into(), scrub(s)]);
        s.problems.iter().for_each(|p| t.row(["scrub found".into(), p.clone()]));
    }
    for d in &s.damage {
        let where_ = match (&d.volume, d.lba) {
            (Some(v), Some(lba)) => format!("volume {v}, block {lba}: "),
            (Some(v), None) => format!("volume {v}: "),
            _ => String::new(),
        };
        t.row(["damaged".into(), format!("{where_}{}", d.what)]);
    }
    if a.device_errors > 0 {
        let what = "reads were refused by devices: see the kernel's log (dmesg) and the device's SMART log, and move the pool to another";
        t.row(["device errors".into(), format!("{} {what}", a.device_errors)]);
    }
    if !s.damage.is_empty() {
        let what =
            "write what is lost anew, or restore it from a backup; `caisson pool scrub` finds all that is";
        t.row(["to do".into(), what.into()]);
    }
    t.to_string()
}

/// A pool as an offline command names it: by its first device, as no target has given it a name.
pub fn named(paths: &[PathBuf], keys: &KeyArgs) -> model::Pool {
    model::Pool {
        name: paths.first().map_or_else(String::new, |p| p.display().to_string()),
        devices: paths.iter().map(|p| Device { path: p.clone(), size: 0 }).collect(),
        key_file: keys.key_file.clone(),
        passphrase_file: keys.passphrase_file.clone(),
        keys: keys.uris(),
        memory: 0,
    }
}

/// Refuses paths that lead nowhere: no pool on them is another thing.
fn there(paths: &[PathBuf]) -> Result<(), Refusal> {
    match paths.iter().find_map(|p| (!crate::local::exists(p).ok()?).then_some(p)) {
        Some(p) => Err(Refusal::not_found(
            format!("there is no {}", p.display()),
            "name the files or devices of a pool, as they are from this folder",
        )),
        None => Ok(()),
    }
}

/// A cipher's usual name.
fn cipher(name: &str) -> &str {
    match name {
        "Aes256Gcm" => "AES-256-GCM",
        "ChaCha20Poly1305" => "ChaCha20-Poly1305",
        other => other,
    }
}

/// Runs `inspect`.
pub fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    there(&args.paths)?;
    let plain = args.paths.iter().map(|p| offline::label(p)).collect::<Result<Vec<_>, Refusal>>()?;
    let opened = match args.keys.is_empty() {
        true => None,
        false => Some(offline::look(&named(&args.paths, &args.keys))?),
    };
    if args.output.json {
        json(&serde_json::json!({ "devices": plain, "status": opened.as_ref().map(|o| &o.status), "volumes":
            opened.as_ref().map(|o| &o.volumes) }));
        return Ok(());
    }
    for l in &plain {
        let mut t = Table::new(&["DEVICE", &l.path]);
        t.row(["pool".into(), l.pool.clone()]);
        t.row(["device".into(), format!("{} of {}", l.device + 1, l.devices)]);
        t.row(["cipher".into(), cipher(&l.cipher).into()]);
        t.row(["segments".into(), format!("{} of {}", l.segments, format_size(l.segment_size))]);
        t.row(["superblock".into(), format!("written {}", count(l.counter, "time", "times"))]);
        for k in &l.keys {
            t.row(["key".into(), k.clone()]);
        }
        print(&format!("{t}\n"));
    }
    if let Some(o) = opened {
        let devices = args.paths.iter().map(|p| p.display().to_string()).collect();
        let key_file = args.keys.key_file.as_ref().map(|k| k.display().to_string());
        let keys = named(&args.paths, &args.keys).providers().iter().map(ToString::to_string).collect();
        let volumes = o.volumes.len();
        let pool = Pool {
            name: o.status.id.clone(),
            kind: "log".into(),
            devices,
            key_file,
            keys,
            volumes,
            status: Some(o.status),
            waiting: None,
        };
        print(&format!("{}\n", page(&pool)));
        let mut t = Table::new(&["VOLUME", ">SIZE", ">BLOCK", "COMPRESSION", "DEDUP", "KIND"]);
        for v in &o.volumes {
            let services = v.services;
            t.row([
                v.name.clone(),
                format_size(v.size),
                v.block_size.to_string(),
                services.compression.to_string(),
                if services.dedup { "on".into() } else { "off".into() },
                if v.read_only { "snapshot".into() } else { "volume".into() },
            ]);
        }
        print(&t.to_string());
    }
    Ok(())
}

/// Runs `check`.
pub fn check(args: &CheckArgs) -> Result<(), Failure> {
    if args.keys.is_empty() {
        return Err(Failure::Here(Refusal::invalid(
            "a pool is encrypted, and no key is named",
            "add --key-file FILE, or --key URI",
        )));
    }
    there(&args.paths)?;
    let pool = named(&args.paths, &args.keys);
    // Progress is for somebody who waits at a terminal.
    let told = std::io::IsTerminal::is_terminal(&std::io::stderr()) && !args.output.json;
    let report = offline::check(&pool, move |stage, percent| {
        if told {
            eprint!("\r{stage}: {percent} %\x1b[K");
        }
    })?;
    if told {
        eprintln!("\r\x1b[K");
    }
    if args.output.json {
        json(&report);
    } else {
        report.problems.iter().for_each(line);
        if report.more > 0 {
            line(format!("and {} more", report.more));
        }
        line(format!(
            "{} gone through, {} read",
            count(report.segments.into(), "segment", "segments"),
            format_size(report.bytes)
        ));
    }
    if report.sound {
        if !args.output.json {
            line("the pool is whole");
        }
        return Ok(());
    }
    let problems = report.problems.len() as u64 + report.more;
    Err(Failure::Here(Refusal::new(
        caisson_daemon::Cause::System,
        format!(
            "the pool has {}; {} lost",
            count(problems, "problem", "problems"),
            count(report.lost_blocks, "block of 4 KiB is", "blocks of 4 KiB are")
        ),
        "write the lost blocks anew, or restore the volumes from a backup; look for what damaged them (dmesg, the device's SMART log)",
    )))
}
