//! Members come and go, under each assignor, with and without fixed seats.

use courtside_types::PartitionId;

use super::{Hand, Scene, brokers, config};
use crate::{
    RecordLog as _,
    kafka::{Assignor, KafkaConfig},
};

const PARTITIONS: u32 = 6;

fn has(hand: &Hand, count: u32) -> bool {
    hand.held.len() == count as usize
}

/// Whether the brokers and the members agree on who has which partitions.
fn told(scene: &Scene, hands: &[&mut Hand], is_static: bool) -> bool {
    let status = scene.hosts[0].0.group_status(&scene.group, &scene.input);
    let status = status.unwrap();
    let mut told: Vec<Vec<PartitionId>> = Vec::new();
    for member in status.members {
        assert_eq!(member.instance.is_some(), is_static, "{member:?}");
        assert!(member.client_id.starts_with("courtside-"), "{member:?}");
        told.push(member.partitions);
    }
    let held = |hand: &&mut Hand| hand.held.keys().copied().map(PartitionId).collect();
    let mut held: Vec<Vec<PartitionId>> = hands.iter().map(held).collect();
    told.sort();
    held.sort();
    told == held
}

fn come_and_go(assignor: Assignor, static_membership: bool) {
    let Some(brokers) = brokers() else { return };
    let config = KafkaConfig {
        assignor,
        static_membership,
        ..config(&brokers)
    };
    let mut scene = Scene::new(PARTITIONS, &[config.clone(), config]);
    let mut first = scene.hand(0);
    scene.append();
    scene.until(&mut [&mut first], |_, hands| has(hands[0], PARTITIONS));
    scene.until(&mut [&mut first], |scene, hands| {
        told(scene, hands, static_membership)
    });

    let mut second = scene.hand(1);
    scene.append();
    scene.until(&mut [&mut first, &mut second], |_, hands| {
        hands.iter().all(|hand| has(hand, PARTITIONS / 2))
    });
    scene.finish(&mut [&mut first, &mut second]);
    scene.until(&mut [&mut first, &mut second], |scene, hands| {
        told(scene, hands, static_membership)
    });

    drop(second);
    scene.append();
    scene.until(&mut [&mut first], |_, hands| has(hands[0], PARTITIONS));
    scene.finish(&mut [&mut first]);
}

#[test]
fn cooperative_sticky() {
    come_and_go(Assignor::CooperativeSticky, false);
}

#[test]
fn cooperative_sticky_with_fixed_seats() {
    come_and_go(Assignor::CooperativeSticky, true);
}

#[test]
fn range() {
    come_and_go(Assignor::Range, false);
}

#[test]
fn range_with_fixed_seats() {
    come_and_go(Assignor::Range, true);
}

#[test]
fn roundrobin() {
    come_and_go(Assignor::RoundRobin, false);
}

#[test]
fn roundrobin_with_fixed_seats() {
    come_and_go(Assignor::RoundRobin, true);
}

#[test]
fn consumer() {
    come_and_go(Assignor::Consumer, false);
}

#[test]
fn consumer_with_fixed_seats() {
    come_and_go(Assignor::Consumer, true);
}

/// Pipelines read the same topic, each under another assignor.
#[test]
fn each_group_gets_everything() {
    let Some(brokers) = brokers() else { return };
    let assignors = [
        Assignor::CooperativeSticky,
        Assignor::Range,
        Assignor::Consumer,
    ];
    let configs = assignors.map(|assignor| KafkaConfig {
        assignor,
        ..config(&brokers)
    });
    let mut scene = Scene::new(PARTITIONS, &configs);
    scene.append();
    let group = scene.group.clone();
    for host in 0..configs.len() {
        scene.group = format!("{group}{host}");
        scene.output = format!("{group}{host}.out").into();
        let output = crate::conformance::deleted(&scene.output, 1);
        scene.hosts[0].0.ensure_topics(&[output]).unwrap();
        scene.committed.clear();
        let mut hand = scene.hand(host);
        scene.finish(&mut [&mut hand]);
    }
}
