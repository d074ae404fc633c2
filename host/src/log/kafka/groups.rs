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
        let client = self.client(group, Isolation::Committed)?;
        let timeout = self.config.request_timeout;
        let list = client
            .fetch_group_list(Some(group), timeout)
            .map_err(unavailable)?;
        let members = list
            .groups()
            .iter()
            .filter(|found| found.name() == group)
            .flat_map(|found| found.members())
            .map(|member| MemberStatus {
                member: member.id().to_owned(),
                host: member.client_host().trim_start_matches('/').to_owned(),
                partitions: assignment(member.assignment().unwrap_or_default(), input),
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

/// The partitions of a topic in a member's assignment, as the consumer
/// protocol writes it: a version, topics with partitions, and what is anyone's.
pub(super) fn assignment(bytes: &[u8], topic: &str) -> Vec<PartitionId> {
    parse(bytes, topic).unwrap_or_default()
}

fn parse(mut bytes: &[u8], topic: &str) -> Option<Vec<PartitionId>> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (head, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(*head)
    }
    let bytes = &mut bytes;
    let _version = take::<2>(bytes)?;
    let mut found = Vec::new();
    for _ in 0..u32::from_be_bytes(take(bytes)?) {
        let len = usize::from(u16::from_be_bytes(take(bytes)?));
        let (name, rest) = bytes.split_at_checked(len)?;
        *bytes = rest;
        for _ in 0..u32::from_be_bytes(take(bytes)?) {
            let partition = u32::from_be_bytes(take(bytes)?);
            if name == topic.as_bytes() {
                found.push(PartitionId(partition));
            }
        }
    }
    found.sort_unstable();
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read() {
        let mut bytes = vec![0, 3, 0, 0, 0, 2, 0, 1, b'x', 0, 0, 0, 1, 0, 0, 0, 9];
        bytes.extend([
            0, 2, b'i', b'n', 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0,
        ]);
        assert_eq!(assignment(&bytes, "in"), [PartitionId(1), PartitionId(7)]);
        assert_eq!(assignment(&bytes, "x"), [PartitionId(9)]);
        assert_eq!(assignment(&bytes, "none"), []);
        for len in 0..bytes.len() - 4 {
            assert_eq!(assignment(&bytes[..len], "in"), []);
        }
    }
}
