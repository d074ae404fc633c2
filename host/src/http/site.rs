//! The live page: files that are part of the binary.

use std::sync::LazyLock;

use axum::{
    Router,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY},
    },
    response::{IntoResponse, Response},
    routing::get,
};

use super::{SharedApp, games::is_known};
use crate::types::Digest;

/// The page may load and ask what this host serves, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

struct File {
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
    etag: LazyLock<String>,
}

macro_rules! file {
    ($path:literal, $name:literal, $content_type:literal) => {
        File {
            path: $path,
            content_type: $content_type,
            bytes: include_bytes!(concat!("page/", $name)),
            // Weak: a compressed body bears it too.
            etag: LazyLock::new(|| {
                let digest = Digest::of(include_bytes!(concat!("page/", $name)));
                format!("W/\"{}\"", digest.short())
            }),
        }
    };
}

static FILES: [File; 14] = [
    file!("/", "index.html", "text/html; charset=utf-8"),
    file!("/access.js", "access.js", "text/javascript; charset=utf-8"),
    file!("/app.js", "app.js", "text/javascript; charset=utf-8"),
    file!("/board.js", "board.js", "text/javascript; charset=utf-8"),
    file!("/chart.js", "chart.js", "text/javascript; charset=utf-8"),
    file!("/dom.js", "dom.js", "text/javascript; charset=utf-8"),
    file!("/game.js", "game.js", "text/javascript; charset=utf-8"),
    file!("/model.js", "model.js", "text/javascript; charset=utf-8"),
    file!(
        "/operator.js",
        "operator.js",
        "text/javascript; charset=utf-8"
    ),
    file!("/store.js", "store.js", "text/javascript; charset=utf-8"),
    file!("/stream.js", "stream.js", "text/javascript; charset=utf-8"),
    file!("/style.css", "style.css", "text/css; charset=utf-8"),
    file!("/token.js", "token.js", "text/javascript; charset=utf-8"),
    file!("/favicon.svg", "favicon.svg", "image/svg+xml"),
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
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        file.bytes.into_response()
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
