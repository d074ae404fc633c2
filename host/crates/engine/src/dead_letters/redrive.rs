//! A redrive: events of dead letters go to the input again, once and in order.
//!
//! A redrive visits the group `<group>.redrive`, and reads nothing there. Each of
//! its commits appends events to the input and notes their letters as redriven, in
//! one step. So no letter is redriven twice, even if a host is killed and another
//! begins again. One host at a time holds all partitions of that group. A redrive
//! begins once all events that were redriven before are processed, so that it knows
//! what became of them.
//!
//! A redrive works on one partition after another. The letters go in batches: by
//! key, and within a key in the order of their events. After each batch, the
//! redrive checks which events are dead letters again. Live events of halted
//! entities become letters meanwhile, and the redrive goes on with these.
//!
//! Memory: [`BATCH_BYTES_MAX`] of letters, one commit, and the keys of one
//! partition's halted entities.

mod batch;
mod commit;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use courtside_log::{
    GroupSpec, LogError, Member, Polled,
    reset::{self, Patience},
};
use courtside_types::{Key, Offset, PartitionId, Topic};
use metrics::counter;

use self::batch::{BATCH_BYTES_MAX, Batch, LetterOrder};
pub use self::plan::plan;
use super::{
    error::DeadLettersError,
    event::Letter,
    metrics::DEAD_AGAIN,
    notes,
    state::DeadLetters,
    view::{RedriveView, Selection},
};

/// Rounds with letters that came meanwhile, before the rest is left for the next
/// redrive.
const ROUNDS_MAX: usize = 200;

const EXAMPLES: usize = 20;
/// How long the partitions may take to be assigned.
const ASSIGNED_WITHIN: Duration = Duration::from_secs(120);
/// How long a commit is tried again after an error that may pass, and how long a
/// transaction may stay open.
const COMMITTED_WITHIN: Duration = Duration::from_secs(60);
/// How long the workers may make no progress.
const PROCESSED_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// Runs a redrive to its end.
pub fn run(dead_letters: &DeadLetters, selection: &Selection) -> Result<(), DeadLettersError> {
    let (log, pipeline) = (&*dead_letters.log, &dead_letters.pipeline);
    let topic = &pipeline.dead_letter;
    let group = notes::topic(&pipeline.group);
    if !log.group_status(&group, topic)?.members.is_empty() {
        return Err(DeadLettersError::Elsewhere);
    }
    let mut member = log.join(GroupSpec {
        group: group.clone(),
        input: topic.clone(),
        worker: 0,
        workers: 1,
        topics: pipeline.identity.input.iter().cloned().collect(),
        visits: true,
    })?;
    let count = pipeline.partitions;
    let patience = Patience {
        within: ASSIGNED_WITHIN,
        is_over: &|| dead_letters.is_stopped(),
    };
    reset::take_all(log, &mut *member, &group, topic, count, &patience).map_err(
        |error| match error {
            LogError::GroupNotEmpty { .. } => DeadLettersError::Elsewhere,
            _ if dead_letters.is_stopped() => DeadLettersError::Interrupted,
            error => error.into(),
        },
    )?;
    let all: Vec<_> = (0..count).map(PartitionId).collect();
    let wanted = match selection {
        Selection::One { partition, .. } => vec![PartitionId(*partition)],
        Selection::All | Selection::Key(_) => all.clone(),
    };
    let mut job = Job {
        dead_letters,
        selection,
        member: &mut *member,
        looked_up_to: Offset(0),
        halted: BTreeSet::new(),
        failed: BTreeSet::new(),
        fresh: BTreeMap::new(),
    };
    let outcome = wanted.into_iter().try_for_each(|id| job.partition(id));
    member.release(&all);
    outcome
}

fn selects(selection: &Selection, letter: &Letter) -> bool {
    match selection {
        Selection::All => true,
        Selection::Key(key) => letter.record.key.as_deref() == Some(key.as_bytes()),
        Selection::One { partition, offset } => {
            letter.partition.0 == *partition && letter.record.offset.0 == *offset
        }
    }
}

struct Job<'a> {
    dead_letters: &'a DeadLetters,
    selection: &'a Selection,
    member: &'a mut dyn Member,
    /// Offset up to which the letters that came during the redrive were looked at.
    looked_up_to: Offset,
    /// Keys of the halted entities whose letters this redrive has sent.
    halted: BTreeSet<Key>,
    /// Keys whose entities halted again: their other letters are left for another
    /// redrive.
    failed: BTreeSet<Key>,
    /// Letters of the entities in `halted` that came during the redrive.
    fresh: BTreeMap<LetterOrder, Letter>,
}

