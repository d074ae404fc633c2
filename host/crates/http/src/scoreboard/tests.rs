//! Tests of what readers see: outputs that change, vanish, and do not fit in memory.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use bytesize::ByteSize;
use courtside_log::RecordLog as _;
use courtside_types::{Header, NewRecord, Offset, PLUGIN_HEADER, PartitionId, SOURCE_HEADER};
use proptest::prelude::*;

use super::*;
use crate::ingest::testing::{MemoryLog, eventually};

const LONG: Duration = Duration::from_secs(60);

pub(crate) fn output(key: &str, value: Option<&str>) -> NewRecord {
    NewRecord {
        timestamp_ms: 7,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        headers: vec![
            Header::new(PLUGIN_HEADER, "nba-scoring/0.1.0".as_bytes()),
            Header::new(SOURCE_HEADER, "in/0/1".as_bytes()),
        ],
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
    }
}

fn start(log: &Arc<MemoryLog>, config: ScoreboardConfig) -> (Arc<Scoreboard>, Arc<Board>) {
    let spec = BoardSpec {
        pipeline: "scores".into(),
        group: "courtside".into(),
        input: "in".into(),
        output: "out".into(),
    };
    let scoreboard = Scoreboard::start(log.clone(), config, vec![spec]).unwrap();
    let board = Arc::clone(scoreboard.board("scores").unwrap());
    (scoreboard, board)
}

async fn synced(log: &Arc<MemoryLog>, board: &Arc<Board>) {
    let read = || {
        let ends = log.bounds(&"out".into()).unwrap();
        let next = board.next(ends.len());
        ends.iter().zip(next).all(|(end, next)| end.end <= next)
    };
    eventually("the board has read the log", read).await;
    eventually("the board has caught up", || board.not_ready().is_none()).await;
}

async fn value(board: &Arc<Board>, key: &str) -> Option<String> {
    let game = board.game(key.as_bytes()).await.unwrap()?;
    Some(String::from_utf8(game.latest.value.to_vec()).unwrap())
}

#[tokio::test]
async fn shows_the_latest_of_each_game() {
    let log = MemoryLog::new(&[("in", 1), ("out", 2)]);
    log.put("out", 0, output("a", Some("1")));
    let (_scoreboard, board) = start(&log, ScoreboardConfig::default());
    log.put("out", 1, output("b", Some("1")));
    log.put("out", 0, output("a", Some("2")));
    log.put("out", 0, output("c", Some("1")));
    log.put("out", 0, output("c", None));
    log.skip("out", 0);
    synced(&log, &board).await;

    assert_eq!(value(&board, "a").await.as_deref(), Some("2"));
    assert_eq!(value(&board, "b").await.as_deref(), Some("1"));
    assert_eq!(value(&board, "c").await, None);
    let game = board.game(b"a").await.unwrap().unwrap();
    assert_eq!(game.place.to_string(), "0:1");
    assert_eq!(
        game.latest.plugin.as_deref(),
        Some(&b"nba-scoring/0.1.0"[..])
    );
    assert_eq!(game.latest.source.as_deref(), Some(&b"in/0/1"[..]));
    assert_eq!(game.latest.digest, None);
    assert_eq!(game.latest.timestamp_ms, 7);
}

