//! The configuration as a whole: files, flags, faults, and the dump.

use std::{collections::BTreeMap, time::Duration};

use bytesize::ByteSize;
use courtside_engine::pipeline::kept::KeptTopic;
use courtside_types::slot_name::SlotName;

use super::{Config, ConfigError, PipelineConfig, SCORES, settings};

fn load(toml: &str, overrides: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("courtside.toml");
    std::fs::write(&file, toml).unwrap();
    let overrides: Vec<_> = overrides
        .iter()
        .map(|(path, value)| ((*path).to_owned(), (*value).to_owned()))
        .collect();
    Config::load(Some(&file), &overrides)
}

#[test]
fn without_anything_there_is_the_pipeline_of_scores() {
    let config = load("", &[]).unwrap();
    assert_eq!(
        config.pipelines.get(SCORES),
        Some(&PipelineConfig::scores())
    );
    assert_eq!(config.group(SCORES), "courtside-scores");
}

#[test]
fn flags_go_over_the_file() {
    let config = load(
        "[worker]\ncommit_interval = \"50ms\"\nworkers = 3",
        &[("worker.commit_interval", "20ms"), ("log.partitions", "4")],
    )
    .unwrap();
    assert_eq!(config.worker.commit_interval, Duration::from_millis(20));
    assert_eq!(config.worker.workers, 3);
    assert_eq!(config.log.partitions, 4);
}

/// Loads each configuration, and looks for the name of the fault in its refusal.
fn refused(cases: &[(&str, &str)]) {
    for (toml, name) in cases {
        let error = load(toml, &[]).unwrap_err().to_string();
        assert!(error.contains(name), "{toml}: {error}");
    }
}

/// TOML has no such number, and it must not hide the values after it.
#[test]
fn a_number_that_toml_cannot_hold_is_refused() {
    let path = "worker.call_events_max";
    for value in ["9223372036854775808", "18446744073709551615"] {
        let others = [(path, value), ("http.connections_max", "0")];
        for overrides in [&others[..1], &others] {
            let error = load("", overrides).unwrap_err().to_string();
            let problem = "is over the maximum of 9223372036854775807";
            let is_named = error.contains(path) && error.contains(problem);
            let is_other = error.contains("http.connections_max");
            assert!(is_named || is_other, "{error}");
        }
    }
}

#[test]
fn wrong_values_are_named() {
    refused(&[
        ("[worker]\ncommit_intervall = \"1s\"", "commit_intervall"),
        (
            "[worker]\ncommit_interval = \"0s\"",
            "worker.commit_interval",
        ),
        (
            "[plugin]\nmemory_bytes_max = \"1KiB\"",
            "plugin.memory_bytes_max",
        ),
        ("[log]\npartitions = 0", "log.partitions"),
        ("[http]\nlisten = \"nowhere\"", "listen"),
        (
            "[log]\nrecord_bytes_max = \"100KiB\"",
            "plugin.checkpoint_bytes_max",
        ),
    ]);
}

/// A pipeline with this line in place of one of its own, and more lines after it.
fn pipeline(lines: &str) -> String {
    let own = [("input", "\"x\""), ("output", "\"y\""), ("key", "\"/id\"")];
    let mut toml = "[pipelines.a]\n".to_owned();
    for (name, value) in own {
        if !lines.starts_with(&format!("{name} ")) {
            toml += &format!("{name} = {value}\n");
        }
    }
    toml + lines
}

#[test]
fn wrong_pipelines_are_named() {
    for (lines, name) in [
        ("output = \"x\"", "pipelines.a.output"),
        ("key = \"id\"", "pipelines.a.key"),
        (
            "[pipelines.a.plugin]\nmemory_bytes_max = \"1KiB\"",
            "pipelines.a.plugin.memory_bytes_max",
        ),
        (
            "partitioner = \"md5\"",
            "pipelines.a.partitioner: unknown variant: found `md5`",
        ),
        (
            "partitioner = \"fnv1a\"\n[pipelines.b]\ninput = \"x\"\noutput = \"z\"\nkey = \"/id\"",
            "pipelines.a.partitioner: pipeline b has another",
        ),
        (
            "[pipelines.b]\ninput = \"y\"\noutput = \"z\"\nkey = \"/id\"\npartitioner = \"fnv1a\"",
            "pipelines.b.partitioner: pipeline a writes the input",
        ),
        (
            "output = { topic = \"y\", keep = \"some\" }",
            "pipelines.a.output.keep: unknown variant: found `some`",
        ),
        (
            "input = { topic = \"x\", kept = \"all\" }",
            "pipelines.a.input.kept: unknown field",
        ),
        (
            "output = 3",
            "expected the name of a topic, or a table with topic and keep",
        ),
    ] {
        refused(&[(&pipeline(lines), name)]);
    }
}

