//! The production engine as a subject: a pool on simulated disks, with its background on a simulated thread.

use crate::format::Nonces;
use crate::plan::Plan;
use crate::subject::{Action, Nature, Reply, Settings, Slot, Subject};
use crate::vault;
use caisson_block::{Cx, Mono, Volume};
use caisson_device::sim::{Damage, Rng, SimDisk};
use caisson_device::{Alignment, Buffers, FileStore};
use caisson_engine::{
    ChangeError, Cipher, Create, EraseBy, KeySlot, Level, Memory, NewEpoch, Options, Pool, PoolId,
    PoolVolume, Secrets, Settings as Kept,
};
use caisson_fingerprint::FingerprintKey;
use caisson_keys::Secret;
use caisson_log::{
    BATCH_ALIGN, BatchKind, BatchPlan, Keyring, PREFIX, Prefix, SUPERBLOCK, SUPERBLOCK_AT, Superblock,
    decode_prefix,
};
use caisson_task::{Port, Task};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where an action puts the pool that it made or opened.
type Place = Arc<Mutex<Option<Pool>>>;

/// A pool.
pub struct Simulated {
    disks: Vec<Arc<SimDisk>>,
    place: Place,
    /// Volumes that are exported, as the target would hold them.
    volumes: Mutex<BTreeMap<u32, Arc<PoolVolume>>>,
    buffers: Buffers,
    /// For the pool's random bytes.
    rng: Rng,
    segment: u32,
    cipher: Cipher,
    distance: Option<u64>,
    max_refs: u32,
    memory: Memory,
    nonces: Nonces,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name_of(name: u32) -> String {
    format!("v{name}")
}

fn kept(settings: Settings, block_size: u32) -> Kept {
    Kept {
        block_size,
        compression: settings.compression.and_then(Level::new),
        dedup: settings.dedup,
        write_cache: settings.write_cache,
        verify: settings.verify,
        domain: settings.domain,
    }
}

/// A slot that wraps nothing: it holds its secret in the clear, and the fingerprint key behind it.
fn key_slot(purpose: u8, domain: u32, epoch: u16) -> KeySlot {
    let secret = if epoch == 0 { [domain as u8 + 1; 32] } else { [epoch as u8 ^ 0x80; 32] };
    let blob = [secret, [domain as u8 + 2; 32]].concat();
    KeySlot { purpose, domain, epoch, provider: "plain".into(), root: String::new(), blob }
}

/// What slots open.
fn unlocked(slots: &[KeySlot]) -> Secrets {
    let mut secrets = Secrets { epochs: Vec::new(), prints: Vec::new() };
    for slot in slots {
        let (secret, prints) = slot.blob.split_at(slot.blob.len().min(32));
        let secret = Secret::take(&mut secret.to_vec());
        secrets.epochs.push(((slot.domain, slot.epoch.max(1)), secret));
        if let Ok(prints) = <[u8; 32]>::try_from(prints)
            && slot.domain != 0
            && !secrets.prints.iter().any(|p| p.0 == slot.domain)
        {
            secrets.prints.push((slot.domain, FingerprintKey::new(prints)));
        }
    }
    secrets
}

/// The keys of a new epoch, and its slot.
fn epoch(domain: u32, epoch: u16, new: bool) -> (NewEpoch, KeySlot) {
    let slot = key_slot(5, domain, epoch);
    let prints = new.then(|| FingerprintKey::new([domain as u8 + 2; 32]));
    let secret = Secret::take(&mut slot.blob[..32].to_vec());
    (NewEpoch { domain, epoch, secret, prints }, slot)
}

/// Keys that every simulated pool is made with.
pub fn secrets() -> Secrets {
    let secret = |byte: u8| Secret::take(&mut [byte; 32]);
    Secrets {
        epochs: vec![((0, 1), secret(1)), ((1, 1), secret(2))],
        prints: vec![(1, FingerprintKey::new([3; 32]))],
    }
}

fn reply(result: Result<(), ChangeError>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(ChangeError::Full) => Reply::Full,
        // Refused before anything was done.
        Err(ChangeError::Domain(_) | ChangeError::Erasing) => Reply::Unsupported,
        Err(e) => Reply::Failed(e.to_string()),
    }
}

