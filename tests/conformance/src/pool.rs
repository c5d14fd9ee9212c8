//! A namespace over a volume of a pool, where what a pool does is in question: on a file of its own, with its background on a thread.

use crate::subject::{Disk, NQN, Subject};
use caisson_core::NamespaceSpec;
use caisson_device::{FileStore, Size};
use caisson_engine::{Cipher, Create, Host, Options, Pool, PoolId, Secrets, Settings};
use caisson_fingerprint::FingerprintKey;
use caisson_keys::Secret;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use uuid::Uuid;

/// Bytes of the pool's file.
const SIZE: u64 = 64 << 20;

/// A pool with one volume. To be dropped behind the subject that exports it.
pub struct Pooled {
    pool: Pool,
    disk: Disk,
    folder: PathBuf,
    _host: Host,
}

impl Pooled {
    /// With a volume of this shape.
    ///
    /// # Panics
    /// When it cannot be made: the test has failed.
    pub fn start(disk: Disk) -> Pooled {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("caisson-conformance-pool-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
        let store = FileStore::open(&folder.join("pool"), Size::new(SIZE)).expect("its file can be made");
        let host = Host::start("pool").expect("a thread can be started");
        let pool = host.run(move |port| async move {
            let secret = |byte: u8| Secret::take(&mut [byte; 32]);
            let secrets = Secrets {
                epochs: vec![((0, 1), secret(1)), ((1, 1), secret(2))],
                prints: vec![(1, FingerprintKey::new([3; 32]))],
            };
            let create =
                Create { id: PoolId([7; 16]), cipher: Cipher::auto(), segment_size: None, slots: Vec::new() };
            let pool = Pool::create(&port, vec![store], secrets, create, Options::default()).await;
            let pool = pool.expect("a pool can be made");
            let settings = Settings { block_size: disk.block, ..Settings::default() };
            let bytes = disk.blocks * u64::from(disk.block);
            pool.create_volume(&port, "v", bytes, settings).await.expect("a volume can be made");
            pool
        });
        host.tend(&pool);
        Pooled { pool, disk, folder, _host: host }
    }

    /// Exports the volume as its namespace of [`NQN`].
    ///
    /// # Panics
    /// When that fails.
    pub fn export(&self, subject: &Subject) {
        let volume = self.pool.volume("v").expect("the volume is there");
        let spec = NamespaceSpec::new(Arc::new(volume), Uuid::new_v4());
        let spec = NamespaceSpec { nsid: Some(self.disk.nsid), ..spec };
        subject.target.add_namespace(NQN, spec).expect("the namespace is new");
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.abandon();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
