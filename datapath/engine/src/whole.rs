//! Blocks that came in two receive buffers, put together.
//!
//! A stream of commands is cut where a receive buffer ends, so that about one block in as many as a buffer holds lies in two of them.
//! Such a block would be hashed by itself, which costs twice a block's share among eight, and copied wherever it is looked at. It
//! is copied once instead. Nothing else may be: what lies in one buffer stays there. It is done in one go, so only of few buffers: data in
//! crumbs is left to be copied a block at a time.

use crate::bounds::JOINED_PARTS;
use caisson_block::{BLOCK, Buf, BufList};

/// The same bytes, whole blocks, each of which lies in a single buffer, unless they came in very many.
pub(crate) fn blocks(mut list: BufList) -> BufList {
    let mut at = 0;
    let cut_between = list.parts().iter().all(|part| {
        at += part.len();
        at % BLOCK == 0
    });
    if cut_between || list.parts().len() > JOINED_PARTS {
        return list;
    }
    let mut all = BufList::new();
    while let Some(front) = list.parts().first() {
        match front.len() / BLOCK * BLOCK {
            0 => {
                let mut block = Vec::with_capacity(BLOCK);
                list.split_to(BLOCK).parts().iter().for_each(|part| block.extend_from_slice(part));
                all.push(Buf::from(block));
            }
            whole => all.append(&mut list.split_to(whole)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_in_several_buffers_is_copied() {
        let bytes: Vec<u8> = (0..8 * BLOCK).map(|i| (i / 7) as u8).collect();
        for cuts in [&[][..], &[4096], &[100], &[4096, 9000, 9001, 20_000], &[1, 2, 3, 32_767]] {
            let (mut list, mut from) = (BufList::new(), 0);
            for &to in cuts.iter().chain([&bytes.len()]) {
                list.push(Buf::from(bytes[from..to].to_vec()));
                from = to;
            }
            let before: Vec<_> = list.parts().iter().map(|part| part.as_ptr_range()).collect();
            let whole = blocks(list);
            assert_eq!(whole.to_vec(), bytes);
            let mut copied = 0;
            for part in whole.parts() {
                assert_eq!(part.len() % BLOCK, 0);
                let own = |r: &std::ops::Range<*const u8>| r.contains(&part.as_ptr());
                copied += if before.iter().any(own) { 0 } else { part.len() };
            }
            let cut: std::collections::BTreeSet<usize> =
                cuts.iter().filter(|cut| *cut % BLOCK != 0).map(|cut| cut / BLOCK).collect();
            assert_eq!(copied, cut.len() * BLOCK, "{cuts:?}");
        }
        assert!(blocks(BufList::new()).is_empty());
        let mut crumbs = BufList::new();
        bytes.chunks(500).for_each(|crumb| crumbs.push(Buf::from(crumb.to_vec())));
        let parts = crumbs.parts().len();
        assert_eq!(blocks(crumbs).parts().len(), parts);
    }
}
