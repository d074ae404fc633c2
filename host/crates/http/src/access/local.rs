//! Operating a host that has no tokens: only clients on its own machine may. Pages of
//! other sites may not, though the browser that shows them runs on that machine.

use std::net::SocketAddr;

use axum::http::HeaderMap;

use super::{authority, origin::is_same_site};

/// Headers in which proxies name their client, beside all of `x-forwarded-...`.
const PROXY_HEADERS: [&str; 3] = ["forwarded", "via", "x-real-ip"];

/// Fails with the reason if a request is not from the host's own machine.
pub fn check(peer: Option<SocketAddr>, headers: &HeaderMap) -> Result<(), &'static str> {
    if !peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
        return Err("ask on the host's own machine, or give the host tokens (access.tokens_file)");
    }
    // A site's name may resolve to this machine, and a proxy may run on it: such
    // requests come from elsewhere.
    if !names_this_machine(headers) {
        return Err("ask for 127.0.0.1 or localhost, by no other name");
    }
    if is_passed_on(headers) {
        return Err("ask without a proxy in between, or give the host tokens");
    }
    if !is_same_site(headers) {
        return Err("a page of another site may not operate the host");
    }
    Ok(())
}

fn names_this_machine(headers: &HeaderMap) -> bool {
    authority::of(headers).is_some_and(|host| host.is_loopback())
}

/// Whether a proxy says that it asks for somebody else. A proxy that says nothing and
/// asks for `localhost` looks like a local client: it must not pass these paths on.
fn is_passed_on(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        PROXY_HEADERS.contains(&name) || name.starts_with("x-forwarded-")
    })
}

#[cfg(test)]
mod tests {
    use axum::http::{
        HeaderName,
        header::{HOST, ORIGIN},
    };

    use super::*;
    use crate::access::tests::headers;

    fn may_operate(peer: Option<&str>, own: &[(HeaderName, &'static str)]) -> bool {
        let peer = peer.map(|peer| peer.parse().unwrap());
        check(peer, &headers(own)).is_ok()
    }

    #[test]
    fn only_this_machine_operates() {
        let local = [(HOST, "localhost:8080")];
        for peer in ["127.0.0.1:5", "[::1]:5", "[::ffff:127.0.0.1]:5"] {
            assert!(may_operate(Some(peer), &local), "{peer}");
        }
        for peer in ["10.0.0.1:5", "[fe80::1]:5", "[::ffff:10.0.0.1]:5"] {
            assert!(!may_operate(Some(peer), &local), "{peer}");
        }
        assert!(!may_operate(None, &local));
    }

    #[test]
    fn nobody_operates_through_a_proxy() {
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
            assert!(!may_operate(peer, &own), "{name}");
        }
    }

    #[test]
    fn no_page_of_another_site_operates() {
        let peer = Some("127.0.0.1:5");
        for host in ["127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "LocalHost"] {
            assert!(may_operate(peer, &[(HOST, host)]), "{host}");
        }
        for host in [
            "evil.example:8080",
            "10.0.0.1:8080",
            "",
            "localhost.evil.example",
            "localhost:80@evil.example",
            "[::1]evil.example",
        ] {
            assert!(!may_operate(peer, &[(HOST, host)]), "{host}");
        }
        let from = |origin| [(HOST, "localhost:8080"), (ORIGIN, origin)];
        assert!(may_operate(peer, &from("http://localhost:8080")));
        assert!(!may_operate(peer, &from("http://evil.example")));
    }
}
