//! Streams and tables: the records that remain in a topic that one pipeline
//! writes, another reads, and a client posts to.

use courtside_tests::{Engine, Place, built, place::output, topics::Topics, until};
use serde_json::{Value, json};

/// Events of one key, 10 MB of them.
const EVENTS: usize = 40_000;
const PADDING: usize = 230;

fn pipelines(input: &str, reservations: &str) -> String {
    format!(
        r#"
        [pipelines.orders]
        input = "Orders"
        output = "Order-States"
        outputs = {{ reservations = {reservations} }}
        key = "/key"

        [pipelines.inventory]
        input = {input}
        output = "Stock"
        key = "/key"
        "#
    )
}

const STREAM: &str = r#"{ topic = "Inventory", keep = "all" }"#;
const TABLE: &str = r#"{ topic = "Inventory", keep = "latest" }"#;

/// Events that are posted to `inventory` while it has no plugin are processed when
/// it gets one, each of them once.
async fn all_that_was_posted_is_processed(place: Place) -> Place {
    let place = place
        .set("log.cleanup_interval", "20ms")
        .set("log.compaction_dirty_bytes_min", "0B")
        .set("log.compaction_dirty_ratio_min", "0.0");
    let host = place.start().await;
    let padding = "x".repeat(PADDING);
    let lines: Vec<String> = (0..EVENTS)
        .map(|number| json!({"key": "shoes", "n": number, "padding": padding}).to_string())
        .collect();
    assert!(lines.iter().map(String::len).sum::<usize>() >= 10_000_000);
    for lines in lines.chunks(2_000) {
        host.accepts_all("/events/inventory", lines).await;
    }
    let plugin = built::plugin("misbehaving");
    place.put("orders/default", &plugin);
    place.put("inventory/default", &plugin);
    host.is_ready().await;
    host.has_processed_all().await;
    let seen: Value = host.get("/games/shoes?pipeline=inventory").await.json();
    assert_eq!(seen, json!({"key": "shoes", "events": EVENTS}));
    host.stop().await;
    assert_eq!(Topics::of(&place).dead_letters("inventory"), []);
    place
}

pub async fn a_stream_of_one_key_is_processed_whole(engine: Engine) {
    let place = Place::new()
        .on(engine)
        .configured(&pipelines("\"Inventory\"", STREAM));
    let place = all_that_was_posted_is_processed(place).await;
    // No event was superseded, so all are there for the next group as well.
    assert_eq!(Topics::of(&place).records("Inventory").len(), EVENTS);
}

/// Brokers compact a table as they like; the embedded engine waits for its groups.
pub async fn a_table_of_one_key_is_compacted_behind_its_readers(engine: Engine) {
    let place = Place::new()
        .on(engine)
        .configured(&pipelines(TABLE, "\"Inventory\""));
    all_that_was_posted_is_processed(place).await;
}

/// A topic cannot be a stream for one pipeline and a table for another.
pub async fn pipelines_that_disagree_on_a_topic_are_named(_: Engine) {
    let place = Place::new().configured(&pipelines("\"Inventory\"", "\"Inventory\""));
    let said = place.spawn().refuses_to_start().await;
    for part in [
        "config-invalid",
        "pipelines.inventory.input",
        "pipelines.orders.outputs.reservations",
        r#"{ topic = "Inventory", keep = "all" }"#,
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!place.data_dir().join("log").exists(), "nothing was made");
}

