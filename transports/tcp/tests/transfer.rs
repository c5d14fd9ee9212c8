//! The transfer of data: R2Ts within their limits, C2HData and its flags, alignment, digests.

mod common;

use caisson_block::{Buf, BufList, Completions};
use caisson_tcp::controller::{Config, Event, Session};
use caisson_tcp::crc::crc32c;
use caisson_wire::opcode::{self, fctype, io};
use caisson_wire::pdu::{flag, kind};
use caisson_wire::zerocopy::little_endian::{U16, U32};
use caisson_wire::{Cqe, Sgl, Status};
use common::*;

fn command(s: &mut Session, cid: u16, op: u8, len: u32, dgst: u8, spare: &mut Completions) -> u32 {
    s.receive(Buf::from(capsule(sqe(op, cid, Sgl::transport(len)), &[], dgst)));
    match s.next(NOW, spare) {
        Some(Event::Command { slot, .. }) => slot,
        other => panic!("{other:?}"),
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 13 + i / 256) as u8).collect()
}

/// MAXR2T 3 (zero-based 2), 4 KiB an R2T: three out at once, one more for each that is answered, whatever the order.
#[test]
fn several_r2ts_for_one_command_in_any_order() {
    let mut spare = Completions::default();
    let config = Config { max_r2t: 4096, ..Config::default() };
    let mut s = ready(config, 0, 2, &mut spare);
    let slot = command(&mut s, 5, io::WRITE, 18_000, 0, &mut spare);
    assert!(s.pull(slot, 18_000, NOW));
    assert!(!s.pull(slot, 18_000, NOW), "a command is pulled once");
    let data = pattern(18_000);
    let mut out = r2ts(&s.tx().drain());
    assert_eq!(out, [(5, 0, 0, 4096), (5, 1, 4096, 4096), (5, 2, 8192, 4096)]);
    let mut turn = 0;
    let done = loop {
        // Answer the newest and the oldest in turn.
        turn += 1;
        let r = if turn % 2 == 0 { out.remove(0) } else { out.pop().unwrap() };
        let (from, to) = (r.2 as usize, (r.2 + r.3) as usize);
        s.receive(Buf::from(h2c(5, r.1, r.2, &data[from..to], true, 0)));
        let got = events(&mut s, &mut spare);
        out.extend(r2ts(&s.tx().drain()));
        assert!(out.len() <= 3);
        if let [Event::Data { data, .. }] = &got[..] {
            break data.to_vec();
        }
        assert!(got.is_empty());
    };
    assert!(out.is_empty() && done == data);
    assert_eq!(s.deadline(), None);
}

/// H2CData of two commands interleaved PDU by PDU.
#[test]
fn commands_interleave() {
    let mut spare = Completions::default();
    let mut s = ready(Config { max_h2c: 4096, ..Config::default() }, 3, 0, &mut spare);
    let data = pattern(40_000);
    let slots = [1u16, 2].map(|cid| command(&mut s, cid, io::WRITE, 20_000, 3, &mut spare));
    slots.iter().for_each(|&slot| assert!(s.pull(slot, 20_000, NOW)));
    let tags = r2ts(&s.tx().drain());
    let mut got = vec![];
    for at in (0..20_000).step_by(4096) {
        for (i, r) in tags.iter().enumerate() {
            let end = (at + 4096).min(20_000);
            let part = &data[i * 20_000 + at..i * 20_000 + end];
            s.receive(Buf::from(h2c(r.0, r.1, at as u32, part, end == 20_000, 3)));
            got.extend(events(&mut s, &mut spare));
        }
    }
    let whole: Vec<_> = got
        .into_iter()
        .map(|e| if let Event::Data { slot, data } = e { (slot, data.to_vec()) } else { panic!() })
        .collect();
    assert_eq!(whole, [(slots[0], data[..20_000].to_vec()), (slots[1], data[20_000..].to_vec())]);
}

