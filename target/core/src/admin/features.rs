//! Get and Set Features (Base 2.1, 5.1.11 and 5.1.25).
//!
//! One table says which features there are and what can be done with them; Get Features with SEL 3h, log page 12h and the
//! checks of both commands read it. Nothing is saveable: what a host sets lives as long as its controller (write
//! protection as long as the namespace).

use super::Admin;
use super::identify::{OAES_DISCOVERY, OAES_IO};
use crate::events::Event;
use crate::queue::Core;
use crate::registry::subsystem::Kind;
use crate::spec::MAX_IO_QUEUES;
use crate::sync::lock;
use caisson_block::{BufList, Cx, Mono};
use caisson_wire::feature::*;
use caisson_wire::identify::NSID_ALL;
use caisson_wire::log::fid_effect;
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::{Sqe, Status};
use std::sync::atomic::Ordering::Relaxed;

/// One feature as the table has it.
pub(super) struct Feature {
    pub(super) fid: u8,
    changeable: bool,
    /// It belongs to a namespace.
    ns: bool,
    /// A discovery controller has it too.
    discovery: bool,
    /// Its value at the start and after a reset, where that is a number.
    default: u32,
}

const fn io(fid: u8, changeable: bool, default: u32) -> Feature {
    Feature { fid, changeable, ns: false, discovery: false, default }
}

/// The features that there are.
pub(super) const FEATURES: &[Feature] = &[
    // AB = 111b: no limit; the weights do not matter with round robin only.
    io(fid::ARBITRATION, true, 0b111),
    io(fid::POWER, true, 0),
    io(fid::TEMPERATURE, true, temperature::NONE_OVER),
    io(fid::ERROR_RECOVERY, true, 0),
    io(fid::VWC, true, WCE),
    io(fid::QUEUES, true, queues_allocated(MAX_IO_QUEUES as u32, MAX_IO_QUEUES as u32)),
    io(fid::WRITE_ATOMICITY, true, 0),
    Feature { fid: fid::ASYNC_EVENT, changeable: true, ns: false, discovery: true, default: 0 },
    io(fid::TIMESTAMP, true, 0),
    Feature { fid: fid::KATO, changeable: true, ns: false, discovery: true, default: 0 },
    io(fid::HOST_BEHAVIOR, true, 0),
    io(fid::SANITIZE, true, 0),
    io(fid::IO_COMMAND_SET_PROFILE, true, 0),
    io(fid::HOST_ID, false, 0),
    Feature { fid: fid::WRITE_PROTECT, changeable: true, ns: true, discovery: false, default: 0 },
];

/// The feature `fid` on a controller of `kind`.
fn find(kind: Kind, fid: u8) -> Option<&'static Feature> {
    FEATURES.iter().find(|f| f.fid == fid && (f.discovery || kind == Kind::Nvm))
}

/// Bytes of data that Set Features has for `fid`.
pub(super) fn data_len(fid: u8) -> u32 {
    match fid {
        fid::TIMESTAMP => 8,
        fid::HOST_BEHAVIOR => 512,
        _ => 0,
    }
}

impl Feature {
    /// DW0 for SEL 3h.
    fn capabilities(&self) -> u32 {
        let ns = if self.ns { capability::NS_SPECIFIC } else { 0 };
        ns | if self.changeable { capability::CHANGEABLE } else { 0 }
    }

    /// Its entry in log page 12h.
    pub(super) fn effects(&self) -> u32 {
        let scope = if self.ns { fid_effect::FSP_NAMESPACE } else { fid_effect::FSP_CONTROLLER };
        let changes = if self.fid == fid::WRITE_PROTECT { fid_effect::NCC } else { 0 };
        fid_effect::FSUPP | scope | changes
    }
}

