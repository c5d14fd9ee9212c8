//! The RAM store: what is written is read, what is shared is copied, what is deallocated is given back.

use super::*;

fn read(s: &RamStore, at: u64, len: usize) -> Vec<u8> {
    let mut l = BufList::new();
    s.read(at, len, &mut l);
    assert_eq!(l.len(), len);
    l.to_vec()
}

fn write(s: &RamStore, at: u64, data: &[u8]) {
    // In odd pieces, as they come off a socket.
    let mut list = BufList::new();
    for chunk in data.chunks(1460) {
        list.push(Buf::from(chunk.to_vec()));
    }
    s.write(at, &list, &mut BufList::new()).unwrap();
}

struct Rng(u64);
impl Rng {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

#[test]
fn behaves_as_an_array() {
    const SIZE: usize = 6 << 20;
    let s = RamStore::new(SIZE as u64).unwrap();
    let mut model = vec![0u8; SIZE];
    let mut rng = Rng(0x9E37_79B9_7F4A_7C15);
    let mut held = Vec::new();
    for i in 0..4000u32 {
        let len = match rng.next(4) {
            0 => 512,
            1 => 4096,
            2 => 1 + rng.next(20_000) as usize,
            _ => 512 * (1 + rng.next(300) as usize),
        };
        let at = if rng.next(2) == 0 {
            rng.next((SIZE - len) as u64)
        } else {
            rng.next((SIZE - len) as u64) / 4096 * 4096
        } as usize;
        match rng.next(5) {
            0 | 1 => {
                let data: Vec<u8> = (0..len).map(|j| (i as usize + j / 7) as u8).collect();
                write(&s, at as u64, &data);
                model[at..at + len].copy_from_slice(&data);
            }
            2 => {
                s.zero(at as u64, len as u64).unwrap();
                model[at..at + len].fill(0);
            }
            3 => {
                // Kept over later writes: what was read must not change.
                let mut l = BufList::new();
                s.read(at as u64, len, &mut l);
                held.push((l, model[at..at + len].to_vec()));
                if held.len() > 50 {
                    let (l, want) = held.swap_remove(rng.next(50) as usize);
                    assert_eq!(l.to_vec(), want);
                }
            }
            _ => {
                let mut expect = model[at..at + len].to_vec();
                assert_eq!(s.compare(at as u64, &expect.clone().into()), None);
                let change = rng.next(2) == 0;
                let byte = rng.next(len as u64) as usize;
                expect[byte] ^= u8::from(change);
                let data: Vec<u8> = (0..len).map(|j| (i as usize * 3 + j) as u8).collect();
                let got =
                    s.compare_and_write(at as u64, &expect.into(), &data.clone().into(), &mut BufList::new());
                assert_eq!(got, Ok(change.then_some(byte as u64)));
                if !change {
                    model[at..at + len].copy_from_slice(&data);
                }
            }
        }
        assert_eq!(read(&s, at as u64, len), model[at..at + len]);
    }
    assert_eq!(read(&s, 0, SIZE), model);
    s.zero(0, SIZE as u64).unwrap();
    assert_eq!(s.allocated(), 0);
    drop(held);
    assert_eq!(s.pools[0].get().unwrap().in_use(), 0);
}

#[test]
fn resizes() {
    let s = RamStore::new(10_000).unwrap();
    write(&s, 0, &[9; 10_000]);
    s.resize(5_000).unwrap();
    assert_eq!((s.size(), s.allocated()), (5_000, 8192));
    s.resize(1 << 33).unwrap();
    assert_eq!(read(&s, 4_000, 6_000), [vec![9; 1_000], vec![0; 5_000]].concat());
    write(&s, (1 << 33) - 5000, &[3; 5000]);
    assert_eq!(read(&s, (1 << 33) - 5001, 2), [0, 3]);
    assert!(s.resize(0).is_err() && s.resize(9 << 40).is_err() && RamStore::new(u64::MAX).is_err());
}

/// Several threads write runs with one mark each, over page and chunk bounds; no read may see two marks.
#[test]
fn no_call_is_torn() {
    let s = RamStore::new(8 << 20).unwrap();
    let base = (2 << 20) - 3 * 4096 - 512;
    let len = 6 * 4096;
    std::thread::scope(|scope| {
        for t in 0..2u8 {
            let s = &s;
            scope.spawn(move || {
                for i in 0..3000u32 {
                    let mark = (i as u8) << 1 | t;
                    write(s, base, &vec![mark; len]);
                    let seen = read(s, base, len);
                    assert!(seen.iter().all(|b| *b == seen[0]), "torn in round {i}");
                    // Against whatever is there: it must be found as a whole too.
                    let swap = s
                        .compare_and_write(base, &seen.into(), &vec![!mark; len].into(), &mut BufList::new())
                        .unwrap();
                    assert!(swap.is_none_or(|at| at == 0), "compared with a torn state in round {i}");
                    if i % 64 == 0 {
                        s.zero(base - base % 4096 - 4096, 2 * 4096 - 512).unwrap();
                    }
                }
            });
        }
    });
}
