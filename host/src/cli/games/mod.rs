//! `courtside games`: shows the games as their plugin last wrote them, once or live.

mod follow;
mod game;
mod screen;
mod sse;

use std::process::ExitCode;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    client::{Client, HostArgs},
    operator::OutputArgs,
};

/// How many games are asked for at a time.
const PAGE: usize = 1000;

#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0; 1, there is no such game, or the host does not answer; 130, ended by Ctrl-C.\n\nExamples:\n  courtside games\n  courtside games 2026-11-20-LAL-BOS\n  courtside games --follow\n  courtside games --follow --output json"
)]
pub struct GamesArgs {
    /// The game; without one, all are shown.
    id: Option<String>,
    /// Go on with what changes: a board in a terminal, else a line for each change.
    #[arg(long, short)]
    follow: bool,
    /// The pipeline, as the host's configuration names it [default: scores, or the only one].
    #[arg(long)]
    pipeline: Option<String>,
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A page of `GET /games`.
#[derive(Deserialize)]
struct Page {
    games: Vec<Box<RawValue>>,
    keys: Vec<String>,
    next: Option<String>,
}

/// A game in JSON.
#[derive(Serialize)]
struct Shown {
    key: String,
    output: Box<RawValue>,
}

pub async fn run(args: GamesArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.host)?;
    if args.follow {
        let path = match &args.id {
            Some(id) => format!("/games/{}/events", encoded(id)),
            None => "/events".to_owned(),
        };
        let path = with_pipeline(path, args.pipeline.as_deref());
        let followed = follow::Followed {
            path,
            only: args.id.as_deref(),
            pipeline: args.pipeline.as_deref(),
        };
        return follow::run(&client, &followed, &args.output).await;
    }
    match &args.id {
        Some(id) => one(&client, id, &args).await?,
        None => all(&client, &args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn one(client: &Client, id: &str, args: &GamesArgs) -> anyhow::Result<()> {
    let path = with_pipeline(format!("/games/{}", encoded(id)), args.pipeline.as_deref());
    let shown = Shown {
        key: id.to_owned(),
        output: client.get(&path).await?,
    };
    args.output
        .show(&shown, || game::details(&shown.key, shown.output.get()))
}

async fn all(client: &Client, args: &GamesArgs) -> anyhow::Result<()> {
    let mut games = Vec::new();
    each_page(client, args.pipeline.as_deref(), |page| {
        let shown = page.keys.into_iter().zip(page.games);
        games.extend(shown.map(|(key, output)| Shown { key, output }));
    })
    .await?;
    args.output.show(&games, || {
        let games = games.iter().map(|one| (&*one.key, one.output.get()));
        game::board(games).concat()
    })
}

/// Passes all games to `take`, page by page.
async fn each_page(
    client: &Client,
    pipeline: Option<&str>,
    mut take: impl FnMut(Page),
) -> anyhow::Result<()> {
    let mut cursor = String::new();
    loop {
        let path = with_pipeline(format!("/games?limit={PAGE}{cursor}"), pipeline);
        let mut page: Page = client.get(&path).await?;
        let next = page.next.take();
        take(page);
        match next {
            Some(next) => cursor = format!("&cursor={}", encoded(&next)),
            None => return Ok(()),
        }
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn with_pipeline(path: String, pipeline: Option<&str>) -> String {
    let Some(pipeline) = pipeline else {
        return path;
    };
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{path}{joint}pipeline={}", encoded(pipeline))
}
