//! The check of a scope before the handlers of routes, and its description.

use std::net::SocketAddr;

use axum::{
    extract::{ConnectInfo, Request, State},
    http::header::AUTHORIZATION,
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use utoipa::openapi::{
    HeaderBuilder, ObjectBuilder, OpenApi, RefOr, ResponseBuilder, Type,
    path::Operation,
    security::{Http, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};
use utoipa_axum::router::OpenApiRouter;

use super::{Access, Scope};
use crate::problem::answers::problem;

/// The name of the security scheme in the OpenAPI description.
const SCHEME: &str = "token";

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
    } else if access.has_tokens() {
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
    if !access.has_tokens() {
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
