//! The SDK's promises to a plugin: refusals, formats, raw bytes, emissions.

use courtside_plugin::{
    Meta, Output, Processor, Raw, Refusal, State,
    native::{Checkpoint, Emission, Entity, Header, describe},
    test::Harness,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Adds numbers up until an event says that it is the last.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Sum {
    total: u64,
    done: bool,
}

#[derive(Debug, Deserialize)]
struct Add {
    add: u64,
    #[serde(default)]
    last: bool,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
struct Tag {
    #[serde(rename = "name")]
    _name: String,
}

impl Processor for Sum {
    const NAME: &'static str = "sum";
    const VERSION: &'static str = "1.2.3";
    const FORMAT: u32 = 3;
    const READS: &'static [&'static str] = &["sum/2", "count/1"];
    type Event = Add;

    fn open(_key: &str) -> Self {
        Self {
            total: 0,
            done: false,
        }
    }

    fn check(&self, event: &Add, _: &Meta) -> Result<(), Refusal> {
        match self.total.checked_add(event.add) {
            Some(total) if total <= 100 => Ok(()),
            _ => Err(format!("{} more is over 100", event.add).into()),
        }
    }

    fn apply(&mut self, event: Add, meta: &Meta, out: &mut Output) {
        let _ = event.tags;
        self.total += event.add;
        self.done = event.last;
        out.emit(&json!({"key": meta.key, "total": self.total}));
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn migrate(key: &str, format: &str, state: &[u8]) -> Result<Self, String> {
        let total = match format {
            "sum/2" => u64::decode(state)?,
            _ => return Err(format!("{key} has been counted, not summed up")),
        };
        Ok(Self { total, done: false })
    }
}

courtside_plugin::export!(Sum);

#[test]
fn a_plugin_describes_itself() {
    let description = describe::<Sum>();
    assert_eq!(description.name, "sum");
    assert_eq!(description.version, "1.2.3");
    assert_eq!(description.writes, "sum/3");
    assert_eq!(description.reads, ["sum/3", "sum/2", "count/1"]);
}

#[test]
fn a_refused_event_leaves_no_trace_and_the_others_go_on() {
    let mut sums = Harness::<Sum>::new("k");
    sums.feed(json!({"add": 60}))
        .feed(json!({"add": 41}))
        .feed(json!({"add": 40}));
    let run = sums.run();
    assert_eq!(
        run.json(),
        [
            json!({"key": "k", "total": 60}),
            json!({"key": "k", "total": 100})
        ]
    );
    let events: Vec<u32> = run
        .emissions
        .iter()
        .map(|emission| emission.event)
        .collect();
    assert_eq!(events, [0, 2]);
    assert_eq!(run.refused(1), Some("41 more is over 100"));
    assert_eq!(run.refusals.len(), 1);
}

#[test]
fn a_malformed_event_is_refused_with_the_place() {
    let mut sums = Harness::<Sum>::new("k");
    sums.feed(json!({"add": -1}))
        .feed(json!({"add": 1, "tags": [{"name": "a"}, {"name": 7}]}))
        .feed(json!({}))
        .feed_raw(*b"{\"add\": 1")
        .feed_raw(*b"{\"add\": 1} {}")
        .feed_raw(*b"");
    let run = sums.run();
    assert!(run.emissions.is_empty());
    let reasons: Vec<&str> = (0..6).filter_map(|index| run.refused(index)).collect();
    assert_eq!(
        reasons,
        [
            "malformed event: add: invalid value: integer `-1`, expected u64 at line 1 column 9",
            "malformed event: tags[1].name: invalid type: integer `7`, expected a string at line 1 column 39",
            "malformed event: missing field `add` at line 1 column 2",
            "malformed event: EOF while parsing an object at line 1 column 9",
            "malformed event: trailing characters at line 1 column 12",
            "malformed event: EOF while parsing a value at line 1 column 0",
        ]
    );
    assert_eq!(run.checkpoint, None, "nothing was ever processed");
}

#[test]
fn what_is_done_is_forgotten_whenever_the_checkpoint_comes() {
    let mut sums = Harness::<Sum>::new("k");
    sums.feed(json!({"add": 5, "last": true}));
    let run = sums.run();
    assert_eq!(run.checkpoint, None);

    sums.feed(json!({"add": 6}));
    let run = sums.run();
    assert_eq!(run.last(), json!({"key": "k", "total": 6}));
    assert!(run.checkpoint.is_some());
}

#[test]
fn a_checkpoint_is_opened_migrated_or_declined() {
    let open = |format: &str, state: &[u8]| {
        let saved = Checkpoint {
            format: format.to_owned(),
            state: state.to_vec(),
        };
        Entity::<Sum>::open("k", Some(&saved)).map(|entity| entity.checkpoint())
    };
    let seven = Checkpoint {
        format: "sum/3".to_owned(),
        state: br#"{"total":7,"done":false}"#.to_vec(),
    };
    assert_eq!(open("sum/3", &seven.state), Ok(Some(seven.clone())));
    assert_eq!(open("sum/2", b"7"), Ok(Some(seven)));
    assert_eq!(
        open("count/1", b"7"),
        Err("k has been counted, not summed up".to_owned())
    );
    assert_eq!(
        open("sum/4", b"7"),
        Err("sum 1.2.3 does not read the format sum/4".to_owned())
    );
    assert!(open("sum/3", b"{").is_err());

    let mut harness = Harness::<Sum>::saved("k", "sum/2", *b"40");
    assert_eq!(
        harness.feed(json!({"add": 2})).run().last(),
        json!({"key": "k", "total": 42})
    );
    assert_eq!(
        Harness::<Sum>::saved("k", "sum/4", *b"40").open_error(),
        Some("sum 1.2.3 does not read the format sum/4".to_owned())
    );
}

/// Raw bytes in, raw bytes kept, and every kind of emission.
struct Last(Vec<u8>);

impl State for Last {
    fn encode(&self) -> Result<Vec<u8>, String> {
        Ok(self.0.clone())
    }

    fn decode(state: &[u8]) -> Result<Self, String> {
        Ok(Self(state.to_vec()))
    }
}

impl Processor for Last {
    const NAME: &'static str = "last";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    type Event = Raw;

    fn open(key: &str) -> Self {
        Self(key.as_bytes().to_vec())
    }

    fn apply(&mut self, Raw(value): Raw, meta: &Meta, out: &mut Output) {
        let trace = meta.header("trace").unwrap_or(b"none");
        out.emit_raw(self.0.as_slice())
            .to("before")
            .key(*b"other")
            .header("trace", trace);
        if value.is_empty() {
            out.tombstone();
        }
        self.0 = value;
    }
}

#[test]
fn raw_bytes_go_in_stay_and_come_out() {
    let mut last = Harness::<Last>::new("k");
    let header = |name: &str, value: &[u8]| Header {
        name: name.to_owned(),
        value: Some(value.to_vec()),
    };
    last.feed_with([0xff, 0], vec![header("trace", b"t1")])
        .feed_raw(*b"");
    let run = last.run();
    let before = |event, value: &[u8], trace: &[u8]| Emission {
        event,
        output: Some("before".to_owned()),
        key: Some(b"other".to_vec()),
        headers: vec![header("trace", trace)],
        value: Some(value.to_vec()),
    };
    let tombstone = Emission {
        event: 1,
        output: None,
        key: None,
        headers: Vec::new(),
        value: None,
    };
    assert_eq!(
        run.emissions,
        [
            before(0, b"k", b"t1"),
            before(1, &[0xff, 0], b"none"),
            tombstone
        ]
    );
    let checkpoint = run.checkpoint.as_ref().unwrap();
    assert_eq!(
        (checkpoint.format.as_str(), checkpoint.state.as_slice()),
        ("last/1", [].as_slice())
    );

    let mut reopened = run.reopen::<Last>();
    let run = reopened.feed_raw(*b"x").run();
    assert_eq!(run.emissions[0].value.as_deref(), Some([].as_slice()));
}

/// Emits a value that JSON cannot express.
#[derive(Serialize, Deserialize)]
struct Unspeakable;

impl Processor for Unspeakable {
    const NAME: &'static str = "unspeakable";
    const VERSION: &'static str = "0.1.0";
    type Event = Raw;

    fn open(_key: &str) -> Self {
        Self
    }

    fn apply(&mut self, _: Raw, _: &Meta, out: &mut Output) {
        out.emit(&std::collections::BTreeMap::from([((1, 2), 3)]));
    }
}

#[test]
#[should_panic(expected = "an emission cannot be serialized: key must be a string")]
fn an_emission_that_cannot_be_written_traps() {
    let _ = Harness::<Unspeakable>::new("k").feed_raw(*b"").run();
}

/// Passes an event's headers on, as stream processors do.
#[derive(Serialize, Deserialize)]
struct Forward;

impl Processor for Forward {
    const NAME: &'static str = "forward";
    const VERSION: &'static str = "0.1.0";
    type Event = Raw;

    fn open(_key: &str) -> Self {
        Self
    }

    fn apply(&mut self, event: Raw, meta: &Meta, out: &mut Output) {
        let mut emitted = out.emit_raw(event.0);
        for header in meta.headers {
            emitted = emitted.header(&*header.name, header.value.clone().unwrap_or_default());
        }
    }
}

fn header(name: &str) -> Header {
    Header {
        name: name.to_owned(),
        value: Some(b"x".to_vec()),
    }
}

#[test]
fn other_headers_may_be_passed_on() {
    let mut harness = Harness::<Forward>::new("k");
    let run = harness
        .feed_with(*b"1", vec![header("trace"), header("courtsideness")])
        .run();
    assert_eq!(run.emissions[0].headers.len(), 2);
}

#[test]
#[should_panic(expected = "event 0 emits the header \"Courtside-Digest\"")]
fn the_harness_refuses_a_header_of_the_hosts_own() {
    let _ = Harness::<Forward>::new("k")
        .feed_with(*b"1", vec![header("Courtside-Digest")])
        .run();
}
