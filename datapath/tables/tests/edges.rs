//! The edges: sizes at a level of the radix, the last block there can be, full reference counts, ids in limbo, and bytes of
//! changes and roots.

use caisson_tables::*;
use std::collections::HashMap;

const STORED: Stored = Stored { length: 100, codec: 1, epoch: 7 };
const V: VolumeId = VolumeId(1);

fn geometry(max_refs: u32) -> Geometry {
    Geometry { segment_size: 1 << 20, segments: 16, cache_pages: 100, dirty_limit: 100, max_refs }
}

/// Tables with a volume, and a log segment that is open.
fn tables(bytes: u64, max_refs: u32) -> Tables {
    let mut t = Tables::create(geometry(max_refs));
    let create = VolumeChange::Create { id: V, name: "v".into(), bytes, settings: vec![] };
    t.change_volume(create, &mut Vec::new()).unwrap();
    let n = t.reserve(1)[0];
    t.open_segment(n, 1, 1, Use::Log);
    t
}

fn block(t: &mut Tables) -> BlockId {
    let mut ids = Vec::new();
    t.allocate(1, &mut ids).unwrap();
    t.put(ids[0], STORED).unwrap();
    t.locate(ids[0], Place { segment: 0, offset: 4096 + ids[0].get() as u32 * 200 });
    ids[0]
}

fn write(t: &mut Tables, v: VolumeId, at: u64, slots: &[Slot]) -> Vec<Change> {
    let mut journal = Vec::new();
    t.write(v, at, slots, &mut journal).unwrap();
    journal
}

fn find(t: &mut Tables, v: VolumeId, at: u64) -> Option<BlockId> {
    let mut found = Vec::new();
    t.find(v, at, 1, &mut found).unwrap();
    match found[0] {
        Found::At { id, .. } => Some(id),
        _ => None,
    }
}

/// A whole checkpoint, with pages in a segment of its own.
fn checkpoint(t: &mut Tables) -> (Root, Vec<u32>) {
    checkpoint_to(t, &mut HashMap::new())
}

/// A whole checkpoint, and the pages that it wrote.
fn checkpoint_to(t: &mut Tables, pages: &mut HashMap<PageKey, Box<Page>>) -> (Root, Vec<u32>) {
    t.freeze();
    let n = t.reserve(1)[0];
    t.open_segment(n, 100 + u64::from(n), 1, Use::Checkpoint);
    let mut offset = 4096;
    loop {
        match t.frozen_next() {
            Frozen::Page(key, page, _) => {
                pages.insert(key, page);
                t.frozen_placed(key, Place { segment: n, offset }, STORED);
                offset += 200;
            }
            Frozen::Done => break,
            Frozen::Wait | Frozen::Again => {}
        }
    }
    t.close_segment(n, Use::Checkpoint);
    let root = t.frozen_root();
    (root, t.checkpointed())
}

fn refs(t: &mut Tables, id: BlockId) -> Option<u32> {
    t.entry(id).unwrap().map(|e| e.refs)
}

#[test]
fn a_map_grows_with_its_volume() {
    let mut t = tables(512 * 4096, u32::MAX);
    let (a, b) = (block(&mut t), block(&mut t));
    write(&mut t, V, 511, &[Slot::New(a)]);
    assert_eq!(t.volume(V).unwrap().height, 1);
    t.change_volume(VolumeChange::Resize { id: V, bytes: 513 * 4096 }, &mut Vec::new()).unwrap();
    let journal = write(&mut t, V, 512, &[Slot::New(b)]);
    assert!(matches!(journal[0], Change::Grow { .. }), "{journal:?}");
    let r = t.volume(V).unwrap();
    assert_eq!((r.height, r.mapped), (2, 2));
    assert_eq!((find(&mut t, V, 511), find(&mut t, V, 512)), (Some(a), Some(b)));
    // The count above the first leaf came along: dropping it as a whole knows it.
    let handled = t.unmap(V, 0, 512, &mut Vec::new()).unwrap();
    assert!(handled > 0 && find(&mut t, V, 512) == Some(b));
}

