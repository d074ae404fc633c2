//! A worker's membership in a group.
//!
//! A [`MemberSession`] is one membership: a consumer, a transactional producer, and the
//! tasks that were assigned. A seat can come to an end that the client does not
//! recover from (another host has its name, the brokers refuse it). Its partitions
//! are lost then, and the member takes a new seat after a while, as often as needed.
//! So a member lives as long as its worker, and never ends it.

mod commit;
mod gone;
mod identity;
mod reading;
mod session;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_process::shutdown::{LEAVE_TIME_MAX, waits};
use courtside_types::{Offset, PartitionId};

use self::{commit::Refused, gone::Gone, session::MemberSession};
use super::shared::Shared;
use crate::{Commit, GroupSpec, LogError, Member, Polled, name::check_name};

/// Stands for a wait without a limit, whose deadline would overflow.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long a member stays away after it lost its seat for the first time.
const AWAY_MIN: Duration = Duration::from_secs(1);
/// Time after which a lost seat counts as the first one again: the old reason is over.
const AWAY_FORGOTTEN: Duration = Duration::from_secs(120);
/// A producer that is fenced again within this time has a rival.
const RIVAL_WITHIN: Duration = Duration::from_secs(60);
/// How long a member without a seat sleeps before it checks whether the log is closed.
const LOOK: Duration = Duration::from_millis(100);

/// Kafka's [`Member`]. It belongs to one thread.
pub(super) struct KafkaMember {
    shared: Arc<Shared>,
    spec: GroupSpec,
    seat: Option<MemberSession>,
    away: Away,
    /// Partitions of a lost seat that the next poll reports as lost.
    lost: Vec<PartitionId>,
    fenced_at: Option<Instant>,
}

/// How long to stay away. The time grows with each loss and is partly random, so that
/// two members that push each other out do not come back together.
#[derive(Debug, Default)]
struct Away {
    wait: Duration,
    until: Option<Instant>,
}

impl Away {
    fn begin(&mut self, now: Instant, max: Duration) -> Duration {
        let is_new = self.until.is_none_or(|until| now > until + AWAY_FORGOTTEN);
        let wait = if is_new { AWAY_MIN } else { self.wait * 2 };
        self.wait = wait.min(max);
        let wait = self.wait.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        self.until = Some(now + wait);
        wait
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }
}

impl KafkaMember {
    pub fn join(shared: &Arc<Shared>, spec: &GroupSpec) -> Result<Self, LogError> {
        let invalid = |reason: &str| LogError::Invalid {
            what: format!("group {:?}", &*spec.group),
            reason: reason.to_owned(),
        };
        check_name(&spec.group).map_err(invalid)?;
        if spec.worker >= spec.workers {
            return Err(invalid(
                "a worker's number must be below the number of workers",
            ));
        }
        let mut member = Self {
            seat: None,
            shared: Arc::clone(shared),
            spec: spec.clone(),
            away: Away::default(),
            lost: Vec::new(),
            fenced_at: None,
        };
        match MemberSession::take(shared, spec) {
            Ok(seat) => member.seat = Some(seat),
            // A running host waits until this error passes, and so does one that starts.
            Err(error @ LogError::Unavailable { .. }) => member.stay_away(&Gone {
                code: error.code(),
                ..Gone::refused(error.to_string())
            }),
            Err(error) => return Err(error),
        }
        Ok(member)
    }

    fn leave(&mut self, gone: &Gone) {
        if let Some(seat) = self.seat.take() {
            self.lost.extend(seat.held());
            self.lost.sort_unstable();
            end(seat);
        }
        self.stay_away(gone);
    }

    fn stay_away(&mut self, gone: &Gone) {
        let wait = self.away.begin(Instant::now(), gone.away_max);
        tracing::warn!(
            group = %self.spec.group,
            worker = self.spec.worker,
            instance = self.shared.instance,
            code = gone.code,
            reason = gone.reason,
            again_in_s = wait.as_secs_f64(),
            "worker is out of its consumer group, joining it again later",
        );
    }

    fn come_back(&mut self) {
        match MemberSession::take(&self.shared, &self.spec) {
            Ok(seat) => {
                tracing::info!(group = %self.spec.group, worker = self.spec.worker, "worker joins its consumer group again");
                self.seat = Some(seat);
            }
            Err(error) => self.stay_away(&Gone {
                code: error.code(),
                ..Gone::refused(error.to_string())
            }),
        }
    }

