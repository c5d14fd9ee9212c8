//! What is left of connections whose queue pairs are gone: the connection manager's part, kept until their hosts can be told.
//!
//! To give up such a part is to send the host a message. A link that fails takes along what is sent on it, and with soft-RoCE more than that:
//! the queue pair that all of the connection manager's messages go by (QP1) fails with the send, nothing brings it back, and no host is
//! answered any more until the device is made anew. So nothing is sent by a port that is down, nor soon after it has come up (its routes may
//! come later), nor soon after a queue pair has failed for no reason that its host gave: that is how a link's end shows first, and the port is
//! down up to a second later.
//!
//! Knows devices and ports by number and time as it is handed in; drops what it was given, and does nothing else. What it holds counts as
//! connections (`Shared::place`).

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long nothing is sent after a failure or after a port came up. Linux tells of a link's end at most a second late (linkwatch).
pub(super) const SETTLE: Duration = Duration::from_secs(2);

/// A port: [`Device::key`](caisson_verbs::Device::key) and the number.
pub(super) type At = (usize, u8);

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By the host, whose message has come by the link and waits for an answer.
    Theirs,
    /// By us.
    Ours,
    /// Its queue pair failed, and nothing that the host did explains it.
    Failure,
}

struct Parting<T> {
    /// [`Connection::key`](caisson_verbs::Connection::key) of what it was.
    key: usize,
    at: At,
    /// Not before this.
    from: Instant,
    end: End,
    _left: T,
}

/// All of them.
pub(super) struct Partings<T> {
    waiting: Vec<Parting<T>>,
    /// Ports that have gone down: since when they are up again.
    ports: HashMap<At, Option<Instant>>,
}

impl<T> Default for Partings<T> {
    fn default() -> Partings<T> {
        Partings { waiting: Vec::new(), ports: HashMap::new() }
    }
}

impl<T> Partings<T> {
    /// Keeps what is left of the connection `key`.
    pub(super) fn add(&mut self, key: usize, at: At, left: T, end: End, now: Instant) {
        let from = if end == End::Failure { now + SETTLE } else { now };
        self.waiting.push(Parting { key, at, from, end, _left: left });
    }

    /// The host of this one has ended it, too.
    pub(super) fn heard(&mut self, key: usize, now: Instant) {
        self.waiting.iter_mut().filter(|p| p.key == key).for_each(|p| (p.end, p.from) = (End::Theirs, now));
    }

    /// A port has gone down or come up.
    pub(super) fn port(&mut self, at: At, up: bool, now: Instant) {
        self.ports.insert(at, up.then_some(now));
    }

    /// The device on which this one was, if it is one.
    pub(super) fn device(&self, key: usize) -> Option<usize> {
        self.waiting.iter().find(|p| p.key == key).map(|p| p.at.0)
    }

    /// A device goes, and all that is left on it with it.
    pub(super) fn gone(&mut self, device: usize) {
        self.waiting.retain(|p| p.at.0 != device);
        self.ports.retain(|at, _| at.0 != device);
    }

    /// When this one may go; none while its port is down.
    fn due(&self, p: &Parting<T>) -> Option<Instant> {
        match self.ports.get(&p.at).filter(|_| p.end != End::Theirs) {
            None => Some(p.from),
            Some(up) => up.map(|since| p.from.max(since + SETTLE)),
        }
    }

