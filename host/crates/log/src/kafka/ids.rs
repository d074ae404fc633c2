//! The ids of topics, which show that a topic was deleted and made anew.
//!
//! The client adopts a new id without a word, and reads on at the old offset. So
//! a commit asks for the ids beside its transaction, and ends the transaction
//! only when they are the ones that it means. One thread asks for all workers that
//! wait, so a host has one request under way, however many workers commit. The
//! request of an answer began after its question came.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_types::{Topic, TopicId};
use crossbeam_channel::{Receiver, Sender};
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    context::PlainContext,
    errors::{closed, without},
    native,
};
use crate::{LogError, check_id, name::check_name};

/// How long one broker may take before another is asked.
const TRY: Duration = Duration::from_secs(1);
/// How long all brokers together may take: a worker that waits has other work.
const WITHIN: Duration = Duration::from_secs(5);

type Found = BTreeMap<Topic, TopicId>;
type Answer = Result<Arc<Found>, LogError>;

struct Question {
    topics: Vec<Topic>,
    answer: Sender<Answer>,
}

/// Asks for ids on a thread, which ends with this handle.
pub(super) struct Ids {
    questions: Sender<Question>,
}

/// A question whose answer is to come.
pub(super) struct IdRequest {
    topics: Vec<Topic>,
    answer: Receiver<Answer>,
}

impl Ids {
    pub fn start(client: Arc<BaseConsumer<PlainContext>>) -> Result<Self, LogError> {
        // Each caller waits for its answer, so there are only a few questions.
        let (questions, inbox) = crossbeam_channel::unbounded();
        std::thread::Builder::new()
            .name("log-ids".to_owned())
            .spawn(move || answer_all(&client, &inbox))
            .map_err(|error| LogError::Unavailable {
                reason: format!("a thread of the log did not start: {error}"),
            })?;
        Ok(Self { questions })
    }

    /// Begins to ask for the ids of topics. An impossible name has none.
    pub fn ask(&self, topics: Vec<Topic>) -> IdRequest {
        let (answer, answered) = crossbeam_channel::bounded(1);
        let question = Question {
            topics: topics.clone(),
            answer,
        };
        // A thread that has ended answers nothing, which the caller sees.
        drop(self.questions.send(question));
        IdRequest {
            topics,
            answer: answered,
        }
    }
}

impl IdRequest {
    /// The ids, in the order of the topics; none of a topic that is not there.
    pub fn wait(self) -> Result<Vec<Option<TopicId>>, LogError> {
        let found = self.found(Instant::now() + WITHIN)?;
        let ids = self.topics.iter().map(|topic| found.get(topic).copied());
        Ok(ids.collect())
    }

    /// Fails where one of these topics has another id, or where a topic that was
    /// asked for is not there.
    pub fn check(&self, expected: &[(Topic, TopicId)], deadline: Instant) -> Result<(), LogError> {
        let found = self.found(deadline)?;
        for (topic, id) in expected {
            check_id(topic, *id, found.get(topic).copied())?;
        }
        let mut asked = self.topics.iter();
        match asked.find(|topic| !found.contains_key(*topic)) {
            None => Ok(()),
            Some(topic) => Err(LogError::TopicMissing {
                topic: topic.clone(),
                why: "a commit writes to it".to_owned(),
            }),
        }
    }

    fn found(&self, deadline: Instant) -> Answer {
        match self.answer.recv_deadline(deadline) {
            Ok(answer) => answer,
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => Err(closed()),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => Err(LogError::Unavailable {
                reason: "the brokers did not tell the ids of topics in time".to_owned(),
            }),
        }
    }
}

fn answer_all(client: &BaseConsumer<PlainContext>, inbox: &Receiver<Question>) {
    while let Ok(first) = inbox.recv() {
        let mut questions = vec![first];
        questions.extend(inbox.try_iter());
        let topics: BTreeSet<&str> = questions
            .iter()
            .flat_map(|question| &question.topics)
            .map(|topic| &**topic)
            // The client would refuse the whole request for one impossible name.
            .filter(|topic| check_name(topic).is_ok())
            .collect();
        let topics: Vec<_> = topics.into_iter().collect();
        let answer = look(client, &topics).map(Arc::new);
        for question in &questions {
            // A caller that has waited long enough does not take the answer.
            drop(question.answer.send(answer.clone()));
        }
    }
}

fn look(client: &BaseConsumer<PlainContext>, topics: &[&str]) -> Result<Found, LogError> {
    if topics.is_empty() {
        return Ok(Found::new());
    }
    let deadline = Instant::now() + WITHIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match native::topics(client.client(), topics, left.min(TRY)) {
            Ok(described) => return found(described),
            Err(error) => error,
        };
        if left.is_zero() {
            let error = KafkaError::MetadataFetch(error);
            return Err(without(|| "Describe on the topics".to_owned(), error));
        }
        // The client asks the same broker until it hears of another one, of which any
        // broker may tell.
        if let Err(error) = client.fetch_metadata(topics.first().copied(), left.min(TRY)) {
            tracing::debug!(%error, "metadata of the brokers cannot be fetched");
        }
    }
}

fn found(described: Vec<native::DescribedTopic>) -> Result<Found, LogError> {
    use RDKafkaErrorCode::{LeaderNotAvailable, UnknownTopic, UnknownTopicOrPartition};
    let mut found = Found::new();
    for (topic, id) in described {
        match id {
            Ok(id) => {
                found.insert(topic.into(), id);
            }
            Err(UnknownTopic | UnknownTopicOrPartition) => {}
            Err(LeaderNotAvailable) => {
                return Err(LogError::Unavailable {
                    reason: format!("topic {topic} has no leaders yet"),
                });
            }
            Err(error) => {
                let needs = || format!("Describe on topic {topic}");
                return Err(without(needs, KafkaError::MetadataFetch(error)));
            }
        }
    }
    Ok(found)
}
