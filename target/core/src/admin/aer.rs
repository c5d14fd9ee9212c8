//! Asynchronous Event Requests: parked until there is something to tell (Base 2.1, 5.1.2).

use super::{Admin, MAX_EVENTS};
use crate::queue::Core;
use crate::seam::Action;
use crate::slots::{State, Token};
use crate::sync::lock;
use caisson_block::BufList;
use caisson_wire::Status;

impl Admin {
    /// Parks a request; over the limit it is refused.
    pub(super) fn event_request(
        &mut self,
        core: &mut Core,
        token: Token,
        out: &mut Vec<Action>,
    ) -> Result<(), (Token, Status)> {
        if self.events.len() >= MAX_EVENTS {
            return Err((token, Status::AER_LIMIT_EXCEEDED.dnr()));
        }
        self.events.push(token.slot());
        core.slots.park(token, State::Event);
        self.tell(core, out);
        Ok(())
    }

    /// Tells what waits, as far as there are requests to tell it with.
    pub(super) fn tell(&mut self, core: &mut Core, out: &mut Vec<Action>) {
        if self.events.is_empty() {
            return;
        }
        let enabled = self.features.enabled_events();
        let mut shared = lock(&self.controller.shared);
        while !self.events.is_empty() {
            let Some(event) = shared.events.next(enabled) else { return };
            let slot = self.events.remove(0);
            if let Some((token, _)) = core.slots.take(slot) {
                core.reply(token, Status::SUCCESS, u64::from(event.told().dw0()), BufList::new(), out);
            }
        }
    }
}
