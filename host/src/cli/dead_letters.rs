//! `courtside dead-letter`: asks a host for the events that could not be processed, and
//! has them processed after all.

use std::{collections::BTreeMap, io::IsTerminal as _, process::ExitCode, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use courtside_client::terminal::{say, say_line};
use courtside_engine::dead_letters::view::{
    LetterDetails, LettersPage, Place, Plan, RedriveState, RedriveView,
};
use courtside_types::coded;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    client::{Client, HostArgs},
    operator::{OutputArgs, confirm, or_dash, table},
    plain,
};

/// Exit status: some redriven event is a dead letter again, or some letter was not
/// redriven.
const INCOMPLETE: u8 = 2;
const LOOK: Duration = Duration::from_millis(200);

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

#[derive(Clone, Copy, Debug, ValueEnum)]
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

#[derive(Args, Debug)]
struct RedriveArgs {
    #[command(flatten)]
    at: PipelineArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Say what would be done, and end.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct SelectionArgs {
    /// All letters of this key.
    #[arg(long)]
    key: Option<String>,
    /// One letter, as the list names it.
    #[arg(long, value_name = "PARTITION/OFFSET", value_parser = place)]
    letter: Option<(u32, u64)>,
    /// All letters of the pipeline.
    #[arg(long)]
    all: bool,
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
    let state = args.state.map(|state| match state {
        State::Open => "open",
        State::Redriven => "redriven",
        State::Void => "void",
        State::Unfit => "unfit",
    });
    let query = [
        ("key", args.key.clone()),
        ("code", args.code.clone()),
        ("partition", args.partition.map(|number| number.to_string())),
        ("state", state.map(ToOwned::to_owned)),
        ("from", args.oldest.then(|| "oldest".to_owned())),
        ("after", args.after.clone()),
        ("limit", Some(args.limit.to_string())),
    ];
    let query: Vec<_> = query
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    let page: LettersPage = host.get("", &query).await?;
    args.at.output.show(&page, || {
        let rows = page.letters.iter().map(|letter| {
            vec![
                format!("{}/{}", letter.partition, letter.offset),
                or_dash(letter.key.as_ref()),
                letter.code.clone(),
                state_of(letter.state).to_owned(),
                event(letter.origin.as_ref()),
                cut(&letter.reason),
            ]
        });
        let header = ["letter", "key", "code", "state", "event", "reason"];
        let mut text = table(&header, rows);
        text += &further(&page);
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Tells how to list the letters that a page leaves out.
fn further(page: &LettersPage) -> String {
    match &page.next {
        Some(next) => format!("\nmore: --after {next}\n"),
        None if page.complete => String::new(),
        None if page.letters.is_empty() => {
            "\nnone of the newest letters matches; --oldest looks at all letters\n".to_owned()
        }
        None => "\nthese are the newest letters; --oldest begins with the oldest ones\n".to_owned(),
    }
}

fn state_of(state: courtside_engine::dead_letters::view::LetterState) -> &'static str {
    use courtside_engine::dead_letters::view::LetterState;
    match state {
        LetterState::Open => "open",
        LetterState::Redriven => "redriven",
        LetterState::Void => "void",
        LetterState::Unfit => "unfit",
    }
}

fn event(origin: Option<&Place>) -> String {
    or_dash(origin.map(|at| format!("{}/{}/{}", at.topic, at.partition, at.offset)))
}

/// A line's worth of a reason, which may be a backtrace.
fn cut(reason: &str) -> String {
    const LINE_MAX: usize = 80;
    let line = reason.lines().next().unwrap_or_default();
    match line.char_indices().nth(LINE_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line.to_owned(),
    }
}

async fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let host = Host::new(&args.at)?;
    let (partition, offset) = (args.letter.0.to_string(), args.letter.1.to_string());
    let details: LetterDetails = host.get(&format!("/{partition}/{offset}"), &[]).await?;
    args.at.output.show(&details, || details_text(&details))?;
    Ok(ExitCode::SUCCESS)
}

/// A letter for people. Each value from an event stays on one line, because a break in it
/// would begin a line that looks like one of ours. A reason may have several lines, which
/// are indented. The payload comes last, and is shown as it was.
fn details_text(details: &LetterDetails) -> String {
    let letter = &details.letter;
    let mut lines = vec![
        ("letter", format!("{}/{}", letter.partition, letter.offset)),
        ("key", or_dash(letter.key.as_ref())),
        ("code", letter.code.clone()),
        ("reason", letter.reason.clone()),
        ("state", state_of(letter.state).to_owned()),
        ("event", event(letter.origin.as_ref())),
        ("plugin", or_dash(letter.plugin.as_ref())),
        ("digest", or_dash(letter.digest.as_ref())),
    ];
    if letter.source != letter.origin {
        lines.push(("redriven as", event(letter.source.as_ref())));
    }
    if let Some(unfit) = &letter.unfit {
        lines.push(("unfit", unfit.clone()));
    }
    if let Some(bytes) = details.cut_bytes {
        lines.push(("left out", format!("{bytes} bytes of the event")));
    }
    let headers = details.headers.iter().map(|header| {
        let value = or_dash(header.value.as_ref());
        ("header", format!("{}: {value}", header.name))
    });
    let mut text = String::new();
    for (name, value) in lines.into_iter().chain(headers) {
        let value = if name == "reason" {
            let parts: Vec<_> = value.split('\n').map(plain::line).collect();
            parts.join(&format!("\n{:12}", ""))
        } else {
            plain::line(&value).into_owned()
        };
        text += &format!("{name:<12}{value}\n");
    }
    if let Some(value) = &details.value {
        text += &format!("\n{value}\n");
    } else if let Some(hex) = &details.value_hex {
        text += &format!("\nhexadecimal: {hex}\n");
    }
    text
}

async fn redrive(args: &RedriveArgs) -> anyhow::Result<ExitCode> {
    let host = Host::new(&args.at)?;
    let selection = &args.selection;
    let mut body = match (&selection.key, selection.letter) {
        (Some(key), _) => json!({ "key": key }),
        (None, Some((partition, offset))) => json!({ "partition": partition, "offset": offset }),
        (None, None) => json!({ "all": true }),
    };
    let mut dry_run = body.clone();
    if let Some(fields) = dry_run.as_object_mut() {
        fields.insert("dry_run".to_owned(), true.into());
    }
    let plan: Plan = host.redrive(&dry_run).await?;
    if args.dry_run {
        args.at.output.show(&plan, || plan_text(&plan))?;
        return Ok(ExitCode::SUCCESS);
    }
    if plan.letters == 0 && plan.complete {
        let nothing = RedriveView {
            unfit: plan.unfit.clone(),
            ..RedriveView::default()
        };
        args.at
            .output
            .show(&nothing, || plan_text(&plan) + "nothing to redrive\n")?;
        return Ok(exit_status(&nothing));
    }
    if !args.yes {
        say(&plain::lines(&plan_text(&plan)));
    }
    let question = format!(
        "Process these events in pipeline {} now, with the plugin that is in force?",
        args.at.pipeline
    );
    confirm(&question, args.yes)?;
    if let Some(fields) = body.as_object_mut() {
        fields.insert("dry_run".to_owned(), false.into());
    }
    let mut progress: RedriveView = host.redrive(&body).await?;
    let started = progress.started_at_ms;
    let shows = std::io::stderr().is_terminal();
    while progress.state == RedriveState::Running {
        tokio::time::sleep(LOOK).await;
        progress = host.get("/redrive", &[]).await?;
        if progress.started_at_ms != started {
            return Err(coded!(
                "redrive-interrupted",
                "the host was started again, or somebody else began a redrive: redrive again, no event is redriven twice"
            ));
        }
        if shows {
            say(&format!(
                "\r{} of {} redriven",
                progress.redriven, plan.letters
            ));
        }
    }
    if shows {
        say_line("");
    }
    args.at.output.show(&progress, || result_text(&progress))?;
    if progress.state == RedriveState::Failed {
        let code = progress.code.unwrap_or_default();
        return Err(coded!(code, "{}", progress.reason.unwrap_or_default()));
    }
    Ok(exit_status(&progress))
}

fn exit_status(progress: &RedriveView) -> ExitCode {
    let is_whole = progress.dead_again == 0 && progress.left == 0 && progress.unfit.is_empty();
    if is_whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INCOMPLETE)
    }
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    let counts: Vec<_> = counts
        .iter()
        .map(|(code, count)| format!("{count} {}", plain::line(code)))
        .collect();
    counts.join(", ")
}

