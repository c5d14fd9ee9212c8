//! The controller properties and the machine between CC and CSTS, as a table (Base 2.1, 3.1.4 and 3.5 to 3.7).
//!
//! Owns the values and the transitions; what an effect means for queues is the admin queue's business.

use crate::registry::subsystem::Kind;
use crate::spec::MAX_QUEUE_ENTRIES;
use caisson_wire::fabrics::property;
use caisson_wire::property::{Cap, Cc, Crto, Csts, Vs, css, shn, shst};

/// The version told in VS and Identify.
pub(crate) const VERSION: Vs = Vs::V2_1;

/// CAP.TO and CRTO.CRWMT, in units of 500 ms: enabling is done when Property Set completes, so this is only room.
const READY_WITHIN: u64 = 10;

/// CAP.CSS: bit 0 NVM, bit 6 by CC.CSS = 110b, bit 7 admin only.
const CSS_IO: u64 = 1 << 0 | 1 << 6;
const CSS_ADMIN: u64 = 1 << 7;

/// Where a controller is between CC.EN and CSTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// CSTS 0: waits for CC.EN.
    Disabled,
    /// CSTS.RDY.
    Ready,
    /// CSTS.RDY, SHST 01b: caches are being written out.
    ShuttingDown,
    /// CSTS.RDY, SHST 10b.
    ShutDown,
    /// SHST 10b without having been enabled.
    ShutDownDisabled,
    /// CSTS.CFS: enabled with a configuration that cannot be.
    Fatal,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// CC.EN goes to 1 with a usable configuration.
    Enable,
    /// CC.EN goes to 1 with one that is not.
    EnableBad,
    /// CC.EN goes to 0: a controller reset.
    Reset,
    /// CC.SHN asks for a shutdown, normal or abrupt.
    Shutdown,
    /// What was to be written out for the shutdown has been.
    Flushed,
}

/// What the admin queue is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// Take commands.
    Start,
    /// Drop everything but the admin queue; features go back to their defaults.
    Drop,
    /// Stop taking commands, and write caches out; then [`Step::Flushed`].
    Flush,
}

/// The table: a row a phase, a column a step, each in the order of its declaration.
#[rustfmt::skip]
pub(crate) const TABLE: [[(Phase, Effect); 5]; 6] = {
    use Effect::*;
    use Phase::*;
    [
        /* Disabled */         [(Ready, Start), (Fatal, None), (Disabled, None), (ShutDownDisabled, None), (Disabled, None)],
        /* Ready */            [(Ready, None), (Ready, None), (Disabled, Drop), (ShuttingDown, Flush), (Ready, None)],
        /* ShuttingDown */     [(ShuttingDown, None), (ShuttingDown, None), (Disabled, Drop), (ShuttingDown, None), (ShutDown, None)],
        /* ShutDown */         [(ShutDown, None), (ShutDown, None), (Disabled, Drop), (ShutDown, None), (ShutDown, None)],
        /* ShutDownDisabled */ [(Ready, Start), (Fatal, None), (Disabled, None), (ShutDownDisabled, None), (ShutDownDisabled, None)],
        /* Fatal */            [(Fatal, None), (Fatal, None), (Disabled, Drop), (Fatal, None), (Fatal, None)],
    ]
};

/// One controller's properties.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Properties {
    kind: Kind,
    pub(crate) phase: Phase,
    cc: Cc,
}

impl Properties {
    pub(crate) fn new(kind: Kind) -> Properties {
        Properties { kind, phase: Phase::Disabled, cc: Cc(0) }
    }

    /// CAP.
    pub(crate) fn cap(&self) -> Cap {
        let css = if self.kind == Kind::Nvm { CSS_IO } else { CSS_ADMIN };
        Cap(0)
            .with_mqes(u64::from(MAX_QUEUE_ENTRIES) - 1)
            .with_cqr(1)
            .with_to(READY_WITHIN)
            .with_css(css)
            .with_crms(0b01)
    }

    /// CC as the host wrote it.
    pub(crate) fn cc(&self) -> u32 {
        self.cc.0
    }

    /// CSTS.
    pub(crate) fn csts(&self) -> u32 {
        let (rdy, cfs, shst) = match self.phase {
            Phase::Disabled => (0, 0, shst::NORMAL),
            Phase::Ready => (1, 0, shst::NORMAL),
            Phase::ShuttingDown => (1, 0, shst::OCCURRING),
            Phase::ShutDown => (1, 0, shst::COMPLETE),
            Phase::ShutDownDisabled => (0, 0, shst::COMPLETE),
            Phase::Fatal => (0, 1, shst::NORMAL),
        };
        Csts(0).with_rdy(rdy).with_cfs(cfs).with_shst(shst).0
    }

    /// The property at `offset`, whose size must be `wide` ? 8 : 4 bytes; `None` for one that is not there.
    pub(crate) fn get(&self, offset: u32, wide: bool) -> Option<u64> {
        let crto = Crto(0).with_crwmt(READY_WITHIN as u32).0;
        match (offset, wide) {
            (property::CAP, true) => Some(self.cap().0),
            (property::VS, false) => Some(u64::from(VERSION.0)),
            (property::CC, false) => Some(u64::from(self.cc.0)),
            (property::CSTS, false) => Some(u64::from(self.csts())),
            (property::CRTO, false) => Some(u64::from(crto)),
            _ => None,
        }
    }

