//! The score event: what `POST /score` checks.
//!
//! Only what a scoring plugin relies on is checked, so that a client sees its
//! mistake at once and not as a dead letter. Unknown fields pass untouched.
//! `nba-scoring` refuses no event for its shape that was accepted here.

use std::borrow::Cow;

use super::{
    clock,
    error::{Fault, Place, Reason},
    json::{self, Scalar},
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
/// The plugin has the same limits: the host takes no event that it would refuse.
const TEAM_BYTES_MAX: usize = 32;
const PLAYER_BYTES_MAX: usize = 128;
const POINTS_MAX: u64 = 10;
const PERIOD_MAX: u64 = 64;

/// Checks one event and returns its `game_id`.
pub(super) fn check(text: &str, levels: u32, place: Place) -> Result<Cow<'_, str>, Fault> {
    let fault = |error| Fault::json(&error, place);
    let (Some(inner), true) = (levels.checked_sub(1), text.starts_with('{')) else {
        json::check(text).map_err(fault)?;
        if json::is_deeper(text, levels) {
            return Err(key::too_deep(levels));
        }
        return Err(no_event("an event must be a JSON object"));
    };
    let mut fields = Fields::default();
    json::fields(text, |name, value| fields.take(name, value, inner)).map_err(fault)?;
    fields.check(levels)
}

fn no_event(detail: &str) -> Fault {
    Fault::new(Reason::InvalidJson, detail)
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
    corrects: Scalar<'a>,
    too_deep: bool,
    duplicate: Option<Name>,
    /// A field's name has half of a surrogate pair, and a plugin cannot read it.
    has_nameless: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &str, value: &'a str, levels: u32) {
        let name = json::text(name);
        self.has_nameless |= name.is_none();
        let Some(name) = name.and_then(|name| Name::of(&name)) else {
            self.too_deep |= json::is_deeper(value, levels);
            return;
        };
        let value = Scalar::of(value, levels);
        self.too_deep |= matches!(value, Scalar::Composite { too_deep: true });
        let before = std::mem::replace(self.field(name), value);
        if before != Scalar::Absent {
            self.duplicate.get_or_insert(name);
        }
    }

    fn field(&mut self, name: Name) -> &mut Scalar<'a> {
        match name {
            Name::GameId => &mut self.game_id,
            Name::Seq => &mut self.seq,
            Name::Type => &mut self.kind,
            Name::Team => &mut self.team,
            Name::Player => &mut self.player,
            Name::Points => &mut self.points,
            Name::Period => &mut self.period,
            Name::Clock => &mut self.clock,
            Name::Corrects => &mut self.corrects,
        }
    }

    fn check(self, levels: u32) -> Result<Cow<'a, str>, Fault> {
        if self.too_deep {
            return Err(key::too_deep(levels));
        }
        if self.has_nameless {
            return Err(no_event(
                "the name of a field is no text: it has half of a surrogate pair",
            ));
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
        let is_correction = self.check_corrects()?;
        if let (Scalar::UInt(1..), Scalar::Absent | Scalar::Null) = (&self.points, &self.team)
            && !is_correction
        {
            return Err(wrong(Name::Team, "must be there: the event has points"));
        }
        check_integer(&self.period, Name::Period, 1, PERIOD_MAX)?;
        check_clock(&self.clock)?;
        self.game_id()
    }

    /// Whether the event corrects another. A correction without points would take
    /// a basket back by an oversight, so it has to say 0.
    fn check_corrects(&self) -> Result<bool, Fault> {
        let seq = match self.seq {
            Scalar::UInt(seq) => seq,
            _ => 0,
        };
        match self.corrects {
            Scalar::Absent | Scalar::Null => Ok(false),
            Scalar::UInt(corrected) if corrected >= 1 && corrected < seq => {
                if self.points == Scalar::Absent {
                    return Err(Fault::field(
                        Reason::MissingField,
                        Name::Points.text(),
                        "is missing: a correction says the new points, also where they are 0",
                    ));
                }
                Ok(true)
            }
            _ => Err(wrong(
                Name::Corrects,
                "must be the seq of an earlier event, below this one's own",
            )),
        }
    }

    fn game_id(self) -> Result<Cow<'a, str>, Fault> {
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
        Scalar::Str(text) if clock::is_clock(text) => Ok(()),
        _ => Err(wrong(
            Name::Clock,
            "must be the time left in the period, like 9:42, 0:51.6 or PT09M42.00S",
        )),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    GameId,
    Seq,
    Type,
    Team,
    Player,
    Points,
    Period,
    Clock,
    Corrects,
}

impl Name {
    const ALL: [Self; 9] = [
        Self::GameId,
        Self::Seq,
        Self::Type,
        Self::Team,
        Self::Player,
        Self::Points,
        Self::Period,
        Self::Clock,
        Self::Corrects,
    ];

    fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.text() == text)
    }

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
            Self::Corrects => "corrects",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn corrections() {
        let checked = |with: serde_json::Value| {
            let mut event = serde_json::json!({
                "game_id": "g", "seq": 7, "type": "other", "period": 1, "clock": "1:00",
            });
            for (field, value) in with.as_object().unwrap() {
                event[field] = value.clone();
            }
            let text = event.to_string();
            let checked = check(&text, 32, Place::Whole).map(|_| ());
            checked.map_err(|fault| format!("{fault:?}"))
        };
        for good in [
            serde_json::json!({"corrects": 1, "points": 0}),
            serde_json::json!({"corrects": 6, "points": 2}),
            serde_json::json!({"corrects": 6, "points": 2, "team": "LAL", "player": "A"}),
            serde_json::json!({"corrects": null}),
        ] {
            assert_eq!(checked(good.clone()), Ok(()), "{good}");
        }
        for (bad, field) in [
            (serde_json::json!({"corrects": 6}), "points"),
            (serde_json::json!({"corrects": 0, "points": 0}), "corrects"),
            (serde_json::json!({"corrects": 7, "points": 0}), "corrects"),
            (serde_json::json!({"corrects": 8, "points": 0}), "corrects"),
            (
                serde_json::json!({"corrects": "6", "points": 0}),
                "corrects",
            ),
            (
                serde_json::json!({"corrects": 1.5, "points": 0}),
                "corrects",
            ),
            (serde_json::json!({"corrects": null, "points": 2}), "team"),
        ] {
            let error = checked(bad.clone()).unwrap_err();
            assert!(error.contains(field), "{bad}: {error}");
        }
    }

    proptest! {
        /// Every event gets the answer that a reading into a tree of values
        /// would give.
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
