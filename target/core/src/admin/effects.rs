//! Which commands there are and what they may change: the data of log page 05h (Base 2.1, 5.1.12.1.6).

use crate::registry::subsystem::Kind;
use caisson_wire::log::effect::*;
use caisson_wire::opcode::{FABRICS, admin, io};

/// Admin commands of an I/O controller.
pub(super) const ADMIN_IO: &[(u8, u32)] = &[
    (admin::GET_LOG_PAGE, CSUPP | CSP_CONTROLLER),
    (admin::IDENTIFY, CSUPP | CSP_CONTROLLER),
    (admin::ABORT, CSUPP | CSP_CONTROLLER),
    // Write protection changes what a namespace can do.
    (admin::SET_FEATURES, CSUPP | NCC | CSP_CONTROLLER),
    (admin::GET_FEATURES, CSUPP | CSP_CONTROLLER),
    (admin::ASYNC_EVENT, CSUPP | CSP_CONTROLLER),
    (admin::KEEP_ALIVE, CSUPP | CSP_CONTROLLER),
    (FABRICS, CSUPP | CSP_CONTROLLER),
];

/// Admin commands of a discovery controller.
pub(super) const ADMIN_DISCOVERY: &[(u8, u32)] = &[
    (admin::GET_LOG_PAGE, CSUPP | CSP_CONTROLLER),
    (admin::IDENTIFY, CSUPP | CSP_CONTROLLER),
    (admin::SET_FEATURES, CSUPP | CSP_CONTROLLER),
    (admin::GET_FEATURES, CSUPP | CSP_CONTROLLER),
    (admin::ASYNC_EVENT, CSUPP | CSP_CONTROLLER),
    (admin::KEEP_ALIVE, CSUPP | CSP_CONTROLLER),
    (FABRICS, CSUPP | CSP_CONTROLLER),
];

/// I/O commands of the NVM command set.
pub(super) const IO: &[(u8, u32)] = &[
    (io::FLUSH, CSUPP | CSP_NAMESPACE),
    (io::WRITE, CSUPP | LBCC | CSP_NAMESPACE),
    (io::READ, CSUPP | CSP_NAMESPACE),
    (io::WRITE_UNCORRECTABLE, CSUPP | LBCC | CSP_NAMESPACE),
    (io::COMPARE, CSUPP | CSP_NAMESPACE),
    (io::WRITE_ZEROES, CSUPP | LBCC | CSP_NAMESPACE),
    (io::DATASET_MANAGEMENT, CSUPP | LBCC | CSP_NAMESPACE),
    (io::VERIFY, CSUPP | CSP_NAMESPACE),
    (io::COPY, CSUPP | LBCC | CSP_NAMESPACE),
    (FABRICS, CSUPP | CSP_CONTROLLER),
];

/// Where hosts may erase. A host is to have nothing else under way on the namespace.
pub(super) const FORMAT: (u8, u32) = (admin::FORMAT_NVM, CSUPP | LBCC | NCC | CSE_NAMESPACE | CSP_NAMESPACE);

/// Where keys can be erased of everything. A host is to have nothing else under way on any namespace.
pub(super) const SANITIZE: (u8, u32) = (admin::SANITIZE, CSUPP | LBCC | CSE_ALL | CSP_SUBSYSTEM);

/// The admin commands of a controller of `kind`.
pub(super) fn admin_of(kind: Kind) -> &'static [(u8, u32)] {
    match kind {
        Kind::Nvm => ADMIN_IO,
        Kind::Discovery => ADMIN_DISCOVERY,
    }
}
