//! Why a request is refused, and the answer to it.

use axum::{
    http::{HeaderValue, Method, StatusCode, header::WWW_AUTHENTICATE},
    response::{IntoResponse as _, Response},
};

use super::Scope;
use crate::problem::Problem;

/// Why a request may not do what it asks for.
#[derive(Debug)]
pub enum Refused {
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
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotLocal(_) => "operating-is-local",
            Self::NoToken => "token-required",
            Self::Unknown(_) => "token-invalid",
            Self::Scope { .. } => "scope-missing",
            Self::OtherSite => "origin-not-allowed",
        }
    }

    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Scope { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The answer to the client, with a challenge as RFC 6750 has it.
    pub fn answer(&self, method: &Method) -> Response {
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
