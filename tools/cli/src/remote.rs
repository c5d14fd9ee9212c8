//! Commands that talk to a running target over its management socket.

use crate::args::{
    HostCommand, ListenerCommand, OnOff, Output, ReferralCommand, SubsystemCommand, VolumeCommand,
};
use crate::erase;
use crate::failure::Failure;
use crate::output::{Table, json, line, print};
use crate::status;
use caisson_daemon::Refusal;
use caisson_daemon::manage::ask::*;
use caisson_daemon::manage::client::{Client, segment};
use caisson_daemon::manage::view::{Connections, Done, Listener, Subsystem, Volume};
use caisson_daemon::model::text::format_size;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The variable that names the socket.
pub const SOCKET_VARIABLE: &str = "CAISSON_SOCKET";

/// Where a target's socket may be, for who did not say.
fn candidates() -> Vec<PathBuf> {
    let run = std::env::var_os("XDG_RUNTIME_DIR").map(|d| Path::new(&d).join("caisson.sock"));
    let fixed = ["caisson-data/caisson.sock", "/run/caisson/caisson.sock", "/var/lib/caisson/caisson.sock"];
    fixed.iter().map(PathBuf::from).chain(run).collect()
}

/// The target to talk to: the socket that was named, or the first that answers.
pub fn client(socket: Option<&Path>) -> Client {
    if let Some(path) = socket {
        return Client::new(path);
    }
    if let Some(path) = std::env::var_os(SOCKET_VARIABLE) {
        return Client::new(Path::new(&path));
    }
    let all = candidates();
    let answers = |p: &&PathBuf| UnixStream::connect(p).is_ok();
    let found = all.iter().find(answers).or_else(|| all.iter().find(|p| p.exists()));
    found.map_or_else(|| Client::at_none_of(&all), |path| Client::new(path))
}

/// Says what a request did.
pub fn told(output: Output, done: &Done, what: &str) {
    if output.json {
        json(done);
    } else if done.changed {
        line(what);
    } else {
        line(format!("{what} (it was so already)"));
    }
}

/// The same of a copy, which was made now, or earlier, when the volume held something else perhaps.
fn copied(output: Output, done: &Done, [now, earlier]: &[String; 2]) {
    match (output.json, done.changed) {
        (true, _) => json(done),
        (false, true) => line(now),
        (false, false) => line(earlier),
    }
}

/// Runs `volume ...`.
pub fn volume(c: &Client, command: VolumeCommand) -> Result<(), Failure> {
    match command {
        VolumeCommand::Create {
            name,
            size,
            backing,
            path,
            pool,
            block_size,
            domain,
            adopt,
            services,
            output,
        } => {
            // The target may run in another folder.
            let path = path.map(|p| std::path::absolute(&p).unwrap_or(p));
            let said = format!("volume {name} created");
            let next = format!("no host sees it yet: caisson subsystem add-ns NQN {name}");
            let ask = CreateVolume {
                name,
                size: size.map(Size::Bytes),
                block_size,
                backing: backing.into(),
                path,
                pool,
                adopt,
                services: services.into(),
                domain,
            };
            let done: Done = c.send("POST", "/v1/volumes", &ask)?;
            told(output, &done, &said);
            if done.changed && !output.json {
                line(next);
            }
        }
        VolumeCommand::Set { name, services, output } => {
            let ask = ServicesAsk::from(services);
            if ask.is_empty() {
                return Err(Failure::Here(Refusal::invalid(
                    "nothing is to be changed",
                    "name one of --compression, --dedup, --write-cache and --verify",
                )));
            }
            let done = c.send("PUT", &format!("/v1/volumes/{}/services", segment(&name)), &ask)?;
            told(output, &done, &format!("volume {name} is changed"));
        }
        VolumeCommand::Snapshot { of, name, output } => {
            let said = [
                format!("{name} keeps what {of} holds"),
                format!("{name} is a snapshot of {of} already, and keeps what that held when it was made"),
            ];
            let done = c.send("POST", &format!("/v1/volumes/{}/snapshots", segment(&of)), &Copy { name })?;
            copied(output, &done, &said);
        }
        VolumeCommand::Clone { of, name, output } => {
            let said = [
                format!("{name} begins as what {of} holds"),
                format!("{name} is a clone of {of} already, and began as what that held when it was made"),
            ];
            let done = c.send("POST", &format!("/v1/volumes/{}/clones", segment(&of)), &Copy { name })?;
            copied(output, &done, &said);
        }
        VolumeCommand::Delete { name, erase: true, wait, output } => {
            return erase::run(c, &name, EraseAsk { confirm: name.clone(), delete: true }, wait, output);
        }
        VolumeCommand::Erase { name, confirm, wait, output } => {
            return erase::run(c, &name, EraseAsk { confirm, delete: false }, wait, output);
        }
        VolumeCommand::Delete { name, wait, output, .. } => erase::delete(c, &name, wait, output)?,
        VolumeCommand::Resize { name, size, shrink, output } => {
            let ask = Resize { size: Size::Bytes(size), shrink };
            let done = c.send("POST", &format!("/v1/volumes/{}/resize", segment(&name)), &ask)?;
            told(output, &done, &format!("volume {name} has {} now", format_size(size)));
        }
        VolumeCommand::List(output) => {
            let all: Vec<Volume> = c.get("/v1/volumes")?;
            if output.json {
                json(&all);
            } else {
                listed(
                    &status::volumes(&all),
                    "no volumes; create one with `caisson volume create NAME --size SIZE`",
                );
            }
        }
        VolumeCommand::Show { name, output } => {
            let v: Volume = c.get(&format!("/v1/volumes/{}", segment(&name)))?;
            if output.json {
                json(&v);
            } else {
                print(&status::volume(&v));
            }
        }
    }
    Ok(())
}

