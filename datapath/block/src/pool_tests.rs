//! Tests of the pool: running out, waiting, giving memory back, threads.

use super::*;

#[test]
fn runs_out_and_recovers() {
    let p = Pool::new(3, 100).unwrap();
    assert_eq!(p.buf_len(), 128);
    let a = p.alloc().unwrap();
    let b = p.alloc().unwrap();
    let c = p.alloc().unwrap();
    assert!(p.alloc().is_none());
    assert_eq!(p.in_use(), 3);
    drop(b.freeze());
    assert!(p.alloc().is_some());
    drop((a, c));
    assert_eq!(p.in_use(), 0);
}

#[test]
fn outlives_its_handle() {
    let p = Pool::new(1, 4096).unwrap();
    let mut m = p.alloc().unwrap();
    m[0] = 7;
    drop(p);
    let b = m.freeze();
    assert_eq!(b[0], 7);
    assert_eq!(b.as_ptr() as usize % 4096, 0);
}

#[test]
fn huge_pages_are_taken_where_there_are_enough() {
    let free = || {
        let text = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        text.ok().and_then(|t| t.trim().parse::<usize>().ok()).unwrap_or(0)
    };
    let before = free();
    let p = Pool::huge(1024, 8192).unwrap();
    assert_ne!(p.pages(), Pages::Usual);
    // Without any there can be none; how many of some are spoken for is not seen here.
    assert!(before > 0 || p.pages() == Pages::Transparent);
    let mut all: Vec<_> = (0..1024).map(|_| p.alloc().unwrap()).collect();
    all.iter_mut().for_each(|m| m.fill(0xa5));
    drop(all);
    assert_eq!(p.trim(0) == 0, p.pages() == Pages::Reserved);
    assert_eq!(Pool::huge(4, 4096).unwrap().pages(), Pages::Usual, "huge pages for what is small");
}

#[test]
fn trimmed_memory_reads_as_zeroes() {
    let p = Pool::new(1 << 28, 4096).unwrap();
    let held: Vec<_> = (0..100u8)
        .map(|i| {
            let mut m = p.alloc().unwrap();
            m.fill(i + 1);
            m
        })
        .collect();
    drop(held);
    assert_eq!(p.trim(10), 90);
    assert_eq!(p.trim(10), 0);
    let again: Vec<_> = (0..101).map(|_| p.alloc().unwrap()).collect();
    assert!(again[..10].iter().all(|m| m[0] != 0));
    assert!(again[10..].iter().all(|m| m.iter().all(|&b| b == 0)));
    assert_eq!(p.in_use(), 101);
}

#[test]
fn a_part_of_it_is_trimmed_at_a_time() {
    let p = Pool::new(1 << 28, 4096).unwrap();
    let filled = |n: u32| -> Vec<_> {
        let all = (0..n).map(|_| {
            let mut m = p.alloc().unwrap();
            m.fill(1);
            m
        });
        all.collect()
    };
    let held = filled(10);
    assert_eq!(p.trim_some(0, 8), 0, "all are out");
    drop(filled(100));
    assert_eq!([(30, 64), (30, 64), (30, 64), (0, 8)].map(|(keep, n)| p.trim_some(keep, n)), [64, 6, 0, 8]);
    // What is cold is taken when nothing else is there.
    let again: Vec<_> = (0..100).map(|_| p.alloc().unwrap()).collect();
    assert_eq!(again.iter().filter(|m| m[0] == 0).count(), 78);
    drop((again, held));
    assert_eq!([(100, 64), (100, 64)].map(|(keep, n)| p.trim_some(keep, n)), [10, 0]);
    assert_eq!(p.in_use(), 0);
}

struct Woken(Mutex<Vec<u64>>);
impl Remote for Woken {
    fn wake(&self, _: Arc<dyn Parked>, token: u64) {
        self.0.lock().unwrap().push(token);
    }
}
impl Parked for Woken {
    fn woken(self: Arc<Self>, _: &mut crate::Cx<'_>, _: u64) {}
}

#[test]
fn waiters_are_woken_in_order() {
    let p = Pool::new(3, 4096).unwrap();
    let w = Arc::new(Woken(Mutex::default()));
    let woken = || std::mem::take(&mut *w.0.lock().unwrap());
    let wait = |enough, token| p.wait(enough, w.clone(), w.clone(), token);
    let mut held: Vec<_> = (0..3).map(|_| p.alloc().unwrap()).collect();
    wait(2, 1);
    wait(1, 2);
    wait(1, 3);
    wait(3, 4);
    assert!(woken().is_empty());
    held.pop();
    assert_eq!(woken(), [2], "the first cannot go on yet");
    p.pass_on();
    assert_eq!(woken(), [3]);
    held.pop();
    assert_eq!(woken(), [1]);
    held.pop();
    assert_eq!(woken(), [4]);
    wait(3, 5);
    assert_eq!(woken(), [5]);
}

#[test]
fn threads_share_it() {
    let p = Pool::new(64, 4096).unwrap();
    std::thread::scope(|s| {
        for t in 0..4u8 {
            let p = p.clone();
            s.spawn(move || {
                for i in 0..20_000u32 {
                    let Some(mut m) = p.alloc() else { continue };
                    let mark = (i as u8) ^ t;
                    m.fill(mark);
                    let b = m.freeze();
                    let c = b.clone();
                    drop(b);
                    assert!(c.iter().all(|&x| x == mark));
                    if i % 1000 == 0 {
                        p.trim(1);
                    } else if i % 300 == 0 {
                        p.trim_some(1, 8);
                    }
                }
            });
        }
    });
    assert_eq!(p.in_use(), 0);
}
