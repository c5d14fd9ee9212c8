//! `caisson key ...`: where pools' keys are, and what is done with them.

use crate::args::{KeyArgs, KeyCommand, OneKey, Output};
use crate::domains;
use crate::failure::Failure;
use crate::output::{Table, count, json, line, print};
use crate::pools::named;
use crate::remote::{listed, told};
use crate::roots;
use caisson_daemon::Refusal;
use caisson_daemon::daemon::{Audit, Waits};
use caisson_daemon::manage::ask::{Export, KeyAsk, Rotate};
use caisson_daemon::manage::client::{Client, segment};
use caisson_daemon::manage::keys::{Keys, Shares};
use caisson_daemon::manage::view::Status;
use caisson_daemon::pools::offline;
use caisson_keys::{KeyError, KeyUri, Scheme};
use caisson_providers::{How, Share, open, reseal};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

fn of(e: &KeyError) -> Refusal {
    Refusal::invalid(e.to_string(), e.remedy())
}

/// The folder that `$CAISSON_AUDIT` names for records of operations on keys.
pub fn audit_folder() -> Option<PathBuf> {
    std::env::var_os("CAISSON_AUDIT").map(PathBuf::from)
}

/// Does what needs no target, recorded before and after where a folder for that is named.
fn recorded(
    dir: Option<PathBuf>,
    op: &str,
    what: &str,
    f: impl FnOnce() -> Result<(), Refusal>,
) -> Result<(), Failure> {
    let dir = dir.or_else(audit_folder);
    let audit = Audit::new(dir.as_deref());
    audit.begins(op, "", what).map_err(Failure::Here)?;
    let done = f();
    audit.ended(op, "", what, &done);
    done.map_err(Failure::Here)
}

/// The provider, with whole paths: a target may run in another folder.
fn uri(at: &OneKey) -> KeyUri {
    let whole = |p: &PathBuf| std::path::absolute(p).unwrap_or_else(|_| p.clone()).display().to_string();
    match (&at.key, &at.key_file) {
        (Some(uri), _) => {
            let named = KeyArgs { keys: vec![uri.clone()], ..KeyArgs::default() };
            named.uris().remove(0)
        }
        (None, file) => {
            let file = file.as_ref().map(whole).unwrap_or_default();
            KeyUri::file(&file, at.passphrase_file.as_ref().map(whole).as_deref())
        }
    }
}

/// Runs `key ...`; `client` gives the target for those that need one.
pub fn run(client: &dyn Fn() -> Client, command: KeyCommand) -> Result<(), Failure> {
    let path = |pool: &str, rest: &str| format!("/v1/pools/{}/keys{rest}", segment(pool));
    match command {
        KeyCommand::Create { pool, at, audit, output } => match (pool, at.domain) {
            (Some(pool), Some(domain)) => domains::create(&client(), &pool, &domain, output),
            (_, _) => {
                let one = OneKey { key: at.key, key_file: at.key_file, passphrase_file: at.passphrase_file };
                let uri = uri(&one);
                recorded(audit, "create", &uri.to_string(), || create(&uri))
            }
        },
        KeyCommand::Reseal { key, audit } => {
            recorded(audit, "reseal", &key.to_string(), || reseal(&key, true).map_err(|e| of(&e)))?;
            line(format!("sealed to this machine as it is now: {key}"));
            line("a pool that waits for it opens with `caisson key retry POOL`, or when its target starts");
            Ok(())
        }
        KeyCommand::Rotate { pool, domain: Some(domain), output, .. } => {
            domains::rotate(&client(), &pool, &domain, output)
        }
        KeyCommand::Destroy { pool, domain: Some(domain), confirm, output, .. } => {
            domains::destroy(&client(), &pool, &domain, confirm, output)
        }
        KeyCommand::Destroy { pool, root, key, confirm, output, .. } => {
            let root = root.unwrap_or_default();
            roots::end(&client(), &pool, roots::Root { root, key, reason: None, confirm }, output)
        }
        KeyCommand::Revoke { pool, root, key, reason, confirm, output } => {
            let reason = Some(roots::why(reason));
            roots::end(&client(), &pool, roots::Root { root, key, reason, confirm }, output)
        }
        KeyCommand::List { pool, output } => list(&client().get(&path(&pool, ""))?, output),
        KeyCommand::Status { pool, output } => {
            let all: Vec<Keys> = match &pool {
                Some(pool) => vec![client().get(&path(pool, ""))?],
                None => client().get("/v1/keys")?,
            };
            match output.json {
                true => json(&all),
                false if all.is_empty() => line("no pools have keys here"),
                false => print(&all.iter().map(page).collect::<Vec<_>>().join("\n")),
            }
            Ok(())
        }
        KeyCommand::Rotate { pool, domain: None, key, output } => {
            let ask = Rotate { key: key.map(|k| k.to_string()) };
            let done = client().send("POST", &path(&pool, "/rotate"), &ask)?;
            told(output, &done, &format!("the keys of pool {pool:?} are wrapped by new root keys"));
            Ok(())
        }
        KeyCommand::Add { pool, at, output } => {
            let uri = uri(&at);
            let done = client().send("POST", &path(&pool, ""), &KeyAsk { key: uri.to_string() })?;
            told(output, &done, &format!("pool {pool:?} opens with {uri}, too"));
            Ok(())
        }
        KeyCommand::Remove { pool, at, output } => {
            let uri = uri(&at);
            let done = client().send("DELETE", &path(&pool, ""), &KeyAsk { key: uri.to_string() })?;
            told(output, &done, &format!("pool {pool:?} opens with {uri} no more"));
            Ok(())
        }
        KeyCommand::Retry { pool, output } => {
            let done = client().send("POST", &path(&pool, "/retry"), &())?;
            told(output, &done, &format!("pool {pool:?} has its keys"));
            Ok(())
        }
        KeyCommand::ExportRecovery { pool, shares, needed, out } => {
            let ask = Export { shares, needed };
            // Before shares are made that cannot be written, and make those before worthless.
            empty_folder(&out)?;
            let made: Shares = client().send("POST", &path(&pool, "/recovery"), &ask)?;
            export(&pool, &made, needed, &out)
        }
        KeyCommand::ImportRecovery { paths, share, keys, audit } => {
            let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
            recorded(audit, "import-recovery", &names.join(", "), || import(&paths, &share, &keys))
        }
        KeyCommand::Audit { file, verify, public, head, output } => {
            let file = match file {
                Some(file) => file,
                None => running(&client())?,
            };
            audit(&file, verify, public.as_deref(), head.as_deref(), output)
        }
    }
}

