//! Deliberate bugs, for the simulator to prove that it finds such.
//!
//! Without the feature `planted` there are none, and [`on`] is the constant `false`. With it, one bug at a time is
//! switched on for the calling thread. A hook is one line where the bug would be; this module owns only the switch.

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Devices are never told to make anything durable.
    SkippedSync,
    /// What waits for durability does not.
    AckBeforeDurable,
    /// Superblocks name a root that is not durable yet.
    SuperblockFirst,
    /// Only one copy of the superblock names the newest root.
    OneSuperblock,
    /// Force unit access means nothing.
    FuaIgnored,
    /// Dropping one of several references drops none.
    LostDecrement,
    /// A duplicate's block gets no reference.
    LostIncrement,
    /// The children of a page that is copied get no reference.
    LostOnShadow,
    /// The number of a freed block is used again at once.
    LimboIgnored,
    /// A segment is used again as soon as nothing in it is live.
    EarlySegment,
    /// The salt of an opening is the one of the last.
    ReusedSalt,
    /// Replay goes on behind a batch that is missing.
    PastGap,
    /// Replay takes batches whose records are not whole.
    TornBatch,
    /// Replay takes batches of a segment's earlier use for those of this one.
    StaleBatch,
    /// A block that the index names is taken for what it was when it was indexed.
    UncheckedCandidate,
    /// A page that cannot be read is taken for an empty one.
    LostPage,
    /// A block that does not authenticate reads as zeroes.
    UnreadableIsZero,
    /// Sectors that are marked uncorrectable read as zeroes when another one of their block is written.
    MarkForgotten,
    /// A block with marked sectors is found as a duplicate, by the bytes that are left of it.
    MarkedIsShared,
    /// The last of several changes that belong together is not journaled.
    LostChange,
    /// A checkpoint says that it covers one batch more than it does.
    OneMoreBatch,
    /// The root does not list the segments that the log goes on in.
    ReserveUnlisted,
    /// Nobody claims blocks alone.
    SharedClaim,
    /// The key of an epoch is erased although something is still sealed under it.
    EpochDroppedEarly,
    /// A domain is written to while its key is being destroyed: batches of it stand behind the root that has none.
    DestroyedUncovered,
    /// What a domain's volumes hold is given back while the domain's destruction is under way.
    ClearedEarly,
    /// The key of a family's maps stays in the vault when the last of its volumes is gone.
    MapKeyKept,
    /// The vault's key is the last root's.
    VaultKept,
    /// The key of a family's maps is erased while its volumes are still being unmapped.
    MapKeyEarly,
    /// Fingerprints are so short that many contents have the same. Where bytes are compared, it does no harm.
    AlikePrints,
    /// A batch that cannot be read is taken for the end of the log, whatever later ones say.
    DamageIsEnd,
    /// Copies of superblocks that were lost are written anew in any order, by the next checkpoint.
    RepairSkipped,
    /// A volume begins to be erased before it is durable that it is to be.
    EraseUnrecorded,
    /// An erase is said to be done when the next epoch begins, and not when the keys of those before it are erased.
    EraseToldEarly,
    /// A duplicate is looked at when it is found, and not again when it is published. Only threads that run at the same time
    /// show it, so it is none of [`ALL`]: tests/sim/tests/schedules finds it.
    CheckedEarly,
}

/// All that a simulation shows, in which one thread at a time does a whole piece of work.
pub const ALL: [Bug; 34] = [
    Bug::SkippedSync,
    Bug::AckBeforeDurable,
    Bug::SuperblockFirst,
    Bug::OneSuperblock,
    Bug::FuaIgnored,
    Bug::LostDecrement,
    Bug::LostIncrement,
    Bug::LostOnShadow,
    Bug::LimboIgnored,
    Bug::EarlySegment,
    Bug::ReusedSalt,
    Bug::PastGap,
    Bug::TornBatch,
    Bug::StaleBatch,
    Bug::UncheckedCandidate,
    Bug::LostPage,
    Bug::UnreadableIsZero,
    Bug::MarkForgotten,
    Bug::MarkedIsShared,
    Bug::LostChange,
    Bug::OneMoreBatch,
    Bug::ReserveUnlisted,
    Bug::SharedClaim,
    Bug::EpochDroppedEarly,
    Bug::DestroyedUncovered,
    Bug::ClearedEarly,
    Bug::MapKeyKept,
    Bug::VaultKept,
    Bug::MapKeyEarly,
    Bug::AlikePrints,
    Bug::DamageIsEnd,
    Bug::RepairSkipped,
    Bug::EraseUnrecorded,
    Bug::EraseToldEarly,
];

#[cfg(feature = "planted")]
thread_local! {
    static NOW: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Switches a bug on for this thread, or all off.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    NOW.set(bug);
}

/// Whether it is on.
#[cfg(feature = "planted")]
pub fn on(bug: Bug) -> bool {
    NOW.get() == Some(bug)
}

/// Whether it is on: never.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn on(_: Bug) -> bool {
    false
}
