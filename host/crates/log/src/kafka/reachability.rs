//! Whether the brokers can be reached, and let this host in.
//!
//! The clients try again without end and return only that a call did not work yet.
//! They tell the reason in events and in their logs. This module keeps the last
//! reason, for the host's start, for its readiness and for appends.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::errors::is_denial;
use crate::LogError;

/// How often the clients' events are looked at while there is no answer.
const LOOK: Duration = Duration::from_millis(200);
/// Events that are taken at a look.
const EVENTS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Reachability {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Set while no broker can be reached.
    trouble: Option<LogError>,
    /// Why the last connection failed.
    cause: Option<LogError>,
    /// Reasons of denials, by the client's number.
    denied: BTreeMap<u64, String>,
    clients: u64,
}

impl Reachability {
    /// Why no broker can be reached.
    pub fn trouble(&self) -> Option<LogError> {
        self.state.lock().trouble.clone()
    }

    /// Why this host cannot do its work.
    pub fn refusal(&self) -> Option<LogError> {
        let state = self.state.lock();
        let denied = || {
            let reason = state.denied.values().next()?.clone();
            Some(LogError::Denied { reason })
        };
        state.trouble.clone().or_else(denied)
    }

    /// Notes that a broker answered.
    pub fn answered(&self) {
        let mut state = self.state.lock();
        state.trouble = None;
        state.cause = None;
    }

    /// Takes an event about a connection.
    pub fn note(&self, error: &KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                let mut state = self.state.lock();
                let cause = state.cause.clone();
                state.trouble = Some(cause.unwrap_or_else(|| LogError::Unavailable {
                    reason: reason.to_owned(),
                }));
            }
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) => {
                let reason = essence(reason);
                let mut state = self.state.lock();
                // The client tells each failure twice, and the longer text says what to
                // look after.
                if !matches!(&state.cause, Some(LogError::Denied { reason: known }) if known.len() > reason.len())
                {
                    state.cause = Some(LogError::Denied { reason });
                }
            }
            _ => {}
        }
    }

    /// Takes a line of a client's log about a connection that failed: not
    /// every failure is an event.
    pub fn note_line(&self, line: &str) {
        let mut state = self.state.lock();
        if matches!(state.cause, Some(LogError::Denied { .. })) {
            return;
        }
        let mut reason = essence(line);
        if line.contains("APIVERSION_QUERY") {
            reason.push_str(
                "; the connection ended before its first answer, so security.protocol may not be what the listener wants",
            );
        }
        state.cause = Some(LogError::Unavailable { reason });
    }

    /// A number for a client that may be denied what it does.
    pub fn enrol(&self) -> u64 {
        let mut state = self.state.lock();
        state.clients += 1;
        state.clients
    }

    /// Notes that the brokers do not let a client do what it must.
    pub fn deny(&self, client: u64, reason: &str) {
        let reason = essence(reason);
        let known = self.state.lock().denied.insert(client, reason.clone());
        if known.as_ref() != Some(&reason) {
            tracing::error!(
                code = "log-access-denied",
                reason,
                "the brokers refuse access"
            );
        }
    }

    /// Notes that the brokers let a client do what it must, or that the client is gone.
    pub fn permit(&self, client: u64) {
        self.state.lock().denied.remove(&client);
    }

    /// Waits for a first answer of the brokers. Returns a denial at once, and any other
    /// failure at the end of `timeout`.
    pub fn connect<C: ConsumerContext>(
        &self,
        client: &BaseConsumer<C>,
        brokers: &str,
        timeout: Duration,
    ) -> Result<(), LogError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Err(error) = client.fetch_metadata(None, left.min(LOOK)) else {
                self.answered();
                return Ok(());
            };
            for _ in 0..EVENTS_MAX {
                drop(client.poll(Duration::ZERO));
            }
            let cause = self.state.lock().cause.clone();
            let of = |reason: String| format!("no broker of {brokers} answers: {reason}");
            match cause {
                Some(LogError::Denied { reason }) => {
                    return Err(LogError::Denied { reason });
                }
                _ if Instant::now() < deadline => {}
                Some(LogError::Unavailable { reason }) => {
                    return Err(LogError::Unavailable { reason: of(reason) });
                }
                _ if is_denial(&error) => {
                    return Err(LogError::Denied {
                        reason: error.to_string(),
                    });
                }
                _ => {
                    return Err(LogError::Unavailable {
                        reason: of(error.to_string()),
                    });
                }
            }
        }
    }
}

/// The part of a line that repeats from one failure to the next: without its thread,
/// how long the try took and how often the line was suppressed.
pub(super) fn essence(line: &str) -> String {
    let line = match line.split_once("]: ") {
        Some((thread, rest)) if thread.starts_with("[thrd:") => rest,
        _ => line,
    };
    let Some((before, rest)) = line.split_once(" (after ") else {
        return line.to_owned();
    };
    // The parentheses of a suppressed error contain others of their own.
    let rest = rest.replacen("error(s)", "", 1);
    let after = rest.split_once(')').map_or("", |(_, after)| after);
    format!("{before}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(reach: &Reachability, code: RDKafkaErrorCode, reason: &str) {
        reach.note(&KafkaError::Global(code), reason);
    }

    #[test]
    fn what_all_brokers_say_is_why_they_are_down() {
        let reach = Reachability::default();
        event(
            &reach,
            RDKafkaErrorCode::AllBrokersDown,
            "1/1 brokers are down",
        );
        let plain = reach.trouble().unwrap();
        assert_eq!(plain.code(), "log-unavailable");
        reach.answered();
        assert_eq!(reach.refusal(), None);

        let message =
            "[thrd:b]: b:1/1: SASL authentication error: bad (after 3ms in state AUTH_REQ)";
        event(&reach, RDKafkaErrorCode::Authentication, message);
        assert_eq!(reach.trouble(), None, "one broker alone is no trouble");
        reach.note_line("b:1/1: Disconnected");
        event(
            &reach,
            RDKafkaErrorCode::AllBrokersDown,
            "1/1 brokers are down",
        );
        let LogError::Denied { reason } = reach.trouble().unwrap() else {
            panic!("it is the password");
        };
        assert_eq!(reason, "b:1/1: SASL authentication error: bad");
    }

    #[test]
    fn the_essence_is_what_stays_the_same() {
        for line in [
            "[thrd:b:1/1]: b:1/1: no (after 3ms in state UP)",
            "b:1/1: no (after 12ms in state UP, 4 identical error(s) suppressed)",
            "b:1/1: no",
        ] {
            assert_eq!(essence(line), "b:1/1: no");
        }
        assert_eq!(
            essence("no (after 4 ms) (CODE); mend it"),
            "no (CODE); mend it"
        );
    }

    #[test]
    fn a_denial_stays_until_its_client_is_permitted() {
        let reach = Reachability::default();
        let (one, other) = (reach.enrol(), reach.enrol());
        reach.deny(one, "no");
        reach.permit(other);
        reach.answered();
        assert_eq!(reach.refusal().unwrap().code(), "log-access-denied");
        assert_eq!(reach.trouble(), None, "appends of others go on");
        reach.permit(one);
        assert_eq!(reach.refusal(), None);
    }
}
