//! What stands for the devices: pages and blocks by place; and an independent reading of a checkpoint from its bytes.

use caisson_tables::{PAGE, Page, PageKey, Place, Root, SegmentState, TAG, Where};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A record on the device: the sequence of its segment, and what it holds.
#[derive(Clone)]
pub enum Held {
    /// With the family whose map key it is stored under.
    Page(PageKey, Box<Page>, u32),
    Block(u64),
}

/// The devices.
#[derive(Clone, Default)]
pub struct Store {
    records: HashMap<Place, (u64, Held)>,
}

impl Store {
    pub fn put(&mut self, place: Place, sequence: u64, held: Held) {
        self.records.insert(place, (sequence, held));
    }

    pub fn page(&self, key: PageKey, at: &Where) -> (Box<Page>, u32) {
        match &self.records[&at.place] {
            (sequence, Held::Page(k, page, family)) if *sequence == at.sequence && *k == key => {
                (page.clone(), *family)
            }
            _ => panic!("{key:?} is not at {at:?}"),
        }
    }

    pub fn block(&self, place: Place, sequence: u64) -> u64 {
        match &self.records[&place] {
            (s, Held::Block(content)) if *s == sequence => *content,
            _ => panic!("no block of sequence {sequence} at {place:?}"),
        }
    }
}

/// An entry or a directory's record, read from bytes as the format says.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    pub place: Place,
    pub map: bool,
    pub refs: u32,
    pub length: u16,
}

fn word(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
}

pub fn raws(page: &Page) -> Vec<Raw> {
    page.chunks(16)
        .map(|r| Raw {
            place: Place { segment: word(r, 0), offset: word(r, 4) & 0x0fff_ffff },
            map: word(r, 4) >> 31 == 1,
            refs: word(r, 8),
            length: u16::from_le_bytes([r[12], r[13]]),
        })
        .collect()
}

pub fn ids(page: &Page) -> Vec<u64> {
    page.chunks(8).map(|n| u64::from_le_bytes(n.try_into().unwrap())).collect()
}

pub const MARK: u64 = (1 << 48) - 1;

/// All of a checkpoint, read from its root and pages.
#[derive(Default)]
pub struct Image {
    pub pages: BTreeMap<PageKey, Box<Page>>,
    pub entries: BTreeMap<u64, Raw>,
    pub live: BTreeMap<u32, u64>,
}

impl Image {
    /// Reads it, and checks all that it says of itself: reference counts, live bytes, counts in directories and totals.
    /// Blocks at `max_refs` references may have more, or fewer. Every map page that a volume reaches is stored under its family's key.
    pub fn read(root: &Root, store: &Store, max_refs: u32) -> Image {
        let mut image = Image::default();
        if let Some((place, stored)) = root.top {
            image.blocks(root, store, root.levels - 1, 0, place, u32::from(stored.length));
        }
        image.check_refs(root, store, max_refs);
        for (n, s) in root.segments.iter().enumerate() {
            let live = image.live.get(&(n as u32)).copied().unwrap_or(0);
            assert_eq!(u64::from(s.live), live, "live bytes of segment {n}, {s:?}");
            assert!(s.state != SegmentState::Free || s.live == 0, "a free segment holds nothing");
        }
        image
    }

    fn account(&mut self, place: Place, length: u32) {
        *self.live.entry(place.segment).or_default() += u64::from(length + TAG);
    }

    fn fetch(&mut self, root: &Root, store: &Store, key: PageKey, place: Place) -> (Box<Page>, u32) {
        let sequence = root.segments[place.segment as usize].sequence;
        let stored = caisson_tables::Stored { length: 1, codec: 0, epoch: 0 };
        let (page, family) = store.page(key, &Where { place, sequence, opening: 0, stored });
        self.pages.insert(key, page.clone());
        (page, family)
    }

