//! `courtside groups`: the members of a group, their partitions, and its lag.

use std::{fmt::Write as _, process::ExitCode};

use clap::Args;
use courtside_engine::slots::view::{GroupView, GroupsView};
use courtside_log::{LogError, admin::Admin};
use courtside_types::{Offset, PartitionId, Topic, coded};
use serde::Serialize;

use super::{
    client::{Client, HostArgs},
    operator::{OutputArgs, coded, or_dash, start_logging, table},
    settings::SettingsArgs,
};
use crate::{config::Config, host::open_admin};

/// State shown for a pipeline's group that the log does not know.
const ABSENT: &str = "absent";

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  courtside groups --kafka localhost:9092\n  courtside groups courtside-scores --output json\n  courtside groups --live"
)]
pub struct GroupsArgs {
    /// The group to describe; without one, all are listed.
    group: Option<String>,
    /// Ask a running host for the groups of its pipelines, rather than the log:
    /// also where the log is the host's own. It says what its partitions do, too.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct ListedGroup {
    group: String,
    pipeline: Option<String>,
    state: String,
    members: usize,
    /// Lag of a pipeline's input; unknown if the input's topic does not exist.
    lag: Option<u64>,
}

#[derive(Serialize)]
struct DescribedGroup {
    group: String,
    pipeline: Option<String>,
    state: String,
    members: Vec<Member>,
    partitions: Vec<Partition>,
    lag: u64,
}

#[derive(Serialize)]
struct Member {
    member: String,
    host: String,
    assigned: Vec<Assigned>,
}

#[derive(Serialize)]
struct Assigned {
    topic: String,
    partitions: Vec<u32>,
}

#[derive(Serialize)]
struct Partition {
    topic: String,
    partition: u32,
    committed: Option<u64>,
    start: u64,
    end: u64,
    lag: u64,
    member: Option<String>,
}

