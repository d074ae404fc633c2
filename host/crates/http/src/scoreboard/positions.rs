//! How far a reader has read: the id of a server-sent event.
//!
//! An id is a list of `PARTITION:OFFSET`, joined by commas. An entry says that the
//! reader got every game of that partition whose latest output stands at this
//! offset or before. The reader has not begun a partition without an entry.
//!
//! An id says which updates were delivered, whichever host delivered them. Each
//! partition's updates are delivered in the order of offsets. So a host that is behind
//! the reader's last host skips the updates that the id covers, and no reader sees a
//! game go back.

use std::{collections::BTreeMap, fmt, str::FromStr};

use courtside_types::{Offset, PartitionId};

/// The last offset that a reader has read in each partition it has begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<PartitionId, Offset>);

/// More partitions than a topic may sensibly have. The bound keeps an id cheap, also
/// one that somebody made up.
const PARTITIONS_MAX: usize = 10_000;

/// The text is not in the form of [`Positions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("positions must be PARTITION:OFFSET, joined by commas")]
pub struct InvalidPositions;

impl Positions {
    #[must_use]
    pub fn get(&self, partition: PartitionId) -> Option<Offset> {
        self.0.get(&partition).copied()
    }

    /// Whether the reader has read the record at this offset.
    #[must_use]
    pub fn cover(&self, partition: PartitionId, offset: Offset) -> bool {
        self.get(partition).is_some_and(|read| offset <= read)
    }

    pub fn advance(&mut self, partition: PartitionId, offset: Offset) {
        let read = self.0.entry(partition).or_insert(offset);
        *read = offset.max(*read);
    }

    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, Offset)> {
        self.0
            .iter()
            .map(|(partition, offset)| (*partition, *offset))
    }

    pub fn retain(&mut self, mut keep: impl FnMut(PartitionId, Offset) -> bool) {
        self.0.retain(|partition, offset| keep(*partition, *offset));
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (partition, offset)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{partition}:{offset}")?;
        }
        Ok(())
    }
}

impl FromStr for Positions {
    type Err = InvalidPositions;

    fn from_str(text: &str) -> Result<Self, InvalidPositions> {
        let mut positions = BTreeMap::new();
        for part in text.split(',').take(PARTITIONS_MAX.saturating_add(1)) {
            let (partition, offset) = parse_position(part).ok_or(InvalidPositions)?;
            if positions.insert(partition, offset).is_some() {
                return Err(InvalidPositions);
            }
        }
        if positions.len() > PARTITIONS_MAX {
            return Err(InvalidPositions);
        }
        Ok(Self(positions))
    }
}

/// Reads one `PARTITION:OFFSET`.
#[must_use]
pub fn parse_position(text: &str) -> Option<(PartitionId, Offset)> {
    let (partition, offset) = text.split_once(':')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(partition) || !is_number(offset) {
        return None;
    }
    Some((
        PartitionId(partition.parse().ok()?),
        Offset(offset.parse().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["0:0", "0:12,3:18446744073709551615"] {
            assert_eq!(text.parse::<Positions>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            ",",
            "0",
            "0:",
            ":1",
            "0:1,",
            "0:1,0:2",
            "-1:0",
            "+1:0",
            "0:1:2",
            "a:b",
            "0: 1",
            "4294967296:0",
            "0:18446744073709551616",
        ] {
            assert!(text.parse::<Positions>().is_err(), "{text}");
        }
    }
}
