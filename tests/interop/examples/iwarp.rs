//! The suite `rdma` over soft-iWARP: `cargo run -p caisson-interop --example iwarp`; with `CAISSON_INTEROP_TARGET=nvmet` against the guest
//! kernel's own target.
//!
//! No test of the list: the guest's module is built from 150 MB of Debian's source, and siw itself loses a first command now and then on a
//! busy machine (`transports/README.md`).

use caisson_interop::scenario::{Export, Mode, Scenario, Store, Transport};
use caisson_interop::suite::run;
use std::time::Duration;

fn main() {
    run(&Scenario {
        suite: "rdma",
        name: "rdma",
        mode: Mode::Serve,
        transport: Transport::Iwarp,
        exports: vec![Export { store: Store::Memory, ..Export::new(0, 64 << 20, 4096) }],
        restricted: false,
        limit: Duration::from_secs(480),
    });
}
