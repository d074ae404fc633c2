//! `courtside replay` computes again what a plugin computed of one entity;
//! `courtside export` writes all that a replay needs into one file.

use std::{
    fs::File,
    io::{BufReader, BufWriter},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use courtside_client::{
    HostArgs,
    terminal::{say_line, write_out},
};
use courtside_engine::replay::{
    Recording, archive,
    compare::{Comparison, Headers, compare},
    line::Line,
    run::{Case, Plan},
};
use courtside_plugin_host::{
    Compiler as _, Plugin,
    wasm::{CompileLimits, Engine, EngineConfig},
};
use courtside_types::{
    PartitionId, TopicPartition,
    failure::{Failure, OrFail as _},
};
use serde::Serialize;

use super::{
    block_on,
    failure::complain,
    operator::{OutputArgs, start_logging},
};
use crate::{cli::fetch::EntityRequest, config::SCORES};

/// Exit status: an error prevented an answer.
const FAILED: u8 = 2;

/// The entity, and the host that has it.
#[derive(Args, Debug)]
struct EntityArgs {
    #[command(flatten)]
    host: HostArgs,
    #[arg(long, default_value = SCORES)]
    pipeline: String,
    /// The partition of the input, where the key's events are not in the one
    /// that the pipeline's partitioner says.
    #[arg(long)]
    partition: Option<u32>,
}

impl EntityArgs {
    fn fetch(&self, key: &str) -> anyhow::Result<Recording> {
        let request = EntityRequest {
            host: self.host.clone(),
            pipeline: self.pipeline.clone(),
            key: key.to_owned(),
            partition: self.partition.map(PartitionId),
        };
        block_on(request.recording())?
    }
}

#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0, and with --diff that nothing differs; 1, something does; 2, an error.\n\nExamples:\n  courtside replay --key 2015-12-17-HOU-LAL --diff\n  courtside replay --key 2015-12-17-HOU-LAL --raw\n  courtside replay --key 2015-12-17-HOU-LAL --plugin next.wasm\n  courtside replay --from game.courtside --plugin next.wasm --output json"
)]
pub struct ReplayArgs {
    /// The record key; in the pipeline scores, the game.
    #[arg(long, required_unless_present = "from")]
    key: Option<String>,
    /// A file that `courtside export` wrote, in place of a host.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "partition"])]
    from: Option<PathBuf>,
    #[command(flatten)]
    entity: EntityArgs,
    /// The plugin that gets the events, in place of those that ran; then the
    /// differences are shown.
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Show what differs from what was published.
    #[arg(long)]
    diff: bool,
    /// Show the outputs, with --plugin as well: a record a line, as JSON.
    #[arg(long, conflicts_with = "diff")]
    outputs: bool,
    /// Show the outputs' values alone, byte for byte, each before a line break.
    #[arg(long, conflicts_with = "diff")]
    raw: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0, or 2 for an error.\n\nExamples:\n  courtside export --key 2015-12-17-HOU-LAL -o game.courtside\n  courtside export --url http://10.0.0.7:8080 --pipeline bets --key 42 -o bet.courtside"
)]
pub struct ExportArgs {
    /// The record key; in the pipeline scores, the game.
    #[arg(long)]
    key: String,
    #[command(flatten)]
    entity: EntityArgs,
    /// The file to write.
    #[arg(long, short = 'o', value_name = "FILE")]
    file: PathBuf,
}

/// Reports an error with a status of its own, because status 1 is an answer
/// here.
pub fn or_failed(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(FAILED)
    })
}

pub fn open_export(path: &PathBuf) -> anyhow::Result<Recording> {
    let file = File::open(path).or_fail_with("export-invalid", || {
        format!("{} cannot be read", path.display())
    })?;
    archive::read(BufReader::new(file)).map_err(|error| {
        let words = format!("{error} (in {})", path.display());
        anyhow::Error::new(error).context(words)
    })
}

/// An engine of the command's own. A command that compiles a plugin several
/// times gives a `cache_dir` for the compiled code.
pub fn engine(cache_dir: Option<PathBuf>, compile: CompileLimits) -> anyhow::Result<Arc<Engine>> {
    Engine::new(EngineConfig { cache_dir, compile }).map_err(|error| Failure::of(error).into())
}

/// A plugin's file, compiled under the limits of a recording's slot.
fn compile(path: &PathBuf, recording: &Recording) -> anyhow::Result<Arc<dyn Plugin>> {
    let bytes = std::fs::read(path)
        .or_fail_with("plugin-file-unreadable", || format!("{}", path.display()))?;
    let limits = recording.pipeline.limits.limits();
    Ok(engine(None, CompileLimits::default())?.compile(&bytes, &limits)?)
}

#[must_use]
pub fn export(args: &ExportArgs) -> ExitCode {
    start_logging();
    or_failed(export_it(args))
}

