//! Changes and roots as bytes: what is encoded decodes to the same, and what decodes was so encoded.

use caisson_tables::*;
use proptest::prelude::*;

fn id() -> impl Strategy<Value = BlockId> {
    (1u64..(1 << 48) - 70_000).prop_map(|n| BlockId::new(n).expect("in range"))
}

fn volume() -> impl Strategy<Value = VolumeId> {
    any::<u32>().prop_map(VolumeId)
}

fn block() -> impl Strategy<Value = u64> {
    0u64..1 << 52
}

fn run() -> impl Strategy<Value = Run> {
    let count = || 1u32..1000;
    prop_oneof![
        count().prop_map(Run::Zero),
        count().prop_map(Run::Unreadable),
        (id(), count()).prop_map(|(id, n)| Run::Ids(id, n)),
    ]
}

fn volume_change() -> impl Strategy<Value = VolumeChange> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        (volume(), ".{0,20}", any::<u64>(), bytes())
            .prop_map(|(id, name, bytes, settings)| VolumeChange::Create { id, name, bytes, settings }),
        (volume(), any::<u64>()).prop_map(|(id, bytes)| VolumeChange::Resize { id, bytes }),
        volume().prop_map(|id| VolumeChange::Trimmed { id }),
        (volume(), bytes()).prop_map(|(id, settings)| VolumeChange::SetSettings { id, settings }),
        (volume(), ".{0,20}").prop_map(|(id, name)| VolumeChange::Rename { id, name }),
        (volume(), volume(), ".{0,20}", bytes(), any::<bool>()).prop_map(
            |(of, id, name, settings, read_only)| {
                VolumeChange::Snapshot { of, id, name, settings, read_only }
            }
        ),
        volume().prop_map(|id| VolumeChange::Delete { id }),
        volume().prop_map(|id| VolumeChange::Forget { id }),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (volume(), 0u8..6, block(), id()).prop_map(|(volume, level, block, id)| Change::Page {
            volume,
            level,
            block,
            id
        }),
        (volume(), id()).prop_map(|(volume, id)| Change::Grow { volume, id }),
        (volume(), 0u8..6, block(), id()).prop_map(|(volume, level, block, id)| Change::Shadow {
            volume,
            level,
            block,
            id
        }),
        (volume(), block(), proptest::collection::vec(run(), 0..40))
            .prop_map(|(volume, block, runs)| Change::Map { volume, block, runs }),
        (volume(), block(), any::<u32>()).prop_map(|(volume, block, count)| Change::Clear {
            volume,
            block,
            count
        }),
        (volume(), 0u8..6, block()).prop_map(|(volume, level, block)| Change::Drop { volume, level, block }),
        volume_change().prop_map(Change::Volume),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changes_come_back(changes in proptest::collection::vec(change(), 0..12)) {
        let mut bytes = Vec::new();
        changes.iter().for_each(|c| c.encode(&mut bytes));
        prop_assert_eq!(Change::decode(&bytes).unwrap(), changes);
    }

    #[test]
    fn damaged_changes_are_refused_or_others(
        changes in proptest::collection::vec(change(), 1..6), at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let mut bytes = Vec::new();
        changes.iter().for_each(|c| c.encode(&mut bytes));
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(decoded) = Change::decode(&bytes) {
            let mut again = Vec::new();
            decoded.iter().for_each(|c| c.encode(&mut again));
            prop_assert_eq!(again, bytes);
        }
    }
}