    /// When the next one may go.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|p| self.due(p)).min()
    }

    /// Ends those whose time has come.
    pub(super) fn end(&mut self, now: Instant) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|p| self.due(p).is_none_or(|at| at > now));
        self.waiting = waiting;
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Ends all of them.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    const DEVICE: usize = 0x7000;
    const PORT: At = (DEVICE, 1);

    /// Partings of tokens that are counted, a beginning, and a time to be late.
    struct Scene {
        partings: Partings<Rc<()>>,
        token: Rc<()>,
        begin: Instant,
    }

    impl Scene {
        fn new() -> Scene {
            Scene { partings: Partings::default(), token: Rc::new(()), begin: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.begin + Duration::from_millis(ms)
        }

        fn add(&mut self, key: usize, at: At, end: End, ms: u64) {
            self.partings.add(key, at, Rc::clone(&self.token), end, self.at(ms));
        }

        fn port(&mut self, at: At, up: bool, ms: u64) {
            self.partings.port(at, up, self.at(ms));
        }

        /// How many are left at `ms`, and whether the thread that asks for the next time would have come here by then.
        fn left(&mut self, ms: u64) -> usize {
            let due = self.partings.next().is_some_and(|at| at <= self.at(ms));
            let before = self.partings.len();
            self.partings.end(self.at(ms));
            assert_eq!(due, before != self.partings.len());
            assert_eq!(Rc::strong_count(&self.token) - 1, self.partings.len());
            self.partings.len()
        }
    }

    #[test]
    fn a_host_is_told_at_once_by_a_link_that_is_well() {
        let mut s = Scene::new();
        s.add(1, PORT, End::Ours, 0);
        assert_eq!(s.left(0), 0);
    }

    /// The pulled cable: the queue pair fails first, the port is down soon after, and up again later. Nothing is sent from the first
    /// moment until the link has settled.
    #[test]
    fn nothing_is_sent_while_a_link_fails_and_is_down() {
        let mut s = Scene::new();
        s.add(1, PORT, End::Failure, 0);
        assert_eq!(s.left(0), 1);
        s.port(PORT, false, 900);
        assert_eq!(s.left(2_500), 1);
        // Another connection's keep-alive runs out meanwhile.
        s.add(2, PORT, End::Ours, 5_000);
        assert_eq!(s.left(60_000), 2);
        s.port(PORT, true, 60_000);
        assert_eq!(s.left(61_999), 2);
        assert_eq!(s.left(62_000), 0);
        assert_eq!(s.partings.next(), None);
    }

    #[test]
    fn a_failure_without_a_port_that_goes_down_is_told_a_little_later() {
        let mut s = Scene::new();
        s.add(1, PORT, End::Failure, 100);
        assert_eq!(s.left(2_099), 1);
        assert_eq!(s.left(2_100), 0);
    }

    #[test]
    fn a_port_that_goes_down_again_is_waited_for_again() {
        let mut s = Scene::new();
        s.port(PORT, false, 0);
        s.add(1, PORT, End::Ours, 10);
        s.port(PORT, true, 1_000);
        s.port(PORT, false, 2_000);
        assert_eq!(s.left(10_000), 1);
        s.port(PORT, true, 10_000);
        assert_eq!(s.left(12_000), 0);
    }

    #[test]
    fn other_ports_and_devices_do_not_matter() {
        let mut s = Scene::new();
        s.port((DEVICE, 2), false, 0);
        s.port((DEVICE + 1, 1), false, 0);
        s.add(1, PORT, End::Ours, 10);
        assert_eq!(s.left(10), 0);
    }

    #[test]
    fn a_host_that_speaks_is_answered() {
        let mut s = Scene::new();
        s.port(PORT, false, 0);
        s.add(1, PORT, End::Failure, 0);
        s.add(2, PORT, End::Failure, 0);
        s.add(3, PORT, End::Theirs, 0);
        assert_eq!(s.left(0), 2);
        s.partings.heard(1, s.at(500));
        assert_eq!(s.left(500), 1);
        assert_eq!(s.partings.device(2), Some(DEVICE));
        assert_eq!(s.partings.device(1), None);
    }

    #[test]
    fn nothing_is_left_on_a_device_that_goes() {
        let mut s = Scene::new();
        s.port(PORT, false, 0);
        s.add(1, PORT, End::Ours, 0);
        s.add(2, (DEVICE + 1, 1), End::Failure, 0);
        s.partings.gone(DEVICE);
        assert_eq!((s.partings.len(), Rc::strong_count(&s.token) - 1), (1, 1));
        // A device that comes to lie where the old one lay is another.
        s.add(3, PORT, End::Ours, 10);
        assert_eq!(s.left(10), 1);
        s.partings.clear();
        assert_eq!(s.left(20), 0);
    }
}
