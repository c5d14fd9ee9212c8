//! Device operations that are copies in memory, done by the thread itself.
//!
//! The kernel would hand them to a thread of its own, which takes longer to wake than the copy takes, and takes this
//! thread's core from it. A small one is done where it is asked for, so that a small read from such a file ends in the turn
//! that began it. A large one is heavy work ([`super::heavy`]): it waits here, and is done piece by piece between looks.

use super::device::SMALL;
use super::driver::Event;
use caisson_block::{IoKind, IoOp};
use std::collections::VecDeque;
use std::sync::Arc;

/// Those that wait.
#[derive(Default)]
pub(crate) struct Copies {
    waiting: VecDeque<IoOp>,
    /// Where the owner of the one under way is, to know its rest by: that goes before all others. Otherwise those of a
    /// connection would all end at the same time, and the host would wait for the target and the target for the host.
    owner: usize,
}

impl Copies {
    /// Takes a copy: its end, when it was done at once; nothing, when [`Copies::next`] will give that.
    ///
    /// # Errors
    /// The operation, when it is no copy.
    pub(crate) fn take(&mut self, mut op: IoOp) -> Result<Option<Event>, IoOp> {
        if !op.in_memory || !matches!(op.kind, IoKind::Read | IoKind::Write { .. }) {
            return Err(op);
        }
        if op.bufs.len() > SMALL {
            if address(&op) == self.owner {
                self.waiting.push_front(op);
            } else {
                self.waiting.push_back(op);
            }
            return Ok(None);
        }
        let result = caisson_device::execute(&mut op);
        Ok(Some(Event::Device { op, result }))
    }

    /// Does the first `most` bytes of the oldest: a short transfer, whose rest its owner asks for again.
    pub(crate) fn next(&mut self, most: usize) -> Option<Event> {
        let mut op = self.waiting.pop_front()?;
        self.owner = address(&op);
        let result = caisson_device::execute_part(&mut op, most);
        Some(Event::Device { op, result })
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

fn address(op: &IoOp) -> usize {
    Arc::as_ptr(&op.owner).cast::<()>() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use caisson_block::{Buf, BufList, BufMut, Cx, IoOwner};
    use std::os::unix::fs::FileExt;

    struct Nobody(#[allow(dead_code, reason = "so that each has an address")] u8);

    impl IoOwner for Nobody {
        fn done(self: Arc<Self>, _: &mut Cx<'_>, _: IoOp, _: Result<u32, i32>) {}
    }

    fn op(file: &std::fs::File, kind: IoKind, bufs: BufList) -> IoOp {
        let file = Arc::new(file.try_clone().unwrap().into());
        IoOp { kind, file, offset: 0, bufs, in_memory: true, token: 0, owner: Arc::new(Nobody(0)) }
    }

    fn end(event: Option<Event>) -> (IoOp, Result<u32, i32>) {
        match event {
            Some(Event::Device { op, result }) => (op, result),
            _ => panic!("an operation ended"),
        }
    }

    #[test]
    fn small_copies_are_done_at_once_and_large_ones_in_pieces() {
        let path = std::env::temp_dir().join(format!("caisson-copies-{}", std::process::id()));
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.unwrap();
        let mut copies = Copies::default();
        let sync = op(&file, IoKind::Sync, BufList::new());
        assert!(copies.take(sync).is_err(), "no copy");

        let mut bufs = BufList::new();
        (0..3u8).for_each(|n| bufs.push(Buf::from(vec![n + 1; 20 << 10])));
        let large = op(&file, IoKind::Write { dsync: false }, bufs);
        assert!(matches!(copies.take(large), Ok(None)) && copies.len() == 1);
        let other = op(&file, IoKind::Write { dsync: false }, BufList::from(vec![9; 60 << 10]));
        assert!(matches!(copies.take(other), Ok(None)) && copies.len() == 2);
        // Through the middle of a buffer: 32 of 60 KiB.
        let (mut written, result) = end(copies.next(32 << 10));
        assert_eq!((result, written.bufs.len(), copies.len()), (Ok(32 << 10), 60 << 10, 1));
        assert_eq!(file.metadata().unwrap().len(), 32 << 10, "and no more");
        // Its rest comes before the other.
        drop(written.bufs.split_to(32 << 10));
        written.offset = 32 << 10;
        assert!(matches!(copies.take(written), Ok(None)));
        let (rest, result) = end(copies.next(32 << 10));
        assert_eq!((result, rest.offset, copies.len()), (Ok(28 << 10), 32 << 10, 1));

        let buf = BufMut::zeroed(8 << 10).freeze();
        let (read, result) = end(copies.take(op(&file, IoKind::Read, BufList::from(buf))).ok().flatten());
        assert_eq!((result, &read.bufs.parts()[0][..]), (Ok(8 << 10), &[1; 8 << 10][..]));
        let mut at = [0; 2];
        file.read_exact_at(&mut at, (20 << 10) - 1).unwrap();
        assert_eq!(at, [1, 2]);
        std::fs::remove_file(path).unwrap();
    }
}