    /// Reads a page of the block table; how much is in use below it, as its directory counts.
    fn blocks(
        &mut self,
        root: &Root,
        store: &Store,
        level: u8,
        index: u64,
        place: Place,
        length: u32,
    ) -> u32 {
        self.account(place, length);
        let (page, family) = self.fetch(root, store, PageKey::Blocks { level, index }, place);
        assert_eq!(family, 0, "the block table is nobody's");
        let mut used = 0;
        for (i, raw) in raws(&page).into_iter().enumerate() {
            let below = index * 256 + i as u64;
            if raw.length == 0 {
                assert_eq!(raw.refs, 0, "nothing in use where nothing is stored");
                continue;
            }
            used += 1;
            if level == 0 {
                assert!(below < root.limit && raw.refs > 0);
                self.account(raw.place, u32::from(raw.length));
                self.entries.insert(below, raw);
            } else {
                let found = self.blocks(root, store, level - 1, below, raw.place, u32::from(raw.length));
                assert_eq!(found, raw.refs, "in use below level {level}, {below}");
            }
        }
        assert!(used > 0, "an empty page is not stored");
        used
    }

    fn check_refs(&mut self, root: &Root, store: &Store, max_refs: u32) {
        let mut refs: BTreeMap<u64, u32> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut todo: Vec<(u64, u32)> = Vec::new();
        for v in &root.volumes {
            if let Some(id) = v.root {
                *refs.entry(id.get()).or_default() += 1;
                todo.push((id.get(), v.family));
            }
        }
        while let Some((id, family)) = todo.pop() {
            if !seen.insert(id) {
                continue;
            }
            let raw = self.entries.get(&id).copied().unwrap_or_else(|| panic!("map page {id} is free"));
            assert!(raw.map, "{id} is a map page");
            let key = PageKey::Map(caisson_tables::BlockId::new(id).unwrap());
            let (page, whose) = self.fetch(root, store, key, raw.place);
            assert_eq!(whose, family, "the family of map page {id}");
            for n in ids(&page) {
                let child = n & MARK;
                if child == 0 || child == MARK {
                    continue;
                }
                *refs.entry(child).or_default() += 1;
                if self.entries.get(&child).is_some_and(|r| r.map) {
                    todo.push((child, family));
                }
            }
        }
        for (id, raw) in &self.entries {
            let counted = refs.remove(id).unwrap_or(0);
            let stays = !raw.map && raw.refs == max_refs;
            assert!(stays || raw.refs == counted, "{id}: {raw:?}, counted {counted}");
        }
        assert!(refs.is_empty(), "free ids are referred to: {refs:?}");
        let data = || self.entries.values().filter(|r| !r.map);
        assert_eq!(root.stats.blocks, data().count() as u64);
        assert_eq!(root.stats.stored_bytes, data().map(|r| u64::from(r.length)).sum::<u64>());
        assert_eq!(root.stats.references, data().map(|r| u64::from(r.refs)).sum::<u64>());
        assert_eq!(root.stats.map_pages, self.entries.len() as u64 - root.stats.blocks);
    }

    /// The id at a block, 0 for a hole.
    pub fn id_at(&self, root: u64, height: u8, block: u64) -> u64 {
        let mut id = root;
        if height == 0 || block >> (9 * u32::from(height)) != 0 {
            return 0;
        }
        for level in (0..height).rev() {
            let page = &self.pages[&PageKey::Map(caisson_tables::BlockId::new(id).unwrap())];
            id = ids(page)[(block >> (9 * u32::from(level)) & 511) as usize];
            if level > 0 {
                id &= MARK;
                if id == 0 {
                    return 0;
                }
            }
        }
        id
    }

    /// The pages without what only tells where pages are stored.
    pub fn logical(&self) -> BTreeMap<PageKey, Vec<u8>> {
        let strip = |key: &PageKey, page: &Page| {
            let mut bytes = page.to_vec();
            assert_eq!(bytes.len(), PAGE);
            for r in bytes.chunks_mut(16) {
                let keep = match key {
                    PageKey::Map(_) => continue,
                    PageKey::Blocks { level: 0, .. } => r[7] >> 7 == 0,
                    PageKey::Blocks { .. } => false,
                };
                if !keep {
                    r[..8].fill(0);
                    r[12..].fill(0);
                }
            }
            (*key, bytes)
        };
        self.pages.iter().map(|(key, page)| strip(key, page)).collect()
    }
}
