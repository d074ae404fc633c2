//! `courtside serve`: a host, from its configuration to its clean end.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::IsTerminal as _,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use metrics_exporter_prometheus::Matcher;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{
    descriptors,
    settings::{SettingsArgs, path},
};
use crate::{
    config::{Config, LogFormat, SCORES, settings},
    figures,
    host::Host,
    http, letters, worker,
};

#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Address and port to listen on [default: 127.0.0.1:8080].
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Where plugins are dropped [default: plugins.d].
    #[arg(long, value_name = "DIR")]
    plugin_dir: Option<PathBuf>,
    /// Print the whole configuration, and what each setting is for, and end.
    #[arg(long)]
    dump_config: bool,
}

impl ServeArgs {
    fn load(&self) -> anyhow::Result<Config> {
        let flags = [
            ("http.listen", self.listen.map(|listen| listen.to_string())),
            ("plugin_dir", self.plugin_dir.as_deref().map(path)),
        ];
        let given = flags
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        self.settings.load(given.collect())
    }
}

pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let mut config = args.load()?;
    if args.dump_config {
        print!("{}", settings::dump(&config));
        return Ok(ExitCode::SUCCESS);
    }
    start_logging(&config)?;
    if let Some(room) = descriptors::make_room(config.http.connections_max) {
        tracing::warn!(
            code = "descriptors-few",
            connections_max = config.http.connections_max,
            connections = room,
            "the limit on file descriptors leaves room for fewer connections than http.connections_max: raise it (ulimit -n, LimitNOFILE)"
        );
        config.http.connections_max = room;
    }
    super::block_on(serve(config))?.inspect_err(|error| {
        // Who reads the log as JSON finds the end there, too.
        let text = format!("{error:#}");
        let code = text.split(':').next().filter(|code| !code.contains(' '));
        tracing::error!(code, error = text, "the host ends");
    })
}

fn start_logging(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.logging.filter).with_context(|| {
        format!(
            "config-invalid: logging.filter: {:?}",
            config.logging.filter
        )
    })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.logging.format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = Some(Backtrace::capture());
        let backtrace = backtrace.filter(|it| it.status() == BacktraceStatus::Captured);
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        tracing::error!(
            thread = thread.name(),
            location = panic.location().map(ToString::to_string),
            panic = text,
            backtrace = backtrace.map(|backtrace| backtrace.to_string()),
            "panicked",
        );
    }));
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    // First of all: as process 1 of a container, what has no handler is ignored.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    figures::process::started();
    let metrics = worker::metrics::BUCKETS
        .iter()
        .try_fold(http::prometheus()?, |builder, (name, buckets)| {
            builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)
        })?
        .install_recorder()
        .context("metrics do not start")?;
    http::describe();
    worker::metrics::describe();
    letters::describe();
    // The door's address first: that it is taken is the mistake made most.
    let listener = http::bind(config.http.listen)
        .await
        .map_err(|error| anyhow!("{}: {error}", error.code()))?;
    let address = listener.local_addr()?;
    let access =
        http::Access::open(&config.access).map_err(|error| anyhow!("{}: {error}", error.code()))?;
    let tls =
        http::Tls::open(&config.http.tls).map_err(|error| anyhow!("{}: {error}", error.code()))?;
    let stop = CancellationToken::new();
    let (starting, stop_starting) = (config.clone(), stop.clone());
    let mut starting = tokio::task::spawn_blocking(move || Host::start(&starting, &stop_starting));
    let host = tokio::select! {
        started = &mut starting => started??,
        _ = terminate.recv() => return give_up(&stop, starting).await,
        _ = interrupt.recv() => return give_up(&stop, starting).await,
    };
    let doors = http::App {
        log: host.log(),
        ingest: Arc::clone(&host.ingest),
        scoreboard: Arc::clone(&host.scoreboard),
        operator: host.operator(),
        metrics,
        config: config.http.clone(),
        access,
        tls,
    };
    let mut doors = tokio::spawn(http::serve(listener, doors, stop.clone()));
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    if config.logging.format == LogFormat::Text {
        greet(address, &config);
    }

    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        error = host.failed() => Err(error),
        _ = &mut doors => Err(anyhow!("doors-closed: the doors closed by themselves")),
    };
    tracing::info!("stopping");
    stop.cancel();
    if !doors.is_finished() {
        // Requests that are under way are answered first.
        if let Err(error) = doors.await {
            tracing::error!(%error, "the doors did not close well");
        }
    }
    tokio::task::spawn_blocking(move || host.stop()).await??;
    ended.map(|()| ExitCode::SUCCESS)
}

/// Told to end before it has started.
async fn give_up(
    stop: &CancellationToken,
    starting: JoinHandle<anyhow::Result<Host>>,
) -> anyhow::Result<ExitCode> {
    stop.cancel();
    match starting.await? {
        Ok(host) => tokio::task::spawn_blocking(move || host.stop()).await??,
        Err(error) => tracing::info!(%error, "stopped before it had started"),
    }
    Ok(ExitCode::SUCCESS)
}

/// What to do next, for a person.
fn greet(address: SocketAddr, config: &Config) {
    let scheme = if config.http.tls.is_set() {
        "https"
    } else {
        "http"
    };
    let url = format!("{scheme}://{address}");
    println!("\n  Courtside is running. The games are at  {url}/\n");
    if !config.pipelines.contains_key(SCORES) {
        for name in config.pipelines.keys() {
            println!("  Events of {name} go to  {url}/events/{name}");
        }
        println!();
        return;
    }
    let courtside = std::env::args()
        .next()
        .unwrap_or_else(|| "courtside".into());
    let curl = if config.access.is_set() {
        r#"curl -H "authorization: Bearer $COURTSIDE_TOKEN""#
    } else {
        "curl"
    };
    println!(
        r#"  Post a score:
    {curl} -H 'content-type: application/json' {url}/score -d '{{"game_id":"2026-11-20-LAL-BOS","seq":1,"type":"three_pointer","team":"BOS","player":"Ada Park","points":3,"period":1,"clock":"11:42"}}'

  See the game:
    {curl} {url}/games/2026-11-20-LAL-BOS

  Invent some games:
    {courtside} play --simulate 10 --url {url}
"#
    );
}
