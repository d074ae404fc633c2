//! Events in, records out: what is kept, what is refused, and that a refusal
//! leaves nothing behind.

use std::sync::Arc;

use bytes::Bytes;
use courtside_engine::pipeline::identity::Identity;
use courtside_log::partitioner::Method;
use courtside_types::{
    PartitionId, TOPIC_HEADER,
    headers::{IDEMPOTENCY_HEADER, IDEMPOTENCY_INDEX_HEADER},
};

use super::{testing::MemoryLog, *};

const GOOD: &str =
    r#"{"game_id":"LAL-BOS","seq":1,"type":"miss","period":1,"clock":"9:42","x":[1, 2]}"#;

fn ingest(config: IngestConfig) -> (Arc<MemoryLog>, Arc<Ingest>) {
    let log = MemoryLog::new(&[("NBA-Games", 4), ("Bets", 3)]);
    let endpoint = |pipeline: &str, topic: &str, partitions, key: &str, schema| Endpoint {
        pipeline: pipeline.into(),
        topic: topic.into(),
        partitions,
        partitioner: Arc::default(),
        key: KeyRule::new(key).unwrap(),
        schema,
        mark: Identity::default().mark(),
    };
    let endpoints = [
        endpoint(SCORES, "NBA-Games", 4, GAME_ID_POINTER, Some(Schema::Score)),
        endpoint("bets", "Bets", 3, "/bet/id", None),
    ];
    let ingest = Ingest::new(log.clone(), config, endpoints);
    (log, Arc::new(ingest))
}

async fn send(
    ingest: &Arc<Ingest>,
    pipeline: &str,
    format: Format,
    body: impl Into<Bytes>,
) -> Result<Receipt, IngestError> {
    let endpoint = ingest.endpoint(pipeline).unwrap();
    ingest
        .append_events(endpoint, format, None, body.into())
        .await
}

