//! `/dead-letters/{pipeline}`: events that could not be processed, and their redrive.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use courtside_engine::dead_letters::{
    DeadLetters, DeadLettersError, Filter, From as Start,
    view::{LetterDetails, LetterState, LettersPage, Plan, RedriveView, Selection},
};
use courtside_types::{Offset, PartitionId};
use serde::Deserialize;
use utoipa::{
    ToSchema,
    openapi::schema::{Object, ObjectBuilder, Type},
};

use super::{
    access::Who,
    app::SharedApp,
    body,
    operate::blocking,
    problem::{Problem, answers},
    query::{Parameters, Segment, wrong},
};

/// The largest body of a request to redrive, which names a key at most.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Where a listing begins.
#[derive(ToSchema)]
#[schema(as = Start, rename_all = "lowercase")]
#[allow(dead_code, reason = "describes what is read from a query")]
pub enum StartDoc {
    Newest,
    Oldest,
}

/// Which letters to redrive.
#[derive(ToSchema)]
#[schema(as = RedriveRequest)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what is read as another type")]
pub enum RedriveDoc {
    Key(RedriveKeyDoc),
    Letter(RedriveLetterDoc),
    All(RedriveAllDoc),
}

/// All letters of a key.
#[derive(ToSchema)]
#[schema(as = RedriveKey)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes what is read as another type")]
pub struct RedriveKeyDoc {
    key: String,
    /// Say what would be done, and do nothing.
    #[schema(required = false)]
    dry_run: bool,
}

/// One letter.
#[derive(ToSchema)]
#[schema(as = RedriveLetter)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes what is read as another type")]
pub struct RedriveLetterDoc {
    #[schema(maximum = 999_999_999)]
    partition: u32,
    #[schema(maximum = 999_999_999_999_999_999_u64)]
    offset: u64,
    /// Say what would be done, and do nothing.
    #[schema(required = false)]
    dry_run: bool,
}

/// All that can be redriven.
#[derive(ToSchema)]
#[schema(as = RedriveAll)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes what is read as another type")]
pub struct RedriveAllDoc {
    #[schema(schema_with = only_true)]
    all: bool,
    /// Say what would be done, and do nothing.
    #[schema(required = false)]
    dry_run: bool,
}

fn only_true() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .enum_values(Some([true]))
        .build()
}

/// `key`, or `partition` and `offset`, or `all`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RedriveRequest {
    /// All letters of this key.
    key: Option<String>,
    /// With `offset`: one letter.
    partition: Option<u32>,
    offset: Option<u64>,
    /// All that can be redriven.
    #[serde(default)]
    all: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    dry_run: bool,
}

impl RedriveRequest {
    fn selection(&self) -> Result<Selection, Problem> {
        match (&self.key, self.partition, self.offset, self.all) {
            (Some(key), None, None, false) => Ok(Selection::Key(key.clone())),
            (None, Some(partition), Some(offset), false) => {
                Ok(Selection::One { partition, offset })
            }
            (None, None, None, true) => Ok(Selection::All),
            _ => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid-field",
                "the body must have one of: key; partition and offset; all",
            )),
        }
    }
}

/// Dead letters of a pipeline, in pages.
#[utoipa::path(
    get, path = "/dead-letters/{pipeline}", tag = "operation", operation_id = "list_dead_letters",
    params(
        ("pipeline" = String, Path, description = "Name of the pipeline"),
        ("from" = inline(Option<StartDoc>), Query, description = "newest (the default: one page, the newest letters first) or oldest"),
        ("after" = Option<String>, Query, description = "PARTITION:OFFSET, the field next of the page before; not together with from", pattern = "^[0-9]{1,9}:[0-9]{1,18}$"),
        ("limit" = Option<u32>, Query, description = "Letters in a page, from 1 to 1000; by default 100", minimum = 1, maximum = 1000),
        ("key" = Option<String>, Query, description = "Only letters of this key"),
        ("code" = Option<String>, Query, description = "Only letters with this error code"),
        ("partition" = Option<u32>, Query, description = "Only letters of this partition"),
        ("state" = inline(Option<LetterState>), Query, description = "Only letters in this state: open, redriven, void or unfit"),
    ),
    responses(
        (status = 200, description = "A page", body = LettersPage),
        answers::InvalidRequest, answers::NoSuchPipeline, answers::LogUnavailable,
    )
)]
pub async fn list(
    State(app): State<SharedApp>,
    pipeline: Result<Segment, Problem>,
    uri: Uri,
) -> Result<Json<LettersPage>, Problem> {
    let known = [
        "from",
        "after",
        "limit",
        "key",
        "code",
        "partition",
        "state",
    ];
    let parameters = Parameters::of(&uri, &known)?;
    let letters = letters(&app, &pipeline?.0)?;
    let partition = parameters.get("partition").map(|text| {
        let number = text.parse().map(PartitionId);
        number.map_err(|_| wrong("partition", "must be a number"))
    });
    let state = parameters.get("state").map(|text| {
        serde_json::from_value::<LetterState>(text.into())
            .map_err(|_| wrong("state", "must be open, redriven, void or unfit"))
    });
    let filter = Filter {
        key: parameters.get("key").map(ToOwned::to_owned),
        code: parameters.get("code").map(ToOwned::to_owned),
        partition: partition.transpose()?,
        state: state.transpose()?,
    };
    let start = match (parameters.get("from"), parameters.after()?) {
        (None | Some("newest"), None) => Start::Newest,
        (Some("oldest"), None) => Start::Oldest,
        (None, Some((partition, offset))) => Start::After(partition, offset),
        (Some(_), Some(_)) => {
            return Err(wrong(
                "from",
                "must not be there beside after, which says where to begin",
            ));
        }
        (Some(_), None) => return Err(wrong("from", "must be newest or oldest")),
    };
    let limit = parameters.limit()?;
    let page = blocking(move || letters.page(&filter, start, limit)).await?;
    Ok(Json(page?))
}

