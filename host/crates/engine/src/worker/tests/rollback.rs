//! Takeovers and rollbacks, against a run in which the bad plugin never was.

mod folding;
mod property;
mod world;

use courtside_log::{Assignment, Bounds, LogError, Polled};
use courtside_types::TopicPartition;

use super::*;
use crate::worker::{
    core::{Action, CommitEnd, Core, Input, Report},
    orders::Order,
    processing::now_ms,
    status::PartitionState,
    takeover::{
        Directive, Redone, TRIALS_MAX,
        history::{Kind, TakeoverRecord},
        partition::Slots,
        rows::{self, is_reserved},
    },
};

pub(crate) use self::folding::{Folding, fold};
use self::world::World;

const PARTITIONS: u32 = 2;

fn own_slot() -> SlotName {
    SlotName::of_key(b"k0")
}

fn still_slot() -> SlotName {
    SlotName::of_key(b"k1")
}

fn begin(world: &mut World) {
    world.swap(&own_slot(), Some("own"));
    world.swap(&still_slot(), Some("still"));
    world.swap(&SlotName::Default, Some("good"));
    world.idle();
    world.may_stop = false;
}

#[test]
fn a_swap_is_told_in_the_commit_of_what_it_touches() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    assert_eq!(world.commits, 1, "an idle worker says what runs");
    world.event(0, "k2", "x");
    world.poll(9);
    world.commit();
    assert_eq!(world.commits, 2);
    assert_eq!(world.slots(0).get(&SlotName::Default).unwrap().trials, []);
    assert_eq!(world.reserved(&rows::BEFORES), 0, "nothing to go back to");

    world.swap(&SlotName::Default, Some("bad"));
    assert_eq!(world.commits, 2, "a swap has no commit of its own");
    world.event(0, "k2", "x");
    world.event(0, "k3", "x");
    world.poll(9);
    world.commit();
    assert_eq!(world.commits, 3);
    let row = world.slots(0).get(&SlotName::Default).cloned().unwrap();
    assert_eq!(row.digest, Some(Digest::of(b"bad")));
    assert_eq!((row.seq, row.offset, row.attempt), (2, Offset(1), 1));
    assert_eq!(row.trials.len(), 1);
    assert_eq!(row.trials[0].previous, Some(Digest::of(b"good")));
    assert_eq!(row.trials[0].offset, Offset(1));
    // The other partition has the row, too, so that each knows which plugin ran before.
    let other = world.slots(1).get(&SlotName::Default).cloned().unwrap();
    assert_eq!(other.digest, row.digest);
    assert_eq!(world.reserved(&rows::BEFORES), 2);
    let takeovers: Vec<_> = world
        .takeovers
        .iter()
        .filter(|takeover| takeover.partition == P)
        .map(|takeover| {
            (
                takeover.kind,
                takeover.seq,
                takeover.offset,
                &*takeover.plugin,
            )
        })
        .collect();
    assert_eq!(
        takeovers,
        [
            (Kind::Swap, 1, Offset(0), "good@1"),
            (Kind::Swap, 2, Offset(1), "bad@1"),
        ]
    );
    assert_eq!(
        world.takeovers.last().unwrap().previous,
        Some(Digest::of(b"good"))
    );
    // Neither a swap to the same plugin nor a restart is a takeover.
    world.swap(&SlotName::Default, Some("bad"));
    world.crash();
    world.event(0, "k2", "x");
    world.drain();
    assert_eq!(world.slots(0).get(&SlotName::Default), Some(&row));
    assert_eq!(world.takeovers.len(), 4);
}

#[test]
fn a_state_from_before_is_kept_once() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.event(0, "k2", "x");
    world.drain();
    let before = world.memory.get(P, b"k2").unwrap();
    world.swap(&SlotName::Default, Some("bad"));
    for value in ["x", "x", "bad-refuse", "x"] {
        world.event(0, "k2", value);
        world.event(0, "k3", value);
        world.drain();
        world.crash();
    }
    let trial = rows::TrialId::of(&SlotName::Default, 2);
    let kept = |key: &str| {
        let row = world
            .memory
            .get(P, &rows::before_key(trial, key.as_bytes()));
        rows::Before::decode(&row.unwrap().unwrap()).unwrap()
    };
    assert_eq!(kept("k2").envelope, before);
    assert_eq!(kept("k2").position, Offset(1));
    assert_eq!(kept("k3").envelope, None);
    assert_eq!(world.reserved(&rows::BEFORES), 2);
}

