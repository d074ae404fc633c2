//! The judge knows nothing of hosts. It reads the input and the outputs with
//! Kafka's console consumer, and runs the input through the plugins' native logic.
//! The outputs must be the same, record for record.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
};

use box_score::BoxScore;
use courtside_plugin::native::{self, Entity};
use courtside_tests::{built, kafka::Consumed, wasm};
use courtside_types::Digest;
use nba_scoring::Game;
use serde_json::Value;

use crate::{
    brokers::{Brokers, blocking},
    fleet::{Board, Names},
    load::Posted,
};

/// How many idempotency keys an entity remembers, as documented.
const RECENT_MAX: usize = 128;
const SHOWN_MAX: usize = 20;
/// The most looks at outputs of which some seem to be missing.
const LOOKS_MAX: usize = 3;

/// The logic of a plugin's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Logic {
    Scoring,
    BoxScore,
}

/// The files that may take over, a broken one that cannot, and a wrong one that
/// must be taken back.
pub struct Builds {
    pub scoring: Vec<Vec<u8>>,
    pub box_score: Vec<u8>,
    pub broken: Vec<u8>,
    pub wrong: Vec<u8>,
}

impl Builds {
    pub fn new() -> Self {
        let scoring = built::plugin("nba-scoring");
        Self {
            broken: wasm::trapping_at_start(&scoring),
            box_score: built::plugin("box-score"),
            wrong: built::plugin("miscounting"),
            scoring: vec![
                wasm::variant(&scoring, "identical in logic"),
                wasm::variant(&scoring, "another time"),
                scoring,
            ],
        }
    }

    fn by_digest(&self) -> HashMap<String, Logic> {
        let scoring = self.scoring.iter().map(|build| (build, Logic::Scoring));
        scoring
            .chain([(&self.box_score, Logic::BoxScore)])
            .map(|(build, logic)| (Digest::of(build).to_string(), logic))
            .collect()
    }
}

/// The counts of a judgement.
#[derive(Debug, Default)]
pub struct Verdict {
    acknowledged: usize,
    input: usize,
    copies: usize,
    outputs: usize,
    takeovers: usize,
    by_logic: BTreeMap<Logic, usize>,
    builds: usize,
    boards: usize,
    games: usize,
    refusals: BTreeMap<String, usize>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events acknowledged; {} in the input, {} of them copies; {} outputs {:?} by {} builds, {} takeovers between logics; {} hosts show {} games; refused and sent again: {:?}",
            self.acknowledged,
            self.input,
            self.copies,
            self.outputs,
            self.by_logic,
            self.builds,
            self.takeovers,
            self.boards,
            self.games,
            self.refusals,
        )
    }
}

/// Judges the records that a test left in its topics.
///
/// # Panics
/// If anything is wrong, with a list of it.
pub fn judge(brokers: &Brokers, names: &Names, posted: &Posted, boards: &[Board]) -> Verdict {
    look(brokers, names, posted, boards, |case, input, outputs| {
        case.outputs(input, outputs)
    })
}

/// Judges the records that a test left in its topics after a wrong plugin was
/// rolled back. The wrong outputs are still there, so only the last of each game
/// must be right.
///
/// # Panics
/// If anything is wrong, with a list of it.
pub fn judge_finals(
    brokers: &Brokers,
    names: &Names,
    posted: &Posted,
    boards: &[Board],
) -> Verdict {
    look(brokers, names, posted, boards, |case, input, outputs| {
        case.finals(input, outputs)
    })
}

fn look(
    brokers: &Brokers,
    names: &Names,
    posted: &Posted,
    boards: &[Board],
    outputs_are_right: impl Fn(&mut Case<'_>, &[Consumed], &[Consumed]),
) -> Verdict {
    let cluster = brokers.cluster();
    let input = blocking(|| cluster.consume(&names.input));
    let mut looks = 1;
    loop {
        let outputs = blocking(|| cluster.consume(&names.output));
        let mut case = Case::new(names);
        case.acknowledged(&input, posted);
        outputs_are_right(&mut case, &input, &outputs);
        case.boards(&outputs, boards);
        // The consumer may have ended before brokers under load sent everything.
        if case.missing && looks < LOOKS_MAX {
            looks += 1;
            continue;
        }
        let dead_letters = blocking(|| cluster.consume(&names.dead_letters()));
        if !dead_letters.is_empty() {
            case.wrong.push(format!("dead letters: {dead_letters:#?}"));
        }
        let count = case.wrong.len();
        case.wrong.truncate(SHOWN_MAX);
        assert!(
            count == 0,
            "{count} wrongs, the first of which are {:#?}\n{}",
            case.wrong,
            case.verdict
        );
        case.verdict.refusals.clone_from(&posted.refusals);
        return case.verdict;
    }
}

struct Case<'a> {
    names: &'a Names,
    logics: HashMap<String, Logic>,
    wrong: Vec<String>,
    missing: bool,
    verdict: Verdict,
}

