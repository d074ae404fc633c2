//! Partitions that stay go on while others move.

use std::collections::BTreeMap;

use courtside_types::PartitionId;

use super::{Hand, Scene, brokers, dynamic, retry};
use crate::{
    Polled,
    kafka::{Assignor, KafkaConfig},
};

/// Records per partition that are committed while the rebalance is held open.
const RECORDS: u64 = 20;

/// A slow member does not let go of a revoked partition, so that the rebalance stays
/// open. Meanwhile another member reads and commits, and the slow one commits the
/// records that it has read of the partitions that stay. Nobody gets the revoked one.
fn a_rebalance_held_open(assignor: Assignor) {
    let Some(brokers) = brokers() else { return };
    let config = KafkaConfig {
        assignor,
        ..dynamic(&brokers)
    };
    let mut scene = Scene::new(6, &[config.clone(), config.clone(), config]);
    let (mut slow, mut other) = (scene.hand(0), scene.hand(1));
    scene.append();
    scene.until(&mut [&mut slow, &mut other], |scene, hands| {
        hands.iter().all(|hand| hand.held.len() == 3) && scene.committed == scene.appended
    });

    // The slow member reads, and does not commit yet.
    scene.append();
    let mut read: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    while read.len() < 3 {
        if let Polled::Records(fetched) = slow.poll() {
            read.extend(slow.read(&fetched));
        }
    }
    let mut third = scene.hand(2);
    let revoked = loop {
        other.step(&mut scene);
        third.step(&mut scene);
        match slow.poll() {
            Polled::Revoked(gone) => break gone,
            Polled::Idle => {}
            polled => panic!("before it was asked to let go: {polled:?}"),
        }
    };
    assert_eq!(revoked.len(), 1, "the other two stay");

    let stays = |hand: &Hand| hand.held.keys().copied().collect::<Vec<_>>();
    scene.until(&mut [&mut other, &mut third], |_, hands| {
        hands[0].held.len() == 2
    });
    let staying = stays(&other);
    let before = scene.committed.clone();
    for _ in 0..RECORDS {
        scene.append();
        scene.until(&mut [&mut other, &mut third], |scene, _| {
            staying
                .iter()
                .all(|one| scene.next(*one) == scene.appended[one])
        });
        assert_eq!(stays(&other), staying);
    }
    for partition in &staying {
        assert_eq!(scene.next(*partition), before[partition] + RECORDS);
    }

    // The slow member can commit its records of the two partitions that stay with it.
    let (goes, own): (BTreeMap<_, _>, BTreeMap<_, _>) = read
        .into_iter()
        .partition(|(partition, _)| revoked.contains(&PartitionId(*partition)));
    slow.commit(&mut scene, &own);
    for (partition, (_, to)) in &own {
        assert_eq!(scene.next(*partition), *to);
    }
    let kept = revoked[0].0;
    assert!(!third.held.contains_key(&kept) && !other.held.contains_key(&kept));

    // The revoked partition is committed at last, and goes on with the third member.
    let commit = scene.commit(&goes);
    retry(&mut *slow.member, &commit).unwrap();
    scene.committed.insert(kept, goes[&kept].1);
    slow.release(&revoked);
    let mut all = [&mut slow, &mut other, &mut third];
    scene.until(&mut all, |_, hands| {
        hands.iter().all(|hand| hand.held.len() == 2)
    });
    scene.finish(&mut all);
}

#[test]
fn cooperative_sticky() {
    a_rebalance_held_open(Assignor::CooperativeSticky);
}

#[test]
fn consumer() {
    a_rebalance_held_open(Assignor::Consumer);
}
