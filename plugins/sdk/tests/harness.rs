//! The harness must find what makes a plugin depend on its batching or its
//! neighbours: here are plugins that do, each in one way.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use courtside_plugin::{Meta, Output, Processor, Raw, Refusal, test::Harness};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A plugin whose every event adds one to what `$next` finds, and emits it.
macro_rules! counter {
    ($name:ident { $($field:tt)* }, $open:expr, $apply:expr) => {
        #[derive(Serialize, Deserialize)]
        struct $name { $($field)* }

        impl Processor for $name {
            const NAME: &'static str = stringify!($name);
            const VERSION: &'static str = "0.1.0";
            type Event = Raw;

            fn open(_key: &str) -> Self {
                $open
            }

            fn apply(&mut self, _: Raw, meta: &Meta, out: &mut Output) {
                let apply: fn(&mut Self, &Meta) -> u64 = $apply;
                let emitted = apply(self, meta);
                out.emit(&emitted);
            }
        }
    };
}

fn three_events<P: Processor>() -> Harness<P> {
    let mut harness = Harness::new("k");
    harness.feed(json!({})).feed(json!({})).feed(json!({}));
    harness
}

counter!(Honest { count: u64 }, Self { count: 0 }, |state, _| {
    state.count += 1;
    state.count
});

#[test]
fn an_honest_plugin_passes() {
    let run = three_events::<Honest>().run();
    assert_eq!(run.json(), [json!(1), json!(2), json!(3)]);
    assert_eq!(run.checkpoint.unwrap().state, br#"{"count":3}"#);
}

#[test]
fn a_case_without_events_passes() {
    assert_eq!(Harness::<Honest>::new("k").run().checkpoint, None);
    let saved = Harness::<Honest>::saved("k", "Honest/1", *br#"{"count":4}"#);
    assert_eq!(saved.run().checkpoint.unwrap().state, br#"{"count":4}"#);
}

static LEAK: AtomicU64 = AtomicU64::new(0);
counter!(LeaksByStatic {}, Self {}, |_, _| LEAK
    .fetch_add(1, Ordering::Relaxed));

#[test]
#[should_panic(expected = "the same events gave other bytes in another batching")]
fn a_static_is_found() {
    let _ = three_events::<LeaksByStatic>().run();
}

static BY_KEY: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());
counter!(KeepsInStatic {}, Self {}, |_, meta| {
    let mut counts = BY_KEY.lock().unwrap();
    let count = counts.entry(meta.key.to_owned()).or_default();
    *count += 1;
    *count
});

#[test]
#[should_panic(expected = "the same events gave other bytes in another batching")]
fn a_state_kept_by_key_in_a_static_is_found() {
    let _ = three_events::<KeepsInStatic>().run();
}

thread_local! {
    static SHARED: Cell<u64> = const { Cell::new(0) };
}
counter!(
    LeaksToNeighbours { count: u64 },
    Self { count: 0 },
    |state, meta| {
        // The output is wrong beside other keys only: the key's own count
        // survives reopening.
        state.count += 1;
        if meta.key.contains('~') {
            SHARED.set(SHARED.get() + 1);
        }
        state.count + SHARED.get()
    }
);

#[test]
#[should_panic(expected = "beside other keys: 1, 1, 1\n")]
fn a_thread_local_that_neighbours_share_is_found() {
    let _ = three_events::<LeaksToNeighbours>().run();
}

thread_local! {
    static KEPT: Cell<u64> = const { Cell::new(0) };
}
counter!(KeepsInThreadLocal {}, Self {}, |_, meta| {
    if !meta.key.contains('~') {
        KEPT.set(KEPT.get() + 1);
    }
    KEPT.get()
});

#[test]
#[should_panic(expected = "one by one: 1 reopen, 1 reopen, 1 reopen\n")]
fn a_state_kept_in_a_thread_local_is_found() {
    let _ = three_events::<KeepsInThreadLocal>().run();
}

counter!(
    ForgetsAtCheckpoint {
        count: u64,
        #[serde(skip)]
        forgotten: u64
    },
    Self {
        count: 0,
        forgotten: 0
    },
    |state, _| {
        state.count += 1;
        state.forgotten += 1;
        state.forgotten
    }
);

#[test]
#[should_panic(expected = "one by one: 1 reopen, 1 reopen, 1 reopen\n")]
fn a_state_lost_at_the_checkpoint_is_found() {
    let _ = three_events::<ForgetsAtCheckpoint>().run();
}

/// A state in a map without order.
#[derive(Serialize, Deserialize)]
struct Unordered(HashMap<u64, u64>);

impl Processor for Unordered {
    const NAME: &'static str = "unordered";
    const VERSION: &'static str = "0.1.0";
    type Event = Raw;

    fn open(_key: &str) -> Self {
        Self((0..50).map(|number| (number, number)).collect())
    }

    fn apply(&mut self, _: Raw, _: &Meta, _: &mut Output) {}
}

#[test]
#[should_panic(expected = "the final checkpoint")]
fn a_map_without_order_is_found() {
    let _ = three_events::<Unordered>().run();
}

/// Counts its refusals in a `Cell`, which `check` can change through `&self`.
#[derive(Serialize, Deserialize)]
struct NotesRefusals(Cell<u64>);

impl Processor for NotesRefusals {
    const NAME: &'static str = "notes-refusals";
    const VERSION: &'static str = "0.1.0";
    type Event = Raw;

    fn open(_key: &str) -> Self {
        Self(Cell::new(0))
    }

    fn check(&self, event: &Raw, _: &Meta) -> Result<(), Refusal> {
        if event.0 == b"0" {
            self.0.set(self.0.get() + 1);
            return Err("zero".into());
        }
        Ok(())
    }

    fn apply(&mut self, _: Raw, _: &Meta, _: &mut Output) {}
}

#[test]
#[should_panic(expected = "event 1 was refused and changed the state")]
fn a_refusal_that_changes_the_state_is_found() {
    let _ = Harness::<NotesRefusals>::new("k").feed(1).feed(0).run();
}

#[test]
#[should_panic(expected = "k does not open: Honest 0.1.0 does not read the format other/1")]
fn a_checkpoint_that_does_not_open_is_reported() {
    let _ = Harness::<Honest>::saved("k", "other/1", *b"{}").run();
}

#[test]
#[should_panic(expected = "COURTSIDE_TEST_SEED=")]
fn the_seed_is_printed() {
    let _ = three_events::<ForgetsAtCheckpoint>().run();
}
