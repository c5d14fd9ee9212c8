//! A stock Linux kernel's NVMe/TCP and NVMe/RDMA hosts against caisson: one list of suites of `guest/` and of the transports that each
//! runs over.

use std::time::Duration;

use caisson_interop::scenario::{Export, Mode, Scenario, Store, Transport};
use caisson_interop::suite::run;

const MIB: u64 = 1 << 20;
/// A volume of a pool, with deduplication, compression and sealing.
const POOL: Store = Store::Pool { write_cache: true };
/// The same without a volatile write cache: a host does not know that a target was killed, and repeats nothing that was
/// acknowledged.
const SAFE_POOL: Store = Store::Pool { write_cache: false };

fn scenario(suite: &'static str, exports: Vec<Export>) -> Scenario {
    Scenario {
        suite,
        name: suite,
        mode: Mode::Export,
        transport: Transport::Tcp,
        exports,
        restricted: false,
        limit: Duration::from_secs(240),
    }
}

fn one(store: Store, size: u64) -> Vec<Export> {
    vec![Export { store, ..Export::new(0, size, 4096) }]
}

/// Of 4096-byte and of 512-byte blocks.
fn two(store: Store) -> Vec<Export> {
    let on = |index, block| Export { store, ..Export::new(index, 64 * MIB, block) };
    vec![on(0, 4096), on(1, 512)]
}

fn named(transport: &str) -> Transport {
    if transport == Transport::Rdma.label() { Transport::Rdma } else { Transport::Tcp }
}

/// The list: each suite, and the transports that it runs over. Its tests differ in nothing but the transport.
macro_rules! suites {
    ($($name:ident [$($over:ident)*]: $scenario:expr;)*) => {$(
        mod $name {
            use super::*;

            fn run_over(transport: Transport) {
                let of_one_transport = $scenario;
                // Where host and target share one emulated processor, all takes longer.
                let limit = of_one_transport.limit * if transport == Transport::Tcp { 1 } else { 2 };
                run(&Scenario { transport, limit, ..of_one_transport });
            }

            $(#[test]
            fn $over() {
                run_over(named(stringify!($over)));
            })*
        }
    )*};
}

suites! {
    basics [tcp rdma]: scenario("basics", one(Store::Memory, 64 * MIB));
    fs [tcp rdma]: scenario("fs", one(Store::File, 400 * MIB));
    fio [tcp rdma]: scenario("fio", two(Store::File));
    fs_on_a_pool [tcp rdma]: Scenario { name: "fs-pool", ..scenario("fs", one(POOL, 400 * MIB)) };
    fio_on_pools [tcp rdma]: Scenario { name: "fio-pool", ..scenario("fio", two(POOL)) };
    failover_on_a_pool [tcp rdma]: Scenario { name: "failover-pool", ..scenario("failover", one(SAFE_POOL, 64 * MIB)) };
    live [tcp rdma]: Scenario { mode: Mode::Serve, restricted: true, ..scenario("live", one(Store::File, 64 * MIB)) };
    failover [tcp rdma]: scenario("failover", one(Store::File, 64 * MIB));
    erase [tcp rdma]: Scenario {
        mode: Mode::Serve,
        ..scenario("erase", vec![
            Export { store: POOL, allow_erase: true, ..Export::new(0, 16 * MIB, 4096) },
            Export { store: POOL, ..Export::new(1, 16 * MIB, 4096) },
        ])
    };
    // What only RDMA has, and both transports at once.
    rdma [rdma]: Scenario { mode: Mode::Serve, ..scenario("rdma", one(Store::Memory, 64 * MIB)) };
    discovery [tcp rdma]: Scenario {
        mode: Mode::Serve,
        ..scenario("discovery", vec![Export::new(0, 64 * MIB, 4096), Export::new(1, 64 * MIB, 4096)])
    };
}

/// The conformance programs over RDMA, host and target in each. Over TCP, `cargo test` runs the same programs on this machine; the list of
/// both is `programs::LIST`.
#[test]
fn conformance() {
    run(&Scenario {
        mode: Mode::Programs,
        transport: Transport::Rdma,
        limit: Duration::from_secs(900),
        ..scenario("conformance", Vec::new())
    });
}

/// RDMA devices that come late, go and come back under I/O.
#[test]
fn devices() {
    run(&Scenario {
        mode: Mode::Serve,
        transport: Transport::Rdma,
        limit: Duration::from_secs(600),
        ..scenario("devices", one(Store::Memory, 64 * MIB))
    });
}

/// A cable that is pulled under I/O, and a port that is switched off.
#[test]
fn cable() {
    run(&Scenario {
        mode: Mode::Serve,
        transport: Transport::Rdma,
        limit: Duration::from_secs(600),
        ..scenario("cable", one(Store::Memory, 64 * MIB))
    });
}
