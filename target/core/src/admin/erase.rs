//! Format NVM and Sanitize (Base 2.1, 5.1.10 and 5.1.22; 8.1.24): their checks, and waiting for them to be done.
//!
//! Format NVM completes when what it asks for is proven. By keys (a cryptographic erase, or one of user data that is all sealed) it goes on
//! whatever becomes of the command, its queue or the target; how far it is, the volume says, and this queue looks every now and then. Otherwise
//! it is one request to the volume: zeroes over everything, deallocated and durable.

use super::Admin;
use crate::io::status;
use crate::payload::outgoing;
use crate::queue::Core;
use crate::registry::erase::Sanitized;
use crate::registry::namespace::Namespace;
use crate::seam::{Action, Payload};
use crate::slots::{State, Token};
use caisson_block::{Cx, EraseBy, Erasure, Extent, Mono, Op, Outcome, Request, Tag};
use caisson_wire::erase::{FormatNvm, Sanitize, ses};
use caisson_wire::feature::fid;
use caisson_wire::identify::NSID_ALL;
use caisson_wire::log::lid;
use caisson_wire::opcode::{FABRICS, admin as opc};
use caisson_wire::{Sqe, Status};
use std::sync::Arc;

/// How often it looks while a command waits.
const LOOKS_MS: u64 = 50;

/// How long a Format waits for what does not come by itself before it fails. What was asked for stays asked for.
const PATIENCE_MS: u64 = 30_000;

/// A Format that waits.
struct Waits {
    slot: u32,
    namespace: Arc<Namespace>,
    ticket: u64,
    /// Not by keys: held while its request is at the volume.
    request: Option<Arc<()>>,
    /// Since when it has been waiting for something that does not come by itself.
    stalled: Option<Mono>,
}

/// Commands of this queue that wait for something to be erased.
#[derive(Default)]
pub(super) struct Erasing {
    formats: Vec<Waits>,
    /// Slots of Sanitize commands.
    sanitizes: Vec<u32>,
    look: Option<Mono>,
}

impl Erasing {
    /// When to look again.
    pub(super) fn due(&self) -> Option<Mono> {
        self.look
    }

    /// A reset: the slots of commands that end with it. What they began goes on.
    pub(super) fn forget(&mut self) -> Vec<u32> {
        let mut slots = std::mem::take(&mut self.sanitizes);
        let (at_volumes, by_keys) =
            std::mem::take(&mut self.formats).into_iter().partition(|w| w.request.is_some());
        self.formats = at_volumes;
        slots.extend(by_keys.into_iter().map(|w: Waits| w.slot));
        self.look = None;
        slots
    }
}

/// Log pages that may be read while there is a sanitize operation. (One of them that is not here is no page, then as ever.)
const PAGES: [u8; 7] =
    [lid::ERROR, lid::SMART, lid::CHANGED_NS, lid::ANA, lid::BOOT_PARTITION, lid::RESERVATION, lid::SANITIZE];

/// Whether a command is allowed while there is a sanitize operation, and after one that failed (Base 2.1, 8.1.24.4 and figure "Sanitize
/// Operations and Format NVM Command – Admin Commands Allowed", as Base 2.3 has it).
fn allowed(sqe: &Sqe) -> bool {
    match sqe.opcode {
        opc::GET_LOG_PAGE => PAGES.contains(&(sqe.cdw10.get() as u8)),
        opc::SET_FEATURES => sqe.cdw10.get() as u8 != fid::WRITE_PROTECT,
        // Judges for itself.
        opc::SANITIZE => true,
        opc::IDENTIFY | opc::ABORT | opc::GET_FEATURES | opc::ASYNC_EVENT | opc::KEEP_ALIVE | FABRICS => true,
        _ => false,
    }
}

impl Admin {
    /// What a sanitize operation answers to an admin command that it does not allow: the same where it has failed (Base 2.1, 8.1.24.4).
    pub(super) fn sanitize_refuses(&self, sqe: &Sqe) -> Result<(), Status> {
        match self.controller.subsystem.sanitize_restricts() && !allowed(sqe) {
            true => Err(Status::SANITIZE_IN_PROGRESS),
            false => Ok(()),
        }
    }

