//! From `[[pool]]` tables to folders and log-structured pools, and what these do with a volume's blocks.

use super::problem::Problem;
use super::read::Items;
use super::settings::{POOL_DIR, Settings};
use super::walk::{At, Problems, Table};
use crate::model::{
    Compression, DEFAULT_POOL, Device, Item, Lookup, MAX_SIZE, Pool, Services, check_volume_name,
};
use crate::pools::domains::POOL_DOMAIN;
use caisson_keys::KeyUri;
use std::ops::Range;
use std::path::Path;

/// Least memory of a pool that can be chosen.
const MEMORY_MIN: u64 = 16 << 20;

/// Reads every `[[pool]]`: a folder is a setting, a pool of devices is an item.
pub(super) fn pools(
    root: &mut Table<'_, '_>,
    base: &Path,
    s: &mut Settings,
    text: &str,
    items: &mut Items,
    out: &mut Problems,
) {
    for mut t in root.tables("pool", "pool", out) {
        let name = t.string("name", DEFAULT_POOL, out);
        let (name, span) = name.map_or((DEFAULT_POOL.to_string(), t.span.clone()), |n| (n.value, n.span));
        let devices = t.tables("device", "pool.device", out);
        let key_file = t.string("key_file", "/etc/caisson/pool.key", out);
        let keys = keys(&mut t, base, out);
        let passphrase_file = t.string("passphrase_file", "/etc/caisson/pool.passphrase", out);
        let memory = t.size("memory", MEMORY_MIN, 1 << 50, out);
        if devices.is_empty() && key_file.is_none() && keys.is_none() {
            let odd =
                passphrase_file.map(|p| (p.span, "passphrase_file")).or(memory.map(|m| (m.span, "memory")));
            if let Some((span, key)) = odd {
                out.push(Problem {
                    span,
                    error: format!("`{key}` does not go with a pool that is a folder"),
                    remedy: format!("remove `{key}`, or name a key_file and add [[pool.device]] with path"),
                });
            }
            folder(&mut t, base, s, items, name, span, out);
            t.finish(out);
            continue;
        }
        let path = t.string("path", "/srv/caisson/pool", out);
        let devices: Vec<Device> = devices.into_iter().filter_map(|d| device(d, base, out)).collect();
        let lacks = |what: &str, remedy: &str| Problem {
            span: t.span.clone(),
            error: format!("pool {name} lacks {what}"),
            remedy: remedy.into(),
        };
        match path {
            Some(path) => out.push(Problem {
                span: path.span,
                error: "`path` is for a pool that is a folder, and this one has devices or a key file".into(),
                remedy: "write [[pool.device]] with path = \"...\" instead, once for each device".into(),
            }),
            None if key_file.is_none() && keys.is_none() => out.push(lacks(
                "a `key_file`",
                "add key_file = \"/etc/caisson/pool.key\", or keys = [\"pkcs11:token=...\"]",
            )),
            None if devices.is_empty() => {
                out.push(lacks("a device", "add [[pool.device]] with path = \"/dev/nvme1n1\""));
            }
            None => {
                if s.pools.contains_key(&name) && !is_own(s, &name) {
                    out.push(twice(&name, span.clone()));
                }
                let pool = Pool {
                    name,
                    devices,
                    key_file: key_file.map(|k| base.join(k.value)),
                    passphrase_file: passphrase_file.map(|p| base.join(p.value)),
                    keys: keys.unwrap_or_default(),
                    memory: memory.map_or(0, |m| m.value),
                };
                items.add(Item::Pool(pool), span, text, out);
            }
        }
        t.finish(out);
    }
}

