//! Subsystems, controllers, queues, admin and I/O commands: no sockets, no disk.
//!
//! [`Target`] is the registry that management changes; [`Queue`] is one fabrics queue, which the driver of a connection
//! feeds with commands and whose [`Action`]s it carries out. Time is handed in; there is no clock and no randomness here.

mod admin;
mod connect;
mod controller;
mod events;
mod io;
mod link;
mod payload;
mod property;
mod queue;
mod registry;
mod seam;
mod slots;
mod snapshot;
mod spec;
mod stats;
mod sync;
mod target;

pub use queue::{CONNECT_WITHIN_MS, Queue};
pub use seam::{Action, Arrival, CloseReason, Notify, Payload};
pub use snapshot::{
    ControllerSnapshot, Counters, HostTotals, NamespaceSnapshot, QueueSnapshot, SubsystemSnapshot,
    TargetSnapshot,
};
pub use spec::{
    ControllerModel, Exports, History, MAX_CONTROLLERS, MAX_HOSTS, MAX_IO_QUEUES, MAX_NAMESPACES, MAX_PORTS,
    MAX_QUEUE_ENTRIES, MAX_REFERRALS, MAX_SUBSYSTEMS, ManageError, NamespaceSpec, PortId, PortSpec, Referral,
    SanitizeRecord, Settings, SubsystemSpec, Transport, check_nqn,
};
pub use stats::{BUCKETS, HISTOGRAMS, OP_CLASSES, OpClass, Totals, bucket_end, bucket_of};
pub use target::{Observer, Target};
