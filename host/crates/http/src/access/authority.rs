//! The host's name and port as a request gives them, read once, strictly, and for all
//! checks.
//!
//! A request that two readers may understand differently is refused with 400 before
//! anything else looks at it: a header that is there twice, a name with a user before
//! it or with anything behind its port, a target that contradicts `Host`. All later
//! checks therefore compare the same names.

use std::net::{IpAddr, Ipv6Addr};

use axum::{
    extract::Request,
    http::{
        HeaderMap, StatusCode, Uri, Version,
        header::{HOST, HeaderName, ORIGIN},
        uri,
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::super::problem::Problem;

/// The longest name that DNS allows.
const NAME_BYTES_MAX: usize = 253;

/// A host's name or address, in small letters, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    name: String,
    port: Option<u16>,
}

impl Authority {
    /// Reads `HOST[:PORT]`.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let authority: uri::Authority = text.parse().map_err(|_| "is not HOST[:PORT]")?;
        if authority.as_str().contains('@') {
            return Err("names a user");
        }
        let (name, port) = (authority.host(), authority.port_u16());
        let whole = match port {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        // The parser looks for the last colon, and passes over a port that is no number.
        if whole != text || port == Some(0) {
            return Err("has no port of 1 to 65535 in plain digits, or something behind it");
        }
        check_name(name)?;
        Ok(Self {
            name: name.to_ascii_lowercase(),
            port,
        })
    }

    /// Whether this name or address stands for the machine that resolves it.
    pub fn is_loopback(&self) -> bool {
        let address = self.name.trim_start_matches('[').trim_end_matches(']');
        self.name == "localhost"
            || address
                .parse()
                .is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
    }

    fn is_same(&self, other: &Self, default_port: Option<u16>) -> bool {
        self.name == other.name && self.port.or(default_port) == other.port.or(default_port)
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if let Some(rest) = name.strip_prefix('[') {
        let address = rest.strip_suffix(']').map(str::parse::<Ipv6Addr>);
        return match address {
            Some(Ok(_)) => Ok(()),
            _ => Err("has brackets around what is no IPv6 address"),
        };
    }
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_plain);
    if name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label) {
        Ok(())
    } else {
        Err("has a name with other than letters, digits, '-', '_' and single dots between them")
    }
}

/// The authority that a request's `Host` header names, if it has one.
pub fn of(headers: &HeaderMap) -> Option<Authority> {
    let host = headers.get(HOST)?.to_str().ok()?;
    Authority::parse(host).ok()
}

/// A layer around all routes that refuses requests whose host is ambiguous.
pub async fn check(request: Request, next: Next) -> Response {
    match problem(&request) {
        Ok(()) => next.run(request).await,
        // The body was not read.
        Err(problem) => problem.closing().into_response(),
    }
}

fn problem(request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let host = once(headers, &HOST, "invalid-host")?;
    let host = host
        .map(Authority::parse)
        .transpose()
        .map_err(invalid_host)?;
    // Probes of load balancers speak HTTP/1.0, which knows no such header.
    if host.is_none() && request.version() >= Version::HTTP_11 {
        return Err(invalid_host("is missing"));
    }
    check_target(request.uri(), host.as_ref())?;
    once(headers, &ORIGIN, "invalid-origin").map(|_| ())
}

/// Checks that a target with a host of its own names the host of the header.
fn check_target(target: &Uri, host: Option<&Authority>) -> Result<(), Problem> {
    let Some(named) = target.authority() else {
        return Ok(());
    };
    let named = Authority::parse(named.as_str()).map_err(invalid_host)?;
    let default_port = match target.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    };
    match host {
        Some(host) if !host.is_same(&named, default_port) => {
            Err(invalid_host("is not the host of the request's target"))
        }
        _ => Ok(()),
    }
}

/// The value of a header that may be there once at most.
fn once<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    code: &'static str,
) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let bad = |why| Problem::new(StatusCode::BAD_REQUEST, code, format!("{name} {why}"));
    if values.next().is_some() {
        return Err(bad("is there more than once"));
    }
    let value = value.to_str();
    value.map(Some).map_err(|_| bad("is not visible ASCII"))
}

