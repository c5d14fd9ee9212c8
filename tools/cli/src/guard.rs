//! What keeps the program's secrets in its memory: no core dumps, no debugger of the same user, no swapping.
//!
//! Owns switching dumps off before there is a secret, and saying so where it is not so. It must never pass over in silence that a
//! secret could leave the process.

use caisson_keys::locked_memory;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Switches core dumps off for this process and all that it starts, unless `allowed`; then nobody but root may look into it, either
/// (prctl(2), PR_SET_DUMPABLE; proc(5), /proc/PID/mem).
///
/// # Errors
/// The system's.
pub fn against_dumps(allowed: bool) -> std::io::Result<()> {
    if allowed {
        return Ok(());
    }
    // Two locks on one door: the limit for a kernel that writes a file, the attribute for one that hands dumps to a program.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Says what is not as it should be, once, in the log of a process that will hold keys.
pub fn report(dumps_allowed: bool) {
    if dumps_allowed {
        tracing::warn!(
            "core dumps are allowed (--allow-core-dumps): one would hold the keys of all pools that are open; delete it when it was \
             looked at, and start without the option"
        );
    }
    let memory = locked_memory();
    if let Some(cause) = memory.cause {
        tracing::warn!(
            "the memory of keys is not locked ({cause}), so it could be swapped out; remedy: let the process lock memory \
             (LimitMEMLOCK=8M in its systemd unit, or `ulimit -l`), or switch swap off"
        );
    }
}