#[test]
fn the_last_block_there_can_be() {
    let blocks = (1u64 << 52) - 1;
    let mut t = tables(blocks * 4096, u32::MAX);
    let (a, b) = (block(&mut t), block(&mut t));
    write(&mut t, V, blocks - 1, &[Slot::New(a)]);
    write(&mut t, V, 0, &[Slot::New(b)]);
    assert_eq!(t.volume(V).unwrap().height, 6);
    assert_eq!((find(&mut t, V, blocks - 1), find(&mut t, V, 0)), (Some(a), Some(b)));
    let (mut at, mut calls) = (0, 0);
    while at < blocks {
        at += t.unmap(V, at, blocks - at, &mut Vec::new()).unwrap();
        calls += 1;
    }
    assert!(calls < 100, "holes are passed by: {calls}");
    assert_eq!((t.volume(V).unwrap().root, t.stats()), (None, Stats::default()));
}

#[test]
fn a_full_count_stays_full_and_the_block_stays() {
    let mut t = tables(1 << 30, 8);
    let a = block(&mut t);
    write(&mut t, V, 0, &[Slot::New(a), Slot::Share(a), Slot::Share(a)]);
    let place = t.entry(a).unwrap().unwrap().place;
    assert!(t.candidate(a, place, 1).unwrap().is_some());
    assert!(t.candidate(a, place, 2).unwrap().is_none(), "the segment is in another use");
    assert!(t.candidate(a, Place { offset: place.offset + 1, ..place }, 1).unwrap().is_none());
    write(&mut t, V, 3, &[Slot::Share(a)]);
    assert!(
        t.candidate(a, place, 1).unwrap().is_none(),
        "half of the maximum is kept for copies of map pages"
    );
    // Three clones that each copy the leaf: 4 + 4 reaches the maximum, and the next copy changes nothing.
    for n in 2..5 {
        let clone = VolumeChange::Snapshot {
            of: V,
            id: VolumeId(n),
            name: format!("clone {n}"),
            settings: vec![],
            read_only: false,
        };
        t.change_volume(clone, &mut Vec::new()).unwrap();
        write(&mut t, VolumeId(n), 100, &[Slot::Unreadable]);
    }
    assert_eq!(refs(&mut t, a), Some(8));
    for n in 1..5 {
        t.unmap(VolumeId(n), 0, 1 << 18, &mut Vec::new()).unwrap();
        t.unmap(VolumeId(n), 0, 1 << 18, &mut Vec::new()).unwrap();
        assert_eq!(find(&mut t, VolumeId(n), 0), None);
    }
    assert_eq!(refs(&mut t, a), Some(8), "never freed too early, so never freed");
    assert_eq!(t.faults(), 0);
}

/// The most that an entry can say, 2^32 - 1, is reached in no test by counting: the page says so.
#[test]
fn the_highest_count_there_can_be_does_not_overflow() {
    let mut t = tables(1 << 30, u32::MAX);
    let a = block(&mut t);
    write(&mut t, V, 0, &[Slot::New(a)]);
    let place = t.entry(a).unwrap().unwrap().place;
    let mut pages = HashMap::new();
    let (root, _) = checkpoint_to(&mut t, &mut pages);
    let with = |refs: u32| {
        let mut t = Tables::open(geometry(u32::MAX), &root).unwrap();
        while let Err(Needs(needs)) = t.find(V, 0, 1, &mut Vec::new()) {
            for (key, at) in needs {
                let mut page = pages[&key].clone();
                if key == (PageKey::Blocks { level: 0, index: a.get() / 256 }) {
                    // The references are bytes 8 to 11 of an entry of 16.
                    let from = (a.get() % 256 * 16) as usize + 8;
                    assert_eq!(page[from..from + 4], 1u32.to_le_bytes());
                    page[from..from + 4].copy_from_slice(&refs.to_le_bytes());
                }
                t.load(key, &at, page, 0).unwrap();
            }
        }
        assert_eq!(self::refs(&mut t, a), Some(refs));
        t
    };
    let half = u32::MAX / 2;
    assert!(with(half - 1).candidate(a, place, 1).unwrap().is_some());
    for full in [half, half + 1, u32::MAX - 1, u32::MAX] {
        assert!(with(full).candidate(a, place, 1).unwrap().is_none(), "{full}");
    }
    let mut t = with(u32::MAX - 2);
    for expected in [u32::MAX - 1, u32::MAX, u32::MAX, u32::MAX] {
        let counted = t.stats().references;
        let before = refs(&mut t, a);
        write(&mut t, V, u64::from(expected) % 100 + counted, &[Slot::Share(a)]);
        assert_eq!(refs(&mut t, a), Some(expected));
        assert_eq!(t.stats().references - counted, u64::from(before != Some(expected)));
    }
    // Where nobody knows how many there are, none is dropped: the block stays.
    t.unmap(V, 0, 1 << 18, &mut Vec::new()).unwrap();
    assert_eq!((find(&mut t, V, 0), refs(&mut t, a)), (None, Some(u32::MAX)));
    // One below, they are known.
    let mut t = with(u32::MAX - 1);
    write(&mut t, V, 0, &[Slot::Zero]);
    assert_eq!((refs(&mut t, a), t.faults()), (Some(u32::MAX - 2), 0));
}

