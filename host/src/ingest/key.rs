//! A record's key, found in the event by a JSON pointer (RFC 6901).

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Serialize,
    de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor},
};

use super::{
    error::{Fault, Place, Reason},
    json::{self, Scalar, Skip, Value},
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
        let path = &self.path;
        let found =
            json::read(text, At { path, levels }).map_err(|error| Fault::json(&error, place))?;
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
        format!("more than {levels} arrays and objects stand within each other"),
    )
}

struct Found<'a> {
    value: Scalar<'a>,
    too_deep: bool,
    /// An object on the way has the same field twice.
    duplicate: bool,
}

impl Found<'_> {
    const NOTHING: Self = Self {
        value: Scalar::Absent,
        too_deep: false,
        duplicate: false,
    };
}

/// Reads the value at a path, and skips what is not on the way.
#[derive(Clone, Copy)]
struct At<'p> {
    path: &'p [String],
    levels: u32,
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found<'de>, D::Error> {
        if self.path.is_empty() {
            let levels = self.levels;
            let value = Value { levels }.deserialize(deserializer)?;
            let too_deep = matches!(value, Scalar::Composite { too_deep: true });
            return Ok(Found {
                value,
                too_deep,
                duplicate: false,
            });
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Found::NOTHING)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Found::NOTHING)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Found::NOTHING)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Found::NOTHING)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Found::NOTHING)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Found::NOTHING)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (Some((part, path)), Some(levels)) =
            (self.path.split_first(), self.levels.checked_sub(1))
        else {
            let too_deep = Skip::of(self.levels).visit_seq(seq)?;
            return Ok(Found {
                too_deep,
                ..Found::NOTHING
            });
        };
        let wanted = array_index(part);
        let mut found = Found::NOTHING;
        for index in 0_usize.. {
            if wanted == Some(index) {
                let Some(element) = seq.next_element_seed(At { path, levels })? else {
                    break;
                };
                let too_deep = found.too_deep | element.too_deep;
                found = Found {
                    too_deep,
                    ..element
                };
            } else {
                let Some(too_deep) = seq.next_element_seed(Skip::of(levels))? else {
                    break;
                };
                found.too_deep |= too_deep;
            }
        }
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (Some((part, path)), Some(levels)) =
            (self.path.split_first(), self.levels.checked_sub(1))
        else {
            let too_deep = Skip::of(self.levels).visit_map(map)?;
            return Ok(Found {
                too_deep,
                ..Found::NOTHING
            });
        };
        let mut found = Found::NOTHING;
        let mut seen = false;
        while let Some(is_part) = map.next_key_seed(Is(part))? {
            if is_part {
                let value = map.next_value_seed(At { path, levels })?;
                let too_deep = found.too_deep | value.too_deep;
                let duplicate = seen | value.duplicate;
                found = Found {
                    too_deep,
                    duplicate,
                    ..value
                };
                seen = true;
            } else {
                found.too_deep |= map.next_value_seed(Skip::of(levels))?;
            }
        }
        Ok(found)
    }
}

/// An array index as a pointer writes it: no sign, no leading zero.
fn array_index(part: &str) -> Option<usize> {
    let digits = part.bytes().all(|byte| byte.is_ascii_digit());
    let padded = part.len() > 1 && part.starts_with('0');
    (digits && !padded).then(|| part.parse().ok()).flatten()
}

/// Whether a field's name is this one.
struct Is<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
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
    fn refuses_what_is_no_pointer() {
        for pointer in ["id", "/a~", "/a~2", "~0"] {
            assert!(KeyRule::new(pointer).is_err(), "{pointer}");
        }
    }

    proptest! {
        /// What is found is what `serde_json` finds at the same pointer.
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
