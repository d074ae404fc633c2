//! One fault at a time, which the hosts must survive.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_tests::{
    proxy::{Line, Proxy},
    until_within,
};
use reqwest::StatusCode;
use tokio::time::sleep;

use crate::{
    brokers::Brokers,
    fleet::{Fleet, Member, PARTITIONS, PATIENCE},
    judge::judge,
    load::{Load, Pace},
};

const INTERNAL: [&str; 2] = ["__consumer_offsets", "__transaction_state"];
/// Longer than a session and a transaction of [`Fleet`]'s hosts.
const OVERSLEPT: Duration = Duration::from_secs(12);
/// The drain deadline of [`Fleet`]'s hosts, the 10 s after it, and what a busy
/// machine adds.
const STOPPED_WITHIN: Duration = Duration::from_secs(4 + 10 + 3);
/// The time between a fault and the next.
const AWHILE: Duration = Duration::from_secs(3);
/// Acknowledgements before a fault, and after the last.
const EVENTS: usize = 300;

/// Three hosts under load while something fails; in the end all are there, and
/// the judge finds nothing.
async fn ridden_out(
    test: &str,
    brokers: &Brokers,
    mut fleet: Fleet,
    fault: impl AsyncFnOnce(&mut Fleet, &Load),
) {
    let load = Load::start(fleet.urls(), Pace::default(), 1);
    load.goes_on(EVENTS).await;
    fault(&mut fleet, &load).await;
    load.goes_on(EVENTS).await;
    let posted = load.stop().await;
    fleet.has_processed_all().await;
    fleet.check();
    for member in &fleet.members {
        member.is_ready().await;
    }
    let names = fleet.names.clone();
    let boards = fleet.boards().await;
    fleet.stop().await;
    let verdict = judge(brokers, &names, &posted, &boards);
    println!("{test}: {verdict}");
}

pub async fn a_broker_is_killed_and_comes_back(brokers: Arc<Brokers>) {
    let fleet = Fleet::start("broker-killed", &brokers).await;
    ridden_out("broker killed", &brokers, fleet, async |fleet, load| {
        for broker in 1..=3 {
            brokers.kill(&[broker]);
            load.goes_on(EVENTS).await;
            fleet.check();
            brokers.heal();
        }
    })
    .await;
}

/// The leaders of the topics move first, then the coordinators of the groups and
/// the transactions: other brokers load these while hosts ask for them.
pub async fn leaders_and_coordinators_move(brokers: Arc<Brokers>) {
    let fleet = Fleet::start("leaders-move", &brokers).await;
    ridden_out("leaders moved", &brokers, fleet, async |fleet, load| {
        let names = fleet.names.clone();
        let checkpoints = names.checkpoints();
        for turn in 1..=3 {
            let topics = [&names.input, &names.output, &checkpoints];
            let topics = topics.map(|topic| (&**topic, PARTITIONS));
            brokers.move_leaders(&topics, turn);
            sleep(AWHILE).await;
            brokers.move_leaders(&INTERNAL.map(|topic| (topic, PARTITIONS)), turn);
            load.goes_on(EVENTS).await;
            fleet.check();
        }
    })
    .await;
}

pub async fn the_coordinators_are_killed(brokers: Arc<Brokers>) {
    let fleet = Fleet::start("coordinator-killed", &brokers).await;
    let group = fleet.names.group.clone();
    ridden_out(
        "coordinators killed",
        &brokers,
        fleet,
        async |fleet, load| {
            for _ in 0..2 {
                fleet.sees_its_members().await;
                let broker = brokers.coordinator_of_group(&group);
                brokers.kill(&[broker]);
                load.goes_on(EVENTS).await;
                fleet.check();
                // The remaining brokers give the members while this one is away.
                fleet.sees_its_members().await;
                brokers.heal();
            }
            // The coordinator of any of the transactions is killed, too.
            let (id, broker) = brokers.coordinators_of_transactions(&group).remove(0);
            println!("broker {broker} coordinates {id}");
            brokers.kill(&[broker]);
            load.goes_on(EVENTS).await;
            fleet.check();
            brokers.heal();
        },
    )
    .await;
}

/// All brokers stay away for `COURTSIDE_TEST_GONE_SECONDS`, 15 by default.
pub async fn all_brokers_go_and_come_back(brokers: Arc<Brokers>) {
    let gone = crate::number_from("COURTSIDE_TEST_GONE_SECONDS").unwrap_or(15);
    let fleet = Fleet::start("brokers-gone", &brokers).await;
    ridden_out("all brokers gone", &brokers, fleet, async |fleet, _| {
        brokers.kill(&[1, 2, 3]);
        let event = r#"{"game_id":"nobody","seq":1,"type":"other","period":1,"clock":"1:00"}"#;
        for member in &fleet.members {
            until_within(PATIENCE, "a host to say so", || async {
                match member.get("/readyz").await? {
                    (StatusCode::SERVICE_UNAVAILABLE, said)
                        if said.contains("\"log-unavailable\"") =>
                    {
                        Ok(())
                    }
                    seen => Err(format!("{seen:?}")),
                }
            })
            .await;
            // No client waits for an answer in vain afterwards.
            let (status, problem, retries) = member.post(event).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
            assert_eq!(problem["code"], "log-unavailable", "{problem}");
            assert!(retries, "{problem}");
        }
        sleep(Duration::from_secs(gone)).await;
        fleet.check();
        brokers.heal();
    })
    .await;
}