#[test]
fn a_confirmed_swap_stays_and_its_states_from_before_go() {
    for by_order in [true, false] {
        let after = Duration::from_millis(if by_order { 3_600_000 } else { 20 });
        let mut world = World::confirming(1 << 20, after);
        begin(&mut world);
        world.event(0, "k2", "x");
        world.drain();
        world.swap(&SlotName::Default, Some("bad"));
        for number in 0..1000 {
            world.event(0, &format!("key{number}"), "x");
        }
        world.poll(2000);
        world.commit();
        assert_eq!(world.reserved(&rows::BEFORES), 1000);
        if by_order {
            world.drain();
            assert_eq!(world.reserved(&rows::BEFORES), 1000);
            world.confirm(&SlotName::Default, None, now_ms());
        } else {
            std::thread::sleep(after * 2);
        }
        world.drain();
        assert_eq!(world.reserved(&rows::BEFORES), 0);
        let states = world.entities();
        world.roll_back(&SlotName::Default, "bad", Some("good"));
        world.drain();
        assert_eq!(world.entities(), states, "there is no way back");
    }
}

#[test]
fn without_time_to_take_swaps_back_nothing_is_kept() {
    let mut world = World::confirming(1 << 20, Duration::ZERO);
    begin(&mut world);
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k0", "x");
    world.event(0, "k2", "x");
    world.drain();
    assert_eq!(world.reserved(&rows::BEFORES), 0);
    let row = world.slots(0).get(&SlotName::Default).cloned().unwrap();
    assert_eq!((row.seq, row.trials), (2, Vec::new()));
}

/// Under load there is no idle time, so commits delete useless rows. The rows of very
/// many swaps do not pile up.
#[test]
fn what_is_kept_of_many_swaps_is_bounded() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    let names = ["good", "bad", "bad1", "bad2", "bad3", "bad4"];
    for round in 0..200 {
        world.swap(&SlotName::Default, Some(names[round % names.len()]));
        for number in 0..50 {
            world.event(0, &format!("key{number}"), "x");
        }
        world.poll(100);
        world.commit();
        assert!(world.reserved(&rows::BEFORES) <= 50 * 8, "{round}");
    }
    let row = world.slots(0).get(&SlotName::Default).cloned().unwrap();
    assert_eq!(row.trials.len(), 4);
    world.drain();
    assert_eq!(world.reserved(&rows::BEFORES), 50 * 4);
}

fn plugins_on_trial(world: &World, partition: u32) -> Vec<Option<Digest>> {
    let slots = world.slots(partition);
    let row = slots.get(&SlotName::Default).unwrap();
    row.trials.iter().map(|trial| trial.digest).collect()
}

/// The checkpoints that the good plugin alone makes of the events of a partition.
fn without_bad_plugins(events: &[(&str, &str)]) -> BTreeMap<(PartitionId, Key), Envelope> {
    let mut reference = World::new(1 << 20);
    begin(&mut reference);
    for (key, value) in events {
        reference.event(0, key, value);
    }
    reference.drain();
    reference.entities()
}

