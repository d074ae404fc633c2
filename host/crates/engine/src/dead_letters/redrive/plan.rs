//! The number of letters that a redrive would take now.

use std::collections::BTreeSet;

use courtside_types::PartitionId;

use super::{EXAMPLES, selects};
use crate::dead_letters::{
    error::DeadLettersError,
    state::DeadLetters,
    view::{Plan, Selection},
};

/// Most letters that a plan looks at.
const PLANNED_MAX: u64 = 1_000_000;

/// Counts the letters that a redrive would take now.
pub fn plan(dead_letters: &DeadLetters, selection: &Selection) -> Result<Plan, DeadLettersError> {
    let mut plan = Plan {
        complete: true,
        ..Plan::default()
    };
    let mut keys: BTreeSet<u64> = BTreeSet::new();
    let mut looked = 0;
    let bounds = dead_letters
        .log
        .bounds(&dead_letters.pipeline.dead_letter)?;
    for (partition, held) in (0..).map(PartitionId).zip(bounds) {
        dead_letters.each(partition, held.start, held.end, |letter| {
            looked += 1;
            if looked > PLANNED_MAX {
                plan.complete = false;
                return false;
            }
            if !selects(selection, &letter) {
                return true;
            }
            let at = letter.record.offset;
            let notes = dead_letters.notes.lock();
            if notes.is_redriven(partition, at) {
                plan.redriven_before += 1;
            } else if notes.is_void(partition, at) {
                plan.void += 1;
            } else {
                match letter.key(&dead_letters.pipeline) {
                    Err(unfit) => *plan.unfit.entry(unfit.code().to_owned()).or_default() += 1,
                    Ok(key) => {
                        if keys.insert(xxhash_rust::xxh3::xxh3_64(key)) && keys.len() <= EXAMPLES {
                            let key = String::from_utf8_lossy(key).into_owned();
                            plan.key_examples.push(key);
                        }
                        *plan.by_code.entry(letter.code.clone()).or_default() += 1;
                        plan.letters += 1;
                    }
                }
            }
            true
        })?;
    }
    plan.keys = keys.len() as u64;
    Ok(plan)
}