impl Simulated {
    /// Its disks, empty.
    pub fn new(plan: &Plan) -> Simulated {
        let mut rng = Rng::new(plan.seed ^ 0x5EED);
        let align = Alignment { memory: plan.unit, offset: plan.unit };
        let disk = |n: usize| {
            let seed = plan.seed.wrapping_add(n as u64);
            SimDisk::new(seed, plan.disk_size, plan.sector, align, plan.punches, plan.faults)
        };
        let disks: Vec<_> = (0..plan.disks).map(disk).collect();
        let nonces = Nonces::default();
        disks.iter().for_each(|d| nonces.watch(d));
        let kib = |rng: &mut Rng, most| (64 + rng.below(most)) << 10;
        Simulated {
            disks,
            place: Place::default(),
            volumes: Mutex::default(),
            buffers: Buffers::new([64, 32, 32]).expect("address space for a few buffers"),
            segment: if rng.below(3) == 0 && !plan.tight { 128 << 10 } else { 64 << 10 },
            cipher: if rng.below(2) == 0 { Cipher::ChaCha20Poly1305 } else { Cipher::Aes256Gcm },
            distance: plan.distance.or((rng.below(4) > 0).then(|| kib(&mut rng, 1024))),
            max_refs: if rng.below(4) == 0 { 2 + rng.below(6) as u32 } else { u32::MAX },
            memory: Memory { tables: 1 << 20, index: 4096 << rng.below(8), summaries: 4096 << rng.below(8) },
            rng,
            nonces,
        }
    }

    fn stores(&self) -> Vec<Arc<FileStore>> {
        self.disks.iter().map(|d| d.store()).collect()
    }

    fn options(&mut self) -> Options {
        let mut rng = Rng::new(self.rng.below(u64::MAX));
        Options {
            memory: self.memory,
            random: Some(Box::new(move |bytes| bytes.iter_mut().for_each(|b| *b = rng.below(256) as u8))),
            buffers: Some(self.buffers.clone()),
            checkpoint_distance: self.distance,
            max_refs: self.max_refs,
        }
    }

    fn create(&mut self, cx: &mut Cx<'_>, slot: Slot) {
        let (stores, options, place) = (self.stores(), self.options(), Arc::clone(&self.place));
        let create = Create {
            id: PoolId([7; 16]),
            cipher: self.cipher,
            segment_size: Some(self.segment),
            slots: vec![key_slot(4, 0, 0), key_slot(1, 1, 0)],
        };
        Task::spawn(cx, |port| async move {
            match Pool::create(&port, stores, secrets(), create, options).await {
                Ok(pool) => begin(&port, pool, &place, &slot).await,
                Err(e) => slot.put(Reply::Failed(e.to_string())),
            }
        });
    }

    fn open(&mut self, cx: &mut Cx<'_>, slot: Slot) {
        let (stores, options, place) = (self.stores(), self.options(), Arc::clone(&self.place));
        Task::spawn(cx, |port| async move {
            let secrets = unlocked(&newest(&port, &stores).await);
            match Pool::open(&port, stores, secrets, options).await {
                Ok(pool) => begin(&port, pool, &place, &slot).await,
                Err(e) => slot.put(Reply::Failed(e.to_string())),
            }
        });
    }

    /// Families of volumes that are gone, and not said to be on their way out, have no map key that anything on the disks gives.
    fn erased(&self, pool: &Pool) -> Result<(), String> {
        // What a device did not write, or wrote elsewhere, cannot be said to be gone.
        if self.disks.iter().any(|d| d.lied() > 0) {
            return Ok(());
        }
        let next = pool.next_epoch().map_err(|e| e.to_string())?;
        let keyring = Keyring::new(pool.id(), self.cipher, own_secrets(next)).map_err(|e| e.to_string())?;
        let status = pool.status();
        let living = status.volumes.iter().map(|v| v.family);
        let there: BTreeSet<u32> = living.chain(status.map_keys.erasing).collect();
        let found = vault::search(&self.disks, &keyring);
        let readable: BTreeSet<u32> = found.keys.iter().map(|(family, _)| *family).collect();
        match readable.difference(&there).next() {
            Some(family) => Err(format!(
                "the map key of family {family}, which is erased, can be had: {there:?} are there"
            )),
            None => Ok(()),
        }
    }

