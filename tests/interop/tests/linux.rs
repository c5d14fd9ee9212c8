//! A stock Linux kernel's NVMe/TCP host against caisson, one suite of `guest/` a test.

use std::time::Duration;

use caisson_interop::scenario::{Export, Mode, Scenario};
use caisson_interop::suite::run;

const MIB: u64 = 1 << 20;

fn scenario(suite: &'static str, exports: Vec<Export>) -> Scenario {
    Scenario { suite, mode: Mode::Export, exports, restricted: false, limit: Duration::from_secs(240) }
}

#[test]
fn basics() {
    let export = Export { file: false, ..Export::new(0, 64 * MIB, 4096) };
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
