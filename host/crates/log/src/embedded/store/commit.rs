//! Commits: numbered batches of the store.
//!
//! Each commit leaves a [`CommitRow`] in every keyspace that it touches, in the
//! same atomic batch. The row names the commit and the one before it that
//! touched the keyspace, so a reader of the journal and of the tables sees
//! whether anything between them is missing ([check](super::check)).

use super::{
    database::SPACES,
    mark::{Mark, PartitionKey},
};
use crate::embedded::rows;

/// The key of a commit's row in each keyspace. No other row has this key: records' keys
/// are longer, those of `meta` begin with a letter, and those of checkpoints with the
/// length of a group's name, which is never empty.
pub(in super::super) const COMMIT_KEY: &[u8] = &[0];

/// A commit's own row in each keyspace that it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommitRow {
    /// The identity of the store.
    pub store: u64,
    /// Commits are numbered without gaps.
    pub number: u64,
    /// The commit before this one that touched the keyspace, 0 for none.
    pub previous: u64,
    /// The database's sequence number of the commit is not below this.
    pub seqno_min: u64,
    /// The synced mark had at least this number when the commit was written.
    pub marked: u64,
    /// Bytes of all commits up to this one.
    pub bytes: u64,
    /// The last commit of each keyspace, this one included. By these numbers the check
    /// detects keyspaces that were copied at different moments.
    pub last: [u64; SPACES],
}

impl CommitRow {
    pub fn to_bytes(self) -> Vec<u8> {
        [
            self.store,
            self.number,
            self.previous,
            self.seqno_min,
            self.marked,
            self.bytes,
        ]
        .iter()
        .chain(&self.last)
        .flat_map(|number| number.to_le_bytes())
        .collect()
    }

    pub fn parse(value: &[u8]) -> Option<Self> {
        let [store, number, previous, seqno_min, marked, bytes, last @ ..] =
            rows::parse_numbers::<{ 6 + SPACES }>(value)?;
        Some(Self {
            store,
            number,
            previous,
            seqno_min,
            marked,
            bytes,
            last,
        })
    }
}

/// The changes of a commit to the [`Mark`].
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub touched: [bool; SPACES],
    pub bytes: u64,
    /// `None` for a partition that is deleted.
    pub ends: Vec<(PartitionKey, Option<u64>)>,
}

impl Mark {
    /// The rows of the commit that follows this mark, by keyspace.
    pub(super) fn next_rows(
        &self,
        changes: &Changes,
        seqno_min: u64,
        marked: u64,
    ) -> [Option<CommitRow>; SPACES] {
        let number = self.number() + 1;
        let mut last = self.last;
        for (last, touched) in last.iter_mut().zip(changes.touched) {
            *last = if touched { number } else { *last };
        }
        let mut rows = [None; SPACES];
        let spaces = rows.iter_mut().zip(self.last).zip(changes.touched);
        for ((row, previous), touched) in spaces {
            *row = touched.then_some(CommitRow {
                store: self.store,
                number,
                previous,
                seqno_min,
                marked,
                bytes: self.bytes + changes.bytes,
                last,
            });
        }
        rows
    }

    /// Moves the mark on to the commit that has these rows.
    pub(super) fn advance(&mut self, rows: &[Option<CommitRow>; SPACES], changes: Changes) {
        for (last, row) in self.last.iter_mut().zip(rows) {
            if let Some(row) = row {
                *last = row.number;
                self.bytes = row.bytes;
            }
        }
        for (place, end) in changes.ends {
            match end {
                Some(end) => self.ends.insert(place, end),
                None => self.ends.remove(&place),
            };
        }
    }
}