    /// Takes a step by the table.
    pub(crate) fn step(&mut self, step: Step) -> Effect {
        let (phase, effect) = TABLE[self.phase as usize][step as usize];
        self.phase = phase;
        effect
    }

    /// The host writes CC. What is to be done, in order.
    pub(crate) fn set_cc(&mut self, value: u32) -> [Effect; 2] {
        let (old, new) = (self.cc, Cc(value));
        self.cc = new;
        let enable = match (old.en(), new.en()) {
            (0, 1) if self.usable(new) => self.step(Step::Enable),
            (0, 1) => self.step(Step::EnableBad),
            (1, 0) => {
                // A reset beats a shutdown asked for in the same write; CC reads back as written but for SHN.
                self.cc = new.with_shn(shn::NONE);
                return [self.step(Step::Reset), Effect::None];
            }
            _ => Effect::None,
        };
        let asked = matches!(new.shn(), shn::NORMAL | shn::ABRUPT) && new.shn() != old.shn();
        [enable, if asked { self.step(Step::Shutdown) } else { Effect::None }]
    }

    /// Whether a controller can run with `cc` (Base 2.1, figure for CC: AMS, MPS, CSS within CAP; entry sizes as required).
    fn usable(&self, cc: Cc) -> bool {
        let sets = match self.kind {
            Kind::Nvm => matches!(cc.css(), css::NVM | css::ALL),
            // Hosts that look at no CAP.CSS ask a discovery controller for the NVM command set, and mean no I/O.
            Kind::Discovery => matches!(cc.css(), css::NVM | css::ALL | css::ADMIN),
        };
        let sizes = match self.kind {
            Kind::Nvm => cc.iosqes() == 6 && cc.iocqes() == 4,
            Kind::Discovery => true,
        };
        sets && sizes && cc.mps() == 0 && cc.ams() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 6] = [
        Phase::Disabled,
        Phase::Ready,
        Phase::ShuttingDown,
        Phase::ShutDown,
        Phase::ShutDownDisabled,
        Phase::Fatal,
    ];
    const STEPS: [Step; 5] = [Step::Enable, Step::EnableBad, Step::Reset, Step::Shutdown, Step::Flushed];

    const GOOD: u32 = 1 | 6 << 16 | 4 << 20;

    #[test]
    fn each_phase_meets_each_step() {
        for (i, phase) in PHASES.into_iter().enumerate() {
            assert_eq!(phase as usize, i);
            for (j, step) in STEPS.into_iter().enumerate() {
                assert_eq!(step as usize, j);
                let mut p = Properties { kind: Kind::Nvm, phase, cc: Cc(0) };
                let effect = p.step(step);
                let csts = Csts(p.csts());
                assert_eq!(p.phase, TABLE[i][j].0);
                assert_eq!(
                    effect == Effect::Start,
                    csts.rdy() == 1 && phase != p.phase && step == Step::Enable
                );
                if step == Step::Reset {
                    assert_eq!((p.phase, csts.0), (Phase::Disabled, 0), "a reset from {phase:?}");
                }
                assert!(csts.cfs() == 0 || csts.rdy() == 0);
                assert_eq!(effect == Effect::Flush, phase == Phase::Ready && step == Step::Shutdown);
            }
        }
    }

    #[test]
    fn cc_drives_it() {
        let mut p = Properties::new(Kind::Nvm);
        assert_eq!(p.set_cc(GOOD), [Effect::Start, Effect::None]);
        assert_eq!(p.csts(), 1);
        assert_eq!(p.set_cc(GOOD), [Effect::None, Effect::None]);
        assert_eq!(p.set_cc(GOOD | 1 << 14), [Effect::None, Effect::Flush]);
        assert_eq!(p.csts(), 0b0101);
        assert_eq!(p.set_cc(GOOD | 1 << 14), [Effect::None, Effect::None]);
        p.step(Step::Flushed);
        assert_eq!(p.csts(), 0b1001);
        assert_eq!(p.set_cc(GOOD & !1 | 1 << 14), [Effect::Drop, Effect::None]);
        assert_eq!((p.csts(), p.cc()), (0, GOOD & !1));
        assert_eq!(p.set_cc(GOOD), [Effect::Start, Effect::None]);
    }

    #[test]
    fn what_cannot_run_is_fatal() {
        for bad in [
            GOOD | 1 << 7,
            GOOD | 1 << 11,
            GOOD | 0b111 << 4,
            GOOD & !(0xf << 16),
            GOOD & !(0xf << 20) | 5 << 20,
        ] {
            let mut p = Properties::new(Kind::Nvm);
            p.set_cc(bad);
            assert_eq!(p.csts(), 0b10, "{bad:#x}");
            p.set_cc(0);
            assert_eq!(p.csts(), 0);
        }
        let mut p = Properties::new(Kind::Discovery);
        p.set_cc(1);
        assert_eq!(p.csts(), 1);
    }

    #[test]
    fn sizes_matter() {
        let p = Properties::new(Kind::Nvm);
        assert!(p.get(property::CAP, true).is_some() && p.get(property::CAP, false).is_none());
        assert!(p.get(property::CC, false).is_some() && p.get(property::CC, true).is_none());
        assert!(p.get(property::NSSR, false).is_none() && p.get(0x1000, false).is_none());
        assert_eq!(p.cap().mqes(), 1023);
    }
}
