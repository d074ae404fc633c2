//! Who a member is, as its commits say.

use std::sync::Arc;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};

use crate::log::kafka::{context::Membership, native};

/// A member at one moment: its id, and the generation (or epoch) of its group.
/// A commit with it fails when the group has moved on.
pub(super) struct Identity {
    id: String,
    metadata: Arc<ConsumerGroupMetadata>,
}

impl Identity {
    /// Who the member is now; none where it is out of its group.
    ///
    /// The id is looked at, because the brokers take offsets without a check
    /// from who names neither an id nor a generation.
    pub fn now(consumer: &BaseConsumer<Membership>) -> Option<Self> {
        let id = native::member_id(consumer.client());
        let metadata = consumer.group_metadata()?;
        // Ids do not come back: what is between two looks at one is of that one.
        let is_known = !id.is_empty() && id == native::member_id(consumer.client());
        (is_known && !consumer.assignment_lost()).then(|| Self {
            id,
            metadata: Arc::new(metadata),
        })
    }

    pub const fn metadata(&self) -> &Arc<ConsumerGroupMetadata> {
        &self.metadata
    }

    /// Whether both are one membership. What was assigned in one is nobody's to
    /// commit for in the next: it may have been another's between them.
    pub fn is_same(one: Option<&Self>, other: Option<&Self>) -> bool {
        matches!((one, other), (Some(one), Some(other)) if one.id == other.id)
    }
}
