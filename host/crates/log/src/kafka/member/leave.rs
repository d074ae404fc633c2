//! The end of a session: it lets go of its partitions and leaves the group.

use std::time::{Duration, Instant};

use rdkafka::{TopicPartitionList, consumer::Consumer as _};

use super::session::{EVENTS_MAX, MemberSession};
use crate::kafka::{
    config::Assignor,
    context::{Rebalance, assign},
    native,
};

/// How long a leaving member waits until its client has left the group, which the
/// client does once the partitions are let go of.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);
const LEAVE_LOOK: Duration = Duration::from_millis(5);

impl MemberSession {
    /// Leaves the group, so that nobody waits for the session to end. The client
    /// does so by itself when it closes, but neither for a member without
    /// partitions (of a cooperative group) nor for a static one. A member that
    /// unsubscribes first leaves in each case.
    fn leave(&self) {
        let config = &self.shared.config;
        // A static member of the `consumer` protocol cannot leave: its client always
        // tells the brokers that the member comes back.
        let stays = config.static_membership && !self.spec.visits && !config.leave_at_stop;
        if stays || config.assignor == Assignor::Consumer {
            return;
        }
        self.serve_group();
        self.consumer.unsubscribe();
        let deadline = Instant::now() + LEAVE_WITHIN;
        while !native::member_id(self.consumer.client()).is_empty() && Instant::now() < deadline {
            drop(self.consumer.poll(LEAVE_LOOK));
        }
    }

    /// Serves the client's callbacks, in which a closing member lets go of partitions.
    fn serve_group(&self) {
        for _ in 0..EVENTS_MAX {
            drop(self.consumer.poll(Duration::ZERO));
        }
    }
}

impl Drop for MemberSession {
    fn drop(&mut self) {
        self.consumer.context().close();
        self.tasks.clear();
        // The client cannot end before every rebalance has its answer.
        while let Some(rebalance) = self.consumer.context().next_rebalance() {
            match rebalance {
                Rebalance::Assigned(_) => {
                    if let Err(error) = assign(&self.consumer, &TopicPartitionList::new()) {
                        tracing::debug!(group = %self.spec.group, %error, "assignment cannot be emptied while the consumer closes");
                    }
                }
                Rebalance::Revoked(partitions) | Rebalance::Lost(partitions) => {
                    self.let_go(&partitions);
                }
            }
        }
        if let Some(partitions) = self.unreleased.take() {
            self.let_go(&partitions);
        }
        self.leave();
    }
}
