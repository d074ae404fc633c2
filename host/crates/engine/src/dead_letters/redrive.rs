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

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use courtside_log::{
    Commit, GroupSpec, Health, LogError, Member, Polled,
    reset::{self, Patience},
};
use courtside_types::{Header, Key, NewRecord, Offset, PartitionId, Topic, TopicPartition};
use metrics::counter;

use super::{
    error::DeadLettersError,
    event::{EventError, Letter},
    metrics::{DEAD_AGAIN, REDRIVEN},
    notes,
    state::DeadLetters,
    view::{Plan, RedriveView, Selection},
};
use crate::worker::redriven::{BEGINS, UNTIL};

/// Bytes of letters that are held at a time.
const BATCH_BYTES_MAX: usize = if cfg!(test) { 4 << 10 } else { 32 << 20 };
/// Bytes and events of one commit.
const COMMIT_BYTES: usize = 1 << 20;
const COMMIT_EVENTS: usize = if cfg!(test) { 5 } else { 1_000 };
/// Rounds with letters that came meanwhile, before the rest is left for the next
/// redrive.
const ROUNDS_MAX: usize = 200;
/// Most letters that a plan looks at.
const PLANNED_MAX: u64 = 1_000_000;
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
pub fn run(letters: &DeadLetters, selection: &Selection) -> Result<(), DeadLettersError> {
    let (log, pipeline) = (&*letters.log, &letters.pipeline);
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
        is_over: &|| letters.is_stopped(),
    };
    reset::take_all(log, &mut *member, &group, topic, count, &patience).map_err(
        |error| match error {
            LogError::GroupNotEmpty { .. } => DeadLettersError::Elsewhere,
            _ if letters.is_stopped() => DeadLettersError::Interrupted,
            error => error.into(),
        },
    )?;
    let all: Vec<_> = (0..count).map(PartitionId).collect();
    let wanted = match selection {
        Selection::One { partition, .. } => vec![PartitionId(*partition)],
        Selection::All | Selection::Key(_) => all.clone(),
    };
    let mut job = Job {
        letters,
        selection,
        member: &mut *member,
        seen: Offset(0),
        halted: BTreeSet::new(),
        failed: BTreeSet::new(),
        fresh: BTreeMap::new(),
    };
    let outcome = wanted.into_iter().try_for_each(|id| job.partition(id));
    member.release(&all);
    outcome
}

