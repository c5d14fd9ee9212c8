//! A log is written, goes on after a restart and a crash, and whatever is done to it is seen.

use caisson_audit::{Log, verify};
use std::path::PathBuf;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("caisson-audit-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join("audit.log")
    }

    fn open(&self) -> Log {
        Log::open(&self.log(), &self.0.join("audit.key")).unwrap_or_else(|e| panic!("{e}"))
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn written(dir: &Dir) -> String {
    let mut log = dir.open();
    log.write("unlock", "main", "file root:1234", true).unwrap();
    log.write("rotate", "main", "with \"quotes\"\nand a line", false).unwrap();
    drop(log);
    let mut log = dir.open();
    log.write("rotate", "main", "root:5678", true).unwrap();
    dir.text()
}

#[test]
fn a_log_goes_on_after_a_restart_and_is_whole() {
    let dir = Dir::new("whole");
    let text = written(&dir);
    let found = verify(&text, None).unwrap();
    assert_eq!(found.records.iter().map(|r| r.n).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(found.records[2].what, "with \"quotes\"and a line");
    assert_eq!((found.public.clone(), found.torn), (dir.open().public(), false));
    assert_eq!(verify(&text, Some(&found.public)).unwrap(), found);
    for file in ["audit.log", "audit.key"] {
        let mode = std::os::unix::fs::MetadataExt::mode(&dir.0.join(file).metadata().unwrap());
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // Its last hash is another with each record, and is missed when the end is cut off.
    let cut = &text[..text.trim_end().rfind('\n').unwrap() + 1];
    assert_ne!(verify(cut, None).unwrap().head, found.head);
}

#[test]
fn every_changed_byte_and_every_missing_line_is_seen() {
    let dir = Dir::new("changed");
    let text = written(&dir);
    for at in 0..text.len() - 1 {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        if let Ok(changed) = String::from_utf8(bytes) {
            assert!(verify(&changed, None).is_err(), "byte {at}");
        }
    }
    let lines: Vec<&str> = text.lines().collect();
    for skip in 0..lines.len() - 1 {
        let less: String =
            lines.iter().enumerate().filter(|(n, _)| *n != skip).map(|(_, l)| format!("{l}\n")).collect();
        assert!(verify(&less, None).is_err(), "without line {skip}");
    }
    let turned = format!("{}\n{}\n{}\n{}\n", lines[0], lines[2], lines[1], lines[3]);
    assert!(verify(&turned, None).is_err());
    assert!(verify("", None).is_err() && verify("nothing\n", None).is_err());
    // One that somebody wrote anew with a key of his own is whole in itself, and not of the key that was noted.
    let own = verify(&text, None).unwrap().public;
    let other = written(&Dir::new("other"));
    assert!(verify(&other, Some(&own)).unwrap_err().to_string().contains("another key"));
}

#[test]
fn half_a_record_of_a_crash_goes() {
    let dir = Dir::new("torn");
    let text = written(&dir);
    let last = text.trim_end().rfind('\n').unwrap() + 1;
    for len in last + 1..text.len() {
        std::fs::write(dir.log(), &text[..len]).unwrap();
        assert!(verify(&dir.text(), None).unwrap().torn);
        dir.open().write("unlock", "main", "again", true).unwrap();
        let found = verify(&dir.text(), None).unwrap();
        assert_eq!((found.records.len(), found.torn), (4, false), "{len} bytes");
        assert_eq!(found.records[3].what, "again");
    }
}

#[test]
fn what_is_no_log_or_no_key_is_refused() {
    let dir = Dir::new("odd");
    let (log, key) = (dir.log(), dir.0.join("audit.key"));
    written(&dir);
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    assert!(Log::open(&log, &key).err().unwrap().to_string().contains("chmod 600"));
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&log, "something else\n").unwrap();
    let error = Log::open(&log, &key).err().unwrap();
    assert!(error.to_string().contains("no record") && error.remedy().contains("--verify"), "{error}");
    std::fs::write(&key, "no key").unwrap();
    assert!(Log::open(&log, &key).is_err());
}

/// A command beside a running target, on the same log: one chain.
#[test]
fn two_who_write_go_on_behind_each_other() {
    let dir = std::env::temp_dir().join(format!("caisson-audit-two-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let open = || Log::open(&dir.join("audit.log"), &dir.join("audit.key")).unwrap();
    let (mut one, mut two) = (open(), open());
    one.write("create", "main", "by one", true).unwrap();
    two.write("rotate", "main", "by two", true).unwrap();
    two.write("rotate", "main", "by two again", true).unwrap();
    one.write("remove", "main", "by one again", true).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let mut log = open();
            std::thread::spawn(move || {
                (0..20).for_each(|i| log.write("op", "p", &format!("{n} {i}"), true).unwrap())
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    let text = std::fs::read_to_string(dir.join("audit.log")).unwrap();
    let found = caisson_audit::verify(&text, None).unwrap();
    assert_eq!(found.records.len(), 85);
    std::fs::remove_dir_all(&dir).unwrap();
}
