//! `POST /score` and `POST /events/{pipeline}`: events in.

use std::{borrow::Cow, collections::HashMap};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONTENT_ENCODING, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{AllOfBuilder, AnyOfBuilder, ObjectBuilder, Schema, Type},
    },
};

use super::{
    app::SharedApp,
    body,
    problem::{PositionView, Problem, answers},
    query::Segment,
};
use crate::ingest::{Endpoint, Format, IdempotencyKey, Receipt, SCORES};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A score event: its fields, and the rule that points need a team.
pub struct ScoreEventDoc;

impl PartialSchema for ScoreEventDoc {
    fn schema() -> RefOr<Schema> {
        let of_a_team = ObjectBuilder::new()
            .property("team", ObjectBuilder::new().schema_type(Type::String))
            .required("team");
        let without_points = ObjectBuilder::new().property(
            "points",
            ObjectBuilder::new()
                .schema_type(Type::Integer)
                .maximum(Some(0)),
        );
        AllOfBuilder::new()
            .item(ScoreEventFields::schema())
            .item(AnyOfBuilder::new().item(of_a_team).item(without_points))
            .into()
    }
}

impl ToSchema for ScoreEventDoc {
    fn name() -> Cow<'static, str> {
        "ScoreEvent".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        ScoreEventFields::schemas(schemas);
    }
}

/// A score event.
#[derive(ToSchema)]
#[schema(example = json!({
    "game_id": "2015-12-30-LAL-BOS", "seq": 3, "type": "field_goal", "team": "BOS",
    "player": "Avery Bradley", "points": 2, "period": 1, "clock": "11:44"
}))]
#[allow(dead_code, reason = "describes what is checked without being built")]
struct ScoreEventFields {
    /// The game, 1 to 128 bytes without control characters.
    #[schema(
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]+$"
    )]
    game_id: String,
    /// Counts from 1 within a game; an event with one already seen counts once.
    #[schema(minimum = 1, maximum = 4_294_967_295_u32)]
    seq: u64,
    r#type: ScoreTypeDoc,
    /// 1 to 32 bytes. Required where the event has points and is no correction.
    #[schema(min_length = 1, max_length = 32)]
    team: Option<String>,
    /// 1 to 128 bytes.
    #[schema(min_length = 1, max_length = 128)]
    player: Option<String>,
    #[schema(minimum = 0, maximum = 10, default = 0, required = false)]
    points: u64,
    #[schema(minimum = 1, maximum = 64)]
    period: u64,
    /// Time left in the period: `9:42`, `0:51.6` or `PT09M42.00S`.
    #[schema(
        pattern = r"^([0-9]{1,2}:[0-5][0-9](\.[0-9]{1,3})?|PT([0-9]{1,2}M([0-5]?[0-9](\.[0-9]{1,3})?S)?|[0-5]?[0-9](\.[0-9]{1,3})?S))$"
    )]
    clock: String,
}

#[derive(ToSchema)]
#[schema(as = ScoreType, rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what is checked without being built")]
pub enum ScoreTypeDoc {
    FieldGoal,
    ThreePointer,
    FreeThrow,
    Miss,
    Rebound,
    Foul,
    Turnover,
    PeriodStart,
    PeriodEnd,
    Other,
}

/// One event, or several.
#[derive(ToSchema)]
#[schema(as = ScoreEvents)]
#[allow(dead_code, reason = "describes what is checked without being built")]
#[serde(untagged)]
pub enum ScoreEventsDoc {
    One(ScoreEventDoc),
    Many(Vec<ScoreEventDoc>),
}

/// One event of a pipeline, or several: objects that have its key.
#[derive(ToSchema)]
#[schema(as = Events)]
#[allow(dead_code, reason = "describes what is checked without being built")]
#[serde(untagged)]
pub enum AnyEventsDoc {
    One(HashMap<String, serde_json::Value>),
    Many(Vec<HashMap<String, serde_json::Value>>),
}

/// The answer for one event, or for several in their order.
#[derive(ToSchema)]
#[schema(as = Appended)]
#[allow(dead_code, reason = "describes what is written from elsewhere")]
#[serde(untagged)]
pub enum AppendedDoc {
    One(PositionView),
    Many(Vec<PositionView>),
}

