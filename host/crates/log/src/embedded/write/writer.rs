//! The writer's thread.
//!
//! # When the disk fails
//! Before a write the writer asks how much room the disk has. Below the configured
//! minimum it refuses with `disk-full`, and attempts nothing. If a write or a sync
//! fails all the same, the database takes no further writes. The callers that wait for
//! the write get the error, and so do all later callers until the writer has opened the
//! database anew, in process. The writer tries that with a backoff once there is room.
//! Reads go on meanwhile.
//!
//! The opening decides whether the failed write is in the log: fjall's journal keeps a
//! batch whole or drops it. So an append that was answered with an error may turn up
//! after all, as with Kafka. For a commit this would be wrong, since the member repeats
//! it. So each offset of a commit names the offset that it moves from. If a member
//! repeats a commit that has happened, the offsets have moved already, and the writer
//! answers that the commit is done. If the member has gone on and commits something
//! else, the writer fences it. The member then goes back to the committed checkpoints
//! and offsets.

use std::{
    mem,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use courtside_process::{backoff::Backoff, clock::now_ms};

use super::{
    Append, Clean, EnsureTopics, Request, check_topics,
    plan::{Plan, Planning},
    queue::{Gather, Taken, closed},
};
use crate::{
    LogError,
    embedded::{
        catalog,
        config::WRITE_BYTES_MAX,
        disk::Disk,
        rows::{self, PartitionRow},
        state::EmbeddedState,
        store::{self, Store},
    },
};

/// With fewer requests than this, the writer does not wait for more.
const CROWD_MIN: usize = 8;
const GATHER_MAX: Duration = Duration::from_millis(2);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Cleaning makes room, so it needs only `disk_free_min` divided by this to be free.
const CLEANING_SHARE: u64 = 4;

pub(in super::super) struct Writer {
    pub(super) shared: Arc<EmbeddedState>,
    disk: Disk,
    trouble: Option<Trouble>,
    backoff: Backoff,
}

struct Trouble {
    error: LogError,
    /// The database must be opened anew. If false, the disk only lacks room.
    broken: bool,
    retry_at: Instant,
}

/// Gives callers that still wait an error when the thread ends or unwinds.
struct Abandon(Arc<EmbeddedState>);

impl Drop for Abandon {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.set_trouble(Some(LogError::Unavailable {
                reason: "the log's writer has crashed; restart the host".to_owned(),
            }));
        }
        self.0.queue.abandon();
    }
}

/// The replies that a plan owes.
#[derive(Default)]
struct Replies {
    appends: Vec<(Append, Vec<u64>)>,
    commits: Vec<crossbeam_channel::Sender<Result<(), LogError>>>,
}

impl Replies {
    fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.commits.is_empty()
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Append(append) => self.appends.push((append, Vec::new())),
            Request::Commit(commit) => self.commits.push(commit.reply),
            _ => {}
        }
    }

    fn answer(self, outcome: &Result<(), LogError>) {
        for (append, offsets) in self.appends {
            // The room is released before the caller can ask for more.
            drop(append.reservation);
            let _ = append.reply.send(outcome.clone().map(|()| offsets));
        }
        for reply in self.commits {
            let _ = reply.send(outcome.clone());
        }
    }
}

/// How many requests to wait for before the next write, and how long. Callers that were
/// just answered may ask again at once. One write for all of them needs half as many
/// syncs as two writes for one half each, in turns. If few callers ask, the writer does
/// not wait. If the callers do not come back, the writer waits for them only once.
fn next_gather(answered: usize, waiting: usize, took: Duration) -> Gather {
    let crowd = answered + waiting;
    if crowd < CROWD_MIN {
        return Gather::default();
    }
    Gather {
        count: crowd,
        wait: (took / 4).min(GATHER_MAX),
    }
}

