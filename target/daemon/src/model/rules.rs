//! The rules that a configuration keeps, whoever made it: file, state or a management request.
//!
//! Each violation names the key of the item that is wrong, so that a file's reader can point at its line.

use super::text::{DISCOVERY_NQN, check_nqn, nearest};
use super::{Backing, Item, Lookup, Namespace, Objects, Pool, Subsystem, Volume, key};
use crate::refusal::Cause;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The largest namespace number. Identify's active list is in order of it, and MNAN is this.
pub const MAX_NSID: u32 = 1024;

/// A rule that an item breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The item's key.
    pub key: String,
    /// The kind of it.
    pub cause: Cause,
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    pub remedy: String,
}

/// All rules that `objects` breaks, none when it is sound.
pub fn check(objects: &Objects) -> Vec<Violation> {
    let mut out = Vec::new();
    for (k, item) in objects {
        let mut say = |cause, error: String, remedy: String| {
            out.push(Violation { key: k.clone(), cause, error, remedy });
        };
        debug_assert_eq!(*k, item.key());
        match item {
            Item::Pool(p) => pool(p, &mut say),
            Item::Volume(v) => volume(v, objects, &mut say),
            Item::Subsystem(s) => subsystem(s, &mut say),
            Item::Namespace(n) => namespace(n, objects, &mut say),
            Item::Host(h) => {
                if let Err(e) = check_nqn(&h.host) {
                    say(Cause::Invalid, format!("the host NQN is wrong: {e}"), NQN_REMEDY.into());
                }
                if objects.subsystem(&h.nqn).is_none() {
                    unknown_subsystem(&h.nqn, objects, &mut say);
                }
            }
            Item::Listener(_) | Item::Referral(_) => {}
        }
    }
    doubles(objects, &mut out);
    out
}

const NQN_REMEDY: &str = "write nqn.yyyy-mm.reverse.domain:name, such as nqn.2024-01.com.example:disk1; a host's own is in \
                          /etc/nvme/hostnqn";

type Say<'a> = &'a mut dyn FnMut(Cause, String, String);

/// Whether a volume may have this name: it becomes a file's name.
pub fn check_volume_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty()
        && name.len() <= 64
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if fits { Ok(()) } else { Err(format!("`{name}` cannot be a volume's name")) }
}

const NAME_REMEDY: &str =
    "use 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit";

/// The devices of a pool, at most: what its superblock has room for.
pub const MAX_DEVICES: usize = 32;

fn pool(p: &Pool, say: Say<'_>) {
    if check_volume_name(&p.name).is_err() {
        say(Cause::Invalid, format!("`{}` cannot be a pool's name", p.name), NAME_REMEDY.into());
    }
    if p.devices.is_empty() || p.devices.len() > MAX_DEVICES {
        say(
            Cause::Invalid,
            format!("pool {} has {} devices", p.name, p.devices.len()),
            format!("name 1 to {MAX_DEVICES} files or block devices (--device PATH)"),
        );
    }
    let providers = p.providers();
    if providers.is_empty() || p.key_file.as_ref().is_some_and(|k| k.as_os_str().is_empty()) {
        say(
            Cause::Invalid,
            format!("pool {} has no key file and no other key provider", p.name),
            "name a key file (--key-file FILE), which is made where there is none; or a token or server (--key URI)"
                .into(),
        );
    }
    for (n, uri) in providers.iter().enumerate() {
        if providers[..n].contains(uri) {
            say(Cause::Invalid, format!("pool {} names key {uri} twice", p.name), "name it once".into());
        }
    }
}

/// What only a pool with data services can do for a volume.
fn services(v: &Volume, objects: &Objects, say: Say<'_>) {
    if v.pool().is_some_and(|p| objects.pool(p).is_some()) {
        return;
    }
    if v.services.is_some() {
        say(
            Cause::Invalid,
            format!("volume {} is not in a pool that compresses or deduplicates", v.name),
            "leave out compression, dedup, write cache and verify; or make a pool for it: caisson pool create".into(),
        );
    }
    if v.domain.is_some() {
        say(
            Cause::Invalid,
            format!("volume {} is not in a pool that has domains", v.name),
            "leave the domain out; or make a pool for it: caisson pool create".into(),
        );
    }
    if v.origin.is_some() {
        say(
            Cause::Invalid,
            format!("volume {} is not in a pool that has snapshots", v.name),
            "snapshots and clones are of volumes in a pool of `caisson pool create`".into(),
        );
    }
}

