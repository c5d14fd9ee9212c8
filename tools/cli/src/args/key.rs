//! The command line of keys: `key ...`.

use super::{KeyArgs, Output};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// One key provider.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct OneKey {
    /// The key provider, such as 'pkcs11:token=LABEL;object=LABEL?module-path=FILE&pin-source=file:FILE'
    #[arg(long, value_name = "URI", value_parser = super::key_uri, required_unless_present = "key_file", conflicts_with = "key_file")]
    pub key: Option<caisson_keys::KeyUri>,
    /// A sealed key file
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// A file with the key file's passphrase, which the target can read
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub passphrase_file: Option<PathBuf>,
}

/// A key provider, where one is named.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Made {
    /// The key provider, such as 'pkcs11:token=LABEL;object=LABEL?module-path=FILE&pin-source=file:FILE'
    #[arg(long, value_name = "URI", value_parser = super::key_uri, required_unless_present_any = ["key_file", "domain"], conflicts_with_all = ["key_file", "domain"])]
    pub key: Option<caisson_keys::KeyUri>,
    /// A sealed key file
    #[arg(long, value_name = "FILE", conflicts_with = "domain")]
    pub key_file: Option<PathBuf>,
    /// A file with the key file's passphrase, which the target can read
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub passphrase_file: Option<PathBuf>,
    /// A domain: keys of their own for the volumes of one tenant, in the pool that is named
    #[arg(long, value_name = "NAME", requires = "pool")]
    pub domain: Option<String>,
}

/// Why a root key is revoked.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Reason {
    /// It is not needed any more
    Cessation,
    /// Another took its place
    Superseded,
    /// Somebody else may have it
    Compromise,
}

/// `key ...`.
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Make a root key in a token or server, or a sealed key file, for which no target is needed; or a domain in a pool
    #[command(after_help = "\
Examples:
  caisson key create --key 'pkcs11:token=Caisson;object=main?module-path=/usr/lib/softhsm/libsofthsm2.so'
  caisson key create --key 'tpm2:pcrs=sha256+7?file=/etc/caisson/tpm.key'
  caisson key create --key-file /etc/caisson/main.key

  caisson key create main --domain acme

A token or server that has such a key already gets another, which wraps from then on. A PIN or passphrase is asked for, where no
file, systemd credential or variable gives it.

