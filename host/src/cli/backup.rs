//! `courtside backup`: a copy of a host's data directory that another host can
//! start on.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use bytes::Bytes;
use clap::{Args, Subcommand};
use courtside_engine::backup::{
    self, BackupError,
    manifest::Manifest,
    source::Source,
    target::{self, Draft, Pages},
};
use courtside_types::{coded, failure::Failure};
use tokio::sync::mpsc;

use super::{
    client::{Client, HostArgs, Opened},
    operator::{OutputArgs, coded, start_logging},
    settings::SettingsArgs,
};
use crate::host::open_backup;

/// Parts of the answer that wait to be written.
const CHUNKS_AHEAD: usize = 16;
/// A host that stays silent for this long sends nothing more.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  courtside backup backups/monday\n  courtside backup backups/monday --url https://host:8443 --token-file operator.token\n  courtside backup backups/monday --stopped --data-dir data\n  courtside backup verify backups/monday\n\nRestore: copy the backup, and start a host on the copy with `serve --data-dir COPY`."
)]
pub struct BackupArgs {
    #[command(subcommand)]
    command: Option<BackupCommand>,
    #[command(flatten)]
    make: MakeArgs,
}

#[derive(Subcommand, Debug)]
enum BackupCommand {
    /// Compare a backup with its manifest, and read its log to the last block.
    #[command(after_help = "Example:\n  courtside backup verify backups/monday")]
    Verify(VerifyArgs),
}

#[derive(Args, Debug)]
struct VerifyArgs {
    dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct MakeArgs {
    /// The directory to write, which must not be there.
    #[arg(required = true)]
    dir: Option<PathBuf>,
    /// Copy the data directory of a host that does not run, rather than ask one.
    #[arg(long)]
    stopped: bool,
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: &BackupArgs) -> anyhow::Result<ExitCode> {
    start_logging();
    let (dir, output, manifest, done) = match &args.command {
        Some(BackupCommand::Verify(args)) => {
            let manifest = backup::verify(&args.dir).map_err(refused)?;
            (&args.dir, &args.output, manifest, "is whole")
        }
        None => {
            let dir = args.make.dir.as_ref();
            let dir = dir.ok_or_else(|| coded!("usage", "DIR is missing"))?;
            let draft = Draft::new(dir).map_err(refused)?;
            let manifest = if args.make.stopped {
                copy(&args.make.settings, draft)?
            } else {
                super::block_on(ask(&args.make.host, draft))??
            };
            (dir, &args.make.output, manifest, "is written")
        }
    };
    output.show(&manifest, || line(dir, done, &manifest))?;
    Ok(ExitCode::SUCCESS)
}

fn line(dir: &Path, done: &str, manifest: &Manifest) -> String {
    let topics = &manifest.log.topics;
    let partitions: usize = topics.values().map(|topic| topic.partitions.len()).sum();
    format!(
        "{} {done}: {} files of {} bytes, {} topics of {partitions} partitions, {} rows\n",
        dir.display(),
        manifest.files.len(),
        manifest.bytes(),
        topics.len(),
        manifest.log.rows,
    )
}

fn refused(error: BackupError) -> anyhow::Error {
    Failure::of(error).into()
}

/// Copies the log of a data directory that no host has open.
fn copy(settings: &SettingsArgs, draft: Draft) -> anyhow::Result<Manifest> {
    let config = settings.load(Vec::new())?;
    let log = open_backup(&config)?;
    let rows = log.backup().map_err(coded)?;
    let copied = target::copy(draft, Source::new(&config.data_dir, rows));
    log.close();
    copied.map_err(refused)
}

/// Asks a running host, and writes what it sends.
async fn ask(host: &HostArgs, draft: Draft) -> anyhow::Result<Manifest> {
    let client = Client::new(host)?;
    let mut answer = match client.stream("/backup", None).await {
        Opened::Stream(answer) => answer,
        Opened::Later(error) | Opened::Refused(error) => return Err(error),
    };
    let (sender, mut chunks) = mpsc::channel::<Result<Bytes, String>>(CHUNKS_AHEAD);
    let writing = tokio::task::spawn_blocking(move || {
        draft.fill(Pages {
            next: || match chunks.blocking_recv() {
                Some(Ok(chunk)) => Ok(Some(chunk.into())),
                Some(Err(reason)) => Err(io::Error::other(reason)),
                None => Ok(None),
            },
            page: io::Cursor::default(),
        })
    });
    loop {
        let chunk = match tokio::time::timeout(PATIENCE, answer.chunk()).await {
            Ok(Ok(Some(chunk))) => Ok(chunk),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => Err(courtside_client::root(&error)),
            Err(_) => Err(format!("no data came for {} s", PATIENCE.as_secs())),
        };
        let is_end = chunk.is_err();
        // Sending fails once the writing task has ended, whose result then says
        // why.
        if sender.send(chunk).await.is_err() || is_end {
            break;
        }
    }
    drop(sender);
    writing.await?.map_err(refused)
}
