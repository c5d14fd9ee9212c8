//! Memory: no allocation a command once warm, and what an idle connection costs. Allocations are counted by thread, for
//! the test harness has threads of its own.

mod common;

use caisson_block::{Buf, BufList, Completions};
use caisson_tcp::controller::{self, Event, Payload};
use caisson_tcp::host::{self, Transfer};
use caisson_wire::opcode::io;
use caisson_wire::{Cqe, Sgl, Status};
use common::{NOW, ic_req, sqe};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        LIVE.set(LIVE.get() + layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Moves what one side has to send to the other through a receive buffer of a pool, as a reactor does.
fn carry(tx: &mut caisson_tcp::Tx, pool: &caisson_block::Pool, iov: &mut [libc::iovec]) -> Option<Buf> {
    let mut to = pool.alloc().expect("receive buffers come back");
    let (count, bytes) = tx.gather(iov, to.len());
    if bytes == 0 {
        return None;
    }
    let mut at = 0;
    for v in &iov[..count] {
        // SAFETY: gather describes memory of the Tx, which is not touched until advance.
        let part = unsafe { std::slice::from_raw_parts(v.iov_base.cast::<u8>().cast_const(), v.iov_len) };
        to[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    tx.advance(bytes);
    to.truncate(at);
    Some(to.freeze())
}

#[test]
fn steady_state_does_not_allocate() {
    let pool = caisson_block::Pool::new(64, 65536).unwrap();
    let mut iov = vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 64];
    for digests in [false, true] {
        let mut spare = Completions::default();
        let config = host::Config { header_digest: digests, data_digest: digests, ..Default::default() };
        let mut host = host::Session::new(config, NOW);
        let mut target = controller::Session::new(controller::Config::default(), NOW);
        target.receive(carry(host.tx(), &pool, &mut iov).unwrap());
        assert!(target.next(NOW, &mut spare).is_none());
        host.receive(carry(target.tx(), &pool, &mut iov).unwrap());
        assert!(host.next(NOW).is_some());
        let page = Buf::from(vec![1; 4096]);
        let large = Buf::from(vec![2; 65536]);
        let mut before = 0;
        for round in 0..200 {
            if round == 50 {
                before = CALLS.get();
            }
            for cid in 0..32 {
                let (op, data) = match cid % 4 {
                    0 => (io::READ, Transfer::In(4096)),
                    1 => (io::FLUSH, Transfer::None),
                    n => {
                        let mut list = host.list();
                        list.push(if n == 2 { page.clone() } else { large.clone() });
                        (io::WRITE, Transfer::Out(list))
                    }
                };
                host.command(sqe(op, cid, Sgl::default()), data).unwrap();
            }
            let mut done = 0;
            while done < 32 {
                while let Some(bytes) = carry(host.tx(), &pool, &mut iov) {
                    target.receive(bytes);
                    while let Some(event) = target.next(NOW, &mut spare) {
                        serve(&mut target, event, &page, &mut spare);
                    }
                }
                while let Some(bytes) = carry(target.tx(), &pool, &mut iov) {
                    host.receive(bytes);
                    while let Some(event) = host.next(NOW) {
                        done += usize::from(matches!(event, host::Event::Completed { .. }));
                    }
                }
            }
        }
        let calls = CALLS.get() - before;
        assert_eq!(calls, 0, "allocations in 150 rounds of 32 commands, digests {digests}");
    }
}

fn serve(target: &mut controller::Session, event: Event, page: &Buf, spare: &mut Completions) {
    match event {
        Event::Command { slot, sqe, payload } => {
            let cqe = Cqe::new(sqe.cid.get(), Status::SUCCESS);
            match payload {
                Payload::Transport { len } if sqe.opcode == io::WRITE => assert!(target.pull(slot, len, NOW)),
                Payload::Transport { .. } => {
                    let mut list = spare.list();
                    list.push(page.clone());
                    target.reply(slot, cqe, list, spare);
                }
                Payload::InCapsule(data) => {
                    spare.recycle(data);
                    target.reply(slot, cqe, BufList::new(), spare);
                }
                _ => target.reply(slot, cqe, BufList::new(), spare),
            }
        }
        Event::Data { slot, data } => {
            assert_eq!(data.len(), 65536);
            spare.recycle(data);
            let cid = target.cid(slot).expect("the slot is in use");
            target.reply(slot, Cqe::new(cid, Status::SUCCESS), BufList::new(), spare);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn idle_connections_are_small() {
    let mut spare = Completions::default();
    let inline = size_of::<controller::Session>();
    assert!(inline < 1024, "a session is {inline} bytes");
    let mut sessions = Vec::with_capacity(1000);
    let before = LIVE.get();
    for _ in 0..1000 {
        let mut s = controller::Session::new(controller::Config::default(), NOW);
        s.receive(Buf::from(ic_req(0, 0, 3, 0)));
        assert!(s.next(NOW, &mut spare).is_none());
        let n = s.tx().pending_bytes();
        s.tx().advance(n);
        sessions.push(s);
    }
    let warm = (LIVE.get() - before) / 1000;
    sessions.iter_mut().for_each(controller::Session::trim);
    let trimmed = (LIVE.get() - before) / 1000;
    println!("a session: {inline} bytes inline, {warm} of heap after the handshake, {trimmed} when trimmed");
    assert!(warm < 6144 && trimmed < 64, "{warm} and {trimmed} bytes of heap");
}
