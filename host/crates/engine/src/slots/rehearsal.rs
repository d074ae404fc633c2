//! The rehearsal of a swap: copies of the checkpoints a plugin would take over
//! are opened in it and checkpointed again, before anything live is touched.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use courtside_log::{Checkpoints, LogError};
use courtside_plugin_host::{Instance, OpenError, Plugin, Rejection, SavedState};
use courtside_types::{Digest, Key, PartitionId, slot_name::SlotName};

use crate::worker::{
    envelope::Envelope,
    takeover::rows::{self, Before},
};

const PAGE: usize = 256;

/// The inputs of a rehearsal.
pub struct Rehearsal<'a> {
    pub candidate: &'a Arc<dyn Plugin>,
    /// The plugin whose entities the candidate would take over.
    pub current: Option<&'a Arc<dyn Plugin>>,
    pub slot: &'a SlotName,
    /// Slots of single keys, whose entities the default slot does not get.
    pub others: &'a [SlotName],
    pub checkpoints: &'a dyn Checkpoints,
    pub partitions: &'a [PartitionId],
    pub entities_per_instance: usize,
    /// How many entities are opened at most, with an equal share for each partition.
    /// The formats of all entities are checked.
    pub entities_max: usize,
    /// Set when the host stops.
    pub stopping: &'a AtomicBool,
}

/// A rehearsal without a failure.
#[derive(Debug)]
pub struct Passed {
    /// Number of entities that were opened.
    pub entities: usize,
    /// Number of entities whose formats were checked: all that the candidate would take
    /// over.
    pub of: usize,
    /// The plugins that the checkpoints name, where all of them were looked at.
    pub named: Option<BTreeSet<Digest>>,
}

/// The outcome of a rehearsal.
#[derive(Debug)]
pub enum RehearsalOutcome {
    Passed(Passed),
    Rejected(Rejection),
}

impl Rehearsal<'_> {
    pub fn run(&self) -> Result<RehearsalOutcome, LogError> {
        let mut stage = Stage::new(self.candidate, self.entities_per_instance);
        let (mut entities, mut of) = (0, 0);
        let mut named = BTreeSet::new();
        let part_max = self.entities_max.div_ceil(self.partitions.len().max(1));
        for partition in self.partitions {
            let mut tried = 0;
            let mut after: Option<Key> = None;
            'pages: loop {
                let page = match self.slot {
                    SlotName::Key(key) if after.is_none() => self
                        .checkpoints
                        .get(*partition, key)?
                        .map(|bytes| (key.clone(), bytes))
                        .into_iter()
                        .collect(),
                    SlotName::Key(_) => Vec::new(),
                    _ => self.checkpoints.scan(*partition, after.as_deref(), PAGE)?,
                };
                let Some((last, _)) = page.last() else {
                    break;
                };
                after = Some(last.clone());
                for (key, bytes) in page {
                    if self.stopping.load(Ordering::Relaxed) {
                        return Err(LogError::Unavailable {
                            reason: "the host stops".to_owned(),
                        });
                    }
                    if rows::is_reserved(&key) {
                        // This row and all that follow are the host's own.
                        break 'pages;
                    }
                    named.extend(digest_of(&key, &bytes));
                    if !self.takes_over(&key) {
                        continue;
                    }
                    // Damaged checkpoints and halted entities are not for the
                    // candidate to answer for.
                    let Ok(envelope) = Envelope::decode(&bytes) else {
                        continue;
                    };
                    let (None, Some(saved)) = (envelope.halted, envelope.saved) else {
                        continue;
                    };
                    of += 1;
                    let outcome = if tried < part_max {
                        tried += 1;
                        stage.try_out(&key, &saved)
                    } else {
                        stage.check_format(&key, &saved)
                    };
                    match outcome {
                        Err(rejection) if self.current_can(&key, &saved) => {
                            return Ok(RehearsalOutcome::Rejected(rejection));
                        }
                        _ => {}
                    }
                }
            }
            entities += tried;
        }
        let named = (*self.slot == SlotName::Default).then_some(named);
        Ok(RehearsalOutcome::Passed(Passed {
            entities,
            of,
            named,
        }))
    }

    fn takes_over(&self, key: &[u8]) -> bool {
        self.slot.covers(key)
            && (*self.slot != SlotName::Default
                || !self.others.iter().any(|other| other.covers(key)))
    }

    fn current_can(&self, key: &[u8], saved: &SavedState) -> bool {
        self.current
            .is_none_or(|current| Stage::new(current, 1).try_out(key, saved).is_ok())
    }
}

/// The plugin that a checkpoint names, or an entity's state from before a trial.
pub fn digest_of(key: &Key, bytes: &Bytes) -> Option<Digest> {
    let envelope = if !rows::is_reserved(key) {
        Envelope::decode(bytes).ok()?
    } else if rows::before_of(key).is_some() {
        let before = Before::decode(bytes).ok()?;
        Envelope::decode(&before.envelope?).ok()?
    } else {
        return None;
    };
    Some(envelope.digest)
}

/// A plugin with an instance that is renewed when it fails or is worn out.
struct Stage<'a> {
    plugin: &'a Arc<dyn Plugin>,
    instance: Option<Box<dyn Instance>>,
    opened: usize,
    opened_max: usize,
}

impl<'a> Stage<'a> {
    fn new(plugin: &'a Arc<dyn Plugin>, opened_max: usize) -> Self {
        Self {
            plugin,
            instance: None,
            opened: 0,
            opened_max,
        }
    }

    fn check_format(&self, key: &[u8], saved: &SavedState) -> Result<(), Rejection> {
        let description = self.plugin.description();
        if description.reads.contains(&saved.format) {
            return Ok(());
        }
        Err(Rejection {
            code: "plugin-cannot-read",
            message: format!(
                "entity {} has a checkpoint in format {}, the plugin reads {}",
                String::from_utf8_lossy(key),
                saved.format,
                description.reads.join(", "),
            ),
        })
    }

    fn try_out(&mut self, key: &[u8], saved: &SavedState) -> Result<(), Rejection> {
        self.check_format(key, saved)?;
        let result = self.open_and_save(&String::from_utf8_lossy(key), saved);
        if result.is_err() || self.opened >= self.opened_max {
            self.instance = None;
            self.opened = 0;
        }
        result
    }

    fn open_and_save(&mut self, name: &str, saved: &SavedState) -> Result<(), Rejection> {
        let failed = |during: &str, error: String| Rejection {
            code: "plugin-rehearsal-failed",
            message: format!("entity {name}: {during}: {error}"),
        };
        if self.instance.is_none() {
            let made = self.plugin.instantiate();
            self.instance = Some(made.map_err(|error| failed("instantiate", error.to_string()))?);
        }
        let Some(instance) = &mut self.instance else {
            return Ok(());
        };
        self.opened += 1;
        let entity = instance
            .open(name, Some(saved))
            .map_err(|error| match error {
                OpenError::Refused(reason) => failed("open", reason),
                OpenError::Failed(failure) => failed("open", failure.to_string()),
            })?;
        instance
            .checkpoint(entity)
            .map_err(|error| failed("checkpoint", error.to_string()))?;
        instance.close(entity);
        Ok(())
    }
}
