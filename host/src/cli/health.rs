//! `courtside health`: the exit status that a container's health check needs.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;

use super::{
    operator::{Output, write_out},
    plain,
};
use crate::slots::view::NotReady;

#[derive(Args, Debug)]
pub struct HealthArgs {
    /// The host to ask.
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "COURTSIDE_URL")]
    url: String,
    /// Ask whether it is ready (it has its plugins, the log takes records),
    /// not only whether it lives.
    #[arg(long)]
    ready: bool,
    /// How to answer [default: as the host does].
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    output: Option<Output>,
    /// Seconds to wait for an answer.
    #[arg(long, default_value_t = 3)]
    timeout: u64,
}

#[derive(Deserialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<NotReady>,
}

pub async fn run(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let probe = if args.ready { "readyz" } else { "healthz" };
    let url = format!("{}/{probe}", args.url.trim_end_matches('/'));
    let answer = reqwest::Client::builder()
        // The host is asked, and nobody in between.
        .no_proxy()
        .timeout(Duration::from_secs(args.timeout))
        .build()?
        .get(&url)
        .send()
        .await
        .with_context(|| format!("no answer from {url}"))?;
    let status = answer.status();
    let said = answer.text().await?;
    let said = said.trim_end();
    let said = match args.output {
        Some(Output::Json) if !args.ready => {
            serde_json::json!({ "live": status.is_success() }).to_string()
        }
        Some(Output::Table) if args.ready => readiness(said)?,
        _ => said.to_owned(),
    };
    write_out((plain::lines(&said).into_owned() + "\n").as_bytes())?;
    Ok(if status.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether a host is ready, in words: each reason on a line.
fn readiness(said: &str) -> anyhow::Result<String> {
    let said: Readiness = serde_json::from_str(said)
        .context("host-unreachable: what the host answers is of another version")?;
    if said.ready {
        return Ok("ready".to_owned());
    }
    let reasons = said.reasons.iter();
    let reasons: Vec<_> = reasons
        .map(|one| format!("{}: {}", one.code, one.reason))
        .collect();
    Ok(reasons.join("\n"))
}
