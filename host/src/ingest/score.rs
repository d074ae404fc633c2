//! The score event: what `POST /score` checks.
//!
//! Only what a scoring plugin relies on is checked, so that a client sees its
//! mistake at once and not as a dead letter. Unknown fields pass untouched.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    error::{Fault, Place, Reason},
    json::{self, Scalar, Skip, Value},
    key,
};

const TYPES: [&str; 10] = [
    "field_goal",
    "three_pointer",
    "free_throw",
    "miss",
    "rebound",
    "foul",
    "turnover",
    "period_start",
    "period_end",
    "other",
];
/// As the plugin has them: what it would refuse is not taken in.
const TEAM_BYTES_MAX: usize = 32;
const PLAYER_BYTES_MAX: usize = 128;
const POINTS_MAX: u64 = 10;
const PERIOD_MAX: u64 = 64;

/// Checks one event and returns its `game_id`.
pub(super) fn check(text: &str, levels: u32, place: Place) -> Result<Cow<'_, str>, Fault> {
    let read = json::read(text, Score { levels }).map_err(|error| Fault::json(&error, place))?;
    match read {
        Shape::Object(fields) => fields.check(levels),
        Shape::Other { too_deep: true } => Err(key::too_deep(levels)),
        Shape::Other { too_deep: false } => Err(Fault::new(
            Reason::InvalidJson,
            "an event must be a JSON object",
        )),
    }
}

enum Shape<'a> {
    Object(Box<Fields<'a>>),
    Other { too_deep: bool },
}

#[derive(Default)]
struct Fields<'a> {
    game_id: Scalar<'a>,
    seq: Scalar<'a>,
    kind: Scalar<'a>,
    team: Scalar<'a>,
    player: Scalar<'a>,
    points: Scalar<'a>,
    period: Scalar<'a>,
    clock: Scalar<'a>,
    too_deep: bool,
    duplicate: Option<Name>,
}

impl<'a> Fields<'a> {
    fn check(self, levels: u32) -> Result<Cow<'a, str>, Fault> {
        let all = [
            &self.game_id,
            &self.seq,
            &self.kind,
            &self.team,
            &self.player,
            &self.points,
            &self.period,
            &self.clock,
        ];
        let deep = |value: &&Scalar<'_>| matches!(value, Scalar::Composite { too_deep: true });
        if self.too_deep || all.iter().any(deep) {
            return Err(key::too_deep(levels));
        }
        if let Some(name) = self.duplicate {
            return Err(Fault::field(
                Reason::DuplicateField,
                name.text(),
                "is there twice",
            ));
        }
        check_integer(&self.seq, Name::Seq, 1, u32::MAX.into())?;
        check_kind(&self.kind)?;
        check_name(&self.team, Name::Team)?;
        check_name(&self.player, Name::Player)?;
        if self.points != Scalar::Absent {
            check_integer(&self.points, Name::Points, 0, POINTS_MAX)?;
        }
        if let (Scalar::UInt(1..), Scalar::Absent | Scalar::Null) = (&self.points, &self.team) {
            return Err(wrong(Name::Team, "must be there: the event has points"));
        }
        check_integer(&self.period, Name::Period, 1, PERIOD_MAX)?;
        check_clock(&self.clock)?;
        match self.game_id {
            Scalar::Absent => Err(missing(Name::GameId)),
            Scalar::Str(id) => key::check(&id)
                .map_err(|detail| wrong(Name::GameId, detail))
                .map(|()| id),
            _ => Err(wrong(Name::GameId, "must be a string")),
        }
    }
}

fn missing(name: Name) -> Fault {
    Fault::field(Reason::MissingField, name.text(), "is missing")
}

fn wrong(name: Name, detail: impl Into<String>) -> Fault {
    Fault::field(Reason::InvalidField, name.text(), detail)
}

fn check_integer(value: &Scalar<'_>, name: Name, min: u64, max: u64) -> Result<(), Fault> {
    match value {
        Scalar::Absent => Err(missing(name)),
        Scalar::UInt(number) if (min..=max).contains(number) => Ok(()),
        _ => Err(wrong(
            name,
            format!("must be an integer from {min} to {max}"),
        )),
    }
}

fn check_kind(value: &Scalar<'_>) -> Result<(), Fault> {
    match value {
        Scalar::Absent => Err(missing(Name::Type)),
        Scalar::Str(kind) if TYPES.contains(&&**kind) => Ok(()),
        _ => Err(wrong(
            Name::Type,
            format!("must be one of {}", TYPES.join(", ")),
        )),
    }
}

