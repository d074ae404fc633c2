//! `courtside dead-letter`: asks a host for the events that could not be processed, and
//! has them processed after all.

mod redrive;
mod text;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use courtside_engine::dead_letters::view::{LetterDetails, LettersPage};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use self::{
    redrive::{RedriveArgs, redrive},
    text::{details_text, page_text},
};
use super::{
    client::{Client, HostArgs},
    operator::{OutputArgs, word},
};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  courtside dead-letter list\n  courtside dead-letter list --key 2026-11-20-LAL-BOS --state open --output json\n  courtside dead-letter show 3/17\n  courtside dead-letter redrive --key 2026-11-20-LAL-BOS\n  courtside dead-letter redrive --all --yes"
)]
pub struct LettersArgs {
    #[command(subcommand)]
    command: LettersCommand,
}

#[derive(Subcommand, Debug)]
enum LettersCommand {
    /// List dead letters, the newest first.
    #[command(after_help = "Examples:\n  courtside dead-letter list --code event-refused")]
    List(ListArgs),
    /// Show one, with its event.
    #[command(after_help = "Examples:\n  courtside dead-letter show 0/12")]
    Show(ShowArgs),
    /// Process the events of dead letters after all: once, in order, by the plugin of now.
    #[command(
        after_help = "Examples:\n  courtside dead-letter redrive --letter 0/12\n  courtside dead-letter redrive --all --dry-run\n\nExit status: 0 when all were redriven and none is a dead letter again, 2 when some are or some cannot be redriven, 1 when it failed."
    )]
    Redrive(RedriveArgs),
}

#[derive(Args, Debug)]
struct PipelineArgs {
    #[command(flatten)]
    host: HostArgs,
    /// The pipeline, as the host's configuration names it.
    #[arg(long, default_value = courtside_http::ingest::SCORES)]
    pipeline: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    at: PipelineArgs,
    /// Only those of this key.
    #[arg(long)]
    key: Option<String>,
    /// Only those with this error code.
    #[arg(long)]
    code: Option<String>,
    /// Only those of this partition.
    #[arg(long)]
    partition: Option<u32>,
    /// Only those in this state.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// The oldest first; the end says how to go on.
    #[arg(long, conflicts_with = "after")]
    oldest: bool,
    /// Go on after this one.
    #[arg(long, value_name = "PARTITION:OFFSET")]
    after: Option<String>,
    /// How many to list.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum State {
    Open,
    Redriven,
    Void,
    Unfit,
}

#[derive(Args, Debug)]
struct ShowArgs {
    #[command(flatten)]
    at: PipelineArgs,
    /// The letter, as the list names it.
    #[arg(value_name = "PARTITION/OFFSET", value_parser = place)]
    letter: (u32, u64),
}

fn place(text: &str) -> Result<(u32, u64), String> {
    let parts = text.split_once(['/', ':']);
    let place =
        parts.and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    place.ok_or_else(|| "expected PARTITION/OFFSET, as 3/17".to_owned())
}

pub async fn run(args: LettersArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        LettersCommand::List(args) => list(&args).await,
        LettersCommand::Show(args) => show(&args).await,
        LettersCommand::Redrive(args) => redrive(&args).await,
    }
}

/// A host, asked about the dead letters of one pipeline.
struct Host {
    client: Client,
    path: String,
}

impl Host {
    fn new(args: &PipelineArgs) -> anyhow::Result<Self> {
        let pipeline = utf8_percent_encode(&args.pipeline, NON_ALPHANUMERIC);
        Ok(Self {
            client: Client::new(&args.host)?,
            path: format!("/dead-letters/{pipeline}"),
        })
    }

    /// Asks for a path below the pipeline's dead letters.
    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<T> {
        let path = format!("{}{path}", self.path);
        let request = self.client.request(Method::GET, &path).query(query);
        self.client.answer(request).await
    }

    async fn redrive<T: DeserializeOwned>(&self, body: &Value) -> anyhow::Result<T> {
        let path = format!("{}/redrive", self.path);
        self.client.post(&path, body).await
    }
}

async fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let host = Host::new(&args.at)?;
    let query = [
        ("key", args.key.clone()),
        ("code", args.code.clone()),
        ("partition", args.partition.map(|number| number.to_string())),
        ("state", args.state.map(word)),
        ("from", args.oldest.then(|| "oldest".to_owned())),
        ("after", args.after.clone()),
        ("limit", Some(args.limit.to_string())),
    ];
    let query: Vec<_> = query
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    let page: LettersPage = host.get("", &query).await?;
    args.at.output.show(&page, || page_text(&page))?;
    Ok(ExitCode::SUCCESS)
}

async fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let host = Host::new(&args.at)?;
    let (partition, offset) = (args.letter.0.to_string(), args.letter.1.to_string());
    let details: LetterDetails = host.get(&format!("/{partition}/{offset}"), &[]).await?;
    args.at.output.show(&details, || details_text(&details))?;
    Ok(ExitCode::SUCCESS)
}
