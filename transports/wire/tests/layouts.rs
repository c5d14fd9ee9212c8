//! Layouts against the specification's figures: values put at a figure's byte offset come out of the field of that
//! name, and go back to the same bytes. Offsets stand here as numbers of their own, not taken from the types.
//!
//! The offsets and sizes were also compared with those of the structures that libnvme 1.x (nvme-cli's library) declares;
//! 238 fields of the same name agreed, the rest (which it names otherwise) are the ones spelt out below.

use caisson_wire::discovery::{self, DiscoveryEntry, DiscoveryHeader, Tsas};
use caisson_wire::feature::{self, AsyncEvent, CopyRange, DsmRange, HostBehavior, Timestamp};
use caisson_wire::identify::{self, *};
use caisson_wire::log::{self, *};
use caisson_wire::property::{Cap, Cc, Crto, Csts, NSSR_RESET, Vs};
use caisson_wire::zerocopy::{FromBytes, IntoBytes};
use caisson_wire::{Sqe, Status};

/// `N` bytes, each a different function of its offset.
fn pattern<const N: usize>() -> [u8; N] {
    std::array::from_fn(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8)
}

fn le(bytes: &[u8], at: usize, len: usize) -> u128 {
    bytes[at..at + len].iter().rev().fold(0, |n, &b| n << 8 | u128::from(b))
}

macro_rules! fields {
    ($value:expr, $raw:expr; $($field:ident : $at:literal, $len:literal;)*) => {
        $(assert_eq!(u128::from($value.$field.get()), le(&$raw, $at, $len), stringify!($field));)*
    };
}

macro_rules! bytes {
    ($value:expr, $raw:expr; $($field:ident : $at:literal;)*) => {
        $(assert_eq!($value.$field, $raw[$at], stringify!($field));)*
    };
}

/// Every prefix that is too short is refused, the exact length and more are taken, and the bytes come back.
macro_rules! round_trip {
    ($($t:ty : $len:literal),* $(,)?) => {
        $({
            let raw = pattern::<{ $len }>();
            for cut in [0, 1, $len / 2, $len - 1] {
                assert!(<$t>::read_from_prefix(&raw[..cut]).is_err(), "{} of {cut} bytes", stringify!($t));
            }
            let (value, _) = <$t>::read_from_prefix(&raw).unwrap();
            assert_eq!(value.as_bytes(), &raw[..], stringify!($t));
        })*
    };
}

#[test]
fn every_structure_goes_round() {
    round_trip!(
        IdentifyController: 4096, NvmIdentifyController: 4096, IdentifyNamespace: 4096, NvmIdentifyNamespace: 4096,
        IndependentNamespace: 4096, NamespaceList: 4096, ControllerList: 4096, IoCommandSets: 4096, PowerState: 32,
        LbaFormat: 4, ErrorEntry: 64, SmartLog: 512, FirmwareSlotLog: 512, EffectsLog: 4096, SupportedPages: 1024,
        FeatureEffects: 1024, DiscoveryHeader: 1024, DiscoveryEntry: 1024, Timestamp: 8, HostBehavior: 512,
        DsmRange: 16, CopyRange: 32,
    );
    assert!(IdentifyController::decode(&[0; 4095]).is_none());
    assert_eq!(IdentifyController::decode(&[0; 4097]), Some(IdentifyController::default()));
}

#[test]
fn identify_controller_is_where_the_figure_says() {
    let raw = pattern::<4096>();
    let c = IdentifyController::decode(&raw).unwrap();
    fields!(c, raw; cntlid: 78, 2; ver: 80, 4; rtd3e: 88, 4; oaes: 92, 4; ctratt: 96, 4; oacs: 256, 2; tnvmcap: 280, 16;
        kas: 320, 2; anagrpmax: 344, 4; nanagrpid: 348, 4; cqt: 386, 2; maxcmd: 514, 2; nn: 516, 4; oncs: 520, 2;
        fuses: 522, 2; awun: 526, 2; awupf: 528, 2; acwu: 532, 2; cdfs: 534, 2; sgls: 536, 4; mnan: 540, 4;
        ioccsz: 1792, 4; iorcsz: 1796, 4; icdoff: 1800, 2; ofcs: 1804, 2;);
    bytes!(c, raw; rab: 72; cmic: 76; mdts: 77; cntrltype: 111; acl: 258; aerl: 259; frmw: 260; lpa: 261; elpe: 262;
        npss: 263; anatt: 342; anacap: 343; sqes: 512; cqes: 513; fna: 524; vwc: 525; icsvscc: 530; nwpc: 531;
        fcatt: 1802; msdbd: 1803; dctype: 1806;);
    assert_eq!((&c.sn[..], &c.mn[..], &c.fr[..]), (&raw[4..24], &raw[24..64], &raw[64..72]));
    assert_eq!(c.subnqn[..], raw[768..1024]);
    assert_eq!(u128::from(c.psd[31].enlat.get()), le(&raw, 2048 + 31 * 32 + 4, 4));
}

