//! As much of a controller as a Linux host asks for before it reads and writes. Constants, but for CC.

use caisson_wire::opcode::{FABRICS, admin, fctype};
use caisson_wire::zerocopy::{FromZeros, IntoBytes};
use caisson_wire::{Cqe, Sqe, Status, identify::IdentifyController};

/// Bytes of a page of data that a command may ask for, and of all of them: the controller, its namespace, the list of namespaces,
/// the namespace's descriptors, and zeroes.
const PAGE: usize = 4096;
pub const BYTES: usize = 5 * PAGE;
/// Blocks of 512 bytes: 64 MiB.
const BLOCKS: u64 = 128 << 10;

/// What an admin command comes to.
pub enum Answer {
    /// A response, after the page from this byte on where there is one.
    Now { cqe: Cqe, page: Option<usize> },
    /// None until there is something to say.
    Later,
}

pub struct Admin {
    nqn: String,
    in_capsule: usize,
    cc: u32,
}

impl Admin {
    pub fn new(nqn: &str, in_capsule: usize) -> Admin {
        Admin { nqn: nqn.into(), in_capsule, cc: 0 }
    }

    /// The pages, in order.
    pub fn pages(&self) -> Vec<u8> {
        let mut pages = vec![0; BYTES];
        let mut c = IdentifyController::new_zeroed();
        c.sn = [b'1'; 20];
        c.mn = [b' '; 40];
        c.mn[..4].copy_from_slice(b"bare");
        // As of one of several controllers, whose hosts take the same way to it as to Caisson's.
        c.cmic = 2;
        c.cntlid = 1.into();
        c.ver = 0x1_0300.into();
        c.cntrltype = 1;
        c.kas = 10.into();
        c.sqes = 0x66;
        c.cqes = 0x44;
        c.maxcmd = 128.into();
        c.nn = 1.into();
        // Keyed descriptors, and offsets into capsules.
        c.sgls = (1 | 1 << 2 | 1 << 20).into();
        c.subnqn[..self.nqn.len()].copy_from_slice(self.nqn.as_bytes());
        c.ioccsz = (((64 + self.in_capsule) / 16) as u32).into();
        c.iorcsz = 1.into();
        c.msdbd = 1;
        pages[..PAGE].copy_from_slice(c.as_bytes());
        let ns = &mut pages[PAGE..2 * PAGE];
        for at in [0, 8, 16] {
            ns[at..at + 8].copy_from_slice(&BLOCKS.to_le_bytes());
        }
        // NMIC: shared.
        ns[30] = 1;
        // LBAF0: 2^9 bytes.
        ns[130] = 9;
        pages[2 * PAGE] = 1;
        // A UUID: type 3, 16 bytes. One of its own for each name, as hosts demand.
        let uuid = &mut pages[3 * PAGE..][..20];
        uuid[..2].copy_from_slice(&[3, 16]);
        for (n, byte) in self.nqn.bytes().enumerate() {
            let at = 4 + n % 16;
            uuid[at] = uuid[at].wrapping_mul(31).wrapping_add(byte);
        }
        pages
    }

    pub fn answer(&mut self, sqe: &Sqe) -> Answer {
        let ok = Cqe::new(sqe.cid.get(), Status::SUCCESS);
        let mut page = None;
        let result = match (sqe.opcode, sqe.fctype()) {
            // The controller's identifier.
            (FABRICS, fctype::CONNECT) => 1,
            (FABRICS, fctype::PROPERTY_SET) => {
                self.cc = sqe.cdw12.get();
                0
            }
            (FABRICS, fctype::PROPERTY_GET) => self.property(sqe.cdw11.get()),
            (admin::IDENTIFY, _) => {
                page = Some(match sqe.cdw10.get() & 0xff {
                    1 => 0,
                    0 => PAGE,
                    2 => 2 * PAGE,
                    3 => 3 * PAGE,
                    _ => 4 * PAGE,
                });
                0
            }
            (admin::GET_LOG_PAGE, _) => {
                page = Some(4 * PAGE);
                0
            }
            (admin::ASYNC_EVENT, _) => return Answer::Later,
            // One I/O queue pair is what Set Features (Number of Queues) gives, 0's based; other features have no result.
            _ => 0,
        };
        Answer::Now { cqe: ok.with_result(result), page }
    }

    /// Properties by their offset.
    fn property(&self, at: u32) -> u64 {
        let (enabled, stops) = (self.cc & 1, self.cc >> 14 & 3 != 0);
        match at {
            // CAP: 128 entries, contiguous queues, 10 s, the NVM command set.
            0 => 127 | 1 << 16 | 20 << 24 | 1 << 37,
            8 => 0x1_0300,
            0x14 => u64::from(self.cc),
            // CSTS: RDY follows EN, and a shutdown is over at once.
            0x1c => u64::from(enabled) | if stops { 2 << 2 } else { 0 },
            _ => 0,
        }
    }
}
