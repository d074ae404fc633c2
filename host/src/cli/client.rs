//! HTTP client of the commands that ask a host.

use std::time::Duration;

pub use courtside_client::HostArgs;
use courtside_client::{no_answer, root};
use courtside_types::{
    coded,
    failure::{Failure, OrFail as _},
};
use reqwest::{Method, RequestBuilder, StatusCode, Url, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// This is longer than any answer of a host takes by default.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A stream has no time limit of its own: it ends when its reader does.
const FOREVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// The code of an answer that no Courtside host gives.
pub const UNREACHABLE: &str = "host-unreachable";

/// The fields of a host's problem document that are shown to a person.
#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: String,
}

/// Outcome of a request for a stream.
#[derive(Debug)]
pub enum Opened {
    Stream(reqwest::Response),
    /// The host may open the stream later.
    Later(anyhow::Error),
    Refused(anyhow::Error),
}

/// Sends requests to one host.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    url: Url,
}

impl Client {
    pub fn new(args: &HostArgs) -> anyhow::Result<Self> {
        let url = args.url()?;
        let http = args.http()?.timeout(TIMEOUT).build()?;
        Ok(Self { http, url })
    }

    /// The host's address as it was given, to show to people.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// A request for a path, which is encoded as it should be, below the host's address.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let base = self.url.as_str().trim_end_matches('/');
        self.http.request(method, format!("{base}{path}"))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.answer(self.request(Method::GET, path)).await
    }

    /// Opens a stream of server-sent events, after the event with that id.
    pub async fn stream(&self, path: &str, last_event_id: Option<&str>) -> Opened {
        let url = &self.url;
        let mut request = self.request(Method::GET, path).timeout(FOREVER);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let answer = match tokio::time::timeout(TIMEOUT, request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Opened::Later(no_answer(url.as_str(), &error).into()),
            Err(_) => {
                return Opened::Later(coded!(UNREACHABLE, "no answer from {url} in time"));
            }
        };
        let status = answer.status();
        if status.is_success() {
            return Opened::Stream(answer);
        }
        // If the body breaks off, the status alone is reported.
        let body = tokio::time::timeout(TIMEOUT, answer.bytes()).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let error = problem(&body, || format!("{url} answered {status}")).into();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            Opened::Later(error)
        } else {
            Opened::Refused(error)
        }
    }

    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<T> {
        self.answer(self.request(method, path).body(body)).await
    }

    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body)?;
        let request = self.request(Method::POST, path).body(body);
        self.answer(request.header(CONTENT_TYPE, "application/json"))
            .await
    }

    /// The host's answer, or an error in the host's words if it refuses.
    pub async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let url = &self.url;
        let answer = request
            .send()
            .await
            .map_err(|error| no_answer(url.as_str(), &error))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| {
            coded!(
                UNREACHABLE,
                "the answer from {url} was cut short: {}",
                root(&error)
            )
        })?;
        if !status.is_success() {
            return Err(problem(&body, || format!("{url} answered {status}")).into());
        }
        serde_json::from_slice(&body).or_fail_with(UNREACHABLE, || {
            format!("the answer from {url} is of another version")
        })
    }
}

/// The error of an answer that is no success: the host's own words, if it has any.
pub fn problem(body: &[u8], otherwise: impl FnOnce() -> String) -> Failure {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => Failure::new(problem.code, problem.detail),
        Err(_) => Failure::new(UNREACHABLE, otherwise()),
    }
}
