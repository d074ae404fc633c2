//! `courtside plugin check`: checks a plugin's file as a host would, without a
//! host.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use courtside_engine::{
    replay::check::{CheckOutcome, Objection, try_out},
    slots::view::LimitsView,
};
use courtside_plugin_host::{
    Compiler as _, Description, Plugin,
    wasm::{Engine, Surface},
};
use courtside_types::{Digest, coded, failure::OrFail as _};
use serde::Serialize;

use super::{
    operator::{OutputArgs, start_logging},
    replay::{engine, open_export, or_failed},
    settings::SettingsArgs,
};
use crate::config::{Config, SCORES, slot_name};

#[derive(Args, Debug)]
pub struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Subcommand, Debug)]
enum PluginCommand {
    /// Check a plugin's file: what it exports, imports and says of itself, and,
    /// with exports of games, that it opens their checkpoints and leads to the
    /// same bytes however their events come.
    Check(CheckArgs),
}

#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0, a host would take it; 1, it would not, or it fails on an export; 2, an error.\n\nExamples:\n  courtside plugin check tally.wasm\n  courtside plugin check next.wasm --from game.courtside --from other.courtside\n  courtside plugin check next.wasm --pipeline scores --slot keys/LAL-BOS --output json"
)]
struct CheckArgs {
    /// The file.
    file: PathBuf,
    /// A file that `courtside export` wrote; its own limits hold for it.
    #[arg(long, value_name = "EXPORT")]
    from: Vec<PathBuf>,
    /// The pipeline whose limits hold.
    #[arg(long, default_value = SCORES)]
    pipeline: String,
    /// The slot whose limits hold.
    #[arg(long, default_value = "default")]
    slot: String,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Result of a check.
#[derive(Serialize)]
struct Report {
    file: String,
    size_bytes: usize,
    digest: String,
    limits: LimitsView,
    #[serde(flatten)]
    surface: Option<Surface>,
    description: Option<Description>,
    /// Why a host would reject it.
    rejection: Option<Objection>,
    rehearsals: Vec<Rehearsed>,
    /// Whether the plugin may take over.
    passed: bool,
}

#[derive(Serialize)]
struct Rehearsed {
    export: String,
    #[serde(flatten)]
    tried: CheckOutcome,
}

#[must_use]
pub fn run(args: &PluginArgs) -> ExitCode {
    start_logging();
    let PluginCommand::Check(args) = &args.command;
    or_failed(check(args))
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let config = args.settings.load(Vec::new())?;
    let limits = limits(&config, &args.pipeline, &args.slot)?;
    let bytes = std::fs::read(&args.file).or_fail_with("plugin-file-unreadable", || {
        format!("{}", args.file.display())
    })?;
    let compiled = tempfile::tempdir().or_fail(
        "plugin-cache-unusable",
        "a temporary directory cannot be created",
    )?;
    let cache_dir = Some(compiled.path().join("compiled"));
    let engine = engine(cache_dir, config.plugin.compile_limits())?;
    let mut report = Report {
        file: args.file.display().to_string(),
        size_bytes: bytes.len(),
        digest: Digest::of(&bytes).to_string(),
        surface: engine.survey(&bytes, &limits.limits()).ok(),
        limits,
        description: None,
        rejection: None,
        rehearsals: Vec::new(),
        passed: false,
    };
    match engine.compile(&bytes, &report.limits.limits()) {
        Ok(plugin) => report.description = Some(plugin.description().clone()),
        Err(rejection) => report.rejection = Some(rejection.into()),
    }
    for path in &args.from {
        let tried = try_on(&engine, &bytes, path)?;
        let export = path.display().to_string();
        report.rehearsals.push(Rehearsed { export, tried });
    }
    let mut tried = report.rehearsals.iter();
    report.passed = report.rejection.is_none() && tried.all(|one| one.tried.objections.is_empty());
    args.output.show(&report, || report.text())?;
    Ok(if report.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn limits(config: &Config, pipeline: &str, slot: &str) -> anyhow::Result<LimitsView> {
    if !config.pipelines.contains_key(pipeline) {
        return Err(coded!(
            "pipeline-not-found",
            "no pipeline {pipeline:?} is configured"
        ));
    }
    let name = slot_name(slot).ok_or_else(|| {
        coded!(
            "config-invalid",
            "--slot: {slot:?} is neither default nor keys/ and a file's name"
        )
    })?;
    let own = config.plugins_of_slots(pipeline).remove(&name);
    let plugin = own.unwrap_or_else(|| config.plugin_of(pipeline));
    Ok(LimitsView::new(
        &plugin.limits(),
        plugin.entities_per_instance,
    ))
}

fn try_on(engine: &Engine, bytes: &[u8], path: &PathBuf) -> anyhow::Result<CheckOutcome> {
    let recording = open_export(path)?;
    let limits = recording.pipeline.limits.limits();
    let plugin: Arc<dyn Plugin> = match engine.compile(bytes, &limits) {
        Ok(plugin) => plugin,
        Err(rejection) => {
            return Ok(CheckOutcome {
                key: recording.key,
                events: recording.events.len(),
                objections: vec![rejection.into()],
                ..CheckOutcome::default()
            });
        }
    };
    try_out(&recording, &plugin).with_context(|| path.display().to_string())
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut say = |name: &str, value: &str| {
            let _ = writeln!(text, "{name:<12}{value}");
        };
        say("file", &format!("{}, {} bytes", self.file, self.size_bytes));
        say("digest", &self.digest);
        if let Some(surface) = &self.surface {
            say("exports", &listed(&surface.exports));
            let (offered, unknown): (Vec<_>, Vec<_>) =
                surface.imports.iter().partition(|import| import.offered);
            let names = |imports: Vec<&courtside_plugin_host::wasm::Import>| {
                let names: Vec<String> = imports.iter().map(|import| import.name.clone()).collect();
                listed(&names)
            };
            say("imports", &names(offered));
            if !unknown.is_empty() {
                say("not offered", &names(unknown));
            }
        }
        if let Some(description) = &self.description {
            let Description {
                name,
                version,
                writes,
                reads,
            } = description;
            say("plugin", &format!("{name}@{version}"));
            say("writes", writes);
            say("reads", &reads.join(", "));
        }
        let limits = &self.limits;
        say(
            "limits",
            &format!(
                "memory {} bytes, {} ms of cpu time a call, {} bytes emitted a call, checkpoint {} bytes, file {} bytes",
                limits.memory_bytes_max,
                limits.call_cpu_time_max_ms,
                limits.emitted_bytes_max,
                limits.checkpoint_bytes_max,
                limits.plugin_bytes_max,
            ),
        );
        if let Some(Objection { code, reason }) = &self.rejection {
            say("rejected", &format!("{code}: {reason}"));
        }
        for Rehearsed { export, tried } in &self.rehearsals {
            let letters: usize = tried.dead_letters.values().sum();
            say(
                "rehearsal",
                &format!(
                    "{export}: {} events of {:?}, {} outputs, {letters} dead letters; {} as published, {} differ",
                    tried.events, tried.key, tried.outputs, tried.same, tried.differ,
                ),
            );
            for Objection { code, reason } in &tried.objections {
                say("  failed", &format!("{code}: {reason}"));
            }
        }
        say(
            "verdict",
            if self.passed {
                "a host would take it"
            } else {
                "it should not take over"
            },
        );
        text
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}