fn volume(v: &Volume, objects: &Objects, say: Say<'_>) {
    if let Err(e) = check_volume_name(&v.name) {
        say(Cause::Invalid, e, NAME_REMEDY.into());
    }
    services(v, objects, say);
    if v.block_size != 512 && v.block_size != 4096 {
        say(
            Cause::Invalid,
            format!("block size {} is not served", v.block_size),
            "use 4096 (the better choice) or 512".into(),
        );
        return;
    }
    // What is there already says its size.
    let own =
        matches!(v.backing, Backing::Path { .. }) || v.pool().is_some_and(|p| objects.pool(p).is_some());
    if v.size == 0 && !own {
        say(
            Cause::Invalid,
            format!("volume {} has no size", v.name),
            "give it one, such as size = \"10G\" (--size 10G)".into(),
        );
    }
    if !v.size.is_multiple_of(u64::from(v.block_size)) {
        say(
            Cause::Invalid,
            format!(
                "size {} of volume {} is not a multiple of its block size {}",
                v.size, v.name, v.block_size
            ),
            format!("use {} bytes", v.size.next_multiple_of(u64::from(v.block_size))),
        );
    }
    if v.size > MAX_SIZE {
        say(
            Cause::Invalid,
            format!("volume {} is larger than {} bytes", v.name, MAX_SIZE),
            "use a smaller size; files on Linux end there".into(),
        );
    }
}

/// The largest volume: what a file offset can reach, rounded down to a block.
pub const MAX_SIZE: u64 = (i64::MAX as u64) & !4095;

fn printable(text: &str, longest: usize) -> bool {
    !text.is_empty() && text.len() <= longest && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}

fn subsystem(s: &Subsystem, say: Say<'_>) {
    if let Err(e) = check_nqn(&s.nqn) {
        say(Cause::Invalid, format!("the subsystem's NQN is wrong: {e}"), NQN_REMEDY.into());
    } else if s.nqn == DISCOVERY_NQN {
        say(
            Cause::Invalid,
            "this is the discovery subsystem's own NQN".into(),
            "choose another NQN; discovery is there by itself on listeners that serve it".into(),
        );
    }
    if !printable(&s.serial, 20) {
        say(
            Cause::Invalid,
            format!("`{}` cannot be a serial number", s.serial),
            "use 1 to 20 printable ASCII characters, or leave it out".into(),
        );
    }
    if !printable(&s.model, 40) {
        say(
            Cause::Invalid,
            format!("`{}` cannot be a model number", s.model),
            "use 1 to 40 printable ASCII characters, or leave it out".into(),
        );
    }
}

fn unknown_subsystem(nqn: &str, objects: &Objects, say: Say<'_>) {
    let remedy = match nearest(nqn, objects.subsystems().map(|s| s.nqn.as_str())) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("create it first: caisson subsystem create {nqn}"),
    };
    say(Cause::NotFound, format!("there is no subsystem {nqn}"), remedy);
}

