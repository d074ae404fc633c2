//! Letters that are redriven next, in the order of their events.

use std::collections::BTreeMap;

use courtside_types::{Key, Offset, PartitionId};

use super::{Job, selects};
use crate::dead_letters::{error::DeadLettersError, event::Letter, view::Selection};

/// Bytes of letters that are held at a time.
pub(super) const BATCH_BYTES_MAX: usize = if cfg!(test) { 4 << 10 } else { 32 << 20 };

/// The order in which letters go: by key, then by the offset at which the event
/// first came.
pub(super) type LetterOrder = (Key, Offset, Offset);

/// Letters to redrive next.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) letters: BTreeMap<LetterOrder, Letter>,
    /// The first letter that does not fit; the letters after it are left, too. Its key
    /// may also be the last key of this batch.
    pub(super) rest: Option<LetterOrder>,
    bytes: usize,
}

impl Batch {
    /// A batch after which no letters are left.
    pub(super) fn whole(letters: BTreeMap<LetterOrder, Letter>) -> Self {
        Self {
            letters,
            ..Self::default()
        }
    }

    fn add(&mut self, order: LetterOrder, letter: Letter) {
        self.bytes += letter.record.size();
        self.letters.insert(order, letter.detached());
        while self.bytes > BATCH_BYTES_MAX
            && self.letters.len() > 1
            && let Some((order, last)) = self.letters.pop_last()
        {
            self.bytes -= last.record.size();
            self.rest = Some(order);
        }
    }
}

impl Job<'_> {
    /// The next batch: the first open letters below `end`, in their order, after
    /// `after`.
    pub(super) fn collect(
        &self,
        partition: PartitionId,
        end: Offset,
        after: Option<LetterOrder>,
    ) -> Result<Batch, DeadLettersError> {
        let dead_letters = self.dead_letters;
        let (first, end) = self.range(partition, end)?;
        let mut batch = Batch::default();
        let mut unfit: BTreeMap<String, u64> = BTreeMap::new();
        let is_first = after.is_none();
        dead_letters.each(partition, first, end, |letter| {
            let at = letter.record.offset;
            let is_open = {
                let notes = dead_letters.notes.lock();
                !notes.is_redriven(partition, at) && !notes.is_void(partition, at)
            };
            if !is_open || !selects(self.selection, &letter) {
                return true;
            }
            let key = match letter.key(&dead_letters.pipeline) {
                Ok(key) => Key::copy_from_slice(key),
                Err(why) => {
                    if is_first {
                        *unfit.entry(why.code().to_owned()).or_default() += 1;
                    }
                    return true;
                }
            };
            let order = (key, letter.order(), at);
            let is_before = after.as_ref().is_some_and(|after| order <= *after);
            let is_after = batch.rest.as_ref().is_some_and(|rest| order >= *rest);
            if self.failed.contains(&order.0) || is_before || is_after {
                return true;
            }
            batch.add(order, letter);
            !dead_letters.is_stopped()
        })?;
        if dead_letters.is_stopped() {
            return Err(DeadLettersError::Interrupted);
        }
        self.note(|progress| {
            for (code, count) in unfit {
                *progress.unfit.entry(code).or_default() += count;
            }
        });
        Ok(batch)
    }

    /// The offsets between which the redrive's letters are.
    fn range(
        &self,
        partition: PartitionId,
        end: Offset,
    ) -> Result<(Offset, Offset), DeadLettersError> {
        let dead_letters = self.dead_letters;
        let bounds = dead_letters
            .log
            .bounds(&dead_letters.pipeline.dead_letter)?;
        let start = bounds.get(partition.0 as usize).map(|held| held.start);
        let first = dead_letters
            .notes
            .lock()
            .first_open(partition, start.unwrap_or_default());
        Ok(match self.selection {
            Selection::One { offset, .. } => {
                (first.max(Offset(*offset)), end.min(Offset(*offset).next()))
            }
            Selection::All | Selection::Key(_) => (first, end),
        })
    }
}