    /// The namespace of a Format NVM, checked with all else that the command says.
    fn format_of(&self, sqe: &Sqe, payload: &Payload) -> Result<(Arc<Namespace>, FormatNvm), Status> {
        outgoing(payload)?;
        let ask = FormatNvm::of(sqe);
        // FNA bit 3: one command does not format all namespaces.
        if sqe.nsid.get() == NSID_ALL {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let table = self.controller.subsystem.table();
        let namespace = table.get(sqe.nsid.get()).ok_or(Status::INVALID_NAMESPACE.dnr())?;
        if ask.ses > ses::CRYPTO {
            return Err(Status::INVALID_FIELD.dnr());
        }
        // There is one format, and no metadata that protection information could stand in. Its upper bits count for hosts that say so
        // (Base 2.1, figure "Format NVM – Command Dword 10", LBAFU).
        let format = if self.takes_more_formats() { ask.lbaf } else { ask.lbaf & 0xf };
        if format != 0 || ask.pi != 0 {
            return Err(Status::INVALID_FORMAT.dnr());
        }
        if namespace.protected() {
            return Err(Status::NS_WRITE_PROTECTED.dnr());
        }
        // Without a key there is none to erase.
        if ask.ses == ses::CRYPTO && !namespace.volume.erasable() {
            return Err(Status::INVALID_FIELD.dnr());
        }
        Ok((Arc::clone(namespace), ask))
    }

    pub(super) fn format(
        &mut self,
        core: &mut Core,
        cx: &mut Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: &Payload,
    ) -> Result<(), (Token, Status)> {
        let (namespace, ask) = match self.format_of(sqe, payload) {
            Ok(found) => found,
            Err(status) => return Err((token, status)),
        };
        let by_keys = ask.ses != ses::NONE && namespace.volume.erasable();
        let request = (!by_keys).then(|| Arc::new(()));
        let Some(ticket) = namespace.begin_format(request.as_ref()) else {
            return Err((token, Status::FORMAT_IN_PROGRESS));
        };
        if by_keys && let Err(error) = namespace.volume.erase(EraseBy::Format) {
            let status = status::of(error);
            namespace.end_format(ticket, status);
            return Err((token, status));
        }
        let slot = token.slot();
        let waits = Waits { slot, namespace: Arc::clone(&namespace), ticket, request, stalled: None };
        core.slots.park(token, State::Erase);
        if by_keys {
            self.erasing.look = Some(cx.now.plus_ms(LOOKS_MS));
            self.erasing.formats.push(waits);
            return Ok(());
        }
        self.erasing.formats.push(waits);
        core.in_flight += 1;
        let tag = Tag { queue: core.at.key, slot };
        let at = Extent { lba: 0, blocks: namespace.blocks() };
        namespace.volume.submit(cx, Request { tag, op: Op::WriteZeroes { at, deallocate: true, fua: true } });
        Ok(())
    }

    /// A Format's request is done.
    pub(super) fn formatted(&mut self, core: &mut Core, slot: u32, outcome: Outcome, out: &mut Vec<Action>) {
        let Some(at) = self.erasing.formats.iter().position(|w| w.slot == slot && w.request.is_some()) else {
            return;
        };
        let waits = self.erasing.formats.swap_remove(at);
        let status = outcome.map_or_else(status::of, |_| Status::SUCCESS);
        waits.namespace.end_format(waits.ticket, status);
        if let Some((token, _)) = core.slots.take(slot) {
            core.answer(token, status, out);
        }
    }

    pub(super) fn start_sanitize(
        &mut self,
        core: &mut Core,
        cx: &Cx<'_>,
        token: Token,
        sqe: &Sqe,
        payload: &Payload,
        out: &mut Vec<Action>,
    ) -> Result<(), (Token, Status)> {
        // SANICAP says that there is no action, so that there is no such command.
        if !self.controller.subsystem.can_sanitize() {
            return Err((token, Status::INVALID_OPCODE.dnr()));
        }
        if let Err(status) = outgoing(payload) {
            return Err((token, status));
        }
        match self.controller.subsystem.sanitize(&self.controller, sqe.cdw10.get(), Sanitize::of(sqe)) {
            Ok(Sanitized::Begun) => {
                tracing::warn!(
                    subsystem = %self.controller.subsystem.nqn,
                    host = %self.controller.host,
                    "a host sanitizes the subsystem: the keys of all that it holds are erased"
                );
                self.erasing.sanitizes.push(token.slot());
                self.erasing.look = Some(cx.now.plus_ms(LOOKS_MS));
                core.slots.park(token, State::Erase);
            }
            Ok(Sanitized::Left) => {
                core.target.keep_sanitize(&self.controller.subsystem);
                core.answer(token, Status::SUCCESS, out);
            }
            Ok(Sanitized::Nothing) => core.answer(token, Status::SUCCESS, out),
            Err(status) => return Err((token, status)),
        }
        Ok(())
    }

    /// Looks whether what commands wait for is done.
    pub(super) fn look_at_erasing(&mut self, core: &mut Core, now: Mono, out: &mut Vec<Action>) {
        if self.erasing.look.is_none_or(|look| now < look) {
            return;
        }
        core.target.look_at_sanitize(&self.controller.subsystem);
        // What has begun completes well, and how it ends is its status page's to tell (Base 2.1, 8.1.24.1).
        if self.controller.subsystem.sanitize_recorded() {
            for slot in std::mem::take(&mut self.erasing.sanitizes) {
                if let Some((token, _)) = core.slots.take(slot) {
                    core.answer(token, Status::SUCCESS, out);
                }
            }
        }
        self.erasing.formats.retain_mut(|w| {
            if w.request.is_some() {
                return true;
            }
            w.namespace.look_at_format();
            let stalled = matches!(w.namespace.volume.erasure(), Erasure::Running { stalled: true, .. });
            w.stalled = if stalled { w.stalled.or(Some(now)) } else { None };
            if w.stalled.is_some_and(|since| now >= since.plus_ms(PATIENCE_MS)) {
                w.namespace.end_format(w.ticket, Status::INTERNAL_ERROR);
            }
            let Some(status) = w.namespace.format_outcome(w.ticket) else { return true };
            if let Some((token, _)) = core.slots.take(w.slot) {
                core.answer(token, status, out);
            }
            false
        });
        let waits =
            !self.erasing.sanitizes.is_empty() || self.erasing.formats.iter().any(|w| w.request.is_none());
        self.erasing.look = waits.then(|| now.plus_ms(LOOKS_MS));
    }
}