/// The step that the host names leaves every record where it is, and then a host
/// starts.
pub async fn a_table_that_is_to_be_a_stream_loses_nothing(engine: Engine) {
    let table = r#"{ topic = "Inventory", keep = "latest" }"#;
    let of = |input: &str| {
        format!("[pipelines.inventory]\ninput = {input}\noutput = \"Stock\"\nkey = \"/key\"\n")
    };
    let place = Place::new().on(engine).configured(&of(table));
    place.put("inventory/default", &built::plugin("misbehaving"));
    let host = place.start_ready().await;
    host.accepts("/events/inventory", &json!({"key": "old", "n": 1}))
        .await;
    host.has_processed_all().await;
    host.stop().await;

    let place = place
        .configured(&of("\"Inventory\""))
        .set("topics.retention", "1s");
    let said = place.spawn().refuses_to_start().await;
    assert!(said.contains("topic-mismatch"), "{said}");
    let topic = place.topic("Inventory");
    let step = [
        "topics",
        "alter",
        &topic,
        "-c",
        "cleanup.policy=delete",
        "-c",
        "retention.ms=-1",
        "-c",
        "retention.bytes=-1",
    ];
    assert!(said.contains(&step.join(" ")), "{said}");
    // A topic created now would be a stream, so `create` finds the mismatch, too.
    let created = output(&mut place.operate(&["topics", "create"]));
    let said = String::from_utf8_lossy(&created.stderr).into_owned();
    assert!(said.contains("topic-mismatch"), "{said}");
    let altered = output(&mut place.operate(&step));
    assert!(altered.status.success(), "{altered:?}");

    let host = place.start_ready().await;
    host.accepts("/events/inventory", &json!({"key": "old", "n": 2}))
        .await;
    host.has_processed_all().await;
    host.stop().await;
    assert_eq!(Topics::of(&place).records("Inventory").len(), 2);
}

/// The other way round, a topic that was a stream is not compacted.
pub async fn a_stream_that_is_to_be_a_table_stays_one(engine: Engine) {
    let of = |output: &str| {
        format!("[pipelines.orders]\ninput = \"Orders\"\noutput = {output}\nkey = \"/key\"\n")
    };
    let stream = r#"{ topic = "Inventory", keep = "all" }"#;
    let place = Place::new().on(engine).configured(&of(stream));
    place.start().await.stop().await;
    let place = place.configured(&of("\"Inventory\""));
    let said = place.spawn().refuses_to_start().await;
    assert!(said.contains("topic-mismatch"), "{said}");
    let topic = place.topic("Inventory");
    let step = format!("{{ topic = \\\"{topic}\\\", keep = \\\"all\\\" }}");
    assert!(said.contains(&step), "{step} in {said}");
    assert!(!said.contains("topics alter"), "{said}");
}

/// Hosts that wrote to different topics would each show a part of the games.
pub async fn outputs_change_while_no_host_of_the_group_runs(engine: Engine) {
    let of = |output: &str| {
        format!(
            "[pipelines.scores]\ninput = \"NBA-Games\"\noutput = {output}\nkey = \"/game_id\"\n"
        )
    };
    let (first, second) = (
        "\"NBA-Scores\"",
        "{ topic = \"Other-Scores\", keep = \"all\" }",
    );
    let place = Place::new().on(engine).configured(&of(first));
    let host = place.start().await;
    // A directory of the embedded engine has one host; brokers have many.
    let place = if engine == Engine::Kafka {
        let other = place.beside().configured(&of(second));
        until("the first host to be in the group", || async {
            let view = host.get("/group").await.json();
            let members = view["groups"][0]["members"].as_array().map(Vec::len);
            (members > Some(0)).then_some(()).ok_or(view.to_string())
        })
        .await;
        let said = other.spawn().refuses_to_start().await;
        for part in [
            "pipeline-mismatch",
            &*place.topic("NBA-Scores"),
            &*place.topic("Other-Scores"),
            "stop all of them",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        host.stop().await;
        other
    } else {
        host.stop().await;
        place.configured(&of(second))
    };
    let host = place.start().await;
    let said = host.log();
    assert!(
        said.contains("the outputs of the consumer group have changed"),
        "{said}"
    );
    host.stop().await;
    // These outputs are the group's afterwards.
    let host = place.start().await;
    let said = host.log();
    assert!(
        !said.contains("the outputs of the consumer group have changed"),
        "{said}"
    );
    host.stop().await;
}
