//! Who has a file that we cannot have: found in /proc and /sys, for the error message only.

use rustix::fs::{FileType, Stat};
use std::path::Path;

/// Who holds `path`, and what to do, in words.
pub(crate) fn find(path: &Path) -> (String, String) {
    let Ok(stat) = rustix::fs::stat(path) else {
        return ("another process".into(), "Stop it, or choose another store.".into());
    };
    let process = std::fs::read_to_string("/proc/locks").ok().and_then(|locks| locker(&locks, &stat));
    if let Some(pid) = process {
        return name(pid);
    }
    if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice {
        return device(&stat);
    }
    (
        "another process (not visible from here: another container, or another host of a shared file system)"
            .into(),
        "Stop it, or choose another store.".into(),
    )
}

/// The process that has the flock on the file, in the text of /proc/locks: `1: FLOCK  ADVISORY  WRITE 77 fe:00:12 0 EOF`.
fn locker(locks: &str, stat: &Stat) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let id = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.nth(1)? == "FLOCK").then_some(())?;
        let pid = words.nth(2)?.parse().ok()?;
        (words.next()? == id && pid != 0).then_some(pid)
    })
}

fn name(pid: u32) -> (String, String) {
    if pid == std::process::id() {
        return (
            format!("this process (pid {pid})"),
            "Each store can be opened once: export the volume that is open already.".into(),
        );
    }
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let holder = match command.trim() {
        "" => format!("process {pid}"),
        command => format!("process {pid} ({command})"),
    };
    (holder, format!("Stop it (kill {pid}), or choose another store."))
}

/// What claims a block device: a mount, or a device built on it.
fn device(stat: &Stat) -> (String, String) {
    let id = format!("{}:{}", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.nth(2)? == id).then_some(())?;
        words.nth(1).map(str::to_owned)
    });
    if let Some(at) = mounted {
        return (
            format!("the file system mounted at {at}"),
            format!("Unmount it (umount {at}) if it is not needed."),
        );
    }
    let above: Vec<String> = std::fs::read_dir(format!("/sys/dev/block/{id}/holders"))
        .map(|names| names.flatten().map(|n| n.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    if !above.is_empty() {
        return (
            format!("the device {} built on it", above.join(", ")),
            "Take that down first (dmsetup, mdadm, vgchange).".into(),
        );
    }
    (
        "the kernel (one of its partitions is mounted, or it is swap) or another process".into(),
        "See lsblk and /proc/swaps.".into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_list() {
        let mut stat = rustix::fs::stat("/").unwrap();
        stat.st_dev = rustix::fs::makedev(254, 0);
        stat.st_ino = 131_090;
        let text = "1: POSIX  ADVISORY  WRITE 5 fe:00:131090 0 EOF\n2: FLOCK  ADVISORY  READ 6 fe:00:131091 0 EOF\n\
                    3: FLOCK  ADVISORY  WRITE 77 fe:00:131090 0 EOF\n";
        assert_eq!(locker(text, &stat), Some(77));
        stat.st_ino = 1;
        assert_eq!(locker(text, &stat), None);
        assert_eq!(locker("garbage\n\n1:", &stat), None);
    }
}