/// What a host can set, but for what is kept elsewhere (queues, KATO, write protection).
pub(super) struct Features {
    arbitration: u32,
    power: u32,
    over: u32,
    under: u32,
    error_recovery: u32,
    write_atomicity: u32,
    async_event: u32,
    behavior: HostBehavior,
    /// Milliseconds at `stamped`, and whether a host set it.
    timestamp: u64,
    stamped: Mono,
    stamped_by_host: bool,
}

impl Features {
    pub(super) fn new(now: Mono) -> Features {
        Features {
            arbitration: 0b111,
            power: 0,
            over: temperature::NONE_OVER,
            under: 0,
            error_recovery: 0,
            write_atomicity: 0,
            async_event: 0,
            behavior: HostBehavior::default(),
            timestamp: 0,
            stamped: now,
            stamped_by_host: false,
        }
    }

    /// The events that the host wants to be told of. Errors are always told (Base 2.1, 5.1.25.1.5).
    pub(super) fn enabled_events(&self) -> u8 {
        // Nor is there a bit for the end of a sanitize operation.
        let mut bits =
            Event::TransientError.bit() | Event::Sanitized.bit() | Event::SanitizedDeallocated.bit();
        let mut when = |on: bool, event: Event| bits |= if on { event.bit() } else { 0 };
        when(self.async_event & u32::from(caisson_wire::log::critical::RELIABILITY) != 0, Event::Reliability);
        when(self.async_event & u32::from(caisson_wire::log::critical::SPARE) != 0, Event::Spare);
        when(self.async_event & aec::NS_ATTR != 0, Event::NamespaceChanged);
        when(self.async_event & aec::DISCOVERY_CHANGE != 0, Event::DiscoveryChanged);
        bits
    }
}

const INVALID: Status = Status::INVALID_FIELD.dnr();

impl Admin {
    /// Whether the host takes formats from the 17th on (LBAFEE).
    pub(super) fn takes_more_formats(&self) -> bool {
        self.features.behavior.lbafee == 1
    }