#[test]
fn identify_namespace_is_where_the_figure_says() {
    let raw = pattern::<4096>();
    let n = IdentifyNamespace::decode(&raw).unwrap();
    fields!(n, raw; nsze: 0, 8; ncap: 8, 8; nuse: 16, 8; nawun: 34, 2; nawupf: 36, 2; nacwu: 38, 2; noiob: 46, 2;
        nvmcap: 48, 16; npwg: 64, 2; nows: 72, 2; mssrl: 74, 2; mcl: 76, 4; anagrpid: 92, 4;);
    bytes!(n, raw; nsfeat: 24; nlbaf: 25; flbas: 26; nmic: 30; rescap: 31; dlfeat: 33; msrc: 80; nsattr: 99;);
    assert_eq!((&n.nguid[..], &n.eui64[..]), (&raw[104..120], &raw[120..128]));
    assert_eq!(n.lbaf[63].lbads, raw[128 + 63 * 4 + 2]);
    let i = IndependentNamespace::decode(&raw).unwrap();
    bytes!(i, raw; nsfeat: 0; nmic: 1; nsattr: 8; nstat: 14;);
    let s = NvmIdentifyController::decode(&raw).unwrap();
    bytes!(s, raw; vsl: 0; wzsl: 1; wusl: 2; dmrl: 3; wzdsl: 17;);
    fields!(s, raw; dmrsl: 4, 4; dmsl: 8, 8; aocs: 18, 2; ver: 20, 4;);
}

#[test]
fn the_format_index_has_six_bits_and_hostile_sizes_are_refused() {
    let mut n = IdentifyNamespace { flbas: 0b0110_1111, ..Default::default() };
    assert_eq!(n.format_index(), 63);
    n.flbas = 0b1111_1111;
    assert_eq!(n.format_index(), 63, "bit 4 says where metadata is, bit 7 is reserved");
    for (lbads, size) in
        [(0, None), (8, None), (9, Some(512)), (12, Some(4096)), (31, Some(1 << 31)), (255, None)]
    {
        n.lbaf[63].lbads = lbads;
        assert_eq!(n.block_size(), size);
    }
}

#[test]
fn log_pages_are_where_the_figures_say() {
    let raw = pattern::<512>();
    let e = ErrorEntry::decode(&raw).unwrap();
    fields!(e, raw; ecnt: 0, 8; sqid: 8, 2; cid: 10, 2; sts: 12, 2; pel: 14, 2; lba: 16, 8; nsid: 24, 4; csinfo: 32, 8;
        ttsi: 40, 2;);
    bytes!(e, raw; vsia: 28; trtype: 29; csi: 30; opc: 31; lpver: 63;);
    assert_eq!((log::pel(40, 0), log::pel(1, 6), log::pel(255, 255)), (0x0028, 0x0601, 0x07ff));

    let s = SmartLog::decode(&raw).unwrap();
    fields!(s, raw; ctemp: 1, 2; dur: 32, 16; duw: 48, 16; hrc: 64, 16; hwc: 80, 16; cbt: 96, 16; pwrc: 112, 16;
        poh: 128, 16; upl: 144, 16; mdie: 160, 16; neile: 176, 16; wctt: 192, 4; cctt: 196, 4;);
    bytes!(s, raw; cw: 0; avsp: 3; avspt: 4; pused: 5; egcws: 6;);

    let f = FirmwareSlotLog::decode(&raw).unwrap();
    assert_eq!((f.afi, &f.frs[6][..]), (raw[0], &raw[56..64]));

    let raw = pattern::<4096>();
    let x = EffectsLog::decode(&raw).unwrap();
    assert_eq!(u128::from(x.acs[255].get()), le(&raw, 1020, 4));
    assert_eq!(u128::from(x.iocs[1].get()), le(&raw, 1028, 4));
}

