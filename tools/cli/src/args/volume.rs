//! `caisson volume ...`.

use super::{BackingArg, Output, ServicesArgs};
use caisson_daemon::model::text::parse_size;
use clap::Subcommand;
use std::path::PathBuf;

/// `volume ...`.
#[derive(Subcommand, Debug)]
pub enum VolumeCommand {
    /// Create a volume; creating it again as it is changes nothing
    #[command(after_help = "\
Examples:
  caisson volume create data --size 100G
  caisson volume create data --size 100G --pool main --compression zstd:3
  caisson volume create data --size 100G --pool main --domain acme
  caisson volume create scratch --size 1G --backing ram
  caisson volume create disk --path /dev/nvme1n1")]
    Create {
        /// Its name
        name: String,
        /// Its size; may be left out for a device
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
        /// What it is made of
        #[arg(long, value_enum, default_value_t = BackingArg::File)]
        backing: BackingArg,
        /// A file or block device of its own, instead of a pool
        #[arg(long, conflicts_with = "pool")]
        path: Option<PathBuf>,
        /// Which pool
        #[arg(long)]
        pool: Option<String>,
        /// Bytes of a logical block: 4096 or 512
        #[arg(long, value_name = "BYTES")]
        block_size: Option<u32>,
        /// The domain of the pool whose keys seal it; never changes (`caisson key create POOL --domain NAME` makes one)
        #[arg(long, value_name = "NAME", requires = "pool")]
        domain: Option<String>,
        /// Take over a volume of that name that the pool holds already
        #[arg(long)]
        adopt: bool,
        #[command(flatten)]
        services: ServicesArgs,
        #[command(flatten)]
        output: Output,
    },
    /// Change what a pool does with a volume's blocks, from the next write on
    #[command(after_help = "Example:\n  caisson volume set data --compression zstd:9 --dedup off")]
    Set {
        /// Its name
        name: String,
        #[command(flatten)]
        services: ServicesArgs,
        #[command(flatten)]
        output: Output,
    },
    /// Keep what a volume holds now as another, which stays so; takes no time and no space
    #[command(after_help = "Example:\n  caisson volume snapshot data data-monday")]
    Snapshot {
        /// The volume
        of: String,
        /// The snapshot's name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Make a volume that begins as what another holds now, and may be written to
    #[command(after_help = "Example:\n  caisson volume clone data-monday data-test")]
    Clone {
        /// The volume or snapshot
        of: String,
        /// The clone's name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a volume: one in a pool or in memory with its data; a file or device of its own stays as it is
    #[command(after_help = "\
A volume in a pool cannot be read any more when this returns. The key that its map is stored under is erased in the background,
when the pool has taken back what the volume held, unless snapshots or clones of it, or what it is a copy of, have the same.
With --erase, the keys of the blocks that only it held are erased, too. `caisson key status` shows both, and --wait waits for it.

Examples:
  caisson volume delete scratch
  caisson volume delete ledger --erase --wait")]
    Delete {
        /// Its name
        name: String,
        /// Erase the keys of what only it held, so that nothing of that can be read any more by anybody (volumes in pools with keys)
        #[arg(long)]
        erase: bool,
        /// Wait until the key of its map is erased; with --erase, those of its blocks
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Erase for good what only this volume holds, by erasing its keys; the volume stays, empty. Snapshots and clones stay as they are
    #[command(after_help = "Example:\n  caisson volume erase ledger --confirm ledger --wait")]
    Erase {
        /// Its name
        name: String,
        /// Its name again: what is erased is gone for good
        #[arg(long, value_name = "NAME")]
        confirm: String,
        /// Wait until the keys are erased
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Change a volume's size; connected hosts see it at once
    #[command(after_help = "Example:\n  caisson volume resize data 200G")]
    Resize {
        /// Its name
        name: String,
        /// The new size
        #[arg(value_parser = parse_size)]
        size: u64,
        /// Let it become smaller: what lies beyond is lost
        #[arg(long)]
        shrink: bool,
        #[command(flatten)]
        output: Output,
    },
    /// List the volumes
    List(Output),
    /// Show one volume
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
}
