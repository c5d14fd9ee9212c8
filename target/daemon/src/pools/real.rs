//! The engine of production: pools of `caisson-engine` on files and block devices, each tended by a thread of its own.

use super::{
    Activity, Damage, DeviceStatus, Domain, Engine, Erase, Found, MapKeys, Plain, PoolHandle, PoolStatus,
    Record, Reseal, Scrub, Setup, VolumeSpace,
};
use crate::model::{Compression, Device, Services};
use crate::refusal::{Cause, Refusal};
use caisson_device::threaded::Does;
use caisson_device::{FileStore, Size, execute};
use caisson_engine::{
    ChangeError, Cipher, Create, CreateError, EraseBy, EraseStage, Host, Level, Memory, NewEpoch, OpenError,
    Options, Pool, PoolId, ScrubStatus, Secrets, Settings, Superblock, VolumeId, beginning,
};
use caisson_fingerprint::FingerprintKey;
use caisson_keys::{DEFAULT_DOMAIN, KeySlot, POOL_DOMAIN, PoolSecrets};
use caisson_volume::Opened;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What of a device is its superblocks', and blank before it is a pool's.
const FRONT: u64 = 1 << 20;
/// Where the second copy of the superblock is.
const SECOND: u64 = 512 << 10;
/// Bytes of a copy.
const COPY: usize = 16 << 10;

/// Problems of each kind that the status of a scrub tells.
const PROBLEMS: usize = 256;

/// The engine that this program is built with.
pub fn engine() -> Arc<dyn Engine> {
    Arc::new(Real(Arc::new(execute)))
}

/// The same, over devices whose operations `does` does.
#[cfg(test)]
pub(crate) fn engine_over(does: Does) -> Arc<dyn Engine> {
    Arc::new(Real(does))
}

/// With who does the operations of its pools' devices.
struct Real(Does);

impl Engine for Real {
    fn look(&self, path: &Path) -> Result<Found, Refusal> {
        let fail = |e: &std::io::Error| Refusal::system(format!("{} cannot be looked at", path.display()), e);
        let meta = match path.metadata() {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Missing),
            Err(e) => return Err(fail(&e)),
        };
        if meta.is_dir() {
            return Ok(Found::Other("files: it is a folder".into()));
        }
        let file = File::open(path).map_err(|e| fail(&e))?;
        let damaged = match superblock(&file).map_err(|e| fail(&e))? {
            Ok(superblock) => return Ok(Found::Pool(plain(&superblock)?)),
            Err(damaged) => damaged,
        };
        let mut front = Vec::new();
        file.take(FRONT).read_to_end(&mut front).map_err(|e| fail(&e))?;
        if front.iter().all(|b| *b == 0) {
            return Ok(Found::Blank);
        }
        Ok(Found::Other(format!("something else ({damaged})")))
    }

    fn create(&self, setup: Setup, slots: &[KeySlot]) -> Result<Arc<dyn PoolHandle>, Refusal> {
        let id = PoolId(setup.secrets.pool());
        let slots = slots.iter().map(stored).collect();
        taken(&self.0, setup, move |port, mut stores, secrets, options| async move {
            let sizes: Vec<u64> = stores.iter().map(|s| s.size()).collect();
            let (segment, first) = beginning(&sizes);
            let create = Create { id, cipher: Cipher::auto(), segment_size: Some(segment), slots };
            // Those of which some, and not all, had been written would be no pool, and not blank.
            let later = stores.split_off(first);
            let pool = Pool::create(&port, stores, secrets, create, options).await;
            let pool = pool.map_err(|e| of_create(&e))?;
            for store in later {
                pool.add_device(&port, store).await.map_err(|e| of_change(&e))?;
            }
            Ok(pool)
        })
    }

    fn open(&self, setup: Setup) -> Result<Arc<dyn PoolHandle>, Refusal> {
        taken(&self.0, setup, |port, stores, secrets, options| async move {
            Pool::open(&port, stores, secrets, options).await.map_err(|e| of_open(&e))
        })
    }
}

