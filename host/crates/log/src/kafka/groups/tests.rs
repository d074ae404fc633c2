//! Questions about a group whose coordinator is away, to the client library's own
//! brokers.

use std::{
    thread,
    time::{Duration, Instant},
};

use rdkafka::mocking::MockCluster;

use super::*;

const GROUP: &str = "games";
const ALL: i32 = -1;
/// Callers share a client.
const CALLERS: usize = 4;
const BACK_WITHIN: Duration = Duration::from_secs(5);
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// The library must not touch a question that got no answer once its coordinator is
/// there: it would abort the process.
#[test]
fn a_coordinator_that_comes_back_late_costs_no_process() {
    let brokers = MockCluster::new(2).unwrap();
    brokers.create_topic("scores", 1, 2).unwrap();
    let groups = Groups::new(&KafkaConfig {
        brokers: brokers.bootstrap_servers(),
        request_timeout: Duration::from_secs(4),
        ..KafkaConfig::default()
    });
    let ask = || {
        let answer =
            groups.ask(|client, time| native::has_committed(client, GROUP, ("scores", 1), time));
        answer.map_err(|error| match error {
            GroupError::Code(code) => code,
            GroupError::NoClient(error) => panic!("{error}"),
        })
    };

    assert_eq!(ask(), Ok(false));
    brokers.broker_down(ALL).unwrap();
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| assert_eq!(ask(), Err(RDKafkaErrorCode::OperationTimedOut)));
        }
    });
    brokers.broker_up(ALL).unwrap();
    // A client that still waits for its coordinator finds it in this time.
    thread::sleep(BACK_WITHIN);

    let deadline = Instant::now() + HANGS_AFTER;
    while ask() != Ok(false) {
        assert!(Instant::now() < deadline, "the coordinator never answered");
    }
}
