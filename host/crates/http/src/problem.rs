//! Errors as clients get them: RFC 9457, with a stable code each.

pub mod answers;

use axum::{
    http::{
        HeaderValue, StatusCode,
        header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use courtside_engine::slots::request::RequestError;
use courtside_log::LogError;
use courtside_types::Position;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    ingest::{IngestError, Place, Refused},
    scoreboard::BoardError,
};

/// A problem that a client is told. Boxed, because it travels as an error.
#[derive(Debug, Serialize, ToSchema)]
#[serde(transparent)]
pub struct Problem(Box<Details>);

/// Why a request failed (`application/problem+json`).
#[derive(Debug, Serialize, ToSchema)]
struct Details {
    /// `urn:courtside:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The code, in words.
    title: String,
    status: u16,
    /// Why this request failed, in words.
    detail: String,
    /// Stable, for programs.
    code: &'static str,
    /// The field, header or parameter that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// The event that is wrong, in an array, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// The line that is wrong, in NDJSON, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// The outcome of each event, where the log failed midway.
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Vec<Outcome>>,
    #[serde(skip)]
    retry_after_s: Option<u32>,
    #[serde(skip)]
    closes: bool,
}

/// The outcome of one event.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Outcome {
    Appended(PositionView),
    /// Not appended; the code says why.
    Failed {
        error: &'static str,
    },
}

/// Where the log has an event.
#[derive(Debug, Serialize, ToSchema)]
pub struct PositionView {
    topic: String,
    partition: u32,
    offset: u64,
}

impl From<&Position> for PositionView {
    fn from(position: &Position) -> Self {
        Self {
            topic: position.topic.to_string(),
            partition: position.partition.0,
            offset: position.offset.0,
        }
    }
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind: format!("urn:courtside:problem:{code}"),
            title: code.replace('-', " "),
            status: status.as_u16(),
            detail: detail.into(),
            code,
            field: None,
            index: None,
            line: None,
            results: None,
            retry_after_s: None,
            closes: false,
        }))
    }

    /// A header or a parameter of the request is wrong.
    pub fn field(code: &'static str, field: &str, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, code, detail);
        problem.0.field = Some(field.to_owned());
        problem
    }

    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal-error", detail)
    }

    pub fn no_pipeline(name: &str) -> Self {
        RequestError::NoSuchPipeline(name.to_owned()).into()
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    /// Marks an answer that comes before the request's body was read. Its connection ends,
    /// and the answer says so: a client would otherwise send its next request there.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.0.closes = true;
        self
    }

    /// The log took only some of the events.
    pub fn incomplete(results: &[Result<Position, LogError>]) -> Self {
        let failed = results.iter().filter(|result| result.is_err()).count();
        let total = results.len();
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "append-incomplete",
            format!("{failed} of {total} events were not appended, see the field results"),
        )
        .retry_after(1);
        let outcome = |result: &Result<Position, LogError>| match result {
            Ok(position) => Outcome::Appended(position.into()),
            Err(error) => Outcome::Failed {
                error: error.code(),
            },
        };
        problem.0.results = Some(results.iter().map(outcome).collect());
        problem
    }

    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.0.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.0.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = if refused.reason.is_size() {
            StatusCode::PAYLOAD_TOO_LARGE
        } else {
            StatusCode::BAD_REQUEST
        };
        let mut problem = Self::new(status, refused.reason.code(), refused.to_string());
        match refused.place {
            Place::Whole => {}
            Place::Index(index) => problem.0.index = Some(index),
            Place::Line(line) => problem.0.line = Some(line),
        }
        problem.0.field = refused.field;
        problem
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        let (status, retry_after_s) = match error {
            LogError::Busy => (StatusCode::TOO_MANY_REQUESTS, Some(1)),
            LogError::BackupRunning => (StatusCode::TOO_MANY_REQUESTS, Some(60)),
            LogError::BackupElsewhere => (StatusCode::CONFLICT, None),
            LogError::Unavailable { .. }
            | LogError::Fenced { .. }
            | LogError::TimeRefused { .. } => (StatusCode::SERVICE_UNAVAILABLE, Some(1)),
            LogError::Full { .. } | LogError::Denied { .. } | LogError::TopicMissing { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, Some(5))
            }
            LogError::TooLarge { .. } | LogError::WriteTooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, None)
            }
            LogError::NoSuchTopic { .. }
            | LogError::NoSuchPartition { .. }
            | LogError::Mismatch { .. }
            | LogError::TopicExists { .. }
            | LogError::TopicRecreated { .. }
            | LogError::TopicInUse { .. }
            | LogError::TopicKept { .. }
            | LogError::PartitionsFixed { .. }
            | LogError::NoSuchGroup { .. }
            | LogError::GroupNotEmpty { .. }
            | LogError::InUse { .. }
            | LogError::Invalid { .. }
            | LogError::OffsetOutOfRange { .. }
            | LogError::Corrupt { .. } => (StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        let mut problem = Self::new(status, error.code(), error.to_string());
        problem.0.retry_after_s = retry_after_s;
        problem
    }
}

impl From<IngestError> for Problem {
    fn from(error: IngestError) -> Self {
        let (code, detail) = (error.code(), error.to_string());
        match error {
            IngestError::Refused(refused) => refused.into(),
            IngestError::Log(error) => error.into(),
            IngestError::Busy => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail).retry_after(1)
            }
            IngestError::Timeout => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(1)
            }
        }
    }
}

impl From<BoardError> for Problem {
    fn from(error: BoardError) -> Self {
        let (code, detail) = (error.code(), error.to_string());
        match error {
            BoardError::Log(error) => error.into(),
            BoardError::CatchingUp => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(1)
            }
            BoardError::NoSuchPartition { .. } => Self::field(code, "after", detail),
            BoardError::NotYet { .. } => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, code, detail).retry_after(1)
            }
        }
    }
}
