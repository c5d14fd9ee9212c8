//! What is copied and compared for large requests, in slices of the thread's time ([`caisson_task::Pace`]).

use caisson_block::BufList;
use caisson_task::{Pace, Port};

/// Bytes that are copied or compared between two looks at the slice's time: a few microseconds.
pub(crate) const STEP: usize = 16 << 10;

/// The work of that, in pages.
pub(crate) const PAGES: u32 = (STEP / caisson_block::BLOCK) as u32;

/// Pages that one slice moves at most, where there is no clock to say that it is over: 64 KiB.
const SLICE: u32 = 16;

/// Requests of no more bytes are not divided.
pub(crate) const AT_ONCE: usize = 128 << 10;

/// The pace of a request.
pub(crate) fn pace(port: &Port, divided: bool) -> Pace<'_> {
    Pace::new(port, divided, SLICE)
}

/// The first byte in which `now` differs from `with`, which is as long.
pub(crate) async fn first_difference(pace: &mut Pace<'_>, now: &BufList, with: &BufList) -> Option<u64> {
    let (mut reader, mut done) = (with.reader(), 0);
    for part in now.parts().iter().flat_map(|part| part.chunks(STEP)) {
        pace.spend(part.len().div_ceil(caisson_block::BLOCK) as u32).await;
        if let Some(at) = reader.first_difference(part) {
            return Some(done + at as u64);
        }
        done += part.len() as u64;
    }
    None
}

/// Fills `all` with the first `head` bytes of `first`, `data`, and the bytes of `last`.
pub(crate) async fn merge(
    pace: &mut Pace<'_>,
    mut all: BufList,
    (first, head): (&BufList, usize),
    data: &BufList,
    last: &BufList,
) -> BufList {
    let mut merged = BufList::new();
    let (mut first, mut data, mut last) = (first.reader(), data.reader(), last.reader());
    let mut head = head;
    let parts: Vec<_> = all.drain().collect();
    for part in parts {
        // Fresh from the pool, so unshared; a copy would do as well.
        let mut part = part.try_into_mut().unwrap_or_else(|p| caisson_block::BufMut::zeroed(p.len()));
        for step in part.chunks_mut(STEP) {
            pace.spend(PAGES).await;
            let n = head.min(step.len());
            let mut done = first.fill(&mut step[..n]);
            head -= n;
            done += data.fill(&mut step[done..]);
            last.fill(&mut step[done..]);
        }
        merged.push(part.freeze());
    }
    merged
}
