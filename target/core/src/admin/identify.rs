//! Identify: what a controller and its namespaces are (Base 2.1, 5.1.13; NVM 1.1, 4.1.5).
//!
//! Every CNS that applies is answered; others, and those of features that are not here, are Invalid Field.

use super::{Admin, KAS, MAX_ABORTS, MAX_EVENTS};
use crate::events::ERROR_ENTRIES;
use crate::io::{MAX_ATOMIC_COMPARE, MAX_COPY_RANGES, MCL, MDTS, MSSRL};
use crate::property::VERSION;
use crate::queue::Core;
use crate::registry::namespace::Namespace;
use crate::registry::subsystem::Kind;
use crate::spec::{ControllerModel, MAX_NAMESPACES, MAX_QUEUE_ENTRIES, Transport};
use caisson_block::BufList;
use caisson_wire::erase::sanicap;
use caisson_wire::identify::*;
use caisson_wire::zerocopy::IntoBytes;
use caisson_wire::{Sqe, Status};

/// RTD3E: how long a host waits for a shutdown, in microseconds.
const SHUTDOWN_WITHIN_US: u32 = 10_000_000;

/// The bits of OAES that an I/O controller has.
pub(super) const OAES_IO: u32 = oaes::NS_ATTR;
/// Those of a discovery controller.
pub(super) const OAES_DISCOVERY: u32 = oaes::DISCOVERY_CHANGE;

impl Admin {
    pub(super) fn identify(&self, core: &Core, sqe: &Sqe) -> Result<BufList, Status> {
        let (cdw10, nsid) = (sqe.cdw10.get(), sqe.nsid.get());
        let (cns, cntid) = (cdw10 as u8, (cdw10 >> 16) as u16);
        let csi = (sqe.cdw11.get() >> 24) as u8;
        let invalid = Status::INVALID_FIELD.dnr();
        // UUID Index: there is no UUID list.
        if sqe.cdw14.get() & 0x7f != 0 {
            return Err(invalid);
        }
        if self.kind() == Kind::Discovery {
            return match cns {
                cns::CONTROLLER => Ok(bytes(&self.controller_data(core))),
                _ => Err(invalid),
            };
        }
        if needs_nvm(cns) && csi != csi::NVM {
            return Err(invalid);
        }
        match cns {
            cns::CONTROLLER => Ok(bytes(&self.controller_data(core))),
            cns::CSI_CONTROLLER => Ok(bytes(&nvm_controller())),
            cns::NAMESPACE | cns::ALLOCATED_NAMESPACE => Ok(self
                .active(nsid)?
                .map_or_else(|| bytes(&IdentifyNamespace::default()), |n| bytes(&namespace(&n)))),
            cns::CSI_NAMESPACE | cns::CSI_ALLOCATED_NAMESPACE => {
                self.active(nsid)?;
                Ok(bytes(&NvmIdentifyNamespace::default()))
            }
            cns::INDEPENDENT_NAMESPACE => {
                let data = self.active(nsid)?.map_or_else(IndependentNamespace::default, |n| independent(&n));
                Ok(bytes(&data))
            }
            cns::ACTIVE_NS_LIST
            | cns::CSI_ACTIVE_NS_LIST
            | cns::ALLOCATED_NS_LIST
            | cns::CSI_ALLOCATED_NS_LIST => {
                // FFFFFFFEh and FFFFFFFFh leave nothing to list (Base 2.1, 5.1.13.2.2).
                if nsid >= NSID_ALL - 1 {
                    return Err(Status::INVALID_NAMESPACE.dnr());
                }
                let table = self.controller.subsystem.table();
                let list = NamespaceList::collect(table.iter().map(|n| n.nsid).filter(|&n| n > nsid));
                Ok(bytes(&list))
            }
            cns::NS_DESCRIPTORS => {
                let namespace = self.active(nsid)?.ok_or(Status::INVALID_NAMESPACE.dnr())?;
                Ok(Vec::from(write_ns_descriptors(&descriptors(&namespace))).into())
            }
            cns::NS_CONTROLLER_LIST => {
                // Every namespace is attached to every controller of the subsystem.
                match self.active(nsid)? {
                    Some(_) => Ok(self.controller_list(cntid)),
                    None => Ok(bytes(&ControllerList::default())),
                }
            }
            cns::CONTROLLER_LIST => Ok(self.controller_list(cntid)),
            cns::IO_COMMAND_SET => Ok(bytes(&self.command_sets(cntid)?)),
            _ => Err(invalid),
        }
    }

