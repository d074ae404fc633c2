//! `courtside topics`: the topics of the record log.

use std::{collections::BTreeMap, fmt::Write as _, process::ExitCode, slice};

use clap::{Args, Subcommand};
use courtside_log::{
    LogError,
    admin::{Admin, NewTopic, Source, TopicChange, TopicDetails},
};
use courtside_types::{Topic, coded};
use serde::Serialize;

use super::{
    operator::{OutputArgs, coded, confirm, or_dash, start_logging, table},
    settings::{SettingsArgs, pair},
};
use crate::{
    config::Config,
    host::open_admin,
    topics::{self, PipelineTopic},
};

#[derive(Args, Debug)]
pub struct TopicsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the topics, and which pipeline reads or writes them.
    #[command(after_help = "Example:\n  courtside topics list --kafka localhost:9092")]
    List {
        /// The brokers' own topics, too.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Show a topic's partitions, offsets and settings.
    #[command(after_help = "Example:\n  courtside topics describe NBA-Games --output json")]
    Describe {
        topic: String,
        #[command(flatten)]
        common: Common,
    },
    /// Create a topic; without a name, all topics that the pipelines need and
    /// that are missing, as a host does at its start.
    #[command(
        after_help = "Examples:\n  courtside topics create\n  courtside topics create audit --partitions 8 -c retention.ms=86400000"
    )]
    Create {
        topic: Option<String>,
        /// Partitions [default: those of its pipeline's input; log.partitions].
        #[arg(long, requires = "topic", value_parser = clap::value_parser!(u32).range(1..))]
        partitions: Option<u32>,
        /// Replicas [default: kafka.replication_factor].
        #[arg(long, requires = "topic", value_parser = clap::value_parser!(u32).range(1..))]
        replication_factor: Option<u32>,
        /// A setting of the topic, in Kafka's words: cleanup.policy=compact.
        #[arg(long = "topic-config", short = 'c', requires = "topic", value_name = "NAME=VALUE", value_parser = pair)]
        settings: Vec<(String, String)>,
        #[command(flatten)]
        common: Common,
    },
    /// Change a topic's settings, or give it more partitions; refused where
    /// keys would move away from their state.
    #[command(after_help = "Example:\n  courtside topics alter NBA-Games -c retention.ms=86400000")]
    Alter {
        topic: String,
        /// More partitions than it has.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        partitions: Option<u32>,
        /// A setting of the topic, in Kafka's words: retention.ms=86400000.
        #[arg(long = "topic-config", short = 'c', value_name = "NAME=VALUE", value_parser = pair)]
        settings: Vec<(String, String)>,
        /// A setting that goes back to its default.
        #[arg(long, value_name = "NAME")]
        unset: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Delete a topic with all its records; asks first.
    #[command(after_help = "Example:\n  courtside topics delete audit --yes")]
    Delete {
        topic: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args, Debug)]
struct Common {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct ListedTopic {
    topic: String,
    partitions: u32,
    replicas: u32,
    cleanup: String,
    pipelines: Vec<Use>,
}

/// The role of a topic in a pipeline.
#[derive(Serialize)]
struct Use {
    pipeline: String,
    role: &'static str,
}

#[derive(Serialize)]
struct DescribedTopic {
    topic: String,
    pipelines: Vec<Use>,
    settings: BTreeMap<String, DescribedSetting>,
    partitions: Vec<DescribedPartition>,
}

#[derive(Serialize)]
struct DescribedSetting {
    value: String,
    source: &'static str,
}

#[derive(Serialize)]
struct DescribedPartition {
    partition: u32,
    start: Option<u64>,
    end: Option<u64>,
    leader: Option<i32>,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
}

#[derive(Serialize)]
struct Done<'a> {
    done: &'static str,
    topics: &'a [String],
}

