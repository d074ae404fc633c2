//! How a worker carries out orders, each between two commits.

use std::collections::BTreeMap;

use courtside_types::{Digest, PartitionId, slot_name::SlotName};
use crossbeam_channel::Sender;

use super::{
    Core,
    agenda::{Action, AfterCommit, Answer, Committing, Job},
    partitions::State,
};
use crate::worker::{orders::Order, takeover::Redone};

impl Core {
    /// Commits what is pending, and then carries out an order.
    pub(super) fn take_order(&mut self, order: Order) {
        self.agenda
            .last([Job::commit_events(), Job::CarryOut(order)]);
    }

    pub(super) fn carry_out_order(&mut self, order: Order) {
        match order {
            Order::Activate { slot, active, done } => {
                let is_first = self.processing.is_in_force(&slot, None);
                self.processing.activate(&slot, active);
                if !is_first {
                    self.warm_up();
                }
                self.agenda.first([
                    Job::WaitForPlugin,
                    Job::GoOnWaiting,
                    Job::AnswerTakeover(done),
                ]);
            }
            Order::Rollback {
                slot,
                directive,
                active,
                done,
            } => {
                // An order that is given again finds the plugin in force already.
                if !self.processing.is_in_force(&slot, active.as_ref()) {
                    self.processing.activate(&slot, active);
                    self.warm_up();
                }
                tracing::info!(pipeline = %self.pipeline.name, worker = self.worker, %slot, bad = %directive.bad.short(), "rollback begins");
                self.processing.direct(directive);
                self.agenda.first([
                    Job::BeginRollbacks,
                    Job::commit_events(),
                    Job::WaitForPlugin,
                    Job::GoOnWaiting,
                    Job::AnswerRollback(done),
                ]);
            }
            Order::Withdraw { slot, id, done } => {
                self.processing.withdraw(&slot, id);
                self.agenda.first([Job::Move, Job::AnswerDone(done)]);
            }
            Order::Confirm {
                slot,
                digest,
                at,
                done,
            } => self.confirm(&slot, digest, at, done),
            // The loop gives an order to stop as an input of its own.
            Order::Stop(_) => {}
        }
    }

    fn warm_up(&mut self) {
        self.gap.taken_over();
        self.pace.warm_up(self.now);
    }

    /// Confirms a slot's swaps. The order gets no answer until the log has the
    /// confirmation, and its caller gives it again.
    fn confirm(&mut self, slot: &SlotName, digest: Option<Digest>, at: u64, done: Sender<()>) {
        for released in self.processing.confirm(slot, digest, at) {
            if matches!(self.partitions.get(released), Some(State::Stopped)) {
                let state = if self.processing.has_default() {
                    State::WaitingForPlugin
                } else {
                    State::Running
                };
                self.partitions.set(released, state);
            }
        }
        self.agenda.first([
            Job::Commit {
                what: Committing::WithChores,
                by: None,
                then: AfterCommit::Confirm(done),
            },
            Job::WaitForPlugin,
            Job::GoOnWaiting,
        ]);
    }

    /// Answers an order to roll back. The rollback may wait for the log, or may not be on
    /// disk yet. Then the order gets no answer, and its caller gives it again.
    pub(super) fn answer_rollback(&mut self, done: Sender<BTreeMap<PartitionId, Redone>>) {
        if !self.processing.is_to_begin() {
            let redone = self.processing.redoing();
            let redone = redone.map(|(partition, redone, _)| (partition, redone));
            let answer = Answer::Redone(done, redone.collect());
            self.agenda.act(Action::Answer(answer));
        }
    }
}