fn keys(keys: &[String]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| plain::line(key)).collect();
    keys.join(", ")
}

fn plan_text(plan: &Plan) -> String {
    let least = if plan.complete { "" } else { "at least " };
    let mut text = format!("{least}{} letters of {} keys", plan.letters, plan.keys);
    if !plan.by_code.is_empty() {
        text += &format!(": {}", counts(&plan.by_code));
    }
    text.push('\n');
    if !plan.key_examples.is_empty() {
        let dots = if plan.keys > plan.key_examples.len() as u64 {
            ", …"
        } else {
            ""
        };
        text += &format!("keys: {}{dots}\n", keys(&plan.key_examples));
    }
    if plan.redriven_before > 0 {
        text += &format!("redriven before: {}\n", plan.redriven_before);
    }
    if plan.void > 0 {
        text += &format!("void since a reset: {}\n", plan.void);
    }
    if !plan.unfit.is_empty() {
        text += &format!("can never be redriven: {}\n", counts(&plan.unfit));
    }
    text
}

fn result_text(progress: &RedriveView) -> String {
    let mut text = format!(
        "redriven: {}, of these dead letters again: {}\n",
        progress.redriven, progress.dead_again
    );
    if progress.halted > 0 {
        text += &format!(
            "halted again: {} keys, {}\n",
            progress.halted,
            keys(&progress.halted_keys)
        );
    }
    if progress.left > 0 {
        text += &format!(
            "left, because they came during the redrive: {} (redrive again)\n",
            progress.left
        );
    }
    if !progress.unfit.is_empty() {
        text += &format!("can never be redriven: {}\n", counts(&progress.unfit));
    }
    text
}

