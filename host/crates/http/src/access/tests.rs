//! Tokens, scopes, and pages of other sites.

use axum::http::{
    HeaderName, HeaderValue,
    header::{HOST, ORIGIN},
};

use super::*;

pub(super) fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
    let pairs = pairs.iter().cloned();
    pairs
        .map(|(name, value)| (name, HeaderValue::from_static(value)))
        .collect()
}

fn access(anonymous: &[Scope]) -> Access {
    let token = |name: &str, scopes: &[Scope]| Token {
        name: name.to_owned(),
        scopes: scopes.to_vec(),
        sha256: courtside_types::Digest::of(name.as_bytes()),
    };
    Access::open(&AccessConfig {
        tokens: vec![
            token("reader", &[Scope::Read]),
            token("writer", &[Scope::Write]),
            token("operator", &[Scope::Operate]),
            token("both", &[Scope::Read, Scope::Operate]),
        ],
        anonymous: anonymous.to_vec(),
        ..AccessConfig::default()
    })
    .unwrap()
}

fn admit(access: &Access, scope: Scope, authorization: &[&str]) -> Result<String, &'static str> {
    let headers: HeaderMap = authorization
        .iter()
        .map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap()))
        .collect();
    let who = access.admit(scope, Some("10.0.0.1:5".parse().unwrap()), &headers);
    who.map(|who| who.to_string())
        .map_err(|refused| refused.code())
}

#[test]
fn a_scope_is_one_and_implies_no_other() {
    let access = access(&[]);
    for (secret, scopes) in [
        ("reader", &[Scope::Read][..]),
        ("writer", &[Scope::Write]),
        ("operator", &[Scope::Operate]),
        ("both", &[Scope::Read, Scope::Operate]),
    ] {
        for scope in [Scope::Read, Scope::Write, Scope::Operate] {
            let expected = if scopes.contains(&scope) {
                Ok(secret.to_owned())
            } else {
                Err("scope-missing")
            };
            let header = format!("Bearer {secret}");
            assert_eq!(
                admit(&access, scope, &[&header]),
                expected,
                "{secret} {scope}"
            );
        }
    }
    assert_eq!(admit(&access, Scope::Read, &[]), Err("token-required"));
}

#[test]
fn a_header_is_a_bearers_or_refused() {
    let access = access(&[Scope::Read]);
    for header in ["bearer both", "BEARER both", "Bearer  both "] {
        assert_eq!(
            admit(&access, Scope::Operate, &[header]),
            Ok("both".to_owned())
        );
    }
    let long = format!("Bearer {}", "x".repeat(TOKEN_BYTES_MAX + 1));
    for header in [
        "",
        "Bearer",
        "Bearer ",
        "Basic cm9vdDpyb290",
        "both",
        "Bearer none",
        &long,
    ] {
        // A wrong header is refused where no token is needed, too.
        for scope in [Scope::Read, Scope::Operate] {
            assert_eq!(
                admit(&access, scope, &[header]),
                Err("token-invalid"),
                "{header}"
            );
        }
    }
    let twice = ["Bearer both", "Bearer both"];
    assert_eq!(admit(&access, Scope::Read, &twice), Err("token-invalid"));
}

#[test]
fn what_is_anonymous_needs_no_token() {
    let access = access(&[Scope::Read]);
    assert_eq!(admit(&access, Scope::Read, &[]), Ok("anyone".to_owned()));
    assert_eq!(
        admit(&access, Scope::Read, &["Bearer writer"]),
        Ok("writer".to_owned())
    );
    assert_eq!(admit(&access, Scope::Write, &[]), Err("token-required"));
    assert_eq!(admit(&access, Scope::Operate, &[]), Err("token-required"));
}

#[test]
fn pages_of_other_sites_read_and_no_more() {
    let admits = |access: &Access, scope, origin: &'static str| {
        let headers = [
            (HOST, "courtside.example"),
            (ORIGIN, origin),
            (AUTHORIZATION, "Bearer both"),
        ];
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let who = access.admit(scope, None, &HeaderMap::from_iter(headers));
        who.map(|who| who.to_string())
            .map_err(|refused| refused.code())
    };
    let open = access(&[Scope::Write]);
    let refused = Err("origin-not-allowed");
    for origin in ["https://scores.example", "null"] {
        assert_eq!(admits(&open, Scope::Read, origin), Ok("both".to_owned()));
        assert_eq!(admits(&open, Scope::Operate, origin), refused);
        assert_eq!(admits(&open, Scope::Write, origin), refused);
        assert_eq!(admits(&Access::default(), Scope::Write, origin), refused);
    }
    for scope in [Scope::Read, Scope::Write, Scope::Operate] {
        let own = "https://courtside.example";
        assert_eq!(admits(&open, scope, own), Ok("both".to_owned()));
    }
}

#[test]
fn with_tokens_nobody_is_local() {
    let from = |access: &Access| {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static("host"),
            HeaderValue::from_static("localhost:8080"),
        )]);
        let peer = "127.0.0.1:5".parse().ok();
        let who = access.admit(Scope::Operate, peer, &headers);
        who.map(|who| who.to_string())
            .map_err(|refused| refused.code())
    };
    assert_eq!(from(&Access::default()), Ok("local".to_owned()));
    assert_eq!(from(&access(&[])), Err("token-required"));
}

#[test]
fn what_is_configured_is_checked() {
    let check = |config: AccessConfig| config.check();
    assert_eq!(check(AccessConfig::default()), Ok(()));
    let anonymous = |scope| AccessConfig {
        anonymous: vec![scope],
        ..AccessConfig::default()
    };
    assert!(check(anonymous(Scope::Operate)).is_err());
    assert!(check(anonymous(Scope::Read)).is_err());
    let file = AccessConfig {
        tokens_file: "tokens.toml".into(),
        ..anonymous(Scope::Read)
    };
    assert_eq!(check(file.clone()), Ok(()));
    assert_eq!(Access::open(&file).unwrap_err().code(), "tokens-invalid");
}
