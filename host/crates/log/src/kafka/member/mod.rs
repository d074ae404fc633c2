//! A worker's membership in a group.
//!
//! A [`MemberSession`] is one membership: a consumer, a transactional producer, and the
//! tasks that were assigned. It can come to an end that the client does not
//! recover from (another host has its name, the brokers refuse it). Its partitions
//! are lost then, and the member begins a new one after a while, as often as needed.
//! So a member lives as long as its worker, and never ends it.
//!
//! A commit carries the [identity] under which its partitions were assigned. When a
//! membership ends, its tasks are void at once, even if the client has not reported the
//! end yet. Another member may have had the partitions in between, and brokers would
//! accept the old commits under the next membership.
//!
//! At a clean stop a member leaves its group ([leave]). A static member stays if
//! `kafka.leave_at_stop` is false, or if the assignor is `consumer`.

mod commit;
mod end;
mod identity;
mod leave;
mod reading;
mod rebalance;
mod restoring;
mod session;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_process::shutdown::{LEAVE_TIME_MAX, waits};
use courtside_types::{Offset, PartitionId};

use self::{
    end::{Fencing, SessionEnd, SessionError},
    session::MemberSession,
};
use super::state::KafkaState;
use crate::{Commit, GroupSpec, LogError, Member, Polled, name::check_name};

/// Stands for a wait without a limit, whose deadline would overflow.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long a member stays away after it lost its session for the first time.
const AWAY_MIN: Duration = Duration::from_secs(1);
/// Time after which a lost session counts as the first one again: the old reason is over.
const AWAY_FORGOTTEN: Duration = Duration::from_secs(120);
/// How long a member without a session sleeps before it checks whether the log is closed.
const LOOK: Duration = Duration::from_millis(100);

/// Kafka's [`Member`]. It belongs to one thread.
pub(super) struct KafkaMember {
    shared: Arc<KafkaState>,
    spec: GroupSpec,
    session: Option<MemberSession>,
    away: RejoinWait,
    /// Partitions of a lost session that the next poll reports as lost.
    lost: Vec<PartitionId>,
    fencing: Fencing,
}

/// How long to stay away. The time grows with each loss and is partly random, so that
/// two members that push each other out do not come back together.
#[derive(Debug, Default)]
struct RejoinWait {
    wait: Duration,
    until: Option<Instant>,
}

impl RejoinWait {
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
    pub fn join(shared: &Arc<KafkaState>, spec: &GroupSpec) -> Result<Self, LogError> {
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
            session: None,
            shared: Arc::clone(shared),
            spec: spec.clone(),
            away: RejoinWait::default(),
            lost: Vec::new(),
            fencing: Fencing::default(),
        };
        match MemberSession::begin(shared, spec) {
            Ok(session) => member.session = Some(session),
            // A running host waits until this error passes, and so does one that starts.
            Err(error @ LogError::Unavailable { .. }) => member.stay_away(&SessionEnd {
                code: error.code(),
                ..SessionEnd::refused(error.to_string())
            }),
            Err(error) => return Err(error),
        }
        Ok(member)
    }

    fn leave(&mut self, end: &SessionEnd) {
        if let Some(session) = self.session.take() {
            self.lost.extend(session.held());
            self.lost.sort_unstable();
            leave_within(session);
        }
        self.stay_away(end);
    }

    fn stay_away(&mut self, end: &SessionEnd) {
        let wait = self.away.begin(Instant::now(), end.away_max);
        tracing::warn!(
            group = %self.spec.group,
            worker = self.spec.worker,
            instance = self.shared.instance,
            code = end.code,
            reason = end.reason,
            again_in_s = wait.as_secs_f64(),
            "worker is out of its consumer group, joining it again later",
        );
    }

    fn come_back(&mut self) {
        match MemberSession::begin(&self.shared, &self.spec) {
            Ok(session) => {
                tracing::info!(group = %self.spec.group, worker = self.spec.worker, "worker joins its consumer group again");
                self.session = Some(session);
            }
            Err(error) => self.stay_away(&SessionEnd {
                code: error.code(),
                ..SessionEnd::refused(error.to_string())
            }),
        }
    }

    fn out_of_group(&self) -> LogError {
        LogError::Fenced {
            reason: format!("worker {} is out of its group", self.spec.worker),
        }
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            leave_within(session);
        }
    }
}

/// Leaves the group. The client may wait for as long as the brokers are gone. The
/// worker does not wait with it, and the brokers end the membership.
fn leave_within(session: MemberSession) {
    let (group, worker) = (session.spec.group.clone(), session.spec.worker);
    let name = format!("membership of worker {worker} in group {group}");
    if !waits::drop_within(&name, LEAVE_TIME_MAX, session) {
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
            if let Some(session) = &mut self.session {
                match session.poll(deadline, max_bytes) {
                    Ok(polled) => return Ok(polled),
                    Err(SessionError::Log(error)) => return Err(error),
                    Err(SessionError::End(end)) => self.leave(&end),
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
        if let Some(session) = &mut self.session {
            session.set_paused(partitions, true);
        }
    }

    fn resume(&mut self, partitions: &[PartitionId]) {
        if let Some(session) = &mut self.session {
            session.set_paused(partitions, false);
        }
    }

    fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        match &mut self.session {
            Some(session) => session.seek(partition, next),
            None => Err(self.out_of_group()),
        }
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
        let Some(session) = &mut self.session else {
            return Err(self.out_of_group());
        };
        match session.commit(commit, deadline, &mut self.fencing) {
            Ok(()) => Ok(()),
            Err(SessionError::Log(error)) => Err(error),
            Err(SessionError::End(end)) => {
                self.leave(&end);
                Err(LogError::Fenced { reason: end.reason })
            }
        }
    }

    fn is_waited_for(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(MemberSession::is_waited_for)
    }

    fn release(&mut self, partitions: &[PartitionId]) {
        self.lost.retain(|lost| !partitions.contains(lost));
        if let Some(session) = &mut self.session
            && !partitions.is_empty()
        {
            session.release(partitions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_pushed_out_again_and_again_stays_away_longer() {
        let mut away = RejoinWait::default();
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