#[test]
fn discovery_is_where_the_figure_says() {
    let raw = pattern::<1024>();
    let h = DiscoveryHeader::decode(&raw).unwrap();
    fields!(h, raw; genctr: 0, 8; numrec: 8, 8; recfmt: 16, 2;);
    let e = DiscoveryEntry::decode(&raw).unwrap();
    fields!(e, raw; portid: 4, 2; cntlid: 6, 2; asqsz: 8, 2; eflags: 10, 2;);
    bytes!(e, raw; trtype: 0; adrfam: 1; subtype: 2; treq: 3;);
    assert_eq!((&e.trsvcid[..], &e.subnqn[..]), (&raw[32..64], &raw[256..512]));
    assert_eq!((&e.traddr[..], &e.tsas[..]), (&raw[512..768], &raw[768..1024]));

    let mut e = DiscoveryEntry::default();
    for (trtype, tsas) in [
        (discovery::trtype::TCP, Tsas::Tcp { sectype: 2 }),
        (discovery::trtype::RDMA, Tsas::Rdma { qptype: 1, prtype: 4, cms: 1, pkey: 0xffff }),
    ] {
        (e.trtype, e.tsas) = (trtype, tsas.encode());
        assert_eq!(e.tsas(), Some(tsas));
    }
    e.trtype = discovery::trtype::FC;
    assert_eq!(e.tsas(), None);
    assert_eq!(discovery::page_len(3), 4096);
}

