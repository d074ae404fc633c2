//! Hosts of one name, which only one may have; and what becomes of a member that
//! was pushed out.

use courtside_types::PartitionId;
use rdkafka::producer::{BaseProducer, Producer as _};

use super::{HANGS_AFTER, Scene, brokers, config};
use crate::{
    Polled,
    conformance::next,
    kafka::{Assignor, KafkaConfig},
};

fn named(brokers: &str, assignor: Assignor, static_membership: bool) -> KafkaConfig {
    KafkaConfig {
        instance: "one".to_owned(),
        assignor,
        static_membership,
        ..config(brokers)
    }
}

/// Neither member ends, both get on, and no record is processed twice.
fn get_on(assignor: Assignor, static_membership: bool) {
    let Some(brokers) = brokers() else { return };
    let config = named(&brokers, assignor, static_membership);
    let mut scene = Scene::new(2, &[config.clone(), config]);
    let (mut one, mut other) = (scene.hand(0), scene.hand(1));
    for _ in 0..5 {
        scene.finish(&mut [&mut one, &mut other]);
    }
}

#[test]
fn two_of_a_name_get_on() {
    get_on(Assignor::CooperativeSticky, false);
}

#[test]
fn two_of_a_fixed_seat_get_on() {
    get_on(Assignor::CooperativeSticky, true);
}

/// Under this protocol the first member has the seat until it leaves.
#[test]
fn two_of_a_fixed_seat_that_the_brokers_keep_get_on() {
    get_on(Assignor::Consumer, true);
}

/// Another host takes the member's seat; when that host leaves, the member has the seat
/// again.
#[test]
fn who_was_pushed_out_comes_back() {
    let Some(brokers) = brokers() else { return };
    let config = named(&brokers, Assignor::CooperativeSticky, true);
    let mut scene = Scene::new(1, &[config.clone(), config]);
    scene.append();
    let mut first = scene.hand(0);
    scene.finish(&mut [&mut first]);
    let mut second = scene.hand(1);
    scene.until(&mut [&mut second], |_, hands| !hands[0].held.is_empty());
    let polled = next(&mut *first.member);
    assert!(matches!(polled, Polled::Lost(lost) if lost == [PartitionId(0)]));
    first.held.clear();
    scene.finish(&mut [&mut second]);
    drop(second);
    scene.finish(&mut [&mut first]);
}

/// The seat is not free before its last session is over, as after a crash.
#[test]
fn a_seat_that_is_not_free_yet_is_waited_for() {
    let Some(brokers) = brokers() else { return };
    let config = named(&brokers, Assignor::Consumer, true);
    let mut scene = Scene::new(1, &[config.clone(), config]);
    scene.append();
    let mut first = scene.hand(0);
    scene.finish(&mut [&mut first]);
    let mut second = scene.hand(1);
    for _ in 0..10 {
        assert!(matches!(second.poll(), Polled::Idle));
        first.step(&mut scene);
    }
    drop(first);
    scene.finish(&mut [&mut second]);
}

/// Another producer used the member's transactional id once: the member takes a new
/// producer, stays in the group, and reads again the records that were not committed.
#[test]
fn a_fenced_producer_is_replaced() {
    let Some(brokers) = brokers() else { return };
    let config = named(&brokers, Assignor::CooperativeSticky, false);
    let mut scene = Scene::new(1, std::slice::from_ref(&config));
    scene.append();
    let mut hand = scene.hand(0);
    scene.finish(&mut [&mut hand]);
    let mut rival = config.producer(1 << 20);
    rival
        .set("transactional.id", format!("{}.one.0", scene.group))
        .set("transaction.timeout.ms", "10000")
        .set("message.timeout.ms", "10000");
    let rival: BaseProducer = rival.create().unwrap();
    rival.init_transactions(HANGS_AFTER).unwrap();
    scene.append();
    let read = loop {
        if let Polled::Records(fetched) = hand.poll() {
            break hand.read(&fetched);
        }
    };
    let error = hand.member.commit(&scene.commit(&read)).unwrap_err();
    assert_eq!(error.code(), "fenced", "{error}");
    assert!(matches!(next(&mut *hand.member), Polled::Lost(_)));
    hand.held.clear();
    scene.finish(&mut [&mut hand]);
}
