//! Makes text from events safe for a terminal: characters that would move the
//! cursor, change colours, or turn the line around are shown as escapes.

use std::{borrow::Cow, fmt::Write as _};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Whether a character has an effect other than being seen.
fn is_active(c: char) -> bool {
    // Bidirectional formatting can make a line read as a different one.
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes one line, or a part of one.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_active)
}

/// Escapes several lines, whose breaks stay.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_active(c) && c != '\n')
}

/// Escapes JSON and puts it on one line. JSON strings cannot hold the control
/// characters of ASCII, so a line break is between parts, and may become a
/// space.
#[must_use]
pub fn json(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if is_active(c) => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line
}

/// Escapes JSON, and keeps its layout.
#[must_use]
pub fn json_lines(text: &str) -> String {
    let parts: Vec<_> = text.split('\n').map(json).collect();
    parts.join("\n")
}

fn escaped(text: &str, is_active: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_active) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_active(c) {
            let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

/// The part of a line that fits into `columns` columns.
#[must_use]
pub fn cut(line: &str, columns: usize) -> Cow<'_, str> {
    if line.width() <= columns {
        return line.into();
    }
    let mut left = columns.saturating_sub(1);
    let mut shown = String::new();
    for c in line.chars() {
        let width = c.width().unwrap_or(0);
        if width > left {
            break;
        }
        left -= width;
        shown.push(c);
    }
    if columns > 0 {
        shown.push('…');
    }
    shown.into()
}

/// How many columns a line takes.
#[must_use]
pub fn width(line: &str) -> usize {
    line.width()
}

/// Pads a text with spaces to `columns` columns, after the text or before it.
#[must_use]
pub fn pad(text: &str, columns: usize, to_the_right: bool) -> String {
    let spaces = " ".repeat(columns.saturating_sub(text.width()));
    if to_the_right {
        spaces + text
    } else {
        text.to_owned() + &spaces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_event_does_anything_in_a_terminal() {
        assert_eq!(line("LAL-BOS é 姚明"), "LAL-BOS é 姚明");
        assert_eq!(line("a\x1b[2Jb\r\n"), "a\\u{1b}[2Jb\\u{d}\\u{a}");
        assert_eq!(line("\u{9b}2J"), "\\u{9b}2J");
        assert_eq!(line("\u{202e}LAL"), "\\u{202e}LAL");
        assert_eq!(lines("a\nb\x07"), "a\nb\\u{7}");
    }

    #[test]
    fn json_stays_the_same_json() {
        let told = "{\"a\":\n\t\"\u{9b}2J\u{202e}\u{7f}é\"}";
        let shown = json(told);
        assert_eq!(shown, r#"{"a":  "\u009b2J\u202e\u007fé"}"#);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(told));
        assert_eq!(
            json_lines("{\n  \"a\": \"\u{85}\"\n}"),
            "{\n  \"a\": \"\\u0085\"\n}"
        );
    }

    #[test]
    fn columns_are_counted_and_not_characters() {
        assert_eq!(cut("姚明 25", 5), "姚明…");
        assert_eq!(cut("姚明 25", 4), "姚…");
        assert_eq!(cut("LAL", 3), "LAL");
        assert_eq!(cut("LAL", 0), "");
        assert_eq!(pad("姚明", 6, false), "姚明  ");
        assert_eq!(pad("25", 4, true), "  25");
    }
}
