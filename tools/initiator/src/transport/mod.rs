//! The host's side of both transports: NVMe/TCP framing (one half that receives, one that sends, and the exchange that opens a
//! connection), and NVMe/RDMA queue pairs.
//!
//! Its own, beside the sans-IO sessions of the transport crate, for two reasons: a load generator counts payload and
//! throws it away, so that holding received buffers for it would cost more than all the rest; and the conformance tests
//! judge the target by a second reading of the specification, not by the one that the target was written from.

mod raw;
pub mod rdma;
mod rx;
mod tx;

pub use raw::{Greeting, Pdu, RawConn};
pub use rdma::Rdma;
pub use rx::{Rx, Sink};
pub use tx::{Framing, Tx, io_command};

/// CRC-32C as the digests have it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}
