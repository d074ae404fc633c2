//! Redrives on a real log with a real worker, killed at any commit.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use courtside_log::{
    Bounds, Checkpoints, Cleanup, Commit, GroupName, GroupSpec, GroupStatus, Health, LogError,
    Member, Polled, RecordLog, TopicSpec,
    block::block_on,
    conformance::{assigned, deleted, join},
    embedded::{Embedded, EmbeddedConfig},
    partitioner::Partitioner,
};
use courtside_plugin_host::{
    Description, EntityId, Event, Failure, FailureKind, Instance, OpenError, Outcome, Plugin,
    Refusal, SavedState,
};
use courtside_process::{clock::now_ms, shutdown::End};
use courtside_types::{
    Digest, NewRecord, Offset, PartitionId, Position, Record, Topic, TopicId, slot_name::SlotName,
};
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::watch;

use super::{
    DeadLetters, DeadLettersError, Filter, From, notes,
    view::{LetterState, RedriveState, RedriveView, Selection},
};
use crate::{
    pipeline::{
        Pipeline,
        kept::KeptTopic,
        layout::{self, Layout, Writes},
    },
    worker::{
        envelope::Envelope,
        instances::Active,
        status::PipelineStatus,
        tests::pipeline,
        thread::{Order, Worker},
    },
};

/// A plugin that writes down the events of a key. A bad one refuses events that say
/// `no`, traps at events that say `trap`, and can give no checkpoint after one that
/// says `halt`.
struct Book {
    is_bad: bool,
    description: Description,
}

impl Book {
    fn new(is_bad: bool) -> Arc<Self> {
        Arc::new(Self {
            is_bad,
            description: Description {
                name: "book".into(),
                version: "1.0.0".into(),
                writes: "book/1".into(),
                reads: vec!["book/1".into()],
            },
        })
    }
}

impl Plugin for Book {
    fn digest(&self) -> Digest {
        Digest::of(&[u8::from(self.is_bad)])
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn instantiate(&self) -> Result<Box<dyn Instance>, Failure> {
        Ok(Box::new(BookInstance {
            is_bad: self.is_bad,
            pages: BTreeMap::new(),
            next: 0,
        }))
    }
}

struct BookInstance {
    is_bad: bool,
    pages: BTreeMap<u32, String>,
    next: u32,
}

fn trap<T>() -> Result<T, Failure> {
    Err(Failure {
        kind: FailureKind::Trap,
        message: "told to".into(),
    })
}

impl Instance for BookInstance {
    fn open(&mut self, _: &str, saved: Option<&SavedState>) -> Result<EntityId, OpenError> {
        self.next += 1;
        let page = saved.map_or_else(String::new, |saved| {
            String::from_utf8(saved.state.to_vec()).unwrap()
        });
        self.pages.insert(self.next, page);
        Ok(EntityId(self.next))
    }

