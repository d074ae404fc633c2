//! `courtside reset`: moves a pipeline's committed offsets and deletes its
//! checkpoints, both or neither.

use std::process::ExitCode;

use clap::Args;
use courtside_client::terminal::say;
use courtside_engine::{
    dead_letters::{self, notes},
    pipeline::{identity::Identity, layout},
    worker::position::PositionRow,
};
use courtside_log::{
    LogError, RecordLog, check_id,
    reset::{self, Also, Moved, Target},
};
use courtside_types::{
    Offset, PartitionId, Topic, TopicId, TopicPartition, coded, failure::Failure,
};
use serde::Serialize;

use super::{
    operator::{OutputArgs, coded, confirm, or_dash, start_logging, table},
    settings::SettingsArgs,
};
use crate::host::open_admin;

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  courtside reset scores --to earliest\n  courtside reset scores --to 1200 --partition 3 --yes"
)]
pub struct ResetArgs {
    /// The pipeline, as the configuration names it.
    pipeline: String,
    /// Where its group goes on: earliest, latest, or an offset.
    #[arg(long, value_name = "earliest|latest|OFFSET", value_parser = target)]
    to: Target,
    /// This partition of its input alone; may be said several times.
    #[arg(long, value_name = "NUMBER")]
    partition: Vec<u32>,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    output: OutputArgs,
}

fn target(text: &str) -> Result<Target, String> {
    match text {
        "earliest" => Ok(Target::Earliest),
        "latest" => Ok(Target::Latest),
        offset => offset
            .parse()
            .map(|offset| Target::At(Offset(offset)))
            .map_err(|_| "expected earliest, latest or an offset".to_owned()),
    }
}

#[derive(Serialize)]
struct Answer {
    pipeline: String,
    group: String,
    topic: String,
    partitions: Vec<Partition>,
}

#[derive(Serialize)]
struct Partition {
    partition: u32,
    from: Option<u64>,
    to: u64,
    checkpoints_deleted: usize,
}

pub fn run(args: &ResetArgs) -> anyhow::Result<ExitCode> {
    start_logging();
    let config = args.settings.load(Vec::new())?;
    let Some(settings) = config.pipelines.get(&args.pipeline) else {
        let known: Vec<_> = config.pipelines.keys().map(String::as_str).collect();
        return Err(coded!(
            "pipeline-not-found",
            "no pipeline is called {}; the configuration has {}",
            args.pipeline,
            known.join(", ")
        ));
    };
    let log = open_admin(&config, false)?;
    let group = config.group(&args.pipeline);
    let input = settings.input.topic.as_str().into();
    let outcome = reset(args, &*log, group, &input);
    log.close();
    let answer = outcome?;
    args.output.show(&answer, || {
        let rows = answer.partitions.iter().map(|one| {
            vec![
                one.partition.to_string(),
                or_dash(one.from),
                one.to.to_string(),
                one.checkpoints_deleted.to_string(),
            ]
        });
        let header = [
            "partition",
            "committed before",
            "committed",
            "checkpoints deleted",
        ];
        table(&header, rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn reset(
    args: &ResetArgs,
    log: &dyn RecordLog,
    group: String,
    input: &Topic,
) -> anyhow::Result<Answer> {
    let count = log.partitions(input).map_err(coded)?;
    layout::check(log, &group, input, count).map_err(Failure::of)?;
    let partitions: Vec<_> = args.partition.iter().copied().map(PartitionId).collect();
    // The plan is for the topic that exists now. Its id shows later whether the
    // topic was made anew before the person answered.
    let planned = log.topic_ids(std::slice::from_ref(input)).map_err(coded)?;
    let planned = planned.first().copied().flatten().unwrap_or(TopicId::NONE);
    let moves = reset::plan(log, &group, input, &partitions, args.to).map_err(coded)?;
    if !args.yes {
        let rows = moves.iter().map(|at| {
            vec![
                at.partition.to_string(),
                or_dash(at.from),
                at.to.to_string(),
            ]
        });
        say(&table(&["partition", "committed", "new offset"], rows));
    }
    let question = format!(
        "Move group {group} to these offsets of {input}, and delete the state of all keys in these partitions?"
    );
    confirm(&question, args.yes)?;
    let ends = dead_letter_ends(log, &group).map_err(coded)?;
    log.ensure_group(&group, input).map_err(coded)?;
    let identity = Identity::of(log, &group, input).map_err(coded)?;
    check_id(input, planned, Some(identity.input_id())).map_err(coded)?;
    let member = reset::member(&group, input, identity.topics());
    let moved = reset::apply(log, member, &moves, |at| {
        let partition = at.partition;
        let void = ends.get(partition.0 as usize).map(|end| {
            let topic = notes::topic(&group);
            (TopicPartition { topic, partition }, notes::void(*end))
        });
        Also {
            records: void.into_iter().collect(),
            checkpoints: vec![PositionRow::new(&identity, at.to).checkpoint()],
        }
    })
    .map_err(coded)?;
    Ok(Answer {
        pipeline: args.pipeline.clone(),
        group,
        topic: input.to_string(),
        partitions: moved.iter().map(partition).collect(),
    })
}

/// For each partition, the offset below which dead letters become void: their
/// events come again, or belong to a state that is deleted. Empty if the topics
/// that a redrive needs do not exist.
fn dead_letter_ends(log: &dyn RecordLog, group: &str) -> Result<Vec<Offset>, LogError> {
    let none = |error| match error {
        LogError::NoSuchTopic { .. } => Ok(Vec::new()),
        error => Err(error),
    };
    if let Err(error) = log.partitions(&notes::topic(group)) {
        return none(error);
    }
    let bounds = log.written(&dead_letters::topic(group));
    let ends = bounds.map(|bounds| bounds.iter().map(|bounds| bounds.end).collect());
    ends.or_else(none)
}

fn partition(moved: &Moved) -> Partition {
    Partition {
        partition: moved.at.partition.0,
        from: moved.at.from.map(|Offset(offset)| offset),
        to: moved.at.to.0,
        checkpoints_deleted: moved.checkpoints,
    }
}
