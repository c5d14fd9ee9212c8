//! A pool's keys: its sealed key file, opened or made, and its secrets.
//!
//! Owns asking for the passphrase and telling what was made. It must never keep the passphrase or the key file's contents:
//! what stays is the pool's unlocked secrets.

use crate::model;
use crate::refusal::{Cause, Refusal};
use caisson_keys::{KeyError, KeySlot, PoolSecrets};
use caisson_providers::{
    Argon2Cost, Ask, KeyFileError, PassphraseError, PassphraseSource, SealedFile, os_random,
};

/// How often a person at a terminal may try again.
const TRIES: usize = 3;

/// The label of the first root key of a key file.
const LABEL: &str = "root";

fn of_file(e: &KeyFileError) -> Refusal {
    let cause = match e {
        KeyFileError::Missing { .. } => Cause::NotFound,
        KeyFileError::Exists { .. } | KeyFileError::Changed { .. } => Cause::Conflict,
        KeyFileError::Io { .. } | KeyFileError::Key(_) => Cause::System,
        _ => Cause::Invalid,
    };
    Refusal::new(cause, e.to_string(), e.remedy())
}

fn of_passphrase(pool: &model::Pool, e: &PassphraseError) -> Refusal {
    Refusal::invalid(format!("pool {} cannot be unlocked: {e}", pool.name), e.remedy())
}

/// A key's error, for an operator.
pub fn of_key(pool: &model::Pool, e: &KeyError) -> Refusal {
    let cause = if e.may_pass() { Cause::Busy } else { Cause::Invalid };
    Refusal::new(cause, format!("pool {} cannot be unlocked: {e}", pool.name), e.remedy())
}

fn source(pool: &model::Pool, ask: bool) -> Result<PassphraseSource, Refusal> {
    PassphraseSource::choose(pool.passphrase_file.as_deref(), ask).map_err(|e| of_passphrase(pool, &e))
}

/// Opens the pool's key file. A person is asked again after a wrong passphrase; any other source has said what it says.
fn provider(pool: &model::Pool, ask: bool) -> Result<SealedFile, Refusal> {
    // Before anybody is asked for a passphrase to a file that cannot be opened with any.
    SealedFile::examine(&pool.key_file).map_err(|e| of_file(&e))?;
    let source = source(pool, ask)?;
    let tries = if source == PassphraseSource::Prompt { TRIES } else { 1 };
    let mut last = None;
    for _ in 0..tries {
        let passphrase = source.get(Ask::Open(&pool.key_file)).map_err(|e| of_passphrase(pool, &e))?;
        match SealedFile::open(&pool.key_file, &passphrase) {
            Ok(file) => return Ok(file),
            Err(e) if e.is_wrong_passphrase() => last = Some(of_file(&e)),
            Err(e) => return Err(of_file(&e)),
        }
    }
    Err(last.unwrap_or_else(|| of_passphrase(pool, &PassphraseError::Cancelled)))
}

/// The keys for a new pool, and whether its key file was made for it. A person is asked only where `ask` says so.
pub fn create(
    pool: &model::Pool,
    id: [u8; 16],
    ask: bool,
) -> Result<(PoolSecrets, Vec<KeySlot>, bool), Refusal> {
    let there = pool.key_file.symlink_metadata().is_ok();
    let file = if there {
        provider(pool, ask)?
    } else {
        let passphrase =
            source(pool, ask)?.get(Ask::Create(&pool.key_file)).map_err(|e| of_passphrase(pool, &e))?;
        SealedFile::create(&pool.key_file, &passphrase, LABEL, Argon2Cost::DEFAULT)
            .map_err(|e| of_file(&e))?
    };
    let (secrets, slots) =
        caisson_keys::create_pool_keys(&file, id, &mut os_random).map_err(|e| of_key(pool, &e))?;
    Ok((secrets, slots, !there))
}

/// Unlocks a pool that there is.
pub fn unlock(
    pool: &model::Pool,
    id: [u8; 16],
    slots: &[KeySlot],
    ask: bool,
) -> Result<PoolSecrets, Refusal> {
    let file = provider(pool, ask)?;
    caisson_keys::unlock(&[&file], id, slots).map_err(|e| of_key(pool, &e))
}
