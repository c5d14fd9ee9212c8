//! The way from any thread to one queue: a mailbox, and a bell.
//!
//! A queue that has connected registers its link with its controller. Others put mail in and ring; the queue's thread
//! reads it in [`crate::Queue::poll`]. It must never be used on the way of an I/O command but for counting.

use crate::seam::{CloseReason, Notify};
use crate::snapshot::QueueSnapshot;
use crate::sync::lock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What one queue is told by another or by management.
#[derive(Debug)]
pub(crate) enum Mail {
    /// Close the connection.
    Close(CloseReason),
    /// Abort the command `cid` and say so to the admin queue, whose Abort command waits as `ticket`.
    Abort {
        /// The command to abort.
        cid: u16,
        /// Names the waiting Abort command.
        ticket: u32,
        /// Where the answer goes.
        answer: Arc<Link>,
    },
    /// The answer to [`Mail::Abort`].
    Aborted {
        /// As it was asked.
        ticket: u32,
        /// Whether the command was aborted.
        done: bool,
    },
}

/// A queue as others see it.
pub(crate) struct Link {
    pub(crate) qid: u16,
    pub(crate) entries: u32,
    pub(crate) peer: String,
    /// Commands received: what traffic-based keep-alive looks at. Written by the queue's thread only.
    commands: AtomicU64,
    notify: Arc<dyn Notify>,
    full: AtomicBool,
    mail: Mutex<Mailbox>,
}

#[derive(Default)]
struct Mailbox {
    letters: Vec<Mail>,
    /// The queue is gone.
    shut: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link(queue {})", self.qid)
    }
}

impl Link {
    pub(crate) fn new(qid: u16, entries: u32, peer: String, notify: Arc<dyn Notify>) -> Link {
        let (commands, full) = (AtomicU64::new(0), AtomicBool::new(false));
        Link { qid, entries, peer, commands, notify, full, mail: Mutex::default() }
    }

    /// Counts a command; on the queue's thread only.
    #[inline]
    pub(crate) fn count_command(&self) {
        self.commands.store(self.commands.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Commands received.
    pub(crate) fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    /// Puts `mail` in and rings; whether there is still somebody to read it.
    pub(crate) fn post(&self, mail: Mail) -> bool {
        let mut mailbox = lock(&self.mail);
        if mailbox.shut {
            return false;
        }
        mailbox.letters.push(mail);
        self.full.store(true, Ordering::Release);
        drop(mailbox);
        self.notify.notify();
        true
    }

    /// The queue is going: takes what is left and lets nothing more in.
    pub(crate) fn shut(&self) -> Vec<Mail> {
        let mut mailbox = lock(&self.mail);
        mailbox.shut = true;
        std::mem::take(&mut mailbox.letters)
    }

    /// Rings without mail: the queue looks at what has changed.
    pub(crate) fn ring(&self) {
        self.notify.notify();
    }

    /// Takes the mail out.
    pub(crate) fn take(&self) -> Vec<Mail> {
        if !self.full.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut lock(&self.mail).letters)
    }

    pub(crate) fn snapshot(&self) -> QueueSnapshot {
        QueueSnapshot {
            qid: self.qid,
            entries: self.entries,
            peer: self.peer.clone(),
            commands: self.commands(),
        }
    }
}
