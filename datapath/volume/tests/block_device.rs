//! Plain volumes on real block devices: loop devices with sectors of 512 and 4096 bytes. Skipped, saying so, where
//! this process may not make loop devices.

mod harness;

use caisson_block::Op;
use caisson_device::sim::Rng;
use caisson_volume::{ManageError, OpenError, Opened, Options, open};
use harness::{Thread, extent, follow};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device over a file of 8 MiB; taken down when dropped.
struct Loop {
    device: String,
    image: PathBuf,
}

impl Loop {
    fn new(name: &str, sector: u32) -> Option<Loop> {
        let name = format!("caisson-loop-{name}-{sector}-{}", std::process::id());
        let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let made = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on", "--sector-size", &sector.to_string()])
            .arg(&image)
            .output();
        match made {
            Ok(out) if out.status.success() => {
                Some(Loop { device: String::from_utf8(out.stdout).unwrap().trim().to_owned(), image })
            }
            other => {
                eprintln!("skipped: no loop devices here: {other:?}");
                let _ = std::fs::remove_file(image);
                None
            }
        }
    }

    fn open(&self, block_size: u32) -> Result<Opened, OpenError> {
        open(&self.device.parse().unwrap(), &Options { block_size, ..Options::default() })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
        let _ = std::fs::remove_file(&self.image);
    }
}

#[test]
fn behaves_as_an_array() {
    for (sector, block) in [(512, 512), (512, 4096), (4096, 4096), (4096, 512)] {
        let Some(device) = Loop::new("array", sector) else { return };
        let mut model = vec![0; 8 << 20];
        let mut rng = Rng::new(u64::from(sector * 10 + block));
        let Opened { volume, manage } = device.open(block).unwrap();
        let mut t = Thread::new();
        eprintln!("sectors of {sector}, blocks of {block}");
        follow(&mut t, &*volume, &mut model, &mut rng, 120);
        manage.close().unwrap();
        drop((volume, manage));
        let again = device.open(block).unwrap();
        let at = extent(0, (2 << 20) / u64::from(block));
        assert!(t.alone(&*again.volume, Op::Read { at }).unwrap().to_vec() == model[..2 << 20]);
    }
}

#[test]
fn belongs_to_one() {
    let Some(device) = Loop::new("one", 512) else { return };
    let first = device.open(4096).unwrap();
    let said = device.open(4096).err().unwrap().to_string();
    assert!(said.contains(&format!("in use by this process (pid {})", std::process::id())), "{said}");
    assert!(matches!(first.manage.resize(100), Err(ManageError::Fixed { .. })));
    first.manage.resize(2048).unwrap();
    drop(first);

    // Whoever has it mounted is named too.
    let folder = device.image.with_extension("mount");
    std::fs::create_dir_all(&folder).unwrap();
    let run = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).output();
        out.is_ok_and(|o| o.status.success())
    };
    let at = folder.to_str().unwrap();
    if run("mkfs.ext4", &["-q", &device.device]) && run("mount", &[&device.device, at]) {
        let said = device.open(4096).err().map(|e| e.to_string());
        assert!(run("umount", &[at]));
        let said = said.unwrap();
        assert!(said.contains(&format!("mounted at {at}")), "{said}");
        device.open(4096).unwrap();
    } else {
        eprintln!("skipped: cannot make or mount a file system here");
    }
    let _ = std::fs::remove_dir(folder);
}