/// The plain part of the newer copy that can be read, or what is wrong with the second.
pub(super) fn superblock(file: &File) -> std::io::Result<Result<Superblock, String>> {
    let first = Superblock::decode_plain(&read_at(file, 0)?);
    let second = Superblock::decode_plain(&read_at(file, SECOND)?);
    Ok(match (first, second) {
        (Ok(a), Ok(b)) => Ok(if b.counter > a.counter { b } else { a }),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(_), Err(e)) => Err(e.to_string()),
    })
}

/// A copy of the superblock; short where the file is.
fn read_at(file: &File, at: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; COPY];
    let mut len = 0;
    while len < COPY {
        match file.read_at(&mut bytes[len..], at + len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

fn plain(s: &Superblock) -> Result<Plain, Refusal> {
    let slots = loaded(&s.slots)?;
    Ok(Plain { pool: s.pool.0, counter: s.counter, device: s.device, devices: s.devices, slots })
}

fn loaded(slots: &[caisson_engine::KeySlot]) -> Result<Vec<KeySlot>, Refusal> {
    let slot = |slot: &caisson_engine::KeySlot| {
        KeySlot::from_stored(slot.purpose, slot.domain, slot.epoch, &slot.provider, slot.wrapped())
    };
    let slots: Result<_, _> = slots.iter().map(slot).collect();
    slots.map_err(|e| Refusal::new(Cause::Invalid, e.to_string(), e.remedy()))
}

fn stored(slot: &KeySlot) -> caisson_engine::KeySlot {
    caisson_engine::KeySlot {
        purpose: slot.purpose as u8,
        domain: slot.domain,
        epoch: slot.epoch,
        provider: slot.provider.clone(),
        root: slot.wrapped.root.clone(),
        blob: slot.wrapped.blob.clone(),
    }
}

fn of_open(e: &OpenError) -> Refusal {
    let remedy = match e {
        OpenError::Devices { .. } | OpenError::OtherPool { .. } => {
            "name all devices of one pool, and no other"
        }
        OpenError::Device { .. } | OpenError::Read { .. } => {
            "see the kernel's log (dmesg) for the device's own errors"
        }
        OpenError::Short { .. } => "give the device or file its size again: what was cut off is lost",
        OpenError::Memory(_) => "see the limit of memory (ulimit -v), or choose less with memory",
        OpenError::Checkpoint(_) => "see that the device can be written to",
        _ => "check the pool with `caisson check`, and put back a copy where it is damaged",
    };
    Refusal::new(Cause::System, e.to_string(), remedy)
}

fn of_create(e: &CreateError) -> Refusal {
    match e {
        CreateError::Small { .. } => {
            Refusal::invalid(e.to_string(), "use a larger file or device, or several")
        }
        CreateError::InUse { .. } => {
            Refusal::conflict(e.to_string(), "name a blank device, or erase this one")
        }
        CreateError::Options(_) => {
            Refusal::invalid(e.to_string(), "see docs/configuration.md for what is allowed")
        }
        CreateError::Open(e) => of_open(e),
    }
}

fn of_change(e: &ChangeError) -> Refusal {
    let (cause, remedy) = match e {
        ChangeError::NoVolume(_) => (Cause::NotFound, "see `caisson volume list` for what there is"),
        ChangeError::Size { .. } => (Cause::Invalid, "use a multiple of 4096 bytes"),
        ChangeError::InUse(_) => (Cause::Busy, "remove its namespaces first, and wait for its last requests"),
        ChangeError::Full => (Cause::Conflict, "delete volumes or snapshots, or let the pool grow"),
        ChangeError::Volume(_) | ChangeError::Settings(_) => {
            (Cause::Invalid, "choose another name or setting; `caisson volume list` shows what there is")
        }
        ChangeError::Device { .. } | ChangeError::Layout(_) => {
            (Cause::Conflict, "name a blank file or device that has room for a segment")
        }
        ChangeError::NoDomain(_) => {
            (Cause::NotFound, "see `caisson key status` for the domains that there are")
        }
        ChangeError::Domain(_) => {
            (Cause::Conflict, "see `caisson key status` for the pool's domains and epochs")
        }
        ChangeError::Erasing => (Cause::Busy, "see `caisson pool status` for how far it is"),
        ChangeError::Slots(_) => {
            (Cause::Conflict, "remove a key provider that is not used any more (caisson key remove)")
        }
        ChangeError::Failed(_) | ChangeError::Lost => {
            (Cause::System, "see `caisson pool status` for what is damaged")
        }
    };
    Refusal::new(cause, e.to_string(), remedy)
}

fn secrets(mut unlocked: PoolSecrets) -> Result<Secrets, Refusal> {
    let numbers: Vec<u32> = unlocked.domains().filter(|d| *d != POOL_DOMAIN).collect();
    let lacks = |domain: u32| {
        Refusal::invalid(
            format!("the pool's keys lack those of its domain {domain}"),
            "put back a copy of its superblock",
        )
    };
    let mut prints = Vec::with_capacity(numbers.len());
    for domain in numbers {
        prints.push((domain, fingerprint(&unlocked, domain).ok_or_else(|| lacks(domain))?));
    }
    Ok(Secrets { epochs: unlocked.take_epochs(), prints })
}

fn fingerprint(unlocked: &PoolSecrets, domain: u32) -> Option<FingerprintKey> {
    let mut key = *unlocked.fingerprint(domain)?.expose_array::<32>()?;
    Some(FingerprintKey::take(&mut key))
}

/// The keys of one epoch, out of those that were unlocked.
fn new_epoch(mut unlocked: PoolSecrets, domain: u32, epoch: u16) -> Result<NewEpoch, Refusal> {
    let prints = fingerprint(&unlocked, domain);
    let found = unlocked.take_epochs().into_iter().find(|(name, _)| *name == (domain, epoch));
    let (_, secret) = found.ok_or_else(|| Refusal::invalid("the new epoch has no keys", "try it again"))?;
    Ok(NewEpoch { domain, epoch, secret, prints })
}

fn stores(devices: &[Device]) -> Result<Vec<Arc<FileStore>>, Refusal> {
    let open = |d: &Device| {
        FileStore::open(&d.path, Size::new(d.size)).map_err(|e| {
            Refusal::new(
                Cause::System,
                e.to_string(),
                "check that it is there, is not in use elsewhere, and that this user may read and write it",
            )
        })
    };
    #[cfg(test)]
    let _locks = super::faulty_for_tests::locks();
    devices.iter().map(open).collect()
}

/// How the memory of a pool is shared out.
fn memory(bytes: u64) -> Memory {
    if bytes == 0 {
        return Memory::default();
    }
    let eighth = usize::try_from(bytes / 8).unwrap_or(usize::MAX / 8);
    Memory { tables: eighth * 4, index: eighth * 3, summaries: eighth }
}

/// Opens a pool only to look at it, and gives what `look` sees. Nothing is written.
pub(super) fn read_only<T>(setup: Setup, look: impl FnOnce(&Handle) -> T) -> Result<T, Refusal> {
    let stores = stores(&setup.devices)?;
    let kept = stores.clone();
    let secrets = secrets(setup.secrets)?;
    let options = Options { memory: memory(setup.memory), ..Options::default() };
    let host = start(&(Arc::new(execute) as Does))?;
    let pool = host.run(move |port| async move { Pool::open_to_read(&port, stores, secrets, options).await });
    let pool = pool.map_err(|e| of_open(&e))?;
    let handle = Handle { pool, host: Mutex::new(Some(Arc::new(host))), stores: Mutex::new(kept) };
    Ok(look(&handle))
}

fn start(does: &Does) -> Result<Host, Refusal> {
    Host::start_over("caisson-pool", Arc::clone(does))
        .map_err(|e| Refusal::system("the pool's thread cannot start", &e))
}

fn taken<F>(
    does: &Does,
    setup: Setup,
    take: impl FnOnce(caisson_task::Port, Vec<Arc<FileStore>>, Secrets, Options) -> F + Send + 'static,
) -> Result<Arc<dyn PoolHandle>, Refusal>
where
    F: Future<Output = Result<Pool, Refusal>> + Send + 'static,
{
    let stores = stores(&setup.devices)?;
    let kept = stores.clone();
    let secrets = secrets(setup.secrets)?;
    let options = Options { memory: memory(setup.memory), ..Options::default() };
    let host = start(does)?;
    let pool = host.run(move |port| take(port, stores, secrets, options))?;
    host.tend(&pool);
    Ok(Arc::new(Handle { pool, host: Mutex::new(Some(Arc::new(host))), stores: Mutex::new(kept) }))
}

/// An open pool, and the thread that tends it until it is closed.
pub(super) struct Handle {
    pub(super) pool: Pool,
    host: Mutex<Option<Arc<Host>>>,
    stores: Mutex<Vec<Arc<FileStore>>>,
}

fn services(s: &Settings) -> Services {
    Services {
        compression: s.compression.map_or(Compression::Off, |l| Compression::Zstd(l.number() as i8)),
        dedup: s.dedup,
        write_cache: s.write_cache,
        verify: s.verify,
    }
}

fn settings(s: &Services, block_size: u32, domain: u32) -> Settings {
    let compression = match s.compression {
        Compression::Off => None,
        Compression::Zstd(level) => Some(Level::new(level.into()).unwrap_or_default()),
    };
    Settings { block_size, compression, dedup: s.dedup, write_cache: s.write_cache, verify: s.verify, domain }
}

impl Handle {
    pub(super) fn host(&self) -> Result<Arc<Host>, Refusal> {
        let host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        host.clone().ok_or_else(|| Refusal::new(Cause::System, "the pool is closed", "open it again"))
    }

    fn stores(&self) -> MutexGuard<'_, Vec<Arc<FileStore>>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a change of the pool on its thread.
    fn change<T, F>(
        &self,
        make: impl FnOnce(Pool, caisson_task::Port) -> F + Send + 'static,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ChangeError>> + Send + 'static,
    {
        let pool = self.pool.clone();
        self.host()?.run(move |port| make(pool, port)).map_err(|e| of_change(&e))
    }
}

impl PoolHandle for Handle {
    fn volumes(&self) -> Vec<Record> {
        let status = self.pool.status();
        let (volumes, names) = (status.volumes.into_iter(), status.domains);
        let record = |v: caisson_engine::VolumeStatus| {
            let known = v.settings.unwrap_or_default();
            Record {
                name: v.name,
                size: v.size,
                block_size: known.block_size,
                services: services(&known),
                read_only: v.read_only,
                domain: names
                    .iter()
                    .find(|d| d.domain == known.domain && d.domain != DEFAULT_DOMAIN)
                    .map(|d| d.name.clone()),
            }
        };
        volumes.map(record).collect()
    }

    fn volume(&self, name: &str) -> Result<Opened, Refusal> {
        let host = self.host()?;
        self.pool.opened(&host, name).map_err(|e| of_change(&e))
    }

    fn create(&self, record: &Record) -> Result<(), Refusal> {
        let (name, size) = (record.name.clone(), record.size);
        let number = |name: &String| {
            let found = self.pool.domain_named(name).filter(|d| *d != POOL_DOMAIN);
            found.ok_or_else(|| of_change(&ChangeError::NoDomain(name.clone())))
        };
        let domain = record.domain.as_ref().map_or(Ok(DEFAULT_DOMAIN), number)?;
        let settings = settings(&record.services, record.block_size, domain);
        self.change(move |pool, port| async move { pool.create_volume(&port, &name, size, settings).await })
            .map(drop)
    }

    fn copy(&self, of: &str, name: &str, read_only: bool) -> Result<(), Refusal> {
        let (of, name) = (of.to_owned(), name.to_owned());
        self.change(move |pool, port| async move { pool.snapshot(&port, &of, &name, read_only).await })
            .map(drop)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Refusal> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.change(move |pool, port| async move { pool.rename_volume(&port, &from, &to).await })
    }

    fn delete(&self, name: &str) -> Result<(), Refusal> {
        let name = name.to_owned();
        self.change(move |pool, port| async move { pool.delete_volume(&port, &name).await })
    }

    fn set(&self, name: &str, services: &Services) -> Result<(), Refusal> {
        let held = self.pool.status().volumes.into_iter().find(|v| v.name == name).and_then(|v| v.settings);
        let held = held.unwrap_or_default();
        let (name, settings) = (name.to_owned(), settings(services, held.block_size, held.domain));
        self.change(move |pool, port| async move { pool.set_volume(&port, &name, settings).await })
    }

    fn status(&self) -> PoolStatus {
        let s = self.pool.status();
        let stores = self.stores();
        let devices =
            stores.iter().map(|s| DeviceStatus { path: s.path().display().to_string(), size: s.size() });
        let of = |id: VolumeId| s.volumes.iter().find(|v| v.id == id);
        let damage = s.damage.iter().map(|d| {
            let volume = d.block.and_then(|(id, _)| of(id));
            let small = volume.is_some_and(|v| v.settings.is_some_and(|s| s.block_size == 512));
            Damage {
                volume: volume.map(|v| v.name.clone()),
                lba: d.block.map(|(_, block)| if small { block * 8 } else { block }),
                what: format!("{d} (segment {}, byte {})", d.at.0, d.at.1),
            }
        });
        let space = |v: &caisson_engine::VolumeStatus| {
            (v.name.clone(), VolumeSpace { mapped: v.mapped, map_key: v.family, freed_by_delete: None })
        };
        PoolStatus {
            id: self.pool.id().to_string(),
            devices: devices.collect(),
            size: s.size,
            used: s.size.saturating_sub(s.free),
            free: s.limit.saturating_sub(s.live),
            logical: s.logical,
            mapped: s.mapped,
            unique: s.unique,
            stored: s.stored,
            metadata: s.live.saturating_sub(s.stored),
            memory: s.memory,
            fault: s.fault.clone(),
            damage: damage.collect(),
            activity: Activity {
                written_blocks: s.written_blocks,
                zero_blocks: s.zero_blocks,
                duplicate_blocks: s.duplicate_blocks,
                stored_bytes: s.stored_bytes,
                device_bytes: s.log_bytes + s.moved_bytes + s.checkpoint_bytes,
                moved_bytes: s.moved_bytes,
                checkpoint_bytes: s.checkpoint_bytes,
                checkpoints: s.checkpoints,
                damaged: s.damaged,
                device_errors: s.device_errors,
            },
            scrub: s.scrub.as_ref().map(scrub),
            domains: s.domains.iter().map(domain).collect(),
            reseal: s.reseal.as_ref().map(reseal),
            map_keys: MapKeys {
                keys: s.map_keys.keys,
                erasing: s.map_keys.erasing.clone(),
                erased: s.map_keys.erased,
            },
            erases: s.erases.iter().map(erase).collect(),
            volumes: s.volumes.iter().map(space).collect(),
        }
    }

    fn freed_by_delete(&self, name: &str) -> Result<u64, Refusal> {
        let name = name.to_owned();
        self.change(move |pool, port| async move { pool.exclusive_bytes(&port, &name).await })
    }

    fn scrub(&self, bytes_per_second: u64) -> Result<(), Refusal> {
        if let Some(fault) = self.pool.fault() {
            return Err(of_change(&ChangeError::Failed(fault)));
        }
        match bytes_per_second {
            0 => self.pool.scrub_stop(),
            rate => self.pool.scrub_start(rate),
        }
        Ok(())
    }

    fn grow(&self) -> Result<u64, Refusal> {
        for store in self.stores().iter() {
            store.reread_size_blocking().map_err(|e| {
                Refusal::system(format!("the size of {} cannot be read", store.path().display()), &e)
            })?;
        }
        let before = self.pool.status().size;
        let after = self.change(|pool, port| async move { pool.grow(&port).await })?;
        Ok(after.saturating_sub(before))
    }

    fn add_device(&self, device: &Device) -> Result<(), Refusal> {
        let store = stores(std::slice::from_ref(device))?.remove(0);
        let own = Arc::clone(&store);
        self.change(|pool, port| async move { pool.add_device(&port, own).await })?;
        self.stores().push(store);
        Ok(())
    }

    fn id(&self) -> [u8; 16] {
        self.pool.id().0
    }

    fn slots(&self) -> Result<Vec<KeySlot>, Refusal> {
        loaded(&self.pool.slots())
    }

    fn set_slots(&self, slots: &[KeySlot]) -> Result<(), Refusal> {
        let slots = slots.iter().map(stored).collect();
        self.change(move |pool, port| async move { pool.set_slots(&port, slots).await })
    }

    fn take_erased_map_keys(&self) -> Vec<u32> {
        self.pool.take_erased_map_keys()
    }

    fn domains(&self) -> Vec<Domain> {
        self.pool.domains().iter().map(domain).collect()
    }

    fn next(&self) -> Result<(u32, u16), Refusal> {
        Ok((self.pool.next_domain(), self.pool.next_epoch().map_err(|e| of_change(&e))?))
    }

    fn open_epoch(
        &self,
        secrets: PoolSecrets,
        domain: u32,
        epoch: u16,
        slots: &[KeySlot],
    ) -> Result<(), Refusal> {
        let (new, slots) = (new_epoch(secrets, domain, epoch)?, slots.iter().map(stored).collect());
        self.change(move |pool, port| async move { pool.open_epoch(&port, new, slots).await })
    }

    fn create_domain(
        &self,
        name: &str,
        secrets: PoolSecrets,
        domain: u32,
        epoch: u16,
        slots: &[KeySlot],
    ) -> Result<(), Refusal> {
        let (new, slots) = (new_epoch(secrets, domain, epoch)?, slots.iter().map(stored).collect());
        let name = name.to_owned();
        self.change(move |pool, port| async move { pool.create_domain(&port, &name, new, slots).await })
    }

    fn destroy_domain(&self, domain: u32) -> Result<(), Refusal> {
        self.change(move |pool, port| async move { pool.destroy_domain(&port, domain).await })
    }

    fn erase(&self, name: &str, last: bool) -> Result<u32, Refusal> {
        let (name, by) = (name.to_owned(), EraseBy::Operator);
        self.change(move |pool, port| async move { pool.erase_volume(&port, &name, by, last).await })
    }

    fn erases(&self) -> Vec<Erase> {
        self.pool.erases().iter().map(erase).collect()
    }

    fn erases_due(&self) -> Vec<u32> {
        self.pool.erases_due()
    }

    fn erase_refused(&self, domain: u32, why: Option<String>) {
        self.pool.erase_refused(domain, why);
    }

    fn close(&self) -> Result<(), Refusal> {
        let closed = self.change(|pool, port| async move { pool.close(&port).await });
        // The thread ends with its last holder; after that the devices are free for another opening.
        self.host.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.stores().clear();
        closed
    }
}

fn domain(d: &caisson_engine::DomainStatus) -> Domain {
    Domain {
        domain: d.domain,
        name: d.name.clone(),
        epoch: d.epoch,
        old_epochs: d.old.clone(),
        sealed_records: d.sealed.records,
        sealed_bytes: d.sealed.bytes,
        volumes: d.volumes,
    }
}

fn erase(e: &caisson_engine::EraseStatus) -> Erase {
    let by = match e.by {
        EraseBy::Operator => "operator",
        EraseBy::Format => "format",
        EraseBy::Sanitize => "sanitize",
    };
    let stage = match e.stage {
        EraseStage::Emptying => "emptying",
        EraseStage::NeedsEpoch => "needs-epoch",
        EraseStage::Sealing => "sealing",
    };
    Erase {
        number: e.number,
        volume: e.name.clone(),
        id: e.volume.0,
        domain: e.domain,
        by: by.into(),
        stage: stage.into(),
        percent: (u32::from(e.progress) * 100 / 65_536) as u8,
        waits: e.waits.clone(),
    }
}

fn reseal(r: &caisson_engine::ResealStatus) -> Reseal {
    Reseal {
        running: r.running,
        segments: r.segments.0,
        all_segments: r.segments.1,
        bytes: r.bytes,
        rounds: r.rounds,
        left: r.left,
        waits: r.waits.clone(),
    }
}

fn scrub(s: &ScrubStatus) -> Scrub {
    let words = |all: &mut dyn Iterator<Item = String>| all.take(PROBLEMS).collect::<Vec<_>>();
    let mut problems = s.warnings.clone();
    problems.extend(words(&mut s.bad.iter().map(ToString::to_string)));
    problems.extend(words(&mut s.gaps.iter().map(ToString::to_string)));
    problems.extend(words(&mut s.hurt.iter().map(ToString::to_string)));
    if s.more > 0 {
        problems.push(format!("and {} more", s.more));
    }
    Scrub {
        running: s.running,
        completed: s.completed,
        rate: s.rate,
        bytes: s.bytes,
        percent: s.percent,
        lost_blocks: s.hurt_blocks,
        problems,
    }
}
