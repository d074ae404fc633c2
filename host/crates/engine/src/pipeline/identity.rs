//! The topics that a group's offsets and checkpoints mean.
//!
//! A topic that was deleted and made anew has the same name, and other records
//! under the same offsets. So the host notes the ids of a pipeline's topics when
//! it starts, and each commit names them. A worker compares the ids before it begins
//! with a partition, and while it has no events.

use std::time::{Duration, Instant};

use courtside_log::{LogError, RecordLog};
use courtside_types::{Header, Record, TOPIC_HEADER, Topic, TopicId};

/// A broker may not have heard yet of a topic that another one has just made.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
const HEARD_RETRY: Duration = Duration::from_millis(50);

/// The ids of a pipeline's topics when its host started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub input: Option<(Topic, TopicId)>,
    /// None where the engine keeps checkpoints in no topic.
    pub checkpoints: Option<(Topic, TopicId)>,
}

impl Identity {
    /// Reads the ids as of now. The topics must exist.
    pub fn of(log: &dyn RecordLog, group: &str, input: &Topic) -> Result<Self, LogError> {
        let deadline = Instant::now() + HEARD_WITHIN;
        loop {
            match Self::of_now(log, group, input) {
                Err(LogError::TopicMissing { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(HEARD_RETRY);
                }
                found => return found,
            }
        }
    }

    fn of_now(log: &dyn RecordLog, group: &str, input: &Topic) -> Result<Self, LogError> {
        let checkpoints = log.checkpoints_topic(group).map(|spec| spec.name);
        let named: Vec<Topic> = std::iter::once(input.clone()).chain(checkpoints).collect();
        let ids = log.topic_ids(&named)?;
        let mut found = named.into_iter().zip(ids).map(|(topic, id)| match id {
            Some(id) => Ok((topic, id)),
            None => Err(LogError::TopicMissing {
                topic,
                why: "the log does not know it".to_owned(),
            }),
        });
        Ok(Self {
            input: found.next().transpose()?,
            checkpoints: found.next().transpose()?,
        })
    }

    /// The topics with their ids.
    #[must_use]
    pub fn topics(&self) -> Vec<(Topic, TopicId)> {
        self.input
            .iter()
            .chain(&self.checkpoints)
            .cloned()
            .collect()
    }

    /// The header that the host adds to a record of its input that has other
    /// headers of the host.
    #[must_use]
    pub fn mark(&self) -> Header {
        let (topic, id) = self.input.as_ref().map_or_else(
            || (Topic::default(), TopicId::NONE),
            |(topic, id)| (topic.clone(), *id),
        );
        Header::new(TOPIC_HEADER, format!("{topic}/{id}"))
    }

    /// Whether the host wrote this record (or the event in this letter) to this
    /// very input. Only then are its other headers the host's word, because other
    /// programs copy headers from topic to topic.
    #[must_use]
    pub fn wrote(&self, record: &Record) -> bool {
        let said = record.header(TOPIC_HEADER);
        let said = said.and_then(|said| std::str::from_utf8(said).ok()?.rsplit_once('/'));
        said.is_some_and(|(topic, id)| {
            let own = self.input.as_ref().map_or("", |(topic, _)| topic);
            topic == own && id.parse::<TopicId>() == Ok(self.input_id())
        })
    }

    #[must_use]
    pub fn input_id(&self) -> TopicId {
        id(self.input.as_ref())
    }

    #[must_use]
    pub fn checkpoints_id(&self) -> TopicId {
        id(self.checkpoints.as_ref())
    }
}

fn id(topic: Option<&(Topic, TopicId)>) -> TopicId {
    topic.map_or(TopicId::NONE, |(_, id)| *id)
}
