//! Hot connections: those whose sockets the thread asks itself.
//!
//! What many of them bring is taken in turn, those that sent little before those that sent much, so that a small command
//! does not wait for the copy of a large one. Owns nothing: the driver has the sockets and the buffers.

use super::super::driver::{Event, RX_BUF, STEP, copy_out};
use super::{Uring, tagged};
use caisson_block::BufMut;
use io_uring::opcode;
use rustix::io::Errno;

/// Hot connections at once: each costs a system call a turn.
pub(super) const HOT: usize = 4;
/// Receives in a row, without the thread sleeping in between, that make a connection hot.
pub(super) const HEAT: u32 = 16;
/// Bytes received from hot connections in one look, or one receive of any length.
const HOT_BYTES: usize = RX_BUF;
/// Bytes that make a connection laden, when one look brings them.
pub(super) const LADEN: usize = 16 << 10;

impl Uring {
    /// Takes a connection's receive out of the ring and polls it from now on.
    pub(super) fn heat(&mut self, key: u32) {
        let Some(Some(conn)) = self.conns.get_mut(key as usize) else { return };
        conn.hot = true;
        conn.laden = false;
        let armed = conn.receiving;
        self.hot.push(key);
        if armed {
            let data = tagged::RECV | u64::from(key);
            self.push(opcode::AsyncCancel::new(data).build().user_data(tagged::IGNORE));
        }
    }

    /// Gives the hot connections back to the ring.
    pub(super) fn cool(&mut self) {
        while let Some(key) = self.hot.pop() {
            if let Some(Some(conn)) = self.conns.get_mut(key as usize) {
                conn.hot = false;
                conn.streak = 0;
            }
            self.arm_recv(key);
        }
    }

    /// Asks the hot sockets for what has come, the laden ones last. Not one whose receive the ring has not given up yet: what
    /// the ring has received of a connection came before what we would find now.
    pub(super) fn poll_hot(&mut self) {
        let mut left = HOT_BYTES;
        for laden in [false, true] {
            if laden && self.company && !self.told.is_empty() {
                // What the others have brought waits for no more than this.
                left = left.min(STEP);
            }
            for turn in 0..self.hot.len() {
                // In turn, so that one that always has much is not always before the others.
                let at = (self.first_hot + turn) % self.hot.len();
                let key = self.hot[at];
                if self.is_laden(key) != laden {
                    continue;
                }
                if left == 0 {
                    self.first_hot = at;
                    return;
                }
                left = left.saturating_sub(self.receive(key, laden, left));
            }
        }
    }

    fn is_laden(&self, key: u32) -> bool {
        matches!(self.conns.get(key as usize), Some(Some(c)) if c.laden)
    }

    /// Receives what has come on a hot connection, at most a buffer full, in company `most` bytes. How many bytes.
    fn receive(&mut self, key: u32, laden: bool, most: usize) -> usize {
        let Some(mut buf) = self.hot_buf.take().or_else(|| self.rx.spare()) else { return 0 };
        // Where nobody else is polled that may bring little, the ring's flag is looked at between buffers only.
        let divided = self.company && (!laden || self.hot.iter().any(|&key| !self.is_laden(key)));
        let (step, most) = if divided { (STEP, most.max(STEP)) } else { (RX_BUF, RX_BUF) };
        let mut n = 0;
        while n < most {
            let to = (n + step).min(buf.len());
            match self.ask(key, &mut buf[n..to]) {
                Some(Ok(got)) if got > 0 => n += got,
                // What is wrong is met again, after what came before it.
                Some(_) if n > 0 => break,
                Some(Ok(_)) => self.end(key, 0),
                Some(Err(Errno::AGAIN | Errno::INTR)) => self.stats.vain_polls += 1,
                Some(Err(e)) => self.end(key, e.raw_os_error()),
                None => {}
            }
            // There is no more, or others were asked less than a step ago.
            if n < to || !laden || self.others() {
                break;
            }
        }
        if let Some(Some(conn)) = self.conns.get_mut(key as usize) {
            conn.laden = n >= LADEN;
        }
        self.tell(key, buf, n);
        n
    }

    /// One receive. `None` from a connection that is not to be asked now.
    fn ask(&mut self, key: u32, into: &mut [u8]) -> Option<Result<usize, Errno>> {
        let Some(Some(conn)) = self.conns.get(key as usize) else { return None };
        if conn.receiving || conn.paused || conn.ended || conn.closing {
            return None;
        }
        self.stats.syscalls += 1;
        let got = rustix::net::recv(&conn.socket, into, rustix::net::RecvFlags::DONTWAIT);
        Some(got.map(|(n, _)| n))
    }

    fn end(&mut self, key: u32, error: i32) {
        if let Some(Some(conn)) = self.conns.get_mut(key as usize) {
            conn.ended = true;
            self.told.push(Event::Ended { key, error });
        }
    }

    /// Tells of the first `n` bytes of `buf`.
    fn tell(&mut self, key: u32, mut buf: BufMut, n: usize) {
        if n > 0 && !self.rx.short() {
            buf.truncate(n);
            self.told.push(Event::Received { key, bytes: buf.freeze() });
            return;
        }
        if n > 0 {
            // As in the ring: a host that sends in crumbs must not have all buffers in the end.
            self.stats.copied_rx += 1;
            copy_out(key, &buf[..n], &mut self.told);
        }
        self.hot_buf = Some(buf);
    }

    /// Whether other connections have something, the ring's or the hot ones that are not laden: these are asked for it.
    fn others(&mut self) -> bool {
        if !self.company {
            return false;
        }
        let stale = self.stale;
        if !self.ring.completion().is_empty() || self.ring.submission().taskrun() && !stale {
            return true;
        }
        let mut brought = 0;
        for at in 0..self.hot.len() {
            let key = self.hot[at];
            if !self.is_laden(key) {
                brought += self.receive(key, false, STEP);
            }
        }
        brought > 0
    }
}
