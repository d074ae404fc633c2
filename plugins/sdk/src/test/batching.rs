//! Ways to hand a case's events to a plugin, and the code that hands them over.

use std::{fmt, thread};

use crate::{
    Processor,
    native::{Checkpoint, Entity, Event, Outcome},
    test::{Harness, Run},
};

/// The step after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Nothing,
    /// A checkpoint is taken; the entity goes on.
    Checkpoint,
    /// A checkpoint is taken and opened in a new instance.
    Reopen,
}

/// One way to hand over a case's events.
#[derive(Debug)]
pub(super) struct Plan {
    name: &'static str,
    /// The number of events in each batch, and the step after it.
    batches: Vec<(usize, After)>,
    /// Whether the instance holds other keys too.
    neighbours: bool,
}

impl Plan {
    pub(super) fn all_at_once(events: usize) -> Self {
        Self::even("all at once", events, events.max(1), After::Nothing)
    }

    fn even(name: &'static str, events: usize, size: usize, after: After) -> Self {
        let batches = (0..events)
            .step_by(size)
            .map(|start| (size.min(events - start), after))
            .collect();
        Self {
            name,
            batches,
            neighbours: false,
        }
    }

    fn random(events: usize, random: &mut Random) -> Self {
        let mut batches = Vec::new();
        let mut left = events;
        while left > 0 {
            // The bound is drawn first, so that small batches are as frequent
            // as large ones, whatever the case's length.
            let bound = 1 + random.below(left);
            let size = 1 + random.below(bound);
            let after = match random.below(3) {
                0 => After::Nothing,
                1 => After::Checkpoint,
                _ => After::Reopen,
            };
            batches.push((size, after));
            left -= size;
        }
        Self {
            name: "random",
            batches,
            neighbours: false,
        }
    }

    fn beside_neighbours(self) -> Self {
        Self {
            neighbours: true,
            ..self
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 24;
        f.write_str(self.name)?;
        if self.neighbours {
            f.write_str(", beside other keys")?;
        }
        let mut separator = ": ";
        for (size, after) in self.batches.iter().take(SHOWN_MAX) {
            write!(f, "{separator}{size}")?;
            f.write_str(match after {
                After::Nothing => "",
                After::Checkpoint => " checkpoint",
                After::Reopen => " reopen",
            })?;
            separator = ", ";
        }
        if self.batches.len() > SHOWN_MAX {
            write!(f, ", … ({} batches)", self.batches.len())?;
        }
        Ok(())
    }
}

/// The batchings to compare with handing over all at once.
pub(super) fn plans(events: usize, splits: usize, random: &mut Random) -> Vec<Plan> {
    let mut plans = vec![
        Plan::all_at_once(events),
        Plan::even("one by one", events, 1, After::Nothing),
        Plan::even("one by one", events, 1, After::Reopen),
        Plan::even("one by one", events, 1, After::Nothing).beside_neighbours(),
    ];
    for split in 0..splits {
        let plan = Plan::random(events, random);
        plans.push(if split % 2 == 0 {
            plan
        } else {
            plan.beside_neighbours()
        });
    }
    plans
}

impl<P: Processor> Harness<P> {
    /// Runs the case in one batching.
    pub(super) fn execute(&self, plan: &Plan) -> Run {
        let mut run = Run {
            emissions: Vec::new(),
            refusals: Vec::new(),
            checkpoint: self.saved.clone(),
            key: self.key.clone(),
            next_offset: self.next_offset,
        };
        let mut neighbours = plan.neighbours.then(|| Neighbours::of(&self.key));
        let mut events = self.events.as_slice();
        let mut fed = 0;
        for life in plan
            .batches
            .split_inclusive(|(_, after)| *after == After::Reopen)
        {
            // An instance is a thread, so that nothing but the checkpoints gets
            // from one to the next.
            in_thread(|| {
                let mut instance = neighbours.as_mut().map(Neighbours::open::<P>);
                let mut entity = open::<P>(&self.key, run.checkpoint.as_ref());
                for (size, after) in life {
                    let (batch, rest) = events.split_at(*size);
                    if let Some((before, after)) = &mut instance {
                        process(before, batch, 0, drop);
                        let some: Vec<Event> = batch.iter().step_by(2).cloned().collect();
                        process(after, &some, 0, drop);
                    }
                    process(&mut entity, batch, fed, |outcome| run.take(outcome));
                    events = rest;
                    fed += *size as u32;
                    if *after == After::Checkpoint {
                        let _ = entity.checkpoint();
                    }
                }
                run.checkpoint = entity.checkpoint();
                if let (Some(neighbours), Some(instance)) = (&mut neighbours, &instance) {
                    neighbours.close(instance);
                }
            });
        }
        if plan.batches.is_empty() {
            in_thread(|| {
                run.checkpoint = open::<P>(&self.key, run.checkpoint.as_ref()).checkpoint();
            });
        }
        run
    }

    /// A refusal must leave the state as it was, to the byte.
    pub(super) fn check_refusals(&self) {
        in_thread(|| {
            let mut entity = open::<P>(&self.key, self.saved.as_ref());
            let mut before = entity.checkpoint();
            for (index, event) in self.events.iter().enumerate() {
                let outcome = entity.process(vec![event.clone()]);
                let after = entity.checkpoint();
                assert!(
                    outcome.refused.is_none() || after == before,
                    "event {index} was refused and changed the state (a Cell in it?)"
                );
                before = after;
            }
        });
    }
}

impl Run {
    fn take(&mut self, outcome: Outcome) {
        self.emissions.extend(outcome.emissions);
        self.refusals.extend(outcome.refused);
    }
}

/// Two other keys: one gets the same events just before, one gets some of them.
struct Neighbours {
    keys: [String; 2],
    saved: [Option<Checkpoint>; 2],
}

impl Neighbours {
    fn of(key: &str) -> Self {
        Self {
            keys: [format!("{key}~before"), format!("{key}~after")],
            saved: [None, None],
        }
    }

    fn open<P: Processor>(&mut self) -> (Entity<P>, Entity<P>) {
        let [before, after] = &self.keys;
        let [saved_before, saved_after] = &self.saved;
        (
            open(before, saved_before.as_ref()),
            open(after, saved_after.as_ref()),
        )
    }

    fn close<P: Processor>(&mut self, (before, after): &(Entity<P>, Entity<P>)) {
        self.saved = [before.checkpoint(), after.checkpoint()];
    }
}

#[track_caller]
fn open<P: Processor>(key: &str, saved: Option<&Checkpoint>) -> Entity<P> {
    Entity::open(key, saved).unwrap_or_else(|error| panic!("{key} does not open: {error}"))
}

/// Hands over a batch as the host does, going on after each refusal. `fed` is
/// how many of the case's events came before: outcomes count from there.
fn process<P: Processor>(
    entity: &mut Entity<P>,
    events: &[Event],
    mut fed: u32,
    mut take: impl FnMut(Outcome),
) {
    let mut left = events;
    while !left.is_empty() {
        let mut outcome = entity.process(left.to_vec());
        let refused = outcome.refused.as_ref().map(|refusal| refusal.index);
        for emission in &mut outcome.emissions {
            emission.event += fed;
        }
        if let Some(refusal) = &mut outcome.refused {
            refusal.index += fed;
        }
        take(outcome);
        let done = refused.map_or(left.len(), |index| index as usize + 1);
        left = left.get(done..).unwrap_or_default();
        fed += done as u32;
    }
}

fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// SplitMix64: small, seeded, and the same everywhere.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below the bound, which must not be 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
