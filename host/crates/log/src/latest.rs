//! The latest record of each key, for readers that need no earlier one.

use courtside_types::{Offset, Record};
use rustc_hash::{FxBuildHasher, FxHashSet};

/// The latest record of each key in a stretch of a partition. Records without a key are
/// left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatestRecords {
    /// In the order of their offsets.
    pub records: Vec<Record>,
    /// The offset after the stretch.
    pub next: Offset,
    /// Number of records in the stretch.
    pub read: usize,
}

impl LatestRecords {
    /// The latest of these records. No record is before `end` where there are none.
    #[must_use]
    pub fn of(mut records: Vec<Record>, end: Offset) -> Self {
        let (read, last) = (records.len(), records.last());
        let next = last.map_or(end, |record| record.offset.next());
        let mut keep = are_latest(records.iter().map(|record| record.key.as_deref())).into_iter();
        records.retain(|_| keep.next().unwrap_or_default());
        Self {
            records,
            next,
            read,
        }
    }
}

/// Tells of each key whether it is there and does not come again.
pub(crate) fn are_latest<'a>(
    keys: impl DoubleEndedIterator<Item = Option<&'a [u8]>> + ExactSizeIterator,
) -> Vec<bool> {
    let mut seen = FxHashSet::with_capacity_and_hasher(keys.len(), FxBuildHasher);
    let latest = keys
        .rev()
        .map(|key| key.is_some_and(|key| seen.insert(key)));
    let mut latest: Vec<bool> = latest.collect();
    latest.reverse();
    latest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_latest_where_it_does_not_come_again() {
        let keys = [Some("a"), None, Some("b"), Some("a"), Some("")];
        let keys = keys.iter().map(|key| key.map(str::as_bytes));
        assert_eq!(are_latest(keys), [false, false, true, true, true]);
    }
}
