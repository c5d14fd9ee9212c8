//! dm-vdo's published design as a model: how many physical blocks a stream of blocks takes.
//!
//! Owns its rules, from the kernel's Documentation/admin-guide/device-mapper/vdo-design.rst and drivers/md/dm-vdo: zero blocks
//! are not stored; a duplicate is a reference, of which a physical block takes 254; what is new is compressed with LZ4
//! (its default, fast level); up to 14 fragments share a block behind a header of 36 bytes (two 32-bit versions and 14 sizes of
//! 16 bits), packed best-fit into 16 bins; a block with a single fragment is stored as it is. Where a real dm-vdo would do
//! worse it is given the best case: its index finds every duplicate, and no flush ever empties a bin before its time.

use std::collections::HashMap;

/// Size of a block.
pub const BLOCK: u64 = 4096;
/// Of a compressed block, what its fragments can have.
pub const DATA: usize = 4096 - 36;
/// The longest fragment: one that leaves room for another.
pub const LONGEST: usize = DATA - 1;
/// Fragments in a block.
pub const FRAGMENTS: usize = 14;
/// Bins being filled.
pub const BINS: usize = 16;
/// References that a physical block can have.
pub const REFERENCES: u32 = 254;
/// Entries of a page of the block map: five bytes each, behind the page's header.
const MAP_ENTRIES: u64 = 812;
/// Reference counters of a block: one byte each.
const COUNTERS: u64 = 4032;

/// A content, by whatever name the caller gives it.
pub type Content = u64;

#[derive(Default)]
struct Bin {
    /// Contents with the references that came while they waited.
    fragments: Vec<(Content, u32)>,
    used: usize,
}

/// Where a content is.
#[derive(Clone, Copy)]
enum Place {
    Waiting,
    Block(usize),
}

/// The model; blocks are written one after the other.
pub struct Vdo {
    /// Fullest first.
    bins: Vec<Bin>,
    places: HashMap<Content, Place>,
    /// References of each physical block.
    blocks: Vec<u32>,
    logical: u64,
    compressed_blocks: u64,
    fragments: u64,
}

impl Vdo {
    pub fn new() -> Vdo {
        let bins = (0..BINS).map(|_| Bin::default()).collect();
        Vdo {
            bins,
            places: HashMap::new(),
            blocks: Vec::new(),
            logical: 0,
            compressed_blocks: 0,
            fragments: 0,
        }
    }

    /// Writes a block with this content, which is not zero. `compress` gives its length under LZ4, where that is at most
    /// [`LONGEST`]; it is asked only of what is no duplicate.
    pub fn write(&mut self, content: Content, compress: impl FnOnce() -> Option<usize>) {
        self.logical += 1;
        match self.places.get(&content).copied() {
            Some(Place::Waiting) => {
                let all = self.bins.iter_mut().flat_map(|b| &mut b.fragments);
                all.filter(|f| f.0 == content).for_each(|f| f.1 += 1);
            }
            Some(Place::Block(at)) if self.blocks[at] < REFERENCES => self.blocks[at] += 1,
            // New, or with no reference to be had: written anew.
            Some(Place::Block(_)) | None => self.store(content, compress()),
        }
    }

    fn store(&mut self, content: Content, length: Option<usize>) {
        let bin = length.filter(|n| *n <= LONGEST).and_then(|n| Some((self.choose(n)?, n)));
        match bin {
            Some((bin, length)) => self.pack(bin, content, length),
            None => self.store_whole(content, 1),
        }
    }

    fn store_whole(&mut self, content: Content, references: u32) {
        self.places.insert(content, Place::Block(self.blocks.len()));
        self.blocks.push(references);
    }

    /// The fullest bin with room; else the fullest of all, if it holds more than is coming; else none.
    fn choose(&self, length: usize) -> Option<usize> {
        self.bins.iter().position(|b| b.used + length <= DATA).or((length < self.bins[0].used).then_some(0))
    }

    fn pack(&mut self, at: usize, content: Content, length: usize) {
        let mut bin = self.bins.remove(at);
        if bin.used + length > DATA {
            self.write_bin(&mut bin);
        }
        bin.fragments.push((content, 1));
        bin.used += length;
        self.places.insert(content, Place::Waiting);
        if bin.fragments.len() == FRAGMENTS || bin.used == DATA {
            self.write_bin(&mut bin);
        }
        let to = self.bins.iter().position(|b| b.used < bin.used).unwrap_or(self.bins.len());
        self.bins.insert(to, bin);
    }

    fn write_bin(&mut self, bin: &mut Bin) {
        bin.used = 0;
        match &std::mem::take(&mut bin.fragments)[..] {
            [] => {}
            [(content, references)] => self.store_whole(*content, *references),
            several => {
                let at = self.blocks.len();
                self.blocks.push(several.iter().map(|f| f.1).sum());
                self.places.extend(several.iter().map(|f| (f.0, Place::Block(at))));
                self.compressed_blocks += 1;
                self.fragments += several.len() as u64;
            }
        }
    }

    /// Writes out what waits in the bins; call it at the end.
    pub fn flush(&mut self) {
        for mut bin in std::mem::take(&mut self.bins) {
            self.write_bin(&mut bin);
            self.bins.push(bin);
        }
    }