    fn pool(&self) -> Option<Pool> {
        lock(&self.place).clone()
    }
}

impl vault::Disk for Arc<SimDisk> {
    fn size(&self) -> u64 {
        SimDisk::size(self)
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        self.peek(at, len)
    }
}

/// Every secret that the pool's own domain ever had.
fn own_secrets(next_epoch: u16) -> Vec<((u32, u16), Secret)> {
    let of = |slot: &KeySlot| Secret::take(&mut slot.blob[..32].to_vec());
    let later = (2..next_epoch).map(|epoch| ((0, epoch), of(&key_slot(5, 0, epoch))));
    std::iter::once(((0, 1), of(&key_slot(4, 0, 0)))).chain(later).collect()
}

/// The slots of the newest superblock: what a key manager would be asked to unwrap.
async fn newest(port: &Port, stores: &[Arc<FileStore>]) -> Vec<KeySlot> {
    let mut newest: Option<Superblock> = None;
    for store in stores {
        let Ok(label) = Pool::label(port, store).await else { continue };
        if newest.as_ref().is_none_or(|n| n.counter < label.counter) {
            newest = Some(label);
        }
    }
    newest.map_or_else(Vec::new, |n| n.slots)
}

/// Another epoch of a domain.
async fn rotate(port: &Port, pool: &Pool, domain: u32) -> Result<(), ChangeError> {
    let (keys, slot) = epoch(domain, pool.next_epoch()?, false);
    let mut slots = pool.slots();
    slots.push(slot);
    pool.open_epoch(port, keys, slots).await
}

/// Another domain.
async fn domain(port: &Port, pool: &Pool) -> Result<(), ChangeError> {
    let number = pool.next_domain();
    let (keys, slot) = epoch(number, pool.next_epoch()?, true);
    let mut slots = pool.slots();
    slots.push(slot);
    pool.create_domain(port, &format!("d{number}"), keys, slots).await
}

/// Starts the background of a pool on this thread, and says that the pool is there.
async fn begin(port: &Port, pool: Pool, place: &Place, slot: &Slot) {
    let mut background = None;
    pool.tend(|make| background = Some(make));
    if let Some(make) = background {
        port.run(|cx| Task::spawn(cx, make)).await;
    }
    *lock(place) = Some(pool);
    slot.put(Reply::Done);
}

/// What an action does to an open pool.
async fn change(port: &Port, pool: &Pool, action: Action, block_size: u32) -> Reply {
    reply(match action {
        Action::Make { name, block_size, size, settings } => {
            let bytes = size * u64::from(block_size);
            pool.create_volume(port, &name_of(name), bytes, kept(settings, block_size)).await.map(drop)
        }
        Action::Snapshot { of, name, read_only } => {
            pool.snapshot(port, &name_of(of), &name_of(name), read_only).await.map(drop)
        }
        Action::Delete { name } => pool.delete_volume(port, &name_of(name)).await,
        Action::Resize { name, size } => {
            pool.resize_volume(port, &name_of(name), size * u64::from(block_size)).await
        }
        Action::Set { name, settings } => {
            let domain =
                pool.status().volumes.iter().find(|v| v.name == name_of(name)).and_then(|v| v.settings);
            let settings = Kept { domain: domain.map_or(1, |s| s.domain), ..kept(settings, block_size) };
            pool.set_volume(port, &name_of(name), settings).await
        }
        Action::Rotate { domain } => rotate(port, pool, domain).await,
        Action::Domain => domain(port, pool).await,
        Action::Erase { name } => {
            pool.erase_volume(port, &name_of(name), EraseBy::Operator, false).await.map(drop)
        }
        Action::Serve => {
            for domain in pool.erases_due() {
                if let Err(e) = rotate(port, pool, domain).await {
                    return reply(Err(e));
                }
            }
            Ok(())
        }
        Action::Destroy { domain } => pool.destroy_domain(port, domain).await,
        Action::Checkpoint => pool.checkpoint(port).await,
        Action::Close => pool.close(port).await,
        Action::Scrub => {
            pool.scrub_start(0);
            Ok(())
        }
        Action::DropIndex => {
            pool.index_drop();
            Ok(())
        }
        Action::Check => {
            let report = pool.check(port, |_| {}).await;
            return if report.is_sound() { Reply::Done } else { Reply::Failed(report.to_string()) };
        }
        Action::Create | Action::Open | Action::Clean | Action::Grow | Action::Attach { .. } => {
            return Reply::Unsupported;
        }
    })
}

