//! A pool's volume as the management plane holds it: the pair that any volume is opened as.

use crate::error::ChangeError;
use crate::host::Host;
use crate::pool::Pool;
use crate::volume::{PoolVolume, Shared};
use caisson_volume::{Manage, ManageError, Opened};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long management waits for requests under way.
const PATIENCE: Duration = Duration::from_secs(30);

/// A volume's handle for callers that may block.
struct Managed {
    host: Arc<Host>,
    pool: Pool,
    name: String,
    shared: Arc<Shared>,
}

impl Pool {
    /// A volume for namespaces and for management. `host` tends the pool.
    ///
    /// # Errors
    /// As [`Pool::volume`].
    pub fn opened(&self, host: &Arc<Host>, name: &str) -> Result<Opened, ChangeError> {
        let volume = self.volume(name)?;
        let shared = Arc::clone(&volume.0);
        let manage = Managed { host: Arc::clone(host), pool: self.clone(), name: name.to_owned(), shared };
        Ok(Opened { volume: Arc::new(volume), manage: Arc::new(manage) })
    }
}

impl PoolVolume {
    /// The volume's number in its pool.
    pub fn id(&self) -> caisson_tables::VolumeId {
        self.0.id
    }
}

fn failed(error: ChangeError) -> ManageError {
    ManageError::Store(io::Error::other(error))
}

impl Manage for Managed {
    fn resize(&self, blocks: u64) -> Result<(), ManageError> {
        let bytes = blocks.checked_shl(self.shared.shape().shift).filter(|&bytes| bytes > 0);
        let bytes = bytes.ok_or(ManageError::Size { blocks })?;
        // By its number: it may have been renamed.
        let name = self.pool.0.lock().tables.volume(self.shared.id).map(|v| v.name.clone());
        let name = name.ok_or_else(|| failed(ChangeError::NoVolume(self.name.clone())))?;
        let pool = self.pool.clone();
        let resized = self.host.run(move |port| async move { pool.resize_volume(&port, &name, bytes).await });
        resized.map_err(|error| match error {
            ChangeError::Size { .. } => ManageError::Size { blocks },
            other => failed(other),
        })
    }

    fn sync(&self) -> Result<(), ManageError> {
        let pool = self.pool.clone();
        self.host.run(move |port| async move { pool.flush(&port).await }).map_err(failed)
    }

    fn close(&self) -> Result<(), ManageError> {
        self.shared.gone.store(true, Ordering::Release);
        let begun = Instant::now();
        while self.shared.in_flight() > 0 {
            if begun.elapsed() > PATIENCE {
                let (in_flight, seconds) = (self.shared.in_flight(), PATIENCE.as_secs());
                return Err(ManageError::Busy { in_flight, seconds });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.sync()
    }

    fn in_flight(&self) -> u64 {
        self.shared.in_flight()
    }
}
