//! A record's key, found in the event by a JSON pointer (RFC 6901).

use std::borrow::Cow;

use serde::{
    Deserialize, Serialize,
    de::{Deserializer, Error},
};

use super::{
    error::{Fault, Place, Reason},
    json::{self, Scalar},
};

const KEY_BYTES_MAX: usize = 128;

/// Where an event has its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRule {
    pointer: String,
    /// The pointer's parts, unescaped.
    path: Vec<String>,
}

/// A text is not a JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a JSON pointer: it must be empty or begin with a slash, and ~ must be ~0 or ~1"
)]
pub struct InvalidPointer(String);

impl KeyRule {
    pub fn new(pointer: impl Into<String>) -> Result<Self, InvalidPointer> {
        let pointer = pointer.into();
        let escapes_are_well = pointer
            .split('~')
            .skip(1)
            .all(|rest| rest.starts_with(['0', '1']));
        if !escapes_are_well || !(pointer.is_empty() || pointer.starts_with('/')) {
            return Err(InvalidPointer(pointer));
        }
        let path = pointer
            .split('/')
            .skip(1)
            .map(|part| part.replace("~1", "/").replace("~0", "~"))
            .collect();
        Ok(Self { pointer, path })
    }

    #[must_use]
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Finds the key of an event, which must be JSON and not too deep.
    pub(super) fn find<'a>(
        &self,
        text: &'a str,
        levels: u32,
        place: Place,
    ) -> Result<Cow<'a, str>, Fault> {
        let found =
            Found::at(text, &self.path, levels).map_err(|error| Fault::json(&error, place))?;
        let fault = |reason, detail: &str| Fault::field(reason, &self.pointer, detail);
        if found.too_deep {
            return Err(too_deep(levels));
        }
        if found.duplicate {
            return Err(fault(Reason::DuplicateField, "is there twice"));
        }
        let key = match found.value {
            Scalar::Absent => return Err(fault(Reason::MissingField, "is missing")),
            Scalar::Str(text) => text,
            Scalar::UInt(number) => Cow::Owned(number.to_string()),
            Scalar::Negative(number) => Cow::Owned(number.to_string()),
            _ => {
                return Err(fault(
                    Reason::InvalidField,
                    "must be a string or an integer of 64 bits",
                ));
            }
        };
        check(&key).map_err(|detail| fault(Reason::InvalidField, detail))?;
        Ok(key)
    }
}

impl Serialize for KeyRule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.pointer)
    }
}

impl<'de> Deserialize<'de> for KeyRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Whether a text can be a key; if not, what it must be.
pub(super) fn check(key: &str) -> Result<(), &'static str> {
    if key.is_empty() {
        Err("must not be empty")
    } else if key.len() > KEY_BYTES_MAX {
        Err("must be at most 128 bytes")
    } else if key.chars().any(char::is_control) {
        Err("must not hold control characters")
    } else {
        Ok(())
    }
}

pub(super) fn too_deep(levels: u32) -> Fault {
    Fault::new(
        Reason::TooDeep,
        format!("arrays and objects are nested deeper than {levels} levels"),
    )
}

struct Found<'a> {
    value: Scalar<'a>,
    too_deep: bool,
    /// An object on the way has the same field twice.
    duplicate: bool,
}

impl<'a> Found<'a> {
    const NOTHING: Self = Self {
        value: Scalar::Absent,
        too_deep: false,
        duplicate: false,
    };

    /// Looks for the value at a path, and checks how deep all other values are.
    fn at(json: &'a str, path: &[String], levels: u32) -> Result<Self, serde_json::Error> {
        let is_composite = json.starts_with(['{', '[']);
        let (Some((part, path)), Some(inner), true) =
            (path.split_first(), levels.checked_sub(1), is_composite)
        else {
            json::check(json)?;
            let is_there = path.is_empty();
            return Ok(Self::whole(json, is_there, levels));
        };
        let mut matches = Matches::default();
        if json.starts_with('{') {
            json::fields(json, |name, value| {
                let is_part = json::text(name).is_some_and(|name| name == *part);
                matches.take(value, is_part, inner);
            })?;
        } else {
            let wanted = array_index(part);
            json::elements(json, |index, value| {
                matches.take(value, wanted == Some(index), inner);
            })?;
        }
        let mut found = match matches.last {
            Some(value) => Self::at(value, path, inner)?,
            None => Self::NOTHING,
        };
        found.too_deep |= matches.too_deep;
        found.duplicate |= matches.duplicate;
        Ok(found)
    }

    /// A value at the end of the path, or one that the path does not lead into.
    fn whole(json: &'a str, is_there: bool, levels: u32) -> Self {
        let value = Scalar::of(json, levels);
        Self {
            too_deep: matches!(value, Scalar::Composite { too_deep: true }),
            value: if is_there { value } else { Scalar::Absent },
            duplicate: false,
        }
    }
}

/// The value of an object or an array that the path leads into, and what is wrong
/// with the other values.
#[derive(Default)]
struct Matches<'a> {
    last: Option<&'a str>,
    duplicate: bool,
    too_deep: bool,
}

