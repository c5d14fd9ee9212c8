//! Fabrics command and response layouts (Base 2.1, chapter 6) and the controller properties (3.1.4).

use crate::layout;
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The 1,024 bytes of data of a Connect command (Base 2.1, figure "Connect Command – Data").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ConnectData {
    /// HOSTID, 128 bits.
    pub hostid: [u8; 16],
    /// CNTLID: FFFFh asks for a dynamic controller, FFFEh for any static one.
    pub cntlid: U16,
    /// Reserved.
    pub rsvd: [u8; 238],
    /// SUBNQN, NUL-terminated.
    pub subnqn: [u8; 256],
    /// HOSTNQN, NUL-terminated.
    pub hostnqn: [u8; 256],
    /// Reserved.
    pub rsvd2: [u8; 256],
}

layout!(ConnectData, 1024, hostid @ 0, cntlid @ 16, subnqn @ 256, hostnqn @ 512, rsvd2 @ 768);

impl ConnectData {
    /// Connect data for `hostnqn` to `subnqn`; names longer than 223 bytes are cut by the caller's own check.
    pub fn new(hostid: [u8; 16], cntlid: u16, subnqn: &str, hostnqn: &str) -> ConnectData {
        let mut d = ConnectData {
            hostid,
            cntlid: U16::new(cntlid),
            rsvd: [0; 238],
            subnqn: [0; 256],
            hostnqn: [0; 256],
            rsvd2: [0; 256],
        };
        put_str(&mut d.subnqn, subnqn);
        put_str(&mut d.hostnqn, hostnqn);
        d
    }
}

fn put_str(field: &mut [u8; 256], s: &str) {
    let n = s.len().min(255);
    field[..n].copy_from_slice(&s.as_bytes()[..n]);
}

/// The NQN in a 256-byte NUL-padded field: up to the first NUL, UTF-8, 1..=223 bytes; `None` otherwise
/// (Base 2.1, 4.7: at most 223 bytes and a terminating NUL).
pub fn nqn_of(field: &[u8; 256]) -> Option<&str> {
    let end = field.iter().position(|&b| b == 0)?;
    if end == 0 || end > 223 {
        return None;
    }
    core::str::from_utf8(&field[..end]).ok()
}

/// The NQN of the well-known discovery service.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// CNTLID in Connect that asks for a dynamic controller.
pub const CNTLID_DYNAMIC: u16 = 0xffff;
/// CNTLID in Connect that asks for any static controller.
pub const CNTLID_STATIC_ANY: u16 = 0xfffe;

/// Property offsets (Base 2.1, figure "Property Definition").
pub mod property {
    /// CAP, 8 bytes.
    pub const CAP: u32 = 0x00;
    /// VS, 4 bytes.
    pub const VS: u32 = 0x08;
    /// CC, 4 bytes.
    pub const CC: u32 = 0x14;
    /// CSTS, 4 bytes.
    pub const CSTS: u32 = 0x1c;
    /// NSSR, 4 bytes.
    pub const NSSR: u32 = 0x20;
    /// CRTO, 4 bytes.
    pub const CRTO: u32 = 0x68;
}