/// Hosts are upgraded one by one, and partitions come to the bad plugin, away from it
/// and to it again: one order undoes all that it did.
#[test]
fn a_rollback_undoes_every_stint_of_the_bad_plugin() {
    let events = [
        ("k2", "1"),
        ("k3", "1"),
        ("k2", "2"),
        ("k4", "2"),
        ("k2", "3"),
        ("k5", "3"),
        ("k3", "4"),
        ("k5", "4"),
    ];
    for ends_at_good in [true, false] {
        let mut world = World::new(1 << 20);
        begin(&mut world);
        world.add_host();
        world.turn_to_other();
        world.swap(&SlotName::Default, Some("bad"));
        world.turn_to_other();
        let stints = if ends_at_good { 3 } else { 4 };
        for stint in events.chunks(2).take(stints) {
            for (key, value) in stint {
                world.event(0, key, value);
            }
            world.drain();
            world.move_over(0);
        }
        assert_eq!(plugins_on_trial(&world, 0), [Some(Digest::of(b"bad"))]);
        world.roll_back(&SlotName::Default, "bad", Some("good"));
        for (key, value) in events.chunks(2).skip(stints).flatten() {
            world.event(0, key, value);
        }
        world.drain();
        assert_eq!(world.entities(), without_bad_plugins(&events));
        assert_eq!(plugins_on_trial(&world, 0), []);
        assert_eq!(world.reserved(&rows::BEFORES), 0);
        let rollbacks = world
            .takeovers
            .iter()
            .filter(|takeover| takeover.kind == Kind::Rollback);
        let rollbacks: Vec<_> = rollbacks
            .filter(|takeover| takeover.partition == P)
            .collect();
        assert_eq!(rollbacks.len(), 1, "{rollbacks:?}");
        assert_eq!(rollbacks[0].previous, Some(Digest::of(b"bad")));
        assert_eq!(rollbacks[0].digest, Some(Digest::of(b"good")));
        assert_eq!(rollbacks[0].offset, Offset(2), "where it came first");
    }
}

/// Three swaps are on trial, and a host is three swaps behind.
#[test]
fn moves_between_hosts_that_differ_use_up_no_swap() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.add_host();
    let mut events = Vec::new();
    let bads = ["bad1", "bad2", "bad3"];
    for bad in bads {
        world.swap(&SlotName::Default, Some(bad));
        world.event(0, "k2", bad);
        events.push(("k2", bad));
        world.drain();
    }
    for number in 0..20 {
        let key = ["k2", "k3", "k4"][number % 3];
        world.move_over(0);
        world.event(0, key, "moved");
        events.push((key, "moved"));
        world.drain();
    }
    let on_trial = bads.map(|bad| Some(Digest::of(bad.as_bytes())));
    assert_eq!(plugins_on_trial(&world, 0), on_trial);
    let returns = world
        .takeovers
        .iter()
        .filter(|takeover| takeover.kind == Kind::Return);
    assert_eq!(returns.count(), 10);
    for (bad, to) in [("bad3", "bad2"), ("bad2", "bad1"), ("bad1", "good")] {
        world.roll_back(&SlotName::Default, bad, Some(to));
    }
    world.drain();
    assert_eq!(world.entities(), without_bad_plugins(&events));
}

/// The bad plugin was put there, taken away on purpose, and put there again by
/// somebody.
#[test]
fn a_plugin_in_the_midst_of_others_is_undone_alone() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    let mut events = Vec::new();
    for (plugin, value) in [("bad", "1"), ("fix", "2"), ("bad", "3"), ("fix", "4")] {
        world.swap(&SlotName::Default, Some(plugin));
        for key in ["k2", value] {
            world.event(0, key, value);
            events.push((key, value));
        }
        world.drain();
    }
    world.roll_back(&SlotName::Default, "bad", Some("fix"));
    world.drain();
    let reference = {
        let mut reference = World::new(1 << 20);
        begin(&mut reference);
        reference.swap(&SlotName::Default, Some("fix"));
        for (key, value) in &events {
            reference.event(0, key, value);
        }
        reference.drain();
        reference.entities()
    };
    assert_eq!(world.entities(), reference);
    assert_eq!(plugins_on_trial(&world, 0), [Some(Digest::of(b"fix"))]);
    // The plugin on trial still leads back to the one that ran before both.
    world.roll_back(&SlotName::Default, "fix", Some("good"));
    world.drain();
    assert_eq!(world.entities(), without_bad_plugins(&events));
}

