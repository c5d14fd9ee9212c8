//! `caisson identify`: a controller and its namespaces for people and for programs.

use super::{HostArgs, print_json};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::net::Address;
use crate::units;
use caisson_wire::fabrics::{nqn_of, property};
use caisson_wire::identify::{
    IdentifyController, IdentifyNamespace, NsDescriptor, ascii_of, cns, read_ns_descriptors,
};
use caisson_wire::property::Vs;
use clap::Args;
use serde_json::{Map, Value, json};

use uuid::Uuid;

/// Shows what a controller and its namespaces say of themselves.
#[derive(Args, Clone, Debug)]
pub struct IdentifyArgs {
    /// Where the target listens: tcp://HOST:PORT, rdma://HOST:PORT or HOST:PORT
    #[arg(value_name = "ADDRESS")]
    pub address: Address,
    /// The subsystem; by default the only one that the target's discovery service shows
    #[arg(long, value_name = "NQN")]
    pub nqn: Option<String>,
    /// Only this namespace
    #[arg(long, value_name = "N")]
    pub nsid: Option<u32>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub host: HostArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `identify`.
///
/// # Errors
/// When the target cannot be reached or refuses.
pub fn identify(args: &IdentifyArgs) -> Result<()> {
    let nqn = args.host.subsystem(&args.address, args.nqn.as_deref())?;
    let mut client = Client::connect(args.host.options(&args.address, &nqn))?;
    let version = Vs(client.property(property::VS, 4)? as u32);
    let id = client.identity.clone().ok_or_else(|| Error::protocol("the controller was not identified"))?;
    let controller = controller(&id, version, &client);
    let mut namespaces = Vec::new();
    // A discovery controller (CNTRLTYPE 2) has none.
    if id.cntrltype != 2 {
        let all = client.namespaces()?;
        if let Some(none) = args.nsid.filter(|n| !all.contains(n)) {
            let remedy = "leave out --nsid to see all that there are";
            return Err(Error::unsuitable(format!("there is no namespace {none} in {nqn}"), remedy));
        }
        for nsid in all.into_iter().filter(|n| args.nsid.is_none_or(|only| only == *n)) {
            let ns = client.identify_namespace(nsid)?;
            let list = client.identify(cns::NS_DESCRIPTORS, nsid, 0).unwrap_or_default();
            namespaces.push((nsid, namespace(nsid, &ns, &read_ns_descriptors(&list))));
        }
    }
    if args.json {
        let list: Vec<Value> = namespaces.into_iter().map(|(_, ns)| object(ns)).collect();
        return print_json(&json!({ "controller": object(controller), "namespaces": list }));
    }
    println!("Controller {} of {nqn}", client.cntlid);
    show(&controller);
    for (nsid, ns) in &namespaces {
        println!("\nNamespace {nsid}");
        show(ns);
    }
    Ok(())
}

/// Names and values in the order in which the specification has them.
type Fields = Vec<(&'static str, Value)>;

/// Makes [`Fields`].
macro_rules! fields {
    ($($name:literal : $value:expr),* $(,)?) => { vec![$(($name, json!($value))),*] };
}

fn object(fields: Fields) -> Value {
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect::<Map<_, _>>())
}

fn show(fields: &Fields) {
    for (name, value) in fields {
        match value {
            Value::String(s) => println!("  {name:<10} {s}"),
            other => println!("  {name:<10} {other}"),
        }
    }
}

fn controller(id: &IdentifyController, version: Vs, client: &Client) -> Fields {
    let v = version.0;
    let max = client.max_transfer();
    fields! {
        "sn": ascii_of(&id.sn),
        "mn": ascii_of(&id.mn),
        "fr": ascii_of(&id.fr),
        "subnqn": nqn_of(&id.subnqn).unwrap_or(""),
        "version": format!("{}.{}.{}", v >> 16, v >> 8 & 0xff, v & 0xff),
        "cntlid": id.cntlid.get(),
        "cntrltype": match id.cntrltype { 1 => "I/O", 2 => "discovery", 3 => "administrative", _ => "unknown" },
        "vid": format!("{:#06x}", id.vid.get()),
        "ieee": format!("{:02x}{:02x}{:02x}", id.ieee[2], id.ieee[1], id.ieee[0]),
        "mdts": if max == u32::MAX { "no limit".to_string() } else { units::bytes(u64::from(max)) },
        "mqes": client.max_entries(),
        "ioccsz": id.ioccsz.get(),
        "in-capsule": units::bytes(u64::from(id.ioccsz.get().saturating_mul(16).saturating_sub(64))),
        "iorcsz": id.iorcsz.get(),
        "icdoff": id.icdoff.get(),
        "maxcmd": id.maxcmd.get(),
        "nn": id.nn.get(),
        "mnan": id.mnan.get(),
        "cmic": format!("{:#x}", id.cmic),
        "oaes": format!("{:#x}", id.oaes.get()),
        "ctratt": format!("{:#x}", id.ctratt.get()),
        "oacs": format!("{:#x}", id.oacs.get()),
        "oncs": format!("{:#x}", id.oncs.get()),
        "fuses": format!("{:#x}", id.fuses.get()),
        "lpa": format!("{:#x}", id.lpa),
        "acl": id.acl,
        "aerl": id.aerl,
        "elpe": id.elpe,
        "kas": id.kas.get(),
        "vwc": format!("{:#x}", id.vwc),
        "awun": id.awun.get(),
        "awupf": id.awupf.get(),
        "acwu": id.acwu.get(),
        "sgls": format!("{:#x}", id.sgls.get()),
        "fna": format!("{:#x}", id.fna),
        "nwpc": format!("{:#x}", id.nwpc),
        "anacap": format!("{:#x}", id.anacap),
    }
}

fn namespace(nsid: u32, ns: &IdentifyNamespace, ids: &[NsDescriptor]) -> Fields {
    let block = ns.block_size().unwrap_or(0);
    let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut fields = fields! {
        "nsid": nsid,
        "size": units::bytes(ns.nsze.get().saturating_mul(u64::from(block))),
        "block": block,
        "metadata": ns.format().ms.get(),
        "nsze": ns.nsze.get(),
        "ncap": ns.ncap.get(),
        "nuse": ns.nuse.get(),
        "flbas": ns.flbas,
        "nlbaf": ns.nlbaf,
        "nsfeat": format!("{:#x}", ns.nsfeat),
        "dlfeat": format!("{:#x}", ns.dlfeat),
        "nmic": format!("{:#x}", ns.nmic),
        "nsattr": format!("{:#x}", ns.nsattr),
        "nawun": ns.nawun.get(),
        "nawupf": ns.nawupf.get(),
        "nacwu": ns.nacwu.get(),
        "noiob": ns.noiob.get(),
        "npwg": ns.npwg.get(),
        "npdg": ns.npdg.get(),
        "mssrl": ns.mssrl.get(),
        "mcl": ns.mcl.get(),
        "msrc": ns.msrc,
        "anagrpid": ns.anagrpid.get(),
        "nguid": hex(&ns.nguid),
        "eui64": hex(&ns.eui64),
    };
    for id in ids {
        match id {
            NsDescriptor::Uuid(u) => fields.push(("uuid", json!(Uuid::from_bytes(*u).to_string()))),
            NsDescriptor::Csi(c) => fields.push(("csi", json!(c))),
            NsDescriptor::Nguid(_) | NsDescriptor::Eui64(_) => {}
        };
    }
    fields
}
