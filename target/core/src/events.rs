//! Asynchronous events that wait to be told, and the list of changed namespaces.

use caisson_wire::Status;
use caisson_wire::feature::{AsyncEvent, aei, aet};
use caisson_wire::log::{ErrorEntry, PEL_NONE, lid};
use caisson_wire::zerocopy::little_endian::{U16, U32, U64};
use std::collections::{BTreeSet, VecDeque};

/// Entries of the error log (ELPE + 1).
pub(crate) const ERROR_ENTRIES: usize = 64;

/// What a host can be told of (Base 2.1, 5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Event {
    /// Error status, Transient Internal Error (type 0, 04h): a command met an error of its device. Persistent Internal
    /// Error (03h) is of the whole controller, which Linux then resets, over and over and for its healthy namespaces too.
    TransientError = 0,
    /// SMART, NVM subsystem reliability (type 1, 00h): a device failed for good.
    Reliability = 1,
    /// Notice, Namespace Attribute Changed (type 2, 00h).
    NamespaceChanged = 2,
    /// Notice, Discovery Log Page Change (type 2, F0h).
    DiscoveryChanged = 3,
    /// SMART, spare below threshold (type 1, 02h): the room for new data runs out.
    Spare = 4,
    /// I/O command specific status, Sanitize Operation Completed (type 6, 01h).
    Sanitized = 5,
    /// The same, Sanitize Operation Completed With Unexpected Deallocation (02h).
    SanitizedDeallocated = 6,
}

/// How many events there are.
pub(crate) const EVENTS: [Event; 7] = [
    Event::TransientError,
    Event::Reliability,
    Event::NamespaceChanged,
    Event::DiscoveryChanged,
    Event::Spare,
    Event::Sanitized,
    Event::SanitizedDeallocated,
];

impl Event {
    pub(crate) fn bit(self) -> u8 {
        1 << self as u8
    }

    /// What DW0 of the completion says.
    pub(crate) fn told(self) -> AsyncEvent {
        match self {
            Event::TransientError => {
                AsyncEvent { aet: aet::ERROR, aei: aei::ERROR_TRANSIENT, lid: lid::ERROR }
            }
            Event::Reliability => AsyncEvent::RELIABILITY,
            Event::NamespaceChanged => AsyncEvent::NS_ATTR,
            Event::DiscoveryChanged => AsyncEvent::DISCOVERY_CHANGE,
            Event::Spare => AsyncEvent::SPARE,
            Event::Sanitized => AsyncEvent::SANITIZE,
            Event::SanitizedDeallocated => AsyncEvent::SANITIZE_DEALLOCATED,
        }
    }

    /// The events (as bits) that share this one's type, which are masked together (Base 2.1, 5.1.2).
    pub(crate) fn group(self) -> u8 {
        EVENTS.iter().filter(|e| e.told().aet == self.told().aet).fold(0, |bits, e| bits | e.bit())
    }

    /// The events (as bits) that reading log page `lid` clears.
    pub(crate) fn cleared_by(page: u8) -> u8 {
        EVENTS.iter().filter(|e| e.told().lid == page).fold(0, |bits, e| bits | e.bit())
    }
}

/// What a queue knows of a command that met an error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorNote {
    pub(crate) sqid: u16,
    pub(crate) cid: u16,
    pub(crate) status: Status,
    pub(crate) lba: u64,
    pub(crate) nsid: u32,
    pub(crate) opcode: u8,
}

/// The error log of one controller.
#[derive(Default)]
pub(crate) struct ErrorLog {
    /// Over the controller's life.
    pub(crate) count: u64,
    entries: VecDeque<(u64, ErrorNote)>,
}

impl ErrorLog {
    pub(crate) fn push(&mut self, note: ErrorNote) {
        self.count += 1;
        self.entries.truncate(ERROR_ENTRIES - 1);
        self.entries.push_front((self.count, note));
    }

    /// The entries, the newest first.
    pub(crate) fn entries(&self, trtype: u8) -> impl Iterator<Item = ErrorEntry> + '_ {
        self.entries.iter().map(move |(count, note)| ErrorEntry {
            ecnt: U64::new(*count),
            sqid: U16::new(note.sqid),
            cid: U16::new(note.cid),
            sts: U16::new(note.status.field()),
            pel: U16::new(PEL_NONE),
            lba: U64::new(note.lba),
            nsid: U32::new(note.nsid),
            trtype,
            opc: note.opcode,
            lpver: 1,
            ..ErrorEntry::default()
        })
    }
}

/// The most NSIDs in the changed namespace list; with more its first entry is FFFFFFFFh (Base 2.1, 5.1.12.1.5).
pub(crate) const MAX_CHANGED: usize = 1024;

/// Events of one controller.
#[derive(Default)]
pub(crate) struct Events {
    /// How often something happened, so that the reader of a page can tell whether it is older than that.
    pub(crate) happened: u64,
    /// Bit n: event n waits.
    pub(crate) pending: u8,
    /// Bit n: event n was told and its log page not read yet: it and its type are not told again.
    pub(crate) masked: u8,
    /// NSIDs since the list was last read and cleared.
    pub(crate) changed: BTreeSet<u32>,
    /// There were more than fit.
    pub(crate) overflow: bool,
}

impl Events {
    /// `event` happened.
    pub(crate) fn raise(&mut self, event: Event) {
        self.happened += 1;
        self.pending |= event.bit();
    }

    /// The next event to tell, of those `enabled`; others that wait are forgotten.
    pub(crate) fn next(&mut self, enabled: u8) -> Option<Event> {
        self.pending &= enabled;
        let event =
            EVENTS.into_iter().find(|e| self.pending & e.bit() != 0 && self.masked & e.group() == 0)?;
        self.pending &= !event.bit();
        self.masked |= event.bit();
        Some(event)
    }

    /// Log page `page`, as it was when `happened` was `at`, was read and the event let go: it may be told again. What
    /// happened since is not in what was read, so it still waits to be told.
    pub(crate) fn read(&mut self, page: u8, at: u64) {
        let cleared = Event::cleared_by(page);
        self.masked &= !cleared;
        if at != self.happened {
            return;
        }
        self.pending &= !cleared;
        if page == lid::CHANGED_NS {
            self.changed.clear();
            self.overflow = false;
        }
    }

    /// What is told by page `page` is out of date: it is neither told nor waited for any more.
    pub(crate) fn forget(&mut self, page: u8) {
        let cleared = Event::cleared_by(page);
        self.pending &= !cleared;
        self.masked &= !cleared;
    }

    /// Something about `nsid` is different.
    pub(crate) fn namespace_changed(&mut self, nsid: u32) {
        if self.changed.len() >= MAX_CHANGED && !self.changed.contains(&nsid) {
            self.overflow = true;
        } else {
            self.changed.insert(nsid);
        }
        self.raise(Event::NamespaceChanged);
    }
}