pub fn run(args: &TopicsArgs) -> anyhow::Result<ExitCode> {
    start_logging();
    let (Command::List { common, .. }
    | Command::Describe { common, .. }
    | Command::Create { common, .. }
    | Command::Alter { common, .. }
    | Command::Delete { common, .. }) = &args.command;
    let config = common.settings.load(Vec::new())?;
    let creates = matches!(args.command, Command::Create { .. });
    let log = open_admin(&config, creates)?;
    let known = topics::all(&config, &*log);
    let outcome = match &args.command {
        Command::List { all, .. } => list(&*log, &known, *all, &common.output),
        Command::Describe { topic, .. } => describe(&*log, &known, topic, &common.output),
        Command::Create { topic: None, .. } => create_all(&config, &*log, &known, &common.output),
        Command::Create {
            topic: Some(topic),
            partitions,
            replication_factor,
            settings,
            ..
        } => {
            let needs = topics::needs(&known, &*log, topic, *partitions);
            let created = needs.and_then(|needs| {
                log.create_topic(&NewTopic {
                    name: topic.as_str().into(),
                    partitions: *partitions,
                    replicas: *replication_factor,
                    settings: settings.iter().cloned().collect(),
                    needs,
                })
            });
            let created = created.map_err(refused);
            created.and_then(|()| done(&common.output, "created", slice::from_ref(topic)))
        }
        Command::Alter {
            topic,
            partitions,
            settings,
            unset,
            ..
        } => {
            let change = TopicChange {
                partitions: *partitions,
                set: settings.iter().cloned().collect(),
                unset: unset.clone(),
                needs: needs(&known, topic),
            };
            let altered = alter(&*log, &known, &topic.as_str().into(), &change);
            altered.and_then(|()| done(&common.output, "altered", slice::from_ref(topic)))
        }
        Command::Delete { topic, yes, .. } => delete(&*log, &known, topic, *yes)
            .and_then(|()| done(&common.output, "deleted", slice::from_ref(topic))),
    };
    log.close();
    outcome.map(|()| ExitCode::SUCCESS)
}

fn uses(known: &[PipelineTopic], topic: &str) -> Vec<Use> {
    let of_topic = known.iter().filter(|known| &*known.spec.name == topic);
    of_topic
        .map(|known| Use {
            pipeline: known.pipeline.clone(),
            role: known.role.name(),
        })
        .collect()
}

fn uses_text(uses: &[Use]) -> String {
    let texts: Vec<_> = uses
        .iter()
        .map(|one| format!("{} of {}", one.role, one.pipeline))
        .collect();
    if texts.is_empty() {
        "-".to_owned()
    } else {
        texts.join(", ")
    }
}

fn needs(known: &[PipelineTopic], topic: &str) -> Option<courtside_log::TopicSpec> {
    let mut of_topic = known.iter().filter(|known| &*known.spec.name == topic);
    of_topic.next().map(|known| known.spec.clone())
}

fn list(
    log: &dyn Admin,
    known: &[PipelineTopic],
    all: bool,
    output: &OutputArgs,
) -> anyhow::Result<()> {
    let listed: Vec<ListedTopic> = log
        .topics()
        .map_err(coded)?
        .into_iter()
        .filter(|topic| all || !topic.is_internal)
        .map(|topic| ListedTopic {
            pipelines: uses(known, &topic.name),
            topic: topic.name.to_string(),
            partitions: topic.partitions,
            replicas: topic.replicas,
            cleanup: topic.cleanup,
        })
        .collect();
    output.show(&listed, || {
        let rows = listed.iter().map(|topic| {
            vec![
                topic.topic.clone(),
                topic.partitions.to_string(),
                topic.replicas.to_string(),
                topic.cleanup.clone(),
                uses_text(&topic.pipelines),
            ]
        });
        table(
            &["topic", "partitions", "replicas", "cleanup", "used as"],
            rows,
        )
    })
}

fn describe(
    log: &dyn Admin,
    known: &[PipelineTopic],
    topic: &str,
    output: &OutputArgs,
) -> anyhow::Result<()> {
    let details = log.describe_topic(&topic.into()).map_err(coded)?;
    let described = described(details, uses(known, topic));
    output.show(&described, || {
        let mut text = format!("topic    {}\n", described.topic);
        let _ = writeln!(text, "used as  {}\n", uses_text(&described.pipelines));
        let settings = described.settings.iter().map(|(name, setting)| {
            vec![
                name.clone(),
                setting.value.clone(),
                setting.source.to_owned(),
            ]
        });
        text += &table(&["setting", "value", "set by"], settings);
        text.push('\n');
        let brokers = |brokers: &[i32]| {
            let numbers: Vec<_> = brokers.iter().map(ToString::to_string).collect();
            or_dash((!numbers.is_empty()).then(|| numbers.join(",")))
        };
        let partitions = described.partitions.iter().map(|one| {
            vec![
                one.partition.to_string(),
                or_dash(one.start),
                or_dash(one.end),
                or_dash(one.leader),
                brokers(&one.replicas),
                brokers(&one.in_sync),
            ]
        });
        let header = ["partition", "start", "end", "leader", "replicas", "in sync"];
        text + &table(&header, partitions)
    })
}

