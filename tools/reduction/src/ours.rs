//! Caisson's own layout as a model: how many bytes of the pool a stream of blocks takes.
//!
//! Owns the costs beside the payload, each with its reason. Every duplicate is found: at the sizes measured here the index
//! holds every print (what it finds where it does not: dedupe/README.md).

/// Of each record: the AEAD's tag behind the payload, and its description in the header of the batch.
const TAG: u64 = 16;
const RECORD: u64 = 36;
/// Of each batch: plain prefix, tag of the header.
const BATCH: u64 = 64 + 16;
/// A change of the map in a batch: one for each run of blocks that go to a run of ids.
const CHANGE: u64 = 12;
/// An entry of the block table for each stored block, an entry of the map for each mapped one.
const TABLE_ENTRY: u64 = 16;
const MAP_ENTRY: u64 = 8;
/// What batches are padded to.
const PAGE: u64 = 4096;

/// The model; blocks are written one after the other.
pub struct Ours {
    /// Stored blocks of a batch.
    batch: u64,
    in_batch: u64,
    bytes_in_batch: u64,
    last_id: Option<u64>,
    log: u64,
    stored: u64,
    mapped: u64,
}

impl Ours {
    /// With `batch` stored blocks in each batch.
    pub fn new(batch: u64) -> Ours {
        Ours { batch, in_batch: 0, bytes_in_batch: 0, last_id: None, log: 0, stored: 0, mapped: 0 }
    }

    /// A block that goes to `id`; with its stored length where it is new.
    pub fn write(&mut self, id: u64, new: Option<usize>) {
        self.mapped += 1;
        if self.last_id.is_none_or(|last| last + 1 != id) {
            self.bytes_in_batch += CHANGE;
        }
        self.last_id = Some(id);
        if let Some(length) = new {
            self.stored += 1;
            self.bytes_in_batch += length as u64 + TAG + RECORD;
            self.in_batch += 1;
            if self.in_batch == self.batch {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        if self.bytes_in_batch > 0 {
            self.log += (self.bytes_in_batch + BATCH).next_multiple_of(PAGE);
        }
        (self.in_batch, self.bytes_in_batch, self.last_id) = (0, 0, None);
    }

    /// Bytes of log and tables.
    pub fn finish(mut self) -> u64 {
        self.close();
        self.log + self.stored * TABLE_ENTRY + self.mapped * MAP_ENTRY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_it_says() {
        let mut ours = Ours::new(2);
        ours.write(1, Some(1000));
        ours.write(2, Some(4096));
        // 1000 + 4096 + 2 * 52 + 12 + 80 = 5292: two pages.
        ours.write(1, None);
        ours.write(2, None);
        // One more batch, of a change only.
        assert_eq!(ours.finish(), 8192 + 4096 + 2 * 16 + 4 * 8);
        assert_eq!(Ours::new(64).finish(), 0);
    }
}
