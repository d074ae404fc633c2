//! Redrives on a real log with a real worker, killed at any commit.

mod book;
mod killed;
mod lives;
mod scene;

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

use self::{
    book::Book,
    killed::{Deadly, NEVER},
    scene::{Scene, append, partition, patience, redrive},
};
use super::{
    DeadLetters, DeadLettersError, Filter, From, event, notes,
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

/// A group writes its dead letters, too, and another pipeline may read them.
#[test]
fn an_input_of_dead_letters_of_another_group_takes_no_redriven_events() {
    let scene = Scene::new();
    let elsewhere = Topic::from("elsewhere");
    let pipeline = Arc::new(Pipeline {
        input: event::topic("other"),
        ..(*scene.pipeline).clone()
    });
    let topics = [deleted(&elsewhere, 1), deleted(&pipeline.input, 1)];
    scene.log.ensure_topics(&topics).unwrap();
    let layout = Layout {
        input: elsewhere.to_string(),
        partitions: 1,
        partitioner: Partitioner::default(),
        writes: Writes {
            output: KeptTopic::table("x"),
            outputs: BTreeMap::new(),
        },
    };
    layout::settle(&*scene.log, "other", &layout).unwrap();
    let letters = || DeadLetters::new(Arc::clone(&scene.log), Arc::clone(&pipeline));
    // A pipeline that is not at work writes nothing.
    assert_eq!(
        redrive(&letters(), Selection::All).state,
        RedriveState::Done
    );
    let other = joined(&*scene.log, "other", &elsewhere);
    is_refused(&letters(), &["pipeline of group other writes it"]);
    drop(other);
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
