//! Who may operate the host: whoever is on its own machine, until there are
//! tokens. And who may not, though a browser of theirs is: pages of other sites.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{
        HeaderMap, StatusCode,
        header::{HOST, ORIGIN},
        request::Parts,
    },
};

use super::problem::Problem;

/// What proxies say of whom they ask for, beside all of `x-forwarded-...`.
const PROXY_HEADERS: [&str; 3] = ["forwarded", "via", "x-real-ip"];

/// A request that may operate the host: taken as an argument, it is the check.
#[derive(Clone, Copy, Debug)]
pub struct Local;

impl<S: Send + Sync> FromRequestParts<S> for Local {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let refused = |detail: &str| {
            // The body was not read.
            Problem::new(StatusCode::FORBIDDEN, "operating-is-local", detail).closing()
        };
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        if !peer.is_some_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback()) {
            return Err(refused("ask on the host's own machine"));
        }
        // A page whose name leads to this machine, or a proxy on it, is somebody
        // from elsewhere.
        if !names_this_machine(&parts.headers) {
            return Err(refused("ask for 127.0.0.1 or localhost, by no other name"));
        }
        if is_passed_on(&parts.headers) {
            return Err(refused("ask without a proxy in between"));
        }
        if !is_same_site(&parts.headers) {
            return Err(refused("a page of another site may not operate the host"));
        }
        Ok(Self)
    }
}

fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Whether a proxy says that it asks for somebody else. One that says nothing, and
/// asks for this machine by its name, cannot be told from this machine: it must
/// not pass these paths on.
fn is_passed_on(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        PROXY_HEADERS.contains(&name) || name.starts_with("x-forwarded-")
    })
}

/// Browsers keep pages from reading the answers of other sites, but not from
/// WebSockets, nor from posting: they send `Origin`, and leave it to us.
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
    use axum::http::{HeaderName, HeaderValue, Request};

    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().cloned();
        pairs
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect()
    }

    async fn may_operate(peer: Option<&str>, own: &[(HeaderName, &'static str)]) -> bool {
        let mut request = Request::new(());
        *request.headers_mut() = headers(own);
        if let Some(peer) = peer {
            let peer: SocketAddr = peer.parse().unwrap();
            request.extensions_mut().insert(ConnectInfo(peer));
        }
        let (mut parts, ()) = request.into_parts();
        match Local::from_request_parts(&mut parts, &()).await {
            Ok(Local) => true,
            Err(problem) => {
                assert_eq!(problem.code(), "operating-is-local");
                false
            }
        }
    }

    #[tokio::test]
    async fn only_this_machine_operates() {
        let local = [(HOST, "localhost:8080")];
        for peer in ["127.0.0.1:5", "[::1]:5", "[::ffff:127.0.0.1]:5"] {
            assert!(may_operate(Some(peer), &local).await, "{peer}");
        }
        for peer in ["10.0.0.1:5", "[fe80::1]:5", "[::ffff:10.0.0.1]:5"] {
            assert!(!may_operate(Some(peer), &local).await, "{peer}");
        }
        assert!(!may_operate(None, &local).await);
    }

    #[tokio::test]
    async fn nobody_operates_through_a_proxy() {
        let peer = Some("127.0.0.1:5");
        for name in [
            "forwarded",
            "via",
            "x-real-ip",
            "x-forwarded-for",
            "x-forwarded-proto",
        ] {
            let name = HeaderName::from_static(name);
            let own = [(HOST, "127.0.0.1:8080"), (name.clone(), "")];
            assert!(!may_operate(peer, &own).await, "{name}");
        }
    }

    #[tokio::test]
    async fn no_page_of_another_site_operates() {
        let peer = Some("127.0.0.1:5");
        for host in ["127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "LocalHost"] {
            assert!(may_operate(peer, &[(HOST, host)]).await, "{host}");
        }
        for host in [
            "evil.example:8080",
            "10.0.0.1:8080",
            "",
            "localhost.evil.example",
        ] {
            assert!(!may_operate(peer, &[(HOST, host)]).await, "{host}");
        }
        let from = |origin| [(HOST, "localhost:8080"), (ORIGIN, origin)];
        assert!(may_operate(peer, &from("http://localhost:8080")).await);
        assert!(!may_operate(peer, &from("http://evil.example")).await);
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
