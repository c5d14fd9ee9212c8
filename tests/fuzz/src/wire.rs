//! Every decoder of the wire crate on any bytes.

use caisson_wire::zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use caisson_wire::{Cqe, Sqe, Status, discovery, fabrics, feature, identify, log, opcode, pdu};

/// Decodes a `T` from the front, and checks that it stands for the bytes it came from.
fn whole<T: FromBytes + IntoBytes + Immutable + KnownLayout>(data: &[u8]) -> Option<T> {
    let (value, rest) = T::read_from_prefix(data).ok()?;
    assert_eq!(value.as_bytes(), &data[..data.len() - rest.len()]);
    Some(value)
}

/// All of them: none may panic, and each gives back the bytes that it read.
pub fn wire(data: &[u8]) {
    if let Some(sqe) = Sqe::decode(data) {
        let _ = (sqe.fuse(), sqe.psdt(), sqe.fctype(), sqe.slba(), sqe.sgl.kind());
        assert!((1..=65536).contains(&sqe.nlb()));
        let _ = opcode::direction(sqe.opcode);
        let page = log::GetLogPage::of(&sqe);
        let mut again = sqe;
        page.put(&mut again);
    }
    if let Some(cqe) = Cqe::decode(data) {
        let status = cqe.status();
        assert_eq!(Status::from_field(status.field()), status);
        let _ = (status.to_string(), cqe.result());
    }
    whole::<pdu::CommonHeader>(data);
    whole::<pdu::IcReq>(data);
    whole::<pdu::IcResp>(data);
    whole::<pdu::CapsuleCmd>(data);
    whole::<pdu::CapsuleResp>(data);
    whole::<pdu::DataPdu>(data);
    whole::<pdu::R2t>(data);
    if let Some(term) = whole::<pdu::TermReq>(data) {
        let _ = term.fei();
    }
    if let Some(connect) = whole::<fabrics::ConnectData>(data) {
        for name in [&connect.subnqn, &connect.hostnqn] {
            assert!(fabrics::nqn_of(name).is_none_or(|n| !n.is_empty() && n.len() <= 223));
        }
    }
    whole::<discovery::DiscoveryHeader>(data);
    if let Some(entry) = whole::<discovery::DiscoveryEntry>(data) {
        let _ = entry.tsas();
    }
    if let Some(timestamp) = whole::<feature::Timestamp>(data) {
        let _ = (timestamp.millis(), timestamp.origin());
    }
    whole::<feature::HostBehavior>(data);
    whole::<feature::DsmRange>(data);
    whole::<feature::CopyRange>(data);
    whole::<identify::IdentifyController>(data);
    if let Some(list) = whole::<identify::ControllerList>(data) {
        assert!(list.iter().count() <= 2047);
    }
    if let Some(list) = whole::<identify::NamespaceList>(data) {
        assert!(list.iter().count() <= 1024);
    }
    if let Some(ns) = whole::<identify::IdentifyNamespace>(data) {
        let _ = (ns.format_index(), ns.format(), ns.block_size());
    }
    let _ = identify::read_ns_descriptors(data);
    let _ = identify::ascii_of(data);
    whole::<log::ErrorEntry>(data);
    whole::<log::SmartLog>(data);
    whole::<log::FirmwareSlotLog>(data);
}
