//! `courtside plugins`: asks a running host which plugins run and ran, and has it go
//! back to an earlier one.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use courtside_client::terminal::{say, say_line};
use courtside_engine::{
    slots::{
        request::RollbackView,
        view::{GroupsView, PluginsView, SlotState, SlotView, SwapView},
    },
    worker::status::PartitionState,
};
use courtside_types::{
    coded,
    failure::{Failure, OrFail as _},
    slot_name::SlotName,
};
use reqwest::Method;
use serde::Serialize;

use super::{
    client::{Client, HostArgs},
    operator::{OutputArgs, confirm, or_dash, table, word},
    plain,
};

/// Time between two looks at the progress of a rollback.
const LOOK: Duration = Duration::from_millis(300);
/// Digits of a digest that people see.
const SHORT: usize = 12;

#[derive(Args, Debug)]
pub struct PluginsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the slots: what runs in each, and whether all hosts run the same.
    #[command(after_help = "Example:\n  courtside plugins list")]
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Show which plugin took over when, and at which offset of each partition.
    #[command(
        after_help = "Examples:\n  courtside plugins history\n  courtside plugins history scores/default --output json"
    )]
    History {
        /// One slot alone: PIPELINE/default or PIPELINE/keys/KEY.
        #[arg(value_parser = slot)]
        slot: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Put a plugin in force, as dropping its file into the plugin directory does;
    /// ends when it runs, or says why it was rejected.
    #[command(after_help = "Example:\n  courtside plugins put scores/default nba_scoring.wasm")]
    Put {
        /// PIPELINE/default or PIPELINE/keys/KEY.
        #[arg(value_parser = slot)]
        slot: String,
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Go back to the plugin that ran before, on all hosts: states go back to
    /// before the one that runs, and its events are processed again. Says what
    /// it will do, and asks.
    #[command(
        after_help = "Examples:\n  courtside plugins rollback scores/default\n  courtside plugins rollback scores/default --dry-run\n  courtside plugins rollback scores/keys/2026-11-20-LAL-BOS --yes"
    )]
    Rollback {
        /// PIPELINE/default or PIPELINE/keys/KEY.
        #[arg(value_parser = slot)]
        slot: String,
        /// Say what it would do, and end.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        /// Seconds to wait until all is processed again.
        #[arg(long, default_value_t = 600, value_name = "SECONDS")]
        wait: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Make the file in the host's plugin directory the plugin that runs, as after a
    /// rollback, which leaves the file alone. This concerns the host that you ask
    /// alone, and swaps nothing.
    #[command(after_help = "Example:\n  courtside plugins restore-file scores/default")]
    RestoreFile {
        /// PIPELINE/default or PIPELINE/keys/KEY.
        #[arg(value_parser = slot)]
        slot: String,
        #[command(flatten)]
        common: Common,
    },
    /// Let the plugin that runs stay: there is no way back from it any more.
    #[command(after_help = "Example:\n  courtside plugins confirm scores/default")]
    Confirm {
        /// PIPELINE/default or PIPELINE/keys/KEY.
        #[arg(value_parser = slot)]
        slot: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args, Debug)]