pub async fn a_host_is_killed(brokers: Arc<Brokers>) {
    let fleet = Fleet::start("host-killed", &brokers).await;
    ridden_out("host killed", &brokers, fleet, async |fleet, load| {
        for number in 0..3 {
            fleet.members[number].kill();
            load.goes_on(EVENTS).await;
            fleet.check();
            // The first host comes back while the group still waits for it, the
            // others later.
            if number > 0 {
                sleep(OVERSLEPT).await;
            }
            fleet.members[number].start().await;
        }
    })
    .await;
}

/// The host wakes up in the middle of its work, when others have its partitions.
pub async fn a_host_sleeps_longer_than_its_session(brokers: Arc<Brokers>) {
    let fleet = Fleet::start("host-sleeps", &brokers).await;
    ridden_out("host stopped", &brokers, fleet, async |fleet, load| {
        for number in 0..3 {
            fleet.members[number].freeze();
            sleep(OVERSLEPT).await;
            fleet.members[number].thaw();
            load.goes_on(EVENTS).await;
            fleet.check();
        }
    })
    .await;
}

/// A host that is told to stop does not wait for silent brokers. The test stops
/// the hosts as the silence begins, in the midst of requests, after those have
/// timed out, and after the hosts' sessions have ended.
pub async fn hosts_stop_while_no_broker_answers(brokers: Arc<Brokers>) {
    let routes = brokers.cluster().detours();
    let proxy = Proxy::start(&routes).await;
    let detours: Vec<_> = routes.iter().map(|(outside, _)| &**outside).collect();
    let mut fleet = Fleet::new("silence", &[&*detours.join(","); 3]);
    for member in &mut fleet.members {
        member.start().await;
    }
    for member in &fleet.members {
        member.is_ready().await;
    }
    ridden_out(
        "no broker answered",
        &brokers,
        fleet,
        async |fleet, load| {
            for silence_s in [0, 1, 3, 7, 12] {
                proxy.set(Line::Silent);
                sleep(Duration::from_secs(silence_s)).await;
                let began = Instant::now();
                let ends: Vec<_> = fleet.members.iter_mut().map(Member::end).collect();
                for end in ends {
                    let (status, log) = end.await;
                    let took = began.elapsed();
                    println!("silent for {silence_s} s: {status} after {took:?}");
                    assert!(took < STOPPED_WITHIN, "{took:?}: {log}");
                    match status.code() {
                        Some(0) => assert!(!log.contains("stop-overdue"), "{log}"),
                        Some(3) => assert!(log.contains("stop-overdue"), "{log}"),
                        _ => panic!("{status}: {log}"),
                    }
                }
                proxy.set(Line::Open);
                for member in &mut fleet.members {
                    member.start().await;
                }
                for member in &fleet.members {
                    member.is_ready().await;
                }
                load.goes_on(EVENTS).await;
            }
        },
    )
    .await;
}

/// The network of one of three hosts is cut; the others reach the brokers by
/// another way.
pub async fn the_network_of_a_host_is_cut(brokers: Arc<Brokers>) {
    let routes = brokers.cluster().detours();
    let proxy = Proxy::start(&routes).await;
    let detours: Vec<_> = routes.iter().map(|(outside, _)| &**outside).collect();
    let direct = brokers.cluster().brokers();
    let mut fleet = Fleet::new("network-cut", &[&detours.join(","), direct, direct]);
    for member in &mut fleet.members {
        member.start().await;
    }
    for member in &fleet.members {
        member.is_ready().await;
    }
    ridden_out("network cut", &brokers, fleet, async |fleet, load| {
        // The requests that the host sent arrive when nobody waits for them any
        // longer.
        proxy.set(Line::Silent);
        sleep(OVERSLEPT).await;
        proxy.set(Line::Open);
        load.goes_on(EVENTS).await;
        // The cut is shorter than the host's session, so it goes on as if
        // nothing had been.
        proxy.set(Line::Torn);
        sleep(AWHILE).await;
        proxy.set(Line::Open);
        load.goes_on(EVENTS).await;
        proxy.set(Line::Torn);
        sleep(OVERSLEPT).await;
        fleet.check();
        proxy.set(Line::Open);
    })
    .await;
}