    fn process(&mut self, entity: EntityId, events: &[Event<'_>]) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::default();
        for (index, event) in events.iter().enumerate() {
            let value = std::str::from_utf8(event.record.value.as_ref().unwrap()).unwrap();
            if self.is_bad && value.contains("trap") {
                return trap();
            }
            if self.is_bad && value.contains("no") {
                outcome.refused = Some(Refusal {
                    index,
                    reason: "told to".into(),
                });
                return Ok(outcome);
            }
            let page = self.pages.get_mut(&entity.0).unwrap();
            page.push_str(value);
            page.push(' ');
        }
        Ok(outcome)
    }

    fn checkpoint(&mut self, entity: EntityId) -> Result<Option<SavedState>, Failure> {
        let page = &self.pages[&entity.0];
        if self.is_bad && page.contains("halt") {
            return trap();
        }
        Ok(Some(SavedState {
            format: "book/1".into(),
            state: page.clone().into(),
        }))
    }

    fn close(&mut self, entity: EntityId) {
        self.pages.remove(&entity.0);
    }
}

/// A log whose members are killed at a commit, before the commit happens or after it.
/// Some earlier commits fail, and one of these happens all the same.
struct Deadly {
    log: Arc<dyn RecordLog>,
    /// Commits that are left: at 1 the member is killed after its commit, at 0 before
    /// it.
    left: Arc<AtomicI64>,
}

/// Value of `left` with which a member does not even get its partitions.
const NEVER: i64 = i64::MIN;

struct Killed {
    member: Box<dyn Member>,
    left: Arc<AtomicI64>,
}

impl Member for Killed {
    fn poll(&mut self, timeout: Duration, max_bytes: usize) -> Result<Polled, LogError> {
        if self.left.load(Ordering::Relaxed) == NEVER {
            std::thread::sleep(Duration::from_millis(1));
            return Ok(Polled::Idle);
        }
        self.member.poll(timeout, max_bytes)
    }
    fn pause(&mut self, partitions: &[PartitionId]) {
        self.member.pause(partitions);
    }
    fn resume(&mut self, partitions: &[PartitionId]) {
        self.member.resume(partitions);
    }
    fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        self.member.seek(partition, next)
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), LogError> {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        let killed = Err(LogError::Fenced {
            reason: "told to".to_owned(),
        });
        let doubtful = Err(LogError::Unavailable {
            reason: "told to".to_owned(),
        });
        match left {
            0 => killed,
            1 => self.member.commit(commit).and(killed),
            3 => self.member.commit(commit).and(doubtful),
            4 => doubtful,
            _ => self.member.commit(commit),
        }
    }
    fn release(&mut self, partitions: &[PartitionId]) {
        self.member.release(partitions);
    }
}

impl RecordLog for Deadly {
    fn record_bytes_max(&self) -> usize {
        self.log.record_bytes_max()
    }
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        self.log.ensure_topics(topics)
    }
    fn partitions(&self, topic: &Topic) -> Result<u32, LogError> {
        self.log.partitions(topic)
    }
    fn topic_ids(&self, topics: &[Topic]) -> Result<Vec<Option<TopicId>>, LogError> {
        self.log.topic_ids(topics)
    }
    fn bounds(&self, topic: &Topic) -> Result<Vec<Bounds>, LogError> {
        self.log.bounds(topic)
    }
    fn append(
        &self,
        topic: &Topic,
        records: Vec<(PartitionId, NewRecord)>,
    ) -> Result<BoxFuture<'static, Vec<Result<Position, LogError>>>, LogError> {
        self.log.append(topic, records)
    }
    fn read(
        &self,
        topic: &Topic,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Record>, LogError> {
        self.log.read(topic, partition, from, max_bytes)
    }
    fn join(&self, spec: GroupSpec) -> Result<Box<dyn Member>, LogError> {
        Ok(Box::new(Killed {
            member: self.log.join(spec)?,
            left: Arc::clone(&self.left),
        }))
    }
    fn checkpoints(&self, group: &str) -> Result<Arc<dyn Checkpoints>, LogError> {
        self.log.checkpoints(group)
    }
    fn group_status(&self, group: &str, input: &Topic) -> Result<GroupStatus, LogError> {
        self.log.group_status(group, input)
    }
    fn group_names(&self) -> Result<Vec<GroupName>, LogError> {
        self.log.group_names()
    }
    fn reads(&self, group: &str, topic: &Topic) -> Result<bool, LogError> {
        self.log.reads(group, topic)
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.log.changes()
    }
    fn health(&self) -> Health {
        self.log.health()
    }
    fn close(&self) {}
}

struct Scene {
    log: Arc<dyn RecordLog>,
    pipeline: Arc<Pipeline>,
    worker: Option<Worker>,
    _dir: TempDir,
}

