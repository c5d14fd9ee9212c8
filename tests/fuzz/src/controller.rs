//! The controller's session against bytes of any kind, and against sequences of PDUs that are nearly right.

use crate::{Input, check_pdus};
use caisson_block::{Buf, BufList, Completions, Mono};
use caisson_tcp::controller::{Config, Event, Payload, Session};
use caisson_tcp::crc::crc32c;
use caisson_wire::pdu::{flag, kind};
use caisson_wire::{Cqe, Status};
use std::collections::BTreeMap;

/// What a controller may send.
const OURS: [u8; 4] = [kind::IC_RESP, kind::CAPSULE_RESP, kind::C2H_DATA, kind::R2T];

/// What the caller of the session knows of a slot.
struct Held {
    cid: u16,
    room: u32,
    pulling: bool,
}

/// A session and its caller, who answers commands as the input says.
struct Target {
    session: Session,
    spare: Completions,
    held: BTreeMap<u32, Held>,
    max: u32,
    now: Mono,
    fatal: bool,
    /// What is sent after a fatal error has been taken.
    over: bool,
    /// R2Ts seen: CCCID, TTAG, offset, length and how much was sent for it.
    r2ts: Vec<(u16, u16, u32, u32, u32)>,
}

impl Target {
    fn new(input: &mut Input) -> Target {
        let max = 1 + u32::from(input.byte() % 8);
        let config = Config {
            header_digest: true,
            data_digest: true,
            in_capsule: 8192 + u32::from(input.byte()) * 64,
            max_h2c: 4096 << (input.byte() % 6),
            max_c2h: 4 << (input.byte() % 18),
            cpda: input.byte() % 32,
            max_slots: max,
            max_r2t: 4 << (input.byte() % 20),
            r2t_window: 1 << (input.byte() % 24),
            ..Config::default()
        };
        Target {
            session: Session::new(config, Mono(0)),
            spare: Completions::default(),
            held: BTreeMap::new(),
            max,
            now: Mono(0),
            fatal: false,
            over: false,
            r2ts: Vec::new(),
        }
    }

    /// Takes events until there are none.
    fn events(&mut self) {
        while let Some(event) = self.session.next(self.now, &mut self.spare) {
            assert!(!self.fatal, "no event after a fatal error");
            match event {
                Event::Command { slot, sqe, payload } => {
                    assert!(slot < self.max, "slots are dense");
                    let room = match payload {
                        Payload::Transport { len } => len,
                        Payload::InCapsule(d) => {
                            assert!(d.len() == sqe.sgl.length.get() as usize);
                            0
                        }
                        _ => 0,
                    };
                    let fresh = Held { cid: sqe.cid.get(), room, pulling: false };
                    assert!(self.held.insert(slot, fresh).is_none(), "a slot is one command's");
                }
                Event::Data { slot, data } => {
                    let held = self.held.get_mut(&slot).expect("data is for a command in hand");
                    assert!(held.pulling && data.len() <= held.room as usize && !data.is_empty());
                    held.pulling = false;
                    // Only once a command.
                    held.room = 0;
                }
                Event::Damaged { slot, status } => {
                    let held = self.held.get_mut(&slot).expect("damage is of a command in hand");
                    assert!(held.pulling && status.is(Status::TRANSIENT_TRANSPORT_ERROR));
                    held.pulling = false;
                    held.room = 0;
                }
                Event::Terminated { .. } => assert!(self.session.closing().is_some()),
            }
        }
        self.fatal = self.session.closing().is_some();
        assert!(self.session.in_hand() <= self.max);
        assert!(!self.fatal || self.session.deadline().is_none());
    }

    /// The `n`th command in hand gets what `input` says.
    fn act(&mut self, input: &mut Input) {
        let n = input.below(self.held.len().max(1));
        let Some((&slot, held)) = self.held.iter_mut().nth(n) else { return };
        let choice = input.byte();
        if choice & 1 == 0 && held.room > 0 && !held.pulling {
            let len = (1 + input.word() % held.room).min(1 << 20);
            held.pulling = self.session.pull(slot, len, self.now);
            assert!(held.pulling || self.fatal);
            return;
        }
        let cqe = Cqe::new(held.cid, if choice & 2 == 0 { Status::SUCCESS } else { Status::INTERNAL_ERROR });
        let len = if held.pulling { 0 } else { held.room.min(u32::from(input.short())) };
        self.held.remove(&slot);
        self.session.reply(slot, cqe, BufList::zeroes(len as usize), &mut self.spare);
    }

    fn sent(&mut self) {
        let bytes = self.session.tx().drain();
        assert!(!self.over || bytes.is_empty(), "nothing is sent after the termination request");
        self.over = self.fatal;
        check_pdus(&bytes, &OURS, kind::C2H_TERM_REQ);
        let mut rest = &bytes[..];
        while rest.len() >= 24 {
            let h16 = |at: usize| u16::from_le_bytes([rest[at], rest[at + 1]]);
            let h32 = |at: usize| u32::from(h16(at)) | u32::from(h16(at + 2)) << 16;
            if rest[0] == kind::R2T {
                self.r2ts.push((h16(8), h16(10), h32(12), h32(16), 0));
            }
            rest = &rest[h32(4) as usize..];
        }
    }
}

