//! Groups, as an operator asks for them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};

use super::{
    config::{Isolation, KafkaConfig},
    context::Plain,
    convert::number,
    errors::unavailable,
    native::{self, DescribedGroup},
};
use crate::{
    log::{GroupStatus, LogError, MemberStatus},
    types::{Offset, PartitionId, Topic},
};

/// How long offsets that are being committed are waited for.
const STABLE_WAIT: Duration = Duration::from_millis(500);

type Client = Arc<BaseConsumer<Plain>>;

/// Clients for each group that was ever asked for: a host's pipelines.
pub(super) struct Groups {
    config: KafkaConfig,
    clients: Mutex<HashMap<(String, Isolation), Client>>,
}

impl Groups {
    pub fn new(config: &KafkaConfig) -> Self {
        Self {
            config: config.clone(),
            clients: Mutex::default(),
        }
    }

    pub fn clear(&self) {
        self.clients.lock().clear();
    }

    fn client(&self, group: &str, isolation: Isolation) -> Result<Client, LogError> {
        let mut clients = self.clients.lock();
        let key = (group.to_owned(), isolation);
        if let Some(client) = clients.get(&key) {
            return Ok(Arc::clone(client));
        }
        let client = self
            .config
            .consumer(group, isolation)
            .create_with_context(Plain { reach: None })
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

    /// Its members and its state, as the brokers tell them.
    pub fn describe(&self, group: &str) -> Result<DescribedGroup, LogError> {
        let client = self.client(group, Isolation::Committed)?;
        native::group(client.client(), group, self.config.request_timeout).map_err(|code| {
            LogError::Unavailable {
                reason: format!("group {group} is not described: {code}"),
            }
        })
    }

    /// What a group has committed of these partitions.
    pub fn committed(
        &self,
        group: &str,
        wanted: TopicPartitionList,
    ) -> Result<TopicPartitionList, LogError> {
        let timeout = self.config.request_timeout;
        // A commit that just succeeded may still be on its way to the offsets.
        // One that hangs must not keep what was before it from being told.
        let stable = self.client(group, Isolation::Committed)?;
        match stable.committed_offsets(wanted.clone(), STABLE_WAIT.min(timeout)) {
            Ok(found) => Ok(found),
            Err(_) => self
                .client(group, Isolation::Uncommitted)?
                .committed_offsets(wanted, timeout)
                .map_err(unavailable),
        }
    }
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
