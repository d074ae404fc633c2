//! Records as Kafka's console consumer prints them.

use super::Cluster;

const CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
/// The consumer ends when no record came for this time, also if its group never
/// begins. By default it waits forever.
const SILENCE_MS: &str = "15000";

// Separators in the consumer's output: characters that no JSON text has.
const RECORD_END: &str = "\u{1e}";
const FIELD_END: &str = "\u{1f}";
const HEADER_END: &str = "\u{1d}";
const NULL: &str = "\u{1a}";

/// A record that the console consumer printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumed {
    pub partition: u32,
    pub offset: u64,
    pub key: Option<String>,
    pub headers: Vec<(String, String)>,
    pub value: Option<String>,
}

impl Consumed {
    /// The first header of a name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(key, _)| key == name);
        header.map(|(_, value)| &**value)
    }
}

pub(super) fn consume(cluster: &Cluster, topic: &str) -> Vec<Consumed> {
    let mut arguments = vec!["--bootstrap-server", cluster.brokers(), "--topic", topic];
    arguments.extend(["--from-beginning", "--timeout-ms", SILENCE_MS]);
    arguments.extend(["--isolation-level", "read_committed"]);
    let properties = [
        "print.partition=true".to_owned(),
        "print.offset=true".to_owned(),
        "print.headers=true".to_owned(),
        "print.key=true".to_owned(),
        format!("null.literal={NULL}"),
        format!("key.separator={FIELD_END}"),
        format!("headers.separator={HEADER_END}"),
        format!("line.separator={RECORD_END}"),
    ];
    for property in &properties {
        arguments.extend(["--property", property]);
    }
    let output = cluster.tool_output(CONSUMER, &arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{topic}: {said}");
    let records: Vec<Consumed> = text
        .split_terminator(RECORD_END)
        .map(|record| parse(record).unwrap_or_else(|| panic!("{record:?} of {topic}")))
        .collect();
    let counted = format!("Processed a total of {} messages", records.len());
    assert!(said.contains(&counted), "{topic}: no {counted:?} in {said}");
    records
}

fn parse(record: &str) -> Option<Consumed> {
    let [partition, offset, headers, key, value] = record
        .split(FIELD_END)
        .collect::<Vec<_>>()
        .try_into()
        .ok()?;
    let text = |text: &str| (text != NULL).then(|| text.to_owned());
    let headers = match headers {
        "NO_HEADERS" => Vec::new(),
        headers => headers
            .split(HEADER_END)
            .map(|header| {
                let (name, value) = header.split_once(':')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect::<Option<_>>()?,
    };
    Some(Consumed {
        partition: partition.strip_prefix("Partition:")?.parse().ok()?,
        offset: offset.strip_prefix("Offset:")?.parse().ok()?,
        headers,
        key: text(key),
        value: text(value),
    })
}
