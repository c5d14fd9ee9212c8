//! Get Log Page (Base 2.1, 5.1.12): every page that applies, at any offset.
//!
//! A page is built whole and cut to what was asked; what is asked beyond its end reads as zeroes, an offset beyond its end
//! is Invalid Field.

use super::features::FEATURES;
use super::{Admin, effects};
use crate::events::ERROR_ENTRIES;
use crate::io::MAX_TRANSFER;
use crate::queue::Core;
use crate::registry::namespace::SPARE_THRESHOLD;
use crate::registry::subsystem::Kind;
use crate::spec::Transport;
use crate::stats::OpClass;
use crate::sync::lock;
use caisson_block::{Buf, BufList, Cx, Mono};
use caisson_wire::discovery::trtype;
use caisson_wire::identify::{NSID_ALL, ascii, csi};
use caisson_wire::log::*;
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::{Sqe, Status};
use std::sync::atomic::Ordering::Relaxed;

const INVALID: Status = Status::INVALID_FIELD.dnr();

/// Pages of an I/O controller.
const PAGES_IO: &[u8] = &[
    lid::SUPPORTED,
    lid::ERROR,
    lid::SMART,
    lid::FIRMWARE_SLOT,
    lid::CHANGED_NS,
    lid::EFFECTS,
    lid::FEATURE_EFFECTS,
    lid::MI_EFFECTS,
];
/// Pages of a discovery controller.
const PAGES_DISCOVERY: &[u8] =
    &[lid::SUPPORTED, lid::ERROR, lid::EFFECTS, lid::FEATURE_EFFECTS, lid::MI_EFFECTS, lid::DISCOVERY];

fn pages(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Nvm => PAGES_IO,
        Kind::Discovery => PAGES_DISCOVERY,
    }
}

impl Admin {
    pub(super) fn get_log(
        &mut self,
        core: &Core,
        cx: &Cx<'_>,
        sqe: &Sqe,
        room: u32,
    ) -> Result<BufList, Status> {
        let ask = GetLogPage::of(sqe);
        if !pages(self.kind()).contains(&ask.lid) && !self.erase_page(ask.lid) {
            return Err(Status::INVALID_LOG_PAGE.dnr());
        }
        // No page takes an index offset, a UUID or an unaligned offset (Base 2.1, figures for CDW12 to CDW14).
        if ask.ot || ask.uuid_index != 0 || !ask.offset.is_multiple_of(4) || ask.len > u64::from(MAX_TRANSFER)
        {
            return Err(INVALID);
        }
        if ask.len > u64::from(room) {
            return Err(Status::INVALID_SGL_LENGTH.dnr());
        }
        // Before the page is made: what happens meanwhile may not be in it.
        let mut at = lock(&self.controller.shared).events.happened;
        let page = match ask.lid {
            lid::SUPPORTED => self.supported_pages(),
            lid::ERROR => self.error_page(core),
            // LPA bit 0 is 0: the page is the controller's, which NSID 0 and FFFFFFFFh name.
            lid::SMART if !matches!(sqe.nsid.get(), 0 | NSID_ALL) => return Err(INVALID),
            lid::SMART => self.smart_page(core, cx.now),
            lid::FIRMWARE_SLOT => firmware_page(core),
            lid::CHANGED_NS => self.changed_page(),
            lid::EFFECTS => self.effects_page(ask.csi),
            lid::FEATURE_EFFECTS => self.feature_page(),
            // There is no management endpoint, so no NVMe-MI command.
            lid::MI_EFFECTS => Buf::zeroes(4096),
            lid::SANITIZE => bytes(&self.controller.subsystem.sanitize_status()),
            lid::DISCOVERY => {
                let page;
                (page, at) = self.discovery_page(core, &ask, at)?;
                page
            }
            _ => return Err(Status::INVALID_LOG_PAGE.dnr()),
        };
        if ask.offset > page.len() as u64 {
            return Err(INVALID);
        }
        // The page was read: what it is about may be told again, unless the host retains the event.
        if !ask.rae {
            lock(&self.controller.shared).events.read(ask.lid, at);
        }
        let from = ask.offset as usize;
        let to = page.len().min(from + ask.len as usize);
        if ask.lid == lid::DISCOVERY && from != 0 && to == page.len() {
            // Read to its end: a log can be large, and its reader may stay connected for months.
            self.log = None;
        }
        let mut data = BufList::new();
        data.push(page.slice(from, to).unwrap_or_else(Buf::empty));
        while data.len() < ask.len as usize {
            data.push(Buf::zeroes(ask.len as usize - data.len()));
        }
        Ok(data)
    }

    /// Whether it is the Sanitize Status page, which is there where hosts may erase.
    fn erase_page(&self, page: u8) -> bool {
        page == lid::SANITIZE && self.kind() == Kind::Nvm && self.controller.subsystem.may_erase()
    }

