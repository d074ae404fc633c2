//! A plugin that writes events into a book, and misbehaves as the events say.

use super::*;

/// A plugin that writes down the events of a key. A bad one refuses events that say
/// `no`, traps at events that say `trap`, and can give no checkpoint after one that
/// says `halt`.
pub(super) struct Book {
    is_bad: bool,
    description: Description,
}

impl Book {
    pub(super) fn new(is_bad: bool) -> Arc<Self> {
        Arc::new(Self {
            is_bad,
            description: Description {
                name: "book".into(),
                version: "1.0.0".into(),
                writes: "book/1".into(),
                reads: vec!["book/1".into()],
            },
        })
    }
}

impl Plugin for Book {
    fn digest(&self) -> Digest {
        Digest::of(&[u8::from(self.is_bad)])
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn instantiate(&self) -> Result<Box<dyn Instance>, Failure> {
        Ok(Box::new(BookInstance {
            is_bad: self.is_bad,
            pages: BTreeMap::new(),
            next: 0,
        }))
    }
}

struct BookInstance {
    is_bad: bool,
    pages: BTreeMap<u32, String>,
    next: u32,
}

fn trap<T>() -> Result<T, Failure> {
    Err(Failure {
        kind: FailureKind::Trap,
        message: "told to".into(),
    })
}

impl Instance for BookInstance {
    fn open(&mut self, _: &str, saved: Option<&SavedState>) -> Result<EntityId, OpenError> {
        self.next += 1;
        let page = saved.map_or_else(String::new, |saved| {
            String::from_utf8(saved.state.to_vec()).unwrap()
        });
        self.pages.insert(self.next, page);
        Ok(EntityId(self.next))
    }

    fn process(&mut self, entity: EntityId, events: &[Event<'_>]) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::default();
        for (index, event) in events.iter().enumerate() {
            let value = std::str::from_utf8(event.record.value.as_ref().unwrap()).unwrap();
            if self.is_bad && value.contains("trap") {
                return trap();
            }
            if self.is_bad && value.contains("no") {
                outcome.refused = Some(Refusal {
                    index,
                    reason: "told to".into(),
                });
                return Ok(outcome);
            }
            let page = self.pages.get_mut(&entity.0).unwrap();
            page.push_str(value);
            page.push(' ');
        }
        Ok(outcome)
    }

    fn checkpoint(&mut self, entity: EntityId) -> Result<Option<SavedState>, Failure> {
        let page = &self.pages[&entity.0];
        if self.is_bad && page.contains("halt") {
            return trap();
        }
        Ok(Some(SavedState {
            format: "book/1".into(),
            state: page.clone().into(),
        }))
    }

    fn close(&mut self, entity: EntityId) {
        self.pages.remove(&entity.0);
    }
}