    /// Physical blocks that data takes.
    pub fn data_blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Of those, the ones that hold fragments.
    pub fn compressed_blocks(&self) -> u64 {
        self.compressed_blocks
    }

    /// Fragments in them.
    pub fn fragments(&self) -> u64 {
        self.fragments
    }

    /// Bytes of data, block map and reference counts. The index (some GB whatever is stored), journals and slack of slabs
    /// are left out.
    pub fn bytes(&self) -> u64 {
        let map = self.logical.div_ceil(MAP_ENTRIES);
        let counts = self.data_blocks().div_ceil(COUNTERS);
        (self.data_blocks() + map + counts) * BLOCK
    }
}

/// The length of a block under LZ4 as dm-vdo calls it, where it is at most [`LONGEST`]. `out` is scratch of that size.
pub fn lz4_length(block: &[u8; 4096], out: &mut [u8; LONGEST]) -> Option<usize> {
    let mode = lz4::block::CompressionMode::FAST(1);
    lz4::block::compress_to_buffer(block, Some(mode), false, out).ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes contents of the given lengths (0: incompressible), and flushes.
    fn written(lengths: &[usize]) -> Vdo {
        let mut vdo = Vdo::new();
        for (n, length) in lengths.iter().enumerate() {
            vdo.write(n as Content, || (*length > 0).then_some(*length));
        }
        vdo.flush();
        vdo
    }

    #[test]
    fn fourteen_at_most_share_a_block() {
        let vdo = written(&[100; 28]);
        assert_eq!((vdo.data_blocks(), vdo.compressed_blocks(), vdo.fragments()), (2, 2, 28));
        // The fifteenth is alone in its bin: stored whole.
        let vdo = written(&[100; 15]);
        assert_eq!((vdo.data_blocks(), vdo.compressed_blocks()), (2, 1));
    }

    #[test]
    fn four_thousand_and_sixty_bytes_are_for_fragments() {
        // 2030 + 2030 fill a block to the byte; 2031 + 2030 do not fit.
        assert_eq!(written(&[2030, 2030]).data_blocks(), 1);
        assert_eq!(written(&[2031, 2030]).data_blocks(), 2);
        assert_eq!(written(&[4059, 1]).data_blocks(), 1);
        assert_eq!(written(&[4060, 1]).data_blocks(), 2);
        assert_eq!(written(&[0, 0, 0]).data_blocks(), 3);
    }

    #[test]
    fn the_fullest_bin_with_room_is_chosen() {
        // 3000 and 2000 go to bins of their own; 1000 joins 3000, 2000 joins 2000: two blocks. The next 1000 and 60 fill 3000's.
        let vdo = written(&[3000, 2000, 1000, 2000, 60]);
        assert_eq!((vdo.data_blocks(), vdo.fragments()), (2, 5));
    }

    #[test]
    fn without_room_the_fullest_is_written_or_the_new_one_given_up() {
        // 16 bins of 2500 take no more: a 2400 writes out one (alone: whole) and takes its place.
        let mut vdo = Vdo::new();
        (0..16).for_each(|n| vdo.write(n, || Some(2500)));
        assert_eq!(vdo.data_blocks(), 0);
        vdo.write(16, || Some(2400));
        assert_eq!((vdo.data_blocks(), vdo.compressed_blocks()), (1, 0));
        // One as long as what the fullest holds is stored whole itself.
        vdo.write(17, || Some(2500));
        assert_eq!(vdo.data_blocks(), 2);
        // Two that fit are packed: 2500 + 1560.
        vdo.write(18, || Some(1560));
        assert_eq!((vdo.data_blocks(), vdo.compressed_blocks(), vdo.fragments()), (3, 1, 2));
        vdo.flush();
        assert_eq!(vdo.data_blocks(), 3 + 15);
    }

    #[test]
    fn a_block_has_254_references() {
        let mut vdo = Vdo::new();
        for _ in 0..254 {
            vdo.write(1, || None);
        }
        assert_eq!(vdo.data_blocks(), 1);
        vdo.write(1, || None);
        assert_eq!(vdo.data_blocks(), 2);
        // Fragments share the count of their block: 14 and 240 more, those that came while it was in its bin included.
        let mut vdo = Vdo::new();
        vdo.write(100, || Some(50));
        vdo.write(100, || panic!("it is known"));
        (0..13).for_each(|n| vdo.write(n, || Some(50)));
        assert_eq!((vdo.data_blocks(), vdo.blocks[0]), (1, 15));
        for _ in 0..239 {
            vdo.write(100, || panic!("it is known"));
        }
        vdo.write(3, || Some(50));
        vdo.flush();
        assert_eq!(vdo.data_blocks(), 2);
    }

    #[test]
    fn metadata_is_counted() {
        let vdo = written(&[0; 813]);
        assert_eq!(vdo.bytes(), (813 + 2 + 1) * 4096);
    }

    #[test]
    fn lz4_is_the_reference() {
        let mut out = [0; LONGEST];
        // A run: literals, one match, and the last five bytes as literals: token, 1 literal, offset, 4096-1-5-19 = 15 x 255 + 246.
        assert_eq!(lz4_length(&[7; 4096], &mut out), Some(1 + 1 + 2 + 16 + 1 + 5));
        let mut x = 1u64;
        let random = std::array::from_fn(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (x >> 56) as u8
        });
        assert_eq!(lz4_length(&random, &mut out), None);
    }
}
