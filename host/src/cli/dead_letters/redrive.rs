//! `courtside dead-letter redrive`: has the events of dead letters processed after all.

use std::{io::IsTerminal as _, process::ExitCode, time::Duration};

use clap::Args;
use courtside_client::terminal::{say, say_line};
use courtside_engine::dead_letters::view::{Plan, RedriveState, RedriveView};
use courtside_types::coded;
use serde_json::json;

use super::{
    Host, PipelineArgs, place,
    text::{plan_text, result_text},
};
use crate::cli::{operator::confirm, plain};

/// Exit status: some redriven event is a dead letter again, or some letter was not
/// redriven.
const INCOMPLETE: u8 = 2;
const LOOK: Duration = Duration::from_millis(200);

#[derive(Args, Debug)]
pub struct RedriveArgs {
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

pub async fn redrive(args: &RedriveArgs) -> anyhow::Result<ExitCode> {
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
    let progress = follow(&host, host.redrive(&body).await?, plan.letters).await?;
    args.at.output.show(&progress, || result_text(&progress))?;
    if progress.state == RedriveState::Failed {
        let code = progress.code.unwrap_or_default();
        return Err(coded!(code, "{}", progress.reason.unwrap_or_default()));
    }
    Ok(exit_status(&progress))
}

/// Looks at the progress of a redrive until it is over, and shows it to a person.
async fn follow(host: &Host, begun: RedriveView, letters: u64) -> anyhow::Result<RedriveView> {
    let shows = std::io::stderr().is_terminal();
    let started = begun.started_at_ms;
    let mut progress = begun;
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
            say(&format!("\r{} of {letters} redriven", progress.redriven));
        }
    }
    if shows {
        say_line("");
    }
    Ok(progress)
}

fn exit_status(progress: &RedriveView) -> ExitCode {
    let is_whole = progress.dead_again == 0 && progress.left == 0 && progress.unfit.is_empty();
    if is_whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INCOMPLETE)
    }
}