fn namespace(n: &Namespace, objects: &Objects, say: Say<'_>) {
    if n.nsid == 0 || n.nsid > MAX_NSID {
        say(
            Cause::Invalid,
            format!("namespace number {} is out of range", n.nsid),
            format!("use 1 to {MAX_NSID}, or leave it out for the first free one"),
        );
    }
    if objects.subsystem(&n.nqn).is_none() {
        unknown_subsystem(&n.nqn, objects, say);
    }
    if objects.volume(&n.volume).is_none() {
        let remedy = match nearest(&n.volume, objects.volumes().map(|v| v.name.as_str())) {
            Some(near) => format!("did you mean {near}?"),
            None => match objects.volumes().count() {
                0 => format!("declare it first: caisson volume create {} --size 10G", n.volume),
                _ => format!(
                    "create it first, or use one of: {}",
                    objects.volumes().map(|v| v.name.as_str()).take(8).collect::<Vec<_>>().join(", ")
                ),
            },
        };
        say(
            Cause::NotFound,
            format!("namespace {} of {} names volume {}, which does not exist", n.nsid, n.nqn, n.volume),
            remedy,
        );
    }
    if let Some(nguid) = &n.nguid
        && (nguid.len() != 32 || !nguid.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        say(
            Cause::Invalid,
            format!("`{nguid}` is not an NGUID"),
            "write 32 hexadecimal digits, or leave it out: the UUID stands in for it".into(),
        );
    }
}

