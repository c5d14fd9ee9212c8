//! The command line of pools: `pool ...`, `check`, `inspect`, and what `export` and `volume` take for volumes in one.

use super::{OnOff, Output};
use caisson_daemon::manage::ask::{BackingKind, ServicesAsk};
use caisson_daemon::model::Compression;
use caisson_daemon::model::text::parse_size;
use caisson_keys::{KeyError, KeyUri};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// What `export pool:PATH` takes.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "With pool:PATH")]
pub struct ExportPool {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub keys: KeyArgs,
    /// Size of the pool's file where there is none yet; without it, an eighth more than the volume's, and 1 GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub pool_size: Option<u64>,
    /// The volume in the pool
    #[arg(long, value_name = "NAME", default_value = "disk")]
    pub volume: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub services: ServicesArgs,
}

/// Where a pool's keys are.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyArgs {
    /// The sealed key file of the pool; made where a pool is made and there is none
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// A file with the key file's passphrase
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub passphrase_file: Option<PathBuf>,
    /// Another key provider, such as 'pkcs11:token=LABEL;object=LABEL?module-path=FILE&pin-source=file:FILE'; may be repeated
    #[arg(long = "key", value_name = "URI", value_parser = key_uri)]
    pub keys: Vec<KeyUri>,
}

impl KeyArgs {
    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.key_file.is_none() && self.keys.is_empty()
    }

    /// Others, with whole paths: a target may run in another folder.
    pub fn uris(&self) -> Vec<KeyUri> {
        let whole = |uri: &KeyUri| {
            let mut uri = uri.clone();
            uri.map_paths(|p| std::path::absolute(p).map_or_else(|_| p.into(), |p| p.display().to_string()));
            uri
        };
        self.keys.iter().map(whole).collect()
    }
}

/// A key provider by its URI, or a key file by its path.
pub fn key_uri(text: &str) -> Result<KeyUri, String> {
    text.parse().map_err(|e: KeyError| format!("{e}\n  remedy: {}", e.remedy()))
}

/// What a pool does with a volume's blocks.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServicesArgs {
    /// How blocks are compressed: off, or zstd:LEVEL with a level of -7 (fast) to 19 (small) [default: zstd:1]
    #[arg(long, value_name = "off|zstd:LEVEL", value_parser = str::parse::<Compression>)]
    pub compression: Option<Compression>,
    /// Whether blocks that are stored already are shared [default: on]
    #[arg(long, value_enum)]
    pub dedup: Option<OnOff>,
    /// Whether writes complete before they are durable, as in a disk's cache; flushes wait in any case [default: on]
    #[arg(long, value_enum)]
    pub write_cache: Option<OnOff>,
    /// Whether the bytes of a duplicate are compared before it is taken for one [default: off]
    #[arg(long, value_enum)]
    pub verify: Option<OnOff>,
}

impl From<ServicesArgs> for ServicesAsk {
    fn from(s: ServicesArgs) -> ServicesAsk {
        let on = |o: Option<OnOff>| o.map(|o| o == OnOff::On);
        ServicesAsk {
            compression: s.compression,
            dedup: on(s.dedup),
            write_cache: on(s.write_cache),
            verify: on(s.verify),
        }
    }
}

/// `check`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  caisson check disk.pool --key-file disk.key

Every block, table and batch is read and authenticated. Exit status 1 when something is damaged. The pool must not be in use: stop
the target that serves it, or use `caisson pool scrub`, which does the same while it serves.")]
pub struct CheckArgs {
    /// The pool's files or block devices, all of them
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub keys: KeyArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub output: Output,
}

/// `inspect`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  caisson inspect disk.pool
  caisson inspect disk.pool --key-file disk.key --json

Without a key file, what stands in the clear: which pool, its devices, and which root keys its keys are wrapped with. With one, volumes
and figures as the last checkpoint and the log behind it have them.")]
pub struct InspectArgs {
    /// The pool's files or block devices; without a key file, one is enough
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub keys: KeyArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub output: Output,
}

/// `pool ...`.
#[derive(Subcommand, Debug)]
pub enum PoolCommand {
    /// Make a pool on blank files or block devices, with a sealed key file or keys of a token or server
    #[command(after_help = "\
Examples:
  caisson pool create main --device /dev/nvme1n1 --key-file /etc/caisson/main.key --passphrase-file /etc/caisson/main.pass
  caisson pool create main --device /dev/nvme1n1 \\
    --key 'pkcs11:token=Caisson;object=main?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/caisson/pin'

The target reads the passphrase, now and at each start: from that file, or from its own systemd credential caisson-passphrase or
$CAISSON_PASSPHRASE. The key file is made where there is none. Without both, what the pool holds cannot be read again.")]
    Create {
        /// Its name
        name: String,
        /// A file or block device; may be repeated
        #[arg(long, value_name = "PATH", required = true)]
        device: Vec<PathBuf>,
        /// Size of files that do not exist yet
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
        #[command(flatten)]
        keys: KeyArgs,
        /// Memory for tables and the index of duplicates
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        memory: Option<u64>,
        /// Take over a pool that the devices hold already
        #[arg(long)]
        adopt: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Let an empty pool go; it stays on its devices
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the pools
    List(Output),
    /// Show how a pool is: space, what deduplication and compression save, what is damaged
    Status {
        /// Its name; all pools where it is missing
        name: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Take into use what a pool's devices have grown by, or make its file larger
    #[command(after_help = "\
Examples:
  caisson pool grow main                  after its device became larger by itself
  caisson pool grow main --size 200G      its file")]
    Grow {
        /// Its name
        name: String,
        /// The new size of its file
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
        /// Which file, where it has several
        #[arg(long, value_name = "PATH", requires = "size")]
        device: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Give a pool another blank file or block device
    AddDevice {
        /// Its name
        name: String,
        /// The file or block device
        path: PathBuf,
        /// Size of a file that does not exist yet
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
        #[command(flatten)]
        output: Output,
    },
    /// Read and authenticate all that a pool stores, while it serves
    #[command(after_help = "\
Examples:
  caisson pool scrub main --rate 200M
  caisson pool status main                progress, and what it found
  caisson pool scrub main --stop")]
    Scrub {
        /// Its name
        name: String,
        /// About how many bytes a second
        #[arg(long, value_name = "SIZE", default_value = "100M", value_parser = parse_size)]
        rate: u64,
        /// Stop one that is under way
        #[arg(long, conflicts_with = "rate")]
        stop: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// What a volume is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackingArg {
    /// In a pool, or the file or device at --path
    File,
    /// Memory: gone when the target ends
    Ram,
    /// Nothing: writes vanish
    Null,
}

impl From<BackingArg> for BackingKind {
    fn from(b: BackingArg) -> BackingKind {
        match b {
            BackingArg::File => BackingKind::File,
            BackingArg::Ram => BackingKind::Ram,
            BackingArg::Null => BackingKind::Null,
        }
    }
}