#[tokio::test]
async fn pages_follow_the_keys() {
    let log = MemoryLog::new(&[("in", 1), ("out", 3)]);
    for game in 0..10 {
        log.put(
            "out",
            game % 3,
            output(&format!("g{}", 9 - game), Some("1")),
        );
    }
    let (_scoreboard, board) = start(&log, ScoreboardConfig::default());
    synced(&log, &board).await;
    let mut names = Vec::new();
    let mut pages = 0;
    let mut after: Option<Key> = None;
    loop {
        let page = board.page(after.as_deref(), 5).await.unwrap();
        names.extend(page.games.into_iter().map(|game| game.key));
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<_> = (0..10)
        .map(|game| Bytes::from(format!("g{game}")))
        .collect();
    assert_eq!((names, pages), (expected, 2));
}

#[tokio::test]
async fn values_that_do_not_fit_are_read_back() {
    let log = MemoryLog::new(&[("in", 1), ("out", 2)]);
    let config = ScoreboardConfig {
        memory_bytes_max: ByteSize::kib(8),
        ..ScoreboardConfig::default()
    };
    let text = |game: u32| format!("{game}-{}", "x".repeat(500));
    for game in 0..100 {
        log.put(
            "out",
            game % 2,
            output(&format!("g{game:02}"), Some(&text(game))),
        );
    }
    let (_scoreboard, board) = start(&log, config);
    synced(&log, &board).await;
    let (games, held) = board.size();
    assert_eq!(games, 100);
    assert!(held <= 8 * 1024, "{held}");
    for game in [0, 1, 50, 99] {
        assert_eq!(
            value(&board, &format!("g{game:02}")).await,
            Some(text(game))
        );
    }
    let page = board.page(None, 1000).await.unwrap();
    for (game, found) in (0..).zip(&page.games) {
        assert_eq!(found.latest.value, text(game));
        assert_eq!(
            found.latest.plugin.as_deref(),
            Some(&b"nba-scoring/0.1.0"[..])
        );
    }
    let mut reader = Scoreboard::subscribe(&board, None, None).await;
    let mut seen = BTreeMap::new();
    while seen.len() < 100 {
        for update in reader.next().await.unwrap() {
            let Change::Game(latest) = update.change else {
                panic!("nothing was deleted");
            };
            seen.insert(update.key, latest.value.clone());
        }
    }
    assert!(
        seen.values()
            .zip(0..)
            .all(|(value, game)| *value == text(game))
    );
}

#[tokio::test]
async fn a_value_compacted_away_is_its_successors() {
    let log = MemoryLog::new(&[("in", 1), ("out", 1)]);
    let config = ScoreboardConfig {
        memory_bytes_max: ByteSize::b(1),
        ..ScoreboardConfig::default()
    };
    log.put("out", 0, output("a", Some("1")));
    let (scoreboard, board) = start(&log, config);
    synced(&log, &board).await;
    // The follower stands still, so that the index stays behind the log.
    scoreboard.stop();
    log.put("out", 0, output("a", Some("2")));
    log.compact("out");
    let waiting = tokio::spawn({
        let board = Arc::clone(&board);
        async move { value(&board, "a").await }
    });
    tokio::task::yield_now().await;
    let records = log
        .read(&"out".into(), PartitionId(0), Offset(0), 100)
        .unwrap();
    board.apply(0, &records, Offset(2));
    assert_eq!(waiting.await.unwrap().as_deref(), Some("2"));
}

/// An output that is kept as a stream has records without a successor.
#[tokio::test]
async fn a_value_that_retention_took_is_none() {
    let log = MemoryLog::new(&[("in", 1), ("out", 1)]);
    let config = ScoreboardConfig {
        memory_bytes_max: ByteSize::b(1),
        ..ScoreboardConfig::default()
    };
    for (key, text) in [("a", "1"), ("b", "2"), ("c", "3")] {
        log.put("out", 0, output(key, Some(text)));
    }
    let (_scoreboard, board) = start(&log, config);
    synced(&log, &board).await;
    log.retain("out", 0, 2);
    assert_eq!(value(&board, "a").await, None);
    let page = board.page(None, 10).await.unwrap();
    let keys: Vec<_> = page.games.iter().map(|game| &*game.key).collect();
    assert_eq!(keys, [b"c"]);
}

#[tokio::test]
async fn a_slow_reader_gets_the_latest_only() {
    let log = MemoryLog::new(&[("in", 1), ("out", 1)]);
    let (_scoreboard, board) = start(&log, ScoreboardConfig::default());
    let mut reader = Scoreboard::subscribe(&board, None, None).await;
    log.put("out", 0, output("a", Some("0")));
    assert_eq!(reader.next().await.unwrap().len(), 1);
    for value in 1..500 {
        log.put("out", 0, output("a", Some(&value.to_string())));
        log.put("out", 0, output("b", Some(&value.to_string())));
    }
    synced(&log, &board).await;
    let updates = reader.next().await.unwrap();
    assert_eq!(updates.len(), 2);
    for update in &updates {
        assert!(matches!(&update.change, Change::Game(latest) if latest.value == "499"));
    }
    assert_eq!(updates[1].positions.to_string(), "0:998");
}

#[tokio::test]
async fn a_reader_of_one_game_hears_of_no_other() {
    let log = MemoryLog::new(&[("in", 1), ("out", 2)]);
    log.put("out", 0, output("a", Some("1")));
    log.put("out", 0, output("b", Some("1")));
    let (_scoreboard, board) = start(&log, ScoreboardConfig::default());
    synced(&log, &board).await;
    let mut reader = Scoreboard::subscribe(&board, Some(Bytes::from("b")), None).await;
    assert_eq!(reader.next().await.unwrap()[0].key, "b");
    for _ in 0..300 {
        log.put("out", 0, output("a", Some("2")));
    }
    log.put("out", 0, output("b", None));
    let updates = reader.next().await.unwrap();
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0].key, "b");
    assert!(matches!(updates[0].change, Change::Deleted));
}

