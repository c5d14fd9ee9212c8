//! Abort: ends a command that still waits for something here, on this queue or another (Base 2.1, 5.1.1).
//!
//! DW0 bit 0 of the completion is 0 when the command was aborted. A command that is at a volume is not: it completes as
//! if nothing had been asked.

use super::{Admin, MAX_ABORTS};
use crate::link::Mail;
use crate::queue::Core;
use crate::seam::Action;
use crate::slots::{State, Token};
use caisson_block::BufList;
use caisson_wire::{Sqe, Status};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// DW0 of an Abort that did not abort.
const NOT_ABORTED: u64 = 1;

impl Admin {
    pub(super) fn start_abort(
        &mut self,
        core: &mut Core,
        token: Token,
        sqe: &Sqe,
        out: &mut Vec<Action>,
    ) -> Result<(), (Token, Status)> {
        let (sqid, cid) = (sqe.cdw10.get() as u16, (sqe.cdw10.get() >> 16) as u16);
        if sqid == 0 {
            let done = self.abort_here(core, cid, out);
            answer(core, token, done, out);
            return Ok(());
        }
        if self.aborts.len() >= MAX_ABORTS {
            return Err((token, Status::ABORT_LIMIT_EXCEEDED.dnr()));
        }
        let ticket = self.next_ticket;
        let mail = Mail::Abort { cid, ticket, answer: Arc::clone(&self.link) };
        // A queue that is not there holds no command, so nothing was aborted.
        if !self.controller.queue(sqid).is_some_and(|link| link.post(mail)) {
            answer(core, token, false, out);
            return Ok(());
        }
        self.next_ticket = ticket.wrapping_add(1);
        self.aborts.push((ticket, token.slot()));
        core.slots.park(token, State::Abort);
        Ok(())
    }

    /// The other queue has answered.
    pub(super) fn finish_abort(&mut self, core: &mut Core, ticket: u32, done: bool, out: &mut Vec<Action>) {
        // None when a reset has ended the Abort meanwhile.
        let Some(at) = self.aborts.iter().position(|&(t, _)| t == ticket) else { return };
        let (_, slot) = self.aborts.remove(at);
        if let Some((token, _)) = core.slots.take(slot) {
            answer(core, token, done, out);
        }
    }

    /// Aborts a command of this queue; whether it was aborted.
    fn abort_here(&mut self, core: &mut Core, cid: u16, out: &mut Vec<Action>) -> bool {
        // The Abort itself is in its token, not in a slot, so it is not found.
        let Some(slot) = core.slots.find(cid) else { return false };
        let Some((token, state)) = core.slots.take(slot) else { return false };
        match state {
            State::Event => self.events.retain(|&s| s != slot),
            State::PullFor(_) => {}
            state => {
                core.slots.park(token, state);
                return false;
            }
        }
        core.target.counters.aborted.fetch_add(1, Relaxed);
        core.answer(token, Status::ABORT_REQUESTED, out);
        true
    }
}

fn answer(core: &mut Core, token: Token, done: bool, out: &mut Vec<Action>) {
    let result = if done { 0 } else { NOT_ABORTED };
    core.reply(token, Status::SUCCESS, result, BufList::new(), out);
}
