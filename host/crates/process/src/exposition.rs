//! Prometheus' text format.
//!
//! The exporter of the crate `metrics` forgets no series, so series that come and go
//! are written here, beside it.
//!
//! The macros of `metrics` stand at the place of the event. The crate prometheus-client
//! has a registry that would have to be handed around.

use std::{collections::BTreeMap, fmt::Write as _};

/// A metric, by its name, with what it means.
#[derive(Debug)]
pub struct Metric {
    pub(super) name: &'static str,
    kind: &'static str,
    help: &'static str,
}

impl Metric {
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        let kind = "gauge";
        Self { name, kind, help }
    }

    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        let kind = "counter";
        Self { name, kind, help }
    }
}

/// A text in the making: samples by metric, as the format wants them.
#[derive(Debug, Default)]
pub struct Exposition(BTreeMap<&'static str, (&'static Metric, String)>);

impl Exposition {
    /// Adds a sample. Counts are far below 2^52, so a float has them exactly.
    pub fn add(&mut self, metric: &'static Metric, labels: &[(&str, &str)], value: f64) {
        let (_, text) = self
            .0
            .entry(metric.name)
            .or_insert_with(|| (metric, String::new()));
        text.push_str(metric.name);
        for (position, (name, value)) in labels.iter().enumerate() {
            text.push(if position == 0 { '{' } else { ',' });
            text.push_str(name);
            text.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    c => text.push(c),
                }
            }
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        // Writing to a string does not fail.
        let _ = writeln!(text, " {value}");
    }

    /// Adds a sample of a count.
    #[allow(clippy::cast_precision_loss)]
    pub fn count(&mut self, metric: &'static Metric, labels: &[(&str, &str)], count: u64) {
        self.add(metric, labels, count as f64);
    }

    /// Adds a sample of a flag, as 1 or 0.
    pub fn flag(&mut self, metric: &'static Metric, labels: &[(&str, &str)], is_so: bool) {
        self.add(metric, labels, f64::from(u8::from(is_so)));
    }

    /// The whole text.
    #[must_use]
    pub fn text(self) -> String {
        let mut whole = String::new();
        for (name, (metric, samples)) in self.0 {
            let Metric { kind, help, .. } = metric;
            let _ = write!(
                whole,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}"
            );
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static GAMES: Metric = Metric::gauge("games", "Games.");
    static BASKETS: Metric = Metric::counter("baskets_total", "Baskets.");

    #[test]
    fn samples_stand_with_their_metric_and_labels_are_escaped() {
        let mut text = Exposition::default();
        text.count(&GAMES, &[("court", "a\"b\\c\nd"), ("half", "1")], 3);
        text.add(&BASKETS, &[], 0.5);
        text.flag(&GAMES, &[("court", "é")], true);
        assert_eq!(
            text.text(),
            "# HELP baskets_total Baskets.\n# TYPE baskets_total counter\nbaskets_total 0.5\n\
             # HELP games Games.\n# TYPE games gauge\n\
             games{court=\"a\\\"b\\\\c\\nd\",half=\"1\"} 3\ngames{court=\"é\"} 1\n"
        );
    }
}
