//! A TPM 2.0 behind a stock kernel's own driver: swtpm as the device of a VM, and caisson in it, over /dev/tpmrm0.

use caisson_interop::paths;
use caisson_interop::results::Results;
use caisson_interop::vm::{Share, Vm, image};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A TPM, ended with the test.
struct Swtpm(Child);

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn keys_over_the_kernels_device() {
    if std::env::var("CAISSON_INTEROP_TARGET").is_ok_and(|target| target == "nvmet") {
        // The suites' proof of themselves has nothing to do with keys.
        return;
    }
    let image = image(false).unwrap_or_else(|why| panic!("{why}"));
    let folder = paths::suite_folder("tpm").unwrap();
    let (state, shared) = (folder.join("state"), folder.join("share"));
    std::fs::create_dir_all(&state).unwrap();
    std::fs::create_dir_all(&shared).unwrap();
    // The path of a socket has little room.
    let control = std::env::temp_dir().join(format!("caisson-tpm-{}", std::process::id()));
    let _ = std::fs::remove_file(&control);
    let tpm = Command::new("swtpm")
        .args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", state.display())])
        .args(["--ctrl", &format!("type=unixio,path={}", control.display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm runs (tools/setup test installs it)");
    let _tpm = Swtpm(tpm);
    let end = Instant::now() + Duration::from_secs(60);
    while !control.exists() {
        assert!(Instant::now() < end, "swtpm does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let program = paths::caisson().unwrap_or_else(|why| panic!("{why}"));
    std::fs::copy(program, shared.join("caisson")).unwrap();
    let share = Share::create(shared, "tpm", "TARGET=none\nWHERE=guest\nTRANSPORT=tcp\n").unwrap();
    let device = [
        "-chardev".to_owned(),
        format!("socket,id=tpm,path={}", control.display()),
        "-tpmdev".to_owned(),
        "emulator,id=tpm0,chardev=tpm".to_owned(),
        "-device".to_owned(),
        "tpm-tis,tpmdev=tpm0".to_owned(),
    ];
    let mut vm = Vm::boot_with(&image, &share, Duration::from_secs(900), 1024, &device).unwrap();
    let status = loop {
        if let Some(status) = vm.ended().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let _ = std::fs::remove_file(&control);
    let results = Results::parse(&share.results());
    let faults = results.faults(false);
    println!("tpm: {} ok, {} failed", results.passed.len(), results.failed.len());
    assert!(
        faults.is_empty() && status == 0,
        "{status} {faults:?}: {}\n{}",
        share.results(),
        share.console()
    );
}