fn described(details: TopicDetails, pipelines: Vec<Use>) -> DescribedTopic {
    let source = |source| match source {
        Source::Topic => "topic",
        Source::Brokers => "brokers",
    };
    DescribedTopic {
        topic: details.name.to_string(),
        pipelines,
        settings: details
            .settings
            .into_iter()
            .map(|(name, setting)| {
                let source = source(setting.source);
                let value = setting.value;
                (name, DescribedSetting { value, source })
            })
            .collect(),
        partitions: details
            .partitions
            .into_iter()
            .map(|one| DescribedPartition {
                partition: one.partition.0,
                start: one.bounds.map(|bounds| bounds.start.0),
                end: one.bounds.map(|bounds| bounds.end.0),
                leader: one.leader,
                replicas: one.replicas,
                in_sync: one.in_sync,
            })
            .collect(),
    }
}

fn create_all(
    config: &Config,
    log: &dyn Admin,
    known: &[PipelineTopic],
    output: &OutputArgs,
) -> anyhow::Result<()> {
    let there: Vec<Topic> = log
        .topics()
        .map_err(coded)?
        .into_iter()
        .map(|topic| topic.name)
        .collect();
    topics::ensure_of_all(config, log).map_err(coded)?;
    let mut created: Vec<String> = known
        .iter()
        .filter(|topic| !there.contains(&topic.spec.name))
        .map(|topic| topic.spec.name.to_string())
        .collect();
    created.sort();
    created.dedup();
    done(output, "created", &created)
}

fn alter(
    log: &dyn Admin,
    known: &[PipelineTopic],
    topic: &Topic,
    change: &TopicChange,
) -> anyhow::Result<()> {
    if change.partitions.is_none() && change.set.is_empty() && change.unset.is_empty() {
        return Err(coded!(
            "nothing-to-alter",
            "give --partitions, --topic-config or --unset"
        ));
    }
    let has = log.partitions(topic).map_err(coded)?;
    // Pipelines that have not run yet count as well: their host would refuse to
    // start, or find keys in two partitions.
    if change.partitions.is_some_and(|wanted| wanted > has)
        && let Some(pipeline) = known.iter().find(|known| known.spec.name == *topic)
    {
        return Err(coded(LogError::PartitionsFixed {
            topic: topic.clone(),
            partitions: has,
            group: pipeline.group.as_str().into(),
        }));
    }
    log.alter_topic(topic, change).map_err(refused)
}

/// Words a mismatch as one that the change would cause, because the topic does
/// not have it yet.
fn refused(error: LogError) -> anyhow::Error {
    let code = error.code();
    match error {
        LogError::Mismatch {
            topic,
            what,
            actual,
            wanted,
            ..
        } => coded!(
            code,
            "with {what} {actual} of topic {topic}, where the configuration needs {wanted}, no host would start"
        ),
        error => coded(error),
    }
}

fn delete(log: &dyn Admin, known: &[PipelineTopic], topic: &str, yes: bool) -> anyhow::Result<()> {
    let name = Topic::from(topic);
    let partitions = log.partitions(&name).map_err(coded)?;
    let uses_of = uses(known, topic);
    for pipeline in known.iter().filter(|known| known.spec.name == name) {
        let input = known
            .iter()
            .find(|known| known.pipeline == pipeline.pipeline && known.role == topics::Role::Input);
        let Some(input) = input else { continue };
        match log.group_status(&pipeline.group, &input.spec.name) {
            Ok(status) if !status.members.is_empty() => {
                return Err(coded(LogError::TopicInUse {
                    topic: name,
                    group: pipeline.group.as_str().into(),
                }));
            }
            // The log refuses these as well, but only after the person was
            // asked.
            Ok(status) if !status.committed.is_empty() => {
                let what = match pipeline.role {
                    topics::Role::Checkpoints => "state",
                    topics::Role::Layout => "layout",
                    topics::Role::Plugins => "plugins",
                    topics::Role::Redrive => "redriven letters",
                    topics::Role::Input | topics::Role::Output | topics::Role::DeadLetter => {
                        continue;
                    }
                };
                return Err(coded(LogError::TopicKept {
                    topic: name,
                    group: pipeline.group.as_str().into(),
                    what,
                }));
            }
            Ok(_) | Err(LogError::NoSuchTopic { .. }) => {}
            Err(error) => return Err(coded(error)),
        }
    }
    let whose = if uses_of.is_empty() {
        String::new()
    } else {
        format!(", {}", uses_text(&uses_of))
    };
    let question =
        format!("Delete topic {topic} ({partitions} partitions{whose}) with all its records?");
    confirm(&question, yes)?;
    log.delete_topic(&name).map_err(coded)
}

fn done(output: &OutputArgs, what: &'static str, topics: &[String]) -> anyhow::Result<()> {
    let answer = Done { done: what, topics };
    output.show(&answer, || match topics {
        [] => format!("no topic was {what}\n"),
        topics => topics
            .iter()
            .flat_map(|topic| [what, " ", topic, "\n"])
            .collect(),
    })
}
