//! What this side asks of the system besides sockets: its own CPU time, core pinning, the limit on open files.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// CPU time used so far, in seconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct CpuTime {
    /// In user space.
    pub user: f64,
    /// In the kernel.
    pub system: f64,
}

impl CpuTime {
    /// Of the whole process.
    pub fn of_process() -> CpuTime {
        usage(libc::RUSAGE_SELF)
    }

    /// Of the calling thread.
    pub fn of_thread() -> CpuTime {
        usage(libc::RUSAGE_THREAD)
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(self, earlier: CpuTime) -> CpuTime {
        CpuTime { user: self.user - earlier.user, system: self.system - earlier.system }
    }

    /// Both together.
    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

fn usage(who: libc::c_int) -> CpuTime {
    // SAFETY: rusage is plain data for which all zeroes is a value.
    let mut ru: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `ru` is valid for writes; `who` is one of the two constants above.
    if unsafe { libc::getrusage(who, &mut ru) } != 0 {
        return CpuTime::default();
    }
    let secs = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    CpuTime { user: secs(ru.ru_utime), system: secs(ru.ru_stime) }
}

/// Puts the calling thread, and those that it starts, before all of the normal classes (SCHED_FIFO, sched(7)).
///
/// # Errors
/// When that is not allowed: EPERM without CAP_SYS_NICE or a limit for it.
pub fn urgent(priority: i32) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` is valid for reads; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Keeps the calling thread on one core.
///
/// # Errors
/// When there is no such core, or it is not allowed.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if core >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set)?;
    Ok(())
}

/// Raises the limit on open files to the hard limit, and says what it is now.
///
/// # Errors
/// When the system refuses.
pub fn raise_open_files() -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let old = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: old.maximum, maximum: old.maximum })?;
    Ok(old.maximum.unwrap_or(u64::MAX))
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupted(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
    // SAFETY: signal(2) may be called in a handler; a second Ctrl-C then ends the program at once.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
}

/// Has Ctrl-C (SIGINT) set the flag that is returned, once, instead of ending the program. For programs, not for
/// libraries: it concerns the whole process.
pub fn on_interrupt() -> &'static AtomicBool {
    let handler: extern "C" fn(libc::c_int) = interrupted;
    // SAFETY: the handler only stores to an atomic and calls signal(2), both of which handlers may do.
    unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
    &INTERRUPTED
}
