//! Operating slots: putting a plugin in force, removing it, and rolling it back.
//!
//! The address of a slot is its name: `/plugins/scores/default`,
//! `/plugins/scores/keys/LAL-BOS`.

use axum::{
    Json,
    extract::{FromRequestParts, Request, State},
    http::{StatusCode, Uri, request::Parts},
};
use courtside_engine::slots::{
    request::{Answer, RequestError, RequestKind, RollbackView},
    view::SlotView,
};
use courtside_types::{Digest, slot_name::SlotName};
use percent_encoding::percent_decode_str;
use utoipa::ToSchema;

use super::{
    app::SharedApp,
    body,
    problem::{Problem, answers},
    query::Parameters,
};

/// The slot that an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfSlot {
    pipeline: String,
    slot: SlotName,
}

impl OfSlot {
    fn parse(path: &str) -> Option<Self> {
        let mut segments = path.strip_prefix("/plugins/")?.split('/');
        let pipeline = percent_decode_str(segments.next()?).decode_utf8().ok()?;
        let slot = match segments.next()? {
            "default" => SlotName::Default,
            "keys" => SlotName::of_stem(segments.next()?)?,
            _ => return None,
        };
        Some(Self {
            pipeline: pipeline.into_owned(),
            slot,
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfSlot {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::parse(parts.uri.path()).ok_or_else(|| {
            let detail = "the address names no slot: it is PIPELINE/default or PIPELINE/keys/KEY";
            Problem::new(StatusCode::BAD_REQUEST, "invalid-path", detail).closing()
        })
    }
}

/// A plugin's bytes.
#[derive(ToSchema)]
#[schema(as = PluginFile, value_type = String, format = Binary)]
#[allow(dead_code, reason = "describes bytes")]
pub struct PluginFileDoc(Vec<u8>);

/// Put a plugin into a pipeline's default slot.
///
/// The body is its file. It goes into the plugin directory, as if it were dropped
/// there, and takes over at once; the answer comes when it runs or was rejected. It
/// is taken even where it was rolled back before.
#[utoipa::path(
    put, path = "/plugins/{pipeline}/default", tag = "operation", operation_id = "put_plugin",
    params(("pipeline" = String, Path, description = "Name of the pipeline")),
    request_body(content = PluginFileDoc, content_type = "application/wasm"),
    responses((status = 200, description = "The plugin runs", body = SlotView), answers::SlotRefused, answers::PluginRefused)
)]
pub async fn put(
    State(app): State<SharedApp>,
    of: OfSlot,
    request: Request,
) -> Result<Json<SlotView>, Problem> {
    let Some(bytes_max) = app.operator.plugin_bytes_max(&of.pipeline, &of.slot) else {
        return Err(Problem::no_pipeline(&of.pipeline).closing());
    };
    let (parts, body) = request.into_parts();
    let too_large = |problem: Problem| {
        if problem.code() == "body-too-large" {
            let detail = format!("a plugin may have at most {bytes_max} bytes");
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "plugin-too-large", detail);
        }
        problem
    };
    // The plugin's memory stays reserved until the slot has answered.
    let (bytes, _held) = body::read(&app, &parts.headers, body, bytes_max)
        .await
        .map_err(|problem| too_large(problem).closing())?;
    slot(ask(&app, of, RequestKind::Put(bytes)).await?)
}

/// Put a plugin into a key's own slot.
///
/// As for the default slot; the key's events go to it alone.
#[utoipa::path(
    put, path = "/plugins/{pipeline}/keys/{key}", tag = "operation", operation_id = "put_key_plugin",
    params(
        ("pipeline" = String, Path, description = "Name of the pipeline"),
        ("key" = String, Path, description = "The key, percent-encoded, as in the name of its slot"),
    ),
    request_body(content = PluginFileDoc, content_type = "application/wasm"),
    responses((status = 200, description = "The plugin runs", body = SlotView), answers::SlotRefused, answers::PluginRefused)
)]
pub async fn put_key(
    app: State<SharedApp>,
    of: OfSlot,
    request: Request,
) -> Result<Json<SlotView>, Problem> {
    put(app, of, request).await
}

/// Remove a key's own plugin.
///
/// Its events go to the default slot again, if that one's plugin can read its state.
#[utoipa::path(
    delete, path = "/plugins/{pipeline}/keys/{key}", tag = "operation", operation_id = "delete_key_plugin",
    params(
        ("pipeline" = String, Path, description = "Name of the pipeline"),
        ("key" = String, Path, description = "The key, percent-encoded, as in the name of its slot"),
    ),
    responses((status = 200, description = "The key's own plugin is removed", body = SlotView), answers::SlotRefused, answers::PluginRefused)
)]
pub async fn delete_key(
    State(app): State<SharedApp>,
    of: OfSlot,
) -> Result<Json<SlotView>, Problem> {
    slot(ask(&app, of, RequestKind::Remove).await?)
}