#[test]
fn wrong_slots_are_named() {
    for (slots, name) in [
        (
            "[pipelines.a.slots.LAL-BOS.plugin]\nmemory_bytes_max = \"1GiB\"",
            "pipelines.a.slots.\"LAL-BOS\": a slot is default, or keys/",
        ),
        (
            "[pipelines.a.slots.default.plugin]\nmemory_bytes_max = \"1KiB\"",
            "pipelines.a.slots.\"default\".plugin.memory_bytes_max",
        ),
        (
            "[pipelines.a.slots.\"keys/a-b\"]\n[pipelines.a.slots.\"keys/a%2Db\"]",
            "the slot is there twice",
        ),
        (
            "[pipelines.a.slots.default.plugin]\ncheckpoint_bytes_max = \"2MiB\"",
            "pipelines.a.slots.\"default\".plugin.checkpoint_bytes_max",
        ),
    ] {
        refused(&[(&pipeline(slots), name)]);
    }
}

/// A configuration of two pipelines, some of whose topics are as given.
fn pair(a_input: &str, a_output: &str, b_input: &str, b_outputs: &str) -> String {
    format!(
        "[pipelines.a]\ninput = {a_input}\noutput = {a_output}\nkey = \"/id\"
         [pipelines.b]\ninput = {b_input}\noutput = \"z\"\noutputs = {b_outputs}\nkey = \"/id\""
    )
}

#[test]
fn an_input_is_a_stream_and_an_output_a_table_unless_they_say_otherwise() {
    let config = load(
        &pair(
            "\"x\"",
            "{ topic = \"y\", keep = \"all\" }",
            "\"y\"",
            "{ more = \"m\", log = { topic = \"l\", keep = \"all\" }, plain = { topic = \"p\" } }",
        ),
        &[],
    )
    .unwrap();
    let [a, b] = ["a", "b"].map(|name| config.pipelines.get(name).unwrap());
    assert_eq!(a.input, KeptTopic::stream("x"));
    assert_eq!(a.output, KeptTopic::stream("y"));
    assert_eq!(b.input, KeptTopic::stream("y"));
    assert_eq!(b.output, KeptTopic::table("z"));
    let outputs = [
        ("more", KeptTopic::table("m")),
        ("log", KeptTopic::stream("l")),
        ("plain", KeptTopic::table("p")),
    ];
    let outputs = outputs.map(|(name, topic)| (name.to_owned(), topic));
    assert_eq!(b.outputs, BTreeMap::from(outputs));
    let dump = settings::dump(&config);
    assert_eq!(load(&dump, &[]).unwrap(), config, "{dump}");
}

#[test]
fn a_topic_is_of_one_kind_wherever_it_is_named() {
    let (x, none) = ("\"x\"", "{}");
    let (table, stream) = (
        "{ topic = \"y\", keep = \"latest\" }",
        "{ topic = \"y\", keep = \"all\" }",
    );
    for (toml, place) in [
        (pair(x, "\"y\"", "\"y\"", none), "pipelines.a.output"),
        (pair(x, stream, table, none), "pipelines.b.input"),
        (pair("\"y\"", "\"o\"", table, none), "pipelines.b.input"),
        (
            pair(x, stream, x, "{ more = \"y\" }"),
            "pipelines.b.outputs.more",
        ),
        (
            pair(
                x,
                "\"o\"",
                x,
                "{ more = { topic = \"z\", keep = \"all\" } }",
            ),
            "pipelines.b.output",
        ),
    ] {
        let error = load(&toml, &[]).unwrap_err().to_string();
        // The remedy is to make the table a stream, because that loses nothing.
        let step = format!("keep = \"all\" }} in {place}, which keeps every record");
        assert!(error.contains(&step), "{step} in {error}");
    }
    for toml in [
        pair(x, "\"y\"", table, none),
        pair(x, stream, "\"y\"", none),
        pair(x, "\"y\"", x, "{ more = \"y\" }"),
    ] {
        load(&toml, &[]).unwrap();
    }
}

#[test]
fn what_a_group_keeps_for_itself_is_no_output() {
    let (x, o, none) = ("\"x\"", "\"o\"", "{}");
    for suffix in [
        "pipeline",
        "plugins",
        "redrive",
        "checkpoints",
        "dead-letter",
    ] {
        let own = format!("\"courtside-b.{suffix}\"");
        let error = load(&pair(x, &own, x, none), &[]).unwrap_err().to_string();
        let said = "pipelines.a.output: topic courtside-b.";
        assert!(error.contains(said), "{error}");
    }
    let error = load(&pair("\"courtside-b.plugins\"", o, x, none), &[]).unwrap_err();
    assert!(error.to_string().contains("pipelines.a.input"), "{error}");
    // Dead letters may be read.
    load(&pair("\"courtside-b.dead-letter\"", o, x, none), &[]).unwrap();
}

