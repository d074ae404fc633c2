//! The problems that several routes answer with, in the description of the routes.

use std::collections::BTreeMap;

use utoipa::{
    IntoResponses,
    openapi::{Content, Ref, RefOr, Response, ResponseBuilder},
};

/// Declares sets of problems: their statuses, each with its meaning.
macro_rules! problems {
    ($($name:ident { $($status:literal: $meaning:literal),+ $(,)? })+) => {$(
        pub enum $name {}

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                BTreeMap::from([
                    $((stringify!($status).to_owned(), problem($meaning).build().into())),+
                ])
            }
        }
    )+};
}

/// An answer whose body is a [`Problem`](super::Problem).
pub fn problem(meaning: impl Into<String>) -> ResponseBuilder {
    let body = Content::new(Some(Ref::from_schema_name("Problem")));
    ResponseBuilder::new()
        .description(meaning)
        .content("application/problem+json", body)
}

problems! {
    InvalidRequest { 400: "Bad input" }
    NoSuchPipeline { 404: "No such pipeline" }
    LogUnavailable { 503: "The record log is unavailable" }
    EventsRefused {
        400: "Bad input; field, index and line say where",
        408: "The body did not arrive in time",
        413: "Too large",
        415: "Neither JSON nor NDJSON",
        429: "The host or the record log holds as many bytes as it may; try again after Retry-After",
        503: "The record log is unavailable, or failed midway (see results)",
    }
    GamesNotRead {
        503: "The record log is unavailable, or the host has just started",
        504: "The event was not processed in time",
    }
    StreamRefused {
        404: "No such pipeline",
        503: "As many streams are open as the host allows",
    }
    WebSocketRefused {
        400: "Not a WebSocket handshake",
        403: "A page of another site asked for the stream",
    }
    NoSuchLetter { 404: "No such letter, or pipeline" }
    ScansBusy { 429: "Other requests are reading through the log" }
    InvalidParameter { 400: "A parameter is unknown, or malformed" }
    SlotRefused {
        404: "No such pipeline, or slot",
        409: "The request cannot be carried out in the present state; the code says why",
        429: "Too many requests wait for the slots of the pipeline",
        503: "The record log is unavailable, or the host stops",
        504: "The request took longer than http.operate_timeout, and may go on; the detail has the slot's state",
    }
    PluginRefused {
        413: "The plugin is larger than plugin.plugin_bytes_max",
        422: "The plugin is rejected, with the code of the rejection; the slot keeps its previous plugin",
    }
}