#[test]
fn a_rollback_is_told_and_leaves_nothing_behind() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.event(0, "k2", "x");
    world.drain();
    world.swap(&SlotName::Default, Some("bad"));
    for value in ["x", "bad-halt", "x"] {
        world.event(0, "k2", value);
    }
    world.drain();
    world.roll_back(&SlotName::Default, "bad", Some("good"));
    let redone = Redone {
        from: Offset(1),
        until: Offset(4),
    };
    assert_eq!(world.redone(), [(P, redone)]);
    world.drain();
    assert_eq!(world.redone(), []);
    let mut takeovers = world.takeovers.iter();
    let rollback = takeovers.find(|takeover| takeover.kind == Kind::Rollback);
    let rollback = rollback.unwrap();
    assert_eq!(
        (rollback.offset, rollback.until),
        (Offset(1), Some(Offset(4)))
    );
    assert_eq!(
        (rollback.digest, rollback.attempt),
        (Some(Digest::of(b"good")), 2)
    );
    assert_eq!(rollback.previous, Some(Digest::of(b"bad")));
    assert_eq!(world.reserved(&rows::BEFORES), 0);
    assert_eq!(world.reserved(&rows::LATES), 0);
    assert_eq!(world.committed[&P], Offset(4));
    // The directive is given again after a restart, and does nothing.
    let states = world.entities();
    world.crash();
    world.drain();
    assert_eq!(world.entities(), states);
}

/// A plugin that is put back later on purpose is not undone by a directive from before.
#[test]
fn an_old_directive_does_not_take_back_a_later_swap() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k2", "x");
    world.drain();
    world.roll_back(&SlotName::Default, "bad", Some("good"));
    world.drain();
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k2", "x");
    world.drain();
    world.crash();
    world.drain();
    let row = world.slots(0).get(&SlotName::Default).cloned().unwrap();
    assert_eq!(row.digest, Some(Digest::of(b"bad")));
    assert_eq!(row.trials.len(), 1);
}

/// Somebody wants the bad plugin after all, and another host has not heard so.
#[test]
fn a_directive_that_was_withdrawn_takes_nothing_back() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.event(0, "k2", "x");
    world.drain();
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k2", "x");
    world.drain();
    let states = world.entities();
    let directive = Directive {
        id: 7,
        slot: SlotName::Default,
        bad: Digest::of(b"bad"),
        to: Some(Digest::of(b"good")),
        at: 0,
    };
    world.is_deaf = true;
    let (_, active) = world.host.running[&SlotName::Default].clone();
    world.direct(directive.clone(), active);
    assert!(world.processing().is_to_begin());
    // A partition that is held takes nothing, and goes on where it was.
    world.event(0, "k2", "x");
    world.poll(9);
    assert_eq!(world.host.read[&P], Offset(3), "the member has come so far");
    world.withdraw(&SlotName::Default, 7);
    assert!(!world.processing().is_to_begin());
    assert_eq!(world.host.read[&P], Offset(2));
    assert_eq!(world.entities(), states);
    world.drain();
    assert_eq!(world.committed[&P], Offset(3));
    // Swaps from now on are later than the directive, should it come again.
    world.swap(&SlotName::Default, Some("good"));
    world.event(0, "k2", "x");
    world.drain();
    let row = world.slots(0).get(&SlotName::Default).cloned().unwrap();
    assert_eq!(row.trials.last().unwrap().directive, 7);
    // A directive that is withdrawn at once undoes nothing after a restart either.
    world.swap(&SlotName::Default, Some("bad"));
    world.crash();
    let (_, active) = world.host.running[&SlotName::Default].clone();
    world.direct(directive, active);
    world.withdraw(&SlotName::Default, 7);
    world.is_deaf = false;
    world.drain();
    assert!(
        world
            .takeovers
            .iter()
            .all(|takeover| takeover.kind == Kind::Swap)
    );
}

