//! Access: the scope that each route needs, and whether a request has it.
//!
//! [`guarded`] is the only way to a route that needs a scope: it puts the check
//! before the handlers, and names the scope in the description of each. A check
//! is one SHA-256 and a comparison with each token; it comes before the body is
//! read, so a refused request costs no more.

pub mod authority;
mod config;
mod local;
mod origin;
mod tokens;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use courtside_types::failure::ErrorCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::{
    HeaderBuilder, ObjectBuilder, OpenApi, RefOr, ResponseBuilder, Type,
    path::Operation,
    security::{Http, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};
use utoipa_axum::router::OpenApiRouter;

use self::tokens::Tokens;
pub use self::{
    config::AccessConfig,
    origin::{check as check_origins, cors, may_read},
    tokens::{Scope, Token, TokensFile},
};
use super::{
    problem::{Problem, answers::problem},
    reload::Reloaded,
};

/// The name of the security scheme in the OpenAPI description.
const SCHEME: &str = "token";
/// No token is so long; a longer secret is not even hashed.
const TOKEN_BYTES_MAX: usize = 1_024;
/// The shortest time between two refusals that are written to the log.
const REFUSALS_LOGGED_EVERY_MS: u64 = 1_000;

/// The access rules. Clones share them; the default is a host without tokens.
#[derive(Clone, Debug, Default)]
pub struct Access(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    tokens: Option<Arc<Reloaded<Tokens>>>,
    anonymous: Vec<Scope>,
    opened: Instant,
    /// Milliseconds after `opened`.
    logged_at: AtomicU64,
    unlogged: AtomicU64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            tokens: None,
            anonymous: Vec::new(),
            opened: Instant::now(),
            logged_at: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
        }
    }
}

/// Tokens that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AccessError(String);

impl ErrorCode for AccessError {
    fn code(&self) -> &str {
        "tokens-invalid"
    }
}

/// The sender of a request.
#[derive(Clone, Debug)]
pub enum Who {
    /// Nobody in particular.
    Anyone,
    /// Somebody on the host's own machine.
    Local,
    /// The bearer of a token of this name.
    Bearer(Arc<str>),
}

