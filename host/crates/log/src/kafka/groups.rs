//! Groups, as an operator asks for them.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_types::{Offset, PartitionId, Topic};
use parking_lot::Mutex;
use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    admin::AdminClient,
    client::Client as NativeClient,
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode,
};

use super::{
    config::{Isolation, KafkaConfig},
    context::PlainContext,
    convert::number,
    errors::unavailable,
    native::{self, DescribedGroup},
};
use crate::{GroupStatus, LogError, MemberStatus};

/// How long a caller waits for offsets that are being committed.
const STABLE_WAIT: Duration = Duration::from_millis(500);

type OffsetClient = Arc<BaseConsumer<PlainContext>>;
type GroupClient = Arc<AdminClient<PlainContext>>;

/// Shortest time that a client that asks about groups is kept. While a coordinator is
/// away, many callers may ask in vain, and must not each replace the client.
const CLIENT_TIME_MIN: Duration = Duration::from_secs(1);

/// Why a question about a group has no answer.
pub(super) enum GroupError {
    /// There is no client to ask with.
    NoClient(LogError),
    /// The brokers gave this code instead of an answer.
    Code(RDKafkaErrorCode),
}

impl GroupError {
    /// The log's error, with words for the answer that the brokers did not give.
    pub fn or_unavailable(self, reason: impl FnOnce(RDKafkaErrorCode) -> String) -> LogError {
        match self {
            Self::NoClient(error) => error,
            Self::Code(code) => LogError::Unavailable {
                reason: reason(code),
            },
        }
    }
}

/// Clients for each group whose offsets were ever asked for (a host's pipelines),
/// and one that asks about any group.
pub(super) struct Groups {
    config: KafkaConfig,
    offset_clients: Mutex<HashMap<(String, Isolation), OffsetClient>>,
    group_client: Mutex<Option<(GroupClient, Instant)>>,
}

impl Groups {
    pub fn new(config: &KafkaConfig) -> Self {
        Self {
            config: config.clone(),
            offset_clients: Mutex::default(),
            group_client: Mutex::default(),
        }
    }

    pub fn clear(&self) {
        self.offset_clients.lock().clear();
        self.group_client.lock().take();
    }

    /// Asks the brokers about any group. The client library keeps the coordinator
    /// that it knows, and asks that broker for as long as questions come, also
    /// where another broker has taken the group over. So a client that got no
    /// answer is replaced, and the question is asked once more. No client outlives
    /// a question without an answer: the library keeps that question.
    fn ask<T>(
        &self,
        question: impl Fn(&NativeClient<PlainContext>, Duration) -> Result<T, RDKafkaErrorCode>,
    ) -> Result<T, GroupError> {
        let ask = || {
            let client = self.group_client().map_err(GroupError::NoClient)?;
            let answer = question(client.inner(), self.config.request_timeout / 2);
            if let Err(code) = &answer
                && is_without_coordinator(*code)
            {
                self.replace(&client);
            }
            answer.map_err(GroupError::Code)
        };
        match ask() {
            Err(GroupError::Code(code)) if is_without_coordinator(code) => ask(),
            answer => answer,
        }
    }

    fn group_client(&self) -> Result<GroupClient, LogError> {
        let mut client = self.group_client.lock();
        if let Some((client, _)) = &*client {
            return Ok(Arc::clone(client));
        }
        let created = self
            .config
            .client()
            .create_with_context(PlainContext { reach: None });
        let created = Arc::new(created.map_err(unavailable)?);
        *client = Some((Arc::clone(&created), Instant::now()));
        Ok(created)
    }

    /// Drops a client, unless another caller has replaced it a moment ago.
    fn replace(&self, used: &GroupClient) {
        let is_used = |(now, since): &mut (GroupClient, Instant)| {
            Arc::ptr_eq(now, used) && since.elapsed() >= CLIENT_TIME_MIN
        };
        let dropped = self.group_client.lock().take_if(is_used);
        // The client ends outside the lock: it waits for its threads, and other callers
        // need not.
        drop(dropped);
    }

