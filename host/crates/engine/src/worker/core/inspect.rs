//! What tests of the loop ask of a core.

use courtside_types::{Offset, PartitionId};

use super::{Action, Core, TopicWatch};

impl Core {
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.partitions.ids()
    }

    /// The offset at which each partition at work goes on after its last commit.
    pub fn positions(&self) -> Vec<(PartitionId, Offset)> {
        self.processing.positions().collect()
    }

    /// Goes back to what is committed.
    pub fn go_back(&mut self) -> Vec<Action> {
        self.rewind();
        self.advance()
    }

    /// Makes the next look at the topics due.
    pub fn forget_last_look(&mut self) {
        self.topics = TopicWatch::default();
    }
}