    fn seat(&mut self) -> Result<&mut MemberSession, LogError> {
        self.seat.as_mut().ok_or_else(|| LogError::Fenced {
            reason: format!("worker {} is out of its group", self.spec.worker),
        })
    }

    /// Another producer took the transactional id. The first time, that may have been an
    /// old producer of this host, left by a slow restart, or the brokers, which end
    /// slow transactions: the member takes the id back. The second time, it is a rival.
    fn fenced(&mut self, reason: &str, time: Duration) {
        let now = Instant::now();
        let before = self.fenced_at.replace(now);
        let is_rival = before.is_some_and(|before| now < before + RIVAL_WITHIN);
        if is_rival {
            let reason = format!("another host commits under the name of this host: {reason}");
            self.leave(&Gone::taken(reason));
        } else if let Some(seat) = &mut self.seat {
            seat.start_over(time);
        }
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            end(seat);
        }
    }
}

/// Leaves the group. The client may wait for as long as the brokers are gone. The
/// worker does not wait with it, and the brokers end the membership.
fn end(seat: MemberSession) {
    let (group, worker) = (seat.spec.group.clone(), seat.spec.worker);
    let name = format!("membership of worker {worker} in group {group}");
    if !waits::drop_within(&name, LEAVE_TIME_MAX, seat) {
        tracing::warn!(
            code = "membership-left",
            %group,
            worker,
            "worker did not leave its consumer group in time, so the brokers end its membership"
        );
    }
}

impl Member for KafkaMember {
    fn poll(&mut self, timeout: Duration, max_bytes: usize) -> Result<Polled, LogError> {
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or(now + FOREVER);
        loop {
            if !self.lost.is_empty() {
                return Ok(Polled::Lost(std::mem::take(&mut self.lost)));
            }
            self.shared.check_open()?;
            let now = Instant::now();
            if let Some(seat) = &mut self.seat {
                match seat.poll(deadline, max_bytes) {
                    Ok(polled) => return polled,
                    Err(gone) => self.leave(&gone),
                }
            } else if self.away.is_over(now) {
                self.come_back();
            } else if now >= deadline {
                return Ok(Polled::Idle);
            } else {
                std::thread::sleep(deadline.saturating_duration_since(now).min(LOOK));
            }
        }
    }

    fn pause(&mut self, partitions: &[PartitionId]) {
        if let Some(seat) = &mut self.seat {
            seat.set_paused(partitions, true);
        }
    }

    fn resume(&mut self, partitions: &[PartitionId]) {
        if let Some(seat) = &mut self.seat {
            seat.set_paused(partitions, false);
        }
    }

    fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        self.seat()?.seek(partition, next)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), LogError> {
        self.commit_within(commit, FOREVER)
    }

    fn commit_within(&mut self, commit: &Commit, time: Duration) -> Result<(), LogError> {
        if commit.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let deadline = now.checked_add(time).unwrap_or(now + FOREVER);
        match self.seat()?.commit(commit, deadline) {
            Ok(()) => Ok(()),
            Err(Refused::Log(error)) => Err(error),
            Err(Refused::Fenced(reason)) => {
                self.fenced(&reason, deadline.saturating_duration_since(Instant::now()));
                Err(LogError::Fenced { reason })
            }
            Err(Refused::Gone(gone)) => {
                self.leave(&gone);
                Err(LogError::Fenced {
                    reason: gone.reason,
                })
            }
        }
    }

    fn is_waited_for(&self) -> bool {
        self.seat.as_ref().is_some_and(MemberSession::is_waited_for)
    }

    fn release(&mut self, partitions: &[PartitionId]) {
        self.lost.retain(|lost| !partitions.contains(lost));
        if let Some(seat) = &mut self.seat
            && !partitions.is_empty()
        {
            seat.release(partitions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_pushed_out_again_and_again_stays_away_longer() {
        let mut away = Away::default();
        let mut now = Instant::now();
        assert!(away.is_over(now));
        let max = Duration::from_secs(60);
        let mut least = Duration::ZERO;
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let wait = away.begin(now, max);
            let about = Duration::from_secs(seconds);
            assert!(wait >= about.mul_f64(0.75) && wait <= about.mul_f64(1.25));
            assert!(!away.is_over(now) && away.is_over(now + wait));
            now += wait + Duration::from_secs(10);
            least = wait;
        }
        assert!(least > Duration::from_secs(30));
        now += AWAY_FORGOTTEN;
        assert!(away.begin(now, max) < Duration::from_secs(2));
    }
}
