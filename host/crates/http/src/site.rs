//! The live page: files that are part of the binary.

use std::sync::LazyLock;

use axum::{
    Router,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
            REFERRER_POLICY, VARY,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use courtside_types::Digest;

use super::{app::SharedApp, games::is_known, gzip::Constant};

/// The page may load and ask what this host serves, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

struct File {
    path: &'static str,
    content_type: &'static str,
    body: LazyLock<Constant>,
    etag: LazyLock<String>,
}

macro_rules! file {
    ($name:literal, $content_type:expr) => {
        file!(concat!("/", $name), $name, $content_type)
    };
    ($path:expr, $name:literal, $content_type:expr) => {
        File {
            path: $path,
            content_type: $content_type,
            body: LazyLock::new(|| {
                let bytes: &[u8] = include_bytes!(concat!("page/", $name));
                Constant::new(Bytes::from_static(bytes))
            }),
            // The tag is weak, because a compressed body bears it too.
            etag: LazyLock::new(|| {
                let digest = Digest::of(include_bytes!(concat!("page/", $name)));
                format!("W/\"{}\"", digest.short())
            }),
        }
    };
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

static FILES: [File; 22] = [
    file!("/", "index.html", HTML),
    file!("access.js", SCRIPT),
    file!("app.js", SCRIPT),
    file!("board.js", SCRIPT),
    file!("chart.js", SCRIPT),
    file!("course.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("game.js", SCRIPT),
    file!("model.js", SCRIPT),
    file!("store.js", SCRIPT),
    file!("stream.js", SCRIPT),
    file!("token.js", SCRIPT),
    file!("operator/figures.js", SCRIPT),
    file!("operator/letters.js", SCRIPT),
    file!("operator/pipeline.js", SCRIPT),
    file!("operator/plot.js", SCRIPT),
    file!("operator/slot.js", SCRIPT),
    file!("operator/view.js", SCRIPT),
    file!("operator/words.js", SCRIPT),
    file!("style.css", STYLE),
    file!("operator/style.css", STYLE),
    file!("favicon.svg", "image/svg+xml"),
];

pub fn router() -> Router<SharedApp> {
    FILES.iter().fold(Router::new(), |router, file| {
        router.route(
            file.path,
            get(async move |headers: HeaderMap| serve(file, &headers)),
        )
    })
}

fn serve(file: &File, request: &HeaderMap) -> Response {
    let mut response = if is_known(request, &file.etag) {
        let varies = [(VARY, HeaderValue::from(ACCEPT_ENCODING))];
        (StatusCode::NOT_MODIFIED, varies).into_response()
    } else {
        file.body.answer(request)
    };
    let headers = response.headers_mut();
    let mut put = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    put(CONTENT_TYPE, file.content_type);
    put(CONTENT_SECURITY_POLICY, POLICY);
    put(REFERRER_POLICY, "no-referrer");
    put(CACHE_CONTROL, "no-cache");
    if let Ok(etag) = HeaderValue::from_str(&file.etag) {
        headers.insert(ETAG, etag);
    }
    response
}