fn create(uri: &KeyUri) -> Result<(), Refusal> {
    let mut opened = open(uri, How { ask: true, make: true }).map_err(|e| of(&e))?;
    if uri.scheme() == Scheme::File {
        let path = PathBuf::from(uri.path().unwrap_or_default());
        line(match opened.made {
            true => crate::pools::key_file_made(&path),
            false => format!("the key file {} is there, and opens", path.display()),
        });
        return Ok(());
    }
    if uri.scheme() == Scheme::Tpm2 && opened.made {
        line(format!(
            "made {}, which this machine's TPM opens by itself",
            uri.query("file").unwrap_or_default()
        ));
        line(
            "its passphrase is the recovery passphrase: after a firmware update, or with another machine, nothing else opens it. Keep \
             the passphrase and a copy of the file somewhere else (caisson key reseal)",
        );
        return Ok(());
    }
    let root = match opened.made {
        true => opened.provider.roots().map(|mut all| all.pop().unwrap_or_default()),
        false => opened.provider.add_root(),
    };
    line(format!("made root key {} in {uri}", root.map_err(|e| of(&e))?));
    Ok(())
}

fn list(keys: &Keys, output: Output) -> Result<(), Failure> {
    if output.json {
        json(&keys.slots);
        return Ok(());
    }
    let mut t = Table::new(&["KEY OF", "WRAPPED BY", "ROOT KEY"]);
    keys.slots.iter().for_each(|s| t.row([s.of.clone(), s.provider.clone(), s.root.clone()]));
    listed(&t, &format!("pool {:?} has no wrapped keys to show: see `caisson key status`", keys.pool));
    Ok(())
}

/// Why a pool waits, as lines of its page.
pub fn waits(w: &Waits) -> Vec<[String; 2]> {
    let next = match w.next_s {
        Some(s) => format!("asked {}; again in {s} s by itself", count(w.tries.into(), "time", "times")),
        None => {
            format!("asked {}; again only by `caisson key retry`", count(w.tries.into(), "time", "times"))
        }
    };
    [("waits for", w.why.error.clone()), ("remedy", w.why.remedy.clone()), ("tries", next)]
        .map(|(k, v)| [k.to_string(), v])
        .to_vec()
}

fn page(keys: &Keys) -> String {
    let mut t = Table::new(&["POOL", &keys.pool]);
    match &keys.waiting {
        None => t.row(["state".into(), "unlocked".into()]),
        Some(w) => {
            t.row(["state".into(), "WAITS FOR ITS KEYS; nothing of it is exported".into()]);
            waits(w).into_iter().for_each(|[k, v]| t.row([k, v]));
        }
    }
    for p in &keys.providers {
        t.row(["key".into(), p.uri.clone()]);
        let unused = if p.used || keys.waiting.is_some() { "" } else { "; wraps nothing of this pool" };
        let detail = if p.detail.is_empty() { String::new() } else { format!(": {}", p.detail) };
        t.row(["".into(), format!("{}{detail}{unused}", p.state)]);
    }
    domains::rows(keys).into_iter().for_each(|row| t.row(row));
    for s in &keys.slots {
        t.row(["wrapped".into(), format!("{} by {} {}", s.of, s.provider, s.root)]);
    }
    t.to_string()
}

