//! HTTP: the API of a host, its streams and its page.
//!
//! [`serve`] lives as long as the host. Handlers are thin: events go to
//! [`ingest`], reads to the [`scoreboard`],
//! questions of operators to the [`Operator`]. Every error is answered with a
//! [`problem`] that has a stable code.

mod access;
mod app;
mod backup;
mod body;
mod config;
mod dead_letters;
mod games;
pub mod gauges;
mod gzip;
pub mod ingest;
mod observe;
mod operate;
mod operator;
mod plugins;
mod post;
mod problem;
mod query;
mod reload;
mod routes;
pub mod scoreboard;
mod server;
mod site;
mod stream;
#[cfg(test)]
mod tests;
mod trace;

pub use self::{
    access::{Access, AccessConfig, AccessError, Scope, Token, TokensFile},
    app::App,
    config::HttpConfig,
    observe::{describe, prometheus},
    operator::Operator,
    routes::{openapi, router},
    server::{BindError, Tls, TlsConfig, TlsError, bind, serve},
};