impl<'a> Case<'a> {
    fn new(names: &'a Names) -> Self {
        Self {
            names,
            logics: Builds::new().by_digest(),
            wrong: Vec::new(),
            missing: false,
            verdict: Verdict::default(),
        }
    }

    /// Checks that each acknowledged event is where the host said.
    fn acknowledged(&mut self, input: &[Consumed], posted: &Posted) {
        let places: HashMap<_, _> = input
            .iter()
            .map(|record| ((record.partition, record.offset), record))
            .collect();
        assert_eq!(places.len(), input.len(), "two records at one offset");
        for event in &posted.acknowledged {
            let found = places.get(&(event.partition, event.offset));
            let is_there = found.is_some_and(|record| {
                record.key.as_ref() == Some(&event.game)
                    && record.value.as_ref() == Some(&event.event)
            });
            if !is_there {
                self.wrong
                    .push(format!("acknowledged: {event:?}, in the log: {found:?}"));
            }
        }
        self.verdict.acknowledged = posted.acknowledged.len();
        self.verdict.input = input.len();
    }

    fn outputs(&mut self, input: &[Consumed], outputs: &[Consumed]) {
        self.verdict.outputs = outputs.len();
        let mut by_source: HashMap<&str, Vec<&Consumed>> = HashMap::new();
        let mut last: HashMap<(&str, Option<&str>), u64> = HashMap::new();
        for output in outputs {
            let source = output.header("courtside-source").unwrap_or_default();
            by_source.entry(source).or_default().push(output);
            // The outputs of each entity come in the order of their sources.
            let Some((partition, offset)) = source.rsplit_once('/') else {
                self.wrong
                    .push(format!("an output without a source: {output:?}"));
                continue;
            };
            let offset = offset.parse().expect("an offset");
            let before = last.insert((partition, output.key.as_deref()), offset);
            if before.is_some_and(|before| before >= offset) {
                self.wrong
                    .push(format!("{source} comes after {before:?}: {output:?}"));
            }
        }
        let mut builds = BTreeSet::new();
        let mut entities: HashMap<(u32, &str), Judged> = HashMap::new();
        for record in input {
            let key = record.key.as_deref().expect("a key");
            let judged = entities.entry((record.partition, key));
            let judged = judged.or_insert_with(|| Judged::new(key));
            let source = format!(
                "{}/{}/{}",
                self.names.input, record.partition, record.offset
            );
            let led_to = by_source.remove(&*source).unwrap_or_default();
            if judged.is_copy(record) {
                self.verdict.copies += 1;
                if !led_to.is_empty() {
                    self.wrong.push(format!("a copy led to {led_to:?}"));
                }
                continue;
            }
            if led_to.len() > 1 {
                self.wrong
                    .push(format!("{source} led to {}: {led_to:#?}", led_to.len()));
            }
            let Some(output) = led_to.first() else {
                self.missing = true;
                self.wrong
                    .push(format!("nothing came of {source}, {record:?}"));
                judged.process(record);
                continue;
            };
            let digest = output.header("courtside-digest").unwrap_or_default();
            let Some(logic) = self.logics.get(digest) else {
                self.wrong.push(format!("a build that may not: {output:?}"));
                continue;
            };
            builds.insert(digest.to_owned());
            *self.verdict.by_logic.entry(*logic).or_default() += 1;
            self.verdict.takeovers += usize::from(judged.hand_over(*logic));
            let wanted = judged.process(record);
            if output.key.as_deref() != Some(key) || output.value.as_ref() != Some(&wanted) {
                self.wrong
                    .push(format!("{source}: {output:?}, and not {wanted}"));
            }
        }
        self.verdict.builds = builds.len();
        if !by_source.is_empty() {
            self.wrong
                .push(format!("outputs of what is no input: {by_source:#?}"));
        }
    }
}

/// The fields of a game that all plugins give in the same words.
const FINAL: [&str; 5] = ["points", "last_seq", "events", "duplicates", "gaps"];