/// Prints a table, or what to say when it is empty.
pub fn listed(table: &Table, none: &str) {
    if table.is_empty() {
        line(none);
    } else {
        print(&table.to_string());
    }
}

/// Runs `subsystem ...`.
pub fn subsystem(c: &Client, command: SubsystemCommand) -> Result<(), Failure> {
    let at = |nqn: &str| format!("/v1/subsystems/{}", segment(nqn));
    match command {
        SubsystemCommand::Create { nqn, serial, model, allow_any_host, allow_erase, allow, output } => {
            let (nqn_of, hosts) = (nqn.clone(), allow);
            let ask = CreateSubsystem { nqn: nqn_of, serial, model, allow_any_host, allow_erase, hosts };
            let done = c.send("POST", "/v1/subsystems", &ask)?;
            told(output, &done, &format!("subsystem {nqn} created"));
            if !output.json && !ask.allow_any_host && ask.hosts.is_empty() {
                line(format!("no host may connect yet: caisson host allow {nqn} HOSTNQN"));
            }
        }
        SubsystemCommand::Delete { nqn, output } => {
            told(output, &c.send("DELETE", &at(&nqn), &())?, &format!("subsystem {nqn} deleted"));
        }
        SubsystemCommand::List(output) => {
            let all: Vec<Subsystem> = c.get("/v1/subsystems")?;
            if output.json {
                json(&all);
            } else {
                listed(
                    &status::subsystems(&all),
                    "no subsystems; create one with `caisson subsystem create NQN`",
                );
            }
        }
        SubsystemCommand::Show { nqn, output } => {
            let s: Subsystem = c.get(&at(&nqn))?;
            if output.json {
                json(&s);
            } else {
                print(&status::subsystem(&s));
            }
        }
        SubsystemCommand::AddNs { nqn, volume, nsid, uuid, nguid, output } => {
            let ask = AddNamespace { volume: volume.clone(), nsid, uuid, nguid };
            let done: Done = c.send("POST", &format!("{}/namespaces", at(&nqn)), &ask)?;
            let nsid = done.nsid.unwrap_or_default();
            told(output, &done, &format!("volume {volume} is namespace {nsid} of {nqn}"));
        }
        SubsystemCommand::RemoveNs { nqn, nsid, output } => {
            let done = c.send("DELETE", &format!("{}/namespaces/{nsid}", at(&nqn)), &())?;
            told(output, &done, &format!("namespace {nsid} of {nqn} removed"));
        }
        SubsystemCommand::AllowErase { nqn, state, output } => {
            let on = state == OnOff::On;
            let done = c.send("PUT", &format!("{}/allow-erase", at(&nqn)), &Switch { on })?;
            let what = if on { "hosts may" } else { "no host may" };
            told(output, &done, &format!("{what} erase what the namespaces of {nqn} hold"));
        }
        SubsystemCommand::AllowAny { nqn, state, output } => {
            let on = state == OnOff::On;
            let done = c.send("PUT", &format!("{}/allow-any", at(&nqn)), &Switch { on })?;
            let who = if on { "any host may connect" } else { "only hosts on its list may connect" };
            told(output, &done, &format!("{who} to {nqn}"));
        }
        SubsystemCommand::WriteProtect { nqn, nsid, state, output } => {
            let on = state == OnOff::On;
            let path = format!("{}/namespaces/{nsid}/write-protect", at(&nqn));
            let done = c.send("PUT", &path, &Switch { on })?;
            let how = if on { "is write-protected" } else { "may be written to" };
            told(output, &done, &format!("namespace {nsid} of {nqn} {how}"));
        }
    }
    Ok(())
}