/// How many of the last batches of a log at rest may rot, the witness of its end included.
const ROTTING: usize = 5;

/// A batch: the disk and the byte it begins at, and its prefix.
type Batch = ((usize, u64), Prefix);

/// The log's batches that can be seen on the disks, the last first.
fn log_end(disks: &[Arc<SimDisk>]) -> Vec<Batch> {
    let mut found = Vec::new();
    for (n, disk) in disks.iter().enumerate() {
        for page in disk.written_pages() {
            let at = page * BATCH_ALIGN as u64;
            let prefix = decode_prefix(&disk.peek(at, PREFIX)).ok();
            found.extend(prefix.filter(|p| p.kind == BatchKind::Log).map(|p| ((n, at), p)));
        }
    }
    found.sort_by_key(|(_, p)| Reverse((p.at.opening, p.batch)));
    found
}

/// Bytes of the header of a batch that carries nothing but how far the log was durable.
fn witness_len() -> usize {
    BatchPlan::new(&[], &[0; 8]).map_or(0, |plan| plan.header_len())
}

impl Subject for Simulated {
    fn nature(&self) -> Nature {
        Nature { ordered: true, detects: true, manages: true, deallocates: true, marks: true, keys: true }
    }

    fn act(&mut self, cx: &mut Cx<'_>, action: Action, slot: Slot) {
        match action {
            Action::Create => return self.create(cx, slot),
            Action::Open => return self.open(cx, slot),
            _ => {}
        }
        let Some(pool) = self.pool() else { return slot.put(Reply::Failed("no pool is open".into())) };
        let mut block_size = 0;
        match action {
            Action::Delete { name } => drop(lock(&self.volumes).remove(&name)),
            Action::Resize { name, .. } | Action::Set { name, .. } => {
                block_size = self.volume(name).map_or(4096, |v| v.geometry().block_size);
            }
            _ => {}
        }
        if action == Action::Close {
            lock(&self.volumes).clear();
        }
        Task::spawn(cx, |port| async move {
            let reply = change(&port, &pool, action, block_size).await;
            drop(pool);
            slot.put(reply);
        });
    }

    fn volumes(&self) -> BTreeMap<u32, (u32, u64)> {
        let Some(pool) = self.pool() else { return BTreeMap::new() };
        let alive = self.domains();
        let volumes = pool.status().volumes.into_iter();
        let shape = volumes.filter_map(|v| {
            let block_size = v.settings.filter(|s| alive.contains(&s.domain))?.block_size;
            let name = v.name.strip_prefix('v')?.parse().ok()?;
            Some((name, (block_size, v.size / u64::from(block_size))))
        });
        shape.collect()
    }

    fn volume(&self, name: u32) -> Option<Arc<dyn Volume>> {
        let pool = self.pool()?;
        let mut volumes = lock(&self.volumes);
        if let Some(volume) = volumes.get(&name) {
            return Some(Arc::clone(volume) as Arc<dyn Volume>);
        }
        let volume = Arc::new(pool.volume(&name_of(name)).ok()?);
        volumes.insert(name, Arc::clone(&volume));
        Some(volume)
    }

    fn domains(&self) -> Vec<u32> {
        let domains = self.pool().map(|p| p.domains()).unwrap_or_default();
        domains.into_iter().filter(|d| d.domain != 0 && d.epoch != 0).map(|d| d.domain).collect()
    }

    fn fault(&self) -> Option<String> {
        self.pool()?.fault()
    }

