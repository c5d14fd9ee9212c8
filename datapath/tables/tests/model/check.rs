//! The tables against the model: what they say of blocks and volumes, and the checkpoint that stands.

use super::{Cell, World};
use crate::store::MARK;
use caisson_tables::*;

impl World {
    pub(super) fn compare(&mut self) {
        self.close();
        self.rig.compare();
        self.past = vec![self.disks.clone()];
        self.totals.compared += 1;
        self.check_image();
    }

    pub(super) fn learn(&mut self) {
        for (id, place) in self.rig.known() {
            let sequence = self.rig.tables.segment(place.segment).sequence;
            let content = self.rig.store.block(place, sequence);
            self.known.push((id, place, sequence, content));
        }
        self.known.sort();
    }

    fn check_cell(&mut self, found: Found, cell: Option<Cell>) {
        match (found, cell) {
            (Found::Hole, None) | (Found::Unreadable, Some(Cell::Unreadable)) => {}
            (Found::At { id, entry }, Some(Cell::Content(content))) => {
                let held = if entry.place.is_pending() {
                    self.rig.open.new.iter().find(|n| n.0 == id).expect("what is pending is new").2
                } else {
                    self.rig.store.block(entry.place, self.rig.tables.segment(entry.place.segment).sequence)
                };
                assert_eq!(held, content);
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn check_some(&mut self) {
        let Some(v) = self.pick(|d| !d.dying && d.blocks > 0) else { return };
        let block = self.place(v);
        let count = self.rng.below(1500).min(self.disks[&v].blocks - block);
        let found = self.rig.find(v, block, count);
        assert_eq!(found.len() as u64, count);
        for (n, f) in found.into_iter().enumerate() {
            let cell = self.disks[&v].cells.get(&(block + n as u64)).copied();
            self.check_cell(f, cell);
        }
    }

    pub(super) fn check_all(&mut self) {
        let ids: Vec<VolumeId> = self.rig.tables.volumes().map(|v| v.id).collect();
        assert!(ids.iter().eq(self.disks.keys()));
        for v in ids {
            let disk = self.disks[&v].clone();
            let r = self.rig.tables.volume(v).unwrap().clone();
            let said = (&r.name, r.blocks, &r.settings, r.parent, r.read_only, r.dying, r.tail);
            let model =
                (&disk.name, disk.blocks, &disk.settings, disk.parent, disk.read_only, disk.dying, disk.tail);
            assert_eq!(said, model);
            if disk.dying {
                continue;
            }
            let content = |c: &&Cell| **c != Cell::Unreadable;
            assert_eq!(r.mapped, disk.cells.values().filter(content).count() as u64);
            for (&block, &cell) in &disk.cells {
                let found = self.rig.find(v, block, 1);
                self.check_cell(found[0], Some(cell));
            }
        }
    }

    pub(super) fn audit(&mut self) {
        self.close();
        assert_eq!(self.rig.audit(), vec![]);
    }

    pub(super) fn check_image(&mut self) {
        let (root, image) = self.rig.image();
        self.rig.barred = image.entries.keys().copied().collect();
        let then = self.past[0].clone();
        assert_eq!(root.volumes.len(), then.len());
        for v in &root.volumes {
            let disk = &then[&v.id];
            if disk.dying || disk.tail > 0 {
                continue;
            }
            assert_eq!((&v.name, v.blocks, v.parent), (&disk.name, disk.blocks, disk.parent));
            let content = |c: &&Cell| **c != Cell::Unreadable;
            assert_eq!(v.mapped, disk.cells.values().filter(content).count() as u64);
            for (&block, &cell) in disk.cells.iter().step_by(1 + self.rng.below(3) as usize) {
                let id = image.id_at(v.root.unwrap().get(), v.height, block);
                match cell {
                    Cell::Unreadable => assert_eq!(id, MARK),
                    Cell::Content(content) => {
                        let place = image.entries[&id].place;
                        let sequence = root.segments[place.segment as usize].sequence;
                        assert_eq!(self.rig.store.block(place, sequence), content);
                    }
                }
            }
        }
    }
}