/// Sends a body that must be refused, and checks that nothing was appended.
async fn refused(pipeline: &str, format: Format, body: impl Into<Bytes>) -> Refused {
    let (log, ingest) = ingest(IngestConfig::default());
    match send(&ingest, pipeline, format, body).await {
        Err(IngestError::Refused(refused)) => {
            assert_eq!(log.len("NBA-Games") + log.len("Bets"), 0);
            refused
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keeps_an_event_as_it_was_sent() {
    let (log, ingest) = ingest(IngestConfig::default());
    let body = format!(" \r\n{GOOD}\t\n");
    let receipt = send(&ingest, SCORES, Format::Json, body).await.unwrap();
    assert!(!receipt.many);
    assert_eq!(receipt.results.len(), 1);
    let [record] = &log.records("NBA-Games")[..] else {
        panic!("one record");
    };
    assert_eq!(record.value.as_deref(), Some(GOOD.as_bytes()));
    assert_eq!(record.key.as_deref(), Some(&b"LAL-BOS"[..]));
    assert!(record.headers.is_empty());
    assert!(record.timestamp_ms > 1_700_000_000_000);
    let position = receipt.results[0].as_ref().unwrap();
    assert_eq!(position.partition, Method::Murmur2.partition(b"LAL-BOS", 4));
}

/// An ignored field may hold any JSON, and the record keeps each byte of it.
#[tokio::test]
async fn what_is_ignored_may_be_any_json() {
    let bet = r#"{"bet":{"id":"b"},"x":7}"#;
    for ignored in [
        r#""\ud800""#,
        r#""\udc00\ud800 \u0000""#,
        "1e400",
        "-1E+99999",
        "-0",
        "123456789012345678901234567890.5",
        r#"{"\ud800":1,"a":1,"a":2}"#,
        r#"[[[{"a":"[[[[[\"[[[[["}]]]"#,
    ] {
        for (pipeline, event) in [
            (SCORES, GOOD.replace("[1, 2]", ignored)),
            ("bets", bet.replace('7', ignored)),
        ] {
            for (format, body) in [
                (Format::Json, event.clone()),
                (Format::Json, format!("[{event}]")),
                (Format::NdJson, format!("{event}\n")),
            ] {
                let (log, ingest) = ingest(IngestConfig::default());
                let sent = send(&ingest, pipeline, format, body).await;
                assert!(sent.is_ok(), "{event}: {sent:?}");
                let topic = if pipeline == SCORES {
                    "NBA-Games"
                } else {
                    "Bets"
                };
                let value = log.records(topic)[0].value.clone();
                assert_eq!(value.as_deref(), Some(event.as_bytes()));
            }
        }
    }
}

#[tokio::test]
async fn what_matters_must_be_what_it_should_be() {
    let with = |from: &str, to: &str| GOOD.replace(from, to);
    let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
    for (event, reason) in [
        (with("\"LAL-BOS\"", r#""\ud800""#), Reason::InvalidField),
        (with("\"seq\":1", "\"seq\":1e400"), Reason::InvalidField),
        (
            with("\"clock\"", r#""game\u005fid":"NYK-CHI","clock""#),
            Reason::DuplicateField,
        ),
        (with("[1, 2]", &deep), Reason::TooDeep),
        // The plugin reads the names of all fields.
        (with("\"x\"", r#""\ud800""#), Reason::InvalidJson),
        (with("[1, 2]", r#""\u12""#), Reason::InvalidJson),
        (with("[1, 2]", "1e"), Reason::InvalidJson),
        (with("[1, 2]", "\"\n\""), Reason::InvalidJson),
    ] {
        let refused = refused(SCORES, Format::Json, event.clone()).await;
        assert_eq!(refused.reason, reason, "{event}: {refused}");
    }
    let event = r#"{"bet":{"id":"\ud800"}}"#;
    assert_eq!(
        refused("bets", Format::Json, event).await.reason,
        Reason::InvalidField
    );
    // Where no plugin relies on the names, a name may be any JSON string.
    let (_, ingest) = ingest(IngestConfig::default());
    let event = r#"{"\ud800":1,"b\u0065t":{"id":"b","\udfff":2}}"#;
    assert!(send(&ingest, "bets", Format::Json, event).await.is_ok());
}

#[tokio::test]
async fn an_escaped_key_is_the_key_it_stands_for() {
    let (log, ingest) = ingest(IngestConfig::default());
    let body = GOOD.replace("LAL-BOS", r"LAL\u002dBOS");
    send(&ingest, SCORES, Format::Json, body).await.unwrap();
    assert_eq!(
        log.records("NBA-Games")[0].key.as_deref(),
        Some(&b"LAL-BOS"[..])
    );
}

#[tokio::test]
async fn many_events_keep_their_order_and_get_their_own_idempotency_keys() {
    for (format, body) in [
        (Format::Json, format!("[{GOOD},\n {GOOD} ]")),
        (Format::NdJson, format!("\n{GOOD}\r\n \t\n{GOOD}")),
    ] {
        let (log, ingest) = ingest(IngestConfig::default());
        let endpoint = ingest.endpoint(SCORES).unwrap();
        let key = IdempotencyKey::new(b"try-7");
        let receipt = ingest
            .append_events(endpoint, format, key, body.into())
            .await
            .unwrap();
        assert!(receipt.many);
        let records = log.records("NBA-Games");
        assert_eq!(records.len(), 2);
        for (index, record) in records.iter().enumerate() {
            assert_eq!(record.value.as_deref(), Some(GOOD.as_bytes()));
            let header = |name| record.header(name).map(|value| value.to_vec());
            assert_eq!(
                header(TOPIC_HEADER),
                endpoint.mark.value.as_deref().map(<[u8]>::to_vec)
            );
            assert_eq!(header(IDEMPOTENCY_HEADER), Some(b"try-7".to_vec()));
            assert_eq!(
                header(IDEMPOTENCY_INDEX_HEADER),
                Some(index.to_string().into_bytes())
            );
        }
    }
}

/// The numbers of a game have no gaps, whichever other games the request has.
#[tokio::test]
async fn events_are_numbered_by_key() {
    let (log, ingest) = ingest(IngestConfig::default());
    let endpoint = ingest.endpoint(SCORES).unwrap();
    let games = [
        "LAL-BOS", "NYK-CHI", "LAL-BOS", "GSW-PHX", "NYK-CHI", "LAL-BOS",
    ];
    let lines: String = games
        .iter()
        .map(|game| GOOD.replace("LAL-BOS", game) + "\n")
        .collect();
    let key = IdempotencyKey::new(b"try-7");
    ingest
        .append_events(endpoint, Format::NdJson, key, lines.into())
        .await
        .unwrap();
    for (game, count) in [("LAL-BOS", 3), ("NYK-CHI", 2), ("GSW-PHX", 1)] {
        let records = log.records("NBA-Games");
        let numbers: Vec<_> = records
            .iter()
            .filter(|record| record.key.as_deref() == Some(game.as_bytes()))
            .map(|record| record.header(IDEMPOTENCY_INDEX_HEADER).unwrap().to_vec())
            .collect();
        let wanted: Vec<_> = (0..count)
            .map(|n: u32| n.to_string().into_bytes())
            .collect();
        assert_eq!(numbers, wanted, "{game}");
    }
}

#[tokio::test]
async fn a_key_goes_where_its_pipelines_partitioner_says() {
    let log = MemoryLog::new(&[("NBA-Games", 8)]);
    let partitioner = Partitioner {
        manual: [("LAL-BOS".to_owned(), 7)].into(),
        fallback: Method::Crc32,
    };
    let endpoint = Endpoint {
        pipeline: SCORES.into(),
        topic: "NBA-Games".into(),
        partitions: 8,
        partitioner: Arc::new(partitioner),
        key: KeyRule::new(GAME_ID_POINTER).unwrap(),
        schema: Some(Schema::Score),
        mark: Identity::default().mark(),
    };
    let ingest = Arc::new(Ingest::new(log, IngestConfig::default(), [endpoint]));
    let games = ["LAL-BOS", "NYK-CHI", "GSW-PHX", "MIA-ORL"];
    for (game, partition) in games.into_iter().zip([
        PartitionId(7),
        Method::Crc32.partition(b"NYK-CHI", 8),
        Method::Crc32.partition(b"GSW-PHX", 8),
        Method::Crc32.partition(b"MIA-ORL", 8),
    ]) {
        let body = GOOD.replace("LAL-BOS", game);
        let receipt = send(&ingest, SCORES, Format::Json, body).await.unwrap();
        let position = receipt.results[0].as_ref().unwrap();
        assert_eq!(position.partition, partition, "{game}");
    }
}

#[tokio::test]
async fn nothing_asked_is_nothing_done() {
    let (log, ingest) = ingest(IngestConfig::default());
    for (format, body) in [
        (Format::Json, "[]"),
        (Format::NdJson, ""),
        (Format::NdJson, "\n \n"),
    ] {
        let receipt = send(&ingest, SCORES, format, body).await.unwrap();
        assert!(receipt.many && receipt.results.is_empty());
    }
    assert_eq!(log.len("NBA-Games"), 0);
}

#[tokio::test]
async fn a_field_that_is_wrong_is_named() {
    let cases = [
        (r#""game_id":"LAL-BOS""#, r#""game_id":"""#, "game_id"),
        (r#""game_id":"LAL-BOS""#, r#""game_id":7"#, "game_id"),
        (
            r#""game_id":"LAL-BOS""#,
            r#""game_id":"a\u0000b""#,
            "game_id",
        ),
        (
            r#""game_id":"LAL-BOS""#,
            r#""game_id":"a\u0085b""#,
            "game_id",
        ),
        (r#""seq":1"#, r#""seq":0"#, "seq"),
        (r#""seq":1"#, r#""seq":1.0"#, "seq"),
        (r#""seq":1"#, r#""seq":"1""#, "seq"),
        (r#""type":"miss""#, r#""type":"dunk""#, "type"),
        (r#""period":1"#, r#""period":65"#, "period"),
        (r#""clock":"9:42""#, r#""clock":"9.42""#, "clock"),
        (r#""x":[1, 2]"#, r#""points":-2"#, "points"),
        (r#""x":[1, 2]"#, r#""points":11"#, "points"),
        (r#""x":[1, 2]"#, r#""points":null"#, "points"),
        (r#""x":[1, 2]"#, r#""points":[[]]"#, "points"),
        (r#""x":[1, 2]"#, r#""team":7"#, "team"),
        (r#""x":[1, 2]"#, r#""player":{}"#, "player"),
    ];
    for (from, to, field) in cases {
        assert!(GOOD.contains(from));
        let refused = refused(SCORES, Format::Json, GOOD.replace(from, to)).await;
        assert_eq!(refused.reason, Reason::InvalidField, "{to}");
        assert_eq!(refused.field.as_deref(), Some(field), "{to}");
        assert!(refused.to_string().starts_with(field), "{refused}");
    }
    let long = GOOD.replace("LAL-BOS", &"x".repeat(129));
    assert_eq!(
        refused(SCORES, Format::Json, long).await.field.unwrap(),
        "game_id"
    );
    let long = GOOD.replace(r#""x":[1, 2]"#, &format!(r#""team":"{}""#, "x".repeat(129)));
    assert_eq!(
        refused(SCORES, Format::Json, long).await.field.unwrap(),
        "team"
    );
}

#[tokio::test]
async fn a_field_that_is_missing_or_double_is_named() {
    for field in ["game_id", "seq", "type", "period", "clock"] {
        let body = GOOD.replace(&format!("\"{field}\""), "\"other\"");
        let refused = refused(SCORES, Format::Json, body).await;
        assert_eq!(refused.reason, Reason::MissingField);
        assert_eq!(refused.field.as_deref(), Some(field));
    }
    let body = GOOD.replace(r#""x":[1, 2]"#, r#""seq":2"#);
    let refused = refused(SCORES, Format::Json, body).await;
    assert_eq!(refused.reason, Reason::DuplicateField);
    assert_eq!(refused.field.as_deref(), Some("seq"));
}

#[tokio::test]
async fn the_bad_one_among_many_is_pointed_at() {
    let bad = GOOD.replace(r#""x":[1, 2]"#, r#""points":-1"#);
    let array = refused(
        SCORES,
        Format::Json,
        format!("[{GOOD},{GOOD},{bad},{GOOD}]"),
    )
    .await;
    assert_eq!(array.place, Place::Index(2));
    assert_eq!(
        array.to_string(),
        "[2].points must be an integer from 0 to 10"
    );
    let lines = refused(SCORES, Format::NdJson, format!("{GOOD}\n\n{bad}\n{GOOD}")).await;
    assert_eq!(lines.place, Place::Line(3));
    assert_eq!(
        lines.to_string(),
        "line 3: points must be an integer from 0 to 10"
    );
    let broken = refused(SCORES, Format::NdJson, format!("{GOOD}\n{{\"game_id\":")).await;
    assert_eq!(
        (broken.reason, broken.place),
        (Reason::InvalidJson, Place::Line(2))
    );
    assert_eq!(
        broken.to_string(),
        "line 2: EOF while parsing a value at column 11"
    );
    let nested = refused("bets", Format::Json, r#"[{"bet":{"id":""}}]"#).await;
    assert_eq!(nested.to_string(), "[0]/bet/id must not be empty");
}

#[tokio::test]
async fn what_is_no_json_is_refused() {
    let tail = format!("{GOOD} x");
    let mark = format!("\u{feff}{GOOD}");
    let nan = GOOD.replace("[1, 2]", "NaN");
    let cut = &GOOD[..GOOD.len() - 1];
    let list = format!("[{GOOD},]");
    for body in [
        "", " ", "{", "7", "\"a\"", "null", &tail, &mark, &nan, cut, &list, "[7]",
    ] {
        let refused = refused(SCORES, Format::Json, body.to_owned()).await;
        assert_eq!(refused.reason, Reason::InvalidJson, "{body}");
    }
    let refused = refused(SCORES, Format::Json, &b"{\"a\":\"\xff\"}"[..]).await;
    assert_eq!(refused.reason, Reason::InvalidUtf8);
    assert_eq!(refused.to_string(), "not UTF-8 at byte 6");
}

#[tokio::test]
async fn depth_is_counted_from_the_event() {
    let nested = |levels: usize| {
        let value = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        GOOD.replace("[1, 2]", &value)
    };
    let (log, ingest) = ingest(IngestConfig::default());
    // The event itself is the first of 32 levels.
    let body = format!("[{}]", nested(31));
    send(&ingest, SCORES, Format::Json, body).await.unwrap();
    assert_eq!(log.len("NBA-Games"), 1);
    for levels in [32, 200, 20_000] {
        let refused = refused(SCORES, Format::Json, nested(levels)).await;
        assert_eq!(refused.reason, Reason::TooDeep);
    }
    let known = GOOD.replace(
        r#""seq":1"#,
        &format!(r#""seq":{}{}"#, "[".repeat(99), "]".repeat(99)),
    );
    assert_eq!(
        refused(SCORES, Format::Json, known).await.reason,
        Reason::TooDeep
    );
}

#[tokio::test]
async fn sizes_are_bounded() {
    let config = IngestConfig {
        event_bytes_max: bytesize::ByteSize::b(200),
        events_max: 2,
        ..IngestConfig::default()
    };
    let (log, ingest) = ingest(config);
    let large = GOOD.replace("[1, 2]", &format!("\"{}\"", "x".repeat(200)));
    let three = format!("{GOOD}\n{GOOD}\n{GOOD}");
    for (format, body, reason) in [
        (Format::Json, large, Reason::EventTooLarge),
        (Format::NdJson, three, Reason::TooManyEvents),
    ] {
        match send(&ingest, SCORES, format, body).await {
            Err(IngestError::Refused(refused)) => assert_eq!(refused.reason, reason),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(log.len("NBA-Games"), 0);
}

#[tokio::test]
async fn a_large_body_is_taken_like_a_small_one() {
    let (log, ingest) = ingest(IngestConfig::default());
    let body = format!("{GOOD}\n").repeat(2_000);
    assert!(body.len() > INLINE_BYTES_MAX);
    let receipt = send(&ingest, SCORES, Format::NdJson, body).await.unwrap();
    assert_eq!(receipt.results.len(), 2_000);
    assert_eq!(log.len("NBA-Games"), 2_000);
}

#[tokio::test]
async fn bytes_in_flight_are_bounded() {
    let (_, ingest) = ingest(IngestConfig::default());
    let mut held = Reservation::default();
    let whole = usize_of(ingest.config().in_flight_bytes_max);
    ingest.reserve(&mut held, whole - 10).unwrap();
    ingest.reserve(&mut held, 10).unwrap();
    let mut other = Reservation::default();
    assert!(matches!(
        ingest.reserve(&mut other, 1),
        Err(IngestError::Busy)
    ));
    drop(held);
    ingest.reserve(&mut other, 1).unwrap();
}

#[test]
fn idempotency_keys() {
    assert!(IdempotencyKey::new(b"a-1!").is_some());
    assert!(IdempotencyKey::new(&[b'x'; 128]).is_some());
    for key in [&b""[..], b"a b", b"\x7f", "é".as_bytes(), &[b'x'; 129]] {
        assert!(IdempotencyKey::new(key).is_none(), "{key:?}");
    }
}
