//! Random bytes from the system.
//!
//! Owns the one call that asks the kernel for them. It must never fall back to anything weaker.

use caisson_keys::KeyError;

/// Fills `out` with random bytes from the kernel; the [`Random`](caisson_keys::Random) of production.
pub fn os_random(out: &mut [u8]) -> Result<(), KeyError> {
    getrandom::fill(out).map_err(|e| KeyError::NoRandom { cause: e.to_string() })
}