impl Job<'_> {
    fn partition(&mut self, partition: PartitionId) -> Result<(), DeadLettersError> {
        let dead_letters = self.dead_letters;
        let (log, topic) = (&*dead_letters.log, &dead_letters.pipeline.dead_letter);
        self.settle(partition)?;
        dead_letters.notes.lock().read(log)?;
        let end = self.settled_end(topic, partition)?;
        self.looked_up_to = end;
        self.halted.clear();
        self.failed.clear();
        self.fresh.clear();
        let mut after = None;
        loop {
            let batch = self.collect(partition, end, after.take())?;
            if batch.letters.is_empty() {
                break;
            }
            after = batch
                .letters
                .last_key_value()
                .map(|(order, _)| order.clone());
            let is_last = batch.rest.is_none();
            self.send(partition, batch)?;
            self.settle(partition)?;
            self.look(partition)?;
            if is_last {
                break;
            }
        }
        for _ in 0..ROUNDS_MAX {
            if self.fresh.is_empty() {
                return Ok(());
            }
            let letters = std::mem::take(&mut self.fresh);
            self.send(partition, Batch::whole(letters))?;
            self.settle(partition)?;
            self.look(partition)?;
        }
        let left = self.fresh.len() as u64;
        self.note(|progress| progress.left += left);
        Ok(())
    }

    fn settled_end(
        &self,
        topic: &Topic,
        partition: PartitionId,
    ) -> Result<Offset, DeadLettersError> {
        self.dead_letters
            .settled_end(topic, partition, COMMITTED_WITHIN)
    }

    /// Waits until all that the input has by now is processed.
    fn settle(&mut self, partition: PartitionId) -> Result<(), DeadLettersError> {
        let dead_letters = self.dead_letters;
        let (log, pipeline) = (&*dead_letters.log, &dead_letters.pipeline);
        let end = self.settled_end(&pipeline.input, partition)?;
        let mut reached = None;
        let mut deadline = Instant::now() + PROCESSED_WITHIN;
        loop {
            let status = log.group_status(&pipeline.group, &pipeline.input)?;
            let bounds = log.bounds(&pipeline.input)?;
            let start = bounds.get(partition.0 as usize).map(|held| held.start);
            let committed = status.committed.get(&partition).copied();
            let next = committed.or(start).unwrap_or_default();
            // The offsets before the end may hold no record, but the mark of a
            // transaction.
            let is_done = next >= end || {
                let records = log.read(&pipeline.input, partition, next, 1)?;
                records.first().is_none_or(|record| record.offset >= end)
            };
            if is_done {
                return Ok(());
            }
            let now = Instant::now();
            if reached != Some(next) {
                reached = Some(next);
                deadline = now + PROCESSED_WITHIN;
            }
            if now >= deadline {
                let lag = end.0.saturating_sub(next.0);
                return Err(DeadLettersError::NotProcessed { partition, lag });
            }
            self.rest()?;
        }
    }

    /// Counts the redriven events that are letters again, and collects the letters
    /// that came meanwhile.
    fn look(&mut self, partition: PartitionId) -> Result<(), DeadLettersError> {
        let dead_letters = self.dead_letters;
        let topic = &dead_letters.pipeline.dead_letter;
        let end = self.settled_end(topic, partition)?;
        let mut bytes = 0;
        let mut dead_again = 0;
        let mut newly_failed = Vec::new();
        let mut looked_up_to = end;
        dead_letters.each(partition, self.looked_up_to, end, |letter| {
            let at = letter.record.offset;
            let Ok(key) = letter.key(&dead_letters.pipeline) else {
                return true;
            };
            if letter.is_again {
                dead_again += 1;
                if letter.is_of_halt() && !self.failed.contains(key) {
                    newly_failed.push(String::from_utf8_lossy(key).into_owned());
                    self.failed.insert(Key::copy_from_slice(key));
                }
            } else if letter.is_of_halt() && self.halted.contains(key) {
                bytes += letter.record.size();
                let order = (Key::copy_from_slice(key), letter.order(), at);
                self.fresh.insert(order, letter.detached());
                if bytes >= BATCH_BYTES_MAX {
                    looked_up_to = at.next();
                    return false;
                }
            }
            !dead_letters.is_stopped()
        })?;
        if dead_letters.is_stopped() {
            return Err(DeadLettersError::Interrupted);
        }
        self.looked_up_to = looked_up_to;
        let failed = &self.failed;
        self.fresh.retain(|(key, ..), _| !failed.contains(key));
        let label = dead_letters.pipeline.name.to_string();
        counter!(DEAD_AGAIN, "pipeline" => label).increment(dead_again);
        self.note(|progress| {
            progress.dead_again += dead_again;
            progress.halted += newly_failed.len() as u64;
            let room = EXAMPLES.saturating_sub(progress.halted_keys.len());
            progress
                .halted_keys
                .extend(newly_failed.into_iter().take(room));
        });
        Ok(())
    }

    /// Waits for a moment, and polls meanwhile to stay a member of the group.
    fn rest(&mut self) -> Result<(), DeadLettersError> {
        if self.dead_letters.is_stopped() {
            return Err(DeadLettersError::Interrupted);
        }
        match self.member.poll(LOOK, 1) {
            Ok(Polled::Revoked(_) | Polled::Lost(_)) => Err(DeadLettersError::Interrupted),
            Ok(_) => Ok(()),
            // Each caller has a deadline of its own, so an error that may pass is
            // not reported here.
            Err(error) if error.may_pass() => {
                std::thread::sleep(LOOK);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn note(&self, change: impl FnOnce(&mut RedriveView)) {
        change(&mut self.dead_letters.progress.lock());
    }
}
