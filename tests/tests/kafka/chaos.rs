//! Anything fails at any time, for a while. A seed determines the failures.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_tests::{until_within, wasm};
use courtside_types::Digest;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    brokers::Brokers,
    fleet::{Fleet, Member, PATIENCE, SLOT},
    judge::{Builds, judge, judge_finals},
    load::{Load, Pace, round_of},
    number_from,
};

/// Runs for `COURTSIDE_TEST_CHAOS_SECONDS` (60 by default); `COURTSIDE_TEST_SEED`
/// draws the same failures again.
pub async fn anything_may_fail(brokers: Arc<Brokers>) {
    ridden_out("chaos", Plot::Swaps, brokers).await;
}

/// A wrong plugin comes again and again meanwhile, on some hosts or on all, and is
/// rolled back.
pub async fn anything_may_fail_and_be_rolled_back(brokers: Arc<Brokers>) {
    ridden_out("chaos-rollback", Plot::Rollbacks, brokers).await;
}

/// The changes of plugins that happen beside the faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plot {
    /// Plugins with right logic take over from each other, so each output is judged.
    Swaps,
    /// A wrong plugin counts and is rolled back, so only the finals are judged.
    Rollbacks,
}

async fn ridden_out(test: &str, plot: Plot, brokers: Arc<Brokers>) {
    let seed = number_from("COURTSIDE_TEST_SEED").unwrap_or_else(rand::random);
    let seconds = number_from("COURTSIDE_TEST_CHAOS_SECONDS").unwrap_or(60);
    println!("{test}: COURTSIDE_TEST_SEED={seed} COURTSIDE_TEST_CHAOS_SECONDS={seconds}");
    let fleet = Fleet::start(test, &brokers).await;
    let load = Load::start(fleet.urls(), Pace::default(), seed);
    load.goes_on(100).await;
    let mut chaos = Chaos {
        plot,
        rng: StdRng::seed_from_u64(seed),
        builds: Builds::new(),
        fleet,
        brokers: Arc::clone(&brokers),
        restarting: None,
        ends: [const { None }; 3],
        games: games(),
        own_slots: Vec::new(),
        wrong: None,
        started: Instant::now(),
        done: [0; ACTIONS.len()],
    };
    while chaos.started.elapsed() < Duration::from_secs(seconds) {
        chaos.step().await;
    }
    let Chaos { fleet, done, .. } = chaos.end().await;
    load.goes_on(100).await;
    let (names, posted, boards) = load.end(fleet).await;
    let verdict = match plot {
        Plot::Swaps => judge(&brokers, &names, &posted, &boards),
        Plot::Rollbacks => judge_finals(&brokers, &names, &posted, &boards),
    };
    let done: Vec<_> = ACTIONS
        .iter()
        .zip(done)
        .map(|((action, ..), times)| (action, times))
        .collect();
    println!("{test}: COURTSIDE_TEST_SEED={seed} {seconds} s {done:?}: {verdict}");
}

#[derive(Clone, Copy, Debug)]
enum Action {
    KillHost,
    StartHost,
    StopHost,
    FreezeHost,
    ThawHost,
    KillBroker,
    StartBroker,
    KillAllBrokers,
    MoveLeaders,
    RestartHosts,
    Swap,
    SwapOneGame,
    RemoveOneGame,
    OfferBroken,
    OfferWrong,
    RollBack,
}

use Action::*;

/// The actions, with their weights in each plot. The weights let a fault end as
/// often as it begins.
const ACTIONS: [(Action, u32, u32); 16] = [
    (KillHost, 3, 3),
    (StartHost, 6, 6),
    (StopHost, 1, 1),
    (FreezeHost, 2, 2),
    (ThawHost, 4, 4),
    (KillBroker, 3, 3),
    (StartBroker, 5, 5),
    (KillAllBrokers, 1, 1),
    (MoveLeaders, 1, 1),
    (RestartHosts, 1, 2),
    (Swap, 2, 0),
    // The wrong plugin does not read the states that box-score leaves.
    (SwapOneGame, 3, 0),
    (RemoveOneGame, 1, 0),
    (OfferBroken, 1, 1),
    (OfferWrong, 0, 6),
    (RollBack, 0, 8),
];

/// A plugin that counts wrongly, and was not rolled back yet.
struct Wrong {
    plugin: Vec<u8>,
    digest: String,
}