/// Take score events.
///
/// One event, an array, or NDJSON; answered once the log has them. Several are
/// checked whole before any is appended. With `Idempotency-Key` a retry is
/// processed once; in an array or NDJSON each event has the key and its index.
#[utoipa::path(
    post, path = "/score", tag = "events", operation_id = "post_score",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 128 visible ASCII characters", pattern = "^[!-~]{1,128}$")),
    request_body(content(
        (ScoreEventsDoc = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 200, description = "The log has the events", body = AppendedDoc),
        (status = 404, description = "No pipeline scores", body = Problem, content_type = "application/problem+json"),
        answers::EventsRefused,
    )
)]
pub async fn score(State(app): State<SharedApp>, request: Request) -> Result<Response, Problem> {
    post_events(&app, SCORES, request).await
}

/// Take events of any pipeline.
///
/// As `POST /score`, with the key where the pipeline's configuration says.
#[utoipa::path(
    post, path = "/events/{pipeline}", tag = "events", operation_id = "post_events",
    params(
        ("pipeline" = String, Path, description = "Name of the pipeline"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 visible ASCII characters", pattern = "^[!-~]{1,128}$"),
    ),
    request_body(content(
        (AnyEventsDoc = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 200, description = "The log has the events", body = AppendedDoc),
        answers::EventsRefused, answers::NoSuchPipeline,
    )
)]
pub async fn events(
    State(app): State<SharedApp>,
    Segment(pipeline): Segment,
    request: Request,
) -> Result<Response, Problem> {
    post_events(&app, &pipeline, request).await
}

async fn post_events(
    app: &SharedApp,
    pipeline: &str,
    request: Request,
) -> Result<Response, Problem> {
    let Some(endpoint) = app.ingest.endpoint(pipeline) else {
        return Err(Problem::no_pipeline(pipeline).closing());
    };
    let accepted = read_and_append(app, endpoint, request).await;
    match &accepted {
        Ok(receipt) => {
            let count = receipt
                .results
                .iter()
                .filter(|result| result.is_ok())
                .count();
            metrics::counter!("courtside_ingest_events_total", "pipeline" => endpoint.pipeline.to_string())
                .increment(u64::try_from(count).unwrap_or(u64::MAX));
        }
        Err(problem) => refused(endpoint, problem.code()),
    }
    answer(accepted?).inspect_err(|problem| refused(endpoint, problem.code()))
}

fn refused(endpoint: &Endpoint, code: &'static str) {
    metrics::counter!(
        "courtside_ingest_refused_total",
        "pipeline" => endpoint.pipeline.to_string(), "code" => code
    )
    .increment(1);
}

async fn read_and_append(
    app: &SharedApp,
    endpoint: &Endpoint,
    request: Request,
) -> Result<Receipt, Problem> {
    let (parts, body) = request.into_parts();
    let format = format(&parts.headers).map_err(Problem::closing)?;
    let key = idempotency_key(&parts.headers).map_err(Problem::closing)?;
    // The body's memory stays reserved until the log has answered for the events.
    let (body, _held) = body::read_events(app, &parts.headers, body)
        .await
        .map_err(Problem::closing)?;
    Ok(app
        .ingest
        .append_events(endpoint, format, key, body)
        .await?)
}

fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    if !encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-content-encoding",
            "send the body without a content encoding",
        ));
    }
    let unsupported = |detail: String| {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Problem::new(status, "unsupported-media-type", detail)
    };
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let content_type = types.next().map(HeaderValue::to_str);
    if types.next().is_some() {
        return Err(unsupported(
            "Content-Type is there more than once".to_owned(),
        ));
    }
    Format::of(content_type.and_then(Result::ok)).map_err(|error| unsupported(error.to_string()))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let key = IdempotencyKey::new(value.as_bytes()).filter(|_| values.next().is_none());
    key.map(Some).ok_or_else(|| {
        Problem::field(
            "invalid-idempotency-key",
            "Idempotency-Key",
            "Idempotency-Key must be there once, with 1 to 128 visible ASCII characters",
        )
    })
}

fn answer(receipt: Receipt) -> Result<Response, Problem> {
    let mut results = receipt.results;
    let body = if receipt.many {
        if results.iter().any(Result::is_err) {
            return Err(Problem::incomplete(&results));
        }
        let positions: Vec<_> = results.iter().flatten().collect();
        serde_json::to_vec(&positions)
    } else {
        let result = results.pop();
        let result = result.ok_or_else(|| Problem::internal("the record log gave no answer"))?;
        serde_json::to_vec(&result?)
    };
    let body = body.map_err(|error| Problem::internal(error.to_string()))?;
    let json = HeaderValue::from_static("application/json");
    Ok(([(CONTENT_TYPE, json)], body).into_response())
}
