//! Hosts are upgraded one by one to a plugin that turns out to be wrong, and partitions
//! go from host to host while these run different plugins.

use std::sync::Arc;

use courtside_tests::{
    Host, Place, built,
    games::{self, Game},
    until_within,
};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::{
    brokers::Brokers,
    fleet::{PATIENCE, SLOT},
};

const HOSTS: usize = 3;
/// The most restarts of one host until a partition has come to the bad plugin twice.
const RESTARTS_MAX: usize = 12;

/// Three hosts, and the games that they score.
struct Season {
    places: Vec<Place>,
    hosts: Vec<Option<Host>>,
    games: Vec<Game>,
    /// Part of each game's lines that was posted, from 0 to 1.
    played: f64,
}

impl Season {
    async fn start(brokers: &Brokers, plugin: &[u8]) -> Self {
        let address = brokers.cluster().brokers();
        let places = (0..HOSTS).map(|number| {
            Place::with_plugin(plugin)
                .with_fixed_port()
                .configured(
                    "[pipelines.scores]\ninput = \"upgrade.games\"\noutput = \"upgrade.scores\"\n\
                     group = \"upgrade.group\"\nkey = \"/game_id\"\npartitions = 6\n",
                )
                .set("kafka.brokers", address)
                .set("kafka.instance", &format!("host-{number}"))
                .set("kafka.session_timeout", "6s")
                .set("kafka.transaction_timeout", "6s")
                .set("kafka.request_timeout", "5s")
                .set("worker.drain_deadline", "4s")
                .set("worker.workers", "1")
        });
        let mut season = Self {
            places: places.collect(),
            hosts: Vec::new(),
            games: games::thirty(),
            played: 0.0,
        };
        for place in &season.places {
            season.hosts.push(Some(place.start_ready().await));
        }
        season
    }

    fn host(&self, number: usize) -> &Host {
        self.hosts[number].as_ref().expect("a running host")
    }

    async fn stop(&mut self, number: usize) {
        let host = self.hosts[number].take().expect("a running host");
        host.stop().await;
    }

    async fn start_again(&mut self, number: usize) {
        self.hosts[number] = Some(self.places[number].start_ready().await);
    }

    /// Plays on, up to a part of each game, and waits until all is processed.
    async fn play_to(&mut self, part: f64) {
        let running = self.hosts.iter().flatten().next().expect("a running host");
        for game in &self.games {
            let at = |part: f64| (game.lines.len() as f64 * part) as usize;
            running
                .accepts_all("/score", &game.lines[at(self.played)..at(part)])
                .await;
        }
        self.played = part;
        running.has_processed_all().await;
    }

    async fn plan(&self, number: usize) -> Value {
        let path = format!("/plugins/{SLOT}/rollback?dry_run=true");
        let answer = self.host(number).operate(Method::POST, &path, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    }
}

/// The most stints that the bad plugin had in one partition.
fn stints_of(plan: &Value) -> usize {
    let partitions = plan["partitions"].as_object().expect("partitions");
    let stints = partitions.values().map(|redone| {
        let stints = redone["stints"].as_array().expect("stints");
        for pair in stints.windows(2) {
            assert!(
                pair[0]["until"].as_u64() <= pair[1]["from"].as_u64(),
                "{plan}"
            );
        }
        assert_eq!(redone["from"], stints[0]["from"], "{plan}");
        stints.len()
    });
    stints.max().unwrap_or(0)
}

/// As each host is restarted with the bad plugin, partitions come to it, away from it and
/// to it again. After one rollback, nobody would know that it ever ran.
pub async fn a_rolling_upgrade_is_rolled_back(brokers: Arc<Brokers>) {
    let (good, bad) = (built::plugin("nba-scoring"), built::plugin("miscounting"));
    let mut season = Season::start(&brokers, &good).await;
    season.play_to(0.1).await;
    season.places[0].put(SLOT, &bad);
    let mut stints = 0;
    for restart in 0..RESTARTS_MAX {
        season.stop(0).await;
        season.play_to(0.15 + 0.04 * restart as f64).await;
        season.start_again(0).await;
        season.host(0).runs(SLOT, &bad).await;
        season.play_to(0.17 + 0.04 * restart as f64).await;
        stints = stints_of(&season.plan(0).await);
        if stints > 1 {
            break;
        }
    }
    assert!(stints > 1, "no partition came to the bad plugin twice");
    for number in 1..HOSTS {
        season.stop(number).await;
        season.places[number].put(SLOT, &bad);
        season.start_again(number).await;
        season.host(number).runs(SLOT, &bad).await;
    }
    season.play_to(0.8).await;
    until_within(PATIENCE, "all hosts to agree", || async {
        let view = season.host(0).slot(SLOT).await.expect("the slot");
        let hosts = view["hosts"].as_array().map_or(0, Vec::len);
        if view["agreed"] == true && hosts == HOSTS {
            Ok(())
        } else {
            Err(view.to_string())
        }
    })
    .await;

    let plan = season.plan(1).await;
    println!(
        "upgrades: up to {} stints, {} events to undo",
        stints_of(&plan),
        plan["events"]
    );
    let path = format!("/plugins/{SLOT}/rollback");
    let answer = season.host(1).operate(Method::POST, &path, "").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    for number in 0..HOSTS {
        season.host(number).runs(SLOT, &good).await;
    }
    season.play_to(1.0).await;
    for number in 0..HOSTS {
        let host = season.host(number);
        until_within(PATIENCE, "all to be processed again", || async {
            let group = host.get("/group").await.body;
            if group.contains("redoing") {
                Err(group)
            } else {
                Ok(())
            }
        })
        .await;
        host.has_processed_all().await;
        let mut wrong = Vec::new();
        for game in &season.games {
            let output = host.game(&game.id).await.expect("an output");
            let total: u64 = game.points().values().sum();
            let teams = output["points"].as_object().expect("points");
            let seen: u64 = teams.values().filter_map(Value::as_u64).sum();
            if seen != total {
                wrong.push(format!("{}: {seen} of {total}", game.id));
            }
        }
        assert!(
            wrong.is_empty(),
            "{} of {} finals are wrong: {wrong:?}",
            wrong.len(),
            season.games.len()
        );
        for game in &season.games {
            game.check(&host.game(&game.id).await.expect("an output"));
        }
    }
    for number in 0..HOSTS {
        season.stop(number).await;
    }
}