#[test]
fn ids_and_segments_are_reused_only_after_a_checkpoint_that_began_later() {
    let mut t = tables(1 << 30, u32::MAX);
    let a = block(&mut t);
    write(&mut t, V, 0, &[Slot::New(a)]);
    t.close_segment(0, Use::Log);
    t.freeze();
    // Freed after the freeze: this checkpoint does not count.
    write(&mut t, V, 0, &[Slot::Zero]);
    assert_eq!(refs(&mut t, a), None);
    assert_eq!(t.segment(0).live, 0);
    t.abandon();
    let (_, freed) = checkpoint(&mut t);
    assert_eq!(freed, [0], "closed and empty before the freeze");
    assert_eq!(t.segment(0).state, SegmentState::Free);
}

#[test]
fn freed_ids_wait_in_limbo() {
    let mut t = tables(1 << 30, u32::MAX);
    let mut ids = Vec::new();
    t.allocate(4000, &mut ids).unwrap();
    for (n, &id) in ids.iter().enumerate() {
        t.put(id, STORED).unwrap();
        t.locate(id, Place { segment: 0, offset: 4096 + n as u32 * 200 });
        write(&mut t, V, n as u64, &[Slot::New(id)]);
    }
    t.unmap(V, 0, 1 << 18, &mut Vec::new()).unwrap();
    // How many of them come back when so many are asked for. None of those taken is given back.
    let taken = |t: &mut Tables| {
        let mut again = Vec::new();
        t.allocate(1500, &mut again).unwrap();
        again.iter().filter(|id| ids[..512].contains(id)).count()
    };
    t.freeze();
    t.unmap(V, 512, 1 << 18, &mut Vec::new()).unwrap();
    assert_eq!(taken(&mut t), 0, "the checkpoint is not durable");
    t.abandon();
    assert_eq!(taken(&mut t), 0, "it never will be");
    let mut at = 0;
    while at < 1 << 18 {
        at += t.unmap(V, at, (1 << 18) - at, &mut Vec::new()).unwrap();
    }
    assert_eq!(t.stats().blocks, 0);
    assert_eq!(taken(&mut t), 0);
    checkpoint(&mut t);
    let mut found = 0;
    for _ in 0..4 {
        found += taken(&mut t);
    }
    assert_eq!(found, 512, "all of them, each once");
}

#[test]
fn a_segment_that_the_checkpoint_refers_to_is_not_freed_by_it() {
    let mut t = tables(1 << 30, u32::MAX);
    let a = block(&mut t);
    write(&mut t, V, 0, &[Slot::New(a)]);
    t.close_segment(0, Use::Log);
    t.freeze();
    write(&mut t, V, 0, &[Slot::Zero]);
    assert_eq!(t.segment(0).live, 0);
    let n = t.reserve(1)[0];
    t.open_segment(n, 50, 1, Use::Checkpoint);
    let mut offset = 4096;
    while let Frozen::Page(key, ..) = match t.frozen_next() {
        Frozen::Wait | Frozen::Again => unreachable!("each page is placed at once, and they are few"),
        next => next,
    } {
        t.frozen_placed(key, Place { segment: n, offset }, STORED);
        offset += 200;
    }
    t.close_segment(n, Use::Checkpoint);
    assert_eq!(t.frozen_root().segments[0].live, 116);
    assert!(t.checkpointed().is_empty());
    assert_eq!(checkpoint(&mut t).1, [0, n]);
}

