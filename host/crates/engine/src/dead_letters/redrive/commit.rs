//! Commits of a redrive: events for the input, with the notes that their letters are
//! redriven.

use std::time::Instant;

use courtside_log::{Commit, Health, LogError};
use courtside_types::{Header, Key, NewRecord, Offset, PartitionId, Topic, TopicPartition};
use metrics::counter;

use super::{COMMITTED_WITHIN, Job, batch::Batch};
use crate::{
    dead_letters::{
        error::DeadLettersError, event::EventError, metrics::REDRIVEN, view::Selection,
    },
    worker::redriven::{BEGINS, UNTIL},
};

/// Bytes and events of one commit.
const COMMIT_BYTES: usize = 1 << 20;
const COMMIT_EVENTS: usize = if cfg!(test) { 5 } else { 1_000 };

impl Job<'_> {
    /// Appends the events, and notes that their letters are redriven.
    pub(super) fn send(
        &mut self,
        partition: PartitionId,
        batch: Batch,
    ) -> Result<(), DeadLettersError> {
        let dead_letters = self.dead_letters;
        let alone = matches!(self.selection, Selection::One { .. });
        let mut entity: Option<Key> = None;
        let mut commit = Pending::default();
        let mut left = batch.letters.into_iter().peekable();
        while let Some(((key, order, at), letter)) = left.next() {
            if dead_letters.is_stopped() {
                return Err(DeadLettersError::Interrupted);
            }
            if letter.is_of_halt() {
                self.halted.insert(key.clone());
            }
            let ends = left.peek().is_none_or(|((next, ..), _)| *next != key);
            let is_cut_short = batch.rest.as_ref().is_some_and(|(rest, ..)| *rest == key);
            match letter.event(&*dead_letters.log, &dead_letters.pipeline) {
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
        let dead_letters = self.dead_letters;
        let (log, pipeline) = (&*dead_letters.log, &dead_letters.pipeline);
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
            let notes = dead_letters.notes.lock();
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
            if self.dead_letters.log.health() != Health::Ready {
                continue;
            }
            match self.read_notes(partition) {
                Ok(()) => break,
                Err(DeadLettersError::Log(error)) if error.may_pass() => {}
                Err(error) => return Err(error),
            }
        }
        let notes = self.dead_letters.notes.lock();
        let mut letters = redriven.iter();
        Ok(letters.all(|letter| notes.is_redriven(partition, *letter)))
    }

    /// Reads all notes that were written up to now.
    fn read_notes(&self, partition: PartitionId) -> Result<(), DeadLettersError> {
        let topic = self.dead_letters.notes.lock().topic().clone();
        self.settled_end(&topic, partition)?;
        Ok(self
            .dead_letters
            .notes
            .lock()
            .read(&*self.dead_letters.log)?)
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