/// Go back to the plugin that ran before, on all hosts.
///
/// Every entity that the running plugin has touched goes back to its state from before,
/// and its events are processed again. The plugin's outputs stay; the outputs that
/// correct them follow, with the header `courtside-attempt`. This host answers when it
/// has begun; `GET /group` and `GET /plugins` say how far all hosts are.
#[utoipa::path(
    post, path = "/plugins/{pipeline}/default/rollback", tag = "operation", operation_id = "roll_back_plugin",
    params(
        ("pipeline" = String, Path, description = "Name of the pipeline"),
        ("dry_run" = Option<bool>, Query, description = "Say what the rollback would do, and do nothing"),
        ("digest" = Option<String>, Query, description = "The plugin to roll back; the host refuses the request if another plugin runs, as after a request that was answered too late", pattern = "^[0-9a-fA-F]{64}$"),
    ),
    responses(
        (status = 200, description = "The rollback that has begun, or would be done", body = RollbackView),
        answers::InvalidParameter, answers::SlotRefused,
    )
)]
pub async fn rollback(
    State(app): State<SharedApp>,
    of: OfSlot,
    uri: Uri,
) -> Result<Json<RollbackView>, Problem> {
    let parameters = Parameters::of(&uri, &["dry_run", "digest"])?;
    let digest = match parameters.get("digest").map(str::parse::<Digest>) {
        None => None,
        Some(Ok(digest)) => Some(digest),
        Some(Err(_)) => {
            let detail = "digest: must be the SHA-256 of a plugin's file, hexadecimal";
            return Err(Problem::field("invalid-parameter", "digest", detail));
        }
    };
    let kind = match parameters.flag("dry_run")? {
        false => RequestKind::RollBack(digest),
        true => RequestKind::Plan(digest),
    };
    match ask(&app, of, kind).await? {
        Answer::Rollback(view) => Ok(Json(*view)),
        Answer::Slot(_) => Err(Problem::internal("the answer is to another question")),
    }
}

/// Go back to the plugin that a key had before, on all hosts.
#[utoipa::path(
    post, path = "/plugins/{pipeline}/keys/{key}/rollback", tag = "operation", operation_id = "roll_back_key_plugin",
    params(
        ("pipeline" = String, Path, description = "Name of the pipeline"),
        ("key" = String, Path, description = "The key, percent-encoded, as in the name of its slot"),
        ("dry_run" = Option<bool>, Query, description = "Say what the rollback would do, and do nothing"),
        ("digest" = Option<String>, Query, description = "The plugin to roll back; the host refuses the request if another plugin runs, as after a request that was answered too late", pattern = "^[0-9a-fA-F]{64}$"),
    ),
    responses(
        (status = 200, description = "The rollback that has begun, or would be done", body = RollbackView),
        answers::InvalidParameter, answers::SlotRefused,
    )
)]
pub async fn rollback_key(
    app: State<SharedApp>,
    of: OfSlot,
    uri: Uri,
) -> Result<Json<RollbackView>, Problem> {
    rollback(app, of, uri).await
}

/// Confirm the plugin that runs: it can no longer be rolled back, and the states
/// from before it are deleted.
#[utoipa::path(
    post, path = "/plugins/{pipeline}/default/confirm", tag = "operation", operation_id = "confirm_plugin",
    params(("pipeline" = String, Path, description = "Name of the pipeline")),
    responses((status = 200, description = "The plugin is confirmed", body = SlotView), answers::SlotRefused)
)]
pub async fn confirm(State(app): State<SharedApp>, of: OfSlot) -> Result<Json<SlotView>, Problem> {
    slot(ask(&app, of, RequestKind::Confirm).await?)
}

/// Confirm a key's plugin.
#[utoipa::path(
    post, path = "/plugins/{pipeline}/keys/{key}/confirm", tag = "operation", operation_id = "confirm_key_plugin",
    params(
        ("pipeline" = String, Path, description = "Name of the pipeline"),
        ("key" = String, Path, description = "The key, percent-encoded, as in the name of its slot"),
    ),
    responses((status = 200, description = "The plugin is confirmed", body = SlotView), answers::SlotRefused)
)]
pub async fn confirm_key(app: State<SharedApp>, of: OfSlot) -> Result<Json<SlotView>, Problem> {
    confirm(app, of).await
}

