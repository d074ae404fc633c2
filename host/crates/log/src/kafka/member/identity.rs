//! The identity of a member, which its commits carry.

use std::sync::Arc;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};

use crate::kafka::{context::Membership, native};

/// A member at one moment: its id, and the generation (or epoch) of its group.
/// A commit with it fails when the group has moved on.
pub(super) struct Identity {
    id: String,
    metadata: Arc<ConsumerGroupMetadata>,
}

impl Identity {
    /// The member's identity now; none where it is out of its group.
    ///
    /// An empty id counts as none, because the brokers take offsets unchecked from a
    /// client that names neither an id nor a generation.
    pub fn now(consumer: &BaseConsumer<Membership>) -> Option<Self> {
        let id = native::member_id(consumer.client());
        let metadata = consumer.group_metadata()?;
        // Ids do not come back: metadata that is read between two looks at the same
        // id belongs to it.
        let is_known = !id.is_empty() && id == native::member_id(consumer.client());
        (is_known && !consumer.assignment_lost()).then(|| Self {
            id,
            metadata: Arc::new(metadata),
        })
    }

    pub const fn metadata(&self) -> &Arc<ConsumerGroupMetadata> {
        &self.metadata
    }

    /// Whether both are one membership. A member must not commit for the partitions of
    /// an earlier membership: another member may have had them in between.
    pub fn is_same(one: Option<&Self>, other: Option<&Self>) -> bool {
        matches!((one, other), (Some(one), Some(other)) if one.id == other.id)
    }
}
