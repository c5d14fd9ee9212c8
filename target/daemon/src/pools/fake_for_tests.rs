//! An engine for tests: pools whose devices are small files, and whose volumes are in memory for as long as the engine lives.

use super::*;
use crate::refusal::Cause;
use caisson_volume::{Options, open_memory};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

/// A device says which pool it is of, and which of its devices.
const MARK: &[u8] = b"fake pool ";

/// Pools outlive daemons that open them.
#[derive(Default)]
pub struct Fake {
    pools: Mutex<BTreeMap<[u8; 16], Arc<Pool>>>,
}

/// A pool.
pub struct Pool {
    pub inner: Mutex<Inner>,
}

#[derive(Default)]
pub struct Inner {
    pub slots: Vec<KeySlot>,
    pub devices: Vec<PathBuf>,
    pub volumes: BTreeMap<String, (Record, Option<Opened>)>,
    pub open: bool,
    pub scrubbing: u64,
    pub grown: u32,
    /// What was asked for, in order.
    pub calls: Vec<String>,
    /// Calls that fail, by the first word.
    pub failing: Option<&'static str>,
    secret: Option<Vec<u8>>,
    id: [u8; 16],
}

impl Fake {
    /// The only pool there is.
    pub fn only(&self) -> Arc<Pool> {
        let pools = self.pools.lock().unwrap();
        assert_eq!(pools.len(), 1);
        Arc::clone(pools.values().next().unwrap())
    }
}

fn mark(device: &Device, id: [u8; 16], number: usize) {
    let mut bytes = MARK.to_vec();
    bytes.extend(id);
    bytes.push(number as u8);
    std::fs::write(&device.path, bytes).unwrap();
}

impl Engine for Fake {
    fn look(&self, path: &Path) -> Result<Found, Refusal> {
        let Ok(bytes) = std::fs::read(path) else { return Ok(Found::Missing) };
        let Some(rest) = bytes.strip_prefix(MARK) else {
            return Ok(if bytes.iter().all(|b| *b == 0) {
                Found::Blank
            } else {
                Found::Other("some data".into())
            });
        };
        let pool: [u8; 16] = rest[..16].try_into().unwrap();
        let pools = self.pools.lock().unwrap();
        let inner = pools[&pool].inner.lock().unwrap();
        Ok(Found::Pool(Plain {
            pool,
            counter: 1,
            device: rest[16].into(),
            devices: inner.devices.len() as u32,
            slots: inner.slots.clone(),
        }))
    }

    fn create(&self, setup: Setup, slots: &[KeySlot]) -> Result<Arc<dyn PoolHandle>, Refusal> {
        let id = setup.secrets.pool();
        setup.devices.iter().enumerate().for_each(|(n, d)| mark(d, id, n));
        let inner = Inner {
            slots: slots.to_vec(),
            devices: setup.devices.iter().map(|d| d.path.clone()).collect(),
            secret: setup.secrets.epoch(1, 1).map(|s| s.expose().to_vec()),
            open: true,
            id,
            ..Inner::default()
        };
        let pool = Arc::new(Pool { inner: Mutex::new(inner) });
        self.pools.lock().unwrap().insert(id, Arc::clone(&pool));
        Ok(pool)
    }

    fn open(&self, setup: Setup) -> Result<Arc<dyn PoolHandle>, Refusal> {
        let pool = Arc::clone(&self.pools.lock().unwrap()[&setup.secrets.pool()]);
        let mut inner = pool.lock();
        assert_eq!(setup.secrets.epoch(1, 1).map(|s| s.expose().to_vec()), inner.secret);
        assert!(!std::mem::replace(&mut inner.open, true), "opened twice");
        drop(inner);
        Ok(pool)
    }
}

fn no_volume(name: &str) -> Refusal {
    Refusal::not_found(format!("the pool has no volume {name}"), "none")
}

impl Pool {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn call(&self, text: String) -> Result<MutexGuard<'_, Inner>, Refusal> {
        let mut inner = self.lock();
        assert!(inner.open, "{text}: the pool is closed");
        if inner.failing.is_some_and(|f| text.starts_with(f)) {
            return Err(Refusal::new(Cause::System, format!("{text} failed"), "none"));
        }
        inner.calls.push(text);
        Ok(inner)
    }

    /// Names of its volumes.
    pub fn names(&self) -> Vec<String> {
        self.lock().volumes.keys().cloned().collect()
    }
}

fn memory(record: &Record) -> Opened {
    let options = Options { block_size: record.block_size, ..Options::default() };
    open_memory(caisson_device::RamStore::new(record.size).unwrap(), &options).unwrap()
}

impl PoolHandle for Pool {
    fn volumes(&self) -> Vec<Record> {
        self.lock().volumes.values().map(|(record, _)| record.clone()).collect()
    }

    fn volume(&self, name: &str) -> Result<Opened, Refusal> {
        let mut inner = self.lock();
        let (record, opened) = inner.volumes.get_mut(name).ok_or_else(|| no_volume(name))?;
        let opened = opened.get_or_insert_with(|| memory(record));
        record.size = opened.volume.geometry().blocks * u64::from(record.block_size);
        Ok(opened.clone())
    }

