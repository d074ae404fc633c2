//! Letters, plans and results for people.

use std::collections::BTreeMap;

use courtside_engine::dead_letters::view::{LetterDetails, LettersPage, Place, Plan, RedriveView};

use crate::cli::{
    operator::{or_dash, table, word},
    plain,
};

/// A page of letters, a line each.
pub fn page_text(page: &LettersPage) -> String {
    let rows = page.letters.iter().map(|letter| {
        vec![
            format!("{}/{}", letter.partition, letter.offset),
            or_dash(letter.key.as_ref()),
            letter.code.clone(),
            word(letter.state),
            event(letter.origin.as_ref()),
            cut(&letter.reason),
        ]
    });
    let header = ["letter", "key", "code", "state", "event", "reason"];
    table(&header, rows) + &further(page)
}

/// Tells how to list the letters that a page leaves out.
fn further(page: &LettersPage) -> String {
    match &page.next {
        Some(next) => format!("\nmore: --after {next}\n"),
        None if page.complete => String::new(),
        None if page.letters.is_empty() => {
            "\nnone of the newest letters matches; --oldest looks at all letters\n".to_owned()
        }
        None => "\nthese are the newest letters; --oldest begins with the oldest ones\n".to_owned(),
    }
}

fn event(origin: Option<&Place>) -> String {
    or_dash(origin.map(|at| format!("{}/{}/{}", at.topic, at.partition, at.offset)))
}

/// A line's worth of a reason, which may be a backtrace.
fn cut(reason: &str) -> String {
    const LINE_MAX: usize = 80;
    let line = reason.lines().next().unwrap_or_default();
    match line.char_indices().nth(LINE_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line.to_owned(),
    }
}

/// A letter for people. Each value from an event stays on one line, because a break in it
/// would begin a line that looks like one of ours. A reason may have several lines, which
/// are indented. The payload comes last, and is shown as it was.
pub fn details_text(details: &LetterDetails) -> String {
    let letter = &details.letter;
    let mut lines = vec![
        ("letter", format!("{}/{}", letter.partition, letter.offset)),
        ("key", or_dash(letter.key.as_ref())),
        ("code", letter.code.clone()),
        ("reason", letter.reason.clone()),
        ("state", word(letter.state)),
        ("event", event(letter.origin.as_ref())),
        ("plugin", or_dash(letter.plugin.as_ref())),
        ("digest", or_dash(letter.digest.as_ref())),
    ];
    if letter.source != letter.origin {
        lines.push(("redriven as", event(letter.source.as_ref())));
    }
    if let Some(unfit) = &letter.unfit {
        lines.push(("unfit", unfit.clone()));
    }
    if let Some(bytes) = details.cut_bytes {
        lines.push(("left out", format!("{bytes} bytes of the event")));
    }
    let headers = details.headers.iter().map(|header| {
        let value = or_dash(header.value.as_ref());
        ("header", format!("{}: {value}", header.name))
    });
    let mut text = String::new();
    for (name, value) in lines.into_iter().chain(headers) {
        let value = if name == "reason" {
            let parts: Vec<_> = value.split('\n').map(plain::line).collect();
            parts.join(&format!("\n{:12}", ""))
        } else {
            plain::line(&value).into_owned()
        };
        text += &format!("{name:<12}{value}\n");
    }
    if let Some(value) = &details.value {
        text += &format!("\n{value}\n");
    } else if let Some(hex) = &details.value_hex {
        text += &format!("\nhexadecimal: {hex}\n");
    }
    text
}

pub fn plan_text(plan: &Plan) -> String {
    let least = if plan.complete { "" } else { "at least " };
    let mut text = format!("{least}{} letters of {} keys", plan.letters, plan.keys);
    if !plan.by_code.is_empty() {
        text += &format!(": {}", counts(&plan.by_code));
    }
    text.push('\n');
    if !plan.key_examples.is_empty() {
        let dots = if plan.keys > plan.key_examples.len() as u64 {
            ", …"
        } else {
            ""
        };
        text += &format!("keys: {}{dots}\n", keys(&plan.key_examples));
    }
    if plan.redriven_before > 0 {
        text += &format!("redriven before: {}\n", plan.redriven_before);
    }
    if plan.void > 0 {
        text += &format!("void since a reset: {}\n", plan.void);
    }
    if !plan.unfit.is_empty() {
        text += &format!("can never be redriven: {}\n", counts(&plan.unfit));
    }
    text
}