fn invalid_host(why: &str) -> Problem {
    let detail = format!("host {why}");
    Problem::new(StatusCode::BAD_REQUEST, "invalid-host", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::tests::headers;

    fn request(target: &str, own: &[(HeaderName, &'static str)]) -> Request {
        let mut request = Request::new(axum::body::Body::empty());
        *request.uri_mut() = target.parse().unwrap();
        *request.headers_mut() = headers(own);
        request
    }

    fn code(target: &str, own: &[(HeaderName, &'static str)]) -> Option<&'static str> {
        problem(&request(target, own))
            .err()
            .map(|problem| problem.code())
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_a_port() {
        for host in [
            "localhost",
            "localhost:8080",
            "LocalHost:1",
            "host_1.compose:65535",
            "scores.example",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:8080",
            "[2001:DB8::1]:8080",
        ] {
            assert_eq!(code("/", &[(HOST, host)]), None, "{host}");
        }
        for host in [
            "",
            " ",
            "localhost:80@evil.example",
            "localhost@evil.example",
            "localhost@evil.example:80",
            "@localhost",
            "[::1]evil.example",
            "[::1]evil.example:80",
            "[::1]:80evil.example",
            "[::1]:80:80",
            "[::1",
            "::1",
            "[]",
            "[localhost]",
            "[127.0.0.1]",
            "[fe80::1%25eth0]",
            "[fe80::1%eth0]:80",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "localhost:-1",
            "localhost:+80",
            "localhost:080",
            "localhost:80:80",
            "localhost:http",
            "localhost:8080/",
            "localhost/evil.example",
            "localhost?",
            "localhost#",
            "localhost\\evil.example",
            "localhost, evil.example",
            "localhost evil.example",
            "localhost\tevil.example",
            "localhost.",
            "localhost..example",
            ".localhost",
            "%6cocalhost",
            "local*host",
            "http://localhost",
            "*",
        ] {
            assert_eq!(code("/", &[(HOST, host)]), Some("invalid-host"), "{host:?}");
        }
        let long = format!("{}.example", "a".repeat(NAME_BYTES_MAX));
        assert!(Authority::parse(&long).is_err());
    }

    #[test]
    fn what_is_not_ascii_is_no_host() {
        let mut own = headers(&[]);
        own.insert(HOST, "lócalhost".parse().unwrap());
        let mut request = request("/", &[]);
        *request.headers_mut() = own;
        let problem = problem(&request).unwrap_err();
        assert_eq!(problem.code(), "invalid-host");
    }

    #[test]
    fn only_http_1_0_needs_no_host() {
        let mut old = request("/healthz", &[]);
        assert_eq!(
            problem(&old).err().map(|problem| problem.code()),
            Some("invalid-host")
        );
        *old.version_mut() = Version::HTTP_10;
        assert!(problem(&old).is_ok());
    }

    #[test]
    fn what_is_there_twice_is_refused_even_if_it_is_the_same() {
        let host = "localhost:8080";
        for other in [host, "evil.example"] {
            let twice = [(HOST, host), (HOST, other)];
            assert_eq!(code("/", &twice), Some("invalid-host"), "{other}");
        }
        let (own, evil) = ("http://localhost:8080", "http://evil.example");
        for origins in [[own, evil], [evil, own], [own, own]] {
            let twice = [(HOST, host), (ORIGIN, origins[0]), (ORIGIN, origins[1])];
            assert_eq!(code("/", &twice), Some("invalid-origin"), "{origins:?}");
        }
        assert_eq!(code("/", &[(HOST, host), (ORIGIN, "null")]), None);
    }

    #[test]
    fn a_target_does_not_contradict_the_host() {
        let host = [(HOST, "localhost:8080")];
        assert_eq!(code("http://localhost:8080/games", &host), None);
        assert_eq!(code("http://LOCALHOST:8080/games", &host), None);
        assert_eq!(code("http://localhost/", &[(HOST, "localhost:80")]), None);
        assert_eq!(code("https://localhost:443/", &[(HOST, "localhost")]), None);
        for target in [
            "http://evil.example:8080/games",
            "http://localhost/games",
            "http://localhost:8081/games",
            "http://me@localhost:8080/games",
            "http://localhost.:8080/games",
        ] {
            assert_eq!(code(target, &host), Some("invalid-host"), "{target}");
        }
    }

    #[test]
    fn loopback_has_names_and_addresses() {
        let is_loopback = |text: &str| Authority::parse(text).unwrap().is_loopback();
        for text in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_loopback(text), "{text}");
        }
        // Some resolvers take the short forms for loopback; a browser never sends them.
        for text in [
            "10.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "[::2]",
            "localhost.example",
            "0.0.0.0",
        ] {
            assert!(!is_loopback(text), "{text}");
        }
    }
}