/// The window bounds what is asked for over all commands; a transfer larger than it goes alone.
#[test]
fn the_window_holds_r2ts_back() {
    let mut spare = Completions::default();
    let config = Config { r2t_window: 100_000, ..Config::default() };
    let mut s = ready(config, 0, 0, &mut spare);
    for cid in 0..6 {
        let slot = command(&mut s, cid, io::WRITE, if cid == 4 { 131_072 } else { 40_000 }, 0, &mut spare);
        assert!(s.pull(slot, if cid == 4 { 131_072 } else { 40_000 }, NOW));
    }
    let mut out = r2ts(&s.tx().drain());
    assert_eq!(out.iter().map(|r| r.0).collect::<Vec<_>>(), [0, 1]);
    let mut order = vec![];
    while !out.is_empty() {
        let bytes: u32 = out.iter().map(|r| r.3).sum();
        assert!(bytes <= 100_000 || out.len() == 1);
        let r = out.remove(0);
        order.push(r.0);
        s.receive(Buf::from(h2c(r.0, r.1, 0, &vec![0; r.3 as usize], true, 0)));
        assert_eq!(events(&mut s, &mut spare).len(), 1);
        out.extend(r2ts(&s.tx().drain()));
    }
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
}

/// Data that has come stays in the window until all of its command has: what is held is bounded, not only what is asked
/// for. And a large transfer in small R2Ts needs no more tags than are out.
#[test]
fn the_window_counts_what_is_held() {
    let mut spare = Completions::default();
    let config = Config { max_r2t: 4, r2t_window: 40_000, ..Config::default() };
    let mut s = ready(config, 0, 1, &mut spare);
    for cid in 0..2 {
        let slot = command(&mut s, cid, io::WRITE, 32_768, 0, &mut spare);
        assert!(s.pull(slot, 32_768, NOW));
    }
    let mut done = vec![];
    let mut out = r2ts(&s.tx().drain());
    while !out.is_empty() {
        assert!(out.len() <= 2 && out.iter().all(|r| usize::from(r.0) == done.len() && r.1 < 2));
        let r = out.remove(0);
        s.receive(Buf::from(h2c(r.0, r.1, r.2, &r.2.to_le_bytes(), true, 0)));
        done.extend(events(&mut s, &mut spare));
        out.extend(r2ts(&s.tx().drain()));
    }
    let want: Vec<u8> = (0..32_768u32).step_by(4).flat_map(u32::to_le_bytes).collect();
    for (slot, event) in done.into_iter().enumerate() {
        assert!(
            matches!(event, Event::Data { slot: s, data } if s as usize == slot && data.to_vec() == want)
        );
    }
}

#[test]
fn c2h_data_is_split_aligned_and_digested() {
    let data = pattern(10_000);
    for dgst in 0..4u8 {
        for hpda in [0u8, 1, 6, 31] {
            let mut spare = Completions::default();
            let mut s = Session::new(Config { max_c2h: 4096, ..Config::default() }, NOW);
            s.receive(Buf::from(ic_req(0, hpda, dgst, 0)));
            assert!(s.next(NOW, &mut spare).is_none());
            s.tx().drain();
            let slot = command(&mut s, 77, io::READ, 10_000, dgst, &mut spare);
            // In odd pieces, so that PDUs and buffers do not end together.
            let mut list = BufList::new();
            data.chunks(777).for_each(|c| list.push(Buf::from(c.to_vec())));
            s.reply(slot, Cqe::new(77, Status::SUCCESS), list, &mut spare);
            let sent = s.tx().drain();
            let pdus = pdus(&sent);
            assert_eq!(pdus.iter().map(|p| p[0]).collect::<Vec<_>>(), [7, 7, 7, kind::CAPSULE_RESP]);
            let mut got = vec![];
            for (i, p) in pdus[..3].iter().enumerate() {
                let bare = 24usize + if dgst & 1 != 0 { 4 } else { 0 };
                let pdo = usize::from(p[3]);
                assert_eq!(pdo, bare.next_multiple_of((usize::from(hpda) + 1) * 4));
                if dgst & 1 != 0 {
                    assert_eq!(p[24..28], crc32c(&p[..24]).to_le_bytes());
                }
                assert!(p[bare..pdo].iter().all(|&b| b == 0));
                let tail = if dgst & 2 != 0 { 4 } else { 0 };
                let body = &p[pdo..p.len() - tail];
                if tail > 0 {
                    assert_eq!(p[p.len() - 4..], crc32c(body).to_le_bytes());
                }
                let flags = dgst & 3 | if i == 2 { flag::LAST } else { 0 };
                assert_eq!((p[1], p[2], p[8]), (flags, 24, 77));
                assert_eq!(p[12..16], (got.len() as u32).to_le_bytes());
                assert_eq!(p[16..20], (body.len() as u32).to_le_bytes());
                got.extend_from_slice(body);
            }
            assert_eq!(got, data);
        }
    }
}