/// What may occur only once, beyond keys.
fn doubles(objects: &Objects, out: &mut Vec<Violation>) {
    let mut paths = BTreeMap::new();
    for p in objects.pools() {
        let devices = p.devices.iter().map(|d| (&d.path, false));
        let files: Vec<PathBuf> =
            p.providers().iter().filter_map(|uri| uri.path().map(PathBuf::from)).collect();
        for (path, is_key) in devices.chain(files.iter().map(|f| (f, true))) {
            // Several pools may share a key file, and nothing else.
            let first = paths.insert(path.clone(), (format!("pool {}", p.name), is_key));
            if let Some((first, was_key)) = first
                && !(was_key && is_key)
            {
                out.push(Violation {
                    key: key::pool(&p.name),
                    cause: Cause::Conflict,
                    error: format!("{} is named twice: by {first} and by pool {}", path.display(), p.name),
                    remedy: "give each pool files or devices of its own, and its key file another place"
                        .into(),
                });
            }
        }
    }
    for v in objects.volumes() {
        if let Backing::Path { path } = &v.backing
            && let Some((first, _)) = paths.get(path)
        {
            out.push(Violation {
                key: key::volume(&v.name),
                cause: Cause::Conflict,
                error: format!("volume {} is on {}, which {first} is on", v.name, path.display()),
                remedy: "give it a file or device of its own, or create it in the pool".into(),
            });
        }
    }
    let mut paths = BTreeMap::new();
    for v in objects.volumes() {
        if let Backing::Path { path } = &v.backing
            && let Some(first) = paths.insert(path.clone(), &v.name)
        {
            out.push(Violation {
                key: key::volume(&v.name),
                cause: Cause::Conflict,
                error: format!("volumes {first} and {} are both on {}", v.name, path.display()),
                remedy: "export one volume in two subsystems instead: two namespaces may name it".into(),
            });
        }
    }
    let mut ids = BTreeMap::new();
    for n in objects.namespaces() {
        let mut once = |what: &'static str, id: String| {
            if let Some(first) = ids.insert((what, id.clone()), n) {
                out.push(Violation {
                    key: key::namespace(&n.nqn, n.nsid),
                    cause: Cause::Conflict,
                    error: format!(
                        "namespace {} of {} and namespace {} of {} have the same {what} {id}",
                        first.nsid, first.nqn, n.nsid, n.nqn
                    ),
                    remedy: format!("give one of them another {what}, or leave it out"),
                });
            }
        };
        once("uuid", n.uuid.to_string());
        if let Some(nguid) = &n.nguid {
            once("nguid", nguid.to_ascii_lowercase());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn objects(items: Vec<Item>) -> Objects {
        items.into_iter().map(|i| (i.key(), i)).collect()
    }

    fn volume(name: &str, size: u64) -> Item {
        Item::Volume(Volume::new(name, Backing::Ram, size, 4096))
    }

    fn subsystem(nqn: &str) -> Item {
        Item::Subsystem(Subsystem {
            nqn: nqn.into(),
            serial: derived_serial(nqn),
            model: DEFAULT_MODEL.into(),
            allow_any_host: true,
            allow_erase: false,
            sanitize: None,
        })
    }

    const NQN: &str = "nqn.2024-01.com.example:a";

    fn namespace(nsid: u32, volume: &str) -> Item {
        let uuid = derived_uuid(NQN, 1, volume);
        Item::Namespace(Namespace {
            nqn: NQN.into(),
            nsid,
            volume: volume.into(),
            uuid,
            nguid: None,
            write_protected: false,
        })
    }

    #[test]
    fn sound_is_sound() {
        let all = objects(vec![volume("a", 4096), subsystem(NQN), namespace(1, "a")]);
        assert_eq!(check(&all), vec![]);
    }

    #[test]
    fn each_rule_speaks() {
        let cases = [
            (vec![volume("../x", 4096)], "volume's name"),
            (vec![volume("x", 0)], "no size"),
            (vec![volume("x", 4097)], "not a multiple"),
            (vec![subsystem("nqn.2014-08.org.nvmexpress.discovery")], "discovery"),
            (vec![subsystem(NQN), namespace(1, "gone")], "does not exist"),
            (vec![volume("a", 4096), namespace(1, "a")], "no subsystem"),
            (vec![volume("a", 4096), subsystem(NQN), namespace(0, "a")], "out of range"),
            (vec![volume("a", 4096), subsystem(NQN), namespace(1, "a"), namespace(2, "a")], "same uuid"),
        ];
        for (items, word) in cases {
            let found = check(&objects(items));
            assert!(found.iter().any(|v| v.error.contains(word)), "{word}: {found:?}");
            assert!(found.iter().all(|v| !v.remedy.is_empty()));
        }
    }

    #[test]
    fn rules_of_pools() {
        let device = |path: &str| Device { path: path.into(), size: 0 };
        let pool = |name: &str, devices: &[&str], key: &str| {
            Item::Pool(Pool {
                name: name.into(),
                devices: devices.iter().map(|d| device(d)).collect(),
                key_file: Some(key.into()),
                passphrase_file: None,
                keys: Vec::new(),
                memory: 0,
            })
        };
        let in_pool = |pool: &str, services, origin| {
            let backing = Backing::Pool { pool: pool.into() };
            Item::Volume(Volume { services, origin, ..Volume::new("v", backing, 4096, 4096) })
        };
        let on = Some(Services::default());
        let of = Some(Origin { volume: "w".into(), read_only: true });
        let sound = [
            vec![pool("p", &["/d"], "/k"), pool("q", &["/e", "/f"], "/k"), in_pool("p", on, of.clone())],
            vec![in_pool("folder", None, None)],
        ];
        for items in sound {
            assert_eq!(check(&objects(items)), vec![]);
        }
        let path = Item::Volume(Volume::new("v", Backing::Path { path: "/d".into() }, 0, 4096));
        let cases = [
            (vec![pool("a b", &["/d"], "/k")], "pool's name"),
            (vec![pool("p", &[], "/k")], "0 devices"),
            (vec![pool("p", &["/d"], "")], "no key file"),
            (vec![pool("p", &["/d", "/d"], "/k")], "named twice"),
            (vec![pool("p", &["/d"], "/d")], "named twice"),
            (vec![pool("p", &["/d"], "/k"), pool("q", &["/e", "/d"], "/k")], "named twice"),
            (vec![pool("p", &["/k"], "/l"), pool("q", &["/e"], "/k")], "named twice"),
            (vec![pool("p", &["/d"], "/k"), path], "which pool p is on"),
            (vec![in_pool("folder", on, None)], "compresses"),
            (vec![in_pool("folder", None, of)], "snapshots"),
        ];
        for (items, word) in cases {
            let found = check(&objects(items));
            assert!(found.iter().any(|v| v.error.contains(word)), "{word}: {found:?}");
            assert!(found.iter().all(|v| !v.remedy.is_empty()));
        }
    }

    #[test]
    fn guesses_the_volume() {
        let found = check(&objects(vec![volume("data", 4096), subsystem(NQN), namespace(1, "dtaa")]));
        assert_eq!(found[0].remedy, "did you mean data?");
    }
}
