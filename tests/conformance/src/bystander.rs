//! A host that runs verified I/O while others misbehave, and must not notice.

use crate::subject::{BIG, Subject, bytes, io};
use caisson_initiator::Data;
use caisson_wire::opcode::io as op;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the bystander's command may take while others misbehave. The machine is shared, so this is no latency goal.
const PATIENCE: Duration = Duration::from_secs(3);

/// Runs `attack` while a bystander on another connection writes, reads and compares: at least once before it begins, and once after it
/// has ended.
///
/// # Panics
/// When the bystander notices, or `attack` fails.
pub fn beside_verified_io(s: &Subject, attack: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    let worst = std::thread::scope(|scope| {
        let bystander = scope.spawn(|| {
            let (mut client, mut q) = s.queue();
            let mut worst = Duration::ZERO;
            let mut i = 0;
            let mut last = false;
            while !last {
                last = stop.load(Ordering::Relaxed);
                i += 1;
                let start = Instant::now();
                let blocks = 1 + (i % 40) as u32;
                let data = bytes(i, blocks as usize * 4096);
                let lba = 1000 + i * 37 % 5000;
                let w = q.run(io(op::WRITE, BIG.nsid, lba, blocks).with(Data::Out(data.clone())));
                w.and_then(|d| d.ok("write")).unwrap_or_else(|e| panic!("the bystander's write: {e}"));
                let r = q.run(io(op::READ, BIG.nsid, lba, blocks).with(Data::In(blocks * 4096)));
                let r = r.and_then(|d| d.ok("read")).unwrap_or_else(|e| panic!("the bystander's read: {e}"));
                assert!(r.data == data, "the bystander's data");
                worst = worst.max(start.elapsed());
                rounds.store(i, Ordering::Relaxed);
            }
            client.tick().unwrap_or_else(|e| panic!("the bystander's admin queue: {e}"));
            worst
        });
        while rounds.load(Ordering::Relaxed) == 0 && !bystander.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attack));
        stop.store(true, Ordering::Relaxed);
        let worst = bystander.join();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
        worst.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    println!("  bystander: {} rounds, the slowest in {worst:?}", rounds.load(Ordering::Relaxed));
    assert!(worst < PATIENCE, "the bystander waited {worst:?}");
}
