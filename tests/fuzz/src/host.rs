//! The host's session against a controller that sends anything.

use crate::{Input, check_pdus};
use caisson_block::{Buf, Mono};
use caisson_tcp::host::{Config, Event, Session, Transfer};
use caisson_wire::Sqe;
use caisson_wire::pdu::kind;
use caisson_wire::zerocopy::little_endian::U16;

/// Any bytes after a handshake, with commands out; R2Ts must not make the host queue more than its commands' data.
pub fn host_stream(data: &[u8]) {
    let mut input = Input(data);
    let dgst = input.byte() & 3;
    let config = Config {
        header_digest: dgst & 1 != 0,
        data_digest: dgst & 2 != 0,
        hpda: input.byte() % 32,
        ..Config::default()
    };
    let now = Mono(0);
    let mut s = Session::new(config, now);
    let mut queued = s.tx().drain().len();
    if input.byte() & 1 == 0 {
        let mut resp = vec![0; 128];
        (resp[0], resp[2], resp[4], resp[10], resp[11]) = (kind::IC_RESP, 128, 128, input.byte() % 32, dgst);
        resp[12..16].copy_from_slice(&4096u32.to_le_bytes());
        s.receive(Buf::from(resp));
        assert!(matches!(s.next(now), Some(Event::Ready { .. })));
        for cid in 0..8u16 {
            let data = match cid % 3 {
                0 => Transfer::In(8192),
                1 => Transfer::Out(vec![1; 8192].into()),
                _ => Transfer::None,
            };
            let sqe = Sqe { cid: U16::new(cid), ..Sqe::default() };
            s.command(sqe, data).expect("the handshake is done and the CID is free");
        }
        let sent = s.tx().drain();
        check_pdus(&sent, &[kind::CAPSULE_CMD], kind::H2C_TERM_REQ);
        queued += sent.len();
    }
    let mut out = s.in_flight();
    let mut received = 0;
    while !input.is_empty() {
        let n = usize::from(input.byte());
        s.receive(Buf::from(input.take(n).to_vec()));
        while let Some(event) = s.next(now) {
            match event {
                Event::Data { cid, offset, bytes } => {
                    assert!(cid < 8 && offset as usize + bytes.len() <= 8192 && !bytes.is_empty());
                    received += bytes.len();
                }
                Event::Completed { cid, received, .. } => {
                    assert!(cid < 8 && received <= 8192);
                    out -= 1;
                }
                Event::Ready { .. } | Event::Terminated { .. } => {}
            }
        }
        assert_eq!(s.in_flight(), out);
        let sent = s.tx().drain();
        check_pdus(&sent, &[kind::H2C_DATA], kind::H2C_TERM_REQ);
        queued += sent.len();
    }
    // Three writes of 8,192 bytes, each byte asked for at most once; an R2T of one byte costs a header of at most 132.
    assert!(received <= data.len() && queued <= 4096 + 3 * 8192 * 140);
}
