//! The commands that the `caisson` program mounts: `perf`, `bench`, `identify`, `discover`.
//!
//! Each has a clap argument struct and a function that runs it; a failure is an [`Error`] for the program to print.

// First: the modules after it print with its macros.
#[macro_use]
mod out;

mod bench;
mod clearing;
mod identify;
mod isolation;
mod live;
mod perf;
mod services;
mod target;

pub use bench::{BenchArgs, bench};
pub use identify::{IdentifyArgs, identify};
pub use out::print;
pub use perf::{PerfArgs, perf, stop_at_interrupt};

use crate::client::{Client, Options, is_discovery};
use crate::discover;
use crate::error::{Error, Result};
use crate::net::{Address, DISCOVERY_PORT, IO_PORT};
use crate::units;
use caisson_wire::fabrics::DISCOVERY_NQN;
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// What every command needs to come to a controller.
#[derive(Args, Clone, Debug)]
pub struct HostArgs {
    /// Host NQN to connect as; by default that of /etc/nvme/hostnqn, or one made from the machine's id
    #[arg(long, value_name = "NQN")]
    pub hostnqn: Option<String>,
    /// Ask for header digests
    #[arg(long)]
    pub header_digest: bool,
    /// Ask for data digests
    #[arg(long)]
    pub data_digest: bool,
    /// How long the target may take for one answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::parse_time)]
    pub timeout: Duration,
}

impl HostArgs {
    /// Options to connect to `subnqn` at `address`.
    pub fn options(&self, address: &Address, subnqn: &str) -> Options {
        let mut o = Options::new(address.clone(), subnqn);
        if let Some(nqn) = &self.hostnqn {
            o = o.host(nqn);
        }
        o.greeting.header_digest = self.header_digest;
        o.greeting.data_digest = self.data_digest;
        o.timeout = self.timeout;
        o
    }

    /// The subsystem to use: `nqn`, or the only one that the discovery service at `address` shows.
    ///
    /// # Errors
    /// When there is none, or more than one.
    fn subsystem(&self, address: &Address, nqn: Option<&str>) -> Result<String> {
        if let Some(nqn) = nqn {
            return Ok(nqn.into());
        }
        let page = discover::discover(self.options(address, DISCOVERY_NQN))?;
        let mut found: Vec<_> =
            page.entries.into_iter().filter(|e| e.subtype == "nvme subsystem").map(|e| e.subnqn).collect();
        found.sort();
        found.dedup();
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Error::unsuitable(
                format!("{address} shows this host no subsystem"),
                "name one with --nqn, or allow this host on the target",
            )),
            many => Err(Error::unsuitable(
                format!("{address} shows {} subsystems: {}", many.len(), many.join(", ")),
                "choose one with --nqn",
            )),
        }
    }
}

/// Prints JSON on standard output.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::File { path: "standard output".into(), source: e.into() })?;
    println!("{text}");
    Ok(())
}

/// Shows what a target's discovery service tells this host.
#[derive(Args, Clone, Debug)]
pub struct DiscoverArgs {
    /// Where it listens: tcp://HOST:PORT, rdma://HOST:PORT or HOST:PORT; the port is 8009 (4420 over RDMA) when it is left
    /// out
    #[arg(value_name = "ADDRESS")]
    pub address: String,
    /// The discovery subsystem, when it has a name of its own
    #[arg(long, value_name = "NQN", default_value = DISCOVERY_NQN)]
    pub nqn: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields are documented")]
    pub host: HostArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `discover`.
///
/// # Errors
/// When the target cannot be reached or refuses.
pub fn discover(args: &DiscoverArgs) -> Result<()> {
    let mut address: Address = args.address.parse()?;
    let bare = args.address.rsplit("//").next().unwrap_or_default();
    if !bare.ends_with(&format!(":{}", address.port)) {
        address.port = if address.is_rdma() { IO_PORT } else { DISCOVERY_PORT };
    }
    let page = discover::discover(args.host.options(&address, &args.nqn))?;
    if args.json {
        return print_json(&page);
    }
    print!("{page}");
    Ok(())
}

/// Connects to the subsystem, and says so when it is a discovery subsystem where another is wanted.
fn connect_io(host: &HostArgs, address: &Address, nqn: Option<&str>) -> Result<Client> {
    let nqn = host.subsystem(address, nqn)?;
    if is_discovery(&nqn) {
        return Err(Error::unsuitable(
            "the discovery subsystem has no namespaces",
            "name an NVM subsystem with --nqn; `caisson discover` lists them",
        ));
    }
    Client::connect(host.options(address, &nqn))
}
