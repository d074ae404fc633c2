//! Hosts side by side: each with its own data and plugins, all of one group.

use std::{collections::BTreeMap, process::ExitStatus, time::Duration};

use courtside_tests::{Host, Place, built, until_within};
use reqwest::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::brokers::Brokers;

pub const PARTITIONS: u32 = 8;
pub const SLOT: &str = "scores/default";
/// Time for brokers that start and sessions that end, on two cores for all of
/// it.
pub const PATIENCE: Duration = Duration::from_secs(240);
/// The last words of a host that found no broker at its start.
const NO_BROKER: &str = "courtside: log-unavailable: the record log is unavailable: no broker of ";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The topics and the group of one test.
#[derive(Clone, Debug)]
pub struct Names {
    pub input: String,
    pub output: String,
    pub group: String,
}

impl Names {
    fn new(test: &str) -> Self {
        Self {
            input: format!("{test}.games"),
            output: format!("{test}.scores"),
            group: format!("{test}.group"),
        }
    }

    pub fn dead_letters(&self) -> String {
        format!("{}.dead-letter", self.group)
    }

    pub fn checkpoints(&self) -> String {
        format!("{}.checkpoints", self.group)
    }
}

/// The latest output of each game, as a host shows it.
pub type Board = BTreeMap<String, String>;

/// A page of `GET /games`.
#[derive(Deserialize)]
struct Page {
    games: Vec<Box<RawValue>>,
    keys: Vec<String>,
    next: Option<String>,
}

pub struct Fleet {
    pub names: Names,
    pub members: Vec<Member>,
}

/// A host's place, and the host while it runs.
pub struct Member {
    pub place: Place,
    http: reqwest::Client,
    host: Option<Host>,
    is_frozen: bool,
}

impl Fleet {
    /// Places for hosts that reach the brokers at these addresses. No host runs
    /// yet.
    pub fn new(test: &str, brokers: &[&str]) -> Self {
        let names = Names::new(test);
        let plugin = built::plugin("nba-scoring");
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(REQUEST_TIMEOUT)
            .build()
            .expect("an http client");
        let members = brokers.iter().enumerate().map(|(number, brokers)| {
            let place = Place::with_plugin(&plugin)
                .with_fixed_port()
                .configured(&format!(
                    "[pipelines.scores]\ninput = {:?}\noutput = {:?}\ngroup = {:?}\nkey = \"/game_id\"\npartitions = {PARTITIONS}\n",
                    names.input, names.output, names.group,
                ))
                .set("kafka.brokers", brokers)
                .set("kafka.instance", &format!("host-{number}"))
                .set("kafka.session_timeout", "6s")
                .set("kafka.transaction_timeout", "6s")
                .set("kafka.request_timeout", "5s")
                .set("worker.drain_deadline", "4s")
                .set("http.drain_timeout", "4s")
                .set("worker.workers", "2");
            Member {
                place,
                http: http.clone(),
                host: None,
                is_frozen: false,
            }
        });
        Self {
            members: members.collect(),
            names,
        }
    }

    /// Three hosts that are ready.
    pub async fn start(test: &str, brokers: &Brokers) -> Self {
        let brokers = brokers.cluster().brokers();
        let mut fleet = Self::new(test, &[brokers; 3]);
        for number in 0..fleet.members.len() {
            fleet.members[number].start().await;
        }
        for member in &fleet.members {
            member.is_ready().await;
        }
        fleet
    }

    pub fn urls(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| member.place.url())
            .collect()
    }

    /// Checks that no host ended by itself.
    pub fn check(&mut self) {
        for member in &mut self.members {
            member.check();
        }
    }

    /// Waits until the group has processed all that was posted, as each host
    /// sees it.
    pub async fn has_processed_all(&self) {
        for member in self.members.iter().filter(|member| member.is_running()) {
            until_within(PATIENCE, "all events to be processed", || async {
                let (_, body) = member.get("/group").await?;
                let view: Value = serde_json::from_str(&body).map_err(|_| body.clone())?;
                let group = &view["groups"][0];
                let partitions = group["partitions"].as_array().map_or(0, Vec::len);
                if group["lag"] == 0 && partitions == PARTITIONS as usize {
                    Ok(())
                } else {
                    Err(body)
                }
            })
            .await;
        }
    }

    /// Waits until the brokers tell each host which member has which partition.
    pub async fn sees_its_members(&self) {
        for member in self.members.iter().filter(|member| member.is_running()) {
            until_within(PATIENCE, "a host to see the group's members", || async {
                let (_, body) = member.get("/group").await?;
                let view: Value = serde_json::from_str(&body).map_err(|_| body.clone())?;
                let members = view["groups"][0]["members"].as_array();
                let owned = members.into_iter().flatten();
                let owned = owned.map(|member| member["partitions"].as_array().map_or(0, Vec::len));
                if owned.sum::<usize>() == PARTITIONS as usize {
                    Ok(())
                } else {
                    Err(body)
                }
            })
            .await;
        }
    }

    /// The latest outputs of all games as each host shows them, whoever
    /// processed them, up to what is there now.
    pub async fn boards(&self) -> Vec<Board> {
        let mut boards = Vec::new();
        for member in self.members.iter().filter(|member| member.is_running()) {
            boards.push(member.board().await);
        }
        boards
    }

    pub async fn stop(self) {
        let ends: Vec<_> = self
            .members
            .into_iter()
            .map(|mut member| (member.stop(), member))
            .collect();
        for (end, _) in ends {
            end.await;
        }
    }
}

impl Member {
    pub const fn is_running(&self) -> bool {
        self.host.is_some()
    }