#[test]
fn a_block_is_moved_only_from_where_it_is() {
    let mut t = tables(1 << 30, u32::MAX);
    let a = block(&mut t);
    write(&mut t, V, 0, &[Slot::New(a)]);
    let from = t.entry(a).unwrap().unwrap().place;
    let to = Place { segment: 0, offset: 90_000 };
    assert!(!t.moved(a, to, Place { segment: 0, offset: 99_000 }, STORED).unwrap());
    assert_eq!(t.entry(a).unwrap().unwrap().place, from);
    let other = Stored { length: 50, codec: 2, epoch: 8 };
    assert!(t.moved(a, from, to, other).unwrap());
    let entry = t.entry(a).unwrap().unwrap();
    assert_eq!((entry.place, entry.stored, entry.refs), (to, other, 1));
    assert_eq!((t.segment(0).live, t.stats().stored_bytes), (66, 50));
}

#[test]
fn the_cleaner_has_pages_written_anew() {
    let mut t = tables(1 << 30, u32::MAX);
    let a = block(&mut t);
    write(&mut t, V, 0, &[Slot::New(a)]);
    let (root, _) = checkpoint(&mut t);
    let (top, _) = root.top.unwrap();
    let map = t.volume(V).unwrap().root.unwrap();
    let at = t.entry(map).unwrap().unwrap().place;
    let (key, blocks) = (PageKey::Map(map), PageKey::Blocks { level: 1, index: 0 });
    assert!(!t.clean_page(key, top).unwrap() && !t.clean_page(blocks, at).unwrap());
    assert!(!t.clean_page(PageKey::Blocks { level: 3, index: 0 }, top).unwrap());
    assert_eq!(t.dirty().changed, 0);
    assert!(t.clean_page(blocks, top).unwrap());
    assert_eq!(t.dirty().changed, 1);
    assert!(t.clean_page(key, at).unwrap());
    assert_eq!(t.dirty().changed, 3, "with the page of its entry");
    let (again, freed) = checkpoint(&mut t);
    assert_ne!(again.top, root.top);
    // The leaf, and the page with the entry of the block, stay where they were.
    assert_eq!(freed, []);
    assert_eq!(t.segment(top.segment).live, 2 * 116);
}

#[test]
fn a_pinned_segment_is_not_freed() {
    let mut t = tables(1 << 30, u32::MAX);
    t.close_segment(0, Use::Log);
    t.pin(0);
    assert!(!checkpoint(&mut t).1.contains(&0));
    t.unpin(0);
    assert!(checkpoint(&mut t).1.contains(&0));
}

#[test]
fn ids_that_were_never_put_come_back() {
    let mut t = tables(1 << 30, u32::MAX);
    let mut ids = Vec::new();
    t.allocate(10, &mut ids).unwrap();
    t.release(&ids);
    let mut again = Vec::new();
    t.allocate(10, &mut again).unwrap();
    ids.sort();
    again.sort();
    assert_eq!(ids, again);
}

#[test]
fn what_is_wrong_with_a_log_is_said_and_changes_nothing() {
    let mut t = tables(1 << 30, u32::MAX);
    let a = block(&mut t);
    let journal = write(&mut t, V, 5, &[Slot::New(a)]);
    let before = (t.stats(), t.volume(V).cloned());
    let free = BlockId::new(5000).unwrap();
    let corrupt = [
        journal[0].clone(),
        Change::Map { volume: V, block: 5, runs: vec![Run::Ids(free, 1)] },
        Change::Map { volume: V, block: 1 << 20, runs: vec![Run::Ids(a, 1)] },
        Change::Map { volume: VolumeId(9), block: 0, runs: vec![Run::Zero(1)] },
        Change::Shadow { volume: V, level: 0, block: 5, id: free },
        Change::Drop { volume: V, level: 0, block: 5 },
        Change::Clear { volume: V, block: 500, count: 13 },
        Change::Clear { volume: V, block: 600, count: 1 },
        Change::Page { volume: V, level: 1, block: 5, id: free },
        Change::Volume(VolumeChange::Forget { id: V }),
    ];
    for change in corrupt {
        assert!(matches!(t.apply(&change), Err(ApplyError::Corrupt(_))), "{change:?}");
        assert_eq!(before, (t.stats(), t.volume(V).cloned()), "{change:?}");
    }
    assert!(t.apply_new(a, STORED, Place { segment: 0, offset: 4096 }).is_err());
    assert!(t.apply_new(free, STORED, Place { segment: 99, offset: 4096 }).is_err());
    assert!(t.apply_new(free, STORED, Place { segment: 0, offset: (1 << 20) - 100 }).is_err());
}

