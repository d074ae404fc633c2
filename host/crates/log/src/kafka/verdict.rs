//! The outcome of a transaction that failed, judged by the report of the client library.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// How far a transaction had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The brokers were not asked to commit.
    Filling,
    /// The brokers were not asked to commit, and a call of the client does not return.
    Hanging,
    Ending,
}

/// Properties that the client gives an error. They and the stage alone decide the verdict.
#[derive(Clone, Debug)]
pub(super) struct ClientReport {
    code: Option<RDKafkaErrorCode>,
    /// The error for which the producer can no longer be used.
    fatal: Option<RDKafkaErrorCode>,
    requires_abort: bool,
}

impl ClientReport {
    /// The properties of an error. `fatal` is the producer's fatal error.
    pub fn of(error: &KafkaError, fatal: Option<RDKafkaErrorCode>) -> Self {
        match error {
            KafkaError::Transaction(error) => Self {
                code: Some(error.code()),
                fatal: fatal.or_else(|| error.is_fatal().then(|| error.code())),
                requires_abort: error.txn_requires_abort(),
            },
            error => Self {
                code: error.rdkafka_error_code(),
                fatal,
                // The error is not of the commit request, which fails only with
                // `KafkaError::Transaction`.
                requires_abort: true,
            },
        }
    }
}

/// Meaning of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing was committed. The worker aborts the transaction, and may try again.
    Abort,
    /// Nothing was committed: the group no longer knows the member by the identity
    /// that the transaction carried.
    Generation,
    /// Nothing was committed, and this producer can no longer be used.
    Renew,
    /// Another producer has the id.
    Fenced,
    /// The brokers were asked to commit: only the committed offsets tell the outcome.
    Unknown,
}

/// Applies the client's rules. A fatal error ends the producer. An error that asks for
/// an abort says that nothing was committed. Any other error of `commit_transaction`
/// (which is tried again as long as there is time) leaves the outcome open. So does
/// a fatal one: the client also raises it for a commit that it had given up and that
/// succeeded.
pub(super) fn judge(stage: Stage, report: &ClientReport) -> Verdict {
    use RDKafkaErrorCode as Code;
    match (report.fatal, stage) {
        (
            Some(
                Code::Fenced
                | Code::ProducerFenced
                | Code::InvalidProducerEpoch
                | Code::TransactionCoordinatorFenced,
            ),
            _,
        ) => Verdict::Fenced,
        (_, Stage::Hanging) | (Some(_), Stage::Filling) => Verdict::Renew,
        (Some(_), Stage::Ending) => Verdict::Unknown,
        (None, Stage::Ending) if !report.requires_abort => Verdict::Unknown,
        (None, _) => match report.code {
            Some(
                Code::IllegalGeneration
                | Code::UnknownMemberId
                | Code::FencedInstanceId
                | Code::StaleMemberEpoch
                | Code::FencedMemberEpoch,
            ) => Verdict::Generation,
            _ => Verdict::Abort,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RDKafkaErrorCode as Code;

    /// Each row: the stage, the error's code, the producer's fatal error, whether the
    /// client asks for an abort, and the verdict.
    #[test]
    fn errors_are_judged_as_the_client_documents_them() {
        use Stage::{Ending, Filling, Hanging};
        use Verdict::{Abort, Fenced, Generation, Renew, Unknown};
        for (stage, code, fatal, requires_abort, verdict) in [
            // A record was not delivered, or could not be sent.
            (Filling, Code::MessageTimedOut, None, true, Abort),
            (Filling, Code::MessageSizeTooLarge, None, true, Abort),
            // The time was over before the brokers could be asked to commit.
            (Filling, Code::OperationTimedOut, None, false, Abort),
            // The group has moved on, or does not know the member.
            (Filling, Code::IllegalGeneration, None, true, Generation),
            (Filling, Code::UnknownMemberId, None, true, Generation),
            (Filling, Code::FencedInstanceId, None, true, Generation),
            (Filling, Code::StaleMemberEpoch, None, true, Generation),
            // Nothing was committed, since the brokers were not asked to.
            (
                Filling,
                Code::Fatal,
                Some(Code::OutOfOrderSequenceNumber),
                false,
                Renew,
            ),
            (
                Filling,
                Code::InvalidTransactionalState,
                Some(Code::InvalidTransactionalState),
                false,
                Renew,
            ),
            (Filling, Code::Fenced, Some(Code::Fenced), false, Fenced),
            (
                Filling,
                Code::InvalidProducerEpoch,
                Some(Code::InvalidProducerEpoch),
                false,
                Fenced,
            ),
            // The brokers were not asked to commit, whatever the client says later.
            (Hanging, Code::OperationTimedOut, None, true, Renew),
            (
                Hanging,
                Code::OperationTimedOut,
                Some(Code::OutOfOrderSequenceNumber),
                true,
                Renew,
            ),
            // The brokers refused to commit.
            (Ending, Code::UnknownProducerId, None, true, Abort),
            (Ending, Code::OperationTimedOut, None, true, Abort),
            // No answer by the deadline: the request may be on its way.
            (Ending, Code::OperationTimedOut, None, false, Unknown),
            (Ending, Code::RequestTimedOut, None, false, Unknown),
            // A commit that the client had given up may have succeeded.
            (
                Ending,
                Code::Fatal,
                Some(Code::OperationTimedOut),
                false,
                Unknown,
            ),
            (Ending, Code::Fenced, Some(Code::Fenced), false, Fenced),
            (
                Ending,
                Code::ProducerFenced,
                Some(Code::ProducerFenced),
                true,
                Fenced,
            ),
        ] {
            let report = ClientReport {
                code: Some(code),
                fatal,
                requires_abort,
            };
            assert_eq!(judge(stage, &report), verdict, "{stage:?} {report:?}");
        }
    }
}