/// One dead letter, with all that it has.
#[utoipa::path(
    get, path = "/dead-letters/{pipeline}/{partition}/{offset}", tag = "operation",
    operation_id = "dead_letter",
    params(
        ("pipeline" = String, Path, description = "Name of the pipeline"),
        ("partition" = u32, Path, description = "The partition of the letter"),
        ("offset" = u64, Path, description = "The offset of the letter in the topic of dead letters"),
    ),
    responses(
        (status = 200, description = "The letter", body = LetterDetails),
        answers::InvalidRequest, answers::NoSuchLetter, answers::LogUnavailable,
    )
)]
pub async fn one(
    State(app): State<SharedApp>,
    Segment((pipeline, partition, offset)): Segment<(String, u32, u64)>,
) -> Result<Json<LetterDetails>, Problem> {
    let letters = letters(&app, &pipeline)?;
    let shown = blocking(move || letters.show(PartitionId(partition), Offset(offset))).await?;
    Ok(Json(shown?))
}

/// Process the events of dead letters after all: once, in order, by the plugin of
/// now. Answers what would be done, or when it has begun.
#[utoipa::path(
    post, path = "/dead-letters/{pipeline}/redrive", tag = "operation",
    operation_id = "redrive_dead_letters",
    params(("pipeline" = String, Path, description = "Name of the pipeline")),
    request_body = RedriveDoc,
    responses(
        (status = 200, description = "The redrive that would be done (dry_run)", body = Plan),
        (status = 202, description = "The redrive has begun: GET has its progress", body = RedriveView),
        (status = 409, description = "Another redrive runs, the letter is one of a halted entity, or other groups read or write the input", body = Problem, content_type = "application/problem+json"),
        answers::InvalidRequest, answers::NoSuchLetter, answers::LogUnavailable,
    )
)]
pub async fn redrive(
    State(app): State<SharedApp>,
    Extension(who): Extension<Who>,
    pipeline: Result<Segment, Problem>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Segment(pipeline) = pipeline.map_err(Problem::closing)?;
    let letters = letters(&app, &pipeline).map_err(Problem::closing)?;
    let (body, _held) = body::read(&app, &headers, body, REQUEST_BYTES_MAX)
        .await
        .map_err(Problem::closing)?;
    let request: RedriveRequest = serde_json::from_slice(&body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "invalid-json", error.to_string())
    })?;
    let selection = request.selection()?;
    // The path, which is logged, names the slot of a plugin but no letters.
    tracing::info!(
        token = %who,
        pipeline,
        dry_run = request.dry_run,
        ?selection,
        "redrive requested"
    );
    if request.dry_run {
        let plan = blocking(move || letters.plan(&selection)).await?;
        return Ok(Json(plan?).into_response());
    }
    let begun = blocking(move || letters.redrive(selection)).await?;
    Ok((StatusCode::ACCEPTED, Json(begun?)).into_response())
}

/// How the redrive of this host goes, or went.
#[utoipa::path(
    get, path = "/dead-letters/{pipeline}/redrive", tag = "operation", operation_id = "redrive",
    params(("pipeline" = String, Path, description = "Name of the pipeline")),
    responses(
        (status = 200, description = "The redrive that runs, or the last one", body = RedriveView),
        answers::NoSuchPipeline,
    )
)]
pub async fn progress(
    State(app): State<SharedApp>,
    Segment(pipeline): Segment,
) -> Result<Json<RedriveView>, Problem> {
    Ok(Json(letters(&app, &pipeline)?.progress()))
}

fn letters(app: &SharedApp, pipeline: &str) -> Result<Arc<DeadLetters>, Problem> {
    let letters = app.operator.letters(pipeline);
    letters.ok_or_else(|| Problem::no_pipeline(pipeline))
}

impl From<DeadLettersError> for Problem {
    fn from(error: DeadLettersError) -> Self {
        let status = match error {
            DeadLettersError::Log(error) => return error.into(),
            DeadLettersError::NotFound { .. } => StatusCode::NOT_FOUND,
            DeadLettersError::Running
            | DeadLettersError::Elsewhere
            | DeadLettersError::NeedsKey
            | DeadLettersError::SharedInput { .. } => StatusCode::CONFLICT,
            DeadLettersError::NotProcessed { .. } | DeadLettersError::Interrupted => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, error.code(), error.to_string())
    }
}
