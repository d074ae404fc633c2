//! A host, asked over HTTP by a command.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use reqwest::{Method, Url};
use serde::{Deserialize, de::DeserializeOwned};

/// Longer than any answer of a host takes by default.
const TIMEOUT: Duration = Duration::from_secs(90);

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
            return Err(match serde_json::from_slice::<Problem>(&body) {
                Ok(problem) => anyhow!("{}: {}", problem.code, problem.detail),
                Err(_) => anyhow!("host-unreachable: {base} answered {status}"),
            });
        }
        serde_json::from_slice(&body)
            .with_context(|| format!("host-unreachable: what {base} answers is of another version"))
    }
}