const PARTITIONS: u32 = 2;

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Embedded::open(dir.path(), EmbeddedConfig::default()).unwrap();
        let mut pipeline = Pipeline::clone(&pipeline(4, 100));
        pipeline.partitions = PARTITIONS;
        pipeline.record_bytes_max = log.record_bytes_max();
        pipeline.settings.commit_interval = Duration::from_millis(2);
        let notes = TopicSpec {
            name: notes::topic(&pipeline.group),
            partitions: Some(PARTITIONS),
            cleanup: Cleanup::Compact {
                tombstone_retention: Duration::from_secs(3600),
            },
        };
        let topics = [
            deleted(&pipeline.input, PARTITIONS),
            deleted(&pipeline.dead_letter, PARTITIONS),
            deleted(&pipeline.output.topic, 1),
            notes,
        ];
        log.ensure_topics(&topics).unwrap();
        let log: Arc<dyn RecordLog> = log;
        let pipeline = Arc::new(pipeline);
        let status = Arc::new(PipelineStatus::default());
        let worker = Worker::start(&log, &pipeline, &status, 0).unwrap();
        Self {
            log,
            pipeline,
            worker: Some(worker),
            _dir: dir,
        }
    }

    fn swap(&self, is_bad: bool) {
        let slot = SlotName::Default;
        let (done, told) = crossbeam_channel::bounded(1);
        let active = Some(Active::new(slot.clone(), Book::new(is_bad)));
        let order = Order::Activate { slot, active, done };
        assert!(self.worker.as_ref().unwrap().orders().give(order));
        told.recv().unwrap();
    }

    fn append(&self, key: &str, value: &str) {
        append(&*self.log, &self.pipeline.input, key, value);
    }

    /// Waits until all is processed.
    fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self
                .log
                .group_status(&self.pipeline.group, &self.pipeline.input);
            let committed = status.unwrap().committed;
            let bounds = self.log.bounds(&self.pipeline.input).unwrap();
            let is_done = (0..)
                .map(PartitionId)
                .zip(&bounds)
                .all(|(id, bounds)| committed.get(&id).copied().unwrap_or_default() >= bounds.end);
            if is_done {
                return;
            }
            assert!(Instant::now() < deadline, "not processed: {committed:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn letters(&self) -> Arc<DeadLetters> {
        DeadLetters::new(Arc::clone(&self.log), Arc::clone(&self.pipeline))
    }

    fn state(&self, key: &str) -> (String, bool) {
        let checkpoints = self.log.checkpoints(&self.pipeline.group).unwrap();
        let bytes = checkpoints.get(partition(key), key.as_bytes()).unwrap();
        let envelope = Envelope::decode(&bytes.unwrap()).unwrap();
        let state = envelope.saved.map(|saved| saved.state.to_vec());
        let state = String::from_utf8(state.unwrap_or_default()).unwrap();
        (state, envelope.halted.is_some())
    }
}

fn patience() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            let told = worker.orders().give(Order::Stop(Instant::now()));
            assert!(worker.end(patience()) == End::Clean && told || std::thread::panicking());
        }
    }
}

fn partition(key: &str) -> PartitionId {
    PartitionId(key.bytes().map(u32::from).sum::<u32>() % PARTITIONS)
}

fn append(log: &dyn RecordLog, topic: &Topic, key: &str, value: &str) {
    let record = NewRecord {
        timestamp_ms: 1,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        headers: Vec::new(),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    };
    let appended = log.append(topic, vec![(partition(key), record)]).unwrap();
    block_on(appended)
        .into_iter()
        .for_each(|one| drop(one.unwrap()));
}

