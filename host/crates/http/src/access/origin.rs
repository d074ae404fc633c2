//! Pages of other sites that a browser lets ask this host: only those whose origin the
//! configuration names. Such a page may read, and no more.

use std::time::Duration;

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{AUTHORIZATION, ETAG, HOST, IF_NONE_MATCH, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE},
};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long browsers may go by the answer to a preflight request.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);
const ANY: &str = "*";

/// Origins as configured: `SCHEME://HOST[:PORT]`, or `*` for all.
pub fn check(origins: &[String]) -> Result<(), String> {
    let is_origin = |origin: &str| {
        let uri: Option<Uri> = origin.parse().ok();
        uri.is_some_and(|uri| {
            // Browsers send neither a path, nor capitals.
            uri.scheme().is_some()
                && uri
                    .authority()
                    .is_some_and(|name| !name.as_str().contains('@'))
                && !origin.ends_with('/')
                && uri.path() == "/"
                && uri.query().is_none()
                && !origin.chars().any(|c| c.is_ascii_uppercase())
        })
    };
    match origins
        .iter()
        .find(|origin| *origin != ANY && !is_origin(origin))
    {
        Some(wrong) => Err(format!(
            "{wrong:?} is no origin: write it as browsers send it, like https://scores.example"
        )),
        None => Ok(()),
    }
}

/// The layer that lets pages of these origins read; `None` without origins.
pub fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|origin| origin == ANY) {
        // The host has no cookies, so a page has no rights but those of a token it knows.
        AllowOrigin::any()
    } else {
        AllowOrigin::list(
            origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin).ok()),
        )
    };
    let last_event_id = HeaderName::from_static("last-event-id");
    let own = [
        "courtside-position",
        "courtside-plugin",
        "courtside-digest",
        "courtside-source",
    ];
    let own = own.into_iter().map(HeaderName::from_static);
    let exposed: Vec<_> = own.chain([ETAG, RETRY_AFTER, WWW_AUTHENTICATE]).collect();
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD])
        .allow_headers([AUTHORIZATION, IF_NONE_MATCH, last_event_id])
        .expose_headers(exposed)
        .max_age(PREFLIGHT_AGE);
    Some(layer)
}

/// Whether a page may open a WebSocket: a page of this host, or of an origin that may
/// read. The host checks it, because browsers send no preflight for a WebSocket.
pub fn may_read(headers: &HeaderMap, origins: &[String]) -> bool {
    let is_listed = |origin: &HeaderValue| {
        let mut origins = origins.iter();
        origins.any(|allowed| allowed == ANY || allowed.as_bytes() == origin.as_bytes())
    };
    is_same_site(headers) || headers.get(ORIGIN).is_some_and(is_listed)
}

/// Whether a request comes from a page of this host, or from no page at all. Browsers
/// keep pages from reading answers of other sites, but not from WebSockets or posting:
/// for these they send `Origin`, and leave the check to the host.
pub fn is_same_site(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok();
    let origin = origin.and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(_, origin)| Some(origin) == host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::tests::headers;

    #[test]
    fn an_origin_is_what_browsers_send() {
        let check = |origin: &str| check(&[origin.to_owned()]);
        for origin in ["https://scores.example", "http://localhost:3000", "*"] {
            assert_eq!(check(origin), Ok(()), "{origin}");
        }
        for wrong in [
            "",
            "null",
            "scores.example",
            "https://scores.example/",
            "https://scores.example/page",
            "https://Scores.example",
            "https://*.example/x",
            "https://me@scores.example",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn other_sites_read_if_they_are_listed() {
        let allowed = ["https://scores.example".to_owned()];
        let asks = |origin: &'static str, origins: &[String]| {
            may_read(
                &headers(&[(HOST, "localhost:8080"), (ORIGIN, origin)]),
                origins,
            )
        };
        assert!(asks("https://scores.example", &allowed));
        assert!(asks("http://localhost:8080", &allowed));
        assert!(asks("https://any.example", &["*".to_owned()]));
        for origin in ["http://scores.example", "https://evil.example", "null"] {
            assert!(!asks(origin, &allowed), "{origin}");
        }
        assert!(!asks("https://scores.example", &[]));
    }

    #[test]
    fn only_pages_of_this_site_are_of_this_site() {
        let is_same = |origin: Option<&'static str>| {
            let mut own = vec![(HOST, "localhost:8080")];
            own.extend(origin.map(|origin| (ORIGIN, origin)));
            is_same_site(&headers(&own))
        };
        assert!(is_same(None));
        assert!(is_same(Some("http://localhost:8080")));
        assert!(is_same(Some("https://localhost:8080")));
        for origin in ["http://evil.example", "http://localhost:8081", "null", ""] {
            assert!(!is_same(Some(origin)), "{origin}");
        }
    }
}
