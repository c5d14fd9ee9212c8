//! Both roles joined back to back.

use super::{Config, Event, Session, State, Step, Transfer, step};
use crate::controller::{self, Payload};
use caisson_block::{Buf, BufList, Completions, Mono};
use caisson_wire::opcode::io;
use caisson_wire::zerocopy::little_endian::U16;
use caisson_wire::{Cqe, Sqe, Status};

fn sqe(opcode: u8, cid: u16) -> Sqe {
    Sqe { opcode, cid: U16::new(cid), ..Sqe::default() }
}

#[test]
fn read_write_and_large_write() {
    let now = Mono(0);
    let mut spare = Completions::default();
    let mut host =
        Session::new(Config { header_digest: true, data_digest: true, hpda: 3, ..Config::default() }, now);
    let mut target = controller::Session::new(controller::Config { cpda: 7, ..Default::default() }, now);
    target.receive(Buf::from(host.tx().drain()));
    assert!(target.next(now, &mut spare).is_none());
    host.receive(Buf::from(target.tx().drain()));
    assert!(matches!(host.next(now), Some(Event::Ready { .. })));

    let big: Vec<u8> = (0..300_000u32).map(|i| (i * 7) as u8).collect();
    host.command(sqe(io::READ, 0), Transfer::In(8192)).unwrap();
    host.command(sqe(io::WRITE, 1), Transfer::Out(vec![5; 4096].into())).unwrap();
    host.command(sqe(io::WRITE, 2), Transfer::Out(big.clone().into())).unwrap();
    host.command(sqe(io::FLUSH, 3), Transfer::None).unwrap();
    let mut done = vec![];
    for _ in 0..10 {
        target.receive(Buf::from(host.tx().drain()));
        while let Some(event) = target.next(now, &mut spare) {
            match event {
                controller::Event::Command { slot, sqe, payload } => {
                    let cqe = Cqe::new(sqe.cid.get(), Status::SUCCESS);
                    match payload {
                        Payload::Transport { len } if sqe.opcode == io::WRITE => {
                            assert!(target.pull(slot, len, now))
                        }
                        Payload::Transport { len } => {
                            target.reply(slot, cqe, BufList::zeroes(len as usize), &mut spare)
                        }
                        Payload::InCapsule(data) => {
                            assert_eq!(data.to_vec(), vec![5; 4096]);
                            target.reply(slot, cqe, BufList::new(), &mut spare);
                        }
                        Payload::None => target.reply(slot, cqe, BufList::new(), &mut spare),
                        Payload::Bad(status) => panic!("{status}"),
                    }
                }
                controller::Event::Data { slot, data } => {
                    assert_eq!(data.to_vec(), big);
                    target.reply(slot, Cqe::new(2, Status::SUCCESS), BufList::new(), &mut spare);
                }
                other => panic!("{other:?}"),
            }
        }
        host.receive(Buf::from(target.tx().drain()));
        while let Some(event) = host.next(now) {
            match event {
                Event::Data { cid: 0, bytes, .. } => assert!(bytes.iter().all(|&b| b == 0)),
                Event::Completed { cid, cqe, received } => {
                    assert!(cqe.status().is_success());
                    done.push((cid, received));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(host.closing().is_none() && target.closing().is_none());
    assert_eq!(done, [(0, 8192), (1, 0), (3, 0), (2, 0)]);
    assert_eq!((target.in_hand(), host.in_flight()), (0, 0));
}

/// Each state with each of the 256 types, against the table written out.
#[test]
fn every_state_and_type() {
    use Step::*;
    let rows: [(State, [Step; 10], Step); 3] = [
        (
            State::AwaitIcResp,
            [
                WrongType,
                Handshake,
                WrongType,
                Terminated,
                WrongType,
                OutOfSequence,
                WrongType,
                OutOfSequence,
                WrongType,
                OutOfSequence,
            ],
            WrongType,
        ),
        (
            State::Ready,
            [
                WrongType,
                OutOfSequence,
                WrongType,
                Terminated,
                WrongType,
                Response,
                WrongType,
                Data,
                WrongType,
                R2t,
            ],
            WrongType,
        ),
        (State::Closing, [Drop; 10], Drop),
    ];
    for (state, known, rest) in rows {
        for k in 0..=255u8 {
            let want = known.get(usize::from(k)).copied().unwrap_or(rest);
            assert_eq!(step(state, k), want, "{state:?} and type {k:#x}");
        }
    }
}