/// Any bytes, in pieces of any size, with a caller that acts in between.
pub fn controller_stream(data: &[u8]) {
    let mut input = Input(data);
    let mut t = Target::new(&mut input);
    if input.byte() & 1 == 0 {
        // Past the handshake, so that the rest is seen too.
        let dgst = input.byte() & 3;
        t.session.receive(Buf::from(ic_req(dgst, input.byte() % 32, u32::from(input.byte()))));
        t.events();
    }
    while !input.is_empty() {
        let n = usize::from(input.byte());
        t.session.receive(Buf::from(input.take(n).to_vec()));
        t.events();
        t.act(&mut input);
        t.sent();
    }
}

fn ic_req(dgst: u8, hpda: u8, maxr2t: u32) -> Vec<u8> {
    let mut b = vec![0; 128];
    (b[2], b[4], b[10], b[11]) = (128, 128, hpda, dgst);
    b[12..16].copy_from_slice(&maxr2t.to_le_bytes());
    b
}

/// PDUs that are right but for a byte here and there, and a caller that acts, in any order.
pub fn controller_sequence(data: &[u8]) {
    let mut input = Input(data);
    let mut t = Target::new(&mut input);
    let dgst = input.byte() & 3;
    let align = {
        t.session.receive(Buf::from(ic_req(dgst, input.byte() % 32, u32::from(input.byte()))));
        t.events();
        let resp = t.session.tx().drain();
        assert_eq!((resp.len(), resp[11]), (128, dgst));
        (usize::from(resp[10]) + 1) * 4
    };
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        match input.byte() % 8 {
            0..=2 => {
                let mut header = vec![0; 72];
                header[0] = kind::CAPSULE_CMD;
                let opcode = [0x00, 0x01, 0x02, 0x05, 0x09, 0x19, 0x7f, 0x06][usize::from(input.byte() % 8)];
                (header[8], header[9], header[10], header[12]) =
                    (opcode, 0x40, input.byte(), input.byte() & 7);
                let inside = input.below(512);
                let len =
                    [inside as u32, u32::from(input.short()), input.word()][usize::from(input.byte() % 3)];
                header[40..44].copy_from_slice(&len.to_le_bytes());
                header[47] = [0x01, 0x5a, 0x40, input.byte()][usize::from(input.byte() % 4)];
                send(&mut t, &mut input, header, inside, dgst, align);
            }
            3 | 4 if !t.r2ts.is_empty() => {
                let n = input.below(t.r2ts.len());
                let (cid, tag, offset, len, sent) = t.r2ts[n];
                let part = (1 + input.below(9000) as u32).min(len - sent);
                let part = if part == len - sent { part } else { part & !3 };
                if part == 0 {
                    continue;
                }
                let mut header = vec![0; 24];
                header[0] = kind::H2C_DATA;
                header[8..10].copy_from_slice(&cid.to_le_bytes());
                header[10..12].copy_from_slice(&tag.to_le_bytes());
                header[12..16].copy_from_slice(&(offset + sent).to_le_bytes());
                header[16..20].copy_from_slice(&part.to_le_bytes());
                if sent + part == len {
                    header[1] = flag::LAST;
                    t.r2ts.remove(n);
                } else {
                    t.r2ts[n].4 += part;
                }
                send(&mut t, &mut input, header, part as usize, dgst, align);
            }
            5 => {
                t.now = t.now.plus_ms(u64::from(input.byte()));
                t.events();
            }
            6 => t.session.trim(),
            _ => t.act(&mut input),
        }
        t.sent();
    }
}

/// Sends a PDU with `inside` bytes of data, sealed as it must be, but for what the input spoils.
fn send(t: &mut Target, input: &mut Input, mut header: Vec<u8>, inside: usize, dgst: u8, align: usize) {
    let (hd, dd) = (dgst & 1 != 0, dgst & 2 != 0 && inside > 0);
    let hlen = header.len();
    let bare = hlen + if hd { 4 } else { 0 };
    let head = if inside == 0 { bare } else { bare.next_multiple_of(align) };
    let plen = head + inside + if dd { 4 } else { 0 };
    header[1] |= if hd { flag::HDGST } else { 0 } | if dd { flag::DDGST } else { 0 };
    (header[2], header[3]) = (hlen as u8, if inside == 0 { 0 } else { head as u8 });
    header[4..8].copy_from_slice(&(plen as u32).to_le_bytes());
    let spoil = input.byte();
    if spoil == 1 {
        let at = input.below(header.len());
        header[at] ^= input.byte();
    }
    let mut bytes = header.clone();
    if hd {
        bytes.extend_from_slice(&crc32c(&header).to_le_bytes());
    }
    bytes.resize(head, 0);
    let data: Vec<u8> = (0..inside).map(|i| i as u8).collect();
    bytes.extend_from_slice(&data);
    if dd {
        bytes.extend_from_slice(&crc32c(&data).to_le_bytes());
    }
    if spoil == 2 {
        let at = input.below(bytes.len());
        bytes[at] ^= 1 << (input.byte() % 8);
    }
    let piece = 1 + input.below(400);
    for part in bytes.chunks(if spoil & 0x80 == 0 { bytes.len() } else { piece }) {
        t.session.receive(Buf::from(part.to_vec()));
        t.events();
    }
}