struct Common {
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A slot's name as a host has it, which is also its path in URLs.
fn slot(text: &str) -> Result<String, String> {
    let expected = || "expected PIPELINE/default or PIPELINE/keys/KEY".to_owned();
    let (pipeline, slot) = text.split_once('/').ok_or_else(expected)?;
    let slot = match slot.split_once('/') {
        None => SlotName::parse(slot).ok_or_else(expected)?,
        // A key may be given as it is, with slashes, if it cannot be taken for an
        // encoded key.
        Some(("keys", key)) if key.contains(['/', ' ']) => SlotName::of_key(key.as_bytes()),
        Some(("keys", key)) => SlotName::of_stem(key).ok_or_else(expected)?,
        Some(_) => return Err(expected()),
    };
    if pipeline.is_empty() {
        return Err(expected());
    }
    Ok(format!("{pipeline}/{slot}"))
}

pub async fn run(args: PluginsArgs) -> anyhow::Result<ExitCode> {
    let (Command::List { common }
    | Command::History { common, .. }
    | Command::Put { common, .. }
    | Command::Rollback { common, .. }
    | Command::RestoreFile { common, .. }
    | Command::Confirm { common, .. }) = &args.command;
    let client = Client::new(&common.host)?;
    let output = &common.output;
    match &args.command {
        Command::List { .. } => {
            let plugins: PluginsView = client.get("/plugins").await?;
            output.show(&plugins, || listed(&plugins.slots))?;
        }
        Command::History { slot, .. } => history(&client, slot.as_deref(), output).await?,
        Command::Put { slot, file, .. } => {
            let bytes = tokio::fs::read(file)
                .await
                .or_fail_with("file-unreadable", || format!("{}", file.display()))?;
            let view: SlotView = client
                .ask(Method::PUT, &format!("/plugins/{slot}"), bytes)
                .await?;
            output.show(&view, || listed(std::slice::from_ref(&view)))?;
        }
        Command::Confirm { slot, .. } => ask(&client, slot, "confirm", output).await?,
        Command::RestoreFile { slot, .. } => ask(&client, slot, "restore-file", output).await?,
        Command::Rollback {
            slot,
            dry_run,
            yes,
            wait,
            ..
        } => return rollback(&client, slot, *dry_run, *yes, *wait, output).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Has the host do something to a slot, and shows the slot.
async fn ask(client: &Client, slot: &str, what: &str, output: &OutputArgs) -> anyhow::Result<()> {
    let path = format!("/plugins/{slot}/{what}");
    let view: SlotView = client.ask(Method::POST, &path, Vec::new()).await?;
    output.show(&view, || listed(std::slice::from_ref(&view)))
}

fn short(digest: &str) -> &str {
    digest.get(..SHORT).unwrap_or(digest)
}

fn or_none(digest: Option<&String>) -> String {
    digest.map_or_else(|| "none".to_owned(), |digest| short(digest).to_owned())
}

fn listed(slots: &[SlotView]) -> String {
    let rows = slots.iter().map(|slot| {
        let plugin = slot.plugin.as_ref();
        let hosts = slot.hosts.len().max(1);
        let same = if slot.agreed { "all of" } else { "not all of" };
        vec![
            slot.slot.clone(),
            word(slot.state),
            or_dash(plugin.map(|plugin| format!("{}@{}", plugin.name, plugin.version))),
            or_dash(plugin.map(|plugin| short(&plugin.digest))),
            slot.file.state.word().to_owned(),
            or_dash(slot.trial_until),
            format!("{same} {hosts}"),
        ]
    });
    let header = [
        "slot",
        "state",
        "plugin",
        "digest",
        "file",
        "on trial until",
        "hosts",
    ];
    let mut text = table(&header, rows);
    for slot in slots {
        let Some((digest, code, reason)) = not_taken(slot) else {
            continue;
        };
        let _ = match slot.state {
            SlotState::Rejected => writeln!(
                text,
                "\n{}: the plugin {} was rejected: {code}: {reason}",
                slot.slot,
                or_none(digest),
            ),
            _ => writeln!(
                text,
                "\n{}: the file {} is not the plugin that runs: {code}: {reason}",
                slot.slot,
                or_none(digest),
            ),
        };
    }
    text
}

/// The last offer that does not run, with its code and reason. No digest stands for
/// the removal of a file.
fn not_taken(slot: &SlotView) -> Option<(Option<&String>, &str, &str)> {
    if let Some(code) = &slot.file.code {
        let reason = slot.file.reason.as_deref().unwrap_or_default();
        return Some((slot.file.digest.as_ref(), code, reason));
    }
    let last = slot.history.last()?;
    let code = last.code.as_deref()?;
    let reason = last.reason.as_deref().unwrap_or_default();
    (slot.state == SlotState::Rejected).then_some((last.digest.as_ref(), code, reason))
}

/// One slot's swaps.
#[derive(Serialize)]
struct History<'a> {
    slot: &'a str,
    swaps: &'a [SwapView],
}

async fn history(client: &Client, slot: Option<&str>, output: &OutputArgs) -> anyhow::Result<()> {
    let plugins: PluginsView = client.get("/plugins").await?;
    let histories: Vec<History<'_>> = plugins
        .slots
        .iter()
        .filter(|view| slot.is_none_or(|slot| view.slot == slot))
        .map(|view| History {
            slot: &view.slot,
            swaps: &view.swaps_of_group,
        })
        .collect();
    if let (Some(slot), []) = (slot, &*histories) {
        return Err(coded!("slot-not-found", "there is no slot {slot}"));
    }
    output.show(&histories, || {
        let rows = histories.iter().flat_map(|history| {
            history.swaps.iter().map(|swap| {
                let places: Vec<_> = swap
                    .partitions
                    .iter()
                    .map(|(partition, offset)| format!("{partition}:{offset}"))
                    .collect();
                vec![
                    swap.at.to_string(),
                    history.slot.to_owned(),
                    word(swap.kind),
                    swap.plugin.clone(),
                    or_none(swap.digest.as_ref()),
                    or_none(swap.previous.as_ref()),
                    swap.attempt.to_string(),
                    places.join(" "),
                ]
            })
        });
        let header = [
            "at",
            "slot",
            "kind",
            "plugin",
            "digest",
            "before",
            "attempt",
            "partition:offset",
        ];
        table(&header, rows)
    })
}

/// The plan of a rollback, for people.
fn plan(plan: &RollbackView) -> String {
    let ran =
        |plugin: &courtside_engine::slots::request::RanView| match (&plugin.plugin, &plugin.digest)
        {
            (Some(plugin), Some(digest)) => format!("{plugin} ({})", short(digest)),
            (None, Some(digest)) => short(digest).to_owned(),
            (_, None) => "none".to_owned(),
        };
    let mut text = format!("slot      {}\n", plain::line(&plan.slot));
    let _ = writeln!(text, "undo      {}", plain::line(&ran(&plan.from)));
    let _ = writeln!(text, "run       {}", plain::line(&ran(&plan.to)));
    let _ = writeln!(text, "events    at most {} to process again", plan.events);
    let _ = writeln!(
        text,
        "entities  {} go back, in the partitions of this host\n",
        plan.entities
    );
    let rows = plan.partitions.iter().map(|(partition, redone)| {
        let stints = redone.stints.iter();
        let stints: Vec<_> = stints
            .map(|stint| format!("{}-{}", stint.from, stint.until))
            .collect();
        vec![
            partition.clone(),
            redone.from.to_string(),
            redone.until.to_string(),
            stints.join(" "),
            redone.events.to_string(),
            redone
                .entities
                .map_or_else(|| "elsewhere".to_owned(), |count| count.to_string()),
        ]
    });
    let header = ["partition", "from", "until", "ran", "events", "entities"];
    text += &table(&header, rows);
    text
}

async fn rollback(
    client: &Client,
    slot: &str,
    dry_run: bool,
    yes: bool,
    wait: u64,
    output: &OutputArgs,
) -> anyhow::Result<ExitCode> {
    let path = format!("/plugins/{slot}/rollback");
    let planned: RollbackView = client
        .ask(Method::POST, &format!("{path}?dry_run=true"), Vec::new())
        .await?;
    if dry_run {
        output.show(&planned, || plan(&planned))?;
    } else {
        say(&plain::lines(&plan(&planned)));
    }
    if let Some(refused) = &planned.refused {
        return Err(Failure::new(refused.code.clone(), &*refused.reason).into());
    }
    if dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    confirm(
        "Roll back, on all hosts? Published outputs stay, and outputs that correct them follow.",
        yes,
    )?;
    // The digest limits the rollback to the plugin that was shown, in case another
    // came meanwhile.
    let digest = planned.from.digest.as_deref().unwrap_or_default();
    let path = format!("{path}?digest={digest}");
    let done: RollbackView = client.ask(Method::POST, &path, Vec::new()).await?;
    let deadline = Instant::now() + Duration::from_secs(wait);
    let mut told = String::new();
    loop {
        let left = left(client, slot, &done).await?;
        let Some(left) = left else { break };
        if left != told {
            say_line(&plain::line(&left));
            told = left;
        }
        if Instant::now() >= deadline {
            return Err(coded!(
                "rollback-goes-on",
                "not all events are processed again after {wait} s; `courtside plugins list` and {}group have the progress",
                client.url()
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
    output.show(&done, || {
        format!(
            "rolled back: at most {} events processed again\n",
            done.events
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The work that a rollback still has to do, in words; None once it is done.
async fn left(client: &Client, slot: &str, done: &RollbackView) -> anyhow::Result<Option<String>> {
    let plugins: PluginsView = client.get("/plugins").await?;
    let groups: GroupsView = client.get("/group").await?;
    let view = plugins.slots.iter().find(|view| view.slot == slot);
    let hosts = view.map(|view| &*view.hosts).unwrap_or_default();
    let others: BTreeSet<&str> = hosts
        .iter()
        .filter(|host| host.digest == done.from.digest)
        .map(|host| &*host.host)
        .collect();
    if !others.is_empty() {
        let others: Vec<_> = others.into_iter().collect();
        return Ok(Some(format!(
            "hosts that have not rolled back yet: {}",
            others.join(", ")
        )));
    }
    let pipeline = slot.split('/').next().unwrap_or_default();
    let here = groups
        .groups
        .iter()
        .filter(|group| group.pipeline == pipeline)
        .flat_map(|group| &group.partitions)
        .filter(|partition| partition.state == PartitionState::Redoing)
        .count();
    let elsewhere: u32 = hosts.iter().map(|host| host.redoing).sum();
    Ok(
        match u32::try_from(here).unwrap_or(u32::MAX).max(elsewhere) {
            0 => None,
            partitions => Some(format!(
                "{partitions} partitions still process events again"
            )),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_named_as_hosts_name_them() {
        for (text, name) in [
            ("scores/default", "scores/default"),
            ("scores/keys/LAL-BOS", "scores/keys/LAL-BOS"),
            ("scores/keys/a%2Fb", "scores/keys/a%2Fb"),
            ("scores/keys/a/b", "scores/keys/a%2Fb"),
            ("scores/keys/.x", "scores/keys/%2Ex"),
        ] {
            assert_eq!(slot(text), Ok(name.to_owned()), "{text}");
        }
        for text in [
            "scores",
            "default",
            "/default",
            "scores/else",
            "scores/keys/",
        ] {
            assert!(slot(text).is_err(), "{text}");
        }
    }
}