#[test]
fn a_key_gets_back_what_the_default_slot_made_of_it() {
    let reference = {
        let mut world = World::new(1 << 20);
        world.swap(&SlotName::Default, Some("good"));
        for _ in 0..4 {
            world.event(0, "k7", "x");
        }
        world.drain();
        world.entities()
    };
    let slot = SlotName::of_key(b"k7");
    let mut world = World::new(1 << 20);
    world.swap(&SlotName::Default, Some("good"));
    world.event(0, "k7", "x");
    world.drain();
    // The key's first plugin; there was none in the slot before.
    world.swap(&slot, Some("bad"));
    world.event(0, "k7", "x");
    world.event(0, "k7", "x");
    world.drain();
    world.roll_back(&slot, "bad", None);
    world.event(0, "k7", "x");
    world.drain();
    assert_eq!(world.entities(), reference);
    assert_eq!(world.slots(0).get(&slot).unwrap().digest, None);
}

/// The default slot's plugin is taken back after a key got one of its own: that
/// key's events since are processed again, too, by the plugin that has it now.
#[test]
fn what_the_bad_plugin_did_goes_from_a_key_that_left_its_slot() {
    let mut world = World::new(1 << 20);
    let slot = SlotName::of_key(b"k7");
    world.swap(&SlotName::Default, Some("good"));
    world.event(0, "k7", "1");
    world.drain();
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k7", "2");
    world.drain();
    world.swap(&slot, Some("own"));
    world.event(0, "k7", "3");
    world.drain();
    world.roll_back(&SlotName::Default, "bad", Some("good"));
    world.event(0, "k7", "4");
    world.drain();
    let reference = {
        let mut world = World::new(1 << 20);
        world.swap(&SlotName::Default, Some("good"));
        world.event(0, "k7", "1");
        world.drain();
        world.swap(&slot, Some("own"));
        for value in ["2", "3", "4"] {
            world.event(0, "k7", value);
        }
        world.drain();
        world.entities()
    };
    assert_eq!(world.entities(), reference);
    // The states that the key's own trial kept are from after that rollback.
    world.roll_back(&slot, "own", None);
    world.drain();
    let reference = {
        let mut world = World::new(1 << 20);
        world.swap(&SlotName::Default, Some("good"));
        for value in ["1", "2", "3", "4"] {
            world.event(0, "k7", value);
        }
        world.drain();
        world.entities()
    };
    assert_eq!(world.entities(), reference);
}

#[test]
fn a_log_that_has_too_little_refuses_before_anything_is_touched() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.event(0, "k2", "x");
    world.drain();
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k2", "x");
    world.drain();
    let directive = Directive {
        id: 1,
        slot: SlotName::Default,
        bad: Digest::of(b"bad"),
        to: Some(Digest::of(b"good")),
        at: 0,
    };
    let (_, active) = world.host.running[&SlotName::Default].clone();
    let states = world.entities();
    world.may_stop = true;
    world.starts.insert(P, Offset(2));
    world.direct(directive, active);
    let refused = (PartitionState::Stopped, Some("rollback-out-of-range"));
    assert_eq!(world.host.states[&P], refused);
    assert_ne!(world.host.states[&PartitionId(1)], refused);
    world.event(0, "k2", "x");
    world.poll(9);
    world.commit();
    assert_eq!(world.entities(), states, "the partition is stopped");
    // A confirmation of another slot, or up to a time before, is not about the swap.
    world.confirm(&own_slot(), None, now_ms());
    world.confirm(&SlotName::Default, None, 1);
    assert_eq!(world.host.states[&P], refused);
    // An operator who confirms the swap makes the partition go on as it is.
    world.confirm(&SlotName::Default, None, now_ms());
    assert_eq!(world.host.states[&P], (PartitionState::Running, None));
    assert_eq!(world.host.read[&P], Offset(2));
    world.drain();
    assert_eq!(world.committed[&P], Offset(3));
    assert_eq!(world.slots(0).get(&SlotName::Default).unwrap().trials, []);
}