pub fn result_text(progress: &RedriveView) -> String {
    let mut text = format!(
        "redriven: {}, of these dead letters again: {}\n",
        progress.redriven, progress.dead_again
    );
    if progress.halted > 0 {
        text += &format!(
            "halted again: {} keys, {}\n",
            progress.halted,
            keys(&progress.halted_keys)
        );
    }
    if progress.left > 0 {
        text += &format!(
            "left, because they came during the redrive: {} (redrive again)\n",
            progress.left
        );
    }
    if !progress.unfit.is_empty() {
        text += &format!("can never be redriven: {}\n", counts(&progress.unfit));
    }
    text
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    let counts: Vec<_> = counts
        .iter()
        .map(|(code, count)| format!("{count} {}", plain::line(code)))
        .collect();
    counts.join(", ")
}

fn keys(keys: &[String]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| plain::line(key)).collect();
    keys.join(", ")
}

#[cfg(test)]
mod tests {
    use courtside_engine::dead_letters::view::{HeaderView, LetterState, LetterView};

    use super::*;

    const FORGED: &str = "a\nstate       redriven\x1b[2J";
    const SHOWN: &str = "a\\u{a}state       redriven\\u{1b}[2J";

    fn letter() -> LetterView {
        LetterView {
            partition: 3,
            offset: 17,
            key: Some(FORGED.to_owned()),
            code: "plugin-trap".to_owned(),
            reason: "wasm trap\nstate       redriven".to_owned(),
            timestamp_ms: 0,
            dead_since_ms: 0,
            origin: None,
            source: None,
            plugin: Some(FORGED.to_owned()),
            digest: None,
            state: LetterState::Open,
            unfit: None,
        }
    }

    #[test]
    fn nothing_of_an_event_is_a_line_of_ours() {
        let details = LetterDetails {
            letter: letter(),
            headers: vec![HeaderView {
                name: FORGED.to_owned(),
                value: Some(FORGED.to_owned()),
            }],
            value: Some("{\n}".to_owned()),
            value_hex: None,
            cut_bytes: None,
        };
        let expected = [
            "letter      3/17",
            "key         FORGED",
            "code        plugin-trap",
            "reason      wasm trap",
            "            state       redriven",
            "state       open",
            "event       -",
            "plugin      FORGED",
            "digest      -",
            "header      FORGED: FORGED",
            "",
            "{",
            "}",
            "",
        ];
        let expected = expected.join("\n").replace("FORGED", SHOWN);
        assert_eq!(details_text(&details), expected);

        let plan = Plan {
            letters: 1,
            keys: 1,
            key_examples: vec![FORGED.to_owned()],
            by_code: [(FORGED.to_owned(), 1)].into(),
            complete: true,
            ..Plan::default()
        };
        let expected = format!("1 letters of 1 keys: 1 {SHOWN}\nkeys: {SHOWN}\n");
        assert_eq!(plan_text(&plan), expected);
    }

    #[test]
    fn older_letters_are_not_passed_over_in_silence() {
        let mut page = LettersPage {
            pipeline: "scores".to_owned(),
            topic: "dead".to_owned(),
            letters: Vec::new(),
            next: None,
            complete: true,
        };
        assert_eq!(further(&page), "");
        page.complete = false;
        assert!(further(&page).starts_with("\nnone of the newest letters matches; --oldest "));
        page.letters.push(letter());
        assert!(further(&page).starts_with("\nthese are the newest letters; --oldest "));
        page.next = Some("3:17".to_owned());
        assert_eq!(further(&page), "\nmore: --after 3:17\n");
    }
}