fn empty_folder(out: &Path) -> Result<(), Failure> {
    let fail = |e: std::io::Error| {
        Failure::Here(Refusal::system(format!("the folder {} cannot be used", out.display()), &e))
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(out).map_err(fail)?;
    if std::fs::read_dir(out).map_err(fail)?.next().is_some() {
        return Err(Failure::Here(Refusal::conflict(
            format!("the folder {} is not empty", out.display()),
            "name a new one, so that no share is written over",
        )));
    }
    Ok(())
}

fn export(pool: &str, made: &Shares, needed: u8, out: &Path) -> Result<(), Failure> {
    for (n, share) in (1..).zip(&made.shares) {
        let path = out.join(format!("share-{n}.txt"));
        let text = format!(
            "# Share {n} of {} of a recovery key of pool {pool}; any {needed} of them open the pool.\n# Keep it secret, and where it is \
             found in ten years. See `caisson help key import-recovery`.\n{share}\n",
            made.shares.len()
        );
        let write = || -> std::io::Result<()> {
            let mut f = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            f.write_all(text.as_bytes())?;
            f.sync_all()
        };
        write().map_err(|e| {
            let mut r = Refusal::system(format!("{} cannot be written", path.display()), &e);
            r.remedy = "make shares again: these are incomplete, and worth nothing".into();
            Failure::Here(r)
        })?;
        line(path.display());
    }
    line(format!("any {needed} of these open pool {pool}: give each to one person, and erase the folder"));
    Ok(())
}

fn import(paths: &[PathBuf], files: &[PathBuf], keys: &KeyArgs) -> Result<(), Refusal> {
    if keys.is_empty() {
        return Err(Refusal::invalid(
            "no key provider is named that is to open the pool from now on",
            "add --key-file FILE, which is made where there is none, or --key URI",
        ));
    }
    let mut shares = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file)
            .map_err(|e| Refusal::system(format!("the share {} cannot be read", file.display()), &e))?;
        let share: Share = text
            .parse()
            .map_err(|e: KeyError| Refusal::invalid(format!("{}: {e}", file.display()), e.remedy()))?;
        shares.push(share);
    }
    let roots = offline::recover(&named(paths, keys), &shares)?;
    line(format!("the pool opens with {}, and with nothing that was lost", roots.join(", ")));
    line("make new shares when a target serves it: caisson key export-recovery");
    Ok(())
}

/// The log of the target that runs.
fn running(client: &Client) -> Result<PathBuf, Failure> {
    let status: Status = client.get("/v1/status")?;
    status.audit.map(PathBuf::from).ok_or_else(|| {
        Failure::Here(Refusal::not_found(
            "this target has no pool with keys, and has recorded nothing",
            "name the log of another: caisson key audit FILE",
        ))
    })
}

fn audit(
    file: &Path,
    only_verify: bool,
    public: Option<&str>,
    head: Option<&str>,
    output: Output,
) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        Failure::Here(Refusal::system(format!("the audit log {} cannot be read", file.display()), &e))
    })?;
    let changed = |what: String| {
        Failure::Here(Refusal::new(
            caisson_daemon::Cause::System,
            format!("the audit log {} is not what was written: {what}", file.display()),
            "keep it as it is for who looks into it; compare it with a copy, and find out who could write to its folder",
        ))
    };
    let found = caisson_audit::verify(&text, public).map_err(|e| changed(e.to_string()))?;
    if let Some(head) = head {
        let mut hashes = found.records.iter().skip(1).map(|r| &r.prev).chain([&found.head]);
        if !hashes.any(|h| h.eq_ignore_ascii_case(head.trim())) {
            return Err(changed("the record that was noted as the last is not in it".into()));
        }
    }
    if output.json {
        json(&serde_json::json!({ "records": found.records, "public": found.public, "head": found.head }));
        return Ok(());
    }
    if !only_verify {
        let mut t = Table::new(&[">N", "TIME", "DONE", "OPERATION", "POOL", "WHAT"]);
        for r in &found.records {
            let done = if r.done { "yes" } else { "no" };
            t.row([
                r.n.to_string(),
                r.time.to_string(),
                done.into(),
                r.op.clone(),
                r.pool.clone(),
                r.what.clone(),
            ]);
        }
        print(&t.to_string());
    }
    line(format!(
        "{}, whole and signed with {}",
        count(found.records.len() as u64, "record", "records"),
        found.public
    ));
    line(format!("last hash {}", found.head));
    Ok(())
}
