//! The rollback that an operator asked this host for and that this host has not
//! followed yet. There is at most one.

use courtside_log::LogError;
use courtside_types::{Position, slot_name::SlotName};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::oneshot;

use crate::{
    slots::request::{Answer, RequestError, RequestResult, RollbackView},
    worker::takeover::Directive,
};

/// The outcome of appending a directive's record.
pub(super) type Appended = BoxFuture<'static, Vec<Result<Position, LogError>>>;

/// The rollback under way, if any.
#[derive(Default)]
pub(super) struct PendingRollback {
    pending: Option<Pending>,
}

struct Pending {
    slot: SlotName,
    id: u64,
    plan: RollbackView,
    /// None once the outcome is known.
    appended: Option<Appended>,
    answer: oneshot::Sender<RequestResult>,
}

impl PendingRollback {
    pub const fn is_some(&self) -> bool {
        self.pending.is_some()
    }

    /// Begins to wait for this host to follow a directive.
    pub fn begin(
        &mut self,
        directive: &Directive,
        plan: RollbackView,
        appended: Appended,
        answer: oneshot::Sender<RequestResult>,
    ) {
        self.pending = Some(Pending {
            slot: directive.slot.clone(),
            id: directive.id,
            plan,
            appended: Some(appended),
            answer,
        });
    }

    /// Gives up a directive that the operator no longer waits for, or that the log has
    /// not taken.
    pub fn check(&mut self) {
        let Some(pending) = &mut self.pending else {
            return;
        };
        let appended = pending.appended.as_mut();
        let results = appended.and_then(FutureExt::now_or_never);
        if results.is_some() {
            pending.appended = None;
        }
        let failed = results.into_iter().flatten().find_map(Result::err);
        if failed.is_none() && !pending.answer.is_closed() {
            return;
        }
        if let (Some(pending), Some(error)) = (self.pending.take(), failed) {
            pending.end(Err(error.into()));
        }
    }

    /// Answers the operator, now that this host has followed a directive or failed to.
    pub fn end(&mut self, directive: &Directive, outcome: Result<(), RequestError>) {
        let is_meant =
            |pending: &mut Pending| pending.slot == directive.slot && pending.id <= directive.id;
        if let Some(pending) = self.pending.take_if(is_meant) {
            pending.end(outcome);
        }
    }
}

impl Pending {
    fn end(self, outcome: Result<(), RequestError>) {
        let answer = outcome.map(|()| {
            Answer::Rollback(Box::new(RollbackView {
                done: true,
                ..self.plan
            }))
        });
        // The operator who asked may have gone.
        drop(self.answer.send(answer));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use courtside_types::Digest;

    use super::*;
    use crate::slots::request::RanView;

    fn directive(id: u64) -> Directive {
        Directive {
            id,
            slot: SlotName::Default,
            bad: Digest::of(b"bad"),
            to: None,
            at: 0,
        }
    }

    fn plan() -> RollbackView {
        let nothing = || RanView {
            digest: None,
            plugin: None,
        };
        RollbackView {
            slot: "scores/default".to_owned(),
            done: false,
            from: nothing(),
            to: nothing(),
            until: None,
            partitions: BTreeMap::new(),
            events: 0,
            entities: 0,
            refused: None,
        }
    }

    fn begun(appended: Appended) -> (PendingRollback, oneshot::Receiver<RequestResult>) {
        let (answer, receiver) = oneshot::channel();
        let mut pending = PendingRollback::default();
        pending.begin(&directive(7), plan(), appended, answer);
        (pending, receiver)
    }

    fn never() -> Appended {
        futures_util::future::pending().boxed()
    }

    fn away() -> LogError {
        LogError::Unavailable {
            reason: "no broker answers".to_owned(),
        }
    }

    #[test]
    fn the_operator_hears_that_the_host_has_gone_back() {
        let (mut pending, mut answer) = begun(never());
        pending.check();
        pending.end(&directive(6), Ok(()));
        let other = Directive {
            slot: SlotName::of_key(b"other"),
            ..directive(7)
        };
        pending.end(&other, Ok(()));
        assert!(pending.is_some(), "those were other directives");
        pending.end(&directive(7), Ok(()));
        assert!(!pending.is_some());
        let Ok(Ok(Answer::Rollback(view))) = answer.try_recv() else {
            panic!("no answer")
        };
        assert!(view.done);
    }

    #[test]
    fn a_later_directive_ends_the_wait_as_well() {
        let (mut pending, mut answer) = begun(never());
        pending.end(&directive(8), Err(RequestError::Stopping));
        assert_eq!(answer.try_recv().unwrap(), Err(RequestError::Stopping));
    }

    #[test]
    fn the_operator_hears_that_the_log_has_not_taken_the_directive() {
        let results = vec![Err(away())];
        let (mut pending, mut answer) = begun(futures_util::future::ready(results).boxed());
        pending.check();
        assert!(!pending.is_some());
        assert_eq!(answer.try_recv().unwrap(), Err(RequestError::Log(away())));
    }

    #[test]
    fn a_written_directive_still_waits_for_this_host() {
        let (mut pending, _answer) = begun(futures_util::future::ready(Vec::new()).boxed());
        pending.check();
        pending.check();
        assert!(pending.is_some());
    }

    #[test]
    fn nobody_waits_for_an_operator_who_has_gone() {
        let (mut pending, answer) = begun(never());
        drop(answer);
        pending.check();
        assert!(!pending.is_some());
    }
}