/// SUCCESS stands for a response only after Connect has disabled SQ flow control, and only for a plain success.
#[test]
fn success_flag_needs_flow_control_off() {
    for disabled in [false, true] {
        let mut spare = Completions::default();
        let mut s = ready(Config::default(), 0, 0, &mut spare);
        let mut connect = sqe(opcode::FABRICS, 0, Sgl::in_capsule(0, 1024));
        (connect.nsid, connect.cdw10) = (U32::new(fctype::CONNECT.into()), U32::new(1 << 16));
        s.receive(Buf::from(capsule(connect, &[0; 1024], 0)));
        assert_eq!(events(&mut s, &mut spare).len(), 1);
        let sqhd = U16::new(if disabled { 0xffff } else { 1 });
        s.reply(0, Cqe { sqhd, ..Cqe::new(0, Status::SUCCESS) }, BufList::new(), &mut spare);
        s.tx().drain();
        let plain = Cqe::new(4, Status::SUCCESS);
        for (cqe, success) in [
            (plain, disabled),
            (plain.with_result(1), false),
            (plain.with_result(1 << 32), false),
            (Cqe::new(4, Status::SUCCESS.more()), false),
        ] {
            let slot = command(&mut s, 4, io::READ, 512, 0, &mut spare);
            s.reply(slot, cqe, BufList::zeroes(512), &mut spare);
            let sent = s.tx().drain();
            let pdus = pdus(&sent);
            assert_eq!(pdus[0][1] & flag::SUCCESS != 0, success);
            assert_eq!(pdus.len(), if success { 1 } else { 2 });
            assert_eq!(s.in_hand(), 0);
        }
        // An error sends no data, and a response always.
        let slot = command(&mut s, 4, io::READ, 512, 0, &mut spare);
        s.reply(slot, Cqe::new(4, Status::LBA_OUT_OF_RANGE), BufList::zeroes(512), &mut spare);
        assert_eq!(s.tx().drain()[0], kind::CAPSULE_RESP);
    }
}

/// Data that the host has no room for is never sent.
#[test]
fn data_beyond_the_sgl_is_not_sent() {
    let mut spare = Completions::default();
    for len in [0, 511] {
        let mut s = ready(Config::default(), 0, 0, &mut spare);
        let slot = command(&mut s, 4, io::READ, len, 0, &mut spare);
        s.reply(slot, Cqe::new(4, Status::SUCCESS), BufList::zeroes(512), &mut spare);
        let sent = s.tx().drain();
        assert_eq!((sent.len(), sent[0]), (24, kind::CAPSULE_RESP));
        assert!(Cqe::decode(&sent[8..]).unwrap().status().is(Status::INVALID_SGL_LENGTH));
    }
}

/// Digests are given only where both sides want them.
#[test]
fn digests_are_negotiated() {
    for asked in 0..4u8 {
        for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut spare = Completions::default();
            let config = Config { header_digest: header, data_digest: data, cpda: 5, ..Config::default() };
            let mut s = Session::new(config.clone(), NOW);
            // Reserved bits are not looked at.
            s.receive(Buf::from(ic_req(0, 0, asked | 0xfc, u32::MAX)));
            assert!(s.next(NOW, &mut spare).is_none() && s.closing().is_none());
            let resp = s.tx().drain();
            let given = asked & (u8::from(header) | u8::from(data) << 1);
            assert_eq!((resp[8], resp[10], resp[11]), (0, 5, given));
            assert_eq!(resp[12..16], config.max_h2c.to_le_bytes());
            assert_eq!(s.digests().field(), given);
        }
    }
}
