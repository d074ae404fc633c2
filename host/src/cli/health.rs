//! `courtside health`: the exit status that a container's health check needs.

use std::{process::ExitCode, time::Duration};

use anyhow::anyhow;
use clap::Args;

use crate::client::{HostArgs, builder, root};

#[derive(Args, Debug)]
pub struct HealthArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Ask whether it is ready (it has its plugins, the log takes records),
    /// not only whether it lives.
    #[arg(long)]
    ready: bool,
    /// Take any certificate: a probe of the own machine, by an address that the
    /// certificate does not name. No token is sent.
    #[arg(long, conflicts_with = "cacert")]
    insecure: bool,
    /// Seconds to wait for an answer.
    #[arg(long, default_value_t = 3)]
    timeout: u64,
}

pub async fn run(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let probe = if args.ready { "readyz" } else { "healthz" };
    let http = if args.insecure {
        builder(&args.host.url()?).danger_accept_invalid_certs(true)
    } else {
        args.host.http()?
    };
    let url = format!(
        "{}/{probe}",
        args.host.url()?.as_str().trim_end_matches('/')
    );
    let answer = http
        .timeout(Duration::from_secs(args.timeout))
        .build()?
        .get(&url)
        .send()
        .await
        .map_err(|error| anyhow!("host-unreachable: no answer from {url}: {}", root(&error)))?;
    let status = answer.status();
    println!("{}", answer.text().await?.trim_end());
    Ok(if status.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
