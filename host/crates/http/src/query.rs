//! A request's parameters in its query and path, with errors that name them.

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::{StatusCode, Uri, request::Parts},
};
use courtside_types::{Key, Offset, PartitionId};
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::scoreboard::parse_position;

/// The parameters of a query: each is known, and there once.
#[derive(Debug)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub fn of(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|error| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid-parameter",
                error.body_text(),
            )
        })?;
        let mut parameters: Vec<(String, String)> =
            Vec::with_capacity(pairs.len().min(known.len()));
        for (name, value) in pairs {
            if !known.contains(&&*name) {
                let detail = format!(
                    "there is no such parameter, the address takes {}",
                    known.join(", ")
                );
                return Err(wrong(&name, detail));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(wrong(&name, "must be there at most once"));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| &**value)
    }

    /// `after`: the offset of an input that the answer must know of.
    pub fn after(&self) -> Result<Option<(PartitionId, Offset)>, Problem> {
        let parse = |text| {
            parse_position(text).ok_or_else(|| {
                wrong(
                    "after",
                    "must be PARTITION:OFFSET, as in the answer to a POST",
                )
            })
        };
        self.get("after").map(parse).transpose()
    }

    /// `partition`: the number of a partition of the input.
    pub fn partition(&self) -> Result<Option<PartitionId>, Problem> {
        let parse = |text: &str| {
            let number = text.parse().map(PartitionId);
            number.map_err(|_| wrong("partition", "must be the number of a partition"))
        };
        self.get("partition").map(parse).transpose()
    }

    /// A parameter that is `true` or `false`; `false` if it is not there.
    pub fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(wrong(name, "must be true or false")),
        }
    }

    /// `limit`: how many games in a page.
    pub fn limit(&self) -> Result<usize, Problem> {
        const DEFAULT: usize = 100;
        const MAX: usize = 1_000;
        let Some(text) = self.get("limit") else {
            return Ok(DEFAULT);
        };
        let limit = text.parse().ok();
        limit
            .filter(|limit| (1..=MAX).contains(limit))
            .ok_or_else(|| wrong("limit", format!("must be an integer from 1 to {MAX}")))
    }

    /// `cursor`: the `next` of the page before.
    pub fn cursor(&self) -> Result<Option<Vec<u8>>, Problem> {
        let decode = |text: &str| {
            hex::decode(text).map_err(|_| wrong("cursor", "must be the field next of another page"))
        };
        self.get("cursor").map(decode).transpose()
    }
}

/// The text that [`Parameters::cursor`] reads.
pub fn cursor_of(key: &Key) -> String {
    hex::encode(key)
}

pub fn wrong(name: &str, detail: impl Into<String>) -> Problem {
    let detail = format!("{name}: {}", detail.into());
    Problem::field("invalid-parameter", name, detail)
}

/// The variable part of a path, or several.
#[derive(Debug)]
pub struct Segment<T = String>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segment<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(segment)| Self(segment)).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, "invalid-path", error.body_text())
        })
    }
}
