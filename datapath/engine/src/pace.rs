//! Heavy work of large commands in slices: what keeps a flood of them from holding up small ones.
//!
//! A command of many blocks hashes, compresses and unpacks them in slices of some tens of microseconds. Before each it
//! asks the thread (see [`Port::slice`]), which does one after it has seen to what is prompt; a slice ends when it has
//! done so much work, or earlier, when the thread's clock says so. A command that has begun
//! goes before one that has not, so that what is under way stays in the processor's caches and ends soon.

use crate::bounds::SLICE_WORK;
use caisson_task::Port;

/// The work of one command.
pub(crate) struct Pace<'a> {
    port: &'a Port,
    /// What is short enough to be done at once is not divided.
    divided: bool,
    begun: bool,
    /// What the slice may still do.
    left: u32,
}

impl<'a> Pace<'a> {
    pub(crate) fn new(port: &'a Port, divided: bool) -> Pace<'a> {
        Pace { port, divided, begun: false, left: 0 }
    }

    /// Goes on when there is time for so much work (see [`SLICE_WORK`]): at once, or later.
    pub(crate) async fn spend(&mut self, work: u32) {
        if !self.divided {
            return;
        }
        if self.left < work || self.port.slice_is_over() {
            match std::mem::replace(&mut self.begun, true) {
                true => self.port.next_slice().await,
                false => self.port.slice().await,
            }
            self.left = SLICE_WORK;
        }
        self.left = self.left.saturating_sub(work);
    }

    /// Ends the slice: before anything is waited for.
    pub(crate) fn rest(&mut self) {
        self.left = 0;
    }
}