    fn supported_pages(&self) -> Buf {
        let mut d = SupportedPages::default();
        for &page in pages(self.kind()) {
            // Hosts ask for port local entries only where they are told that they may.
            let more = if page == lid::DISCOVERY { lid_effect::PORT_LOCAL } else { 0 };
            d.lids[usize::from(page)].set(lid_effect::LSUPP | more);
        }
        if self.erase_page(lid::SANITIZE) {
            d.lids[usize::from(lid::SANITIZE)].set(lid_effect::LSUPP);
        }
        bytes(&d)
    }

    fn error_page(&self, core: &Core) -> Buf {
        let trtype = match core.target.transport_of(core.at.port) {
            Some(Transport::Rdma) => trtype::RDMA,
            Some(Transport::Tcp) => trtype::TCP,
            None => 0,
        };
        let mut page = Vec::with_capacity(ERROR_ENTRIES * 64);
        // While there is a sanitize operation or a Format, the LBA field is 0 (Base 2.1, figure "Sanitize Operations and Format NVM
        // Command – Admin Commands Allowed").
        let subsystem = &self.controller.subsystem;
        let hidden = subsystem.sanitize_restricts() || subsystem.table().iter().any(|n| n.formatting());
        for mut entry in lock(&self.controller.shared).errors.entries(trtype) {
            if hidden {
                entry.lba = Default::default();
            }
            page.extend_from_slice(entry.as_bytes());
        }
        page.resize(ERROR_ENTRIES * 64, 0);
        page.into()
    }

    fn smart_page(&self, core: &Core, now: Mono) -> Buf {
        let subsystem = &self.controller.subsystem;
        let io = subsystem.totals();
        let units = |bytes: u64| u128::from(bytes.div_ceil(512).div_ceil(1000));
        let mut d = SmartLog {
            cw: subsystem.critical_warning(),
            avsp: subsystem.spare(),
            avspt: SPARE_THRESHOLD,
            ..SmartLog::default()
        };
        let copies = io.count(OpClass::Copy);
        // Which command counts where: NVM 1.2, 1.4.2 (SMART Data Units Read, SMART Host Read and User Data Out Command).
        d.dur.set(units(io.bytes_read + io.bytes_checked));
        d.duw.set(units(io.bytes_written + io.bytes_copied));
        d.hrc.set(u128::from(io.count(OpClass::Read) + io.count(OpClass::Compare) + copies));
        d.hwc.set(u128::from(io.count(OpClass::Write) + copies));
        d.pwrc.set(u128::from(subsystem.history.power_cycles));
        let hours = now.since(core.target.origin) / 3_600_000_000_000;
        d.poh.set(u128::from(subsystem.history.power_on_hours + hours));
        d.upl.set(u128::from(subsystem.history.unsafe_shutdowns));
        d.mdie.set(u128::from(subsystem.media_errors.load(Relaxed)));
        d.neile.set(u128::from(lock(&self.controller.shared).errors.count));
        bytes(&d)
    }

    fn changed_page(&self) -> Buf {
        let shared = lock(&self.controller.shared);
        let events = &shared.events;
        // More than fit are told as FFFFFFFFh and zeroes.
        if events.overflow {
            return bytes(&ChangedNamespaces::collect([NSID_ALL]));
        }
        bytes(&ChangedNamespaces::collect(events.changed.iter().copied()))
    }

    /// Of an I/O command set that is not supported, no I/O command is: that is the answer, and no error. nvme-cli asks every
    /// controller with CAP.CSS bit 6 for the zoned set too, and shows nothing at all when that is refused.
    fn effects_page(&self, set: u8) -> Buf {
        let mut d = EffectsLog::default();
        for &(opcode, effects) in effects::admin_of(self.kind()) {
            d.acs[usize::from(opcode)].set(effects);
        }
        if self.erase_page(lid::SANITIZE) {
            let (opcode, effects) = effects::FORMAT;
            d.acs[usize::from(opcode)].set(effects);
            if self.controller.subsystem.can_sanitize() {
                let (opcode, effects) = effects::SANITIZE;
                d.acs[usize::from(opcode)].set(effects);
            }
        }
        if self.kind() == Kind::Nvm && set == csi::NVM {
            for &(opcode, effects) in effects::IO {
                d.iocs[usize::from(opcode)].set(effects);
            }
        }
        bytes(&d)
    }

    fn feature_page(&self) -> Buf {
        let mut d = FeatureEffects::default();
        for feature in FEATURES.iter().filter(|f| self.feature(f.fid).is_some()) {
            d.fids[usize::from(feature.fid)].set(feature.effects());
        }
        bytes(&d)
    }
}

fn firmware_page(core: &Core) -> Buf {
    let mut d = FirmwareSlotLog { afi: 1, ..FirmwareSlotLog::default() };
    ascii(&mut d.frs[0], &core.target.settings.firmware);
    bytes(&d)
}

fn bytes<T: IntoBytes + caisson_wire::zerocopy::Immutable>(data: &T) -> Buf {
    data.as_bytes().to_vec().into()
}
