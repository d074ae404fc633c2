//! Access: the scope that each route needs, and whether a request has it.
//!
//! [`guarded`] is the only way to a route that needs a scope: it puts the check
//! before the handlers, and names the scope in the description of each. A check
//! is one SHA-256 and a comparison with each token; it comes before the body is
//! read, so a refused request costs no more.
//!
//! A route's scope stands where the route is made ([`routes`](super::routes)), and
//! nowhere else. A test walks all routes of the description with every token. No token
//! is in a log, an address or an argument of a command.

pub mod authority;
mod config;
mod guard;
mod local;
mod origin;
mod refused;
#[cfg(test)]
mod tests;
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
    extract::Request,
    http::{HeaderMap, header::AUTHORIZATION},
};
use courtside_types::failure::ErrorCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::{
    config::AccessConfig,
    guard::{describe_scheme, guarded},
    origin::{check as check_origins, cors, may_read},
    tokens::{Scope, Token, TokensFile},
};
use self::{refused::Refused, tokens::Tokens};
use super::reload::Reloaded;

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

    fn has_tokens(&self) -> bool {
        self.0.tokens.is_some()
    }

    /// Whether requests need a token for `scope`.
    fn needs_token(&self, scope: Scope) -> bool {
        self.has_tokens() && !self.0.anonymous.contains(&scope)
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
