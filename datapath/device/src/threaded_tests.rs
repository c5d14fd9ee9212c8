//! The blocking threads: what is handed in comes back, whatever the device says.

use super::*;
use caisson_block::{BufList, BufMut, IoKind, IoOwner};
use std::os::fd::OwnedFd;
use std::sync::mpsc;

struct Nobody;
impl IoOwner for Nobody {
    fn done(self: Arc<Self>, _: &mut Cx<'_>, _: IoOp, _: Result<u32, i32>) {}
}

fn scratch() -> Arc<OwnedFd> {
    let path = std::env::temp_dir().join(format!("caisson-threaded-{}", std::process::id()));
    let file =
        std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.set_len(1 << 20).unwrap();
    Arc::new(file.into())
}

fn op(file: &Arc<OwnedFd>, kind: IoKind, offset: u64, bufs: BufList, token: u64) -> IoOp {
    IoOp { kind, file: Arc::clone(file), offset, bufs, in_memory: false, token, owner: Arc::new(Nobody) }
}

#[test]
fn does_what_it_is_told_and_wakes() {
    let (tx, rx) = mpsc::channel();
    let mut ring = ThreadRing::new(3, 8, move || tx.send(()).unwrap()).unwrap();
    let file = scratch();
    let all = |ring: &mut ThreadRing, ops: Vec<IoOp>| {
        let n = ops.len();
        for op in ops {
            assert!(ring.submit(op).is_ok());
        }
        let mut got = Vec::new();
        while got.len() < n {
            rx.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
            ring.reap_into(&mut got);
        }
        assert_eq!(ring.in_flight(), 0);
        got.sort_by_key(|(op, _)| op.token);
        got
    };
    let write = |i: u64| {
        let kind = IoKind::Write { dsync: i == 1 };
        op(&file, kind, i * 4096, vec![i as u8 + 1; 4096].into(), i)
    };
    let wrote = all(&mut ring, (0..8).map(write).collect());
    assert!(wrote.iter().all(|(_, r)| *r == Ok(4096)));
    let punch = op(&file, IoKind::PunchHole { len: 4096 }, 4096, BufList::new(), 0);
    assert_eq!(all(&mut ring, vec![punch])[0].1, Ok(0));
    assert_eq!(all(&mut ring, vec![op(&file, IoKind::Sync, 0, BufList::new(), 0)])[0].1, Ok(0));
    let mut bufs = BufList::from(BufMut::zeroed(1000));
    bufs.push(BufMut::zeroed(9000).freeze());
    let read = all(&mut ring, vec![op(&file, IoKind::Read, 0, bufs, 0)]);
    let want = [vec![1; 4096], vec![0; 4096], vec![3; 1808]].concat();
    assert_eq!((read[0].1, read[0].0.bufs.to_vec()), (Ok(10_000), want));
    let end = all(&mut ring, vec![op(&file, IoKind::Read, 1 << 20, BufMut::zeroed(10).into(), 0)]);
    assert_eq!(end[0].1, Ok(0));
    let pipe: Arc<OwnedFd> = Arc::new(std::io::pipe().unwrap().0.into());
    let bad = all(&mut ring, vec![op(&pipe, IoKind::Read, 0, BufMut::zeroed(10).into(), 0)]);
    assert_eq!(bad[0].1, Err(libc::ESPIPE));
}

#[test]
fn full_hands_back_and_drop_waits() {
    let mut ring = ThreadRing::new(1, 2, || {}).unwrap();
    let file = scratch();
    let sync = |t| op(&file, IoKind::Sync, 0, BufList::new(), t);
    assert!(ring.submit(sync(1)).is_ok() && ring.submit(sync(2)).is_ok());
    assert_eq!(ring.submit(sync(3)).err().unwrap().token, 3);
    drop(ring);
    assert_eq!(Arc::strong_count(&file), 1);
}