    pub const fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// The member's state, for people.
    pub const fn state(&self) -> &'static str {
        match (self.is_running(), self.is_frozen) {
            (false, _) => "down",
            (true, true) => "frozen",
            (true, false) => "up",
        }
    }

    /// Starts the host, and waits for nothing.
    pub fn spawn(&mut self) {
        self.host = Some(self.place.spawn());
    }

    /// Starts the host, and waits until it listens.
    pub async fn start(&mut self) {
        self.spawn();
        self.listens().await;
    }

    pub async fn listens(&mut self) {
        until_within(PATIENCE, "a host to listen", || {
            self.check();
            let asking = self.get("/healthz");
            async { asking.await.map(|_| ()) }
        })
        .await;
    }

    pub async fn is_ready(&self) {
        until_within(PATIENCE, "a host to be ready", || async {
            match self.get("/readyz").await? {
                (StatusCode::OK, _) => Ok(()),
                (_, said) => Err(said),
            }
        })
        .await;
    }

    /// Checks that the host did not end by itself. A host that found no broker
    /// when it started says so and ends; it is started again, as a supervisor
    /// would.
    pub fn check(&mut self) {
        let Some(host) = &mut self.host else {
            return;
        };
        if host.is_running() {
            return;
        }
        let log = host.log();
        assert!(log.contains(NO_BROKER), "a host ended: {log}");
        println!("a host found no broker, and is started again");
        self.spawn();
    }

    /// The host's answer; an error says that it does not answer.
    pub fn get(
        &self,
        path: &str,
    ) -> impl Future<Output = Result<(StatusCode, String), String>> + use<> {
        let request = self.http.get(format!("{}{path}", self.place.url()));
        async move {
            let failed = |error: reqwest::Error| format!("{error:?}");
            let answer = request.send().await.map_err(failed)?;
            let status = answer.status();
            Ok((status, answer.text().await.map_err(failed)?))
        }
    }

    /// Sends an operator's order, and returns the host's answer; an error says
    /// that it does not answer.
    pub async fn operate(&self, path: &str) -> Result<(StatusCode, String), String> {
        let failed = |error: reqwest::Error| format!("{error:?}");
        let request = self.http.post(format!("{}{path}", self.place.url()));
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        Ok((status, answer.text().await.map_err(failed)?))
    }

    async fn board(&self) -> Board {
        let view: Value = self.json("/group").await;
        for partition in view["groups"][0]["partitions"].as_array().expect("some") {
            let end = partition["end"].as_u64().expect("an offset");
            if let Some(last) = end.checked_sub(1) {
                let place = format!("{}:{last}", partition["partition"]);
                let _: Page = self.json(&format!("/games?limit=1&after={place}")).await;
            }
        }
        let mut board = Board::new();
        let mut next = Some(String::new());
        while let Some(cursor) = next {
            let page: Page = self.json(&format!("/games?limit=1000{cursor}")).await;
            let games = page.games.iter().map(|game| game.get().to_owned());
            board.extend(page.keys.into_iter().zip(games));
            next = page.next.map(|next| format!("&cursor={next}"));
        }
        board
    }

    async fn json<T: DeserializeOwned>(&self, path: &str) -> T {
        until_within(PATIENCE, path, || async {
            let (status, body) = self.get(path).await?;
            let json = serde_json::from_str(&body);
            json.ok().filter(|_| status == StatusCode::OK).ok_or(body)
        })
        .await
    }

    /// The host's answer to an event, and whether it says when to come again.
    pub async fn post(&self, event: &str) -> (StatusCode, Value, bool) {
        let request = self.http.post(format!("{}/score", self.place.url()));
        let request = request.header("content-type", "application/json");
        let answer = request.body(event.to_owned()).send().await;
        let answer = answer.expect("an answer");
        let retries = answer.headers().contains_key("retry-after");
        (answer.status(), answer.json().await.expect("json"), retries)
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.is_frozen = false;
        if let Some(host) = self.host.take() {
            host.kill();
        }
    }

    /// Sends SIGTERM. The returned future waits for a clean end.
    pub fn stop(&mut self) -> impl Future<Output = ()> + use<> {
        let host = self.host.take();
        if let Some(host) = &host {
            host.terminate();
        }
        async {
            if let Some(host) = host {
                host.stop().await;
            }
        }
    }

    /// Sends SIGTERM. The returned future waits for any end, and gives the
    /// status and the log.
    pub fn end(&mut self) -> impl Future<Output = (ExitStatus, String)> + use<> {
        let mut host = self.host.take().expect("a host that runs");
        host.terminate();
        async move {
            let status = host.ended().await;
            (status, host.log())
        }
    }

    /// The failed commits of the host's workers, by code.
    pub async fn commits_failed(&self) -> BTreeMap<String, u64> {
        let (_, text) = self.get("/metrics").await.expect("an answer");
        let mut failed = BTreeMap::new();
        for line in text.lines() {
            let Some(labels) = line.strip_prefix("courtside_commit_failures_total{") else {
                continue;
            };
            let code = labels.split("code=\"").nth(1);
            let code = code.and_then(|rest| rest.split('"').next());
            let count = labels
                .rsplit(' ')
                .next()
                .and_then(|count| count.parse().ok());
            let (code, count): (&str, u64) = code.zip(count).expect("a code and a count");
            *failed.entry(code.to_owned()).or_default() += count;
        }
        failed
    }

    /// Sends SIGSTOP.
    pub fn freeze(&mut self) {
        self.host.as_ref().expect("a host that runs").freeze();
        self.is_frozen = true;
    }

    /// Sends SIGCONT.
    pub fn thaw(&mut self) {
        self.host.as_ref().expect("a host that runs").thaw();
        self.is_frozen = false;
    }
}
