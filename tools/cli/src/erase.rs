//! What is gone for good, on the command line: volumes that are erased or deleted, and the keys that end with them; asked for, waited for,
//! shown.

use crate::args::Output;
use crate::failure::Failure;
use crate::remote::told;
use caisson_daemon::Refusal;
use caisson_daemon::manage::ask::EraseAsk;
use caisson_daemon::manage::client::{Client, segment};
use caisson_daemon::manage::view::{Done, Pool, Volume};
use caisson_daemon::pools::{Erase, MapKeys, PoolStatus};
use std::time::Duration;

/// How often it is asked how far it is.
const ASKS: Duration = Duration::from_millis(200);

/// `volume erase NAME` and `volume delete NAME --erase`.
pub fn run(c: &Client, name: &str, ask: EraseAsk, wait: bool, output: Output) -> Result<(), Failure> {
    let at = format!("/v1/volumes/{}", segment(name));
    let before: Volume = c.get(&at)?;
    let done: Done = c.send("POST", &format!("{at}/erase"), &ask)?;
    let pool = before.backing.strip_prefix("pool:").unwrap_or_default();
    if let Some(number) = done.erase.filter(|_| wait) {
        wait_for(c, pool, number, output)?;
        let what = if ask.delete { "deleted, and what only it held" } else { "empty, and what only it held" };
        told(output, &done, &format!("volume {name} is {what} cannot be read any more: its keys are erased"));
        return Ok(());
    }
    let what = if ask.delete { "deleted" } else { "emptied" };
    let see = format!("see `caisson key status {pool}`");
    told(
        output,
        &done,
        &format!(
            "volume {name} is {what}; the keys of what only it held are erased in the background: {see}"
        ),
    );
    Ok(())
}

/// `volume delete`. With `wait`, until the key of its map is erased, where no other volume has it.
pub fn delete(c: &Client, name: &str, wait: bool, output: Output) -> Result<(), Failure> {
    // Which key it has is not to be asked afterwards. Where it is not there, the deletion says so.
    let all: Vec<Volume> = c.get("/v1/volumes")?;
    let before = all.into_iter().find(|v| v.name == name);
    let done = c.send("DELETE", &format!("/v1/volumes/{}", segment(name)), &())?;
    let held = before.and_then(|v| Some((v.backing.strip_prefix("pool:")?.to_owned(), v.space?.map_key)));
    let Some((pool, key)) = held.filter(|(_, key)| *key != 0) else {
        told(output, &done, &format!("volume {name} deleted"));
        return Ok(());
    };
    let mut now = status(c, &pool)?;
    let said = match now.volumes.iter().find(|(_, v)| v.map_key == key) {
        Some((other, _)) => format!("; the key of its map stays for {other}, which shares it"),
        None if !wait => "; the key of its map is erased in the background".into(),
        None => {
            while now.map_keys.erasing.contains(&key) {
                std::thread::sleep(ASKS);
                now = status(c, &pool)?;
            }
            ", and the key of its map erased".into()
        }
    };
    told(output, &done, &format!("volume {name} deleted{said}"));
    Ok(())
}

/// How a pool is that has something to erase. That nothing of it is to be seen is never taken for its end.
fn status(c: &Client, pool: &str) -> Result<PoolStatus, Failure> {
    let later = |what: &str| {
        Refusal::conflict(
            format!("{what}, so that it is not known whether all is erased"),
            format!(
                "what is left goes on by itself when the pool is open again: see `caisson key status {pool}`"
            ),
        )
    };
    let seen: Result<Pool, _> = c.get(&format!("/v1/pools/{}", segment(pool)));
    let seen = seen.map_err(Failure::from).map_err(|e| match e {
        Failure::NoTarget(_) => Failure::NoTarget(later("the target is away")),
        other => other,
    })?;
    match seen.status {
        Some(status) if status.fault.is_none() => Ok(status),
        Some(_) => Err(Failure::Here(later("the pool has failed"))),
        None => Err(Failure::Here(later("the pool is not open"))),
    }
}

/// Waits until an erase is done, and tells what it waits for itself when that changes.
fn wait_for(c: &Client, pool: &str, number: u32, output: Output) -> Result<(), Failure> {
    let mut said = String::new();
    loop {
        let now = status(c, pool)?;
        let Some(e) = now.erases.iter().find(|e| e.number == number) else { return Ok(()) };
        let now = line(e);
        if now != said && !output.json {
            eprintln!("{now}");
        }
        said = now;
        std::thread::sleep(ASKS);
    }
}

/// The keys of volumes' maps, in a line.
pub fn map_keys(m: &MapKeys) -> String {
    let going = match m.erasing.len() {
        0 => String::new(),
        n => format!("; {n} of deleted volumes are to be erased, when what those held is taken back"),
    };
    format!(
        "{}, one for each volume that holds anything, with its copies{going}; {} erased since opened",
        m.keys, m.erased
    )
}

/// How far an erase is, in a line.
pub fn line(e: &Erase) -> String {
    let of = match &e.volume {
        Some(name) => format!("volume {name}"),
        None => format!("a deleted volume ({})", e.id),
    };
    let stage = match e.stage.as_str() {
        "emptying" => "what it holds is unmapped",
        "needs-epoch" => "its domain is to begin another key epoch",
        _ => "what its domain still holds is sealed anew, before the old keys are erased",
    };
    let by = if e.by == "operator" { String::new() } else { format!(" (a host's {})", e.by) };
    let waits = e.waits.as_ref().map_or(String::new(), |w| format!("; WAITS: {w}"));
    format!("{of}{by}: {stage}, {} %{waits}", e.percent)
}