/// The bytes of changes are in logs for good.
#[test]
fn the_bytes_of_changes_stay_what_they_are() {
    let id = |n| BlockId::new(n).unwrap();
    let runs = vec![Run::Zero(2), Run::Unreadable(1), Run::Ids(id(300), 5)];
    let changes = [
        Change::Page { volume: V, level: 2, block: 1000, id: id(9) },
        Change::Grow { volume: V, id: id(10) },
        Change::Shadow { volume: V, level: 0, block: 3, id: id(11) },
        Change::Map { volume: VolumeId(200), block: 7, runs },
        Change::Clear { volume: V, block: 5, count: 500 },
        Change::Drop { volume: V, level: 1, block: 0 },
        Change::Volume(VolumeChange::Rename { id: V, name: "new".into() }),
    ];
    let mut bytes = Vec::new();
    changes.iter().for_each(|c| c.encode(&mut bytes));
    let expected: &[u8] = &[
        1, 1, 2, 0xe8, 7, 9, 2, 1, 10, 3, 1, 0, 3, 11, 4, 0xc8, 1, 7, 3, 8, 5, 22, 0xac, 2, 5, 1, 5, 0xf4, 3,
        6, 1, 1, 0, 20, 1, 3, b'n', b'e', b'w',
    ];
    assert_eq!(bytes, expected);
    assert_eq!(Change::decode(&bytes).unwrap(), changes);
    for end in 0..bytes.len() {
        let prefix = Change::decode(&bytes[..end]);
        assert!(prefix.is_err() || prefix.is_ok_and(|c| changes.starts_with(&c)));
    }
}

#[test]
fn a_root_says_what_is_wrong_with_it() {
    let mut t = tables(1 << 30, u32::MAX);
    let a = block(&mut t);
    write(&mut t, V, 0, &[Slot::New(a)]);
    let (root, _) = checkpoint(&mut t);
    let bytes = root.encode(usize::MAX).remove(0);
    assert_eq!(bytes.len(), 80 + 24 * 16 + 14);
    assert_eq!(Root::decode(&[&bytes]).unwrap(), root);
    assert!(Tables::open(geometry(9), &root).is_ok());
    let small = Geometry { segments: 15, ..geometry(9) };
    assert!(matches!(Tables::open(small, &root), Err(RootError::Invalid { .. })));
    for end in 0..bytes.len() {
        assert!(Root::decode(&[&bytes[..end]]).is_err(), "{end} bytes of it");
    }
    let mut other = bytes.clone();
    other[0] = 2;
    assert_eq!(Root::decode(&[&other]), Err(RootError::Version { found: 2 }));
    // Any one flipped bit is refused or is another root: no two encodings mean the same.
    for bit in 0..bytes.len() * 8 {
        let mut other = bytes.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        if let Ok(decoded) = Root::decode(&[&other]) {
            assert_ne!(decoded, root, "bit {bit}");
            assert_eq!(decoded.encode(1000).concat(), other);
        }
    }
}

#[test]
fn what_a_volume_has_already_is_known_across_leaves() {
    let mut t = tables(1 << 30, 100);
    let ids: Vec<BlockId> = (0..4).map(|_| block(&mut t)).collect();
    let slots: Vec<Slot> = ids.iter().map(|id| Slot::New(*id)).collect();
    assert!(t.has(V, 510, &[Slot::Zero; 4]), "of holes");
    write(&mut t, V, 510, &slots);
    let same: Vec<Slot> = ids.iter().map(|id| Slot::Share(*id)).collect();
    assert!(t.has(V, 510, &same) && t.has(V, 511, &same[1..3]));
    assert!(!t.has(V, 510, &slots), "new ones are never there");
    for i in 0..4 {
        let mut other = same.clone();
        other[i] = same[(i + 1) % 4];
        assert!(!t.has(V, 510, &other));
        other[i] = Slot::Zero;
        assert!(!t.has(V, 510, &other));
        other[i] = Slot::Unreadable;
        assert!(!t.has(V, 510, &other));
    }
    assert!(!t.has(V, 509, &same[..3]) && t.has(V, 509, &[Slot::Zero, same[0]]));
}
