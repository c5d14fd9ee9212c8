//! The discovery log page: what this host may connect to, from here (Base 2.1, 5.1.12.3.1 and 3.1.3.3).
//!
//! A read from offset 0 takes the log as it is; reads further in see that same log, so that entries fit the header. The
//! host reads the header again at the end, and starts over when GENCTR has moved.

use super::Admin;
use crate::connect::told_cntlid;
use crate::queue::Core;
use crate::spec::{PortId, PortSpec, Transport};
use crate::target::Listing;
use caisson_block::Buf;
use caisson_wire::Status;
use caisson_wire::discovery::*;
use caisson_wire::fabrics::{CNTLID_DYNAMIC, DISCOVERY_NQN};
use caisson_wire::identify::ascii;
use caisson_wire::log::GetLogPage;
use caisson_wire::zerocopy::IntoBytes;
use std::net::IpAddr;

/// ASQSZ: the largest admin submission queue, in entries.
const ADMIN_ENTRIES: u16 = 128;

/// Who asks, and where.
struct Asker<'a> {
    host: &'a str,
    port: PortId,
    local: Option<IpAddr>,
}

impl Admin {
    /// The log, and what [`crate::events::Events::happened`] was when it was made; `now` is what it is now.
    pub(super) fn discovery_page(
        &mut self,
        core: &Core,
        ask: &GetLogPage,
        now: u64,
    ) -> Result<(Buf, u64), Status> {
        // Extended entries are a central discovery controller's to give.
        if ask.lsp & lsp::EXTENDED != 0 {
            return Err(Status::INVALID_FIELD.dnr());
        }
        if let (Some(log), true) = (&self.log, ask.offset != 0) {
            return Ok(log.clone());
        }
        let asker = Asker { host: &self.controller.host, port: core.at.port, local: core.at.local };
        let local_only = ask.lsp & lsp::PORT_LOCAL != 0;
        let log = Buf::from(core.target.look(|listing| build(listing, &asker, local_only)));
        self.log = Some((log.clone(), now));
        Ok((log, now))
    }
}

/// Lays the log out.
fn build(listing: &Listing<'_>, asker: &Asker<'_>, local_only: bool) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut put = |entry: DiscoveryEntry| entries.extend_from_slice(entry.as_bytes());
    for port in listing.ports.values().filter(|p| !local_only || p.id == asker.port) {
        let Some(address) = told_address(port, asker) else { continue };
        if port.discovery {
            // The discovery subsystem that is asked tells of itself (SUBTYPE 3h), at each port it has; all are the same.
            let duplicate = if port.id == asker.port { 0 } else { eflags::DUPRETINFO };
            let flags = duplicate | eflags::EPCSD;
            put(entry(port, address, subtype::CURRENT, DISCOVERY_NQN, CNTLID_DYNAMIC, flags));
        }
        for (nqn, subsystem) in listing.subsystems {
            if port.exports.contains(nqn) && subsystem.allows(asker.host) {
                let cntlid = told_cntlid(subsystem.controller_model());
                put(entry(port, address, subtype::NVM, nqn, cntlid, 0));
            }
        }
    }
    if !local_only {
        for r in listing.referrals {
            let mut e = DiscoveryEntry::default();
            fill(&mut e, r.transport, r.address, r.service);
            e.subtype = subtype::REFERRAL;
            e.portid.set(r.port.0);
            e.cntlid.set(CNTLID_DYNAMIC);
            e.asqsz.set(32);
            e.subnqn[..r.nqn.len()].copy_from_slice(r.nqn.as_bytes());
            put(e);
        }
    }
    let mut header = DiscoveryHeader::default();
    header.genctr.set(listing.generation);
    header.numrec.set((entries.len() / 1024) as u64);
    let mut log = Vec::with_capacity(1024 + entries.len());
    log.extend_from_slice(header.as_bytes());
    log.append(&mut entries);
    log
}

/// The address to tell: a wildcard port is reached where the asking host reached us, if that is of its family.
fn told_address(port: &PortSpec, asker: &Asker<'_>) -> Option<IpAddr> {
    if !port.address.is_unspecified() {
        return Some(port.address);
    }
    let local = asker.local?.to_canonical();
    // A wildcard IPv6 socket takes IPv4 too.
    (port.address.is_ipv6() || local.is_ipv4()).then_some(local)
}

fn entry(
    port: &PortSpec,
    address: IpAddr,
    subtype: u8,
    nqn: &str,
    cntlid: u16,
    flags: u16,
) -> DiscoveryEntry {
    let mut e = DiscoveryEntry::default();
    fill(&mut e, port.transport, address, port.service);
    e.subtype = subtype;
    e.portid.set(port.id.0);
    e.cntlid.set(cntlid);
    e.asqsz.set(ADMIN_ENTRIES);
    e.eflags.set(flags);
    e.subnqn[..nqn.len()].copy_from_slice(nqn.as_bytes());
    e
}

fn fill(e: &mut DiscoveryEntry, transport: Transport, address: IpAddr, service: u16) {
    let (trtype, tsas) = match transport {
        Transport::Tcp => (trtype::TCP, Tsas::Tcp { sectype: sectype::NONE }),
        Transport::Rdma => (trtype::RDMA, Tsas::Rdma { qptype: 1, prtype: 1, cms: 1, pkey: 0 }),
    };
    e.trtype = trtype;
    e.adrfam = if address.is_ipv4() { adrfam::IPV4 } else { adrfam::IPV6 };
    e.treq = treq::NOT_REQUIRED | treq::DISABLE_SQFLOW;
    ascii(&mut e.trsvcid, &service.to_string());
    ascii(&mut e.traddr, &address.to_string());
    e.tsas = tsas.encode();
}
