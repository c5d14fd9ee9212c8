//! The memory that a device may reach: regions by address, and the buffers that a thread's transfers use.

use caisson_block::{BufList, BufMut, Pool};

/// Finds the local key of memory that is registered with a device.
pub trait Keys {
    /// The key under which the device reaches all of `len` bytes from `at` on; `None` when they are not registered as a whole.
    fn key(&self, at: *const u8, len: usize) -> Option<u32>;
}

/// Registered regions, by address.
#[derive(Clone, Debug, Default)]
pub struct Regions {
    /// First address, one past the last, key; in order, none overlapping.
    sorted: Vec<(usize, usize, u32)>,
}

impl Regions {
    /// Regions of (first address, bytes, key), which do not overlap.
    pub fn new(of: impl IntoIterator<Item = (usize, usize, u32)>) -> Regions {
        let mut sorted: Vec<_> =
            of.into_iter().map(|(at, len, key)| (at, at.saturating_add(len), key)).collect();
        sorted.sort_unstable();
        Regions { sorted }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }
}

impl Keys for Regions {
    #[inline]
    fn key(&self, at: *const u8, len: usize) -> Option<u32> {
        let at = at.addr();
        let after = self.sorted.partition_point(|&(first, _, _)| first <= at);
        let &(_, end, key) = self.sorted.get(after.checked_sub(1)?)?;
        (at.checked_add(len)? <= end).then_some(key)
    }
}

/// The sizes of transfer buffers.
pub const SIZES: [usize; 3] = [4 << 10, 16 << 10, 128 << 10];

/// What sessions of one thread move data through: registered buffers in three sizes, for RDMA READs and for what is not
/// registered where it lies, and small ones for responses on devices that send nothing inline.
#[derive(Clone)]
pub struct Memory {
    /// In the order of [`SIZES`].
    pub transfer: [Pool; 3],
    /// Buffers of 64 bytes.
    pub small: Pool,
}

impl Memory {
    /// Pools with so many buffers of each of [`SIZES`], and of 64 bytes.
    ///
    /// # Errors
    /// The system's, when the address space cannot be mapped.
    pub fn new(counts: [u32; 3], small: u32) -> std::io::Result<Memory> {
        let [a, b, c] = counts;
        Ok(Memory {
            transfer: [Pool::huge(a, SIZES[0])?, Pool::huge(b, SIZES[1])?, Pool::huge(c, SIZES[2])?],
            small: Pool::new(small, 64)?,
        })
    }

    /// All its pools.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.transfer.iter().chain([&self.small])
    }

    /// The most bytes that can ever be had at once.
    pub fn largest(&self) -> usize {
        SIZES[2] * self.transfer[2].count() as usize
    }

    /// Unshared buffers of `len` bytes together, contents undefined, in `into`; all or nothing.
    pub fn take(&self, len: usize, into: &mut BufList) -> bool {
        let mut left = len;
        while left > 0 {
            let Some(mut buf) = self.one(left) else {
                into.clear();
                return false;
            };
            buf.truncate(left);
            left -= buf.len();
            into.push(buf.freeze());
        }
        true
    }

    /// The buffer for the next `left` bytes: the smallest that holds them, or the largest there is.
    fn one(&self, left: usize) -> Option<BufMut> {
        let from = SIZES.iter().position(|&s| s >= left).unwrap_or(SIZES.len() - 1);
        // A larger one rather than none.
        self.transfer[from..].iter().find_map(Pool::alloc)
    }

    /// Replaces `data` by a copy of it in these buffers; whether there were enough.
    pub fn copy(&self, data: &mut BufList) -> bool {
        let mut copy = BufList::new();
        {
            let mut from = data.reader();
            while copy.len() < data.len() {
                let left = data.len() - copy.len();
                let Some(mut buf) = self.one(left) else { return false };
                buf.truncate(left);
                from.fill(&mut buf);
                copy.push(buf.freeze());
            }
        }
        *data = copy;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caisson_block::Buf;

    #[test]
    fn a_key_is_found_for_what_lies_inside_one_region() {
        let r = Regions::new([(0x5000, 0x1000, 5), (0x1000, 0x2000, 1)]);
        let key = |at: usize, len| r.key(std::ptr::without_provenance(at), len);
        assert_eq!((key(0x1000, 0x2000), key(0x2fff, 1), key(0x5800, 16)), (Some(1), Some(1), Some(5)));
        for (at, len) in [(0xfff, 1), (0x2fff, 2), (0x3000, 1), (0x5fff, 2), (0x6000, 0x10), (usize::MAX, 2)]
        {
            assert_eq!(key(at, len), None, "{at:#x} {len}");
        }
        assert!(Regions::default().key(std::ptr::null(), 1).is_none() && r.len() == 2);
    }

    #[test]
    fn buffers_are_taken_whole_or_not_at_all() {
        let m = Memory::new([4, 2, 2], 1).unwrap();
        let mut list = BufList::new();
        assert!(m.take(130 << 10, &mut list));
        let lens: Vec<usize> = list.parts().iter().map(|p| p.len()).collect();
        assert_eq!(lens, [128 << 10, 2 << 10]);
        let mut more = BufList::new();
        assert!(!m.take(m.largest() + 1, &mut more) && more.is_empty());
        drop(list);
        assert!(m.pools().all(|p| p.in_use() == 0));
        // With the small ones out, larger ones serve.
        let held: Vec<_> = std::iter::from_fn(|| m.transfer[0].alloc()).collect();
        assert!(m.take(512, &mut more));
        drop((held, more));
        let bytes: Vec<u8> = (0..150_000u32).map(|n| n as u8).collect();
        let mut data = BufList::new();
        bytes.chunks(700).for_each(|c| data.push(Buf::from(c.to_vec())));
        assert!(m.copy(&mut data) && data.parts().len() == 2);
        assert_eq!(data.to_vec(), bytes);
        let mut more = BufList::from(vec![7; 150_000]);
        assert!(!m.copy(&mut more) && more.len() == 150_000, "all or nothing");
    }
}
