//! `courtside health`: the exit status that a container's health check needs.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;

#[derive(Args, Debug)]
pub struct HealthArgs {
    /// The host to ask.
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "COURTSIDE_URL")]
    url: String,
    /// Ask whether it is ready (it has its plugins, the log takes records),
    /// not only whether it lives.
    #[arg(long)]
    ready: bool,
    /// Seconds to wait for an answer.
    #[arg(long, default_value_t = 3)]
    timeout: u64,
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
    println!("{}", answer.text().await?.trim_end());
    Ok(if status.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