/// Counts the letters that a redrive would take now.
pub fn plan(letters: &DeadLetters, selection: &Selection) -> Result<Plan, DeadLettersError> {
    let mut plan = Plan {
        complete: true,
        ..Plan::default()
    };
    let mut keys: BTreeSet<u64> = BTreeSet::new();
    let mut looked = 0;
    let bounds = letters.log.bounds(&letters.pipeline.dead_letter)?;
    for (partition, held) in (0..).map(PartitionId).zip(bounds) {
        letters.each(partition, held.start, held.end, |letter| {
            looked += 1;
            if looked > PLANNED_MAX {
                plan.complete = false;
                return false;
            }
            if !selects(selection, &letter) {
                return true;
            }
            let at = letter.record.offset;
            let notes = letters.notes.lock();
            if notes.is_redriven(partition, at) {
                plan.redriven_before += 1;
            } else if notes.is_void(partition, at) {
                plan.void += 1;
            } else {
                match letter.key(&letters.pipeline) {
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

fn selects(selection: &Selection, letter: &Letter) -> bool {
    match selection {
        Selection::All => true,
        Selection::Key(key) => letter.record.key.as_deref() == Some(key.as_bytes()),
        Selection::One { partition, offset } => {
            letter.partition.0 == *partition && letter.record.offset.0 == *offset
        }
    }
}

/// The order in which letters go: by key, then by the offset at which the event
/// first came.
type Place = (Key, Offset, Offset);

/// Letters to redrive next.
struct Batch {
    letters: BTreeMap<Place, Letter>,
    /// Key of the first letter that is left for the next batch. It may also be the
    /// last key of this batch.
    rest: Option<Key>,
}

struct Job<'a> {
    letters: &'a DeadLetters,
    selection: &'a Selection,
    member: &'a mut dyn Member,
    /// Offset up to which the letters that came during the redrive were looked at.
    seen: Offset,
    /// Keys of the halted entities whose letters this redrive has sent.
    halted: BTreeSet<Key>,
    /// Keys whose entities halted again: their other letters are left for another
    /// redrive.
    failed: BTreeSet<Key>,
    /// Letters of the entities in `halted` that came during the redrive.
    fresh: BTreeMap<Place, Letter>,
}

impl Job<'_> {
    fn partition(&mut self, partition: PartitionId) -> Result<(), DeadLettersError> {
        let letters = self.letters;
        let (log, topic) = (&*letters.log, &letters.pipeline.dead_letter);
        self.settle(partition)?;
        letters.notes.lock().read(log)?;
        let end = self.settled_end(topic, partition)?;
        self.seen = end;
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
                .map(|(place, _)| place.clone());
            let more = batch.rest.is_some();
            self.send(partition, batch)?;
            self.settle(partition)?;
            self.look(partition)?;
            if !more {
                break;
            }
        }
        for _ in 0..ROUNDS_MAX {
            if self.fresh.is_empty() {
                return Ok(());
            }
            let letters = std::mem::take(&mut self.fresh);
            self.send(
                partition,
                Batch {
                    letters,
                    rest: None,
                },
            )?;
            self.settle(partition)?;
            self.look(partition)?;
        }
        let left = self.fresh.len() as u64;
        self.note(|progress| progress.left += left);
        Ok(())
    }

    /// The next batch: the first open letters below `end`, in their order, after
    /// `after`.
    fn collect(
        &self,
        partition: PartitionId,
        end: Offset,
        after: Option<Place>,
    ) -> Result<Batch, DeadLettersError> {
        let letters = self.letters;
        let bounds = letters.log.bounds(&letters.pipeline.dead_letter)?;
        let start = bounds.get(partition.0 as usize).map(|held| held.start);
        let mut first = letters
            .notes
            .lock()
            .first_open(partition, start.unwrap_or_default());
        let mut end = end;
        if let Selection::One { offset, .. } = self.selection {
            first = first.max(Offset(*offset));
            end = end.min(Offset(*offset).next());
        }
        let mut found = BTreeMap::new();
        let mut bytes = 0;
        // The first letter that does not fit; the letters after it are left, too.
        let mut rest: Option<Place> = None;
        let mut unfit: BTreeMap<String, u64> = BTreeMap::new();
        let is_first = after.is_none();
        letters.each(partition, first, end, |letter| {
            let at = letter.record.offset;
            let is_open = {
                let notes = letters.notes.lock();
                !notes.is_redriven(partition, at) && !notes.is_void(partition, at)
            };
            if !is_open || !selects(self.selection, &letter) {
                return true;
            }
            let key = match letter.key(&letters.pipeline) {
                Ok(key) => Key::copy_from_slice(key),
                Err(why) => {
                    if is_first {
                        *unfit.entry(why.code().to_owned()).or_default() += 1;
                    }
                    return true;
                }
            };
            let place = (key, letter.order(), at);
            let is_before = after.as_ref().is_some_and(|after| place <= *after);
            let is_after = rest.as_ref().is_some_and(|rest| place >= *rest);
            if self.failed.contains(&place.0) || is_before || is_after {
                return true;
            }
            bytes += letter.record.size();
            found.insert(place, letter.detached());
            while bytes > BATCH_BYTES_MAX
                && found.len() > 1
                && let Some((place, last)) = found.pop_last()
            {
                bytes -= last.record.size();
                rest = Some(place);
            }
            !letters.is_stopped()
        })?;
        if letters.is_stopped() {
            return Err(DeadLettersError::Interrupted);
        }
        self.note(|progress| {
            for (code, count) in unfit {
                *progress.unfit.entry(code).or_default() += count;
            }
        });
        Ok(Batch {
            letters: found,
            rest: rest.map(|(key, ..)| key),
        })
    }

    /// Appends the events, and notes that their letters are redriven.
    fn send(&mut self, partition: PartitionId, batch: Batch) -> Result<(), DeadLettersError> {
        let letters = self.letters;
        let Batch {
            letters: batch,
            rest,
        } = batch;
        let alone = matches!(self.selection, Selection::One { .. });
        let mut entity: Option<Key> = None;
        let mut commit = Pending::default();
        let mut left = batch.into_iter().peekable();
        while let Some(((key, order, at), letter)) = left.next() {
            if letters.is_stopped() {
                return Err(DeadLettersError::Interrupted);
            }
            if letter.is_of_halt() {
                self.halted.insert(key.clone());
            }
            let ends = left.peek().is_none_or(|((next, ..), _)| *next != key);
            let is_cut_short = rest.as_ref() == Some(&key);
            match letter.event(&*letters.log, &letters.pipeline) {
                Ok(mut event) => {
                    if !alone && entity.as_ref() != Some(&key) {
                        event.headers.push(Header::new(BEGINS, "1"));
                        entity = Some(key.clone());
                    }
                    commit.add(event, at);
                }
                Err(EventError::Log(error)) => return Err(error.into()),
                Err(EventError::Unfit(unfit)) => self.note(|progress| {
                    let code = unfit.code().to_owned();
                    *progress.unfit.entry(code).or_default() += 1;
                }),
            }
            // The end includes letters that cannot be redriven, so that they do not
            // keep the entity halted.
            if ends && !alone && !is_cut_short && entity.as_ref() == Some(&key) {
                commit.end(order);
            }
            // If the key's later letters are unfit, the newest event gets the end
            // mark. So that event stays for the next commit.
            if ends && commit.is_full() {
                self.commit(partition, &mut commit, None)?;
            } else if commit.is_full() {
                let kept = commit.events.pop();
                self.commit(partition, &mut commit, kept)?;
            }
        }
        self.commit(partition, &mut commit, None)
    }

    fn commit(
        &mut self,
        partition: PartitionId,
        pending: &mut Pending,
        kept: Option<(NewRecord, Offset)>,
    ) -> Result<(), DeadLettersError> {
        let letters = self.letters;
        let (log, pipeline) = (&*letters.log, &letters.pipeline);
        let events = std::mem::take(&mut pending.events);
        pending.bytes = 0;
        if let Some((event, at)) = kept {
            pending.add(event, at);
        }
        if events.is_empty() {
            return Ok(());
        }
        let redriven: Vec<Offset> = events.iter().map(|(_, at)| *at).collect();
        let place = |topic: &Topic| TopicPartition {
            topic: topic.clone(),
            partition,
        };
        let bounds = log.bounds(&pipeline.dead_letter)?;
        let held = bounds
            .get(partition.0 as usize)
            .copied()
            .unwrap_or_default();
        let notes = {
            let notes = letters.notes.lock();
            let mut records = notes.with(partition, &redriven);
            records.extend(notes.dropped(partition, held.start));
            let to = place(notes.topic());
            records.into_iter().map(move |record| (to.clone(), record))
        };
        let input = place(&pipeline.input);
        let count = events.len() as u64;
        let events = events.into_iter().map(|(event, _)| (input.clone(), event));
        let commit = Commit {
            records: events.chain(notes).collect(),
            checkpoints: Vec::new(),
            // The offset means nothing, but only a commit with one is fenced. The
            // end is taken, so that the group does not hold back retention.
            offsets: vec![(partition, held.end)],
        };
        let deadline = Instant::now() + COMMITTED_WITHIN;
        loop {
            match self.member.commit(&commit) {
                Ok(()) => break,
                Err(LogError::Fenced { .. }) => return Err(DeadLettersError::Interrupted),
                Err(error) if error.may_pass() => {
                    if self.has_happened(partition, &redriven, error, deadline)? {
                        break;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.read_notes(partition)?;
        counter!(REDRIVEN, "pipeline" => pipeline.name.to_string()).increment(count);
        self.note(|progress| progress.redriven += count);
        Ok(())
    }

    /// Whether a commit that failed is in the log: it may have been written before
    /// the disk stopped answering. The notes say so once the log takes records
    /// again. Another try of the commit could not tell, because the commit moves no
    /// offset.
    fn has_happened(
        &mut self,
        partition: PartitionId,
        redriven: &[Offset],
        error: LogError,
        deadline: Instant,
    ) -> Result<bool, DeadLettersError> {
        loop {
            if Instant::now() >= deadline {
                return Err(error.into());
            }
            self.rest()?;
            if self.letters.log.health() != Health::Ready {
                continue;
            }
            match self.read_notes(partition) {
                Ok(()) => break,
                Err(DeadLettersError::Log(error)) if error.may_pass() => {}
                Err(error) => return Err(error),
            }
        }
        let notes = self.letters.notes.lock();
        let mut letters = redriven.iter();
        Ok(letters.all(|letter| notes.is_redriven(partition, *letter)))
    }

    /// Reads all notes that were written up to now.
    fn read_notes(&self, partition: PartitionId) -> Result<(), DeadLettersError> {
        let topic = self.letters.notes.lock().topic().clone();
        self.settled_end(&topic, partition)?;
        Ok(self.letters.notes.lock().read(&*self.letters.log)?)
    }

    fn settled_end(
        &self,
        topic: &Topic,
        partition: PartitionId,
    ) -> Result<Offset, DeadLettersError> {
        self.letters.settled_end(topic, partition, COMMITTED_WITHIN)
    }

    /// Waits until all that the input has by now is processed.
    fn settle(&mut self, partition: PartitionId) -> Result<(), DeadLettersError> {
        let letters = self.letters;
        let (log, pipeline) = (&*letters.log, &letters.pipeline);
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
        let letters = self.letters;
        let topic = &letters.pipeline.dead_letter;
        let end = self.settled_end(topic, partition)?;
        let mut bytes = 0;
        let mut dead_again = 0;
        let mut newly_failed = Vec::new();
        let mut seen = end;
        letters.each(partition, self.seen, end, |letter| {
            let at = letter.record.offset;
            let Ok(key) = letter.key(&letters.pipeline) else {
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
                let place = (Key::copy_from_slice(key), letter.order(), at);
                self.fresh.insert(place, letter.detached());
                if bytes >= BATCH_BYTES_MAX {
                    seen = at.next();
                    return false;
                }
            }
            !letters.is_stopped()
        })?;
        if letters.is_stopped() {
            return Err(DeadLettersError::Interrupted);
        }
        self.seen = seen;
        let failed = &self.failed;
        self.fresh.retain(|(key, ..), _| !failed.contains(key));
        let label = letters.pipeline.name.to_string();
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
        if self.letters.is_stopped() {
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
        change(&mut self.letters.progress.lock());
    }
}

/// Events of the next commit.
#[derive(Default)]
struct Pending {
    /// Events, each with the offset of its letter.
    events: Vec<(NewRecord, Offset)>,
    bytes: usize,
}

impl Pending {
    fn add(&mut self, event: NewRecord, letter: Offset) {
        self.bytes += event.size();
        self.events.push((event, letter));
    }

    /// Marks the last event as the end of its entity's redriven events, up to that
    /// offset.
    fn end(&mut self, until: Offset) {
        if let Some((event, _)) = self.events.last_mut() {
            event.headers.push(Header::new(UNTIL, until.to_string()));
        }
    }

    fn is_full(&self) -> bool {
        self.events.len() > COMMIT_EVENTS || self.bytes >= COMMIT_BYTES && self.events.len() > 1
    }
}
