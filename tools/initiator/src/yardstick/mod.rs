//! The bare-socket exchange: the same bytes that NVMe/TCP would move, at the same depth, with no protocol.
//!
//! A driver keeps a number of requests outstanding on each connection, a peer answers each in order; both only count
//! bytes (and, for writes that need an R2T, look at the first byte of each message, to tell a capsule from data). What
//! it reaches is what the sockets of this machine can do, and the measure for a target.

mod driver;
mod peer;

pub use driver::{Outcome, drive};
pub use peer::{Peer, serve};

use crate::error::{Error, Result};

/// Length of a command capsule without data.
const CAPSULE: u32 = 72;
/// Length of a response capsule, an R2T, and the header of a data PDU.
const SHORT: u32 = 24;

/// The messages of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of the first message, driver to peer: a command capsule.
    pub request: u32,
    /// When not 0: the peer answers the first message with an R2T, and the driver sends as many bytes of data PDUs.
    pub asked: u32,
    /// Bytes of the last message, peer to driver.
    pub response: u32,
}

impl Shape {
    /// A read of `block` bytes; `success`: the last data PDU also completes it (the SUCCESS flag), otherwise a response
    /// capsule follows.
    pub fn read(block: u32, success: bool) -> Shape {
        Shape { request: CAPSULE, asked: 0, response: SHORT + block + if success { 0 } else { SHORT } }
    }

    /// A write of `block` bytes where up to `in_capsule` travel in the capsule and otherwise each data PDU carries up to
    /// `max_h2c`.
    pub fn write(block: u32, in_capsule: u32, max_h2c: u32) -> Shape {
        if block <= in_capsule {
            return Shape { request: CAPSULE + block, asked: 0, response: SHORT };
        }
        Shape { request: CAPSULE, asked: block + SHORT * block.div_ceil(max_h2c.max(1)), response: SHORT }
    }

    /// What the driver sends first on a connection, so that one peer serves any shape.
    fn hello(self) -> [u8; HELLO] {
        let mut h = [0; HELLO];
        for (at, n) in [MAGIC, self.request, self.asked, self.response].into_iter().enumerate() {
            h[4 * at..4 * at + 4].copy_from_slice(&n.to_le_bytes());
        }
        h
    }

    fn from_hello(h: &[u8; HELLO]) -> Option<Shape> {
        let at = |i: usize| u32::from_le_bytes([h[4 * i], h[4 * i + 1], h[4 * i + 2], h[4 * i + 3]]);
        let shape = Shape { request: at(1), asked: at(2), response: at(3) };
        let sane = |n: u32| (1..=LARGEST).contains(&n);
        (at(0) == MAGIC && sane(shape.request) && sane(shape.response) && shape.asked <= LARGEST)
            .then_some(shape)
    }

    fn check(self) -> Result<Shape> {
        Shape::from_hello(&self.hello()).ok_or_else(|| {
            Error::unsuitable("the block is too large for the yardstick", "use blocks of at most 16 MiB")
        })
    }
}

/// Bytes of the greeting.
const HELLO: usize = 16;
const MAGIC: u32 = 0x4b52_4159;
/// The largest message.
const LARGEST: u32 = (16 << 20) + 4096;
/// How much each end reads at once, and sends at once where it is one message after another.
const CHUNK: usize = 256 << 10;
/// First byte of a message that is a capsule.
const KIND_CAPSULE: u8 = 4;
/// First byte of a message that is data which an R2T asked for.
const KIND_DATA: u8 = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Address;
    use std::time::Duration;

    fn run(shape: Shape, depth: u32, connections: u32, spin: bool) -> Outcome {
        let peer = Peer::start("127.0.0.1:0", None, spin, 0).unwrap();
        let to = Address::new("127.0.0.1", peer.port());
        drive(&to, shape, depth, connections, Duration::from_millis(80), None, spin).unwrap()
    }

    #[test]
    fn every_shape_is_exchanged() {
        let shapes = [
            Shape::read(4096, true),
            Shape::read(4096, false),
            Shape::write(4096, 8192, 131_072),
            Shape::write(131_072, 8192, 65_536),
        ];
        for shape in shapes {
            for (depth, connections) in [(1, 1), (32, 2)] {
                for spin in [true, false] {
                    let out = run(shape, depth, connections, spin);
                    assert!(out.latency.count() > 0, "{shape:?} {depth} {connections} {spin}: {out:?}");
                }
            }
        }
    }

    #[test]
    fn shapes_are_the_bytes_of_nvme_tcp() {
        assert_eq!(Shape::read(4096, false), Shape { request: 72, asked: 0, response: 4144 });
        assert_eq!(Shape::write(4096, 4096, 1), Shape { request: 4168, asked: 0, response: 24 });
        let r2t = Shape::write(131_072, 8192, 131_072);
        assert_eq!(r2t, Shape { request: 72, asked: 131_096, response: 24 });
        assert_eq!(Shape::from_hello(&r2t.hello()), Some(r2t));
        assert!(Shape::from_hello(&[0; HELLO]).is_none());
        assert!(Shape { request: 1, asked: 0, response: u32::MAX }.check().is_err());
    }
}