#[tokio::test]
async fn who_comes_back_is_told_of_what_was_deleted() {
    let log = MemoryLog::new(&[("in", 1), ("out", 1)]);
    log.put("out", 0, output("a", Some("1")));
    log.put("out", 0, output("a", None));
    log.put("out", 0, output("b", Some("1")));
    let (_scoreboard, board) = start(&log, ScoreboardConfig::default());
    synced(&log, &board).await;
    let keys = async |last: Option<&str>| -> Vec<Key> {
        let mut reader = Scoreboard::subscribe(&board, None, last.map(Last::of)).await;
        let updates = reader.next().await.unwrap();
        updates.into_iter().map(|update| update.key).collect()
    };
    assert_eq!(keys(None).await, ["b"]);
    assert_eq!(keys(Some("0:0")).await, ["a", "b"]);
    assert_eq!(keys(Some("0:1")).await, ["b"]);
    assert_eq!(keys(Some("what?")).await, ["a", "b"]);
    // This offset is beyond the log's end, so the id comes from a log that is gone.
    assert_eq!(keys(Some("0:999")).await, ["a", "b"]);
}

#[tokio::test]
async fn a_read_waits_for_its_write() {
    let log = MemoryLog::new(&[("in", 2), ("out", 2)]);
    let (_scoreboard, board) = start(&log, ScoreboardConfig::default());
    let late = board
        .wait_for(PartitionId(1), Offset(3), Duration::from_millis(20))
        .await;
    assert!(matches!(late, Err(BoardError::NotYet { .. })));
    let none = board.wait_for(PartitionId(2), Offset(0), LONG).await;
    assert!(matches!(
        none,
        Err(BoardError::NoSuchPartition { partitions: 2 })
    ));

    let waiting = tokio::spawn({
        let board = Arc::clone(&board);
        async move {
            board
                .wait_for(PartitionId(1), Offset(3), LONG)
                .await
                .unwrap();
            value(&board, "a").await
        }
    });
    // The group has processed events up to offset 2, and the reader waits for offset 3.
    log.commit(1, 3);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished());
    log.put("out", 0, output("a", Some("1")));
    log.skip("out", 0);
    log.commit(1, 4);
    assert_eq!(waiting.await.unwrap().as_deref(), Some("1"));
}

#[tokio::test]
async fn a_topic_that_is_missing_is_told_and_waited_for() {
    let log = MemoryLog::new(&[("in", 1)]);
    let (scoreboard, board) = start(&log, ScoreboardConfig::default());
    let is_told = || {
        let reasons = scoreboard.not_ready();
        reasons.iter().any(|reason| reason.code == "no-such-topic")
    };
    eventually("it is told", is_told).await;
    assert!(matches!(
        board.game(b"a").await,
        Err(BoardError::CatchingUp)
    ));
    scoreboard.stop();
    assert_eq!(scoreboard.not_ready()[0].code, "scoreboard-stopped");
}

/// The games that a reader has, and the last id that it got before it was cut.
#[derive(Debug, Default)]
struct Client {
    games: BTreeMap<Key, String>,
    last: Option<String>,
}

impl Client {
    /// Reads at most `count` updates; then the client is cut, maybe within a delivery.
    async fn read(&mut self, board: &Arc<Board>, count: usize) {
        let last = self.last.as_deref().map(Last::of);
        let mut reader = Scoreboard::subscribe(board, None, last).await;
        let mut left = count;
        while left > 0 {
            // The client reads only what is there at once; a later call reads the rest.
            let next = futures_util::FutureExt::now_or_never(reader.next());
            let Some(updates) = next else {
                return;
            };
            for update in updates.unwrap().into_iter().take(left) {
                left -= 1;
                self.last = Some(update.positions.to_string());
                match update.change {
                    Change::Game(latest) => {
                        let value = String::from_utf8(latest.value.to_vec()).unwrap();
                        self.games.insert(update.key, value);
                    }
                    Change::Deleted => {
                        self.games.remove(&update.key);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// However updates, cuts and moves to a fresh host alternate, a client that
    /// comes back with its last id ends with exactly what the log says.
    #[test]
    fn a_client_that_comes_back_misses_nothing(
        steps in prop::collection::vec(
            (prop::collection::vec((0..3_u32, 0..8_u8, any::<bool>()), 0..30), 0..20_usize, any::<bool>()),
            1..12,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let log = MemoryLog::new(&[("in", 1), ("out", 3)]);
            let mut host = start(&log, ScoreboardConfig::default());
            let mut client = Client::default();
            let mut expected = BTreeMap::new();
            let mut count = 0;
            for (updates, reads, fresh_host) in steps {
                for (partition, game, deleted) in updates {
                    count += 1;
                    // A game stays in its partition.
                    let key = format!("{partition}-{game}");
                    let value = (!deleted).then(|| count.to_string());
                    log.put("out", partition, output(&key, value.as_deref()));
                    match value {
                        Some(value) => expected.insert(Bytes::from(key), value),
                        None => expected.remove(key.as_bytes()),
                    };
                }
                if fresh_host {
                    host = start(&log, ScoreboardConfig::default());
                }
                // Without a sync here, the client reads while the board is being filled.
                client.read(&host.1, reads).await;
            }
            synced(&log, &host.1).await;
            client.read(&host.1, usize::MAX).await;
            assert_eq!(client.games, expected);
        });
    }
}
