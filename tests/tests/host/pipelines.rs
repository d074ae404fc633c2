//! Several pipelines in one host, and entities that come and go.

use courtside_tests::{Engine, Place, built, games, topics::Topics, until};
use reqwest::StatusCode;
use serde_json::json;

use super::point;

/// Two pipelines read one topic, a third reads the stream that the first writes.
pub async fn pipelines_share_topics_and_follow_each_other(engine: Engine) {
    let place = Place::new().on(engine).configured(
        r#"
        [pipelines.scores]
        input = "NBA-Games"
        output = { topic = "NBA-Scores", keep = "all" }
        key = "/game_id"

        [pipelines.rebounds]
        input = "NBA-Games"
        output = "NBA-Rebounds"
        key = "/game_id"

        [pipelines.counts]
        input = "NBA-Scores"
        output = "Score-Counts"
        key = "/game_id"
        "#,
    );
    place.put("scores/default", &built::plugin("nba-scoring"));
    place.put("rebounds/default", &built::plugin("box-score"));
    place.put("counts/default", &built::plugin("misbehaving"));
    let host = place.start_ready().await;
    let mut games = games::invented(3);
    for game in &mut games {
        host.accepts_all("/score", &game.lines).await;
    }
    // Both endpoints lead to the one topic.
    let late = host.accepts("/events/rebounds", &point("late", 1)).await;
    for game in &games {
        let of = |pipeline: &'static str| {
            let path = format!("/games/{}?pipeline={pipeline}", game.id);
            let host = &host;
            async move { host.get(&path).await.json() }
        };
        // Each pipeline comes to its end in its own time.
        for pipeline in ["scores", "rebounds", "counts"] {
            until("every event to be counted", || async {
                let seen = of(pipeline).await;
                let is_whole = seen["events"] == game.lines.len();
                is_whole.then_some(()).ok_or(seen.to_string())
            })
            .await;
        }
        game.check(&of("scores").await);
        let counted = json!({"key": game.id, "events": game.lines.len()});
        assert_eq!(of("counts").await, counted);
        let rebounds = of("rebounds").await;
        game.check(&rebounds);
        assert!(rebounds["rebounds"].is_object(), "{rebounds}");
    }
    for pipeline in ["scores", "rebounds"] {
        let output = host.game_after("late", pipeline, &late).await;
        assert_eq!(output.expect("an output")["events"], 1);
    }
    // The last record that `counts` reads is the output of this event.
    until("the last score to be counted", || async {
        let seen = host.get("/games/late?pipeline=counts").await;
        (seen.status == StatusCode::OK)
            .then_some(())
            .ok_or(seen.body)
    })
    .await;
    let unknown = host.get("/games/late?pipeline=unknown").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(unknown.code(), "pipeline-not-found");
    let groups = host.get("/group").await.json();
    let groups = groups["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 3);
    // On Kafka the end of a transaction stands behind the last record.
    let ends_max = u64::from(engine == Engine::Kafka);
    for partition in groups
        .iter()
        .filter(|group| group["pipeline"] == "counts")
        .flat_map(|group| group["partitions"].as_array().expect("partitions"))
    {
        let lag = partition["lag"].as_u64().expect("a lag");
        assert!(lag <= ends_max, "{partition}");
    }
    host.stop().await;

    let topics = Topics::of(&place);
    for (pipeline, input, output) in [
        ("scores", "NBA-Games", "NBA-Scores"),
        ("rebounds", "NBA-Games", "NBA-Rebounds"),
        ("counts", "NBA-Scores", "Score-Counts"),
    ] {
        assert_eq!(topics.each_counted_once(pipeline, input, output), 0);
    }
}

/// One pipeline's plugin fails at every event, and another has none: the third
/// does not notice.
pub async fn a_pipeline_in_trouble_is_alone_in_it(engine: Engine) {
    let pipeline = |name: &str| {
        format!(
            "[pipelines.{name}]\ninput = \"{name}-in\"\noutput = \"{name}-out\"\nkey = \"/key\"\n"
        )
    };
    let place = Place::new()
        .on(engine)
        .configured(&["well", "failing", "waiting"].map(pipeline).concat())
        .set("plugin.call_cpu_time_max", "100ms");
    place.put("well/default", &built::plugin("misbehaving"));
    place.put("failing/default", &built::plugin("misbehaving"));
    let host = place.start().await;
    host.runs("well/default", &built::plugin("misbehaving"))
        .await;
    host.runs("failing/default", &built::plugin("misbehaving"))
        .await;
    let mut last = String::new();
    for number in 1..=5 {
        let event = json!({"key": "a", "n": number});
        host.accepts("/events/waiting", &event).await;
        let bad =
            json!({"key": "a", "n": number, "do": if number % 2 == 0 { "trap" } else { "loop" }});
        host.accepts("/events/failing", &bad).await;
        last = host.accepts("/events/well", &event).await;
    }
    let output = host.game_after("a", "well", &last).await;
    assert_eq!(output, Some(json!({"key": "a", "events": 5})));
    place.put("waiting/default", &built::plugin("misbehaving"));
    host.is_ready().await;
    host.has_processed_all().await;
    let output = host.get("/games/a?pipeline=waiting").await.json();
    assert_eq!(output["events"], 5);
    host.stop().await;
    let topics = Topics::of(&place);
    let codes: Vec<_> = topics
        .dead_letters("failing")
        .into_iter()
        .map(|letter| letter.code)
        .collect();
    // The second event that runs out of time, with none that went well in
    // between, halts the entity.
    let (trap, deadline, halted) = ("plugin-trap", "plugin-deadline", "entity-halted");
    assert_eq!(codes, [deadline, trap, halted, halted, halted]);
    assert_eq!(topics.dead_letters("well"), []);
}

/// Plays far more games than may be open at a time, with their events
/// interleaved.
pub async fn entities_that_close_and_open_again_count_as_others_do(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring"))
        .on(engine)
        .set("worker.entity_idle", "100ms")
        .set("worker.entities_open_max", "2")
        .set("worker.workers", "1")
        .set("worker.poll_bytes_max", "16KiB");
    let host = place.start_ready().await;
    let games = games::invented(12);
    let longest = games.iter().map(|game| game.lines.len()).max().unwrap_or(0);
    for from in (0..longest).step_by(25) {
        let lines: Vec<&String> = (from..from + 25)
            .flat_map(|number| games.iter().filter_map(move |game| game.lines.get(number)))
            .collect();
        host.accepts_all("/score", &lines).await;
    }
    host.has_processed_all().await;
    for game in &games {
        game.check(&host.game(&game.id).await.expect("an output"));
    }
    let open = metric(&host.get("/metrics").await.body, "courtside_entities_open");
    assert!(open <= 2.0, "{open} entities are open");
    host.stop().await;
    let topics = Topics::of(&place);
    assert_eq!(
        topics.each_counted_once("scores", "NBA-Games", "NBA-Scores"),
        0
    );
}

/// The sum of a metric over its labels.
fn metric(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
    });
    let values: Vec<f64> = lines
        .map(|line| {
            line.rsplit(' ')
                .next()
                .expect("a value")
                .parse()
                .expect("a number")
        })
        .collect();
    assert!(!values.is_empty(), "no {name} in {text}");
    values.iter().sum()
}