    fn create(&self, record: &Record) -> Result<(), Refusal> {
        let mut inner = self.call(format!("create {}", record.name))?;
        assert!(inner.volumes.insert(record.name.clone(), (record.clone(), None)).is_none());
        Ok(())
    }

    fn copy(&self, of: &str, name: &str, read_only: bool) -> Result<(), Refusal> {
        let mut inner = self.call(format!("copy {of} {name}"))?;
        let (record, _) = inner.volumes.get(of).ok_or_else(|| no_volume(of))?;
        let record = Record { name: name.into(), read_only, ..record.clone() };
        inner.volumes.insert(name.into(), (record, None));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Refusal> {
        let mut inner = self.call(format!("rename {from} {to}"))?;
        let (mut record, opened) = inner.volumes.remove(from).ok_or_else(|| no_volume(from))?;
        record.name = to.into();
        assert!(inner.volumes.insert(to.into(), (record, opened)).is_none());
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), Refusal> {
        let mut inner = self.call(format!("delete {name}"))?;
        inner.volumes.remove(name).map(drop).ok_or_else(|| no_volume(name))
    }

    fn set(&self, name: &str, services: &Services) -> Result<(), Refusal> {
        let mut inner = self.call(format!("set {name}"))?;
        inner.volumes.get_mut(name).ok_or_else(|| no_volume(name))?.0.services = *services;
        Ok(())
    }

    fn status(&self) -> PoolStatus {
        let inner = self.lock();
        let space = |(name, (record, _)): (&String, &(Record, Option<Opened>))| {
            let mapped = record.size / 2;
            (name.clone(), VolumeSpace { mapped, map_key: 0, freed_by_delete: None })
        };
        PoolStatus {
            id: uuid::Uuid::from_bytes(inner.id).to_string(),
            size: 1 << 30,
            used: 1 << 20,
            free: 1 << 29,
            mapped: 4096,
            stored: 1024,
            volumes: inner.volumes.iter().map(space).collect(),
            scrub: (inner.scrubbing > 0).then(|| Scrub { running: true, ..Scrub::default() }),
            ..PoolStatus::default()
        }
    }

    fn freed_by_delete(&self, name: &str) -> Result<u64, Refusal> {
        self.record(name).map(|r| r.size / 8).ok_or_else(|| no_volume(name))
    }

    fn scrub(&self, bytes_per_second: u64) -> Result<(), Refusal> {
        self.call(format!("scrub {bytes_per_second}"))?.scrubbing = bytes_per_second;
        Ok(())
    }

    fn grow(&self) -> Result<u64, Refusal> {
        self.call("grow".into())?.grown += 1;
        Ok(0)
    }

    fn add_device(&self, device: &Device) -> Result<(), Refusal> {
        let mut inner = self.call(format!("add {}", device.path.display()))?;
        mark(device, inner.id, inner.devices.len());
        inner.devices.push(device.path.clone());
        Ok(())
    }

    fn id(&self) -> [u8; 16] {
        self.lock().id
    }

    fn slots(&self) -> Result<Vec<KeySlot>, Refusal> {
        Ok(self.lock().slots.clone())
    }

    fn set_slots(&self, slots: &[KeySlot]) -> Result<(), Refusal> {
        self.call("slots".into())?.slots = slots.to_vec();
        Ok(())
    }

    fn domains(&self) -> Vec<Domain> {
        let named =
            |(domain, name): (u32, &str)| Domain { domain, name: name.into(), epoch: 1, ..Domain::default() };
        [(0, "pool"), (1, "default")].map(named).to_vec()
    }

    fn next(&self) -> Result<(u32, u16), Refusal> {
        let inner = self.lock();
        let domain = inner.slots.iter().map(|s| s.domain).max().unwrap_or(0);
        let epoch = inner.slots.iter().map(|s| s.epoch).max().unwrap_or(0);
        Ok((domain + 1, epoch.max(1) + 1))
    }

    fn open_epoch(&self, _: PoolSecrets, domain: u32, epoch: u16, slots: &[KeySlot]) -> Result<(), Refusal> {
        self.call(format!("epoch {epoch} of {domain}"))?.slots = slots.to_vec();
        Ok(())
    }

    fn create_domain(
        &self,
        name: &str,
        _: PoolSecrets,
        _: u32,
        _: u16,
        slots: &[KeySlot],
    ) -> Result<(), Refusal> {
        self.call(format!("domain {name}"))?.slots = slots.to_vec();
        Ok(())
    }

    fn destroy_domain(&self, domain: u32) -> Result<(), Refusal> {
        self.call(format!("destroy {domain}")).map(drop)
    }

    fn close(&self) -> Result<(), Refusal> {
        let mut inner = self.lock();
        assert!(std::mem::replace(&mut inner.open, false), "closed twice");
        // What is in memory outlives the daemon; a volume that was closed does not answer any more.
        inner.volumes.values_mut().for_each(|(_, opened)| *opened = None);
        Ok(())
    }
}
