//! The pool's tables against changes, roots and pages that are anything.

use crate::Input;
use caisson_tables::{
    ApplyError, BlockId, Change, Geometry, Needs, PAGE, Place, Root, Stored, Tables, Use, VolumeChange,
    VolumeId,
};

/// Changes of the log: what decodes encodes to the same bytes, and tables take or refuse it without a panic.
pub fn table_changes(data: &[u8]) {
    let Ok(changes) = Change::decode(data) else { return };
    let mut again = Vec::new();
    changes.iter().for_each(|c| c.encode(&mut again));
    assert_eq!(again, data, "each change has one encoding");
    let geometry =
        Geometry { segment_size: 1 << 20, segments: 4, cache_pages: 64, dirty_limit: 64, max_refs: 1000 };
    let mut tables = Tables::create(geometry);
    let id = VolumeId(1);
    let create = VolumeChange::Create { id, name: "volume".into(), bytes: 1 << 33, settings: Vec::new() };
    tables.change_volume(create, &mut Vec::new()).expect("the tables are empty");
    tables.open_segment(0, 1, 1, Use::Log);
    for n in 1..64 {
        let place = Place { segment: 0, offset: n as u32 * 4096 };
        let block = BlockId::new(n * 3).expect("a small number is an id");
        tables.apply_new(block, Stored { length: 100, codec: 0, epoch: 0 }, place).expect("the id is free");
    }
    for change in changes.iter().take(64) {
        match tables.apply(change) {
            Ok(()) | Err(ApplyError::Corrupt(_)) => {}
            Err(ApplyError::Needs(needs)) => panic!("nothing is stored, so nothing is needed: {needs:?}"),
        }
    }
    assert_eq!(tables.faults(), 0);
}

/// Roots, and the pages below them: what decodes encodes to the same bytes, and can be opened and read without a panic.
pub fn table_root(data: &[u8]) {
    let mut input = Input(data);
    let split = usize::from(input.short());
    let head = input.take(split);
    let Ok(root) = Root::decode(&[head]) else { return };
    let again = root.encode(4096);
    assert_eq!(again.concat(), head, "each root has one encoding");
    let geometry = Geometry {
        segment_size: root.segment_size,
        segments: root.segments.len() as u32,
        cache_pages: 16,
        dirty_limit: 16,
        max_refs: u32::MAX,
    };
    let Ok(mut tables) = Tables::open(geometry, &root) else { panic!("what decodes can be opened") };
    let volumes: Vec<_> = tables.volumes().map(|v| (v.id, v.blocks)).collect();
    for (v, blocks) in volumes.into_iter().take(8) {
        for block in [0, 1, 511, 512, blocks / 2, blocks.saturating_sub(1)] {
            for _ in 0..16 {
                match tables.find(v, block, 3, &mut Vec::new()) {
                    Ok(()) => break,
                    Err(needs) => feed(&mut tables, &needs, &mut input),
                }
            }
        }
    }
    let id = BlockId::new(u64::from(input.word()));
    if let Some(Err(needs)) = id.map(|id| tables.entry(id)) {
        feed(&mut tables, &needs, &mut input);
    }
}

/// Pages of what is left of the input, over and over.
fn feed(tables: &mut Tables, needs: &Needs, input: &mut Input) {
    for (key, at) in needs.0.iter().take(16) {
        let skip = usize::from(input.byte());
        input.take(skip);
        let mut page = Box::new([0; PAGE]);
        let bytes = if input.0.is_empty() { &[0][..] } else { input.0 };
        page.iter_mut().zip(bytes.iter().cycle()).for_each(|(to, from)| *to = *from);
        // A page that is refused is a read error to whoever asked.
        let _ = tables.load(*key, at, page, 0);
    }
}