#[test]
fn a_slot_goes_over_its_pipeline_and_that_over_all() {
    let config = load(
        "[plugin]\nmemory_bytes_max = \"64MiB\"\nemitted_bytes_max = \"1MiB\"\ncall_cpu_time_max = \"300ms\"
         [pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"
         [pipelines.a.plugin]\nmemory_bytes_max = \"128MiB\"\ncall_cpu_time_max = \"2s\"
         [pipelines.a.slots.\"keys/LAL-BOS\".plugin]\nmemory_bytes_max = \"512MiB\"
         [pipelines.b]\ninput = \"x\"\noutput = \"z\"\nkey = \"/id\"",
        &[],
    )
    .unwrap();
    let a = config.plugin_of("a");
    assert_eq!(a.memory_bytes_max, ByteSize::mib(128));
    assert_eq!(a.emitted_bytes_max, ByteSize::mib(1));
    let slots = config.plugins_of_slots("a");
    let slot = slots.get(&SlotName::of_key(b"LAL-BOS")).unwrap();
    assert_eq!(slot.memory_bytes_max, ByteSize::mib(512));
    assert_eq!(slot.emitted_bytes_max, ByteSize::mib(1));
    assert_eq!(slot.call_cpu_time_max, Duration::from_secs(2));
    assert_eq!(config.plugin_of("b"), config.plugin);
    assert!(config.plugins_of_slots("b").is_empty());
    let dump = settings::dump(&config);
    assert_eq!(load(&dump, &[]).unwrap(), config, "{dump}");
}

#[test]
fn deadlines_fit_into_each_other_where_a_group_waits() {
    let kafka = "[kafka]\nbrokers = \"a:9092\"\n";
    let late = "session_timeout = \"5s\"\n[worker]\ndrain_deadline = \"5s\"";
    let error = load(&format!("{kafka}{late}"), &[]).unwrap_err();
    assert!(error.to_string().contains("session_timeout"), "{error}");
    load(&format!("{kafka}assignor = \"consumer\"\n{late}"), &[]).unwrap();
    let slow = "[plugin]\ncall_cpu_time_max = \"10s\"";
    let error = load(&format!("{kafka}{slow}"), &[]).unwrap_err();
    assert!(error.to_string().contains("call_cpu_time_max"), "{error}");
    load(slow, &[]).unwrap();
    let slow = "[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"\n[pipelines.a.slots.default.plugin]\ncall_cpu_time_max = \"10s\"";
    let error = load(&format!("{kafka}{slow}"), &[]).unwrap_err();
    assert!(error.to_string().contains("call_cpu_time_max"), "{error}");
}

#[test]
fn a_dump_reads_back_as_what_it_dumped() {
    let config = load(
        "[log]\npartitions = 3\n[topics]\nretention_bytes = \"5GiB\"\n[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"\npartitioner = { manual = { \"LAL-BOS\" = 2 }, fallback = \"crc32\" }",
        &[],
    )
    .unwrap();
    let dump = settings::dump(&config);
    assert_eq!(load(&dump, &[]).unwrap(), config, "{dump}");
}

#[test]
fn properties_of_kafka_are_set_and_their_secrets_not_shown() {
    let config = load(
        "[kafka]\nbrokers = \"a:9092,b:9092\"\n[kafka.properties]\n\"sasl.password\" = \"hush\"\n\"client.rack\" = \"one\"",
        &[("kafka.properties.client.rack", "two"), ("kafka.properties.socket.timeout.ms", "5000")],
    )
    .unwrap();
    let property = |name: &str| config.kafka.properties.get(name).map(String::as_str);
    assert_eq!(property("sasl.password"), Some("hush"));
    assert_eq!(property("client.rack"), Some("two"));
    assert_eq!(property("socket.timeout.ms"), Some("5000"));
    let dump = settings::dump(&config);
    assert!(!dump.contains("hush"), "{dump}");
    let mut again = load(&dump, &[]).unwrap();
    let password = again
        .kafka
        .properties
        .insert("sasl.password".into(), "hush".into());
    assert_eq!(password.as_deref(), Some("<redacted>"));
    assert_eq!(again, config);
    let error = load("[kafka.properties]\n\"no.such\" = \"1\"", &[]).unwrap_err();
    assert!(error.to_string().contains("no.such"), "{error}");
}
