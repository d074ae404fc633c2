//! Reads letters: one, or a page. A request reads a bounded amount, however few
//! letters pass its filter.

use courtside_log::Bounds;
use courtside_types::{Offset, PartitionId};

use super::{
    error::DeadLettersError,
    event::Letter,
    state::DeadLetters,
    view::{HeaderView, LetterDetails, LetterState, LetterView, LettersPage},
};

/// Most letters that a request looks at, and most bytes of them.
const LOOKED_MAX: usize = 10_000;
const LOOKED_BYTES_MAX: usize = 8 << 20;
const READ_BYTES: usize = 1 << 20;

/// The place where a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The page has the newest letters, newest first.
    Newest,
    /// The page begins with the oldest letter of the first partition.
    Oldest,
    /// The page begins after a letter, in its partition, and goes on with later
    /// partitions.
    After(PartitionId, Offset),
}

/// Conditions that the letters of a page meet.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub key: Option<String>,
    pub code: Option<String>,
    pub partition: Option<PartitionId>,
    pub state: Option<LetterState>,
}

impl Filter {
    fn takes(&self, view: &LetterView) -> bool {
        self.key
            .as_ref()
            .is_none_or(|key| view.key.as_ref() == Some(key))
            && self.code.as_ref().is_none_or(|code| view.code == *code)
            && self.state.is_none_or(|state| view.state == state)
    }
}

impl DeadLetters {
    /// A page of letters.
    pub fn page(
        &self,
        filter: &Filter,
        from: From,
        limit: usize,
    ) -> Result<LettersPage, DeadLettersError> {
        self.notes.lock().read(&*self.log)?;
        let bounds: Vec<(PartitionId, Bounds)> = (0..)
            .map(PartitionId)
            .zip(self.log.bounds(&self.pipeline.dead_letter)?)
            .filter(|(id, _)| filter.partition.is_none_or(|wanted| wanted == *id))
            .collect();
        let after = match from {
            From::Newest | From::Oldest => None,
            From::After(partition, offset) => Some((partition, offset)),
        };
        let (letters, next, complete) = if from == From::Newest {
            let (letters, complete) = self.newest(filter, &bounds, limit)?;
            (letters, None, complete)
        } else {
            let (letters, next) = self.onward(filter, &bounds, after, limit)?;
            (letters, next, next.is_none())
        };
        Ok(LettersPage {
            pipeline: self.pipeline.name.to_string(),
            topic: self.pipeline.dead_letter.to_string(),
            letters,
            next: next.map(|(partition, offset)| format!("{partition}:{offset}")),
            complete,
        })
    }

