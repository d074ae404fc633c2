//! Each folder of `cases/` is a behaviour: a plugin, its input, and what comes
//! of it. `cases/README.md` says what the files hold.
//!
//! Each event of a case must have led to one output or to one dead letter,
//! whatever the case expects. The case runs twice where it can: with its events
//! in one request, so that they meet in one call, and with each event processed
//! before the next one is sent.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use courtside_tests::{
    Engine, Place, built,
    suite::{Suite, Test},
    topics::Topics,
};
use serde::Deserialize;
use serde_json::Value;

const PIPELINE: &str = "cases";

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// The behaviour that the case shows, for people.
    #[allow(dead_code, reason = "for people")]
    about: String,
    /// Plugins by slot, below the pipeline.
    plugins: BTreeMap<String, String>,
    /// JSON pointer to the key of an event.
    #[serde(default = "key")]
    key: String,
    #[serde(default)]
    settings: BTreeMap<String, String>,
    #[serde(default = "both")]
    deliveries: Vec<Delivery>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Delivery {
    Together,
    OneByOne,
}

fn key() -> String {
    "/key".to_owned()
}

fn both() -> Vec<Delivery> {
    vec![Delivery::Together, Delivery::OneByOne]
}

/// A dead letter as a case expects it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    code: String,
    /// A part of the reason.
    #[serde(default)]
    reason: String,
    event: Value,
}

fn main() -> ExitCode {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut folders: Vec<PathBuf> = fs::read_dir(dir)
        .expect("the cases")
        .map(|entry| entry.expect("a case").path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    let tests = || folders.iter().flat_map(|folder| tests_of(folder)).collect();
    Suite::new().on_both(tests).run()
}

/// A test for each delivery of a case.
fn tests_of(folder: &Path) -> Vec<Test> {
    let name = folder.file_name().expect("a name").to_string_lossy();
    let case: Case = toml::from_str(&read(&folder.join("case.toml")))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let tests = case.deliveries.iter().map(|delivery| {
        let (folder, case, delivery) = (folder.to_owned(), case.clone(), *delivery);
        Test {
            name: format!("{name}::{delivery:?}"),
            run: Box::new(move |engine| {
                let (folder, case) = (folder.clone(), case.clone());
                Box::pin(async move { case.run(&folder, delivery, engine).await })
            }),
        }
    });
    tests.collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Case {
    async fn run(&self, folder: &Path, delivery: Delivery, engine: Engine) {
        let events: Vec<String> = read(&folder.join("events.ndjson"))
            .lines()
            .map(str::to_owned)
            .collect();
        let place = self.place(engine);
        let host = place.start_ready().await;
        for (slot, plugin) in &self.plugins {
            let slot = format!("{PIPELINE}/{slot}");
            host.runs(&slot, &built::plugin(plugin)).await;
        }

        let path = format!("/events/{PIPELINE}");
        match delivery {
            Delivery::Together => host.accepts_all(&path, &events).await,
            Delivery::OneByOne => {
                for event in &events {
                    let event: Value = serde_json::from_str(event).expect("an event");
                    let place = host.accepts(&path, &event).await;
                    host.game_after("nobody", PIPELINE, &place).await;
                }
            }
        }
        host.has_processed_all().await;

        let outputs: BTreeMap<String, Value> =
            serde_json::from_str(&read(&folder.join("outputs.json"))).expect("outputs by key");
        let mut keys: Vec<String> = events.iter().map(|event| self.key_of(event)).collect();
        keys.sort();
        keys.dedup();
        assert!(keys.iter().eq(outputs.keys()), "outputs of {keys:?}");
        for (key, wanted) in &outputs {
            let output = host.game_after(key, PIPELINE, "0:0").await;
            assert_eq!(&output.unwrap_or_default(), wanted, "the output of {key}");
        }
        host.stop().await;

        let topics = Topics::of(&place);
        let copies = topics.each_counted_once(PIPELINE, "events", "outputs");
        assert_eq!(copies, 0);
        self.check_dead_letters(folder, &topics, &keys);
    }

    /// One partition and one worker, so that all keys of a slot are neighbours.
    fn place(&self, engine: Engine) -> Place {
        let mut place = Place::new()
            .on(engine)
            .configured(&format!(
                "[pipelines.{PIPELINE}]\ninput = \"events\"\noutput = \"outputs\"\nkey = {:?}\n",
                self.key
            ))
            .set("log.partitions", "1")
            .set("worker.workers", "1");
        for (path, value) in &self.settings {
            place = place.set(path, value);
        }
        for (slot, plugin) in &self.plugins {
            place.put(&format!("{PIPELINE}/{slot}"), &built::plugin(plugin));
        }
        place
    }

    fn key_of(&self, event: &str) -> String {
        let event: Value = serde_json::from_str(event).expect("an event");
        let key = event.pointer(&self.key).and_then(Value::as_str);
        key.expect("an event with a key").to_owned()
    }

    fn check_dead_letters(&self, folder: &Path, topics: &Topics, keys: &[String]) {
        let file = folder.join("dead-letters.ndjson");
        let lines = if file.exists() {
            read(&file)
        } else {
            String::new()
        };
        let wanted: Vec<Expected> = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("a dead letter"))
            .collect();
        let letters = topics.dead_letters(PIPELINE);
        for key in keys {
            let wanted: Vec<_> = wanted
                .iter()
                .filter(|wanted| self.key_of(&wanted.event.to_string()) == *key)
                .collect();
            let letters: Vec<_> = letters.iter().filter(|letter| letter.key == *key).collect();
            let events = |event: &Value| event.to_string();
            assert_eq!(
                letters
                    .iter()
                    .map(|letter| (&*letter.code, events(&letter.event)))
                    .collect::<Vec<_>>(),
                wanted
                    .iter()
                    .map(|wanted| (&*wanted.code, events(&wanted.event)))
                    .collect::<Vec<_>>(),
                "the dead letters of {key}: {letters:#?}"
            );
            for (letter, wanted) in letters.iter().zip(wanted) {
                assert!(
                    letter.reason.contains(&wanted.reason),
                    "no {:?} in {letter:?}",
                    wanted.reason
                );
            }
        }
        assert_eq!(letters.len(), wanted.len(), "{letters:#?}");
    }
}
