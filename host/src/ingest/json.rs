//! Reading JSON once, without building it: the few values that matter are
//! borrowed from the body, the rest is skipped with a look at its depth.
//!
//! Nothing here fails on the type of a value, so that what is wrong with a
//! field can be said in the field's own words afterwards.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value, as far as a field or a key cares.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scalar<'a> {
    #[default]
    Absent,
    Null,
    Bool,
    Str(Cow<'a, str>),
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

/// Reads a value as a [`Scalar`]; `levels` is how many arrays and objects may
/// stand within each other here.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    pub levels: u32,
}

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Scalar<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Scalar::UInt(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        // A visitor gets what is not negative as u64.
        Ok(Scalar::Negative(value))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Float)
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Str(Cow::Borrowed(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Str(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        let too_deep = Skip::of(self.levels).visit_seq(seq)?;
        Ok(Scalar::Composite { too_deep })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let too_deep = Skip::of(self.levels).visit_map(map)?;
        Ok(Scalar::Composite { too_deep })
    }
}

/// Skips a value and tells whether it is too deep. It recurses no deeper than
/// it may; below that `serde_json` goes on without recursion, so the depth of
/// the input never becomes depth of the stack.
#[derive(Clone, Copy, Debug)]
pub struct Skip {
    levels: u32,
}

impl Skip {
    pub const fn of(levels: u32) -> Self {
        Self { levels }
    }
}

impl<'de> DeserializeSeed<'de> for Skip {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skip {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let Some(levels) = self.levels.checked_sub(1) else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(true);
        };
        let mut too_deep = false;
        while let Some(element) = seq.next_element_seed(Self { levels })? {
            too_deep |= element;
        }
        Ok(too_deep)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let Some(levels) = self.levels.checked_sub(1) else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(true);
        };
        let mut too_deep = false;
        while map.next_key::<IgnoredAny>()?.is_some() {
            too_deep |= map.next_value_seed(Self { levels })?;
        }
        Ok(too_deep)
    }
}

/// Reads `text` with `seed`, to its end.
pub fn read<'de, S: DeserializeSeed<'de>>(
    text: &'de str,
    seed: S,
) -> Result<S::Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(text: &str) -> Scalar<'_> {
        read(text, Value { levels: 3 }).unwrap()
    }

    #[test]
    fn tells_values_apart() {
        assert_eq!(scalar("null"), Scalar::Null);
        assert_eq!(scalar("true"), Scalar::Bool);
        assert_eq!(scalar("7"), Scalar::UInt(7));
        assert_eq!(scalar("-7"), Scalar::Negative(-7));
        assert_eq!(scalar("7.0"), Scalar::Float);
        assert_eq!(scalar("18446744073709551616"), Scalar::Float);
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
            assert!(read(text, Value { levels: 3 }).is_err(), "{text:?}");
        }
    }
}