    /// A letter with its headers and value.
    pub fn show(
        &self,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<LetterDetails, DeadLettersError> {
        self.notes.lock().read(&*self.log)?;
        let letter = self.one(partition, offset)?;
        let view = LetterView::of(&letter, &self.pipeline, &self.notes.lock());
        let cut_bytes = letter.cut_bytes();
        let headers = letter.record.headers.iter().map(|header| HeaderView {
            name: header.name.to_string(),
            value: header
                .value
                .as_deref()
                .map(|value| String::from_utf8_lossy(value).into_owned()),
        });
        let headers = headers.collect();
        let value = letter.record.value.as_deref();
        let text = value.and_then(|value| std::str::from_utf8(value).ok());
        Ok(LetterDetails {
            letter: view,
            headers,
            value: text.map(ToOwned::to_owned),
            value_hex: value.filter(|_| text.is_none()).map(hex::encode),
            cut_bytes,
        })
    }

    pub(super) fn one(
        &self,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Letter, DeadLettersError> {
        let not_found = DeadLettersError::NotFound { partition, offset };
        let bounds = self.log.bounds(&self.pipeline.dead_letter)?;
        let held = bounds.get(partition.0 as usize);
        if held.is_none_or(|held| !(held.start..held.end).contains(&offset)) {
            return Err(not_found);
        }
        let found = self
            .log
            .read(&self.pipeline.dead_letter, partition, offset, 1)?;
        let first = found.into_iter().next();
        first
            .filter(|record| record.offset == offset)
            .map(|record| Letter::of(&self.pipeline.identity, partition, record))
            .ok_or(not_found)
    }

    /// Passes the letters of a partition from `from` up to `end` to `take`, until
    /// `take` returns false.
    pub(super) fn each(
        &self,
        partition: PartitionId,
        from: Offset,
        end: Offset,
        mut take: impl FnMut(Letter) -> bool,
    ) -> Result<(), DeadLettersError> {
        let mut next = from;
        while next < end {
            let records = self
                .log
                .read(&self.pipeline.dead_letter, partition, next, READ_BYTES)?;
            let Some(last) = records.last() else {
                return Ok(());
            };
            next = last.offset.next();
            for record in records {
                if record.offset >= end
                    || !take(Letter::of(&self.pipeline.identity, partition, record))
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The newest letters of all partitions, newest first, and whether there are
    /// no others.
    fn newest(
        &self,
        filter: &Filter,
        bounds: &[(PartitionId, Bounds)],
        limit: usize,
    ) -> Result<(Vec<LetterView>, bool), DeadLettersError> {
        let share = LOOKED_MAX / bounds.len().max(1);
        let bytes_max = LOOKED_BYTES_MAX / bounds.len().max(1);
        let mut found = Vec::new();
        let mut complete = true;
        for (partition, held) in bounds {
            // A partition can only be read forward. So each look starts further
            // back from the end, until one finds enough letters; only the last
            // look counts.
            let mut back = (limit as u64).saturating_mul(2);
            let mut of_partition = Vec::new();
            loop {
                let from = Offset(held.end.0.saturating_sub(back).max(held.start.0));
                of_partition.clear();
                let mut bytes = 0;
                self.each(*partition, from, held.end, |letter| {
                    bytes += letter.record.size();
                    let view = LetterView::of(&letter, &self.pipeline, &self.notes.lock());
                    if filter.takes(&view) {
                        of_partition.push(view);
                    }
                    true
                })?;
                let enough = of_partition.len() >= limit || from <= held.start;
                if enough || back >= share as u64 || bytes >= bytes_max {
                    complete &= from <= held.start;
                    break;
                }
                back = back.saturating_mul(4).min(share as u64);
            }
            let surplus = of_partition.len().saturating_sub(limit);
            complete &= surplus == 0;
            found.extend(of_partition.drain(surplus..));
        }
        found.sort_by_key(|view: &LetterView| {
            std::cmp::Reverse((view.dead_since_ms, view.partition, view.offset))
        });
        complete &= found.len() <= limit;
        found.truncate(limit);
        Ok((found, complete))
    }

    #[allow(clippy::type_complexity)]
    fn onward(
        &self,
        filter: &Filter,
        bounds: &[(PartitionId, Bounds)],
        after: Option<(PartitionId, Offset)>,
        limit: usize,
    ) -> Result<(Vec<LetterView>, Option<(PartitionId, Offset)>), DeadLettersError> {
        let mut found = Vec::new();
        let (mut looked, mut bytes) = (0, 0);
        let mut next = None;
        for (partition, held) in bounds {
            let from = match after {
                Some((first, _)) if *partition < first => continue,
                Some((first, offset)) if *partition == first => offset.next(),
                _ => held.start,
            };
            self.each(*partition, from.max(held.start), held.end, |letter| {
                looked += 1;
                bytes += letter.record.size();
                let view = LetterView::of(&letter, &self.pipeline, &self.notes.lock());
                let place = (*partition, letter.record.offset);
                if filter.takes(&view) {
                    found.push(view);
                }
                if found.len() >= limit || looked >= LOOKED_MAX || bytes >= LOOKED_BYTES_MAX {
                    next = Some(place);
                }
                next.is_none()
            })?;
            if next.is_some() {
                break;
            }
        }
        // No page comes after the very last letter.
        if let (Some((partition, offset)), Some((last, held))) = (next, bounds.last())
            && partition == *last
            && offset.next() >= held.end
        {
            next = None;
        }
        Ok((found, next))
    }
}