/// The games that are played first.
fn games() -> Vec<String> {
    let games = courtside_tests::games::invented(Pace::default().games);
    games.iter().map(|game| round_of(&game.id, 1)).collect()
}

struct Chaos {
    plot: Plot,
    rng: StdRng,
    builds: Builds,
    fleet: Fleet,
    brokers: Arc<Brokers>,
    /// The task that starts brokers, while other things happen.
    restarting: Option<JoinHandle<()>>,
    /// The tasks of hosts that end.
    ends: [Option<JoinHandle<()>>; 3],
    /// The games that may get a plugin of their own, and the slots of those that
    /// did.
    games: Vec<String>,
    own_slots: Vec<String>,
    wrong: Option<Wrong>,
    started: Instant,
    done: [usize; ACTIONS.len()],
}

impl Chaos {
    async fn step(&mut self) {
        let weights = ACTIONS.map(|(_, swaps, rollbacks)| match self.plot {
            Plot::Swaps => swaps,
            Plot::Rollbacks => rollbacks,
        });
        let mut drawn = self.rng.random_range(0..weights.iter().sum());
        let mut index = 0;
        while drawn >= weights[index] {
            drawn -= weights[index];
            index += 1;
        }
        let (action, ..) = ACTIONS[index];
        // All numbers are drawn, needed or not, so that later draws do not depend on
        // how fast things went.
        let number = self.rng.random_range(0..self.fleet.members.len());
        let broker = self.rng.random_range(1..=3);
        let pause = self.rng.random_range(200..2500);
        let dice = self.rng.random::<u32>();
        self.fleet.check();
        if self.act(action, number, broker, dice).await {
            self.done[index] += 1;
            println!(
                "chaos: {:6.1} s {:?}, hosts {:?}, brokers {}",
                self.started.elapsed().as_secs_f64(),
                action,
                self.fleet
                    .members
                    .iter()
                    .map(Member::state)
                    .collect::<Vec<_>>(),
                if self.brokers.are_up() { "up" } else { "down" },
            );
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Does an action, and returns whether it could be done now.
    async fn act(&mut self, action: Action, number: usize, broker: u32, dice: u32) -> bool {
        let is_restarting = self
            .restarting
            .as_ref()
            .is_some_and(|task| !task.is_finished());
        let are_up = !is_restarting && self.brokers.are_up();
        // `StartHost` and `ThawHost` take the next host that is down or frozen.
        let number = (0..self.fleet.members.len())
            .map(|next| (number + next) % self.fleet.members.len())
            .find(|number| match action {
                StartHost => !self.fleet.members[*number].is_running(),
                ThawHost => self.fleet.members[*number].is_frozen(),
                _ => true,
            })
            .unwrap_or(number);
        let end = &self.ends[number];
        let is_ending = end.as_ref().is_some_and(|end| !end.is_finished());
        let member = &mut self.fleet.members[number];
        match action {
            KillHost if member.is_running() => member.kill(),
            // Without brokers the host would refuse to start.
            StartHost if !member.is_running() && !is_ending && are_up => member.spawn(),
            StopHost if member.is_running() && !member.is_frozen() => {
                self.ends[number] = Some(tokio::spawn(member.stop()));
            }
            FreezeHost if member.is_running() && !member.is_frozen() => member.freeze(),
            ThawHost if member.is_frozen() => member.thaw(),
            KillBroker if are_up => self.brokers.kill(&[broker]),
            KillAllBrokers if are_up => self.brokers.kill(&[1, 2, 3]),
            StartBroker if !is_restarting && !self.brokers.are_up() => {
                let brokers = Arc::clone(&self.brokers);
                let start = tokio::task::spawn_blocking(move || brokers.start_all());
                self.restarting = Some(start);
            }
            MoveLeaders if are_up => {
                let topics = ["__consumer_offsets", "__transaction_state"];
                let topics = topics.map(|topic| (topic, crate::fleet::PARTITIONS));
                self.brokers.move_leaders(&topics, dice % 3);
            }
            RestartHosts if are_up => self.restart_hosts().await,
            Swap => {
                let builds = &self.builds.scoring;
                self.put(SLOT, dice, &builds[dice as usize % builds.len()]);
            }
            SwapOneGame => {
                let game = &self.games[dice as usize % self.games.len()];
                let slot = format!("scores/keys/{game}");
                self.put(&slot, dice >> 8, &self.builds.box_score);
                self.own_slots.push(slot);
            }
            RemoveOneGame if !self.own_slots.is_empty() => {
                let slot = self.own_slots.remove(0);
                for member in &self.fleet.members {
                    // Not all hosts have the file.
                    drop(std::fs::remove_file(member.place.slot_file(&slot)));
                }
            }
            OfferBroken => self.put(SLOT, dice, &self.builds.broken),
            OfferWrong if self.wrong.is_none() && dice & 7 != 0 => {
                let plugin = wasm::variant(&self.builds.wrong, &format!("{dice}"));
                self.put(SLOT, dice, &plugin);
                let digest = Digest::of(&plugin).to_string();
                self.wrong = Some(Wrong { plugin, digest });
            }
            RollBack if self.wrong.is_some() => return self.roll_back(number).await,
            _ => return false,
        }
        true
    }

    /// Restarts the hosts one after another, as an operator does.
    async fn restart_hosts(&mut self) {
        for member in &mut self.fleet.members {
            if member.is_running() && !member.is_frozen() {
                member.stop().await;
                member.spawn();
                member.listens().await;
            }
        }
    }

    /// Rolls the wrong plugin back, and returns whether that worked. A host that is
    /// down, or cannot reach the brokers, takes no such order, and one that has not
    /// run the plugin has nothing to undo.
    async fn roll_back(&mut self, number: usize) -> bool {
        let Some(wrong) = &self.wrong else {
            return false;
        };
        let path = format!("/plugins/{SLOT}/rollback?digest={}", wrong.digest);
        let members = self.fleet.members.iter();
        let members = members.cycle().skip(number).take(self.fleet.members.len());
        for member in members.filter(|member| member.is_running() && !member.is_frozen()) {
            if matches!(member.operate(&path).await, Ok((StatusCode::OK, _))) {
                self.wrong = None;
                return true;
            }
        }
        false
    }

    /// Undoes the wrong plugin for good, if there is one.
    async fn right(&mut self) {
        let Some(wrong) = self.wrong.take() else {
            return;
        };
        let digest = &wrong.digest;
        for member in &self.fleet.members {
            member.place.put(SLOT, &wrong.plugin);
        }
        for member in &self.fleet.members {
            until_within(PATIENCE, "the wrong plugin to run", || async {
                let (_, body) = member.get("/plugins").await?;
                let view: Value = serde_json::from_str(&body).map_err(|_| body.clone())?;
                let mut slots = view["slots"].as_array().into_iter().flatten();
                let runs =
                    |slot: &Value| slot["slot"] == SLOT && slot["plugin"]["digest"] == **digest;
                slots.any(runs).then_some(()).ok_or(body)
            })
            .await;
        }
        let path = format!("/plugins/{SLOT}/rollback?digest={digest}");
        until_within(PATIENCE, "a rollback", || async {
            match self.fleet.members[0].operate(&path).await? {
                (StatusCode::OK, _) => Ok(()),
                answer => Err(format!("{answer:?}")),
            }
        })
        .await;
    }

    /// Waits until nothing is being processed again.
    async fn has_caught_up(&self) {
        for member in &self.fleet.members {
            until_within(PATIENCE, "all to be processed again", || async {
                let (_, body) = member.get("/group").await?;
                let view: Value = serde_json::from_str(&body).map_err(|_| body.clone())?;
                let partitions = view["groups"][0]["partitions"].as_array();
                let mut partitions = partitions.into_iter().flatten();
                let is_over = partitions.all(|partition| partition["state"] != "redoing");
                is_over.then_some(()).ok_or(body)
            })
            .await;
        }
    }

    /// Puts a plugin on all hosts, or on some.
    fn put(&self, slot: &str, dice: u32, build: &[u8]) {
        for (number, member) in self.fleet.members.iter().enumerate() {
            if dice & 7 == 0 || dice & (1 << number) != 0 {
                member.place.put(slot, build);
            }
        }
    }

    /// Mends everything that is broken.
    async fn end(mut self) -> Self {
        let restarting = self.restarting.take();
        for task in restarting
            .into_iter()
            .chain(self.ends.iter_mut().filter_map(Option::take))
        {
            task.await.expect("brokers that start, and hosts that end");
        }
        self.brokers.heal();
        for member in &mut self.fleet.members {
            if member.is_frozen() {
                member.thaw();
            }
        }
        for member in &mut self.fleet.members {
            if !member.is_running() {
                member.spawn();
            }
            member.listens().await;
        }
        self.right().await;
        self.has_caught_up().await;
        self
    }
}