pub fn run(args: &GroupsArgs) -> anyhow::Result<ExitCode> {
    start_logging();
    if args.live {
        return super::block_on(live(args))?;
    }
    let config = args.settings.load(Vec::new())?;
    let log = open_admin(&config, false)?;
    let outcome = match &args.group {
        None => list(&config, &*log, &args.output),
        Some(group) => describe(&config, &*log, group, &args.output),
    };
    log.close();
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Shows the groups that a running host reports.
async fn live(args: &GroupsArgs) -> anyhow::Result<ExitCode> {
    let view: GroupsView = Client::new(&args.host)?.get("/group").await?;
    let Some(name) = &args.group else {
        args.output.show(&view.groups, || {
            let rows = view.groups.iter().map(|group| {
                vec![
                    group.group.clone(),
                    group.pipeline.clone(),
                    group.members.len().to_string(),
                    group.lag.to_string(),
                ]
            });
            table(&["group", "pipeline", "members", "lag"], rows)
        })?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut groups = view.groups.iter();
    let group = groups.find(|group| group.group == *name);
    let group = group.ok_or_else(|| {
        coded!(
            "no-such-group",
            "no pipeline of the host has the group {name}"
        )
    })?;
    args.output.show(group, || live_text(group))?;
    Ok(ExitCode::SUCCESS)
}

fn live_text(group: &GroupView) -> String {
    let mut text = format!("group     {}\n", group.group);
    let _ = writeln!(text, "pipeline  {}", group.pipeline);
    let _ = writeln!(text, "members   {}", group.members.len());
    let _ = writeln!(text, "lag       {}\n", group.lag);
    let members = group.members.iter().map(|member| {
        let numbers: Vec<_> = member.partitions.iter().map(ToString::to_string).collect();
        let assigned =
            (!numbers.is_empty()).then(|| format!("{}:{}", group.input, numbers.join(",")));
        vec![
            member.member.clone(),
            member.host.clone(),
            or_dash(assigned),
        ]
    });
    if !group.members.is_empty() {
        text += &table(&["member", "host", "assigned"], members);
        text.push('\n');
    }
    let partitions = group.partitions.iter().map(|one| {
        vec![
            group.input.clone(),
            one.partition.to_string(),
            or_dash(one.committed),
            one.end.to_string(),
            one.lag.to_string(),
            or_dash(one.member.as_ref()),
            one.state.word().to_owned(),
            or_dash(one.code.as_ref()),
        ]
    });
    let header = [
        "topic",
        "partition",
        "committed",
        "end",
        "lag",
        "member",
        "here",
        "code",
    ];
    text + &table(&header, partitions)
}

/// The pipeline of a group, and its input.
fn pipeline_of(config: &Config, group: &str) -> Option<(String, Topic)> {
    let mut pipelines = config.pipelines.iter();
    let (name, settings) = pipelines.find(|(name, _)| config.group(name) == group)?;
    Some((name.clone(), settings.input.topic.as_str().into()))
}

fn list(config: &Config, log: &dyn Admin, output: &OutputArgs) -> anyhow::Result<()> {
    let known = log.groups().map_err(coded)?;
    let mut groups: Vec<ListedGroup> = known
        .into_iter()
        .map(|known| ListedGroup {
            pipeline: pipeline_of(config, &known.group).map(|(pipeline, _)| pipeline),
            group: known.group.to_string(),
            state: known.state,
            members: known.members,
            lag: None,
        })
        .collect();
    for pipeline in config.pipelines.keys() {
        let group = config.group(pipeline);
        if groups.iter().all(|known| known.group != group) {
            groups.push(ListedGroup {
                group,
                pipeline: Some(pipeline.clone()),
                state: ABSENT.to_owned(),
                members: 0,
                lag: None,
            });
        }
    }
    groups.sort_by(|a, b| a.group.cmp(&b.group));
    for group in &mut groups {
        let Some((_, input)) = pipeline_of(config, &group.group) else {
            continue;
        };
        match read(log, &group.group, &input) {
            Ok((members, partitions)) => {
                group.members = group.members.max(members.len());
                group.lag = Some(partitions.iter().map(|one| one.lag).sum());
            }
            Err(LogError::NoSuchTopic { .. }) => {}
            Err(error) => return Err(coded(error)),
        }
    }
    output.show(&groups, || {
        let rows = groups.iter().map(|group| {
            vec![
                group.group.clone(),
                or_dash(group.pipeline.as_ref()),
                group.state.clone(),
                group.members.to_string(),
                or_dash(group.lag),
            ]
        });
        table(&["group", "pipeline", "state", "members", "lag"], rows)
    })
}

/// The members and partitions of a group in one topic.
fn read(
    log: &dyn Admin,
    group: &str,
    topic: &Topic,
) -> Result<(Vec<Member>, Vec<Partition>), LogError> {
    let status = log.group_status(group, topic)?;
    let bounds = log.bounds(topic)?;
    let partitions = (0_u32..).zip(bounds).map(|(number, bounds)| {
        let id = PartitionId(number);
        let committed = status.committed.get(&id).copied();
        let next = committed.unwrap_or(bounds.start);
        let holds = |member: &&courtside_log::MemberStatus| member.partitions.contains(&id);
        Partition {
            topic: topic.to_string(),
            partition: number,
            committed: committed.map(|Offset(offset)| offset),
            start: bounds.start.0,
            end: bounds.end.0,
            lag: bounds.end.0.saturating_sub(next.0),
            member: status
                .members
                .iter()
                .find(holds)
                .map(|member| member.member.clone()),
        }
    });
    let partitions = partitions.collect();
    let members = status.members.into_iter().map(|member| Member {
        assigned: vec![Assigned {
            topic: topic.to_string(),
            partitions: member.partitions.iter().map(|id| id.0).collect(),
        }],
        member: member.member,
        host: member.host,
    });
    Ok((members.collect(), partitions))
}

fn describe(
    config: &Config,
    log: &dyn Admin,
    group: &str,
    output: &OutputArgs,
) -> anyhow::Result<()> {
    let pipeline = pipeline_of(config, group);
    let listed = log.groups().map_err(coded)?;
    let state = listed.into_iter().find(|known| known.group == group);
    let mut topics = match log.group_topics(group) {
        Err(LogError::NoSuchGroup { .. }) if pipeline.is_some() => Vec::new(),
        found => found.map_err(coded)?,
    };
    if let Some((_, input)) = &pipeline
        && !topics.contains(input)
        && !matches!(log.partitions(input), Err(LogError::NoSuchTopic { .. }))
    {
        topics.push(input.clone());
    }
    let (mut members, mut partitions): (Vec<Member>, Vec<Partition>) = (Vec::new(), Vec::new());
    for topic in &topics {
        let (more, read) = read(log, group, topic).map_err(coded)?;
        partitions.extend(read);
        for member in more {
            match members.iter_mut().find(|one| one.member == member.member) {
                Some(known) => known.assigned.extend(member.assigned),
                None => members.push(member),
            }
        }
    }
    for member in &mut members {
        member
            .assigned
            .retain(|assigned| !assigned.partitions.is_empty());
    }
    let described = DescribedGroup {
        group: group.to_owned(),
        pipeline: pipeline.map(|(pipeline, _)| pipeline),
        state: state.map_or_else(|| ABSENT.to_owned(), |known| known.state),
        members,
        lag: partitions.iter().map(|one| one.lag).sum(),
        partitions,
    };
    output.show(&described, || text(&described))
}

fn text(group: &DescribedGroup) -> String {
    let mut text = format!("group     {}\n", group.group);
    let _ = writeln!(text, "pipeline  {}", or_dash(group.pipeline.as_ref()));
    let _ = writeln!(text, "state     {}", group.state);
    let _ = writeln!(text, "members   {}", group.members.len());
    let _ = writeln!(text, "lag       {}\n", group.lag);
    let members = group.members.iter().map(|member| {
        let assigned: Vec<_> = member
            .assigned
            .iter()
            .map(|one| {
                let numbers: Vec<_> = one.partitions.iter().map(ToString::to_string).collect();
                format!("{}:{}", one.topic, numbers.join(","))
            })
            .collect();
        vec![
            member.member.clone(),
            member.host.clone(),
            or_dash((!assigned.is_empty()).then(|| assigned.join(" "))),
        ]
    });
    if !group.members.is_empty() {
        text += &table(&["member", "host", "assigned"], members);
        text.push('\n');
    }
    let partitions = group.partitions.iter().map(|one| {
        vec![
            one.topic.clone(),
            one.partition.to_string(),
            or_dash(one.committed),
            one.start.to_string(),
            one.end.to_string(),
            one.lag.to_string(),
            or_dash(one.member.as_ref()),
        ]
    });
    let header = [
        "topic",
        "partition",
        "committed",
        "start",
        "end",
        "lag",
        "member",
    ];
    text + &table(&header, partitions)
}