#[test]
fn lists_end_where_they_should() {
    let list = NamespaceList::collect([1, 5, 0xffff_fffe]);
    assert_eq!(list.as_bytes()[4..16], [5, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert_eq!(list.iter().collect::<Vec<_>>(), [1, 5, 0xffff_fffe]);
    assert_eq!(NamespaceList::collect(1..=2000).iter().count(), 1024);

    let list = ControllerList::collect(1..=3000);
    assert_eq!((list.numids.get(), list.iter().count(), list.iter().last()), (2047, 2047, Some(2047)));
    assert_eq!(ControllerList::read_from_bytes(&[0xff; 4096]).unwrap().iter().count(), 2047);
}

#[test]
fn namespace_descriptors_go_round_and_hostile_lists_end() {
    let list = [
        NsDescriptor::Eui64([1; 8]),
        NsDescriptor::Nguid([2; 16]),
        NsDescriptor::Uuid([3; 16]),
        NsDescriptor::Csi(0),
    ];
    let data = identify::write_ns_descriptors(&list);
    assert_eq!(data[..5], [1, 8, 0, 0, 1]);
    assert_eq!(data[12..16], [2, 16, 0, 0]);
    assert_eq!(data[52..58], [4, 1, 0, 0, 0, 0]);
    assert_eq!(identify::read_ns_descriptors(&data), list);

    assert_eq!(identify::read_ns_descriptors(&[]), []);
    assert_eq!(identify::read_ns_descriptors(&[1, 8, 0, 0, 1, 1]), [], "longer than what is left");
    assert_eq!(identify::read_ns_descriptors(&[9, 1, 0, 0, 7, 4, 1, 0, 0, 2]), [NsDescriptor::Csi(2)]);
    assert_eq!(
        identify::read_ns_descriptors(&[1, 7, 0, 0, 1, 1, 1, 1, 1, 1, 1]),
        [],
        "wrong length for its type"
    );
    let full = vec![NsDescriptor::Uuid([7; 16]); 300];
    assert_eq!(identify::read_ns_descriptors(&identify::write_ns_descriptors(&full)).len(), 204);
    for fill in 0..=255u8 {
        identify::read_ns_descriptors(&[fill; 4096]);
    }
}

#[test]
fn get_log_page_fields_go_round_at_their_extremes() {
    for cmd in [
        GetLogPage { lid: 0x70, len: 4, ..Default::default() },
        GetLogPage {
            lid: 0xff,
            lsp: 0x7f,
            rae: true,
            len: 1 << 34,
            lsi: 0xffff,
            offset: u64::MAX,
            uuid_index: 0x7f,
            ot: true,
            csi: 0xff,
        },
        GetLogPage { lid: 2, rae: true, len: 512, offset: 0x1_0000_0004, ..Default::default() },
    ] {
        let mut sqe = Sqe::default();
        cmd.put(&mut sqe);
        assert_eq!(GetLogPage::of(&sqe), cmd);
    }
    let mut sqe = Sqe::default();
    GetLogPage { lid: 0x70, rae: true, len: 1024, ..Default::default() }.put(&mut sqe);
    assert_eq!((sqe.cdw10.get(), sqe.cdw11.get()), (0x00ff_8070, 0), "as Linux's discovery asks");
}

#[test]
fn asynchronous_events_are_as_linux_reads_them() {
    // Linux: type = result & 7, subtype = (result & ff00h) >> 8, log page = (result & ff0000h) >> 16.
    assert_eq!(AsyncEvent::NS_ATTR.dw0(), 0x0004_0002);
    assert_eq!(AsyncEvent::DISCOVERY_CHANGE.dw0(), 0x0070_f002);
    for dw0 in [0, 0x0070_f002, 0x0002_0101, 0x00ff_ff07] {
        assert_eq!(AsyncEvent::from_dw0(dw0).dw0(), dw0);
    }
    assert_eq!(AsyncEvent::from_dw0(u32::MAX).dw0(), 0x00ff_ff07);
}

#[test]
fn feature_values_keep_their_bounds() {
    assert_eq!(feature::queues_requested(0x007f_007f), Some((128, 128)));
    assert_eq!(feature::queues_requested(0xfffe_fffe), Some((65_535, 65_535)));
    assert_eq!(feature::queues_requested(0x0000_ffff), None);
    assert_eq!(feature::queues_requested(0xffff_0000), None);
    assert_eq!(feature::queues_allocated(128, 1), 0x0000_007f);
    assert_eq!(feature::queues_allocated(65_535, 65_535), 0xfffe_fffe);

    for (kato, kas, rounded) in [
        (0, 10, 0),
        (1, 10, 1000),
        (1000, 10, 1000),
        (5001, 10, 6000),
        (7, 0, 7),
        (u32::MAX, 10, 4_294_967_000),
    ] {
        assert_eq!(feature::round_kato(kato, kas), rounded, "{kato} ms in units of {kas}");
    }

    let t = Timestamp::new(0xffff_0102_0304_0506, Timestamp::ORIGIN_HOST);
    assert_eq!((t.millis(), t.origin()), (0x0102_0304_0506, 1));
    assert_eq!(t.as_bytes(), [6, 5, 4, 3, 2, 1, 2, 0]);
}

#[test]
fn ranges_are_where_the_figures_say() {
    let raw = pattern::<32>();
    let d = DsmRange::read_from_bytes(&raw[..16]).unwrap();
    fields!(d, raw; cattr: 0, 4; llb: 4, 4; slba: 8, 8;);
    let c = CopyRange::read_from_bytes(&raw).unwrap();
    fields!(c, raw; slba: 8, 8; nlb: 16, 2; elbrt: 24, 4; elbat: 28, 2; elbatm: 30, 2;);
}

#[test]
fn properties_have_their_bits() {
    // What Linux writes to enable an NVM controller over fabrics: entry sizes 6 and 4, 4 KiB pages.
    let cc = Cc(0x0046_0001);
    assert_eq!((cc.en(), cc.css(), cc.mps(), cc.shn(), cc.iosqes(), cc.iocqes()), (1, 0, 0, 0, 6, 4));
    assert_eq!(Cc::default().with_en(1).with_iosqes(6).with_iocqes(4), cc);
    assert_eq!(cc.with_shn(1).0, 0x0046_4001);
    assert_eq!(cc.with_css(0xff).0, 0x0046_0071, "what does not fit is cut");
    assert_eq!((Csts(0x0d).rdy(), Csts(0x0d).shst(), Csts(0x0d).cfs()), (1, 3, 0));

    let cap = Cap::default().with_mqes(1023).with_cqr(1).with_to(30).with_css(0x41).with_crms(1);
    assert_eq!(cap.0, 1023 | 1 << 16 | 30 << 24 | 0x41 << 37 | 1 << 59);
    assert_eq!(Cap(u64::MAX).with_css(0).css(), 0);
    assert_eq!((Cap(u64::MAX).mqes(), Cap(u64::MAX).nsses()), (0xffff, 1));
    assert_eq!(Crto(0x0003_0002).crwmt(), 2);
    assert_eq!((Vs::V2_1.0, Vs::V1_4.0), (0x0002_0100, 0x0001_0400));
    assert_eq!(NSSR_RESET, u32::from_be_bytes(*b"NVMe"));
}

#[test]
fn ascii_fields_are_padded_and_cleaned() {
    let mut field = [0u8; 8];
    identify::ascii(&mut field, "1.0");
    assert_eq!(&field, b"1.0     ");
    identify::ascii(&mut field, "é\n123456789");
    assert_eq!(&field, b"??123456");
    assert_eq!(identify::ascii_of(b"SN 1  \0\0"), "SN 1");
    assert_eq!(identify::ascii_of(&[0xff, b'a', 0x1b]), "?a?");
}

#[test]
fn statuses_stand_in_the_error_log_as_in_a_completion() {
    let mut e = ErrorEntry::default();
    e.sts.set(Status::INVALID_FIELD.dnr().field());
    assert_eq!(e.as_bytes()[12..14], [0x04, 0x80]);
}
