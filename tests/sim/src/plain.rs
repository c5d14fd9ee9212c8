//! The plain volume as a subject: each volume is a disk of its own, and there is no management.

use crate::plan::Plan;
use crate::subject::{Action, Nature, Reply, Slot, Subject};
use caisson_block::{Cx, Extent, Volume};
use caisson_device::sim::SimDisk;
use caisson_device::{Alignment, Buffers};
use caisson_volume::{FileVolume, Keeper};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps unreadable blocks in memory, over crashes.
#[derive(Default)]
struct MemoryKeeper(Mutex<Vec<Extent>>);

impl Keeper for MemoryKeeper {
    fn keep(&self, runs: &[Extent]) -> io::Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = runs.to_vec();
        Ok(())
    }
    fn load(&self) -> io::Result<Vec<Extent>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
    fn blocks(&self) -> bool {
        false
    }
}

/// One volume: its disk, what it keeps, and itself while it is open.
struct Disk {
    disk: Arc<SimDisk>,
    keeper: Arc<MemoryKeeper>,
    block_size: u32,
    write_cache: bool,
    open: Option<Arc<FileVolume>>,
}

/// Plain volumes.
pub struct Plain {
    volumes: BTreeMap<u32, Disk>,
    buffers: Buffers,
}

impl Plain {
    /// As many as the plan has, of its sizes.
    pub fn new(plan: &Plan) -> Plain {
        let disk = |v: &crate::plan::VolumePlan| {
            let unit = plan.unit.min(v.block_size);
            // The plain volume is as atomic as its disk.
            let sector = v.block_size as usize;
            let size = v.size * u64::from(v.block_size);
            let align = Alignment { memory: unit, offset: unit };
            Disk {
                disk: SimDisk::new(plan.seed, size, sector, align, plan.punches, plan.faults),
                keeper: Arc::default(),
                block_size: v.block_size,
                write_cache: v.settings.write_cache,
                open: None,
            }
        };
        Plain {
            volumes: plan.volumes.iter().map(|(&name, v)| (name, disk(v))).collect(),
            buffers: Buffers::new([8, 4, 16]).expect("address space for a few buffers"),
        }
    }
}

impl Subject for Plain {
    fn nature(&self) -> Nature {
        let deallocates = self.volumes.values().all(|v| v.disk.store().punches());
        Nature { ordered: false, detects: false, manages: false, deallocates, marks: true, keys: false }
    }

    fn act(&mut self, _: &mut Cx<'_>, action: Action, slot: Slot) {
        let buffers = &self.buffers;
        let open = |v: &mut Disk| {
            let keeper: Arc<dyn Keeper> = v.keeper.clone();
            let shift = v.block_size.ilog2();
            let volume = FileVolume::new(v.disk.store(), buffers.clone(), shift, v.write_cache, Some(keeper));
            volume.map(|opened| v.open = Some(Arc::new(opened)))
        };
        slot.put(match action {
            Action::Create | Action::Open => match self.volumes.values_mut().try_for_each(open) {
                Ok(()) => Reply::Done,
                Err(e) => Reply::Failed(e.to_string()),
            },
            // They are there from the beginning.
            Action::Make { name, .. } if self.volumes.contains_key(&name) => Reply::Done,
            _ => Reply::Unsupported,
        });
    }

    fn volumes(&self) -> BTreeMap<u32, (u32, u64)> {
        let shape = |v: &Disk| (v.block_size, v.disk.size() / u64::from(v.block_size));
        self.volumes.iter().map(|(&name, v)| (name, shape(v))).collect()
    }

    fn volume(&self, name: u32) -> Option<Arc<dyn Volume>> {
        self.volumes.get(&name)?.open.clone().map(|v| v as Arc<dyn Volume>)
    }

    fn fault(&self) -> Option<String> {
        self.volumes.values().find_map(|v| v.open.as_ref()?.fault())
    }

    fn kill(&mut self) -> Result<(), String> {
        for (name, v) in &mut self.volumes {
            let gone = v.open.take().map(|open| Arc::downgrade(&open));
            if gone.is_some_and(|g| g.upgrade().is_some()) {
                return Err(format!("something holds volume {name} after its threads have ended"));
            }
        }
        let all =
            (self.buffers.take([4096; 8]), self.buffers.take([32768; 4]), self.buffers.take([131_072; 16]));
        match all {
            (Some(_), Some(_), Some(_)) => Ok(()),
            _ => Err("buffers are lost".into()),
        }
    }

    fn disks(&self) -> Vec<Arc<SimDisk>> {
        self.volumes.values().map(|v| Arc::clone(&v.disk)).collect()
    }
}
