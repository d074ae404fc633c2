//! Properties that are passed on, checked and hidden.

use super::*;

fn with(name: &str, value: &str) -> KafkaConfig {
    KafkaConfig {
        brokers: "localhost:9092".to_owned(),
        properties: BTreeMap::from([(name.to_owned(), value.to_owned())]),
        ..KafkaConfig::default()
    }
}

#[test]
fn properties_pass_through_and_are_checked() {
    assert_eq!(KafkaConfig::default().check(), Ok(()));
    let config = with("socket.timeout.ms", "1234");
    assert_eq!(config.check(), Ok(()));
    assert_eq!(config.client().get("socket.timeout.ms"), Some("1234"));
    assert_eq!(
        with("linger.ms", "7").producer(1).get("linger.ms"),
        Some("7")
    );
    for (name, value) in [
        ("no.such.property", "1"),
        ("socket.timeout.ms", "soon"),
        ("enable.idempotence", "false"),
        ("isolation.level", "read_uncommitted"),
        ("partition.assignment.strategy", "range"),
        ("session.timeout.ms", "6000"),
        ("group.remote.assignor", "range"),
    ] {
        let error = with(name, value).check().unwrap_err();
        assert!(error.contains(name), "{error}");
    }
    for brokers in ["localhost", "a:1,b", "a:99999"] {
        let config = KafkaConfig {
            brokers: brokers.to_owned(),
            ..KafkaConfig::default()
        };
        assert!(config.check().unwrap_err().starts_with("brokers"));
    }
}

#[test]
fn a_batch_is_as_large_as_the_client_makes_it() {
    assert_eq!(KafkaConfig::default().batch_bytes_max(1 << 20), 1_000_000);
    assert_eq!(with("batch.size", "5000").batch_bytes_max(1 << 20), 5_000);
    let largest = message_bytes_max(1_000);
    assert_eq!(KafkaConfig::default().batch_bytes_max(1_000), largest);
}

/// The client refuses properties that do not go together when it is made.
#[test]
fn every_assignor_makes_a_member() {
    for (name, assignor) in [
        ("cooperative-sticky", Assignor::CooperativeSticky),
        ("range", Assignor::Range),
        ("roundrobin", Assignor::RoundRobin),
        ("consumer", Assignor::Consumer),
    ] {
        let read: Assignor = serde_json::from_str(&format!("{name:?}")).unwrap();
        assert_eq!(read, assignor);
        for static_membership in [false, true] {
            let mut config = with("socket.timeout.ms", "1234");
            config.assignor = assignor;
            config.static_membership = static_membership;
            if assignor == Assignor::Consumer {
                let name = "group.remote.assignor".to_owned();
                config.properties.insert(name, "range".to_owned());
            }
            assert_eq!(config.check(), Ok(()));
            let member = config.member("g", "host", 3, false);
            let instance = static_membership.then_some("host.3");
            assert_eq!(member.get("group.instance.id"), instance);
            assert_eq!(
                member.get("partition.assignment.strategy"),
                assignor.strategy()
            );
            member.create::<rdkafka::consumer::BaseConsumer>().unwrap();
        }
    }
    let error = serde_json::from_str::<Assignor>("\"sticky\"").unwrap_err();
    assert!(error.to_string().contains("cooperative-sticky"), "{error}");
}

#[test]
fn a_session_is_longer_than_heartbeats_and_shorter_than_a_poll() {
    let config = |session_s, heartbeat_s| KafkaConfig {
        session_timeout: Duration::from_secs(session_s),
        heartbeat_interval: Duration::from_secs(heartbeat_s),
        ..KafkaConfig::default()
    };
    assert_eq!(config(6, 2).check(), Ok(()));
    assert!(config(5, 2).check().unwrap_err().contains("heartbeat"));
    assert!(config(301, 2).check().unwrap_err().contains("max.poll"));
    let brokers_say = KafkaConfig {
        assignor: Assignor::Consumer,
        ..config(5, 2)
    };
    assert_eq!(brokers_say.check(), Ok(()));
}

#[test]
fn scram_over_tls_is_built_in() {
    let mut config = with("security.protocol", "SASL_SSL");
    for (name, value) in [
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", "u"),
        ("sasl.password", "p"),
        ("compression.type", "zstd"),
    ] {
        config.properties.insert(name.to_owned(), value.to_owned());
    }
    assert_eq!(config.check(), Ok(()));
    config
        .client()
        .create::<rdkafka::consumer::BaseConsumer>()
        .unwrap();
}

#[test]
fn a_file_adds_properties_that_are_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret.properties");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut config = with("client.rack", "ours");
        config.properties_file.clone_from(&file);
        config.read_file().map(|()| config)
    };
    let config = read(
        "# of the cluster\n\n sasl.username = me\r\nsasl.password=a=b\\#c\nclient.rack=theirs\n",
    )
    .unwrap();
    let property = |name: &str| config.properties.get(name).map(String::as_str);
    assert_eq!(property("sasl.username"), Some("me"));
    assert_eq!(property("sasl.password"), Some("a=b\\#c"));
    assert_eq!(property("client.rack"), Some("ours"));
    let shown = config.redacted();
    let names: Vec<&str> = shown.properties.keys().map(String::as_str).collect();
    assert_eq!(names, ["client.rack"]);

    let error = read("a=1\nhush").unwrap_err();
    assert!(error.ends_with("line 2 is not NAME=VALUE"), "{error}");
    assert!(
        read("a=1\na=2")
            .unwrap_err()
            .ends_with("line 2 sets a again")
    );
    std::fs::remove_file(&file).unwrap();
    let mut gone = config;
    assert!(gone.read_file().unwrap_err().contains("secret.properties"));
}

#[test]
fn secrets_are_not_shown() {
    for name in [
        "sasl.password",
        "ssl.key.password",
        "ssl.key.pem",
        "sasl.oauthbearer.client.secret",
    ] {
        let shown = with(name, "hush").redacted();
        assert_eq!(shown.properties[name], REDACTED, "{name}");
    }
    let open = with("sasl.username", "someone");
    assert_eq!(open.redacted(), open);
}
