//! Members that stood still for longer than the group waits.

use std::time::{Duration, Instant};

use courtside_types::PartitionId;

use super::{HANGS_AFTER, Hand, Scene, brokers, config};
use crate::{
    Polled,
    conformance::{next, values},
    kafka::{Assignor, KafkaConfig},
};

/// Two hosts; the first has read a record, and then does nothing until the
/// second has its partition.
fn a_zombie(assignor: Assignor, static_membership: bool) -> Option<(Scene, Hand, Hand)> {
    let brokers = brokers()?;
    let mut short = KafkaConfig {
        assignor,
        static_membership,
        session_timeout: Duration::from_secs(3),
        ..config(&brokers)
    };
    let name = "max.poll.interval.ms".to_owned();
    short.properties.insert(name, "3000".to_owned());
    let mut scene = Scene::new(1, &[short.clone(), short]);
    scene.append();
    let mut zombie = scene.hand(0);
    while !matches!(next(&mut *zombie.member), Polled::Records(_)) {}
    zombie.held.insert(0, 1);
    let mut other = scene.hand(1);
    scene.until(&mut [&mut other], |_, hands| !hands[0].held.is_empty());
    Some((scene, zombie, other))
}

/// The zombie must not commit its record, however often it tries.
fn commits_nothing(assignor: Assignor, static_membership: bool) {
    let Some((mut scene, mut zombie, mut other)) = a_zombie(assignor, static_membership) else {
        return;
    };
    let mut commit = scene.commit(&[(0, (0, 1))].into());
    commit.records[0].1.value = Some("zombie".into());
    let (mut is_fenced, since) = (false, Instant::now());
    while !is_fenced || scene.committed.is_empty() {
        assert!(since.elapsed() < HANGS_AFTER, "fenced: {is_fenced}");
        if !is_fenced {
            // The zombie tries again as long as its client does not know, as a worker
            // does.
            let error = zombie.member.commit(&commit).unwrap_err();
            let codes = ["log-unavailable", "fenced"];
            assert!(codes.contains(&error.code()), "{error}");
            is_fenced = error.code() == "fenced";
        }
        other.step(&mut scene);
    }
    let outputs = || values(&*scene.hosts[1].0, &scene.output, 0, 0);
    assert_eq!(outputs(), ["0:0"]);
    let checkpoints = format!("{}.checkpoints", scene.group).into();
    assert_eq!(values(&*scene.hosts[1].0, &checkpoints, 0, 0), ["1"]);
    // The zombie is told of the loss, and is a member like any other again.
    scene.until(&mut [&mut zombie], |_, hands| hands[0].held.is_empty());
    drop(other);
    scene.finish(&mut [&mut zombie]);
}

#[test]
fn cooperative_sticky() {
    commits_nothing(Assignor::CooperativeSticky, false);
}

#[test]
fn cooperative_sticky_with_a_fixed_seat() {
    commits_nothing(Assignor::CooperativeSticky, true);
}

#[test]
fn range() {
    commits_nothing(Assignor::Range, false);
}

#[test]
fn range_with_a_fixed_seat() {
    commits_nothing(Assignor::Range, true);
}

#[test]
fn consumer() {
    commits_nothing(Assignor::Consumer, false);
}

#[test]
fn consumer_with_a_fixed_seat() {
    commits_nothing(Assignor::Consumer, true);
}

/// A zombie that wakes up and reads is first told that its partitions are lost. (Its
/// client has an empty assignment to hand over, of the rebalance that it slept through.)
#[test]
fn a_lost_session_is_told_before_records() {
    for static_membership in [false, true] {
        let found = a_zombie(Assignor::CooperativeSticky, static_membership);
        let Some((mut scene, mut zombie, mut other)) = found else {
            return;
        };
        scene.append();
        scene.until(&mut [&mut other], |scene, _| {
            scene.committed == scene.appended
        });
        let polled = next(&mut *zombie.member);
        assert!(
            matches!(&polled, Polled::Lost(lost) if *lost == [PartitionId(0)]),
            "{polled:?}"
        );
        zombie.held.clear();
        scene.finish(&mut [&mut zombie, &mut other]);
    }
}
