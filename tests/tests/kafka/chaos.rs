//! Anything fails at any time, for a while; what comes of it is drawn from a
//! seed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    brokers::Brokers,
    fleet::{Fleet, Member, SLOT},
    judge::{Builds, judge},
    load::{Load, Pace, round_of},
    number_from,
};

/// `COURTSIDE_TEST_SEED` draws the same again, `COURTSIDE_TEST_CHAOS_SECONDS`
/// says for how long (60).
pub async fn anything_may_fail(brokers: Arc<Brokers>) {
    let seed = number_from("COURTSIDE_TEST_SEED").unwrap_or_else(rand::random);
    let seconds = number_from("COURTSIDE_TEST_CHAOS_SECONDS").unwrap_or(60);
    println!("chaos: COURTSIDE_TEST_SEED={seed} COURTSIDE_TEST_CHAOS_SECONDS={seconds}");
    let fleet = Fleet::start("chaos", &brokers).await;
    let load = Load::start(fleet.urls(), Pace::default(), seed);
    load.goes_on(100).await;
    let mut chaos = Chaos {
        rng: StdRng::seed_from_u64(seed),
        builds: Builds::new(),
        fleet,
        brokers: Arc::clone(&brokers),
        restarting: None,
        ends: [const { None }; 3],
        games: games(),
        own_slots: Vec::new(),
        started: Instant::now(),
        done: [0; ACTIONS.len()],
    };
    while chaos.started.elapsed() < Duration::from_secs(seconds) {
        chaos.step().await;
    }
    let Chaos {
        mut fleet, done, ..
    } = chaos.end().await;
    load.goes_on(100).await;
    let posted = load.stop().await;
    fleet.has_processed_all().await;
    fleet.check();
    let names = fleet.names.clone();
    let boards = fleet.boards().await;
    fleet.stop().await;
    let verdict = judge(&brokers, &names, &posted, &boards);
    let done: Vec<_> = ACTIONS.iter().zip(done).collect();
    println!("chaos: COURTSIDE_TEST_SEED={seed} {seconds} s {done:?}: {verdict}");
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
    Swap,
    SwapOneGame,
    RemoveOneGame,
    OfferBroken,
}

use Action::*;

/// What is drawn. What can be begun and ended is ended as often as begun.
const ACTIONS: [Action; 13] = [
    KillHost,
    StartHost,
    StopHost,
    FreezeHost,
    ThawHost,
    KillBroker,
    StartBroker,
    KillAllBrokers,
    MoveLeaders,
    Swap,
    SwapOneGame,
    RemoveOneGame,
    OfferBroken,
];
const WEIGHTS: [u32; ACTIONS.len()] = [3, 6, 1, 2, 4, 3, 5, 1, 1, 2, 3, 1, 1];

/// Those that are played first.
fn games() -> Vec<String> {
    let games = courtside_tests::games::invented(Pace::default().games);
    games.iter().map(|game| round_of(&game.id, 1)).collect()
}

struct Chaos {
    rng: StdRng,
    builds: Builds,
    fleet: Fleet,
    brokers: Arc<Brokers>,
    /// Brokers that start, beside what else happens.
    restarting: Option<JoinHandle<()>>,
    /// Hosts that end.
    ends: [Option<JoinHandle<()>>; 3],
    /// Keys that may get a plugin of their own, and the slots of those that did.
    games: Vec<String>,
    own_slots: Vec<String>,
    started: Instant,
    done: [usize; ACTIONS.len()],
}

impl Chaos {
    async fn step(&mut self) {
        let total: u32 = WEIGHTS.iter().sum();
        let mut drawn = self.rng.random_range(0..total);
        let mut index = 0;
        while drawn >= WEIGHTS[index] {
            drawn -= WEIGHTS[index];
            index += 1;
        }
        // Drawn whether they are needed or not, so that what is drawn next does
        // not depend on how fast things went.
        let number = self.rng.random_range(0..self.fleet.members.len());
        let broker = self.rng.random_range(1..=3);
        let pause = self.rng.random_range(200..2500);
        let dice = self.rng.random::<u32>();
        self.fleet.check();
        if self.act(ACTIONS[index], number, broker, dice).await {
            self.done[index] += 1;
            println!(
                "chaos: {:6.1} s {:?}, hosts {:?}, brokers {}",
                self.started.elapsed().as_secs_f64(),
                ACTIONS[index],
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

    /// Whether it could be done now.
    async fn act(&mut self, action: Action, number: usize, broker: u32, dice: u32) -> bool {
        let is_restarting = self
            .restarting
            .as_ref()
            .is_some_and(|task| !task.is_finished());
        let are_up = !is_restarting && self.brokers.are_up();
        // Of hosts that are down or stand still, one that is there to be drawn.
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
            // Without brokers it would refuse to start.
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
                    // Not all have it.
                    drop(std::fs::remove_file(member.place.slot_file(&slot)));
                }
            }
            OfferBroken => self.put(SLOT, dice, &self.builds.broken),
            _ => return false,
        }
        true
    }

    /// On all hosts, or on some.
    fn put(&self, slot: &str, dice: u32, build: &[u8]) {
        for (number, member) in self.fleet.members.iter().enumerate() {
            if dice & 7 == 0 || dice & (1 << number) != 0 {
                member.place.put(slot, build);
            }
        }
    }

    /// All is mended.
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
        self
    }
}
