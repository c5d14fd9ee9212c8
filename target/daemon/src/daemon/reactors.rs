//! Starts the reactors for a target's settings, and shows them to the control plane as a [`DataPlane`].

use super::plane::{DataPlane, RdmaCounts, ThreadCounts};
use crate::config::settings::{Polling, Settings};
use crate::model::text::{Address, Scheme};
use crate::reactor::{DriverChoice, Limits, ReactorConfig, Reactors};
use crate::refusal::{Cause, Refusal};
use caisson_block::Pages;
use caisson_core::Target;
use caisson_rdma::Cause as Fault;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

impl DataPlane for Reactors {
    fn listen(&self, at: Address, port: u16) -> io::Result<SocketAddr> {
        match at.scheme {
            Scheme::Tcp => Reactors::listen(self, at.socket, port),
            Scheme::Rdma => self.listen_rdma(at.socket, port),
        }
    }

    fn expect(&self, at: Address, port: u16, why: String) {
        if at.scheme == Scheme::Rdma {
            self.expect_rdma(at.socket, port, why);
        }
    }

    fn waits(&self, at: Address) -> Option<String> {
        if at.scheme == Scheme::Rdma { self.waits_rdma(at.socket) } else { None }
    }

    fn unlisten(&self, at: Address) {
        match at.scheme {
            Scheme::Tcp => {
                Reactors::unlisten(self, at.socket);
            }
            Scheme::Rdma => self.unlisten_rdma(at.socket),
        }
    }

    fn driver(&self) -> &'static str {
        Reactors::driver(self)
    }

    fn threads(&self) -> Vec<ThreadCounts> {
        self.stats()
            .iter()
            .map(|t| ThreadCounts {
                turns: t.turns.load(Relaxed),
                syscalls: t.syscalls.load(Relaxed),
                sleeps: t.sleeps.load(Relaxed),
                accepted: t.accepted.load(Relaxed),
                shed: t.shed.load(Relaxed),
                protocol_errors: t.protocol_errors.load(Relaxed),
                connections: t.connections.load(Relaxed),
                rx_bytes: t.rx_bytes.load(Relaxed),
                tx_bytes: t.tx_bytes.load(Relaxed),
                copied_rx: t.copied_rx.load(Relaxed),
                turn_ns: t.turn_ns.load(Relaxed),
                turn_lengths: t.turn_lengths.iter().map(|n| n.load(Relaxed)).collect(),
            })
            .collect()
    }

    fn rdma(&self) -> RdmaCounts {
        let count = |of: usize| self.stats().iter().map(|t| t.rdma_buffers[of].load(Relaxed)).sum();
        RdmaCounts {
            faults: Fault::ALL
                .iter()
                .map(|c| (c.name(), self.rdma_stats().faults[c.index()].load(Relaxed)))
                .collect(),
            buffers: vec![("transfer", count(0)), ("capsule", count(1)), ("response", count(2))],
            pages: Pages::ALL
                .iter()
                .zip(&self.rdma_stats().pages)
                .map(|(of, bytes)| (of.name(), bytes.load(Relaxed)))
                .collect(),
        }
    }

    fn shutdown(&self) {
        Reactors::shutdown(self);
    }
}

/// A time-out in whole milliseconds.
fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// The reactors' own configuration for these settings.
fn config(settings: &Settings) -> ReactorConfig {
    let l = &settings.limits;
    let defaults = caisson_tcp::controller::Config::default();
    let session = caisson_tcp::controller::Config {
        in_capsule: l.in_capsule_data,
        max_h2c: l.max_h2c_data,
        // Linux before 5.18 does not look at MAXH2CDATA: it sends all that an R2T asks for in one PDU.
        max_r2t: l.max_h2c_data.min(defaults.max_r2t),
        handshake_ms: millis(l.handshake_timeout),
        pdu_ms: millis(l.stall_timeout),
        r2t_ms: millis(l.stall_timeout),
        ..defaults
    };
    let spin_ns = match settings.polling {
        Polling::Never => 0,
        Polling::Adaptive(spin) => u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX),
        // Far more than any run lasts, and no clock overflows when it is added.
        Polling::Always => u64::MAX / 4,
    };
    let limits = Limits {
        connections: l.connections as usize,
        spin_ns,
        shutdown_ms: millis(l.grace),
        session,
        ..Limits::default()
    };
    ReactorConfig { cores: settings.cores.clone(), driver: DriverChoice::Auto, limits }
}

/// Starts the reactors.
///
/// # Errors
/// A core that does not exist; the system's.
pub fn start_reactors(settings: &Settings, target: Arc<Target>) -> Result<Arc<dyn DataPlane>, Refusal> {
    match Reactors::start(config(settings), target) {
        Ok(r) => Ok(Arc::new(r)),
        Err(e) => Err(Refusal::new(
            Cause::System,
            format!("the data plane cannot start: {e}"),
            "check the list of cores against `nproc`, and the limit of locked memory (ulimit -l) and of threads (ulimit -u)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_r2t_asks_for_more_than_one_pdu_may_carry() {
        let mut settings = Settings::default();
        for max in [settings.limits.max_h2c_data, 4096, 128 << 10, 16 << 20] {
            settings.limits.max_h2c_data = max;
            let session = config(&settings).limits.session;
            assert_eq!(session.max_h2c, max);
            assert!(session.max_r2t <= max, "R2Ts of {} with a MAXH2CDATA of {max}", session.max_r2t);
        }
    }
}
