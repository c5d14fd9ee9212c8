//! `caisson volume delete`, and what becomes of the key of a volume's map.

use crate::args::Output;
use crate::failure::Failure;
use crate::remote::told;
use caisson_daemon::manage::client::{Client, segment};
use caisson_daemon::manage::view::{Pool, Volume};
use caisson_daemon::pools::{MapKeys, PoolStatus};
use std::time::Duration;

/// How often it is asked whether a key is erased.
const LOOKS: Duration = Duration::from_millis(200);

/// `volume delete`. With `wait`, until the key of its map is erased, where no other volume has it.
pub fn delete(c: &Client, name: &str, wait: bool, output: Output) -> Result<(), Failure> {
    let path = format!("/v1/volumes/{}", segment(name));
    // Which key it has is not to be asked afterwards. Where it is not there, the deletion says so.
    let all: Vec<Volume> = c.get("/v1/volumes")?;
    let before = all.into_iter().find(|v| v.name == name);
    let done = c.send("DELETE", &path, &())?;
    let held = before.and_then(|v| Some((v.backing.strip_prefix("pool:")?.to_owned(), v.space?.map_key)));
    let Some((pool, key)) = held.filter(|(_, key)| *key != 0) else {
        told(output, &done, &format!("volume {name} deleted"));
        return Ok(());
    };
    let status = || -> Result<PoolStatus, Failure> {
        let pool: Pool = c.get(&format!("/v1/pools/{}", segment(&pool)))?;
        Ok(pool.status.unwrap_or_default())
    };
    let mut now = status()?;
    let sharing =
        |s: &PoolStatus| s.volumes.iter().find(|(_, v)| v.map_key == key).map(|(name, _)| name.clone());
    if let Some(other) = sharing(&now) {
        told(
            output,
            &done,
            &format!("volume {name} deleted; the key of its map stays for {other}, which shares it"),
        );
        return Ok(());
    }
    if !wait {
        told(
            output,
            &done,
            &format!("volume {name} deleted; the key of its map is erased in the background"),
        );
        return Ok(());
    }
    while now.map_keys.erasing.contains(&key) {
        if now.fault.is_some() {
            let said = "the pool has failed: the key of its map is erased when the pool is open again";
            told(output, &done, &format!("volume {name} deleted; {said}"));
            return Ok(());
        }
        std::thread::sleep(LOOKS);
        now = status()?;
    }
    told(output, &done, &format!("volume {name} deleted, and the key of its map erased"));
    Ok(())
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
