//! Namespaces whose keys can be erased, in a subsystem where hosts may: RAM volumes that are erased as far as the test says. What a pool
//! makes of it is tested with a pool (tools/cli, tests/interop); here it is what the controller answers meanwhile.

use crate::subject::{Subject, ram};
use caisson_block::{BlockError, Cx, EraseBy, Erasure, Geometry, Request, Volume};
use caisson_core::{NamespaceSpec, SubsystemSpec};
use caisson_initiator::Client;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The subsystem. Its namespaces are 1 and 2, of 64 blocks of 4 KiB.
pub const SEALED: &str = "nqn.2026-01.io.example:sealed";

/// A volume with keys to erase.
pub struct Erasable {
    inner: Arc<dyn Volume>,
    state: Mutex<State>,
}

struct State {
    erasure: Erasure,
    refuses: bool,
}

impl Erasable {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far what is under way is, in 65,536ths.
    pub fn at(&self, progress: u16) {
        if let Erasure::Running { progress: now, .. } = &mut self.state().erasure {
            *now = progress;
        }
    }

    /// It is done.
    pub fn done(&self) {
        self.state().erasure = Erasure::None;
    }

    /// It could not begin, after all.
    pub fn fails(&self) {
        self.state().erasure = Erasure::Failed;
    }

    /// Whether it refuses to be erased.
    pub fn refuses(&self, on: bool) {
        self.state().refuses = on;
    }
}

impl Volume for Erasable {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn submit(&self, cx: &mut Cx<'_>, request: Request) {
        self.inner.submit(cx, request);
    }

    fn erasable(&self) -> bool {
        true
    }

    fn erase(&self, by: EraseBy) -> Result<(), BlockError> {
        let mut state = self.state();
        if state.refuses {
            return Err(BlockError::Failed);
        }
        state.erasure = Erasure::Running { by, recorded: true, progress: 0, stalled: false };
        Ok(())
    }

    fn erasure(&self) -> Erasure {
        self.state().erasure
    }
}

/// Adds the subsystem, and gives its volumes.
///
/// # Panics
/// When that fails: the test has failed.
pub fn sealed(s: &Subject) -> [Arc<Erasable>; 2] {
    let mut spec = SubsystemSpec::new(SEALED, "CONF0003");
    (spec.allow_any, spec.allow_erase) = (true, true);
    s.target.add_subsystem(spec).unwrap_or_else(|e| panic!("{e}"));
    [1, 2].map(|nsid| {
        let (spec, _) = ram(4096, 64);
        let state = State { erasure: Erasure::None, refuses: false };
        let volume = Arc::new(Erasable { inner: spec.volume, state: Mutex::new(state) });
        let spec = NamespaceSpec { nsid: Some(nsid), volume: volume.clone(), ..spec };
        s.target.add_namespace(SEALED, spec).unwrap_or_else(|e| panic!("{e}"));
        volume
    })
}

/// A controller of it.
///
/// # Panics
/// When it cannot be connected to.
pub fn controller(s: &Subject) -> Client {
    Client::connect(s.options(SEALED)).unwrap_or_else(|e| panic!("{e}"))
}
