//! Hosts on real brokers, while brokers, hosts and the network between them
//! fail. Events are posted all the while, and in the end an independent judge
//! goes over what Kafka's own consumer reads.
//!
//! The tests share three brokers and are hard on them, so they run one after
//! another. Without Kafka the tests are skipped, and say so.

mod brokers;
mod chaos;
mod faults;
mod fleet;
mod judge;
mod load;
mod scale;
mod upgrades;

use std::{
    env,
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use courtside_tests::Cluster;
use libtest_mimic::{Arguments, Trial};

use self::brokers::Brokers;

const BROKERS: u32 = 3;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = tests().into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            if let Some(brokers) = brokers() {
                brokers.heal();
                runtime().block_on(test(brokers));
            }
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// The brokers, which start for the first test and end with this process.
fn brokers() -> Option<Arc<Brokers>> {
    static BROKERS_UP: OnceLock<Option<Arc<Brokers>>> = OnceLock::new();
    let up = || Some(Arc::new(Brokers::new(Cluster::up_with_detours(BROKERS)?)));
    BROKERS_UP.get_or_init(up).clone()
}

/// A number from the environment.
fn number_from(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

type Test = fn(Arc<Brokers>) -> std::pin::Pin<Box<dyn Future<Output = ()>>>;

macro_rules! tests {
    ($($module:ident::$name:ident,)*) => {
        vec![$((stringify!($name), (|brokers| Box::pin($module::$name(brokers))) as Test),)*]
    };
}

fn tests() -> Vec<(&'static str, Test)> {
    tests![
        faults::a_broker_is_killed_and_comes_back,
        faults::leaders_and_coordinators_move,
        faults::the_coordinators_are_killed,
        faults::all_brokers_go_and_come_back,
        faults::a_host_is_killed,
        faults::a_host_sleeps_longer_than_its_session,
        faults::the_network_of_a_host_is_cut,
        faults::hosts_stop_while_no_broker_answers,
        scale::rolling_restarts_fence_no_owner,
        scale::hosts_come_and_go_under_load,
        upgrades::a_rolling_upgrade_is_rolled_back,
        chaos::anything_may_fail,
        chaos::anything_may_fail_and_be_rolled_back,
    ]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime")
}