/// Make the slot's file in this host's plugin directory the plugin that runs.
///
/// After a rollback the directory still has the plugin that was undone: this puts the
/// one that runs there, or removes the file where none runs. Nothing is swapped.
#[utoipa::path(
    post, path = "/plugins/{pipeline}/default/restore-file", tag = "operation", operation_id = "restore_plugin_file",
    params(("pipeline" = String, Path, description = "Name of the pipeline")),
    responses((status = 200, description = "The slot's file is the plugin that runs", body = SlotView), answers::SlotRefused)
)]
pub async fn restore_file(
    State(app): State<SharedApp>,
    of: OfSlot,
) -> Result<Json<SlotView>, Problem> {
    slot(ask(&app, of, RequestKind::RestoreFile).await?)
}

/// Make the file of a key's slot in this host's plugin directory the plugin that runs.
#[utoipa::path(
    post, path = "/plugins/{pipeline}/keys/{key}/restore-file", tag = "operation", operation_id = "restore_key_plugin_file",
    params(
        ("pipeline" = String, Path, description = "Name of the pipeline"),
        ("key" = String, Path, description = "The key, percent-encoded, as in the name of its slot"),
    ),
    responses((status = 200, description = "The slot's file is the plugin that runs", body = SlotView), answers::SlotRefused)
)]
pub async fn restore_key_file(
    app: State<SharedApp>,
    of: OfSlot,
) -> Result<Json<SlotView>, Problem> {
    restore_file(app, of).await
}

fn slot(answer: Answer) -> Result<Json<SlotView>, Problem> {
    match answer {
        Answer::Slot(view) => Ok(Json(*view)),
        Answer::Rollback(_) => Err(Problem::internal("the answer is to another question")),
    }
}

async fn ask(app: &SharedApp, of: OfSlot, kind: RequestKind) -> Result<Answer, Problem> {
    let name = format!("{}/{}", of.pipeline, of.slot);
    let answered = app.operator.ask(&of.pipeline, of.slot, kind)?;
    let limit = app.config.operate_timeout;
    match tokio::time::timeout(limit, answered).await {
        Ok(Ok(answered)) => Ok(answered?),
        // The manager of the slot is gone, because the host stops.
        Ok(Err(_)) => Err(RequestError::Stopping.into()),
        Err(_) => {
            let slots = app.operator.plugins().slots;
            let state = slots.iter().find(|slot| slot.slot == name);
            let state = state.map_or_else(
                || "the slot does not exist yet".to_owned(),
                |slot| format!("the slot is {:?}", slot.state).to_lowercase(),
            );
            Err(Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "operate-timeout",
                format!(
                    "the request for slot {name} was not carried out within {limit:?}: {state}. A swap goes on, and so does a rollback that has begun; a rollback that has not begun is dropped: see GET /plugins, and ask again"
                ),
            ))
        }
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        let (code, detail) = (error.code(), error.to_string());
        match error {
            RequestError::NoSuchPipeline(_) | RequestError::NoSuchSlot(_) => {
                Self::new(StatusCode::NOT_FOUND, code, detail)
            }
            RequestError::Rejected(rejection) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, rejection.message)
            }
            RequestError::Refused { .. } => Self::new(StatusCode::CONFLICT, code, detail),
            RequestError::Log(error) => error.into(),
            RequestError::Busy => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail).retry_after(1)
            }
            RequestError::Stopping => Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_slot_is_its_name() {
        for key in ["LAL-BOS", "a/b", "sha256-abc", ".hidden", "Dončić", "50%"] {
            let slot = SlotName::of_key(key.as_bytes());
            for rest in ["", "/rollback"] {
                let of = OfSlot::parse(&format!("/plugins/scores/{slot}{rest}"));
                assert_eq!(
                    of,
                    Some(OfSlot {
                        pipeline: "scores".to_owned(),
                        slot: slot.clone()
                    })
                );
            }
        }
        let of = OfSlot::parse("/plugins/a%20b/default/confirm").unwrap();
        assert_eq!((&*of.pipeline, of.slot), ("a b", SlotName::Default));
        // A client may leave a key unencoded, or send one too long for a file's name.
        let of = OfSlot::parse("/plugins/scores/keys/.hidden").unwrap();
        assert_eq!(of.slot, SlotName::of_key(b".hidden"));
        let long = "x".repeat(300);
        let of = OfSlot::parse(&format!("/plugins/scores/keys/{long}")).unwrap();
        assert_eq!(of.slot, SlotName::of_key(long.as_bytes()));
        for path in ["/plugins/scores/else", "/plugins/scores/keys/", "/plugins/"] {
            assert_eq!(OfSlot::parse(path), None, "{path}");
        }
    }
}