    fn offset_client(&self, group: &str, isolation: Isolation) -> Result<OffsetClient, LogError> {
        let mut clients = self.offset_clients.lock();
        let key = (group.to_owned(), isolation);
        if let Some(client) = clients.get(&key) {
            return Ok(Arc::clone(client));
        }
        let client = self
            .config
            .consumer(group, isolation)
            .create_with_context(PlainContext { reach: None })
            .map_err(unavailable)?;
        let client = Arc::new(client);
        clients.insert(key, Arc::clone(&client));
        Ok(client)
    }

    pub fn status(
        &self,
        group: &str,
        input: &Topic,
        partitions: u32,
    ) -> Result<GroupStatus, LogError> {
        let members = self
            .describe(group)?
            .members
            .into_iter()
            .map(|member| MemberStatus {
                partitions: of_topic(&member.partitions, input),
                member: member.id,
                instance: member.instance,
                client_id: member.client_id,
                host: member.host.trim_start_matches('/').to_owned(),
            })
            .collect();
        let mut wanted = TopicPartitionList::with_capacity(partitions as usize);
        for partition in 0..partitions {
            wanted.add_partition(input, number(PartitionId(partition)));
        }
        let found = self.committed(group, wanted)?;
        let mut committed = BTreeMap::new();
        for element in found.elements_for_topic(input) {
            element.error().map_err(unavailable)?;
            let id = u32::try_from(element.partition()).map(PartitionId);
            if let (Ok(id), KafkaOffset::Offset(offset)) = (id, element.offset()) {
                committed.insert(id, Offset(u64::try_from(offset).unwrap_or_default()));
            }
        }
        Ok(GroupStatus { members, committed })
    }

    /// A group's members and state, as the brokers tell them.
    pub fn describe(&self, group: &str) -> Result<DescribedGroup, LogError> {
        let described = self.ask(|client, time| native::group(client, group, time));
        described.map_err(|error| {
            error
                .or_unavailable(|code| format!("the brokers do not describe group {group}: {code}"))
        })
    }

    /// Whether a group has committed an offset of a topic, or one of the group's members
    /// has a partition of the topic.
    pub fn reads(&self, group: &str, (topic, partitions): (&str, u32)) -> Result<bool, GroupError> {
        self.ask(|client, time| {
            Ok(
                native::has_committed(client, group, (topic, partitions), time)?
                    || native::group(client, group, time)?.reads(topic),
            )
        })
    }

    /// The offsets that a group has committed of these partitions.
    pub fn committed(
        &self,
        group: &str,
        wanted: TopicPartitionList,
    ) -> Result<TopicPartitionList, LogError> {
        let timeout = self.config.request_timeout;
        // A commit that just succeeded may still be on its way to the offsets, so the
        // stable ones are waited for. A commit that hangs must not hide the offsets
        // before it.
        let stable = self.offset_client(group, Isolation::Committed)?;
        match stable.committed_offsets(wanted.clone(), STABLE_WAIT.min(timeout)) {
            Ok(found) => Ok(found),
            Err(_) => self
                .offset_client(group, Isolation::Uncommitted)?
                .committed_offsets(wanted, timeout)
                .map_err(unavailable),
        }
    }
}

/// Whether a question did not reach the broker that coordinates its group.
const fn is_without_coordinator(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::NotCoordinator
            | Code::CoordinatorNotAvailable
    )
}

/// The partitions of a topic in a member's assignment.
fn of_topic(assignment: &[(String, i32)], topic: &str) -> Vec<PartitionId> {
    let mut found: Vec<_> = assignment
        .iter()
        .filter(|(name, _)| name == topic)
        .filter_map(|(_, number)| u32::try_from(*number).ok().map(PartitionId))
        .collect();
    found.sort_unstable();
    found
}
