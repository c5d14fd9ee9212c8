//! Who has a file that we cannot have, and whether it is worth waiting for: found in /proc and /sys.

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

/// Whether whoever has `path` is there and will not let go by itself soon: a living process, a mount, a device built on it.
pub(crate) fn stays(path: &Path) -> bool {
    let Ok(stat) = rustix::fs::stat(path) else { return true };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    match locker(&locks, &stat) {
        Some(pid) => lives(pid),
        None if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice => is_claimed(&stat),
        None => false,
    }
}

/// Whether a process is neither gone nor on its way to be.
fn lives(pid: u32) -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    let (Ok(stat), Ok(status)) = (read("stat"), read("status")) else { return false };
    !is_ending(&stat, &status)
}

/// What /proc/PID/stat and /proc/PID/status (proc_pid_stat(5), proc_pid_status(5)) say of a process that is killed, ends, or has
/// ended and was not waited for.
fn is_ending(stat: &str, status: &str) -> bool {
    /// PF_EXITING of the kernel's flags.
    const EXITING: u64 = 4;
    /// SIGKILL in a mask of signals.
    const KILL: u64 = 1 << 8;
    // The name in parentheses may hold anything.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let gone = matches!(fields.next(), Some("Z" | "X"));
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).unwrap_or(0);
    let killed = status.lines().any(|line| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & KILL != 0)
    });
    gone || flags & EXITING != 0 || killed
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
    if let Some(at) = mounted(stat) {
        return (
            format!("the file system mounted at {at}"),
            format!("Unmount it (umount {at}) if it is not needed."),
        );
    }
    let above = above(stat);
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

fn is_claimed(stat: &Stat) -> bool {
    mounted(stat).is_some() || !above(stat).is_empty()
}

fn number(stat: &Stat) -> String {
    format!("{}:{}", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
}

/// Where a block device is mounted.
fn mounted(stat: &Stat) -> Option<String> {
    let id = number(stat);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.nth(2)? == id).then_some(())?;
        words.nth(1).map(str::to_owned)
    })
}

/// The devices that are built on a block device.
fn above(stat: &Stat) -> Vec<String> {
    std::fs::read_dir(format!("/sys/dev/block/{}/holders", number(stat)))
        .map(|names| names.flatten().map(|n| n.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default()
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

    #[test]
    fn tells_who_is_ending() {
        let status =
            |own, all| format!("Name:\tx\nSigPnd:\t{own}\nShdPnd:\t{all}\nSigBlk:\tffffffffffffffff\n");
        let none = status("0000000000000000", "0000000000000000");
        assert!(!is_ending("7 (a) b) S 1 7 7 0 -1 4194560 0 0", &none));
        assert!(is_ending("7 (a) b) Z 1 7 7 0 -1 4194560 0 0", &none));
        assert!(is_ending("7 (a) S 1 7 7 0 -1 4194564 0 0", &none));
        assert!(is_ending("7 (a) S 1 7 7 0 -1 4194560 0 0", &status("0000000000000000", "0000000000000100")));
        assert!(!is_ending("", ""));
        assert!(lives(std::process::id()) && !lives(u32::MAX));
    }
}