/// Runs `host ...`.
pub fn host(c: &Client, command: HostCommand) -> Result<(), Failure> {
    let at = |nqn: &str, host: &str| format!("/v1/subsystems/{}/hosts/{}", segment(nqn), segment(host));
    match command {
        HostCommand::Allow { nqn, host, output } => {
            let done = c.send("PUT", &at(&nqn, &host), &())?;
            told(output, &done, &format!("{host} may connect to {nqn}"));
            // Whoever names a host wants the others kept out.
            let now: Result<Subsystem, _> = c.get(&format!("/v1/subsystems/{}", segment(&nqn)));
            if !output.json && now.is_ok_and(|s| s.allow_any_host) {
                line(format!("so may any other host: caisson subsystem allow-any {nqn} off"));
            }
        }
        HostCommand::Remove { nqn, host, output } => {
            let done = c.send("DELETE", &at(&nqn, &host), &())?;
            told(output, &done, &format!("{host} may no more connect to {nqn} by name"));
        }
        HostCommand::List(output) => {
            let all: Vec<Subsystem> = c.get("/v1/subsystems")?;
            if output.json {
                let hosts = all.iter().map(|s| {
                    serde_json::json!({ "nqn": s.nqn, "allow_any_host": s.allow_any_host, "hosts": s.hosts })
                });
                json(&hosts.collect::<Vec<_>>());
                return Ok(());
            }
            let mut t = Table::new(&["SUBSYSTEM", "HOST"]);
            for s in &all {
                if s.allow_any_host {
                    t.row([s.nqn.clone(), "(any host)".into()]);
                }
                s.hosts.iter().for_each(|h| t.row([s.nqn.clone(), h.clone()]));
                if s.hosts.is_empty() && !s.allow_any_host {
                    t.row([s.nqn.clone(), "(no host)".into()]);
                }
            }
            listed(&t, "no subsystems; create one with `caisson subsystem create NQN`");
        }
    }
    Ok(())
}

/// Runs `listener ...`.
pub fn listener(c: &Client, command: ListenerCommand) -> Result<(), Failure> {
    match command {
        ListenerCommand::Add { address, serves, output } => {
            let ask = AddListener { address: address.clone(), serves: serves.map(Into::into) };
            told(output, &c.send("POST", "/v1/listeners", &ask)?, &format!("listening on {address}"));
        }
        ListenerCommand::Remove { address, output } => {
            let done = c.send("DELETE", &format!("/v1/listeners/{}", segment(&address)), &())?;
            told(output, &done, &format!("no more listening on {address}"));
        }
        ListenerCommand::List(output) => {
            let all: Vec<Listener> = c.get("/v1/listeners")?;
            if output.json {
                json(&all);
            } else {
                listed(
                    &status::listeners(&all),
                    "no listeners; add one with `caisson listener add tcp://0.0.0.0:4420`",
                );
            }
        }
    }
    Ok(())
}

/// Runs `referral ...`.
pub fn referral(c: &Client, command: ReferralCommand) -> Result<(), Failure> {
    match command {
        ReferralCommand::Add { address, output } => {
            let done = c.send("POST", "/v1/referrals", &AddReferral { address: address.clone() })?;
            told(output, &done, &format!("hosts are referred to {address}"));
        }
        ReferralCommand::Remove { address, output } => {
            let done = c.send("DELETE", &format!("/v1/referrals/{}", segment(&address)), &())?;
            told(output, &done, &format!("hosts are no more referred to {address}"));
        }
        ReferralCommand::List(output) => {
            let all: Vec<String> = c.get("/v1/referrals")?;
            if output.json {
                json(&all);
            } else if all.is_empty() {
                line("no referrals");
            } else {
                all.iter().for_each(line);
            }
        }
    }
    Ok(())
}

/// Runs `connections`.
pub fn connections(c: &Client, output: Output) -> Result<(), Failure> {
    let all: Connections = c.get("/v1/connections")?;
    if output.json {
        json(&all);
    } else {
        listed(&status::controllers(&all.controllers), "no host is connected");
    }
    Ok(())
}