impl Who {
    fn name(&self) -> &str {
        match self {
            Self::Anyone => "anyone",
            Self::Local => "local",
            Self::Bearer(name) => name,
        }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Access {
    pub fn open(config: &AccessConfig) -> Result<Self, AccessError> {
        let tokens = if config.has_file() {
            let path = config.tokens_file.clone();
            let configured = config.tokens.clone();
            Some(Reloaded::open("tokens", vec![path.clone()], move |files| {
                let file = files.first().map(Vec::as_slice).unwrap_or_default();
                Tokens::parse(file, &configured)
                    .map_err(|reason| format!("{}: {reason}", path.display()))
            }))
        } else if config.tokens.is_empty() {
            None
        } else {
            let configured = config.tokens.clone();
            let read = move |_: &[Vec<u8>]| Tokens::new(configured.clone());
            Some(Reloaded::open("tokens", Vec::new(), read))
        };
        let tokens = tokens.transpose().map_err(AccessError)?;
        Ok(Self(Arc::new(Rules {
            tokens: tokens.map(Arc::new),
            anonymous: config.anonymous.clone(),
            ..Rules::default()
        })))
    }

    /// Reads the file of tokens again whenever it changes or `asked` does, until `stop`.
    pub async fn follow(self, stop: CancellationToken, asked: watch::Receiver<()>) {
        if let Some(tokens) = &self.0.tokens {
            Arc::clone(tokens).follow(stop, asked).await;
        }
    }

    /// Whether requests need a token for `scope`.
    fn needs_token(&self, scope: Scope) -> bool {
        self.0.tokens.is_some() && !self.0.anonymous.contains(&scope)
    }

    /// Checks that a request may do what needs `scope`, and returns its sender.
    fn admit(
        &self,
        scope: Scope,
        peer: Option<SocketAddr>,
        headers: &HeaderMap,
    ) -> Result<Who, Refused> {
        let who = self.identify(scope, peer, headers)?;
        // A preflight asks whether a page of another site may send a token, but lets it
        // POST in any case: without this check, a page that may read could operate.
        if scope != Scope::Read && !origin::is_same_site(headers) {
            return Err(Refused::OtherSite);
        }
        Ok(who)
    }

    /// The sender of a request, if its token allows what needs `scope`.
    fn identify(
        &self,
        scope: Scope,
        peer: Option<SocketAddr>,
        headers: &HeaderMap,
    ) -> Result<Who, Refused> {
        let Some(tokens) = &self.0.tokens else {
            // A host without tokens ignores a token that is sent.
            if scope != Scope::Operate {
                return Ok(Who::Anyone);
            }
            return local::check(peer, headers)
                .map(|()| Who::Local)
                .map_err(Refused::NotLocal);
        };
        let secret = match bearer(headers) {
            Bearer::None if self.needs_token(scope) => return Err(Refused::NoToken),
            Bearer::None => return Ok(Who::Anyone),
            // This is an error where no token is needed, too: nobody would notice otherwise.
            Bearer::Malformed(why) => return Err(Refused::Unknown(why)),
            Bearer::Secret(secret) => secret,
        };
        let tokens = tokens.current();
        let Some(token) = tokens.find(secret) else {
            return Err(Refused::Unknown("the host does not know the token"));
        };
        if token.has(scope) || !self.needs_token(scope) {
            Ok(Who::Bearer(token.name.as_str().into()))
        } else {
            Err(Refused::Scope {
                scope,
                name: token.name.clone(),
            })
        }
    }

    /// Counts a refusal, and writes some of them to the log, but never a secret.
    fn refused(&self, refused: &Refused, peer: Option<SocketAddr>, request: &Request) {
        let code = refused.code();
        metrics::counter!("courtside_access_refused_total", "code" => code).increment(1);
        let now = u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now = now.saturating_add(REFUSALS_LOGGED_EVERY_MS);
        let logged_at = self.0.logged_at.load(Ordering::Relaxed);
        let is_due = now >= logged_at.saturating_add(REFUSALS_LOGGED_EVERY_MS)
            && self
                .0
                .logged_at
                .compare_exchange(logged_at, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !is_due {
            self.0.unlogged.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let others = self.0.unlogged.swap(0, Ordering::Relaxed);
        tracing::warn!(
            code,
            token = refused.name(),
            peer = peer.map(tracing::field::display),
            method = %request.method(),
            path = request.uri().path(),
            others,
            "a request was refused"
        );
    }
}

/// Why a request may not do what it asks for.
#[derive(Debug)]
enum Refused {
    NotLocal(&'static str),
    NoToken,
    /// A token that is malformed, or unknown to this host.
    Unknown(&'static str),
    Scope {
        scope: Scope,
        name: String,
    },
    /// A page of another site asked, whatever its token.
    OtherSite,
}

impl Refused {
    const fn code(&self) -> &'static str {
        match self {
            Self::NotLocal(_) => "operating-is-local",
            Self::NoToken => "token-required",
            Self::Unknown(_) => "token-invalid",
            Self::Scope { .. } => "scope-missing",
            Self::OtherSite => "origin-not-allowed",
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Scope { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The answer to the client, with a challenge as RFC 6750 has it.
    fn answer(&self, method: &Method) -> Response {
        let (status, detail, challenge) = match self {
            Self::NotLocal(detail) => (StatusCode::FORBIDDEN, (*detail).to_owned(), None),
            Self::NoToken => (
                StatusCode::UNAUTHORIZED,
                "send a token: Authorization: Bearer TOKEN".to_owned(),
                Some("Bearer realm=\"courtside\"".to_owned()),
            ),
            Self::Unknown(why) => (
                StatusCode::UNAUTHORIZED,
                (*why).to_owned(),
                Some("Bearer realm=\"courtside\", error=\"invalid_token\"".to_owned()),
            ),
            Self::Scope { scope, name } => (
                StatusCode::FORBIDDEN,
                format!("the token {name} does not have the scope {scope}"),
                Some(format!(
                    "Bearer realm=\"courtside\", error=\"insufficient_scope\", scope=\"{scope}\""
                )),
            ),
            Self::OtherSite => (
                StatusCode::FORBIDDEN,
                "a page of another site may only read".to_owned(),
                None,
            ),
        };
        let mut problem = Problem::new(status, self.code(), detail);
        if !matches!(*method, Method::GET | Method::HEAD) {
            // The body was not read.
            problem = problem.closing();
        }
        let mut response = problem.into_response();
        if let Some(challenge) = challenge.and_then(|text| HeaderValue::try_from(text).ok()) {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// The token that a request sends.
enum Bearer<'a> {
    None,
    Malformed(&'static str),
    Secret(&'a [u8]),
}

fn bearer(headers: &HeaderMap) -> Bearer<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Bearer::None;
    };
    if values.next().is_some() {
        return Bearer::Malformed("the request has more than one Authorization header");
    }
    let value = value.as_bytes();
    let Some((scheme, secret)) = value.split_at_checked("bearer ".len()) else {
        return Bearer::Malformed("the Authorization header has no bearer token");
    };
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Bearer::Malformed("the Authorization header has no bearer token");
    }
    let secret = secret.trim_ascii();
    if secret.len() > TOKEN_BYTES_MAX {
        return Bearer::Malformed("the host does not know the token");
    }
    Bearer::Secret(secret)
}

/// State of the check before a handler.
#[derive(Clone)]
struct Guard {
    access: Access,
    scope: Scope,
}

/// Puts the check of a scope before routes, and describes it in their operations.
pub fn guarded<S: Clone + Send + Sync + 'static>(
    access: &Access,
    scope: Scope,
    mut routes: OpenApiRouter<S>,
) -> OpenApiRouter<S> {
    for item in routes.get_openapi_mut().paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            describe(access, scope, operation);
        }
    }
    let guard = Guard {
        access: access.clone(),
        scope,
    };
    routes.route_layer(from_fn_with_state(guard, check))
}

async fn check(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map(|ConnectInfo(peer)| *peer);
    let who = match guard.access.admit(guard.scope, peer, request.headers()) {
        Ok(who) => who,
        Err(refused) => {
            guard.access.refused(&refused, peer, &request);
            return refused.answer(request.method());
        }
    };
    // No handler needs the token, and a handler without it cannot give it away.
    request.headers_mut().remove(AUTHORIZATION);
    let operates =
        (guard.scope == Scope::Operate).then(|| (request.method().clone(), request.uri().clone()));
    if let Some((method, uri)) = &operates {
        // This entry comes before the work, because a client that hangs up ends this
        // future but not the work: the entry below is never written then.
        tracing::info!(
            token = %who,
            peer = peer.map(tracing::field::display),
            %method,
            path = uri.path(),
            query = uri.query(),
            "operator's request begins"
        );
        request.extensions_mut().insert(who.clone());
    }
    let mut response = next.run(request).await;
    if let Some((method, uri)) = &operates {
        tracing::info!(
            token = %who,
            peer = peer.map(tracing::field::display),
            %method,
            path = uri.path(),
            query = uri.query(),
            status = response.status().as_u16(),
            "operator's request answered"
        );
    }
    response.extensions_mut().insert(who);
    response
}

/// Adds the effect of [`check`] to the description of an operation.
fn describe(access: &Access, scope: Scope, operation: &mut Operation) {
    let mut put = |status: &str, response: ResponseBuilder| {
        let responses = &mut operation.responses.responses;
        let mut response = response.build();
        if let Some(RefOr::T(own)) = responses.get(status) {
            response.description = format!("{}; {}", own.description, response.description);
        }
        responses.insert(status.to_owned(), response.into());
    };
    if access.needs_token(scope) {
        let challenge = HeaderBuilder::new()
            .schema(ObjectBuilder::new().schema_type(Type::String))
            .build();
        let unknown = problem("No token, or one that the host does not know");
        put("401", unknown.header("WWW-Authenticate", challenge));
        put("403", problem(operation_403(scope)));
        operation.security = Some(vec![SecurityRequirement::new(SCHEME, [scope.name()])]);
    } else if scope == Scope::Operate {
        put(
            "403",
            problem(
                "The request came from another machine, from a page of another site, or through a proxy",
            ),
        );
    } else if access.0.tokens.is_some() {
        put("401", problem("A token that the host does not know"));
        // The operation works without a token and with one.
        operation.security = Some(vec![
            SecurityRequirement::default(),
            SecurityRequirement::new(SCHEME, [scope.name()]),
        ]);
    }
    if scope == Scope::Write && !access.needs_token(scope) {
        put("403", problem("A page of another site asked"));
    }
}

fn operation_403(scope: Scope) -> String {
    let missing = format!("The token does not have the scope {scope}");
    if scope == Scope::Read {
        return missing;
    }
    format!("{missing}, or a page of another site asked")
}

/// Adds the security scheme that the operations name.
pub fn describe_scheme(access: &Access, api: &mut OpenApi) {
    if access.0.tokens.is_none() {
        return;
    }
    let scheme: Http = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A token of the host, with scopes: write, read, operate. No scope implies another",
        ))
        .build();
    let components = api.components.get_or_insert_default();
    components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
}

#[cfg(test)]
mod tests {
    use axum::http::{
        HeaderName,
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

    fn admit(
        access: &Access,
        scope: Scope,
        authorization: &[&str],
    ) -> Result<String, &'static str> {
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
}
