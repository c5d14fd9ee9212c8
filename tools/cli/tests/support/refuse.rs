//! Processes to which the system refuses reads or writes of some bytes of files, with the error of a disk that has lost them (EIO).

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};
use std::collections::BTreeMap;
use std::ops::Range;

/// Linux's number for an error of the device.
const EIO: u32 = 5;

/// What reads at a place in a file, and what writes at one; the place is the fourth of what they are called with.
pub const READS: [i64; 3] = [libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2];
pub const WRITES: [i64; 3] = [libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_pwritev2];

/// Runs `start` so that all processes it starts are refused those of `calls` that begin at one of these bytes of whatever file. They have no
/// io_uring either, whose reads and writes no filter sees.
pub fn refusing<T: Send>(calls: [i64; 3], bytes: Range<u64>, start: impl FnOnce() -> T + Send) -> T {
    let offset = |op, value| SeccompCondition::new(3, SeccompCmpArgLen::Qword, op, value).unwrap();
    let in_range = || {
        let both = vec![offset(SeccompCmpOp::Ge, bytes.start), offset(SeccompCmpOp::Lt, bytes.end)];
        vec![SeccompRule::new(both).unwrap()]
    };
    let refused = calls.map(|call| (call, in_range()));
    let rules: BTreeMap<_, _> = refused.into_iter().chain([(libc::SYS_io_uring_setup, Vec::new())]).collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(EIO), arch).unwrap();
    let filter: seccompiler::BpfProgram = filter.try_into().unwrap();
    // A filter is its thread's, for good, and that of the processes which the thread starts.
    std::thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            apply_filter(&filter).unwrap();
            start()
        });
        filtered.join().unwrap()
    })
}
