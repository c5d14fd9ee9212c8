//! The RAM store takes memory as it is written and gives it back when told to. Alone in its process: it looks at the
//! memory of all of it.

use caisson_block::BufList;
use caisson_device::{Memory, RamStore};

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = status.lines().find(|l| l.starts_with("Rss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn thin_and_gives_memory_back() {
    let s = RamStore::new(1 << 40).unwrap();
    let mut l = BufList::new();
    s.read((1 << 40) - 4096, 4096, &mut l);
    assert_eq!((l.to_vec(), s.allocated()), (vec![0; 4096], 0));
    let before = resident();
    let big = BufList::from(vec![1; 1 << 20]);
    for i in 0..128 {
        s.write(i << 20, &big, &mut l).unwrap();
    }
    assert_eq!(s.allocated(), 128 << 20);
    let full = resident();
    assert!(full > before + (127 << 20), "only {} MiB more", (full - before) >> 20);
    s.zero(0, 128 << 20).unwrap();
    assert_eq!(s.allocated(), 0);
    let after = resident().saturating_sub(before);
    assert!(after < 24 << 20, "{} MiB stay", after >> 20);
}