impl Writer {
    pub fn new(shared: Arc<EmbeddedState>) -> Self {
        Self {
            disk: Disk::new(shared.path.clone()),
            shared,
            trouble: None,
            backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX),
        }
    }

    pub fn run(mut self) {
        let _abandon = Abandon(Arc::clone(&self.shared));
        let mut requests = Vec::new();
        let mut gather = Gather::default();
        loop {
            let until = self.trouble.as_ref().map(|trouble| trouble.retry_at);
            let taken = self
                .shared
                .queue
                .take(&mut requests, WRITE_BYTES_MAX, until, gather);
            if taken == Taken::Closed {
                return;
            }
            if self
                .trouble
                .as_ref()
                .is_some_and(|trouble| trouble.retry_at <= Instant::now())
            {
                self.mend();
            }
            let (count, started) = (requests.len(), Instant::now());
            self.handle(&mut requests);
            gather = next_gather(count, self.shared.queue.len(), started.elapsed());
        }
    }

    fn handle(&mut self, requests: &mut Vec<Request>) {
        let mut writes = Vec::with_capacity(requests.len());
        for request in requests.drain(..) {
            match request {
                Request::Append(_) | Request::Commit(_) => writes.push(request),
                // The other requests are rare, and come between two writes.
                Request::Join(join) => {
                    self.write(mem::take(&mut writes));
                    if let Err(error) = join.topic.check_exists() {
                        let _ = join.reply.send(Err(error));
                        continue;
                    }
                    self.shared
                        .groups
                        .join(join.group, Arc::clone(&join.member));
                    let mut listeners = join.topic.listeners.write();
                    listeners.retain(|listener| !listener.is_fenced());
                    listeners.push(join.member);
                    drop(listeners);
                    let _ = join.reply.send(Ok(()));
                }
                Request::EnsureTopics(request) => {
                    self.write(mem::take(&mut writes));
                    let outcome = self.ensure_topics(&request);
                    let _ = request.reply.send(outcome);
                }
                Request::Change(request) => {
                    self.write(mem::take(&mut writes));
                    let outcome = self.change(&request.topic, &request.change);
                    let _ = request.reply.send(outcome);
                }
                Request::Clean(mut clean) => {
                    self.write(mem::take(&mut writes));
                    let outcome = self.clean(&mut clean);
                    let _ = clean.reply.send(outcome);
                }
            }
        }
        self.write(writes);
    }

    /// Writes appends and commits in one batch.
    fn write(&mut self, requests: Vec<Request>) {
        if requests.is_empty() {
            return;
        }
        let mut replies = Replies::default();
        let outcome = self.try_write(requests, &mut replies);
        replies.answer(&outcome);
    }

    fn try_write(&mut self, requests: Vec<Request>, replies: &mut Replies) -> Result<(), LogError> {
        let bytes: usize = requests.iter().map(Request::stored_bytes).sum();
        let min = self.shared.config.disk_free_min.as_u64();
        let writable = self.check_writable(bytes as u64, min);
        let shared = Arc::clone(&self.shared);
        let guard = shared.store.read();
        let (Ok(()), Some(store)) = (&writable, guard.as_ref()) else {
            for request in requests {
                replies.take(request);
            }
            return writable.and(Err(closed()));
        };
        let mut plan = Plan::new(&shared, store, now_ms());
        let limit = shared.config.request_bytes_max();
        for request in requests {
            let size = request.stored_bytes();
            if size as u64 > limit {
                request.refuse(LogError::WriteTooLarge {
                    size_bytes: size as u64,
                    limit_bytes: limit,
                });
                continue;
            }
            match request {
                Request::Append(mut append) => {
                    if let Err(error) = check_topics(&append.parts) {
                        let _ = append.reply.send(Err(error));
                        continue;
                    }
                    let parts = mem::take(&mut append.parts);
                    let offsets = parts.into_iter().map(|part| plan.append(part)).collect();
                    replies.appends.push((append, offsets));
                }
                Request::Commit(mut commit) => match plan.commit(&mut commit) {
                    Ok(Planning::Planned) => replies.commits.push(commit.reply),
                    Ok(Planning::Happened) => drop(commit.reply.send(Ok(()))),
                    Err(error) => drop(commit.reply.send(Err(error))),
                },
                _ => {}
            }
        }
        if replies.is_empty() {
            return Ok(());
        }
        let written = plan.write();
        drop(guard);
        written
            .map(|written| written.publish(&shared))
            .map_err(|error| self.failed(&error))?;
        self.backoff.reset();
        Ok(())
    }

    fn ensure_topics(&mut self, request: &EnsureTopics) -> Result<(), LogError> {
        let shared = Arc::clone(&self.shared);
        let missing = catalog::missing(&shared, &request.topics)?;
        if missing.is_empty() {
            return Ok(());
        }
        self.check_writable(0, shared.config.disk_free_min.as_u64())?;
        let guard = shared.store.read();
        let store = guard.as_ref().ok_or_else(closed)?;
        let mut batch = store.batch();
        for (name, row) in &missing {
            batch.insert(
                &store.meta,
                rows::topic_key(name),
                catalog::encode_topic(row)?,
            );
        }
        let written = batch.commit();
        drop(guard);
        written.map_err(|error| self.failed(&error))?;
        catalog::apply_topics(&shared, missing);
        Ok(())
    }

    fn clean(&mut self, clean: &mut Clean) -> Result<(), LogError> {
        let inserted: u64 = clean
            .insert
            .iter()
            .map(|(_, batch)| batch.stored_bytes())
            .sum();
        let min = self.shared.config.disk_free_min.as_u64();
        self.check_writable(inserted, min / CLEANING_SHARE)?;
        let shared = Arc::clone(&self.shared);
        let guard = shared.store.read();
        let store = guard.as_ref().ok_or_else(closed)?;

        let topic = &clean.topic;
        let key = |offset| rows::record_key(topic.id, clean.partition, offset);
        let mut batch = store.batch();
        for offset in &clean.remove {
            // If one batch both removes and inserts a key, the store may keep either
            // change.
            if !clean.insert.iter().any(|(inserted, _)| inserted == offset) {
                batch.remove(&store.records, key(*offset));
            }
        }
        for (offset, encoded) in clean.insert.drain(..) {
            batch.insert(&store.records, key(offset), encoded.value);
        }
        let before = topic.row(clean.partition);
        let (cleaned, no_longer_dirty) = clean.cleaned.unwrap_or((before.cleaned, 0));
        let row = PartitionRow {
            start: clean.start.unwrap_or(before.start),
            end: before.end,
            bytes: before.bytes.saturating_sub(clean.removed_bytes) + inserted,
            cleaned,
            dirty_bytes: before.dirty_bytes.saturating_sub(no_longer_dirty),
        };
        let row_key = rows::partition_key(topic.id, clean.partition);
        batch.insert(&store.meta, row_key, row.to_bytes());
        let written = batch.commit();
        drop(guard);
        written.map_err(|error| self.failed(&error))?;
        topic.set_row(clean.partition, row);
        Ok(())
    }

    /// Whether a write of `bytes` may be tried, for which at least `free_min` bytes must
    /// be free.
    pub(super) fn check_writable(&mut self, bytes: u64, free_min: u64) -> Result<(), LogError> {
        if let Some(trouble) = &self.trouble
            && (trouble.broken || free_min >= self.shared.config.disk_free_min.as_u64())
        {
            return Err(trouble.error.clone());
        }
        let free = self.disk.free_bytes(bytes);
        if free < free_min {
            let error = self.full(free);
            self.set_trouble(error.clone(), false);
            return Err(error);
        }
        let guard = self.shared.store.read();
        let writable = guard.as_ref().ok_or_else(closed)?.wait_until_writable();
        drop(guard);
        writable.map_err(|error| self.failed(&error))
    }

    fn full(&self, free_bytes: u64) -> LogError {
        LogError::Full {
            free_bytes,
            needed_bytes: self.shared.config.disk_free_min.as_u64(),
        }
    }

    /// Notes that the store failed to write, and returns the log's error for that.
    pub(super) fn failed(&mut self, error: &fjall::Error) -> LogError {
        let error = store::write_error(&self.shared.db_path(), &self.shared.config, error);
        tracing::error!(code = error.code(), %error, "the record log cannot be written");
        self.set_trouble(error.clone(), true);
        error
    }

    fn set_trouble(&mut self, error: LogError, broken: bool) {
        if !broken {
            tracing::warn!(code = error.code(), %error, "the record log takes no records");
        }
        self.retry_later(error, broken);
    }

    /// Notes when to check again whether writing is possible.
    fn retry_later(&mut self, error: LogError, broken: bool) {
        let wait = if broken {
            self.backoff.next_wait()
        } else {
            BACKOFF_MIN
        };
        self.shared.set_trouble(Some(error.clone()));
        self.trouble = Some(Trouble {
            error,
            broken,
            retry_at: Instant::now() + wait,
        });
    }

    /// Checks whether writing is possible again, and opens the store anew if needed.
    fn mend(&mut self) {
        let Some(trouble) = self.trouble.take() else {
            return;
        };
        let free = self.disk.free_bytes(0);
        let mended = if free < self.shared.config.disk_free_min.as_u64() {
            Err(self.full(free))
        } else if trouble.broken {
            self.reopen()
        } else {
            Ok(())
        };
        if let Err(error) = mended {
            // The writer logs each reason once, not at each attempt.
            if error.code() != trouble.error.code() {
                tracing::error!(code = error.code(), %error, "the record log cannot be written");
            }
            self.retry_later(error, trouble.broken);
        } else {
            tracing::info!("the record log takes records again");
            self.shared.set_trouble(None);
        }
    }

    fn reopen(&self) -> Result<(), LogError> {
        let shared = &self.shared;
        let mut guard = shared.store.write();
        // The old store must be gone before the new one is opened: when it is dropped,
        // it may still write what is left in its journal's buffer.
        drop(guard.take());
        let store = Store::open(&shared.path, &shared.config)?;
        let found = catalog::load(&store)?;
        *guard = Some(store);
        drop(guard);
        catalog::apply(shared, found);
        Ok(())
    }
}
