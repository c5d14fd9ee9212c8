//! A target that is stopped while a pool still has something to do for what was answered.

mod support;

use caisson_initiator::{Address, Client, Command, Data, Options};
use caisson_wire::opcode::io as op;
use std::time::Duration;
use support::{Dir, Running, good};

const NQN: &str = "nqn.2024-01.com.example:stop";
/// Blocks of 4 KiB of a command, and commands.
const RUN: u32 = 64;
const RUNS: u32 = 24;

/// Noise, which makes the batches large.
fn content(seed: u32) -> Vec<u8> {
    let mut x = u64::from(seed) + 1;
    let mut word = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..512 * RUN).flat_map(|_| word().to_le_bytes()).collect()
}

#[test]
fn a_target_that_is_stopped_right_after_writes_ends_and_keeps_them() {
    let dir = Dir::new("stop");
    std::fs::write(dir.path("pass"), "correct horse\n").unwrap();
    let (store, key, pass, socket) =
        (format!("pool:{}", dir.path("p")), dir.path("key"), dir.path("pass"), dir.path("s"));
    let keys = ["--key-file", &key, "--passphrase-file", &pass];
    let fixed = ["--nqn", NQN, "--listen", "tcp://127.0.0.1:0", "--size", "64M", "--pool-size", "256M"];
    let args = [&["--socket", &socket, "export", &store], &keys[..], &fixed].concat();
    for round in 0..6 {
        let mut t = Running::start(&args, "Ctrl-C");
        let port = t.listening()[0].rsplit_once(':').unwrap().1.parse().unwrap();
        let mut options = Options::new(Address::new("127.0.0.1", port), NQN);
        options.kato_ms = 0;
        let mut client = Client::connect(options).unwrap();
        let mut queue = client.io_queue(1, 64).unwrap();
        let at = |opcode, run: u32| Command::new(opcode, 1).dword(10, run * RUN).dword(12, RUN - 1);
        for run in (0..RUNS).filter(|_| round > 0) {
            let done = queue.run(at(op::READ, run).with(Data::In(RUN << 12))).unwrap();
            assert!(done.data == content((round - 1) * RUNS + run), "run {run} of round {}", round - 1);
        }
        for run in 0..RUNS {
            let data = content(round * RUNS + run);
            let done = queue.run(at(op::WRITE, run).with(Data::Out(data))).unwrap();
            assert!(done.status().is_success(), "{}", done.status());
        }
        drop((queue, client));
        // A moment or none: what is under way then differs.
        std::thread::sleep(Duration::from_millis(u64::from(round % 3)));
        assert_eq!(t.signal("INT"), Some(0));
    }
    let pool = dir.path("p");
    let check = [&["check", &pool], &keys[..]].concat();
    assert!(good(&check).contains("the pool is whole"));
}
