//! `courtside serve`: a host, from its configuration to its clean end.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context as _, anyhow};
use clap::Args;
use metrics_exporter_prometheus::Matcher;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    descriptors,
    failure::complaint,
    settings::{SettingsArgs, path},
    signals::Signals,
};
use crate::{
    config::{Config, LogFormat, SCORES, settings},
    figures,
    host::Host,
    http, letters, logging,
    terminal::write_out,
    worker,
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
        write_out(settings::dump(&config).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    logging::start(&config.logging)?;
    if let Some(room) = descriptors::make_room(config.http.connections_max) {
        tracing::warn!(
            code = "descriptors-few",
            connections_max = config.http.connections_max,
            connections = room,
            "the limit on file descriptors leaves room for fewer connections than http.connections_max: raise it (ulimit -n, LimitNOFILE)"
        );
        config.http.connections_max = room;
    }
    let ended = super::block_on(serve(config)).and_then(|ended| ended);
    if let Err(error) = &ended {
        // A reader of the log as JSON finds the end there, too.
        let text = format!("{error:#}");
        let code = text.split(':').next().filter(|code| !code.contains(' '));
        tracing::error!(code, error = text, "the host ends");
    }
    logging::end(ended.as_ref().err().map(complaint).as_deref());
    Ok(ended.unwrap_or(ExitCode::FAILURE))
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    // First of all: as process 1 of a container, what has no handler is ignored.
    let mut signals = Signals::take().context("start-failed: signals cannot be handled")?;
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
        signal = signals.end() => {
            tracing::info!(signal, "stopping");
            return give_up(&stop, starting).await;
        }
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
        reload: signals.reload(),
    };
    let mut doors = tokio::spawn(http::serve(listener, doors, stop.clone()));
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    if config.logging.format == LogFormat::Text {
        let greeting = greeting(address, &config);
        // Standard output may be a pipe that nobody reads.
        std::thread::Builder::new()
            .name("greeting".to_owned())
            .spawn(move || write_out(greeting.as_bytes()))
            .context("start-failed: no thread for the greeting")?;
    }

    let (signal, ended) = tokio::select! {
        signal = signals.end() => (Some(signal), Ok(())),
        error = host.failed() => (None, Err(error)),
        _ = &mut doors => (None, Err(anyhow!("doors-closed: the doors closed by themselves"))),
    };
    tracing::info!(signal, "stopping");
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
fn greeting(address: SocketAddr, config: &Config) -> String {
    let scheme = if config.http.tls.is_set() {
        "https"
    } else {
        "http"
    };
    let url = format!("{scheme}://{address}");
    let mut text = format!("\n  Courtside is running. The games are at  {url}/\n\n");
    if !config.pipelines.contains_key(SCORES) {
        for name in config.pipelines.keys() {
            text += &format!("  Events of {name} go to  {url}/events/{name}\n");
        }
        return text + "\n";
    }
    let courtside = std::env::args()
        .next()
        .unwrap_or_else(|| "courtside".into());
    let curl = if config.access.is_set() {
        r#"curl -H "authorization: Bearer $COURTSIDE_TOKEN""#
    } else {
        "curl"
    };
    text += &format!(
        r#"  Post a score:
    {curl} -H 'content-type: application/json' {url}/score -d '{{"game_id":"2026-11-20-LAL-BOS","seq":1,"type":"three_pointer","team":"BOS","player":"Ada Park","points":3,"period":1,"clock":"11:42"}}'

  See the game:
    {curl} {url}/games/2026-11-20-LAL-BOS

  Invent some games:
    {courtside} play --simulate 10 --url {url}

"#
    );
    text
}
