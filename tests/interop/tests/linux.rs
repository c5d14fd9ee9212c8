//! A stock Linux kernel's NVMe/TCP and NVMe/RDMA hosts against caisson, one suite of `guest/` a test.

use std::time::Duration;

use caisson_interop::scenario::{Export, Mode, Scenario, Store};
use caisson_interop::suite::run;

const MIB: u64 = 1 << 20;

fn scenario(suite: &'static str, exports: Vec<Export>) -> Scenario {
    Scenario {
        suite,
        name: suite,
        mode: Mode::Export,
        exports,
        restricted: false,
        limit: Duration::from_secs(240),
    }
}

#[test]
fn basics() {
    let export = Export { store: Store::Memory, ..Export::new(0, 64 * MIB, 4096) };
    run(&scenario("basics", vec![export]));
}

#[test]
fn fs() {
    run(&scenario("fs", vec![Export::new(0, 400 * MIB, 4096)]));
}

#[test]
fn fio() {
    run(&scenario("fio", vec![Export::new(0, 64 * MIB, 4096), Export::new(1, 64 * MIB, 512)]));
}

/// The same on volumes of pools, with deduplication, compression and sealing.
const POOL: Store = Store::Pool { write_cache: true };

#[test]
fn fs_on_a_pool() {
    let exports = vec![Export { store: POOL, ..Export::new(0, 400 * MIB, 4096) }];
    run(&Scenario { name: "fs-pool", ..scenario("fs", exports) });
}

#[test]
fn fio_on_pools() {
    let on = |index, block| Export { store: POOL, ..Export::new(index, 64 * MIB, block) };
    run(&Scenario { name: "fio-pool", ..scenario("fio", vec![on(0, 4096), on(1, 512)]) });
}

/// Without a volatile write cache: a host does not know that a target was killed, and repeats nothing that was
/// acknowledged.
#[test]
fn failover_on_a_pool() {
    let store = Store::Pool { write_cache: false };
    let exports = vec![Export { store, ..Export::new(0, 64 * MIB, 4096) }];
    run(&Scenario { name: "failover-pool", ..scenario("failover", exports) });
}

#[test]
fn live() {
    let exports = vec![Export::new(0, 64 * MIB, 4096)];
    run(&Scenario { mode: Mode::Serve, restricted: true, ..scenario("live", exports) });
}

#[test]
fn failover() {
    run(&scenario("failover", vec![Export::new(0, 64 * MIB, 4096)]));
}

#[test]
fn discovery() {
    let exports = vec![Export::new(0, 64 * MIB, 4096), Export::new(1, 64 * MIB, 4096)];
    run(&Scenario { mode: Mode::Serve, ..scenario("discovery", exports) });
}

/// Over soft-RoCE, the target inside the guest.
#[test]
fn rdma() {
    let export = Export { store: Store::Memory, ..Export::new(0, 64 * MIB, 4096) };
    let limit = Duration::from_secs(480);
    run(&Scenario { mode: Mode::Guest, limit, ..scenario("rdma", vec![export]) });
}
