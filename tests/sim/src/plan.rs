//! What a seed chooses before anything runs: sizes, faults, settings, and how much of what is done.

use crate::subject::Settings;
use caisson_device::sim::{Faults, Lies, Rng};
use std::collections::BTreeMap;

/// A volume that is made at the beginning.
#[derive(Clone, Copy, Debug)]
pub struct VolumePlan {
    /// 512 or 4096.
    pub block_size: u32,
    /// Size in blocks.
    pub size: u64,
    /// Its settings.
    pub settings: Settings,
}

/// Which faults a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Crashes and what devices report; everything that was durable must be there.
    Honest,
    /// The device dies at some operation.
    Dying,
    /// Contents change at rest, or operations are done wrongly without a word.
    Lying,
}

/// What a seed chooses.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Volumes at the beginning, by name.
    pub volumes: BTreeMap<u32, VolumePlan>,
    /// Simulated threads.
    pub threads: usize,
    /// Disks, and the bytes of each.
    pub disks: usize,
    /// See `disks`.
    pub disk_size: u64,
    /// Whether the disks are too small for what is to be written.
    pub tight: bool,
    /// Bytes that the device writes whole.
    pub sector: usize,
    /// What offsets, lengths and buffers are aligned to.
    pub unit: u32,
    /// Whether holes can be punched.
    pub punches: bool,
    /// What goes wrong.
    pub weather: Weather,
    /// Reported faults.
    pub faults: Faults,
    /// Silent faults, of a lying device.
    pub lies: Lies,
    /// How many times it is opened.
    pub lives: u32,
    /// Operations submitted in a life, at most.
    pub steps: u64,
    /// Management, in cases of 1000 of what is submitted.
    pub manage: u64,
    /// Most operations under way.
    pub depth: usize,
    /// Bytes of log between checkpoints, where that is not left to the subject's seed.
    pub distance: Option<u64>,
    /// Whether old copies of all disks are put back now and then.
    pub rollback: bool,
    /// Whether a copy of the superblock is lost now and then.
    pub copies: bool,
    /// Whether the end of a log at rest rots now and then.
    pub rot: bool,
    /// Whether duplicates are compared byte by byte, on all volumes alike, and looked for on all; otherwise each has its own way.
    pub verify: Option<bool>,
}

impl Settings {
    /// Some settings.
    pub fn some(rng: &mut Rng) -> Settings {
        Settings {
            compression: (rng.below(4) > 0).then(|| [1, -7, -1, 3][rng.below(4) as usize]),
            dedup: rng.below(4) > 0,
            write_cache: rng.below(4) > 0,
            verify: rng.below(4) == 0,
            domain: 1,
        }
    }
}

impl VolumePlan {
    /// Some volume of at most 1 MiB.
    pub fn some(rng: &mut Rng) -> VolumePlan {
        let block_size = if rng.below(3) == 0 { 512 } else { 4096 };
        let bytes = (1 + rng.below(16)) << 16;
        VolumePlan { block_size, size: bytes / u64::from(block_size), settings: Settings::some(rng) }
    }
}

impl Plan {
    /// What `seed` chooses for a pool.
    pub fn of(seed: u64) -> Plan {
        let mut rng = Rng::new(seed ^ 0xC0_FFEE);
        let weather = match rng.below(10) {
            0..6 => Weather::Honest,
            6 => Weather::Dying,
            _ => Weather::Lying,
        };
        let some = |rng: &mut Rng, n| if rng.below(2) == 0 { n } else { 0 };
        let faults = Faults {
            short: some(&mut rng, 100),
            again: some(&mut rng, 50),
            full: some(&mut rng, 200),
            no_space: 0,
            dies_at: (weather == Weather::Dying).then(|| 1 + rng.below(1500)),
        };
        let rare = |rng: &mut Rng| if rng.below(3) == 0 { 1 + rng.below(15) } else { 0 };
        let lies = Lies {
            drop: rare(&mut rng),
            misdirect: rare(&mut rng),
            flip: rare(&mut rng),
            shear: rare(&mut rng),
            sync: rare(&mut rng) * 10,
            misread: rare(&mut rng),
            flip_read: rare(&mut rng),
        };
        let unit = [1, 512, 4096][rng.below(3) as usize];
        let count = 1 + rng.below(4) as u32;
        Plan {
            seed,
            volumes: (1..=count).map(|name| (name, VolumePlan::some(&mut rng))).collect(),
            threads: 1 + rng.below(4) as usize,
            disks: if rng.below(4) == 0 { 2 } else { 1 },
            disk_size: (6 + rng.below(20)) << 20,
            tight: false,
            sector: if rng.below(2) == 0 || unit == 4096 { 4096 } else { 512 },
            unit,
            punches: rng.below(4) > 0,
            weather,
            faults,
            lies: if weather == Weather::Lying && rng.below(2) == 0 { lies } else { Lies::default() },
            lives: 2 + rng.below(3) as u32,
            steps: 30 + rng.below(250),
            manage: some(&mut rng, 60),
            depth: 1 + rng.below(24) as usize,
            distance: None,
            copies: rng.below(4) == 0,
            rollback: rng.below(6) == 0,
            rot: rng.below(4) == 0,
            verify: None,
        }
    }

    /// Settings that were chosen, as the plan wants them.
    pub fn settings(&self, chosen: Settings) -> Settings {
        match self.verify {
            Some(verify) => Settings { verify, dedup: true, ..chosen },
            None => chosen,
        }
    }

    /// What `seed` chooses for a pool whose disks are too small for its volumes, as often as not.
    pub fn tight(seed: u64) -> Plan {
        let mut plan = Plan::of(seed);
        let mut rng = Rng::new(seed ^ 0x0F_1117);
        plan.tight = true;
        plan.disk_size = (1 << 20) + ((40 + rng.below(60)) << 16);
        plan.steps = 100 + rng.below(700);
        plan
    }

    /// What `seed` chooses for plain volumes: they detect no lies, and only their disks give space.
    pub fn plain(seed: u64) -> Plan {
        let mut plan = Plan::of(seed);
        let mut rng = Rng::new(seed ^ 0xBAD_CAFE);
        plan.manage = 0;
        // What a plain volume keeps beside its disk is not put back with an old copy of that.
        plan.rollback = false;
        plan.lies = Lies::default();
        if plan.weather == Weather::Lying {
            plan.weather = Weather::Honest;
            plan.faults.no_space = 20;
        }
        for v in plan.volumes.values_mut() {
            v.size = v.size / 8 * 8;
            if rng.below(2) == 0 {
                v.size = v.size.min(64);
            }
        }
        plan
    }
}
