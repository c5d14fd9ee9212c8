//! What a volume's failure is to a host: the status, and what the error log, the events and SMART make of it.

use super::Io;
use crate::controller::Change;
use crate::events::{ErrorNote, Event};
use crate::slots::Work;
use caisson_block::BlockError;
use caisson_wire::Status;
use std::sync::atomic::Ordering::Relaxed;

/// The one mapping of a volume's errors to NVMe status (NVM 1.1, "Status Codes"; Base 2.1, 4.2.3).
///
/// Do Not Retry is set where the same command would fail again.
pub(crate) fn of(error: BlockError) -> Status {
    match error {
        BlockError::OutOfRange { .. } => Status::LBA_OUT_OF_RANGE.dnr(),
        BlockError::Unreadable { .. } => Status::UNRECOVERED_READ_ERROR.dnr(),
        BlockError::WriteFault { .. } => Status::WRITE_FAULT.dnr(),
        BlockError::CapacityExceeded => Status::CAPACITY_EXCEEDED.dnr(),
        BlockError::Miscompare { .. } => Status::COMPARE_FAILURE.dnr(),
        BlockError::Unsupported => Status::INVALID_OPCODE.dnr(),
        BlockError::Interrupted => Status::COMMAND_INTERRUPTED,
        BlockError::Gone => Status::INVALID_NAMESPACE.dnr(),
        BlockError::KeyDestroyed => Status::ACCESS_DENIED.dnr(),
        BlockError::Erasing => Status::FORMAT_IN_PROGRESS,
        BlockError::Failed => Status::INTERNAL_ERROR.dnr(),
    }
}

/// The block that a failure is about, where it says so.
fn lba(error: BlockError) -> Option<u64> {
    match error {
        BlockError::OutOfRange { lba }
        | BlockError::Unreadable { lba }
        | BlockError::WriteFault { lba }
        | BlockError::Miscompare { lba } => Some(lba),
        _ => None,
    }
}

impl Io {
    /// Counts, logs and tells a failure, and gives up the command's hold on its namespace.
    pub(super) fn failure(&mut self, cid: u16, work: &Work, error: BlockError) -> Status {
        let mut status = of(error);
        let Some(Some(entry)) = self.entries.get(usize::from(work.entry)) else {
            return status;
        };
        let (nsid, namespace) = (entry.nsid, std::sync::Arc::clone(&entry.namespace));
        // A miscompare is an answer, a lack of resources or a removed namespace no fault of the device.
        let media = matches!(error, BlockError::Unreadable { .. } | BlockError::WriteFault { .. });
        let device = media || error == BlockError::Failed;
        if !matches!(error, BlockError::Miscompare { .. }) {
            entry.stats.failed();
        }
        if device {
            let subsystem = &self.controller.subsystem;
            let before = subsystem.media_errors.fetch_add(u64::from(media), Relaxed);
            status = status.more();
            let note = ErrorNote {
                sqid: self.link.qid,
                cid,
                status,
                lba: lba(error).unwrap_or(work.lba),
                nsid,
                opcode: opcode(work),
            };
            self.controller.log_error(note, Some(Event::TransientError));
            if namespace.newly_failed() {
                tracing::error!(subsystem = %subsystem.nqn, nsid, fault = ?namespace.volume.fault(), "a device failed");
                subsystem.tell(Change::Fault, |_| true);
            }
            // Fewer and fewer lines, so that a dying disk does not fill another with its log.
            if media && (before + 1).is_power_of_two() {
                let (nqn, host) = (&subsystem.nqn, &self.controller.host);
                tracing::warn!(subsystem = %nqn, nsid, %host, %error, count = before + 1, "an I/O command failed");
            }
        }
        self.release(work);
        status
    }
}

/// The opcode of a command of this class, for its entry in the error log.
fn opcode(work: &Work) -> u8 {
    use crate::stats::OpClass::*;
    use caisson_wire::opcode::io;
    match work.class {
        Read => io::READ,
        Write => io::WRITE,
        Flush => io::FLUSH,
        WriteZeroes => io::WRITE_ZEROES,
        Deallocate => io::DATASET_MANAGEMENT,
        Compare => io::COMPARE,
        Verify => io::VERIFY,
        WriteUncorrectable => io::WRITE_UNCORRECTABLE,
        Copy => io::COPY,
    }
}
