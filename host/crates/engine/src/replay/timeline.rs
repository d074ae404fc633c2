//! The plugins that processed the events of an entity.
//!
//! Recorded takeovers name the plugin of every event from the first takeover on.
//! Published records name the plugin of the events that led to them. An event
//! that neither names went to the plugin of the event before it.

use std::collections::BTreeMap;

use courtside_types::{Digest, Offset};

use super::{entity::TakeoverView, recording::Recording};

/// A plugin, and the first offset that it processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub from: Offset,
    pub digest: Digest,
}

/// Stretches in the order of their offsets. Each ends where the next begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline(pub Vec<Stretch>);

impl Timeline {
    #[must_use]
    pub fn of(recording: &Recording) -> Self {
        let events = recording.events.iter().filter_map(|event| event.offset);
        let takeovers = Takeovers::of(&recording.at.takeovers);
        let mut published: BTreeMap<u64, (u32, Digest)> = BTreeMap::new();
        for found in recording
            .published
            .iter()
            .filter_map(super::line::Line::provenance)
        {
            if let Some(digest) = found.digest {
                let latest = published
                    .entry(found.offset.0)
                    .or_insert((found.attempt, digest));
                if latest.0 <= found.attempt {
                    *latest = (found.attempt, digest);
                }
            }
        }
        let known: Vec<(u64, Option<Digest>)> = events
            .map(|offset| {
                let taken = takeovers.at(offset);
                (
                    offset,
                    taken.or_else(|| published.get(&offset).map(|(_, digest)| *digest)),
                )
            })
            .collect();
        let mut stretches: Vec<Stretch> = Vec::new();
        // The first plugin that is known also got the events before.
        let mut current = known.iter().find_map(|(_, digest)| *digest);
        let checkpoint = recording.at.checkpoint.as_ref();
        current = current.or_else(|| checkpoint.and_then(|one| one.digest.parse().ok()));
        for (offset, digest) in known {
            let Some(digest) = digest.or(current) else {
                break;
            };
            current = Some(digest);
            if stretches.last().is_none_or(|last| last.digest != digest) {
                let from = Offset(offset);
                stretches.push(Stretch { from, digest });
            }
        }
        Self(stretches)
    }

    /// The plugin that processed the event at an offset.
    #[must_use]
    pub fn at(&self, offset: Offset) -> Option<Digest> {
        let before = self.0.iter().take_while(|stretch| stretch.from <= offset);
        before.last().map(|stretch| stretch.digest)
    }
}

impl Recording {
    /// The plugins that processed the events, in order.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        Timeline::of(self)
    }
}

/// Recorded takeovers of the two slots that an entity's events can go to.
struct Takeovers {
    own: Vec<(u64, Option<Digest>)>,
    default: Vec<(u64, Option<Digest>)>,
}

impl Takeovers {
    fn of(all: &[TakeoverView]) -> Self {
        let of_slot = |is_default: bool| {
            let mut taken: Vec<&TakeoverView> = all
                .iter()
                .filter(|takeover| (takeover.slot == "default") == is_default)
                .collect();
            taken.sort_by_key(|takeover| takeover.seq);
            let mut in_force: Vec<(u64, Option<Digest>)> = Vec::new();
            for takeover in taken {
                // A rollback takes over at the same offset as the takeover that
                // it undoes.
                in_force.retain(|(offset, _)| *offset < takeover.offset);
                let digest = takeover.digest.as_deref();
                in_force.push((
                    takeover.offset,
                    digest.and_then(|digest| digest.parse().ok()),
                ));
            }
            in_force
        };
        Self {
            own: of_slot(false),
            default: of_slot(true),
        }
    }

    fn at(&self, offset: u64) -> Option<Digest> {
        let last = |slot: &[(u64, Option<Digest>)]| {
            let before = slot.iter().take_while(|(from, _)| *from <= offset);
            before.last().and_then(|(_, digest)| *digest)
        };
        last(&self.own).or_else(|| last(&self.default))
    }
}
