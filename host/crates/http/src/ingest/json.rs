//! Reads JSON once, without building a tree: values are slices of the body. Only the
//! few values that matter are looked at; the rest is only known to be JSON.
//!
//! So an ignored value may be anything that JSON allows: half of a surrogate pair, a
//! number that no machine has, any depth up to the limit. Nothing here fails on a
//! value that is JSON, so that a later check can report a wrong field in words of its
//! own. `serde_json` skips without recursion, so the depth of the input never becomes
//! depth of the stack.

use std::{borrow::Cow, fmt};

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A value, as far as a field or a key cares.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scalar<'a> {
    #[default]
    Absent,
    Null,
    Bool,
    Str(Cow<'a, str>),
    /// A string that is no text: it has half of a surrogate pair.
    NoText,
    UInt(u64),
    /// An integer below zero.
    Negative(i64),
    /// A number that is written with a fraction or an exponent, or is too
    /// large for an integer of 64 bits.
    Float,
    /// An array or an object, and whether it is too deep.
    Composite {
        too_deep: bool,
    },
}

impl<'a> Scalar<'a> {
    /// Looks at a value that is known to be JSON; `levels` is how many arrays and
    /// objects may stand within each other here.
    pub fn of(json: &'a str, levels: u32) -> Self {
        match json.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't' | b'f') => Self::Bool,
            Some(b'"') => text(json).map_or(Self::NoText, Self::Str),
            Some(b'[' | b'{') => Self::Composite {
                too_deep: is_deeper(json, levels),
            },
            _ => match (json.parse(), json.parse()) {
                (Ok(number), _) => Self::UInt(number),
                // Minus zero is neither a `u64` nor below zero, so it is a float.
                (_, Ok(number @ ..0)) => Self::Negative(number),
                _ => Self::Float,
            },
        }
    }
}

/// The text of a JSON string; none where an escape is half of a surrogate pair.
pub fn text(json: &str) -> Option<Cow<'_, str>> {
    let inside = json.strip_prefix('"')?.strip_suffix('"')?;
    if inside.contains('\\') {
        serde_json::from_str(json).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inside))
    }
}

/// Whether more than `levels` arrays and objects stand within each other in a value
/// that is known to be JSON.
pub fn is_deeper(json: &str, levels: u32) -> bool {
    let (mut depth, mut is_text, mut is_escaped) = (0_u32, false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => {
                depth = depth.saturating_add(1);
                if depth > levels {
                    return true;
                }
            }
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Checks that a text is one JSON value, with nothing behind it.
pub fn check(json: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<&RawValue>(json).map(|_| ())
}

/// Takes each field of an object: its name, as JSON, and its value.
pub fn fields<'a>(
    json: &'a str,
    take: impl FnMut(&'a str, &'a str),
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_map(Fields(take))?;
    deserializer.end()
}

/// Takes each element of an array, with its index.
pub fn elements<'a>(
    json: &'a str,
    take: impl FnMut(usize, &'a str),
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_seq(Elements(take))?;
    deserializer.end()
}

struct Fields<F>(F);

impl<'de, F: FnMut(&'de str, &'de str)> Visitor<'de> for Fields<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            (self.0)(name.get(), value.get());
        }
        Ok(())
    }
}

struct Elements<F>(F);

impl<'de, F: FnMut(usize, &'de str)> Visitor<'de> for Elements<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        while let Some(element) = seq.next_element::<&RawValue>()? {
            (self.0)(index, element.get());
            index = index.saturating_add(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(text: &str) -> Scalar<'_> {
        check(text).unwrap();
        Scalar::of(text, 3)
    }

    #[test]
    fn tells_values_apart() {
        assert_eq!(scalar("null"), Scalar::Null);
        assert_eq!(scalar("true"), Scalar::Bool);
        assert_eq!(scalar("7"), Scalar::UInt(7));
        assert_eq!(scalar("-7"), Scalar::Negative(-7));
        assert_eq!(scalar("7.0"), Scalar::Float);
        assert_eq!(scalar("18446744073709551616"), Scalar::Float);
        assert_eq!(scalar("-9223372036854775809"), Scalar::Float);
        assert_eq!(scalar("-0"), Scalar::Float);
        assert_eq!(scalar("1e400"), Scalar::Float);
        assert_eq!(scalar(r#""\ud800""#), Scalar::NoText);
        assert_eq!(
            scalar(r#""\ud83c\udfc0""#),
            Scalar::Str(Cow::Borrowed("🏀"))
        );
        assert!(matches!(scalar("\"a\""), Scalar::Str(Cow::Borrowed("a"))));
        assert_eq!(scalar(r#""\u0041""#), Scalar::Str(Cow::Borrowed("A")));
    }

    #[test]
    fn counts_levels() {
        let levels = |text| matches!(scalar(text), Scalar::Composite { too_deep: false });
        assert!(levels("[[[1]]]"));
        assert!(!levels("[[[[1]]]]"));
        assert!(levels(r#"{"a":{"b":[1]}}"#));
        assert!(!levels(r#"[1,{"a":{"b":[]}}]"#));
        // Neither the brackets in a string nor the values beside add depth.
        assert!(levels(
            r#"["[[[[", "\"[[[[", "\\", {"{{{{":[]}, [[]], [[]]]"#
        ));
    }

    #[test]
    fn depth_of_input_is_not_depth_of_stack() {
        let levels = 1_000_000;
        let text = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(scalar(&text), Scalar::Composite { too_deep: true });
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        for text in [
            "",
            "NaN",
            "[1,]",
            "{} x",
            "\"a",
            "{\"a\":1,}",
            "[1",
            "01",
            "\u{feff}{}",
        ] {
            assert!(check(text).is_err(), "{text:?}");
        }
    }
}
