//! Tests that run on both engines, each under two names.
//!
//! Where Kafka is not available, its trials are reported as ignored, and the
//! suite prints the reason at the end.
//!
//! A trial is a named case of libtest-mimic. One test function for all cases would hide
//! which one failed.

use std::{panic::RefUnwindSafe, pin::Pin, process::ExitCode};

use libtest_mimic::{Arguments, Trial};

use crate::{Engine, kafka::brokers};

/// More trials run at a time than there are cores, because trials mostly wait.
const TRIALS_AT_A_TIME: usize = 6;

type Running = Pin<Box<dyn Future<Output = ()>>>;

/// A test's name, and what it does on an engine.
pub struct Test {
    pub name: String,
    pub run: Box<dyn Fn(Engine) -> Running + Send + RefUnwindSafe>,
}

/// Named tests from functions of the form `async fn(Engine)`.
#[macro_export]
macro_rules! tests {
    ($($test:path),* $(,)?) => {
        vec![$($crate::suite::Test {
            name: stringify!($test).replace(' ', ""),
            run: Box::new(|engine| Box::pin($test(engine))),
        }),*]
    };
}

/// Trials of a test binary.
#[derive(Default)]
pub struct Suite {
    trials: Vec<Trial>,
}

impl Suite {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tests that must pass on every engine.
    #[must_use]
    pub fn on_both(self, tests: impl Fn() -> Vec<Test>) -> Self {
        Engine::ALL
            .into_iter()
            .fold(self, |suite, engine| suite.on(engine, tests()))
    }

    /// Tests that are about one engine.
    #[must_use]
    pub fn on(mut self, engine: Engine, tests: Vec<Test>) -> Self {
        let is_ignored = engine == Engine::Kafka && why_not().is_some();
        let trials = tests.into_iter().map(|test| {
            let name = format!("{}::{}", engine.name(), test.name);
            let trial = Trial::test(name, move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on((test.run)(engine));
                Ok(())
            });
            trial.with_ignored_flag(is_ignored)
        });
        self.trials.extend(trials);
        self
    }

    /// Runs the trials that the arguments ask for.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads.get_or_insert(TRIALS_AT_A_TIME);
        let ended = libtest_mimic::run(&arguments, self.trials);
        if !arguments.list
            && let Some(why_not) = why_not()
        {
            println!("kafka: skipped: {why_not}");
        }
        ended.exit_code()
    }
}

/// Why trials on Kafka are skipped.
fn why_not() -> Option<&'static str> {
    if brokers::named().is_some() {
        return None;
    }
    brokers::why_not()
}
