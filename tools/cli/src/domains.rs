//! Domains of a pool on the command line: made, begun anew, destroyed, shown.

use crate::args::Output;
use crate::failure::Failure;
use crate::output::count;
use crate::remote::told;
use caisson_daemon::Refusal;
use caisson_daemon::manage::ask::{Destroy, DomainAsk};
use caisson_daemon::manage::client::{Client, segment};
use caisson_daemon::manage::keys::Keys;
use caisson_daemon::model::text::format_size;
use caisson_daemon::pools::{Domain, Reseal};
use std::io::{BufRead, IsTerminal, Write};

fn path(pool: &str, rest: &str) -> String {
    format!("/v1/pools/{}/domains{rest}", segment(pool))
}

/// `key create POOL --domain NAME`.
pub fn create(c: &Client, pool: &str, domain: &str, output: Output) -> Result<(), Failure> {
    let done = c.send("POST", &path(pool, ""), &DomainAsk { domain: domain.into() })?;
    told(output, &done, &format!("pool {pool:?} has the domain {domain}"));
    say_incomplete(c, pool, output)
}

/// `key rotate POOL --domain NAME`.
pub fn rotate(c: &Client, pool: &str, domain: &str, output: Output) -> Result<(), Failure> {
    let done = c.send("POST", &path(pool, "/rotate"), &DomainAsk { domain: domain.into() })?;
    let what = format!(
        "what is written to domain {domain} of pool {pool:?} is sealed under new keys; what there is, in the background: see `caisson key status {pool}`"
    );
    told(output, &done, &what);
    say_incomplete(c, pool, output)
}

/// Says which providers do not wrap what is new: people rely on them.
fn say_incomplete(c: &Client, pool: &str, output: Output) -> Result<(), Failure> {
    let keys: Keys = c.get(&format!("/v1/pools/{}/keys", segment(pool)))?;
    for name in keys.incomplete.iter().filter(|_| !output.json) {
        eprintln!("note: {}", hint(name, pool));
    }
    Ok(())
}

fn hint(provider: &str, pool: &str) -> String {
    match provider {
        "recovery" => format!(
            "the recovery shares of before do not open what is new: make them anew (caisson key export-recovery {pool})"
        ),
        other => format!("{other} does not wrap all keys of pool {pool:?}, and alone opens it no more"),
    }
}

/// `key destroy POOL --domain NAME`.
pub fn destroy(
    c: &Client,
    pool: &str,
    domain: &str,
    confirm: Option<String>,
    output: Output,
) -> Result<(), Failure> {
    let confirm = match confirm {
        Some(confirm) => confirm,
        None => asked(
            &format!("destroy the domain {domain}"),
            domain,
            &format!(
                "Everything that the volumes of domain {domain} in pool {pool:?} hold, snapshots included, is lost then, for good."
            ),
        )?,
    };
    let done = c.send("POST", &path(pool, "/destroy"), &Destroy { domain: domain.into(), confirm })?;
    told(output, &done, &format!("the keys of domain {domain} are destroyed: what its volumes held is gone"));
    Ok(())
}

/// Has a person at the terminal say the name of what is ended for good, after `warning`; `deed` is what is about to be done.
pub fn asked(deed: &str, name: &str, warning: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::Here(Refusal::invalid(
            format!("to {deed}, its name has to be said again"),
            format!("add --confirm {name}. {warning}"),
        )));
    }
    eprint!("{warning}\nIts name, to go on: ");
    let mut line = String::new();
    let read = std::io::stderr().flush().and_then(|()| stdin.lock().read_line(&mut line));
    read.map_err(|e| Failure::Here(Refusal::system("the name cannot be read", &e)))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// The rows of a pool's page of keys.
pub fn rows(keys: &Keys) -> Vec<[String; 2]> {
    let mut rows: Vec<[String; 2]> = keys.domains.iter().map(|d| ["domain".into(), domain(d)]).collect();
    rows.extend(keys.reseal.iter().map(|r| ["sealing anew".into(), reseal(r)]));
    rows.extend(keys.map_keys.iter().map(|m| ["map keys".into(), crate::erase::map_keys(m)]));
    rows.extend(keys.erases.iter().map(|e| ["erasing".into(), crate::erase::line(e)]));
    rows.extend(keys.incomplete.iter().map(|name| ["INCOMPLETE".into(), hint(name, &keys.pool)]));
    rows
}

fn domain(d: &Domain) -> String {
    if d.epoch == 0 {
        let left = count(d.volumes as u64, "volume is left", "volumes are left");
        return format!("{}: KEYS DESTROYED; {} of it to be deleted", d.name, left);
    }
    let old: Vec<String> = d.old_epochs.iter().map(ToString::to_string).collect();
    let old =
        if old.is_empty() { String::new() } else { format!("; earlier epochs in use: {}", old.join(", ")) };
    let sealed = format_size(d.sealed_bytes);
    format!(
        "{}: epoch {}, which sealed {}, {sealed}; {}{old}",
        d.name,
        d.epoch,
        count(d.sealed_records, "record", "records"),
        count(d.volumes as u64, "volume", "volumes")
    )
}

/// How far the sealing anew is, in a line.
pub fn reseal(r: &Reseal) -> String {
    if !r.running {
        return "done: nothing is left under earlier epochs, whose keys are erased".into();
    }
    let waits = r.waits.as_ref().map_or(String::new(), |w| format!("; waits for {w}"));
    let left = r.left.map_or(String::new(), |left| {
        format!("; {} left when last counted", count(left, "block or page", "blocks and pages"))
    });
    format!("segment {} of {}, {} so far{left}{waits}", r.segments, r.all_segments, format_size(r.bytes))
}
