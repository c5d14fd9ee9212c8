//! A stock Linux kernel's NVMe/TCP and NVMe/RDMA hosts against caisson: one list of suites of `guest/`, each over both
//! transports, and the conformance programs where there is RDMA.

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

/// The list: each suite's test `tcp` and test `rdma` differ in nothing but the transport. An attribute in front is of the latter.
macro_rules! suites {
    ($($(#[$of_rdma:meta])* $name:ident: $scenario:expr;)*) => {$(
        mod $name {
            use super::*;

            fn over(transport: Transport) {
                let of_one_transport = $scenario;
                // Where host and target share one emulated processor, all takes longer.
                let limit = of_one_transport.limit * if transport == Transport::Rdma { 2 } else { 1 };
                run(&Scenario { transport, limit, ..of_one_transport });
            }

            #[test]
            fn tcp() {
                over(Transport::Tcp);
            }

            #[test]
            $(#[$of_rdma])*
            fn rdma() {
                over(Transport::Rdma);
            }
        }
    )*};
}

suites! {
    #[ignore = "written for both transports, and not yet run over RDMA: run it with --ignored"]
    basics: scenario("basics", one(Store::Memory, 64 * MIB));
    #[ignore = "written for both transports, and not yet run over RDMA: run it with --ignored"]
    fs: scenario("fs", one(Store::File, 400 * MIB));
    #[ignore = "written for both transports, and not yet run over RDMA: run it with --ignored"]
    fio: scenario("fio", two(Store::File));
    #[ignore = "written for both transports, and not yet run over RDMA: run it with --ignored"]
    fs_on_a_pool: Scenario { name: "fs-pool", ..scenario("fs", one(POOL, 400 * MIB)) };
    #[ignore = "written for both transports, and not yet run over RDMA: run it with --ignored"]
    fio_on_pools: Scenario { name: "fio-pool", ..scenario("fio", two(POOL)) };
    #[ignore = "written for both transports, and not yet run over RDMA: run it with --ignored"]
    failover_on_a_pool: Scenario { name: "failover-pool", ..scenario("failover", one(SAFE_POOL, 64 * MIB)) };
    #[ignore = "written for both transports, and not yet run over RDMA: run it with --ignored"]
    live: Scenario { mode: Mode::Serve, restricted: true, ..scenario("live", one(Store::File, 64 * MIB)) };
    #[ignore = "written for both transports, and not yet run over RDMA: run it with --ignored"]
    failover: scenario("failover", one(Store::File, 64 * MIB));
    #[ignore = "written for both transports, and not yet run over RDMA: run it with --ignored"]
    discovery: Scenario {
        mode: Mode::Serve,
        ..scenario("discovery", vec![Export::new(0, 64 * MIB, 4096), Export::new(1, 64 * MIB, 4096)])
    };
}

/// What only RDMA has, over soft-RoCE, and both transports at once.
#[test]
fn rdma() {
    run(&Scenario {
        mode: Mode::Serve,
        transport: Transport::Rdma,
        limit: Duration::from_secs(480),
        ..scenario("rdma", one(Store::Memory, 64 * MIB))
    });
}

/// The conformance programs over RDMA, with Caisson's own initiator.
#[test]
#[ignore = "its programs have not all been run over RDMA yet: run it with --ignored"]
fn conformance() {
    run(&Scenario {
        mode: Mode::Programs,
        transport: Transport::Rdma,
        limit: Duration::from_secs(600),
        ..scenario("conformance", Vec::new())
    });
}