impl Case<'_> {
    /// Checks that the last output of each game is the result of all its events.
    fn finals(&mut self, input: &[Consumed], outputs: &[Consumed]) {
        self.verdict.outputs = outputs.len();
        let last = last_of_each_key(outputs);
        let mut entities: BTreeMap<&str, (Judged, String)> = BTreeMap::new();
        for record in input {
            let key = record.key.as_deref().expect("a key");
            let judged = entities.entry(key);
            let (judged, wanted) = judged.or_insert_with(|| (Judged::new(key), String::new()));
            if judged.is_copy(record) {
                self.verdict.copies += 1;
            } else {
                *wanted = judged.process(record);
            }
        }
        for (key, (_, wanted)) in entities {
            let Some(seen) = last.get(key) else {
                self.missing = true;
                self.wrong.push(format!("no output of {key}"));
                continue;
            };
            let fields = |text: &str| {
                let game: Value = serde_json::from_str(text).expect("a score");
                FINAL.map(|field| game[field].clone())
            };
            if fields(seen) != fields(&wanted) {
                self.missing = true;
                self.wrong
                    .push(format!("{key} ends with {seen}, and not {wanted}"));
            }
        }
    }

    /// Checks that every host shows the last output of every game, and nothing
    /// else.
    fn boards(&mut self, outputs: &[Consumed], boards: &[Board]) {
        assert!(!boards.is_empty(), "no host was asked");
        let last = last_of_each_key(outputs);
        for (host, board) in boards.iter().enumerate() {
            let shown = board
                .iter()
                .map(|(key, value)| (&**key, &**value))
                .collect::<BTreeMap<_, _>>();
            let differ = |key: &&&str| shown.get(**key) != last.get(**key);
            let keys: BTreeSet<_> = shown.keys().chain(last.keys()).collect();
            for key in keys.iter().filter(|key| differ(key)) {
                self.missing |= !last.contains_key(**key);
                self.wrong.push(format!(
                    "host {host} shows {:?} of {key}, and not {:?}",
                    shown.get(**key),
                    last.get(**key)
                ));
            }
        }
        self.verdict.boards = boards.len();
        self.verdict.games = last.len();
    }
}

fn last_of_each_key(outputs: &[Consumed]) -> BTreeMap<&str, &str> {
    let mut last = BTreeMap::new();
    for output in outputs {
        let (key, value) = (output.key.as_deref(), output.value.as_deref());
        last.insert(key.expect("a key"), value.expect("a score"));
    }
    last
}

/// One entity, as it ought to be.
struct Judged {
    key: String,
    native: Native,
    /// The idempotency keys seen last, with the events that each brought.
    recent: VecDeque<(String, HashSet<String>)>,
}

enum Native {
    Scoring(Box<Entity<Game>>),
    BoxScore(Box<Entity<BoxScore>>),
}

impl Judged {
    fn new(key: &str) -> Self {
        let entity = Entity::open(key, None).expect("a new entity");
        Self {
            key: key.to_owned(),
            native: Native::Scoring(Box::new(entity)),
            recent: VecDeque::new(),
        }
    }

    /// Whether the record was processed before, under the same idempotency key.
    fn is_copy(&mut self, record: &Consumed) -> bool {
        let header = |name: &str| record.header(name).unwrap_or_default().to_owned();
        let key = header("courtside-idempotency-key");
        let index = header("courtside-idempotency-index");
        assert!(!key.is_empty(), "{record:?}");
        if let Some((_, seen)) = self.recent.iter_mut().find(|(known, _)| *known == key) {
            return !seen.insert(index);
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((key, HashSet::from([index])));
        false
    }

    /// Goes on with a logic. Where that is a new one, it takes over the state of
    /// the one before, and the function returns true.
    fn hand_over(&mut self, logic: Logic) -> bool {
        let (before, saved) = match &self.native {
            Native::Scoring(entity) => (Logic::Scoring, entity.checkpoint()),
            Native::BoxScore(entity) => (Logic::BoxScore, entity.checkpoint()),
        };
        if before == logic {
            return false;
        }
        let saved = saved.as_ref();
        self.native = match logic {
            Logic::Scoring => Native::Scoring(Box::new(
                Entity::open(&self.key, saved).expect("what the other one saved"),
            )),
            Logic::BoxScore => Native::BoxScore(Box::new(
                Entity::open(&self.key, saved).expect("what the other one saved"),
            )),
        };
        true
    }

    /// The output that must come of an event.
    fn process(&mut self, record: &Consumed) -> String {
        let value = record.value.as_deref().expect("an event");
        // These plugins use only the value of an event.
        let event = native::Event {
            offset: record.offset,
            timestamp: 0,
            seed: 0,
            headers: Vec::new(),
            value: value.as_bytes().to_vec(),
        };
        let outcome = match &mut self.native {
            Native::Scoring(entity) => entity.process(vec![event]),
            Native::BoxScore(entity) => entity.process(vec![event]),
        };
        assert!(outcome.refused.is_none(), "{outcome:?}");
        let [emission] = &outcome.emissions[..] else {
            panic!("not one emission: {outcome:?}");
        };
        let value = emission.value.clone().expect("a score");
        String::from_utf8(value).expect("a score in UTF-8")
    }
}