A domain is for one tenant: its volumes (caisson volume create --domain acme) are sealed under keys of its own, duplicates are never
shared with other domains, and destroying its keys destroys all of its data at once (caisson key destroy).")]
    Create {
        /// The pool of a domain
        #[arg(conflicts_with_all = ["key", "key_file"])]
        pool: Option<String>,
        #[command(flatten)]
        at: Made,
        /// The folder of the audit log that this is recorded in, as a target's data directory; else that of $CAISSON_AUDIT
        #[arg(long, value_name = "DIR")]
        audit: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Seal a key file to this machine's TPM anew, with its recovery passphrase; no target is needed
    #[command(after_help = "\
Example:
  caisson key reseal --key 'tpm2:pcrs=sha256+7?file=/etc/caisson/tpm.key'
  caisson key retry main

For when the machine's measured state changed on purpose (firmware, boot loader, their settings), the TPM was cleared or is another
one, or other registers are wanted. The recovery passphrase is asked for where no file, systemd credential or variable gives it.")]
    Reseal {
        /// The key file and the TPM: 'tpm2:pcrs=sha256+N,N?file=PATH'
        #[arg(long, value_name = "URI", value_parser = super::key_uri)]
        key: caisson_keys::KeyUri,
        /// The folder of the audit log that this is recorded in, as a target's data directory; else that of $CAISSON_AUDIT
        #[arg(long, value_name = "DIR")]
        audit: Option<PathBuf>,
    },
    /// List the wrapped keys of a pool
    List {
        /// The pool
        pool: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show where pools' keys are, how their providers are, and which pool waits for which key and why
    Status {
        /// The pool; all of them where it is missing
        pool: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Give a pool's key providers new root keys, and wrap its keys with those; or begin a domain's next key epoch: while it serves
    #[command(after_help = "\
Examples:
  caisson key rotate main
  caisson key rotate main --domain default
  caisson key rotate main --domain pool

Without --domain, no block is written anew: what changes is the wrapped keys in the pool's superblock, in one step. The old root keys stay in their
providers, for other pools and for older copies of this one, until they are revoked or destroyed (caisson key revoke, caisson key destroy).

With --domain, what is written from now on is sealed under new random keys, and what there is is sealed anew in the background, which
reads and writes it once; `caisson key status` shows how far that is. When nothing is left under the earlier keys, they are erased. The domain
'pool' is what belongs to no tenant: headers, tables, checkpoints; its rotation moves all data of the pool. Recovery shares that people
hold open what is new, too.")]
    Rotate {
        /// The pool
        pool: String,
        /// The domain whose next key epoch begins: `default`, the name of another, or `pool`
        #[arg(long, value_name = "NAME", conflicts_with = "key")]
        domain: Option<String>,
        /// Only this provider, as `caisson key status` names it
        #[arg(long, value_name = "URI", value_parser = super::key_uri)]
        key: Option<caisson_keys::KeyUri>,
        #[command(flatten)]
        output: Output,
    },
    /// Take a root key out of use in its provider, for good: it is kept there, and unwraps nothing any more
    #[command(after_help = "\
Examples:
  caisson key rotate main
  caisson key revoke main --root 7f3a --reason superseded --confirm 7f3a

For key managers that know such a state (KMIP: deactivated, or compromised with --reason compromise); a key in a token or a key file is
destroyed instead. Refused while a pool needs the key and no other of its key slots opens it.")]
    Revoke {
        /// A pool whose key provider holds it
        pool: String,
        /// The root key, as `caisson key list` names it
        #[arg(long, value_name = "NAME")]
        root: String,
        /// The provider that holds it, where it is none of the pool's any more
        #[arg(long, value_name = "URI", value_parser = super::key_uri)]
        key: Option<caisson_keys::KeyUri>,
        /// Why
        #[arg(long, value_enum, default_value_t = Reason::Cessation)]
        reason: Reason,
        /// Its name again; asked for at a terminal where it is missing
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Destroy a domain's keys: everything that its volumes, their snapshots and clones hold is gone at once, for good; or a root key
    #[command(after_help = "\
Examples:
  caisson key destroy main --domain acme --confirm acme
  caisson key destroy main --root 7f3a --confirm 7f3a

With --root, a root key in the provider that holds it: the old one after a rotation, so that older copies of the pool's superblock open no
more. Refused while a pool needs it and no other of its key slots opens it.

With --domain, the wrapped keys are erased from the superblocks of all devices, and the keys from memory. The domain's volumes stay, and fail with the
NVMe status Access Denied until they are deleted. Copies of the superblock that were made before still hold the wrapped keys: where that
matters, rotate the root keys (caisson key rotate main), and destroy the old ones in their providers.")]
    Destroy {
        /// The pool
        pool: String,
        /// The domain
        #[arg(long, value_name = "NAME", required_unless_present = "root", conflicts_with = "root")]
        domain: Option<String>,
        /// The root key, as `caisson key list` names it
        #[arg(long, value_name = "NAME")]
        root: Option<String>,
        /// The provider that holds the root key, where it is none of the pool's any more
        #[arg(long, value_name = "URI", value_parser = super::key_uri, requires = "root")]
        key: Option<caisson_keys::KeyUri>,
        /// Its name again; asked for at a terminal where it is missing
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Let another key provider open a pool, too, while it serves
    #[command(after_help = "\
Example, to change from a key file to a token:
  caisson key add main --key 'pkcs11:token=Caisson;object=main?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/caisson/pin'
  caisson key remove main --key-file /etc/caisson/main.key")]
    Add {
        /// The pool
        pool: String,
        #[command(flatten)]
        at: OneKey,
        #[command(flatten)]
        output: Output,
    },
    /// Take a key provider away from a pool that others open
    #[command(after_help = "\
It is seen first that another provider opens the pool. A copy of the pool that was made before still opens with the one that is
taken away: destroy its key where that must not be.")]
    Remove {
        /// The pool
        pool: String,
        #[command(flatten)]
        at: OneKey,
        #[command(flatten)]
        output: Output,
    },
    /// Ask for the keys of a pool that waits for them now
    Retry {
        /// The pool
        pool: String,
        #[command(flatten)]
        output: Output,
    },
    /// Make shares that together open a pool when every key provider is lost
    #[command(after_help = "\
Example:
  caisson key export-recovery main --shares 5 --needed 3 --out /run/shares

Writes share-1.txt to share-5.txt, for five people of whom three are needed. Give each to one person, and erase the folder: the
shares are nowhere else. Shares that were made before open nothing any more.")]
    ExportRecovery {
        /// The pool
        pool: String,
        /// How many shares
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(2..=16))]
        shares: u8,
        /// How many of them open the pool
        #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
        needed: u8,
        /// The folder for the files; made, for its owner only, where there is none
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Open a pool that no target uses with recovery shares, and let a key provider open it from then on
    #[command(after_help = "\
Example:
  caisson key import-recovery disk.pool --share share-1.txt --share share-4.txt --share share-5.txt --key-file new.key")]
    ImportRecovery {
        /// The pool's files or block devices, all of them
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// A file with a share; as many as are needed
        #[arg(long, value_name = "FILE", required = true)]
        share: Vec<PathBuf>,
        #[command(flatten)]
        keys: KeyArgs,
        /// The folder of the audit log that this is recorded in, as a target's data directory; else that of $CAISSON_AUDIT
        #[arg(long, value_name = "DIR")]
        audit: Option<PathBuf>,
    },
    /// Show the record of operations on keys, and whether it is whole
    #[command(after_help = "\
Examples:
  caisson key audit
  caisson key audit --verify
  caisson key audit /var/lib/caisson/audit.log --verify --public 3d4017c3...

Every record names the one before it by its hash, and is signed. Exit status 1 when something was changed, taken out or put in. Note
the public key and the last hash elsewhere: with them it is seen, too, whether the log was written anew or cut off.")]
    Audit {
        /// The log; without it, that of the running target
        file: Option<PathBuf>,
        /// Judge it, and print only what was found
        #[arg(long)]
        verify: bool,
        /// The public key that must have signed it
        #[arg(long, value_name = "HEX")]
        public: Option<String>,
        /// The last hash that was noted: it must be in the log
        #[arg(long, value_name = "HEX")]
        head: Option<String>,
        #[command(flatten)]
        output: Output,
    },
}

/// `kms ...`.
#[derive(Subcommand, Debug)]
pub enum KmsCommand {
    /// Run the key service: key providers in a process of their own, for a target on this machine
    #[command(after_help = "\
Example:
  caisson kms serve --at /run/caisson-kms/kms.sock --allow-uid $(id -u caisson) --audit /var/lib/caisson-kms \\
    --key 'main=file:/etc/caisson-kms/main.key?passphrase-file=/etc/caisson-kms/main.passphrase'
and for the target
  keys = [\"kms:key=main?socket=/run/caisson-kms/kms.sock\"]

Root keys, passphrases and PINs are in this process alone, best as a user of its own; the target asks it to wrap and unwrap. A target
goes on serving while it is away, and finds it again when it is back. Key files are made before, with `caisson key create`.")]
    Serve {
        /// Where it listens; the socket can be opened by the first of the users that are allowed, and nobody else
        #[arg(long, value_name = "PATH")]
        at: PathBuf,
        /// A provider and the name under which it is asked for; may be given several times
        #[arg(long, value_name = "NAME=URI", required = true, value_parser = named_key)]
        key: Vec<NamedKey>,
        /// A user that may ask, by number; may be given several times. Without it, the user that runs this
        #[arg(long, value_name = "UID")]
        allow_uid: Vec<u32>,
        /// A user among those that may ask who may end root keys, too (`caisson key revoke|destroy POOL --root`), by number; may be given
        /// several times. Without it nobody may: a target that was taken over could destroy what pools need
        #[arg(long, value_name = "UID")]
        allow_end: Vec<u32>,
        /// The folder of its audit log, audit.log, and of the key that signs it
        #[arg(long, value_name = "DIR")]
        audit: Option<PathBuf>,
        #[command(flatten)]
        log: super::LogArgs,
    },
}

/// A provider and its name.
#[derive(Clone, Debug)]
pub struct NamedKey(pub String, pub caisson_keys::KeyUri);

fn named_key(text: &str) -> Result<NamedKey, String> {
    let (name, uri) = text.split_once('=').ok_or("write NAME=URI")?;
    let sound = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !sound {
        return Err("a name is 1 to 64 letters, digits, dashes, underscores and dots".into());
    }
    Ok(NamedKey(name.into(), super::key_uri(uri)?))
}
