//! The pool: a log under volumes, through which every block is deduplicated, compressed and sealed.
//!
//! Owns the way of a block from a volume's request to the device and back, the recovery of a pool after a crash, and the
//! background work that keeps it going. What is pure is elsewhere: tables, formats, compression, the index of
//! duplicates. `datapath/README.md` follows a block through the modules here.
//!
//! There is no thread, clock or source of randomness in here: everything runs as [tasks](caisson_task) on whatever thread
//! starts them, so that the simulator runs what the program runs. [`Host`] is a thread for callers that may block.

mod append;
mod bounds;
mod check;
mod checkpoint;
mod chores;
mod clean;
mod devices;
mod domains;
mod epochs;
mod erase;
mod error;
mod exclusive;
mod gather;
mod grow;
mod host;
mod hunt;
mod log;
mod manage;
mod map;
mod maps;
mod packed;
mod pages;
mod pool;
mod punch;
mod read;
mod reap;
mod rebuild;
mod recount;
mod recover;
mod repair;
mod reseal;
mod rewrap;
mod scrub;
mod settings;
mod space;
mod state;
mod status;
mod steps;
mod steward;
mod summary;
mod volume;
mod volumes;
mod walk;
mod weight;
mod whole;
mod witness;
mod work;
mod write;

pub use check::{Checking, Problem, Report};
pub use devices::Cause;
pub use domains::{MAX_DOMAIN_NAME, MAX_DOMAINS, Sealed};
pub use epochs::{DomainStatus, NewEpoch};
pub use erase::{EraseStage, EraseStatus, Erased};
pub use error::{ChangeError, CreateError, OpenError};
pub use host::Host;
pub use hunt::Hurt;
pub use maps::MapKeys;
pub use pool::{Background, Create, Memory, Options, Pool, Secrets, beginning};
pub use rebuild::RebuildStatus;
pub use reseal::ResealStatus;
pub use scrub::ScrubStatus;
pub use settings::Settings;
pub use state::{Damage, Random};
pub use status::{Status, VolumeStatus};
pub use volume::PoolVolume;
pub use walk::{BadRecord, Gap, Part};

pub use caisson_block::EraseBy;
pub use caisson_codec::Level;
pub use caisson_log::{Cipher, KeySlot, PoolId, Superblock};
pub use caisson_tables::VolumeId;
