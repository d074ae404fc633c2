//! `courtside health`: the exit status that a container's health check needs.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use courtside_client::{HostArgs, builder, no_answer, terminal::write_out};
use courtside_types::{NotReady, failure::OrFail as _};
use serde::Deserialize;

use super::{operator::Output, plain};

#[derive(Args, Debug)]
pub struct HealthArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Ask whether it is ready (it has its plugins, the log takes records),
    /// not only whether it lives.
    #[arg(long)]
    ready: bool,
    /// Take any certificate: a probe of the own machine, by an address that the
    /// certificate does not name. No token is sent, and no --cacert read.
    #[arg(long)]
    insecure: bool,
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
        .map_err(|error| no_answer(&url, &error))?;
    let status = answer.status();
    let said = answer.text().await;
    let said = said.map_err(|error| no_answer(&url, &error))?;
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
    let said: Readiness = serde_json::from_str(said).or_fail(
        "host-unreachable",
        "the host's answer is of another version",
    )?;
    if said.ready {
        return Ok("ready".to_owned());
    }
    let reasons = said.reasons.iter();
    let reasons: Vec<_> = reasons
        .map(|one| format!("{}: {}", one.code, one.reason))
        .collect();
    Ok(reasons.join("\n"))
}
