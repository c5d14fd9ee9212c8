//! A host that fills a namespace and deallocates it, over and over, with as many ranges a command as there can be: a heavy
//! neighbour that asks for much in little.

use super::bench::BenchArgs;
use super::connect_io;
use super::target::NQN;
use crate::error::Result;
use crate::net::Address;
use crate::perf::Content;
use crate::perf::content::Maker;
use crate::queue::{Command, Data, Queue};
use caisson_wire::opcode::io;
use std::time::{Duration, Instant};

/// Bytes of a write, and writes between two rounds of deallocation.
const WRITE: usize = 1 << 20;
const WRITES: u64 = 32;
/// Commands at once.
const DEPTH: usize = 8;
/// Ranges of a command.
const RANGES: u64 = 256;
/// Deallocations of everything in a round: the first finds what was written, the others next to nothing.
const CLEARS: usize = 8;

/// Does so with the first `size` bytes for so long. Gives the bytes written a second.
///
/// # Errors
/// When the target cannot be reached, or refuses a command.
pub(super) fn run(args: &BenchArgs, address: &Address, size: u64, time: Duration) -> Result<f64> {
    let mut client = connect_io(&args.host, address, Some(NQN))?;
    client.ask_queues(1)?;
    let mut queue = client.io_queue(1, 64)?;
    let nsid = client.namespaces()?.first().copied().unwrap_or(1);
    let block = client.namespace(nsid)?.lba_bytes;
    let mut memory = vec![0; DEPTH * WRITE];
    let mut maker = Maker::new(Content { duplicates: 0, ratio: 2 }, &mut memory, 3);
    let (begun, mut written) = (Instant::now(), 0u64);
    while begun.elapsed() < time {
        for _ in 0..WRITES / DEPTH as u64 {
            let mut commands = Vec::with_capacity(DEPTH);
            for (i, data) in memory.chunks_mut(WRITE).enumerate() {
                maker.stamp(data, (i * WRITE) as u64);
                let lba = written % size / u64::from(block);
                written += WRITE as u64;
                let write = Command::new(io::WRITE, nsid).dword(10, lba as u32).dword(11, (lba >> 32) as u32);
                commands.push(write.dword(12, WRITE as u32 / block - 1).with(Data::Out(data.to_vec())));
            }
            all(&mut queue, commands)?;
        }
        all(&mut queue, (0..CLEARS).map(|_| clear(nsid, size / u64::from(block))))?;
        client.tick()?;
    }
    Ok(written as f64 / begun.elapsed().as_secs_f64())
}

/// Deallocates the first `blocks`.
fn clear(nsid: u32, blocks: u64) -> Command {
    let each = blocks / RANGES;
    let mut ranges = Vec::with_capacity(RANGES as usize * 16);
    for n in 0..RANGES {
        ranges.extend_from_slice(&[0; 4]);
        ranges.extend_from_slice(&(each as u32).to_le_bytes());
        ranges.extend_from_slice(&(n * each).to_le_bytes());
    }
    let clear = Command::new(io::DATASET_MANAGEMENT, nsid).dword(10, RANGES as u32 - 1).dword(11, 1 << 2);
    clear.with(Data::Out(ranges))
}

fn all(queue: &mut Queue, commands: impl IntoIterator<Item = Command>) -> Result<()> {
    let sent = queue.submit_all(commands)?;
    sent.into_iter().try_for_each(|cid| queue.wait(cid)?.ok("a command of the heavy neighbour").map(drop))
}