impl<'a> Matches<'a> {
    fn take(&mut self, value: &'a str, is_part: bool, levels: u32) {
        if !is_part {
            self.too_deep |= json::is_deeper(value, levels);
        } else if let Some(before) = self.last.replace(value) {
            self.duplicate = true;
            self.too_deep |= json::is_deeper(before, levels);
        }
    }
}

/// An array index as a pointer writes it: no sign, no leading zero.
fn array_index(part: &str) -> Option<usize> {
    let digits = part.bytes().all(|byte| byte.is_ascii_digit());
    let padded = part.len() > 1 && part.starts_with('0');
    (digits && !padded).then(|| part.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find<'a>(pointer: &str, text: &'a str) -> Result<Cow<'a, str>, Reason> {
        KeyRule::new(pointer)
            .unwrap()
            .find(text, 5, Place::Whole)
            .map_err(|fault| fault.reason)
    }

    #[test]
    fn finds_keys() {
        let text = r#"{"x":[1,{"id":"a"}],"id":7,"n":-7,"a/b":"c","m~n":"d","":"e"}"#;
        assert_eq!(find("/id", text).unwrap(), "7");
        assert_eq!(find("/n", text).unwrap(), "-7");
        assert_eq!(find("/x/0", text).unwrap(), "1");
        assert_eq!(find("/x/1/id", text).unwrap(), "a");
        assert_eq!(find("/a~1b", text).unwrap(), "c");
        assert_eq!(find("/m~0n", text).unwrap(), "d");
        assert_eq!(find("/", text).unwrap(), "e");
        assert_eq!(find("", r#""whole""#).unwrap(), "whole");
        assert_eq!(find("/id", r#"{"id":"\u00e9"}"#).unwrap(), "é");
    }

    #[test]
    fn says_what_is_wrong() {
        let cases = [
            (r#"{"x":1}"#, Reason::MissingField),
            ("7", Reason::MissingField),
            (r#"{"id":null}"#, Reason::InvalidField),
            (r#"{"id":1.5}"#, Reason::InvalidField),
            (r#"{"id":{}}"#, Reason::InvalidField),
            (r#"{"id":""}"#, Reason::InvalidField),
            (r#"{"id":"a\nb"}"#, Reason::InvalidField),
            (r#"{"id":"a","id":"b"}"#, Reason::DuplicateField),
            (r#"{"x":[[[[[1]]]]],"id":"a"}"#, Reason::TooDeep),
            (r#"{"id":"a""#, Reason::InvalidJson),
            (r#"{"id":"\ud800"}"#, Reason::InvalidField),
            (r#"{"id":1e400}"#, Reason::InvalidField),
            (r#"{"id":"a","\u0069d":"b"}"#, Reason::DuplicateField),
        ];
        for (text, reason) in cases {
            assert_eq!(find("/id", text), Err(reason), "{text}");
        }
        assert_eq!(
            find("/x/01", r#"{"x":["a","b"]}"#),
            Err(Reason::MissingField)
        );
        assert_eq!(
            find("/id/x", r#"{"id":{"x":"a"},"id":{"x":"b"}}"#),
            Err(Reason::DuplicateField)
        );
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(129));
        assert_eq!(find("/id", &long), Err(Reason::InvalidField));
    }

    #[test]
    fn what_is_ignored_may_be_any_json() {
        for ignored in [
            r#""\ud800""#,
            "1e400",
            "-0",
            r#"{"\udfff":1}"#,
            r#"["[[[[[["]"#,
        ] {
            let text = format!(r#"{{"x":{ignored},"\ud800":1,"\u0069d":"a","y":[{ignored}]}}"#);
            assert_eq!(find("/id", &text).unwrap(), "a", "{text}");
            let text = format!(r#"[{ignored},{{"id":"a","x":{ignored}}}]"#);
            assert_eq!(find("/1/id", &text).unwrap(), "a", "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_pointer() {
        for pointer in ["id", "/a~", "/a~2", "~0"] {
            assert!(KeyRule::new(pointer).is_err(), "{pointer}");
        }
    }

    proptest! {
        /// The rule finds the value that `serde_json` finds at the same pointer.
        #[test]
        fn agrees_with_serde_json(
            event in json_value(), pointer in "(/(a|b|0|1)){0,3}",
        ) {
            let text = event.to_string();
            let found = KeyRule::new(&*pointer).unwrap().find(&text, 32, Place::Whole).ok();
            let expected = match event.pointer(&pointer) {
                Some(serde_json::Value::String(text)) if !text.is_empty() => Some(text.clone()),
                Some(serde_json::Value::Number(number)) => Some(number.to_string()),
                _ => None,
            };
            prop_assert_eq!(found.map(Cow::into_owned), expected);
        }
    }

    fn json_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i64>().prop_map(Into::into),
            "[a-c\"\\\\]{0,3}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 24, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Into::into),
                prop::collection::btree_map("[ab]", inner, 0..3)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
