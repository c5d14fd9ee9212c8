//! Erasing volumes on the command line: asked for, waited for, shown.

use crate::args::Output;
use crate::failure::Failure;
use crate::remote::told;
use caisson_daemon::Refusal;
use caisson_daemon::manage::ask::EraseAsk;
use caisson_daemon::manage::client::{Client, segment};
use caisson_daemon::manage::view::{Pool, Volume};
use caisson_daemon::pools::Erase;
use std::time::Duration;

/// How often it is asked how far it is.
const ASKS: Duration = Duration::from_millis(200);

/// `volume erase NAME` and `volume delete NAME --erase`.
pub fn run(c: &Client, name: &str, ask: EraseAsk, wait: bool, output: Output) -> Result<(), Failure> {
    let at = format!("/v1/volumes/{}", segment(name));
    let before: Volume = c.get(&at)?;
    let done = c.send("POST", &format!("{at}/erase"), &ask)?;
    let Some(pool) = before.backing.strip_prefix("pool:").map(str::to_owned) else { return Ok(()) };
    let mine = last(c, &pool)?;
    if let Some(number) = mine.filter(|_| wait) {
        wait_for(c, &pool, number, output)?;
        let what = if ask.delete { "deleted, and what only it held" } else { "empty, and what only it held" };
        told(output, &done, &format!("volume {name} is {what} cannot be read any more: its keys are erased"));
        return Ok(());
    }
    let what = if ask.delete { "volume {} is deleted" } else { "volume {} is emptied" }.replace("{}", name);
    told(
        output,
        &done,
        &format!(
            "{what}; the keys of what only it held are erased in the background: see `caisson key status {pool}`"
        ),
    );
    Ok(())
}

fn erases(c: &Client, pool: &str) -> Result<Vec<Erase>, Failure> {
    let pool: Pool = c.get(&format!("/v1/pools/{}", segment(pool)))?;
    Ok(pool.status.map(|s| s.erases).unwrap_or_default())
}

/// The number of the last that was asked for.
fn last(c: &Client, pool: &str) -> Result<Option<u32>, Failure> {
    Ok(erases(c, pool)?.last().map(|e| e.number))
}

/// Waits until an erase is done, and tells what it waits for itself when that changes.
fn wait_for(c: &Client, pool: &str, number: u32, output: Output) -> Result<(), Failure> {
    let mut said = String::new();
    loop {
        let all = erases(c, pool).map_err(|e| match e {
            Failure::Here(_) => Failure::Here(Refusal::conflict(
                "the target is away",
                "the erase goes on when it runs again: see `caisson key status`",
            )),
            other => other,
        })?;
        let Some(e) = all.iter().find(|e| e.number == number) else { return Ok(()) };
        let now = line(e);
        if now != said && !output.json {
            eprintln!("{now}");
        }
        said = now;
        std::thread::sleep(ASKS);
    }
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
