//! The difference between two runs of one case, in words.

use crate::{
    native::{Checkpoint, Emission, Refusal},
    test::Run,
};

/// The first difference, if there is one.
pub(super) fn difference(expected: &Run, got: &Run) -> Option<String> {
    first("refusal", &expected.refusals, &got.refusals, refusal)
        .or_else(|| first("emission", &expected.emissions, &got.emissions, emission))
        .or_else(|| {
            (expected.checkpoint != got.checkpoint).then(|| {
                describe(
                    "the final checkpoint",
                    &checkpoint(expected.checkpoint.as_ref()),
                    &checkpoint(got.checkpoint.as_ref()),
                )
            })
        })
}

fn first<T: PartialEq>(
    what: &str,
    expected: &[T],
    got: &[T],
    show: impl Fn(&T) -> String,
) -> Option<String> {
    (0..expected.len().max(got.len()))
        .map(|index| (index, expected.get(index), got.get(index)))
        .find(|(_, expected, got)| expected != got)
        .map(|(index, expected, got)| {
            let show = |item: Option<&T>| item.map_or_else(|| "nothing".to_owned(), &show);
            describe(&format!("{what} {index}"), &show(expected), &show(got))
        })
}

fn describe(what: &str, expected: &str, got: &str) -> String {
    format!("{what}\n    all at once:   {expected}\n    this batching: {got}")
}

fn refusal(refusal: &Refusal) -> String {
    format!("event {}: {}", refusal.index, refusal.reason)
}

fn emission(emission: &Emission) -> String {
    let mut words = format!("event {}: ", emission.event);
    match &emission.value {
        Some(value) => words.push_str(&text(value)),
        None => words.push_str("a tombstone"),
    }
    if let Some(output) = &emission.output {
        words.push_str(&format!(", to {output}"));
    }
    if let Some(key) = &emission.key {
        words.push_str(&format!(", key {}", text(key)));
    }
    for header in &emission.headers {
        let value = header.value.as_deref().map(text).unwrap_or_default();
        words.push_str(&format!(", header {}: {value}", header.name));
    }
    words
}

fn checkpoint(checkpoint: Option<&Checkpoint>) -> String {
    checkpoint.map_or_else(
        || "none".to_owned(),
        |checkpoint| format!("{} {}", checkpoint.format, text(&checkpoint.state)),
    )
}

/// Bytes for people to read: as text, cut where it becomes too long.
fn text(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 1_000;
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", text.get(..end).unwrap_or(""), bytes.len()),
        None => text.into_owned(),
    }
}