fn check_name(value: &Scalar<'_>, name: Name) -> Result<(), Fault> {
    let bytes_max = if matches!(name, Name::Team) {
        TEAM_BYTES_MAX
    } else {
        PLAYER_BYTES_MAX
    };
    match value {
        Scalar::Absent | Scalar::Null => Ok(()),
        Scalar::Str(text) if (1..=bytes_max).contains(&text.len()) => Ok(()),
        _ => Err(wrong(
            name,
            format!("must be null or a string of 1 to {bytes_max} bytes"),
        )),
    }
}

fn check_clock(value: &Scalar<'_>) -> Result<(), Fault> {
    match value {
        Scalar::Absent => Err(missing(Name::Clock)),
        Scalar::Str(clock) if is_clock(clock.as_bytes()) => Ok(()),
        _ => Err(wrong(
            Name::Clock,
            "must be the time left, minutes unpadded and seconds in two digits, like 9:42",
        )),
    }
}

fn is_clock(clock: &[u8]) -> bool {
    let seconds = match clock {
        [minutes, b':', seconds @ ..] if minutes.is_ascii_digit() => seconds,
        [b'1'..=b'9', minutes, b':', seconds @ ..] if minutes.is_ascii_digit() => seconds,
        _ => return false,
    };
    matches!(seconds, [b'0'..=b'5', b'0'..=b'9'])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Name {
    GameId,
    Seq,
    Type,
    Team,
    Player,
    Points,
    Period,
    Clock,
    #[serde(other)]
    Unknown,
}

impl Name {
    const fn text(self) -> &'static str {
        match self {
            Self::GameId => "game_id",
            Self::Seq => "seq",
            Self::Type => "type",
            Self::Team => "team",
            Self::Player => "player",
            Self::Points => "points",
            Self::Period => "period",
            Self::Clock => "clock",
            Self::Unknown => "",
        }
    }
}

#[derive(Clone, Copy)]
struct Score {
    levels: u32,
}

impl<'de> DeserializeSeed<'de> for Score {
    type Value = Shape<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Score {
    const SCALAR: Shape<'static> = Shape::Other { too_deep: false };
}

impl<'de> Visitor<'de> for Score {
    type Value = Shape<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Self::SCALAR)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Self::SCALAR)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Self::SCALAR)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Self::SCALAR)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Self::SCALAR)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Self::SCALAR)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        let too_deep = Skip::of(self.levels).visit_seq(seq)?;
        Ok(Shape::Other { too_deep })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some(levels) = self.levels.checked_sub(1) else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Shape::Other { too_deep: true });
        };
        let mut fields = Box::<Fields<'de>>::default();
        while let Some(name) = map.next_key::<Name>()? {
            let field = match name {
                Name::GameId => &mut fields.game_id,
                Name::Seq => &mut fields.seq,
                Name::Type => &mut fields.kind,
                Name::Team => &mut fields.team,
                Name::Player => &mut fields.player,
                Name::Points => &mut fields.points,
                Name::Period => &mut fields.period,
                Name::Clock => &mut fields.clock,
                Name::Unknown => {
                    let too_deep = map.next_value_seed(Skip::of(levels))?;
                    fields.too_deep |= too_deep;
                    continue;
                }
            };
            let first = *field == Scalar::Absent;
            *field = map.next_value_seed(Value { levels })?;
            if !first {
                fields.duplicate.get_or_insert(name);
            }
        }
        Ok(Shape::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn clocks() {
        for clock in ["0:00", "9:42", "12:00", "10:59", "99:00"] {
            assert!(is_clock(clock.as_bytes()), "{clock}");
        }
        for clock in [
            "", ":", "9", "09:42", "9:4", "9:60", "9:421", "112:00", "-9:42", "9:42 ", "a:00",
            "9.42", "00:00",
        ] {
            assert!(!is_clock(clock.as_bytes()), "{clock}");
        }
    }

    proptest! {
        /// Whatever comes, the answer is the one that a reading into a tree
        /// of values would give.
        #[test]
        fn agrees_with_a_reading_into_values(
            seq in -3i64..3, points in -2i64..13, period in -1i64..70,
            id in "[ab\\x01-]{0,3}", kind in "(miss|foul|dunk)",
        ) {
            let event = serde_json::json!({
                "game_id": id, "seq": seq, "type": kind, "points": points, "team": "LAL",
                "period": period, "clock": "1:00", "more": {"deep": [1, 2, {"x": null}]},
            });
            let good = seq >= 1 && (0..=10).contains(&points) && (1..=64).contains(&period)
                && !id.is_empty() && !id.contains('\u{1}') && kind != "dunk";
            let text = event.to_string();
            let checked = check(&text, 32, Place::Whole);
            prop_assert_eq!(checked.is_ok(), good, "{:?}", checked);
            if let Ok(found) = checked {
                prop_assert_eq!(found, id);
            }
        }
    }
}