    /// A feature that there is here; Sanitize Config where hosts may erase.
    pub(super) fn feature(&self, fid: u8) -> Option<&'static Feature> {
        find(self.kind(), fid).filter(|f| f.fid != fid::SANITIZE || self.controller.subsystem.may_erase())
    }

    /// Checks NSID for a feature: those of a namespace need an active one, others none (or all).
    fn check_nsid(&self, feature: &Feature, nsid: u32) -> Result<(), Status> {
        match (feature.ns, nsid) {
            (true, NSID_ALL) => Err(Status::INVALID_NAMESPACE.dnr()),
            (true, nsid) if self.controller.subsystem.table().get(nsid).is_none() => {
                Err(Status::INVALID_NAMESPACE.dnr())
            }
            (true, _) | (false, 0 | NSID_ALL) => Ok(()),
            (false, _) => Err(Status::FEATURE_NOT_NS_SPECIFIC.dnr()),
        }
    }

    /// Get Features: DW0 and data.
    pub(super) fn get_feature(&self, cx: &Cx<'_>, sqe: &Sqe) -> Result<(u32, BufList), Status> {
        let (cdw10, cdw11, nsid) = (sqe.cdw10.get(), sqe.cdw11.get(), sqe.nsid.get());
        let feature = self.feature(cdw10 as u8).ok_or(INVALID)?;
        let select = (cdw10 >> 8 & 0b111) as u8;
        // A host that reads all capabilities names no namespace. Get Features of a feature that belongs to the
        // controller takes any NSID (Base 2.1, 5.1.11: FEATURE_NOT_NS_SPECIFIC is Set Features' alone).
        if feature.ns && select != sel::CAPABILITIES {
            self.check_nsid(feature, nsid)?;
        }
        let default = match select {
            sel::CURRENT => false,
            // Nothing is saved, so the saved value is the default (Base 2.1, 5.1.11).
            sel::DEFAULT | sel::SAVED => true,
            sel::CAPABILITIES => return Ok((feature.capabilities(), BufList::new())),
            _ => return Err(INVALID),
        };
        let f = &self.features;
        let pick = |current: u32| if default { feature.default } else { current };
        let number = match feature.fid {
            fid::ARBITRATION => pick(f.arbitration),
            fid::POWER => pick(f.power),
            fid::TEMPERATURE => self.temperature(cdw11, default)?,
            fid::ERROR_RECOVERY => pick(f.error_recovery),
            fid::VWC => pick(if self.controller.write_through() { 0 } else { WCE }),
            fid::QUEUES => {
                let n = u32::from(self.controller.io_queues.load(Relaxed));
                pick(queues_allocated(n, n))
            }
            fid::WRITE_ATOMICITY => pick(f.write_atomicity),
            fid::ASYNC_EVENT => pick(f.async_event),
            fid::KATO => pick(self.controller.kato_ms.load(Relaxed)),
            fid::IO_COMMAND_SET_PROFILE => 0,
            fid::SANITIZE => pick(self.controller.subsystem.sanitize_config()),
            fid::WRITE_PROTECT => pick(match self.controller.subsystem.table().get(nsid) {
                Some(n) if n.protected() => wps::PROTECT,
                _ => wps::NONE,
            }),
            fid::TIMESTAMP => {
                let now = f.timestamp.wrapping_add(cx.now.since(f.stamped) / 1_000_000);
                let origin = if f.stamped_by_host { Timestamp::ORIGIN_HOST } else { Timestamp::ORIGIN_RESET };
                let stamp = if default { Timestamp::default() } else { Timestamp::new(now, origin) };
                return Ok((0, stamp.as_bytes().to_vec().into()));
            }
            fid::HOST_BEHAVIOR => {
                let behavior = if default { HostBehavior::default() } else { f.behavior };
                return Ok((0, behavior.as_bytes().to_vec().into()));
            }
            fid::HOST_ID => {
                // Over fabrics identifiers have 128 bits (Base 2.1, 5.1.25.1.28).
                if cdw11 & EXHID == 0 {
                    return Err(INVALID);
                }
                return Ok((0, self.controller.hostid.to_vec().into()));
            }
            _ => return Err(INVALID),
        };
        Ok((number, BufList::new()))
    }

    /// The threshold that CDW11 selects. There is no sensor: those that TMPSEL could name have no threshold.
    fn temperature(&self, cdw11: u32, default: bool) -> Result<u32, Status> {
        let (select, threshold) = (cdw11 >> 16 & 0xf, cdw11 >> 20 & 0b11);
        match (select, threshold) {
            (0, temperature::OVER) if !default => Ok(self.features.over),
            (0, temperature::UNDER) if !default => Ok(self.features.under),
            (0..=8, temperature::OVER) => Ok(temperature::NONE_OVER),
            (0..=8, temperature::UNDER) => Ok(0),
            _ => Err(INVALID),
        }
    }

    /// Set Features: DW0.
    pub(super) fn set_feature(
        &mut self,
        core: &Core,
        cx: &Cx<'_>,
        sqe: &Sqe,
        data: &BufList,
    ) -> Result<u32, Status> {
        let (cdw10, value, nsid) = (sqe.cdw10.get(), sqe.cdw11.get(), sqe.nsid.get());
        let feature = self.feature(cdw10 as u8).ok_or(INVALID)?;
        if cdw10 & SV != 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE.dnr());
        }
        // UUID Index: there is no UUID list.
        if sqe.cdw14.get() & 0x7f != 0 {
            return Err(INVALID);
        }
        if feature.fid == fid::HOST_ID {
            // Connect has set it (Base 2.1, 5.1.25.1.28).
            return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
        }
        if !feature.changeable {
            return Err(Status::FEATURE_NOT_CHANGEABLE.dnr());
        }
        self.check_nsid(feature, nsid)?;
        let f = &mut self.features;
        match feature.fid {
            fid::ARBITRATION => f.arbitration = value & 0xffff_ff07,
            // PS 0 is the only power state; WH (7:5) is a hint.
            fid::POWER if value & 0x1f != 0 => return Err(INVALID),
            fid::POWER => f.power = value & 0xff,
            fid::TEMPERATURE => match (value >> 16 & 0xf, value >> 20 & 0b11) {
                (0 | 0xf, temperature::OVER) => f.over = value & 0xffff,
                (0 | 0xf, temperature::UNDER) => f.under = value & 0xffff,
                _ => return Err(INVALID),
            },
            // NSFEAT.DAE is 0: reads of deallocated blocks cannot be made to fail.
            fid::ERROR_RECOVERY if value & DULBE != 0 => return Err(INVALID),
            fid::ERROR_RECOVERY => f.error_recovery = value & 0xffff,
            fid::VWC => self.controller.set_write_through(value & WCE == 0),
            fid::QUEUES => return self.set_queues(value),
            fid::WRITE_ATOMICITY => f.write_atomicity = value & 1,
            fid::ASYNC_EVENT => {
                let oaes = if self.controller.subsystem.kind == Kind::Nvm {
                    OAES_IO | aec::SMART_MASK
                } else {
                    OAES_DISCOVERY
                };
                if value & !oaes != 0 {
                    return Err(INVALID);
                }
                f.async_event = value;
            }
            fid::TIMESTAMP => {
                let mut stamp = Timestamp::default();
                data.copy_out(0, stamp.as_mut_bytes());
                (f.timestamp, f.stamped, f.stamped_by_host) = (stamp.millis(), cx.now, true);
            }
            fid::KATO => self.set_kato(value, cx.now),
            fid::HOST_BEHAVIOR => {
                let mut wanted = HostBehavior::default();
                data.copy_out(0, wanted.as_mut_bytes());
                let flags = [wanted.acre, wanted.etdas, wanted.lbafee, wanted.hdisns];
                // Copy formats 2h to 4h, which CDFE would enable, are not here.
                if flags.iter().any(|&b| b > 1) || wanted.cdfe.get() != 0 {
                    return Err(INVALID);
                }
                f.behavior = wanted;
            }
            // The one combination of CNS 1Ch.
            fid::IO_COMMAND_SET_PROFILE if value & 0x1ff != 0 => {
                return Err(Status::from_parts(1, 0x2b).dnr());
            }
            fid::IO_COMMAND_SET_PROFILE => {}
            fid::SANITIZE => self.controller.subsystem.set_sanitize_config(value),
            fid::WRITE_PROTECT => {
                let on = match value & 0b111 {
                    wps::NONE => false,
                    wps::PROTECT => true,
                    _ => return Err(INVALID),
                };
                let subsystem = &self.controller.subsystem;
                if subsystem.table().get(nsid).is_some_and(|n| n.formatting()) {
                    return Err(Status::FORMAT_IN_PROGRESS);
                }
                let changed = subsystem.touch_namespace(nsid, |n| n.set_protected(on));
                if changed.map_err(|_| Status::INVALID_NAMESPACE.dnr())?
                    && let Some(observer) = core.target.observer()
                {
                    observer.write_protection(&subsystem.nqn, nsid, on);
                }
            }
            _ => return Err(INVALID),
        }
        Ok(0)
    }

    /// Number of Queues: what is granted, before the first I/O queue is there (Base 2.1, 5.1.25.2.1).
    fn set_queues(&self, value: u32) -> Result<u32, Status> {
        let (submission, completion) = queues_requested(value).ok_or(INVALID)?;
        // A fabrics queue is a pair, so the smaller number counts.
        let granted = submission.min(completion).min(u32::from(MAX_IO_QUEUES));
        let shared = lock(&self.controller.shared);
        if shared.queues.range(1..).next().is_some() {
            return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
        }
        self.controller.io_queues.store(granted as u16, Relaxed);
        Ok(queues_allocated(granted, granted))
    }
}
