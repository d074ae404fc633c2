//! Members that end leave their group: nobody waits for their sessions.

use std::time::{Duration, Instant};

use super::{HANGS_AFTER, Hand, Scene, brokers, config};
use crate::{
    RecordLog as _,
    kafka::{Assignor, KafkaConfig},
};

/// Longer than any test, so that no session ends meanwhile.
const SESSION: Duration = Duration::from_secs(150);

fn members(scene: &Scene) -> usize {
    let status = scene.hosts[0].0.group_status(&scene.group, &scene.input);
    status.unwrap().members.len()
}

/// Three members of a group with one partition, which one of them has.
fn a_group(config: &KafkaConfig) -> (Scene, Vec<Hand>) {
    let mut scene = Scene::new(1, &[config.clone(), config.clone(), config.clone()]);
    let mut hands: Vec<_> = (0..3).map(|host| scene.hand(host)).collect();
    scene.append();
    scene.until(&mut hands.iter_mut().collect::<Vec<_>>(), |scene, hands| {
        let held: usize = hands.iter().map(|hand| hand.held.len()).sum();
        held == 1 && members(scene) == 3
    });
    (scene, hands)
}

fn everybody_leaves(assignor: Assignor, static_membership: bool) {
    let Some(brokers) = brokers() else { return };
    let config = KafkaConfig {
        assignor,
        static_membership,
        session_timeout: SESSION,
        ..config(&brokers)
    };
    let (scene, hands) = a_group(&config);
    drop(hands);
    let since = Instant::now();
    while members(&scene) > 0 {
        assert!(since.elapsed() < HANGS_AFTER, "{} stay", members(&scene));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn cooperative_sticky() {
    everybody_leaves(Assignor::CooperativeSticky, false);
}

#[test]
fn cooperative_sticky_with_fixed_seats() {
    everybody_leaves(Assignor::CooperativeSticky, true);
}

#[test]
fn range() {
    everybody_leaves(Assignor::Range, false);
}

#[test]
fn range_with_fixed_seats() {
    everybody_leaves(Assignor::Range, true);
}

#[test]
fn roundrobin() {
    everybody_leaves(Assignor::RoundRobin, false);
}

#[test]
fn consumer() {
    everybody_leaves(Assignor::Consumer, false);
}

/// The members are to be back soon, so their host does not have them leave.
#[test]
fn fixed_seats_are_kept_where_they_are_to_be() {
    let Some(brokers) = brokers() else { return };
    let config = KafkaConfig {
        leave_at_stop: false,
        session_timeout: SESSION,
        ..config(&brokers)
    };
    let (scene, hands) = a_group(&config);
    drop(hands);
    assert_eq!(members(&scene), 3);
}
