//! A plugin whose state shows which plugins made it, of which events, in which order.

use super::*;

/// A plugin that folds events into a number, each plugin in its own way. A bad plugin
/// also misbehaves.
pub(crate) struct Folding {
    digest: Digest,
    description: Description,
}

impl Folding {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            digest: Digest::of(name.as_bytes()),
            description: Description {
                name: name.into(),
                version: "1".into(),
                writes: "folding/1".into(),
                reads: vec!["folding/1".into()],
            },
        })
    }
}

impl Plugin for Folding {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn instantiate(&self) -> Result<Box<dyn Instance>, Failure> {
        Ok(Box::new(FoldingInstance {
            name: self.description.name.to_string(),
            entities: BTreeMap::new(),
            next: 0,
        }))
    }
}

/// The state that a plugin makes of a state and an event.
pub(crate) fn fold(state: u64, plugin: &str, value: &str, offset: Offset) -> u64 {
    let mixed = format!("{state}/{plugin}/{value}/{offset}");
    xxhash_rust::xxh3::xxh3_64(mixed.as_bytes())
}

struct FoldingInstance {
    name: String,
    /// The state, and what the next checkpoint does.
    entities: BTreeMap<u32, (u64, Option<&'static str>)>,
    next: u32,
}

impl FoldingInstance {
    fn failure() -> Failure {
        Failure {
            kind: FailureKind::Trap,
            message: "told to".into(),
        }
    }
}

impl Instance for FoldingInstance {
    fn open(&mut self, _: &str, saved: Option<&SavedState>) -> Result<EntityId, OpenError> {
        let state = saved.map_or(0, |saved| {
            u64::from_le_bytes(saved.state.as_ref().try_into().unwrap())
        });
        self.next += 1;
        self.entities.insert(self.next, (state, None));
        Ok(EntityId(self.next))
    }

    fn process(&mut self, entity: EntityId, events: &[Event<'_>]) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::default();
        let is_bad = self.name.starts_with("bad");
        for (index, event) in events.iter().enumerate() {
            let (state, then) = self.entities.get_mut(&entity.0).unwrap();
            let value = std::str::from_utf8(event.record.value.as_deref().unwrap()).unwrap();
            let refuse = |outcome: &mut Outcome| {
                outcome.refused = Some(Refusal {
                    index,
                    reason: self.name.clone(),
                });
            };
            match value {
                "refuse" => {
                    refuse(&mut outcome);
                    return Ok(outcome);
                }
                "bad-refuse" if is_bad => {
                    refuse(&mut outcome);
                    return Ok(outcome);
                }
                "trap" => return Err(Self::failure()),
                "bad-trap" if is_bad => return Err(Self::failure()),
                "bad-halt" if is_bad => *then = Some("trap"),
                "bad-forget" if is_bad => *then = Some("forget"),
                _ => *then = None,
            }
            *state = fold(*state, &self.name, value, event.record.offset);
            outcome.emissions.push(Emission {
                event: index,
                output: None,
                key: None,
                headers: Vec::new(),
                value: Some(format!("{}:{state}", self.name).into()),
            });
        }
        Ok(outcome)
    }

    fn checkpoint(&mut self, entity: EntityId) -> Result<Option<SavedState>, Failure> {
        match self.entities[&entity.0] {
            (_, Some("trap")) => Err(Self::failure()),
            (_, Some(_)) => Ok(None),
            (state, None) => Ok(Some(SavedState {
                format: "folding/1".into(),
                state: Bytes::copy_from_slice(&state.to_le_bytes()),
            })),
        }
    }

    fn close(&mut self, entity: EntityId) {
        self.entities.remove(&entity.0);
    }
}
