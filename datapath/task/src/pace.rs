//! Heavy work of large commands in slices: what keeps a flood of them from holding up small ones.
//!
//! A command of many blocks copies, hashes, compresses and unpacks them in slices of some tens of microseconds. Before each
//! it asks the thread (see [`Port::slice`]), which does one after it has seen to what is prompt; a slice ends when it has
//! done so much work, or earlier, when the thread's clock says so. A command that has begun goes before one that has not,
//! so that what is under way stays in the processor's caches and ends soon.

use crate::Port;

/// The work of one command.
pub struct Pace<'a> {
    port: &'a Port,
    /// What is short enough to be done at once is not divided.
    divided: bool,
    begun: bool,
    /// What a slice may do, in units of the caller's.
    most: u32,
    /// What the slice may still do.
    left: u32,
}

impl<'a> Pace<'a> {
    /// Of slices of `most` units of work; or of none, where the work is not to be `divided`.
    pub fn new(port: &'a Port, divided: bool, most: u32) -> Pace<'a> {
        Pace { port, divided, begun: false, most, left: 0 }
    }

    /// Goes on when there is time for so much work: at once, or later.
    pub async fn spend(&mut self, work: u32) {
        if !self.divided {
            return;
        }
        if self.left < work || self.port.slice_is_over() {
            match std::mem::replace(&mut self.begun, true) {
                true => self.port.next_slice().await,
                false => self.port.slice().await,
            }
            self.left = self.most;
        }
        self.left = self.left.saturating_sub(work);
    }

    /// Ends the slice: before anything is waited for.
    pub fn rest(&mut self) {
        self.left = 0;
    }
}