#[test]
fn nobody_waits_for_the_rollback_of_a_partition_that_is_stopped() {
    let events = |world: &mut World| {
        world.event(0, "k2", "x");
        world.event(1, "k2", "x");
        world.drain();
    };
    let mut reference = World::new(1 << 20);
    begin(&mut reference);
    events(&mut reference);
    events(&mut reference);
    reference.event(0, "k9", "x");
    reference.drain();

    let mut world = World::new(1 << 20);
    begin(&mut world);
    events(&mut world);
    world.swap(&SlotName::Default, Some("bad"));
    events(&mut world);
    // A checkpoint that nobody can read stops a partition.
    let damaged = (P, Key::from_static(b"k9"));
    let damage = Bytes::from_static(b"damaged");
    world.memory.put(P, damaged.1.clone(), damage);
    world.event(0, "k9", "x");
    world.may_stop = true;
    world.poll(9);
    let stopped = (PartitionState::Stopped, Some("checkpoint-corrupt"));
    assert_eq!(world.host.states[&P], stopped);

    world.roll_back(&SlotName::Default, "bad", Some("good"));
    assert!(!world.processing().is_to_begin());
    let redone: Vec<_> = world.redone().into_iter().map(|(id, _)| id).collect();
    assert_eq!(redone, [PartitionId(1)]);
    world.drain();
    assert_eq!(world.redone(), []);
    // The rollback of the stopped partition is not forgotten, should the partition ever
    // go on.
    world.memory.apply(&Commit {
        checkpoints: vec![(P, damaged.1, None)],
        ..Commit::default()
    });
    world.revoke(P);
    world.is_deaf = true;
    world.assign(P);
    assert!(world.processing().is_to_begin());
    world.is_deaf = false;
    world.drain();
    assert_eq!(world.entities(), reference.entities());
}

/// The entity remembers where the rollback began, however many commits it takes.
/// Otherwise letters from before would be processed once more.
#[test]
fn what_was_processed_again_is_remembered_from_its_beginning() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.swap(&SlotName::Default, Some("bad"));
    for _ in 0..20 {
        world.event(0, "k2", "bad-refuse");
    }
    world.drain();
    world.roll_back(&SlotName::Default, "bad", Some("good"));
    for _ in 0..100 {
        world.poll(1);
        world.commit();
    }
    assert_eq!(world.redone(), []);
    let redone = world.entities_redone(b"k2");
    assert_eq!(redone, [(Offset(0), Offset(20), 2)]);
    // Two more rollbacks are two more entries, however long each takes.
    for attempt in [3, 4] {
        world.swap(&SlotName::Default, Some("bad"));
        let from = world.committed[&P];
        for _ in 0..20 {
            world.event(0, "k2", "bad-refuse");
        }
        world.drain();
        world.roll_back(&SlotName::Default, "bad", Some("good"));
        for _ in 0..100 {
            world.poll(1);
            world.commit();
        }
        let redone = world.entities_redone(b"k2");
        let last = redone.last().unwrap();
        assert_eq!(*last, (from, Offset(from.0 + 20), attempt));
        assert_eq!(redone.len(), attempt as usize - 1);
    }
}

/// The plugins of both slots are undone together, in either order. The key ends as it
/// was before the first of them.
#[test]
fn a_key_goes_back_to_before_the_first_of_two_slots() {
    let own = SlotName::of_key(b"k7");
    let reference = {
        let mut world = World::new(1 << 20);
        world.swap(&SlotName::Default, Some("good"));
        for value in ["1", "2", "3", "4"] {
            world.event(0, "k7", value);
        }
        world.drain();
        world.entities()
    };
    for is_default_first in [true, false] {
        for commit_bytes_max in [1, 1 << 20] {
            let mut world = World::new(commit_bytes_max);
            world.swap(&SlotName::Default, Some("good"));
            world.event(0, "k7", "1");
            world.drain();
            world.swap(&SlotName::Default, Some("bad"));
            world.event(0, "k7", "2");
            world.drain();
            world.swap(&own, Some("bad1"));
            world.event(0, "k7", "3");
            world.drain();
            let (default, key) = (SlotName::Default, own.clone());
            if is_default_first {
                world.hold(&default, "bad", Some("good"));
                world.is_deaf = false;
                world.roll_back(&key, "bad1", None);
            } else {
                world.hold(&key, "bad1", None);
                world.is_deaf = false;
                world.roll_back(&default, "bad", Some("good"));
            }
            world.event(0, "k7", "4");
            world.drain();
            assert_eq!(world.entities(), reference, "{is_default_first}");
            assert_eq!(world.reserved(&rows::BEFORES), 0);
        }
    }
}