/// Redrives and waits for the end.
fn redrive(letters: &Arc<DeadLetters>, selection: Selection) -> RedriveView {
    letters.redrive(selection).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let progress = letters.progress();
        if progress.state != RedriveState::Running {
            letters.stop();
            assert_eq!(letters.end_by(patience()), End::Clean);
            return progress;
        }
        assert!(Instant::now() < deadline, "{progress:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Numbers that look random, but are the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

const KEYS: [&str; 7] = [
    "halt-a", "halt-b", "halt-c", "no-a", "no-b", "mixed-a", "mixed-b",
];

fn value(chance: &mut Chance, key: &str, number: usize) -> String {
    let misdeeds: &[&str] = match key.split('-').next().unwrap() {
        "halt" => &["halt"],
        "no" => &["no", "trap"],
        _ => &["halt", "no", "trap"],
    };
    let misdeed = match chance.below(5) {
        0 => misdeeds[chance.below(misdeeds.len() as u64) as usize],
        _ => "",
    };
    format!("{number}{misdeed}")
}

#[test]
fn every_event_is_processed_once_however_often_a_redrive_is_killed() {
    let killed: usize = (1..=8).map(one_life).sum();
    assert!(killed >= 8, "{killed} were killed");
}

/// A host that stops does not wait for what a redrive would wait for.
#[test]
fn a_redrive_that_waits_ends_when_it_is_told_to() {
    let scene = Scene::new();
    let deadly = Arc::new(Deadly {
        log: Arc::clone(&scene.log),
        left: Arc::new(AtomicI64::new(NEVER)),
    });
    let letters = DeadLetters::new(deadly, Arc::clone(&scene.pipeline));
    letters.redrive(Selection::All).unwrap();
    letters.stop();
    assert_eq!(letters.end_by(patience()), End::Clean);
    let progress = letters.progress();
    assert_eq!(progress.state, RedriveState::Failed);
    assert_eq!(progress.code.as_deref(), Some("redrive-interrupted"));
}

/// A member that has all partitions of a topic.
fn joined(log: &dyn RecordLog, group: &str, topic: &Topic) -> Box<dyn Member> {
    let mut member = join(log, group, topic, 0, 1);
    let partitions = log.partitions(topic).unwrap();
    assigned(&mut *member, partitions as usize);
    member
}

/// Expects a refusal with these words, even if there is nothing to redrive.
fn is_refused(letters: &Arc<DeadLetters>, words: &[&str]) {
    let plan = letters.plan(&Selection::All).map(drop);
    let redrive = letters.redrive(Selection::All).map(drop);
    for outcome in [plan, redrive] {
        let error = outcome.unwrap_err();
        assert_eq!(error.code(), "redrive-shared-input", "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{word} in {error}");
        }
    }
    assert_eq!(letters.progress().state, RedriveState::None);
}

#[test]
fn an_input_that_others_read_takes_no_redriven_events() {
    let scene = Scene::new();
    let letters = scene.letters();
    let input = &scene.pipeline.input;
    scene.swap(false);
    scene.append("no-a", "1");
    scene.settle();
    // A reader of another topic does not matter.
    let elsewhere = joined(&*scene.log, "elsewhere", &scene.pipeline.output.topic);
    assert_eq!(redrive(&letters, Selection::All).state, RedriveState::Done);
    let mut one = joined(&*scene.log, "one", input);
    let two = joined(&*scene.log, "two", input);
    is_refused(
        &scene.letters(),
        &["group one reads it", "group two reads it"],
    );
    drop((two, elsewhere));
    let offsets = vec![(PartitionId(1), Offset(0))];
    one.commit(&Commit {
        offsets,
        ..Commit::default()
    })
    .unwrap();
    drop(one);
    // The group has no member now, but may come back.
    is_refused(&scene.letters(), &["group one reads it"]);
}

#[test]
fn an_input_that_another_pipeline_writes_takes_no_redriven_events() {
    let scene = Scene::new();
    let elsewhere = Topic::from("elsewhere");
    scene.log.ensure_topics(&[deleted(&elsewhere, 1)]).unwrap();
    let writes = |output: &str, also: &str| Writes {
        output: KeptTopic::table(output),
        outputs: BTreeMap::from([("also".to_owned(), KeptTopic::table(also))]),
    };
    let layout = |writes| Layout {
        input: elsewhere.to_string(),
        partitions: 1,
        partitioner: Partitioner::default(),
        writes,
    };
    let input = &*scene.pipeline.input;
    let settle = |group: &str, writes| layout::settle(&*scene.log, group, &layout(writes)).unwrap();
    settle("harmless", writes("x", "y"));
    settle("writer", writes(input, "y"));
    settle("second", writes("x", input));
    let harmless = joined(&*scene.log, "harmless", &elsewhere);
    // A pipeline that is not at work writes nothing.
    assert_eq!(
        redrive(&scene.letters(), Selection::All).state,
        RedriveState::Done
    );
    let writer = joined(&*scene.log, "writer", &elsewhere);
    is_refused(&scene.letters(), &["pipeline of group writer writes it"]);
    drop(writer);
    let second = joined(&*scene.log, "second", &elsewhere);
    is_refused(&scene.letters(), &["pipeline of group second writes it"]);
    drop((harmless, second));
}

/// Runs one scene with its own chance, and returns how many redrives were killed.
fn one_life(seed: u64) -> usize {
    println!("seed {seed}");
    let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let scene = Scene::new();
    scene.swap(true);
    let mut sent: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for number in 0..150 {
        let key = KEYS[chance.below(KEYS.len() as u64) as usize];
        let value = value(&mut chance, key, number);
        scene.append(key, &value);
        sent.entry(key).or_default().push(value);
    }
    scene.settle();
    if chance.below(2) == 0 {
        // This redrive comes too early: the plugin is still the bad one.
        let progress = redrive(&scene.letters(), Selection::All);
        assert_eq!(progress.state, RedriveState::Done, "{progress:?}");
        assert_eq!(progress.redriven, progress.dead_again, "{progress:?}");
    }
    scene.swap(false);

    // Live events come all the while.
    let live = {
        let (log, topic) = (Arc::clone(&scene.log), scene.pipeline.input.clone());
        let mut chance = Chance(seed + 1000);
        std::thread::spawn(move || {
            let mut sent: Vec<(&str, String)> = Vec::new();
            for number in 1000..1060 {
                let key = KEYS[chance.below(KEYS.len() as u64) as usize];
                let value = value(&mut chance, key, number);
                append(&*log, &topic, key, &value);
                sent.push((key, value));
                std::thread::sleep(Duration::from_millis(chance.below(12)));
            }
            sent
        })
    };
    let mut killed = 0;
    for _ in 0..6 {
        let deadly = Arc::new(Deadly {
            log: Arc::clone(&scene.log),
            left: Arc::new(AtomicI64::new(i64::try_from(chance.below(6)).unwrap())),
        });
        let letters = DeadLetters::new(deadly, Arc::clone(&scene.pipeline));
        let progress = redrive(&letters, Selection::All);
        killed += usize::from(progress.code.as_deref() == Some("redrive-interrupted"));
    }
    for (key, value) in live.join().unwrap() {
        sent.entry(key).or_default().push(value);
    }
    scene.settle();
    let letters = scene.letters();
    let progress = redrive(&letters, Selection::All);
    assert_eq!(progress.state, RedriveState::Done, "{progress:?}");
    assert_eq!((progress.dead_again, progress.left), (0, 0), "{progress:?}");
    let plan = letters.plan(&Selection::All).unwrap();
    assert_eq!(plan.letters, 0, "{plan:?} {progress:?}");
    let again = redrive(&scene.letters(), Selection::All);
    assert_eq!(again.redriven, 0, "{again:?}");

    for (key, sent) in sent {
        let (state, is_halted) = scene.state(key);
        assert!(!is_halted, "{key}");
        let mut state: Vec<_> = state.split_whitespace().collect();
        if key.starts_with("halt") {
            // The state is as if the plugin had been good from the start.
            assert_eq!(state, sent, "{key}");
            continue;
        }
        let mut sent: Vec<_> = sent.iter().map(String::as_str).collect();
        sent.sort_unstable();
        state.sort_unstable();
        assert_eq!(state, sent, "{key}");
    }
    killed
}

#[test]
fn letters_are_listed_shown_and_redriven_one_by_one() {
    let scene = Scene::new();
    scene.swap(true);
    for (key, value) in [
        ("no-a", "1no"),
        ("halt-a", "2halt"),
        ("halt-a", "3"),
        ("no-a", "4"),
    ] {
        scene.append(key, value);
    }
    scene.settle();
    let letters = scene.letters();
    let all = |filter: &Filter, from| letters.page(filter, from, 10).unwrap().letters;
    let any = Filter::default();
    assert_eq!(all(&any, From::Newest).len(), 3);
    let oldest = all(&any, From::Oldest);
    assert_eq!(oldest.len(), 3);
    let of = |code: &str| {
        let filter = Filter {
            code: Some(code.to_owned()),
            ..Filter::default()
        };
        all(&filter, From::Oldest)
    };
    let refused = of("event-refused").remove(0);
    assert_eq!(refused.key.as_deref(), Some("no-a"));
    assert_eq!(refused.plugin.as_deref(), Some("book@1.0.0"));
    assert_eq!(refused.state, LetterState::Open);
    // Pages of one letter lead through all letters, and to an end.
    let mut from = From::Oldest;
    let mut walked = Vec::new();
    for _ in 0..10 {
        let page = letters.page(&any, from, 1).unwrap();
        walked.extend(page.letters);
        let Some(next) = page.next else { break };
        let (partition, offset) = next.split_once(':').unwrap();
        from = From::After(
            PartitionId(partition.parse().unwrap()),
            Offset(offset.parse().unwrap()),
        );
    }
    assert_eq!(walked, oldest);
    // A page says whether there may be more letters.
    let is_complete = |from, limit| letters.page(&any, from, limit).unwrap().complete;
    assert!(is_complete(From::Newest, 10) && is_complete(From::Oldest, 10));
    assert!(!is_complete(From::Newest, 1) && !is_complete(From::Oldest, 1));
    let none = Filter {
        code: Some("of-none".to_owned()),
        ..Filter::default()
    };
    let page = letters.page(&none, From::Newest, 1).unwrap();
    assert!(page.letters.is_empty() && page.complete, "{page:?}");

    let halted = of("entity-halted").remove(0);
    let one = |letter: &super::view::LetterView| Selection::One {
        partition: letter.partition,
        offset: letter.offset,
    };
    let error = letters.redrive(one(&halted)).unwrap_err();
    assert_eq!(error.code(), "redrive-needs-key");
    let nowhere = Selection::One {
        partition: 0,
        offset: 99,
    };
    for error in [
        letters.redrive(nowhere.clone()).unwrap_err(),
        letters.plan(&nowhere).unwrap_err(),
        letters.show(PartitionId(7), Offset(0)).unwrap_err(),
    ] {
        assert!(
            matches!(error, DeadLettersError::NotFound { .. }),
            "{error}"
        );
    }

    scene.swap(false);
    assert_eq!(redrive(&letters, one(&refused)).redriven, 1);
    scene.settle();
    assert_eq!(scene.state("no-a").0, "4 1no ");
    let shown = letters
        .show(PartitionId(refused.partition), Offset(refused.offset))
        .unwrap();
    assert_eq!(shown.letter.state, LetterState::Redriven);
    assert_eq!(shown.value.as_deref(), Some("1no"));
    assert_eq!(redrive(&scene.letters(), one(&refused)).redriven, 0, "once");

    let plan = scene
        .letters()
        .plan(&Selection::Key("halt-a".into()))
        .unwrap();
    assert_eq!((plan.letters, plan.keys), (2, 1));
    let letters = scene.letters();
    assert_eq!(
        redrive(&letters, Selection::Key("halt-a".into())).redriven,
        2
    );
    scene.append("halt-a", "5");
    scene.settle();
    assert_eq!(scene.state("halt-a"), ("2halt 3 5 ".to_owned(), false));
    assert_eq!(scene.letters().plan(&Selection::All).unwrap().letters, 0);
}

/// Events that nobody can process are reported, and left.
#[test]
fn what_can_never_be_redriven_is_told() {
    let scene = Scene::new();
    scene.swap(true);
    for (key, value) in [(None, Some("1")), (Some("no-a"), None)] {
        let record = NewRecord {
            timestamp_ms: 1,
            key: key.map(|key: &str| Bytes::copy_from_slice(key.as_bytes())),
            headers: Vec::new(),
            value: value.map(|value: &str| Bytes::copy_from_slice(value.as_bytes())),
        };
        let appended = scene
            .log
            .append(&scene.pipeline.input, vec![(PartitionId(0), record)]);
        block_on(appended.unwrap());
    }
    scene.settle();
    let letters = scene.letters();
    let plan = letters.plan(&Selection::All).unwrap();
    assert_eq!(plan.letters, 0);
    let unfit = [("event-without-key", 1), ("event-without-value", 1)];
    let unfit: BTreeMap<String, u64> = unfit.map(|(code, n)| (code.to_owned(), n)).into();
    assert_eq!(plan.unfit, unfit);
    let progress = redrive(&letters, Selection::All);
    assert_eq!((progress.redriven, progress.unfit), (0, unfit));
}

/// Retention counts from when the event became a letter, so the letter has that time;
/// the event goes back with its own.
#[test]
fn a_letter_has_its_own_time_and_its_event_keeps_its_own() {
    let scene = Scene::new();
    scene.swap(true);
    let before = now_ms();
    scene.append("no-a", "1no");
    scene.settle();
    let letters = scene.letters();
    let listed = letters.page(&Filter::default(), From::Newest, 10).unwrap();
    let letter = &listed.letters[0];
    assert_eq!(letter.timestamp_ms, 1);
    assert!((before..=now_ms()).contains(&letter.dead_since_ms));
    let place = partition("no-a");
    let letters_topic = &scene.pipeline.dead_letter;
    let written = scene.log.read(letters_topic, place, Offset(0), 1).unwrap();
    assert_eq!(written[0].timestamp_ms, letter.dead_since_ms);
    assert_eq!(redrive(&letters, Selection::All).redriven, 1);
    let input = scene
        .log
        .read(&scene.pipeline.input, place, Offset(0), 1 << 20)
        .unwrap();
    let times: Vec<_> = input.iter().map(|record| record.timestamp_ms).collect();
    assert_eq!(times, [1, 1]);
    assert!(input[1].header("courtside-event-time").is_none());
}

/// A reset deletes the state that the letters belong to; the letters can still be read.
#[test]
fn a_reset_makes_letters_void() {
    let scene = Scene::new();
    scene.swap(true);
    scene.append("no-a", "1no");
    scene.settle();
    let place = partition("no-a");
    let end = scene.log.bounds(&scene.pipeline.dead_letter).unwrap()[place.0 as usize].end;
    let topic = notes::topic(&scene.pipeline.group);
    let appended = scene.log.append(&topic, vec![(place, notes::void(end))]);
    block_on(appended.unwrap());
    let letters = scene.letters();
    let plan = letters.plan(&Selection::All).unwrap();
    assert_eq!((plan.letters, plan.void), (0, 1));
    let listed = letters.page(&Filter::default(), From::Newest, 10).unwrap();
    assert_eq!(listed.letters[0].state, LetterState::Void);
    scene.append("no-a", "2no");
    scene.settle();
    assert_eq!(letters.plan(&Selection::All).unwrap().letters, 1);
}