    fn kill(&mut self) -> Result<(), String> {
        lock(&self.volumes).clear();
        if let Some(pool) = lock(&self.place).take() {
            pool.abandon();
        }
        match (
            self.buffers.take([4096; 64]),
            self.buffers.take([32768; 32]),
            self.buffers.take([131_072; 32]),
        ) {
            (Some(_), Some(_), Some(_)) => Ok(()),
            _ => Err("something holds buffers after the pool and its threads are gone".into()),
        }
    }

    fn inspect(&mut self) -> Result<(), String> {
        self.nonces.repeated().map_or(Ok(()), Err)?;
        // What is destroyed is in no copy of any superblock.
        let Some(pool) = self.pool() else { return Ok(()) };
        let gone: Vec<u32> = pool.domains().into_iter().filter(|d| d.epoch == 0).map(|d| d.domain).collect();
        for (at, disk) in
            self.disks.iter().enumerate().flat_map(|(n, d)| SUPERBLOCK_AT.map(|at| ((n, at), d)))
        {
            let Ok(copy) = Superblock::decode_plain(&disk.peek(at.1, SUPERBLOCK)) else { continue };
            if let Some(slot) = copy.slots.iter().find(|s| gone.contains(&s.domain)) {
                return Err(format!("the superblock at {at:?} holds a key that was destroyed: {slot:?}"));
            }
            // Nor is what erases that are said to be done have erased.
            let erased = pool.erased();
            let over =
                |s: &&KeySlot| erased.iter().any(|e| e.domain == s.domain && s.epoch.max(1) <= e.epoch);
            if let Some(slot) = copy.slots.iter().find(over) {
                return Err(format!(
                    "the superblock at {at:?} holds a key that was erased: {slot:?}, {erased:?}"
                ));
            }
        }
        self.erased(&pool)
    }

    fn explain(&self) -> String {
        let Some(pool) = self.pool() else { return String::new() };
        let status = pool.status();
        format!(
            "fault {:?}, damage {:?}, {} of {} bytes live, {} free, {} checkpoints",
            status.fault, status.damage, status.live, status.limit, status.free, status.checkpoints
        )
    }

    fn tick(&mut self, now: Mono) {
        if let Some(pool) = &*lock(&self.place) {
            pool.ring(now);
        }
    }

    fn lose_copy(&mut self, rng: &mut Rng) -> Option<String> {
        // One of one device, or of each device one, and not the same of all.
        let all = rng.below(2) == 0;
        let only = rng.below(self.disks.len() as u64) as usize;
        let mut lost = Vec::new();
        for (device, disk) in self.disks.iter().enumerate() {
            let copy = rng.below(2) as usize;
            // A power failure may have torn the other one just now: that would be two faults of one device.
            let other = disk.peek(SUPERBLOCK_AT[1 - copy], SUPERBLOCK);
            if !all && device != only || Superblock::decode_plain(&other).is_err() {
                continue;
            }
            let noise: Vec<u8> = (0..SUPERBLOCK).map(|_| rng.below(256) as u8).collect();
            disk.poke(SUPERBLOCK_AT[copy], &noise);
            lost.push(format!("copy {copy} of disk {device}"));
        }
        (!lost.is_empty()).then(|| format!("of the superblock, lost: {}", lost.join(", ")))
    }

    fn rot_end(&mut self, rng: &mut Rng) -> Option<String> {
        let ends = log_end(&self.disks);
        // A log without room for one has no witness; what is lost of that is known.
        let (_, witness) = *ends.first().filter(|(_, p)| p.header as usize == witness_len())?;
        let same = |p: &Prefix| p.at.opening == witness.at.opening;
        let last: Vec<_> = ends.into_iter().filter(|(_, p)| same(p)).take(ROTTING).collect();
        let ((disk, at), prefix) = *last.get(rng.below(last.len() as u64) as usize)?;
        let byte = at + rng.below(prefix.header.into());
        self.disks[disk].damage(Damage::Flip { at: byte, bit: rng.below(8) as u8 });
        Some(format!("rot in the header of batch {}, of {} the last", prefix.batch, witness.batch))
    }

    fn disks(&self) -> Vec<Arc<SimDisk>> {
        self.disks.clone()
    }
}
