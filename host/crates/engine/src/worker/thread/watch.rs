//! The pipeline's topics in the log, beside those that the worker began with.

use std::sync::Arc;

use courtside_log::{LogError, RecordLog, check_id};
use courtside_types::{Topic, TopicId};

use crate::pipeline::identity::Identity;

type AskIds = Box<dyn Fn(&[Topic]) -> Result<Vec<Option<TopicId>>, LogError> + Send>;

/// Compares the pipeline's topics in the log with those that the worker began with.
pub(super) struct IdentityWatch {
    ask: AskIds,
    topics: Vec<(Topic, TopicId)>,
}

impl IdentityWatch {
    pub fn of_log(log: &Arc<dyn RecordLog>, identity: &Identity) -> Self {
        let log = Arc::clone(log);
        Self::new(Box::new(move |topics| log.topic_ids(topics)), identity)
    }

    pub fn new(ask: AskIds, identity: &Identity) -> Self {
        Self {
            ask,
            topics: identity.topics(),
        }
    }

    /// Returns an error when a topic is gone or was made anew.
    pub fn look(&self) -> Result<(), LogError> {
        if self.topics.is_empty() {
            return Ok(());
        }
        let names: Vec<Topic> = self.topics.iter().map(|(topic, _)| topic.clone()).collect();
        let found = (self.ask)(&names)?;
        let mut pairs = self.topics.iter().zip(found);
        pairs.try_for_each(|((topic, id), found)| check_id(topic, *id, found))
    }
}
