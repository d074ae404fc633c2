//! The property of rollbacks: anything happens in any order, and in the end all is as
//! if the bad plugins had never run.

use super::*;

#[derive(Clone, Debug)]
enum Turn {
    Event(u32, u8, &'static str, Option<u8>),
    Poll(usize),
    Commit,
    Idle,
    /// The log takes the commit, and the host does not live to see it.
    CommitAndCrash,
    Crash,
    Abort,
    /// A partition goes away for some turns.
    Leave(u32),
    Come,
    /// A partition goes to the other host, which may run other plugins.
    Move(u32),
    /// The other host does things.
    Other,
    Swap(usize),
    RollBack(usize),
    /// Whether rollbacks wait for the log.
    Deaf(bool),
}

fn turn() -> impl Strategy<Value = Turn> {
    let value = prop_oneof![
        8 => Just("x"), 1 => Just("refuse"), 1 => Just("trap"),
        2 => Just("bad-refuse"), 1 => Just("bad-trap"), 1 => Just("bad-halt"), 1 => Just("bad-forget"),
    ];
    let retried = prop_oneof![3 => Just(None), 1 => (0_u8..6).prop_map(Some)];
    prop_oneof![
        20 => (0..PARTITIONS, 0_u8..5, value, retried).prop_map(|(p, k, v, r)| Turn::Event(p, k, v, r)),
        6 => (1_usize..6).prop_map(Turn::Poll),
        6 => Just(Turn::Commit),
        2 => Just(Turn::Idle),
        1 => Just(Turn::CommitAndCrash),
        1 => Just(Turn::Crash),
        1 => Just(Turn::Abort),
        1 => (0..PARTITIONS).prop_map(Turn::Leave),
        2 => Just(Turn::Come),
        3 => (0..PARTITIONS).prop_map(Turn::Move),
        1 => Just(Turn::Other),
        3 => (0_usize..3).prop_map(Turn::Swap),
        3 => (0_usize..3).prop_map(Turn::RollBack),
        1 => Just(Turn::Deaf(true)),
        2 => Just(Turn::Deaf(false)),
    ]
}

/// The plugins that are swapped in and undone. The first plugin of a key is on trial,
/// too, so they are one fewer than may be on trial in a slot.
const BAD: [&str; TRIALS_MAX - 1] = ["bad1", "bad2", "bad3"];

proptest! {
    /// In the end everything is as if the bad plugins had never been, and no other
    /// entity saw anything of them. Neither the order of swaps and rollbacks matters,
    /// nor where the host dies and where partitions go.
    #[test]
    fn a_rollback_leads_where_the_bad_plugin_never_was(
        turns in proptest::collection::vec(turn(), 1..160),
        commit_bytes_max in prop_oneof![Just(1_usize), Just(1 << 20)],
    ) {
        let mut world = World::new(commit_bytes_max);
        let mut reference = World::new(1 << 20);
        for world in [&mut world, &mut reference] {
            begin(world);
        }
        world.add_host();
        let mut stacks = [
            (SlotName::Default, vec![Some("good")]),
            (own_slot(), vec![Some("own")]),
            // A key that goes from the default slot to its own, and back.
            (SlotName::of_key(b"k2"), vec![None]),
        ];
        let back = |world: &mut World, stack: &mut (SlotName, Vec<Option<&'static str>>)| {
            if stack.1.len() > 1 {
                let bad = stack.1.pop().unwrap().unwrap();
                world.roll_back(&stack.0, bad, *stack.1.last().unwrap());
            }
        };
        for turn in turns {
            match turn {
                Turn::Event(partition, key, value, retried) => {
                    let headers: Vec<_> = retried
                        .map(|number| [mark(), Header::new(IDEMPOTENCY_HEADER, number.to_string())])
                        .into_iter()
                        .flatten()
                        .collect();
                    for world in [&mut world, &mut reference] {
                        world.event_with(partition, &format!("k{key}"), value, headers.clone());
                    }
                }
                Turn::Poll(count) => {
                    world.poll(count);
                }
                Turn::Commit => {
                    world.commit();
                }
                Turn::Idle => {
                    if world.processing().pending_since().is_none() {
                        world.idle();
                    }
                }
                Turn::CommitAndCrash => {
                    world.dies = true;
                    world.commit();
                    world.dies = false;
                    world.crash();
                }
                Turn::Crash => world.crash(),
                Turn::Abort => {
                    let actions = world.host.core.go_back();
                    world.carry_out(actions, None);
                }
                Turn::Leave(partition) => {
                    let partition = PartitionId(partition);
                    if world.host.read.contains_key(&partition) {
                        world.revoke(partition);
                    }
                }
                Turn::Come => world.take_all(),
                Turn::Move(partition) => {
                    if world.host.read.contains_key(&PartitionId(partition)) {
                        world.move_over(partition);
                    }
                }
                Turn::Other => world.turn_to_other(),
                Turn::Swap(slot) => {
                    let (slot, stack) = &mut stacks[slot];
                    let latest = *stack.last().unwrap();
                    if world.runs(slot) != latest {
                        // The other host has swapped to this plugin before.
                        world.swap(slot, latest);
                    } else if stack.len() <= BAD.len() {
                        // No more plugins come than can be undone.
                        stack.push(Some(BAD[stack.len() - 1]));
                        world.swap(slot, *stack.last().unwrap());
                    }
                }
                Turn::RollBack(slot) => back(&mut world, &mut stacks[slot]),
                Turn::Deaf(is_deaf) => world.is_deaf = is_deaf,
            }
        }
        world.is_deaf = false;
        world.take_all();
        for stack in &mut stacks {
            for _ in 0..BAD.len() {
                back(&mut world, stack);
            }
        }
        world.drain();
        reference.drain();
        prop_assert_eq!(world.entities(), reference.entities());
        prop_assert_eq!(&world.committed, &reference.committed);
        prop_assert_eq!(world.last_published(), reference.last_published());
        // Each event of the slot that nobody touched was published once.
        let of_still = |world: &World| {
            let published = world.published.iter();
            let of_key = published.filter(|record| record.key.as_deref() == Some(b"k1"));
            let mut described: Vec<_> = of_key.map(describe).collect();
            // Between partitions there is no order.
            described.sort();
            described
        };
        prop_assert_eq!(of_still(&world), of_still(&reference));
        let slots = stacks.into_iter().map(|(slot, _)| slot);
        for slot in slots.chain([still_slot()]) {
            world.at_each_host(|world| {
                world.confirm(&slot, None, now_ms());
            });
        }
        world.drain();
        prop_assert_eq!(world.reserved(&rows::BEFORES), 0);
        prop_assert_eq!(world.reserved(&rows::LATES), 0);
    }
}