    /// The namespace `nsid`, `None` when it is inactive; an error when it cannot be one (0, over NN, FFFFFFFFh: there is
    /// no namespace management, so nothing common to all is told).
    fn active(&self, nsid: u32) -> Result<Option<std::sync::Arc<Namespace>>, Status> {
        if nsid == 0 || nsid > MAX_NAMESPACES {
            return Err(Status::INVALID_NAMESPACE.dnr());
        }
        Ok(self.controller.subsystem.table().get(nsid).cloned())
    }

    fn controller_list(&self, from: u16) -> BufList {
        let ids = self.controller.subsystem.controllers();
        bytes(&ControllerList::collect(ids.iter().map(|c| c.id).filter(|&id| id >= from)))
    }

    /// CNS 1Ch: one combination, the NVM command set. CNTID FFFFh or the controller's own names this controller.
    fn command_sets(&self, cntid: u16) -> Result<IoCommandSets, Status> {
        let known = cntid == 0xffff || self.controller.subsystem.controller(cntid).is_some();
        if !known {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let mut sets = IoCommandSets::default();
        sets.iocsc[0].set(1 << csi::NVM);
        Ok(sets)
    }

    fn controller_data(&self, core: &Core) -> IdentifyController {
        let (settings, subsystem) = (&core.target.settings, &self.controller.subsystem);
        let mut d = IdentifyController::default();
        ascii(&mut d.sn, &subsystem.serial);
        ascii(&mut d.mn, &subsystem.model);
        ascii(&mut d.fr, &settings.firmware);
        d.cmic = cmic::MULTI_PORT | cmic::MULTI_CTRL;
        d.mdts = MDTS;
        d.cntlid.set(self.controller.id);
        d.ver.set(VERSION.0);
        d.rtd3e.set(SHUTDOWN_WITHIN_US);
        d.ctratt.set(ctratt::HIDS | ctratt::TBKAS);
        d.aerl = MAX_EVENTS as u8 - 1;
        d.lpa = lpa::EFFECTS | lpa::EXTENDED | lpa::SUPPORTED_PAGES;
        d.elpe = ERROR_ENTRIES as u8 - 1;
        d.kas.set(KAS);
        d.maxcmd.set(MAX_QUEUE_ENTRIES);
        // The address of an in-capsule block is an offset. A length larger than the data is refused by reads and writes.
        let external = match core.target.transport_of(core.at.port) {
            Some(Transport::Rdma) => sgls::KEYED,
            _ => sgls::TRANSPORT,
        };
        d.sgls.set(sgls::SUPPORTED | sgls::OFFSET | external);
        let nqn = subsystem.nqn.as_bytes();
        d.subnqn[..nqn.len()].copy_from_slice(nqn);
        d.fcatt = u8::from(matches!(subsystem.controller_model(), ControllerModel::Static(_)));
        d.msdbd = 1;
        match self.kind() {
            Kind::Discovery => {
                d.cntrltype = cntrltype::DISCOVERY;
                d.oaes.set(OAES_DISCOVERY);
                d.dctype = dctype::DDC;
            }
            Kind::Nvm => self.io_controller_data(&mut d),
        }
        d
    }

    /// What hosts may erase: a namespace at a time with Format NVM, all with Sanitize where keys can be erased of all.
    fn erase_data(&self, d: &mut IdentifyController) {
        let subsystem = &self.controller.subsystem;
        d.oacs.set(d.oacs.get() | oacs::FORMAT);
        d.fna = fna::NO_BROADCAST;
        if subsystem.table().iter().any(|n| n.volume.erasable()) {
            d.fna |= fna::CRYPTO;
        }
        if subsystem.can_sanitize() {
            d.sanicap
                .set(sanicap::CRYPTO_ERASE | sanicap::NO_DEALLOCATE_INHIBITED | sanicap::NOT_MODIFIED_AFTER);
        }
    }

    fn io_controller_data(&self, d: &mut IdentifyController) {
        d.cntrltype = cntrltype::IO;
        d.oaes.set(OAES_IO);
        d.acl = MAX_ABORTS as u8 - 1;
        // One slot, read-only, no activation without a reset.
        d.frmw = 1 | 1 << 1;
        d.sqes = 0x66;
        d.cqes = 0x44;
        d.nn.set(MAX_NAMESPACES);
        d.mnan.set(MAX_NAMESPACES);
        d.oncs.set(
            oncs::COMPARE
                | oncs::WRITE_UNCORRECTABLE
                | oncs::DSM
                | oncs::WRITE_ZEROES
                | oncs::SAVE_SELECT
                | oncs::TIMESTAMP
                | oncs::VERIFY
                | oncs::COPY,
        );
        d.fuses.set(FUSES_COMPARE_AND_WRITE);
        // A namespace with a volatile cache may be added at any time, so hosts must know how to flush; CNS 08h says which
        // namespaces have none.
        d.vwc = vwc::PRESENT | vwc::FLUSH_ALL_YES;
        // One logical block is what a volume promises to write whole, against other commands and a power failure.
        d.awun.set(0);
        d.awupf.set(0);
        d.acwu.set(MAX_ATOMIC_COMPARE as u16 - 1);
        if self.controller.subsystem.may_erase() {
            self.erase_data(d);
        }
        d.nwpc = nwpc::WRITE_PROTECT;
        d.cdfs.set(1 << 0);
        d.ioccsz.set((64 + self.in_capsule) / 16);
        d.iorcsz.set(1);
        d.ofcs.set(ofcs::DISCONNECT);
    }
}

/// Whether a CNS names an I/O command set in CDW11.CSI.
fn needs_nvm(cns: u8) -> bool {
    matches!(
        cns,
        cns::CSI_NAMESPACE
            | cns::CSI_CONTROLLER
            | cns::CSI_ACTIVE_NS_LIST
            | cns::CSI_ALLOCATED_NS_LIST
            | cns::CSI_ALLOCATED_NAMESPACE
    )
}

/// CNS 06h for the NVM command set: no limits but those of the fields. 1.1.0.
fn nvm_controller() -> NvmIdentifyController {
    let mut d = NvmIdentifyController::default();
    d.ver.set(caisson_wire::property::Vs::new(1, 1, 0).0);
    d
}

fn namespace(n: &Namespace) -> IdentifyNamespace {
    let geometry = n.volume.geometry();
    let blocks = n.blocks();
    let allocated = n.volume.allocated_bytes();
    let mut d = IdentifyNamespace::default();
    d.nsze.set(blocks);
    d.ncap.set(blocks);
    d.nuse.set(allocated.map_or(blocks, |bytes| bytes.div_ceil(1 << n.shift).min(blocks)));
    d.nsfeat = nsfeat::OPTPERF | if allocated.is_some() { nsfeat::THINP } else { 0 };
    d.nmic = NMIC_SHARED;
    if geometry.deallocates {
        d.dlfeat = dlfeat::READ_ZEROES | dlfeat::WRITE_ZEROES_DEALLOCATES;
    }
    d.nvmcap.set(u128::from(blocks) << n.shift);
    let preferred = geometry.preferred_blocks.clamp(1, 65_536) - 1;
    for field in [&mut d.npwg, &mut d.npwa, &mut d.npdg, &mut d.npda, &mut d.nows] {
        field.set(preferred as u16);
    }
    d.mssrl.set(MSSRL);
    d.mcl.set(MCL);
    d.msrc = MAX_COPY_RANGES as u8 - 1;
    d.nsattr = if n.protected() { NSATTR_WRITE_PROTECTED } else { 0 };
    d.nguid = n.nguid;
    d.eui64 = n.eui64;
    d.lbaf[0].lbads = n.shift as u8;
    d
}

fn independent(n: &Namespace) -> IndependentNamespace {
    /// NSFEAT bit 5: no volatile write cache.
    const VWCNP: u8 = 1 << 5;
    IndependentNamespace {
        nsfeat: if n.volume.geometry().volatile_cache { 0 } else { VWCNP },
        nmic: NMIC_SHARED,
        nsattr: if n.protected() { NSATTR_WRITE_PROTECTED } else { 0 },
        nstat: NSTAT_READY,
        ..IndependentNamespace::default()
    }
}

fn descriptors(n: &Namespace) -> Vec<NsDescriptor> {
    let mut list = Vec::new();
    if n.eui64 != [0; 8] {
        list.push(NsDescriptor::Eui64(n.eui64));
    }
    if n.nguid != [0; 16] {
        list.push(NsDescriptor::Nguid(n.nguid));
    }
    if !n.uuid.is_nil() {
        list.push(NsDescriptor::Uuid(*n.uuid.as_bytes()));
    }
    list.push(NsDescriptor::Csi(csi::NVM));
    list
}

fn bytes<T: IntoBytes + caisson_wire::zerocopy::Immutable>(data: &T) -> BufList {
    data.as_bytes().to_vec().into()
}
