//! How long to wait before asking again, and when to stop asking.
//!
//! The waits are those of the crate backon, and not a loop of our own.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep_until};

use super::{client::Unavailable, ledger::Ledger};

/// A host that asks for longer than this is asked again all the same: it may
/// be back early, and one question in half a minute troubles nobody.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Play's waiting times.
#[derive(Clone, Debug)]
pub(super) struct Tuning {
    /// Play gives up after this long without any progress.
    pub(super) patience: Duration,
    /// The wait after the first failure; it doubles, with jitter, up to
    /// `delay_max`.
    pub(super) delay_min: Duration,
    pub(super) delay_max: Duration,
    /// Longest wait for the answer to a `POST`.
    pub(super) post_timeout: Duration,
    /// Longest wait for the answer to a `GET`, which the host holds back until
    /// it has processed the events.
    pub(super) get_timeout: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(60),
            delay_min: Duration::from_millis(50),
            delay_max: Duration::from_secs(2),
            post_timeout: Duration::from_secs(10),
            get_timeout: Duration::from_secs(45),
        }
    }
}

impl Tuning {
    /// Waiting for one answer must not outlast the patience for all of them.
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self {
            patience,
            post_timeout: self.post_timeout.min(patience),
            get_timeout: self.get_timeout.min(patience),
            ..self
        }
    }
}

/// The host made no progress, on this request or any other, for too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "play-timeout: no progress for {patience:?}; the last attempt: {reason}; check that the host runs and is ready, and that --url is its address"
)]
pub(super) struct GaveUp {
    patience: Duration,
    reason: String,
}

/// The attempts at one request.
pub(super) struct Retry<'a> {
    ledger: &'a Ledger,
    tuning: &'a Tuning,
    backoff: ExponentialBackoff,
    /// When the first attempt began. Time before it does not count, because
    /// play did not ask the host then, as between two events of a game at its
    /// own pace.
    since: Instant,
}

impl<'a> Retry<'a> {
    pub(super) fn new(ledger: &'a Ledger, tuning: &'a Tuning) -> Self {
        let backoff = ExponentialBuilder::new()
            .with_jitter()
            .without_max_times()
            .with_min_delay(tuning.delay_min)
            .with_max_delay(tuning.delay_max)
            .build();
        Self {
            ledger,
            tuning,
            backoff,
            since: Instant::now(),
        }
    }

    /// Waits until the next attempt is due. The last one is made when the
    /// patience ends.
    pub(super) async fn pause(&mut self, away: &Unavailable) -> Result<(), GaveUp> {
        let now = Instant::now();
        let end = self.ledger.progress().max(self.since) + self.tuning.patience;
        if now >= end {
            return Err(GaveUp {
                patience: self.tuning.patience,
                reason: away.reason.clone(),
            });
        }
        self.ledger.away(&away.reason);
        let delay = self.backoff.next().unwrap_or(self.tuning.delay_max);
        let asked = away.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        sleep_until(end.min(now + delay.max(asked))).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::GameNumber;

    fn away(retry_after: Option<u64>) -> Unavailable {
        Unavailable {
            reason: "connection refused".to_owned(),
            retry_after: retry_after.map(Duration::from_secs),
            is_in_doubt: false,
        }
    }

    /// The waits until `retry` gives up.
    async fn waits(retry: &mut Retry<'_>, away: &Unavailable) -> (Vec<Duration>, GaveUp) {
        let mut waits = Vec::new();
        loop {
            let before = Instant::now();
            match retry.pause(away).await {
                Ok(()) => waits.push(before.elapsed()),
                Err(gave_up) => return (waits, gave_up),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_a_limit_and_end_with_the_patience() {
        let (ledger, tuning) = (Ledger::new(), Tuning::default());
        let start = Instant::now();
        let mut retry = Retry::new(&ledger, &tuning);
        let (waits, gave_up) = waits(&mut retry, &away(None)).await;
        // Jitter adds up to as much again.
        let ms = |wait: &Duration| wait.as_millis();
        assert!((50..=101).contains(&ms(&waits[0])), "{waits:?}");
        assert!((100..=201).contains(&ms(&waits[1])), "{waits:?}");
        assert!(waits.iter().all(|wait| ms(wait) <= 4001), "{waits:?}");
        assert!(waits.iter().any(|wait| ms(wait) >= 2000), "{waits:?}");
        assert_eq!(start.elapsed().as_secs(), 60);
        assert!(gave_up.to_string().contains("connection refused"));
    }

    #[tokio::test(start_paused = true)]
    async fn progress_elsewhere_renews_the_patience() {
        let (ledger, tuning) = (Ledger::new(), Tuning::default());
        let start = Instant::now();
        let mut retry = Retry::new(&ledger, &tuning);
        while start.elapsed() < Duration::from_secs(50) {
            retry.pause(&away(None)).await.unwrap();
        }
        ledger.processed(GameNumber(0));
        let progress = Instant::now();
        waits(&mut retry, &away(None)).await;
        assert_eq!(progress.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn time_before_the_first_attempt_does_not_count() {
        let (ledger, tuning) = (Ledger::new(), Tuning::default());
        tokio::time::sleep(Duration::from_secs(600)).await;
        let mut retry = Retry::new(&ledger, &tuning);
        assert!(retry.pause(&away(None)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_waited_for_up_to_a_limit() {
        let (ledger, tuning) = (Ledger::new(), Tuning::default());
        let mut retry = Retry::new(&ledger, &tuning);
        let before = Instant::now();
        retry.pause(&away(Some(7))).await.unwrap();
        assert_eq!(before.elapsed().as_secs(), 7);

        let before = Instant::now();
        retry.pause(&away(Some(3600))).await.unwrap();
        assert_eq!(before.elapsed().as_secs(), 30);
    }

    #[test]
    fn one_answer_is_not_waited_for_longer_than_all() {
        let tuning = Tuning::default().with_patience(Duration::from_secs(3));
        assert_eq!(tuning.post_timeout, Duration::from_secs(3));
        assert_eq!(tuning.get_timeout, Duration::from_secs(3));
        let tuning = Tuning::default().with_patience(Duration::from_secs(600));
        assert_eq!(tuning.post_timeout, Duration::from_secs(10));
    }
}
