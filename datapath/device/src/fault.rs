//! What a failed device operation means: try again, no space, cannot do, or the end of the store.
//!
//! A store that failed once is not used any more: what the device did to the data is unknown from then on, and a later
//! success would hide it. The first reason is kept for people. A read that the medium refuses is the exception: it changes nothing,
//! and whoever can tell right bytes from wrong ones may go on with the rest; it is counted, and the last is kept for people.

use std::io;
use std::sync::OnceLock;

/// Why a store's operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// This operation failed on the device. All later ones are refused.
    #[error("the device failed")]
    Device,
    /// The device could not read what stands there: at this byte or behind it, for the reason of this number. Not latched.
    #[error("the device could not read at byte {offset}: {}", words(*errno))]
    Unread {
        /// The first byte that was asked for and not had.
        offset: u64,
        /// The system's number of the error.
        errno: i32,
    },
    /// An earlier failure has latched; the device was not asked.
    #[error("the device failed earlier and is not used any more")]
    Latched,
    /// No space. Not latched: reads, and writes to space that is there, go on.
    #[error("no space is left on the device")]
    Full,
    /// The file or device cannot do this operation.
    #[error("the device does not support the operation")]
    Unsupported,
    /// The store has been made smaller meanwhile.
    #[error("beyond the end of the store")]
    OutOfRange,
}

/// What to do about an errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing has happened; ask again.
    Again,
    /// Report this; do not latch.
    Report(StoreError),
    /// The device cannot read this.
    Unread,
    /// The device failed.
    Latch,
}

/// What was asked, as far as it matters for the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Read,
    Write,
    Sync,
    /// Punching holes or zeroing.
    Allocate,
}

pub(crate) fn verdict(asked: Asked, errno: i32) -> Verdict {
    match (asked, errno) {
        (_, libc::EINTR | libc::EAGAIN) => Verdict::Again,
        // A sync that fails for whatever reason has lost data that was acknowledged before.
        (Asked::Sync, _) => Verdict::Latch,
        (Asked::Write | Asked::Allocate, libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
            Verdict::Report(StoreError::Full)
        }
        (Asked::Allocate, libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV | libc::ESPIPE) => {
            Verdict::Report(StoreError::Unsupported)
        }
        // What Linux makes of a medium error, of a failed integrity check on the way, of a path or target that gave up.
        (Asked::Read, libc::EIO | libc::ENODATA | libc::EILSEQ | libc::EREMOTEIO | libc::ETIMEDOUT) => {
            Verdict::Unread
        }
        _ => Verdict::Latch,
    }
}

/// The first failure of a store.
#[derive(Debug, Default)]
pub(crate) struct Latch(OnceLock<String>);

impl Latch {
    /// Keeps `reason` if it is the first.
    pub(crate) fn set(&self, reason: String) {
        if self.0.set(reason).is_ok()
            && let Some(reason) = self.0.get()
        {
            tracing::error!("{reason}; the store is not used any more");
        }
    }

    pub(crate) fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.0.get().is_some() { Err(StoreError::Latched) } else { Ok(()) }
    }
}

/// An errno in words.
pub(crate) fn words(errno: i32) -> String {
    io::Error::from_raw_os_error(errno).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        use Asked::{Allocate, Read, Sync, Write};
        assert_eq!(verdict(Read, libc::EINTR), Verdict::Again);
        assert_eq!(verdict(Write, libc::ENOSPC), Verdict::Report(StoreError::Full));
        assert_eq!(verdict(Allocate, libc::EOPNOTSUPP), Verdict::Report(StoreError::Unsupported));
        for errno in [libc::EIO, libc::ENODATA, libc::EILSEQ] {
            assert_eq!(verdict(Read, errno), Verdict::Unread, "{errno}");
        }
        for (asked, errno) in [
            (Read, libc::ENXIO),
            (Read, libc::EBADF),
            (Write, libc::EIO),
            (Write, libc::EINVAL),
            (Sync, libc::ENOSPC),
            (Sync, libc::EIO),
            (Read, libc::ENOSPC),
            (Allocate, libc::EIO),
        ] {
            assert_eq!(verdict(asked, errno), Verdict::Latch, "{asked:?} {errno}");
        }
        let latch = Latch::default();
        assert_eq!(latch.check(), Ok(()));
        latch.set("first".into());
        latch.set("second".into());
        assert_eq!((latch.get(), latch.check()), (Some("first"), Err(StoreError::Latched)));
    }
}