#[cfg(test)]
mod tests {
    use courtside_engine::dead_letters::view::{HeaderView, LetterState, LetterView};

    use super::*;

    const FORGED: &str = "a\nstate       redriven\x1b[2J";
    const SHOWN: &str = "a\\u{a}state       redriven\\u{1b}[2J";

    fn letter() -> LetterView {
        LetterView {
            partition: 3,
            offset: 17,
            key: Some(FORGED.to_owned()),
            code: "plugin-trap".to_owned(),
            reason: "wasm trap\nstate       redriven".to_owned(),
            timestamp_ms: 0,
            dead_since_ms: 0,
            origin: None,
            source: None,
            plugin: Some(FORGED.to_owned()),
            digest: None,
            state: LetterState::Open,
            unfit: None,
        }
    }

    #[test]
    fn nothing_of_an_event_is_a_line_of_ours() {
        let details = LetterDetails {
            letter: letter(),
            headers: vec![HeaderView {
                name: FORGED.to_owned(),
                value: Some(FORGED.to_owned()),
            }],
            value: Some("{\n}".to_owned()),
            value_hex: None,
            cut_bytes: None,
        };
        let expected = [
            "letter      3/17",
            "key         FORGED",
            "code        plugin-trap",
            "reason      wasm trap",
            "            state       redriven",
            "state       open",
            "event       -",
            "plugin      FORGED",
            "digest      -",
            "header      FORGED: FORGED",
            "",
            "{",
            "}",
            "",
        ];
        let expected = expected.join("\n").replace("FORGED", SHOWN);
        assert_eq!(details_text(&details), expected);

        let plan = Plan {
            letters: 1,
            keys: 1,
            key_examples: vec![FORGED.to_owned()],
            by_code: [(FORGED.to_owned(), 1)].into(),
            complete: true,
            ..Plan::default()
        };
        let expected = format!("1 letters of 1 keys: 1 {SHOWN}\nkeys: {SHOWN}\n");
        assert_eq!(plan_text(&plan), expected);
    }

    #[test]
    fn older_letters_are_not_passed_over_in_silence() {
        let mut page = LettersPage {
            pipeline: "scores".to_owned(),
            topic: "dead".to_owned(),
            letters: Vec::new(),
            next: None,
            complete: true,
        };
        assert_eq!(further(&page), "");
        page.complete = false;
        assert!(further(&page).starts_with("\nnone of the newest letters matches; --oldest "));
        page.letters.push(letter());
        assert!(further(&page).starts_with("\nthese are the newest letters; --oldest "));
        page.next = Some("3:17".to_owned());
        assert_eq!(further(&page), "\nmore: --after 3:17\n");
    }
}
