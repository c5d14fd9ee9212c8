//! Sees devices come and go by their nodes under `/dev/infiniband`.
//!
//! The connection manager tells of a device that is removed, but only once the kernel's verbs have let it go; where those were loaded
//! after the connection manager, and the driver cannot take a device from who has it open (soft-RoCE), they wait for us first.
//! Their node is gone by then. Where there are no such nodes, the connection manager's word is all there is.

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const FOLDER: &str = "/dev/infiniband";

/// The watch on the nodes.
pub(super) struct Nodes(Option<OwnedFd>);

/// What happened to them since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) came: bool,
    pub(super) went: bool,
}

impl Nodes {
    pub(super) fn new() -> Nodes {
        Nodes::of(FOLDER)
    }

    fn of(folder: &str) -> Nodes {
        let made = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).and_then(|fd| {
            add_watch(&fd, folder, WatchFlags::CREATE | WatchFlags::DELETE)?;
            Ok(fd)
        });
        if let Err(error) = &made {
            tracing::debug!(%error, folder, "RDMA devices are not seen to come and go");
        }
        Nodes(made.ok())
    }

    /// What becomes readable when something happened.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// What happened.
    pub(super) fn changes(&self) -> Changes {
        let mut changes = Changes::default();
        let mut buffer = [MaybeUninit::uninit(); 1024];
        if let Some(fd) = &self.0 {
            let mut reader = Reader::new(fd, &mut buffer);
            while let Ok(event) = reader.next() {
                changes.came |= event.events().contains(ReadFlags::CREATE);
                changes.went |= event.events().contains(ReadFlags::DELETE);
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_is_seen_once() {
        let folder = std::env::temp_dir().join(format!("caisson-nodes-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let nodes = Nodes::of(folder.to_str().unwrap());
        assert!(nodes.fd().is_some());
        assert_eq!(nodes.changes(), Changes::default());
        std::fs::write(folder.join("uverbs0"), "").unwrap();
        assert_eq!(nodes.changes(), Changes { came: true, went: false });
        std::fs::remove_file(folder.join("uverbs0")).unwrap();
        assert_eq!(nodes.changes(), Changes { came: false, went: true });
        assert_eq!(nodes.changes(), Changes::default());
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(Nodes::of("/no/such/folder").fd().is_none());
    }
}
