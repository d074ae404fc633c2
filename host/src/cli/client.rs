//! A host, asked over HTTP by a command.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use reqwest::{Method, StatusCode, Url};
use serde::{Deserialize, de::DeserializeOwned};

/// Longer than any answer of a host takes by default.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Of a stream, which ends when its reader does.
const FOREVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

#[derive(Args, Debug)]
pub struct HostArgs {
    /// The host to ask.
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "COURTSIDE_URL")]
    url: String,
}

/// What a problem says to a person.
#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: String,
}

/// What became of asking for a stream.
#[derive(Debug)]
pub enum Opened {
    Stream(reqwest::Response),
    /// It may be there later.
    Later(anyhow::Error),
    Refused(anyhow::Error),
}

/// The way to one host.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    url: Url,
}

impl Client {
    pub fn new(args: &HostArgs) -> anyhow::Result<Self> {
        let url: Url = args
            .url
            .parse()
            .with_context(|| format!("bad-url: {} is no address", args.url))?;
        if url.cannot_be_a_base() {
            return Err(anyhow!("bad-url: {url} is no address of a host"));
        }
        let http = reqwest::Client::builder()
            // The host is asked, and nobody in between.
            .no_proxy()
            .timeout(TIMEOUT)
            .build()?;
        Ok(Self { http, url })
    }

    /// As given, for people.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::GET, path, Vec::new()).await
    }

    /// Opens a stream of server-sent events, after the event with that id.
    pub async fn stream(&self, path: &str, last_event_id: Option<&str>) -> Opened {
        let base = self.url.as_str().trim_end_matches('/');
        let mut request = self
            .http
            .request(Method::GET, format!("{base}{path}"))
            .timeout(FOREVER);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let unreachable = |error| {
            anyhow::Error::new(error).context(format!("host-unreachable: no answer from {base}"))
        };
        let answer = match tokio::time::timeout(TIMEOUT, request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Opened::Later(unreachable(error)),
            Err(_) => return Opened::Later(anyhow!("host-unreachable: no answer from {base}")),
        };
        let status = answer.status();
        if status.is_success() {
            return Opened::Stream(answer);
        }
        let body = answer.bytes().await.unwrap_or_default();
        let error = problem(base, status, &body);
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            Opened::Later(error)
        } else {
            Opened::Refused(error)
        }
    }

    /// Asks for a path, which is encoded as it should be, below the host's address.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<T> {
        let base = self.url.as_str().trim_end_matches('/');
        let request = self
            .http
            .request(method, format!("{base}{path}"))
            .body(body);
        let answer = request
            .send()
            .await
            .with_context(|| format!("host-unreachable: no answer from {base}"))?;
        let status = answer.status();
        let body = answer
            .bytes()
            .await
            .with_context(|| format!("host-unreachable: half an answer from {base}"))?;
        if !status.is_success() {
            return Err(problem(base, status, &body));
        }
        serde_json::from_slice(&body)
            .with_context(|| format!("host-unreachable: what {base} answers is of another version"))
    }
}

/// What a host says is wrong.
fn problem(base: &str, status: StatusCode, body: &[u8]) -> anyhow::Error {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => anyhow!("{}: {}", problem.code, problem.detail),
        Err(_) => anyhow!("host-unreachable: {base} answered {status}"),
    }
}