/// A letter says which attempt at its event it is of. An entity's new attempt is higher
/// than all before, whichever slot the entity was in then.
#[test]
fn attempts_grow_over_the_slots_of_a_partition() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    let own = SlotName::of_key(b"k2");
    for (slot, to) in [(&SlotName::Default, Some("good")), (&own, None)] {
        world.swap(slot, Some("bad"));
        world.event(0, "k2", "x");
        world.drain();
        world.roll_back(slot, "bad", to);
        world.drain();
    }
    let slots = world.slots(0);
    assert_eq!(slots.get(&SlotName::Default).unwrap().attempt, 2);
    assert_eq!(slots.get(&own).unwrap().attempt, 3);
}

/// Records that were read while a rollback waited for the log were dropped. If the swap
/// is confirmed instead, they are read again.
#[test]
fn a_partition_that_need_not_be_held_any_more_misses_nothing() {
    let reference = {
        let mut world = World::new(1 << 20);
        begin(&mut world);
        world.swap(&SlotName::Default, Some("bad"));
        world.event(0, "k2", "x");
        world.drain();
        world.swap(&SlotName::Default, Some("good"));
        for value in ["1", "2", "3"] {
            world.event(0, "k2", value);
        }
        world.drain();
        world.entities()
    };
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k2", "x");
    world.drain();
    let swapped_at = world.slots(0).get(&SlotName::Default).unwrap().at;
    world.hold(&SlotName::Default, "bad", Some("good"));
    world.event(0, "k2", "1");
    world.event(0, "k2", "2");
    world.poll(9);
    let come = Offset(3);
    assert_eq!(world.host.read[&P], come, "the member has come so far");
    // A confirmation of earlier swaps is not about this one.
    let bad = Some(Digest::of(b"bad"));
    world.confirm(&SlotName::Default, bad, swapped_at - 1);
    assert_eq!(world.host.read[&P], come);
    assert!(world.processing().is_to_begin());
    world.confirm(&SlotName::Default, bad, now_ms());
    assert!(!world.processing().is_to_begin());
    assert_eq!(world.host.read[&P], Offset(1));
    world.is_deaf = false;
    world.event(0, "k2", "3");
    world.drain();
    assert_eq!(world.entities(), reference);
}

/// A confirmation of the plugin that a rollback brings back does not keep the other one's
/// work.
#[test]
fn a_rollback_is_not_dropped_by_a_confirmation_of_the_plugin_that_it_brings_back() {
    let rolled_back = |confirms: bool| {
        let mut world = World::new(1 << 20);
        begin(&mut world);
        world.swap(&SlotName::Default, Some("bad"));
        world.event(0, "k2", "x");
        world.drain();
        world.hold(&SlotName::Default, "bad", Some("good"));
        if confirms {
            let good = Digest::of(b"good");
            world.confirm(&SlotName::Default, Some(good), now_ms());
            assert!(world.processing().is_to_begin());
        }
        world.is_deaf = false;
        world.event(0, "k2", "1");
        world.drain();
        assert_eq!(
            world.takeovers.last().map(|takeover| takeover.kind),
            Some(Kind::Rollback)
        );
        world.entities()
    };
    assert_eq!(rolled_back(true), rolled_back(false));
}

/// A swap does not become too old to be undone while its rollback waits for the log.
#[test]
fn what_is_to_be_taken_back_is_not_confirmed_meanwhile() {
    let after = Duration::from_millis(200);
    let mut world = World::confirming(1 << 20, after);
    begin(&mut world);
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k2", "x");
    world.poll(9);
    world.commit();
    world.hold(&SlotName::Default, "bad", Some("good"));
    std::thread::sleep(after * 2);
    world.idle();
    // A commit that is for something else does not confirm the swap either.
    world.commit();
    world.is_deaf = false;
    world.drain();
    assert_eq!(
        world.takeovers.last().map(|takeover| takeover.kind),
        Some(Kind::Rollback)
    );
    let published = world.last_published();
    assert!(published["in/0/0"].starts_with("good:"), "{published:?}");
}
