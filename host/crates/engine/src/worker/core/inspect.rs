//! Requests to a core that only tests make.

use courtside_types::{Offset, PartitionId};

use super::{Action, Core, Job, TopicWatch};
use crate::worker::processing::Processing;

impl Core {
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.partitions.ids()
    }

    /// The offset at which each partition at work goes on after its last commit.
    pub fn positions(&self) -> Vec<(PartitionId, Offset)> {
        self.processing.positions().collect()
    }

    pub const fn processing(&self) -> &Processing {
        &self.processing
    }

    /// Begins rollbacks and commits what is pending, whether or not that is due.
    pub fn commit_now(&mut self) -> Vec<Action> {
        self.agenda
            .last([Job::BeginRollbacks, Job::commit_events()]);
        self.advance()
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