/// Other key providers; the paths in them are relative to the file's folder, as all are.
fn keys(t: &mut Table<'_, '_>, base: &Path, out: &mut Problems) -> Option<Vec<KeyUri>> {
    let example = "pkcs11:token=Caisson;object=root?module-path=/usr/lib/softhsm/libsofthsm2.so";
    let mut all = Vec::new();
    for text in t.strings("keys", example, out)? {
        match text.value.parse::<KeyUri>() {
            Ok(mut uri) => {
                uri.map_paths(|p| base.join(p).display().to_string());
                all.push(uri);
            }
            Err(e) => out.push(Problem { span: text.span, error: e.to_string(), remedy: e.remedy() }),
        }
    }
    Some(all)
}

fn device(mut t: Table<'_, '_>, base: &Path, out: &mut Problems) -> Option<Device> {
    let path = t.required("path", "/dev/nvme1n1", out);
    let size = t.size("size", 1, MAX_SIZE, out).map_or(0, |s| s.value);
    t.finish(out);
    path.map(|p| Device { path: base.join(p.value), size })
}

fn twice(name: &str, span: Range<usize>) -> Problem {
    Problem {
        span,
        error: format!("pool {name} is declared twice"),
        remedy: "give each [[pool]] a name of its own".into(),
    }
}

/// Whether the pool of that name is the folder that is there without anybody naming it.
fn is_own(s: &Settings, name: &str) -> bool {
    s.pools.get(name) == s.data_dir.as_ref().map(|d| d.join(POOL_DIR)).as_ref()
}

fn folder(
    t: &mut Table<'_, '_>,
    base: &Path,
    s: &mut Settings,
    items: &Items,
    name: String,
    span: Range<usize>,
    out: &mut Problems,
) {
    let Some(path) = t.required("path", "/srv/caisson/pool", out) else { return };
    let own = is_own(s, &name);
    let replaced = s.pools.insert(name.clone(), base.join(path.value));
    if replaced.is_some() && !own || items.objects.pool(&name).is_some() {
        out.push(twice(&name, span));
    }
}

/// The domain of the pool whose keys seal a volume; none where nothing is said.
pub(super) fn domain(t: &mut Table<'_, '_>, log: bool, out: &mut Problems) -> Option<String> {
    let named = |text: &str| match text {
        POOL_DOMAIN => Err(format!("`{POOL_DOMAIN}` is what belongs to no volume")),
        _ => check_volume_name(text).map(|()| text.to_string()).map_err(|e| e.replace("volume", "domain")),
    };
    let said = t.parsed("domain", "tenant-a", out, named)?;
    if !log {
        out.push(Problem {
            span: said.span,
            error: "`domain` does not go with this backing".into(),
            remedy: "remove `domain`, or put the volume in a [[pool]] that has devices and a key_file".into(),
        });
        return None;
    }
    Some(said.value)
}

/// What the pool is to do with a volume's blocks; nothing where it is no log-structured one, and then nothing may be said.
pub(super) fn services(t: &mut Table<'_, '_>, log: bool, out: &mut Problems) -> Option<Services> {
    let compression = t.parsed("compression", "zstd:1", out, str::parse::<Compression>);
    let [dedup, write_cache, verify] =
        ["dedup", "write_cache", "verify"].map(|key| (key, t.boolean(key, out)));
    if !log {
        let said = compression.map(|c| ("compression", c.span));
        let switches = [dedup, write_cache, verify].into_iter().filter_map(|(key, at)| Some((key, at?.span)));
        for (key, span) in said.into_iter().chain(switches) {
            out.push(Problem {
                span,
                error: format!("`{key}` does not go with this backing"),
                remedy: format!(
                    "remove `{key}`, or put the volume in a [[pool]] that has devices and a key_file"
                ),
            });
        }
        return None;
    }
    let or = |at: (&str, Option<At<bool>>), by_itself: bool| at.1.map_or(by_itself, |a| a.value);
    let all = Services::default();
    Some(Services {
        compression: compression.map_or(all.compression, |c| c.value),
        dedup: or(dedup, all.dedup),
        write_cache: or(write_cache, all.write_cache),
        verify: or(verify, all.verify),
    })
}