fn export_it(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let recording = args.entity.fetch(&args.key)?;
    let path = &args.file;
    let (code, name) = ("export-unwritable", || path.display().to_string());
    // The export is written to a draft first, so that a file is whole or not
    // there.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let draft = tempfile::Builder::new()
        .prefix(".courtside-export-")
        .tempfile_in(dir.unwrap_or_else(|| std::path::Path::new(".")))
        .or_fail_with(code, name)?;
    archive::write(&recording, BufWriter::new(draft.as_file())).or_fail_with(code, name)?;
    draft.as_file().sync_all().or_fail_with(code, name)?;
    draft
        .persist(path)
        .map_err(|error| error.error)
        .or_fail_with(code, name)?;
    for stretch in recording.timeline().0 {
        if !recording.plugins.contains_key(&stretch.digest) {
            say_line(&format!(
                "the export lacks the plugin {}: no copy of it is left, so a replay needs another plugin from offset {} on",
                stretch.digest, stretch.from
            ));
        }
    }
    if !recording.at.held {
        say_line(&format!(
            "the export lacks the checkpoint: another host has partition {}, and GET /group says which",
            recording.at.partition
        ));
    }
    if let Some(reservation) = recording.reservation() {
        say_line(&reservation);
    }
    say_line(&format!(
        "{}: {} events of {:?}, {} records published, {} plugins",
        path.display(),
        recording.events.len(),
        recording.key,
        recording.published.len(),
        recording.plugins.len(),
    ));
    Ok(ExitCode::SUCCESS)
}

#[must_use]
pub fn run(args: &ReplayArgs) -> ExitCode {
    start_logging();
    or_failed(replay(args))
}

fn replay(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let recording = match (&args.from, &args.key) {
        (Some(path), _) => open_export(path)?,
        (None, key) => args.entity.fetch(key.as_deref().unwrap_or_default())?,
    };
    let (case, headers) = match &args.plugin {
        Some(path) => (
            recording.case_with(&compile(path, &recording)?)?,
            Headers::ButThePlugin,
        ),
        None => (
            recording.case(&*engine(None, CompileLimits::default())?)?,
            Headers::All,
        ),
    };
    let replayed = case.run(Plan::default())?;
    let lines: Vec<Line> = replayed
        .records
        .iter()
        .map(|(place, record)| Line::of_new(place, record))
        .collect();
    let comparison = compare(&recording, &lines, headers);
    let differs = !comparison.differences.is_empty();
    let is_diff = args.diff || args.plugin.is_some() && !args.outputs && !args.raw;
    if args.raw {
        let outputs = replayed.records.iter();
        let outputs = outputs.filter(|(place, _)| is_output(&recording, place));
        let values = outputs.flat_map(|(_, record)| {
            let value = record.value.as_deref().unwrap_or_default();
            [value, b"\n"].concat()
        });
        write_out(&values.collect::<Vec<u8>>())?;
    } else if is_diff {
        let report = Report::of(&recording, &case, &comparison, headers);
        args.output.show(&report, || report.text())?;
    } else {
        let text: String = lines.iter().map(Line::to_json).collect();
        write_out(text.as_bytes())?;
    }
    say_line(&summary(&recording, &case, &comparison));
    if let Some(reservation) = recording.reservation() {
        say_line(&reservation);
    }
    Ok(if is_diff && differs {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn is_output(recording: &Recording, place: &TopicPartition) -> bool {
    recording
        .pipeline
        .output_topics()
        .any(|topic| *place.topic == *topic)
}

/// The plugins that were replayed, and how the records compare.
#[derive(Serialize)]
struct Report<'a> {
    key: &'a str,
    pipeline: &'a str,
    partition: u32,
    events: usize,
    /// First offset that the log still has; above 0, earlier events are gone.
    start: u64,
    plugins: Vec<Ran>,
    #[serde(flatten)]
    comparison: &'a Comparison,
    #[serde(skip)]
    input: &'a str,
    #[serde(skip)]
    headers: Headers,
}

#[derive(Serialize)]
struct Ran {
    plugin: String,
    digest: String,
    from: u64,
}

impl<'a> Report<'a> {
    fn of(
        recording: &'a Recording,
        case: &Case,
        comparison: &'a Comparison,
        headers: Headers,
    ) -> Self {
        Self {
            key: &recording.key,
            pipeline: &recording.pipeline.name,
            partition: recording.at.partition,
            events: recording.events.len(),
            start: recording.at.start,
            plugins: ran(case),
            comparison,
            input: &recording.pipeline.input,
            headers,
        }
    }

    fn text(&self) -> String {
        let differences = self.comparison.differences.iter();
        differences
            .map(|difference| difference.text(self.input, self.partition, self.headers))
            .collect()
    }
}

fn ran(case: &Case) -> Vec<Ran> {
    let plugins = case.plugins.iter().map(|(from, plugin)| {
        let description = plugin.description();
        Ran {
            plugin: format!("{}@{}", description.name, description.version),
            digest: plugin.digest().to_string(),
            from: from.0,
        }
    });
    plugins.collect()
}

/// Sums the replay up for a person.
fn summary(recording: &Recording, case: &Case, comparison: &Comparison) -> String {
    let plugins: Vec<String> = ran(case)
        .iter()
        .map(|ran| {
            let short: String = ran.digest.chars().take(12).collect();
            format!("{} ({short}) from offset {}", ran.plugin, ran.from)
        })
        .collect();
    let Comparison {
        same,
        gone,
        undone,
        differences,
    } = comparison;
    let mut text = format!(
        "{} events of {:?} in {}/{} replayed with {}: {same} records as published, {} differ",
        recording.events.len(),
        recording.key,
        recording.pipeline.input,
        recording.at.partition,
        plugins.join(", "),
        differences.len(),
    );
    if *gone > 0 {
        text += &format!(", {gone} no longer in the log");
    }
    if *undone > 0 {
        text += &format!(", {undone} undone by a rollback");
    }
    text
}
