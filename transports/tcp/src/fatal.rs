//! What ends a connection: the error met, and the termination request that tells the peer of it.

use caisson_wire::pdu::{CommonHeader, Fes, TERM_MAX_LEN, TermReq, kind};
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::zerocopy::little_endian::{U16, U32};

/// Why a connection is being closed. The first one met stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// The peer broke a rule; a termination request says so to it (TCP 1.1, 3.5.1 "PDU Error Handling").
    #[error("the peer broke the protocol: {what} ({fes:?}, information {fei:#x})")]
    Protocol {
        /// Fatal error status.
        fes: Fes,
        /// Fatal error information: a byte offset in the header, or a digest.
        fei: u32,
        /// The rule broken, for the log.
        what: &'static str,
    },
    /// The peer asked to terminate the connection.
    #[error("the peer terminated the connection: status {fes:#x}, information {fei:#x}")]
    Terminated {
        /// Fatal error status as sent; values are those of [`Fes`], or anything.
        fes: u16,
        /// Fatal error information as sent.
        fei: u32,
    },
    /// The peer was too slow.
    #[error("timed out: {what}")]
    TimedOut {
        /// What did not come.
        what: &'static str,
    },
}

impl Fatal {
    /// A header field that is not as it must be, at byte `at` of the PDU header.
    pub(crate) const fn field(at: u32, what: &'static str) -> Fatal {
        Fatal::Protocol { fes: Fes::InvalidHeaderField, fei: at, what }
    }

    /// A PDU out of sequence.
    pub(crate) const fn sequence(what: &'static str) -> Fatal {
        Fatal::Protocol { fes: Fes::SequenceError, fei: 0, what }
    }

    /// Any other status, whose information field is reserved or `fei`.
    pub(crate) const fn other(fes: Fes, fei: u32, what: &'static str) -> Fatal {
        Fatal::Protocol { fes, fei, what }
    }
}

/// A termination request of type `kind` with the first bytes of the header in error, and its length (TCP 1.1, 3.6.2.5:
/// at most 152 bytes in all).
pub(crate) fn term_req(pdu_kind: u8, fes: Fes, fei: u32, offending: &[u8]) -> ([u8; TERM_MAX_LEN], usize) {
    const HLEN: usize = size_of::<TermReq>();
    let shown = offending.len().min(TERM_MAX_LEN - HLEN);
    let header = TermReq {
        ch: CommonHeader {
            kind: pdu_kind,
            flags: 0,
            hlen: HLEN as u8,
            pdo: 0,
            plen: U32::new((HLEN + shown) as u32),
        },
        fes: U16::new(fes as u16),
        fei_lo: U16::new(fei as u16),
        fei_hi: U16::new((fei >> 16) as u16),
        rsvd: [0; 10],
    };
    debug_assert!(matches!(pdu_kind, kind::C2H_TERM_REQ | kind::H2C_TERM_REQ));
    let mut out = [0; TERM_MAX_LEN];
    out[..HLEN].copy_from_slice(header.as_bytes());
    out[HLEN..HLEN + shown].copy_from_slice(&offending[..shown]);
    (out, HLEN + shown)
}
