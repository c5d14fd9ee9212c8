//! How other threads reach a data-plane thread: a queue of messages and a bell that is rung only when it sleeps.

use super::heavy::SLICE_NS;
use super::shared::clock;
use caisson_block::{Heavy, Parked, Remote};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What can be said to a data-plane thread.
pub(crate) enum Message {
    /// Take this connection over.
    Adopt {
        /// The connected socket.
        socket: OwnedFd,
        /// The port it came in by.
        port: u16,
    },
    /// Listen on this socket.
    Listen {
        /// The listener's key.
        listener: u32,
        /// The port that its connections belong to.
        port: u16,
        /// The bound, listening socket.
        socket: OwnedFd,
    },
    /// Stop listening.
    Unlisten {
        /// The listener's key.
        listener: u32,
    },
    /// Poll this queue: something of its controller changed.
    Poll {
        /// The connection's key.
        key: u32,
    },
    /// Call `who.woken(token)`.
    Wake {
        /// Who waits.
        who: Arc<dyn Parked>,
        /// What it waits under.
        token: u64,
    },
    /// The same, when there is time for heavy work.
    WakeLater {
        /// Who waits.
        who: Arc<dyn Parked>,
        /// What it waits under.
        token: u64,
        /// In which order.
        heavy: Heavy,
    },
    /// From the thread that speaks to RDMA devices.
    Rdma(super::rdma::Message),
    /// End every connection and stop.
    Shutdown,
}

/// The queue and the bell of one thread.
pub(crate) struct Mailbox {
    messages: Mutex<Vec<Message>>,
    /// The thread has ended: messages are dropped, not kept.
    over: AtomicBool,
    /// Set with every message; lets the thread look without taking the lock.
    waiting: AtomicBool,
    /// Set by the thread before it sleeps.
    asleep: AtomicBool,
    /// No heavy work was done since the thread last looked at what had come. Only the thread itself looks.
    fresh: AtomicBool,
    /// When the piece of heavy work that was last begun has had its time, in nanoseconds of the clock. As `fresh`.
    until: AtomicU64,
    bell: OwnedFd,
}

impl Mailbox {
    /// An empty mailbox.
    ///
    /// # Errors
    /// When the system has no eventfd to give.
    pub(crate) fn new() -> io::Result<Arc<Mailbox>> {
        let bell = rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        )?;
        Ok(Arc::new(Mailbox {
            messages: Mutex::new(Vec::new()),
            over: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            fresh: AtomicBool::new(true),
            until: AtomicU64::new(0),
            bell,
        }))
    }

    /// Leaves a message, and rings when the thread sleeps.
    pub(crate) fn post(&self, message: Message) {
        {
            let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the lock, so that nothing is left behind `close`.
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            messages.push(message);
        }
        self.ring();
    }

    /// Wakes the thread without a message.
    pub(crate) fn ring(&self) {
        // SeqCst on both flags, here and in `about_to_sleep`: either we see `asleep` and ring, or the thread sees
        // `waiting` and does not sleep.
        self.waiting.store(true, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // A full counter still wakes, and nothing else can fail on an eventfd that is open.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    /// Whether a message waits.
    #[inline]
    pub(crate) fn waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Announces sleep. `false` when a message waits already and the thread must not sleep.
    pub(crate) fn about_to_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) {
            self.awake();
            return false;
        }
        true
    }

    /// Takes the announcement back.
    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Takes all messages.
    pub(crate) fn take(&self, into: &mut Vec<Message>) {
        if self.waiting.swap(false, Ordering::SeqCst) {
            into.append(&mut self.messages.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The thread has looked at what has come: heavy work may be done again.
    pub(crate) fn looked(&self) {
        self.fresh.store(true, Ordering::Relaxed);
    }

    /// Takes the leave to do heavy work until the thread looks again. `false` when it was taken: only who has one already
    /// may go on.
    pub(crate) fn take_leave(&self) -> bool {
        // No swap: the thread is alone here.
        let fresh = self.fresh.load(Ordering::Relaxed);
        self.fresh.store(false, Ordering::Relaxed);
        self.until.store(clock().0 + SLICE_NS, Ordering::Relaxed);
        fresh
    }

    /// Whether the leave was taken since the thread last looked.
    pub(crate) fn left(&self) -> bool {
        !self.fresh.load(Ordering::Relaxed)
    }

    /// Drops what waits and everything that is posted from now on: the thread has ended. What a parked request holds (its
    /// claims, its buffers) is let go with it.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
            self.over.store(true, Ordering::Relaxed);
            std::mem::take(&mut *messages)
        };
        // Outside the lock: dropping may wake others, us included.
        drop(waiting);
    }

    /// What becomes readable when the bell is rung.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Silences the bell.
    pub(crate) fn silence(&self) {
        let mut count = [0u8; 8];
        // EAGAIN when it was silent already.
        let _ = rustix::io::read(&self.bell, &mut count);
    }
}

impl Remote for Mailbox {
    fn wake(&self, who: Arc<dyn Parked>, token: u64) {
        self.post(Message::Wake { who, token });
    }

    fn wake_later(&self, who: Arc<dyn Parked>, token: u64, heavy: Heavy) {
        self.post(Message::WakeLater { who, token, heavy });
    }

    fn may_be_heavy(&self) -> bool {
        !self.left() && self.take_leave()
    }

    fn slice_is_over(&self) -> bool {
        clock().0 >= self.until.load(Ordering::Relaxed)
    }
}

/// Has one queue polled, from any thread.
pub(crate) struct Nudge {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) key: u32,
    /// Cleared when the poll happens, so that a storm of changes is one message.
    pub(crate) pending: AtomicBool,
}

impl caisson_core::Notify for Nudge {
    fn notify(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.mailbox.post(Message::Poll { key: self.key });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(m: &Mailbox) -> bool {
        let mut count = [0u8; 8];
        rustix::io::read(m.bell(), &mut count).is_ok()
    }

    #[test]
    fn one_piece_of_heavy_work_between_two_looks_and_for_a_time() {
        let m = Mailbox::new().unwrap();
        assert!(m.slice_is_over(), "none was begun");
        assert!(m.may_be_heavy() && !m.may_be_heavy() && m.left());
        while !m.slice_is_over() {
            std::hint::spin_loop();
        }
        m.looked();
        assert!(!m.left() && m.may_be_heavy());
    }

    #[test]
    fn rings_only_the_sleeping() {
        let m = Mailbox::new().unwrap();
        m.post(Message::Poll { key: 1 });
        assert!(!rung(&m));
        assert!(!m.about_to_sleep(), "a message waits");
        let mut got = Vec::new();
        m.take(&mut got);
        assert_eq!(got.len(), 1);
        assert!(m.about_to_sleep());
        m.post(Message::Poll { key: 2 });
        m.post(Message::Poll { key: 3 });
        assert!(rung(&m));
        m.awake();
        m.take(&mut got);
        assert_eq!(got.len(), 3);
    }
}
