//! `courtside serve`: a host, from its configuration to its clean end.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use courtside_client::terminal::write_out;
use courtside_engine::{dead_letters, worker};
use courtside_http as http;
use courtside_process::{
    logging::{self, LogFormat},
    shutdown::{self, OVERDUE, STATUS_OVERDUE, Shutdown, waits},
    usage as process_usage,
};
use courtside_types::{
    coded,
    failure::{Failure, OrFail as _},
};
use metrics_exporter_prometheus::Matcher;
use tokio::{sync::watch, task::JoinHandle, time::timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    descriptors,
    failure::{code, complaint, words},
    settings::{SettingsArgs, path},
    usage,
};
use crate::{
    config::{Config, SCORES, settings},
    host::{Ends, Host},
};

/// How long a host that stops waits for the requests under way before it stops
/// the workers, so that most requests see what became of their events. Slower
/// requests and the workers end side by side.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long the clients of the log may take to be freed. Nothing depends on it.
const FREE_TIME_MAX: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0, the host was told to stop and did; 1, an error; 3, it was told to stop and left something behind, which its log names."
)]
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
    let drain = config.worker.drain_deadline.max(config.http.drain_timeout);
    let ended = start(config, &Shutdown::new(drain));
    if let Err(error) = &ended {
        // The error is logged as well, for readers of the log as JSON.
        let (code, error) = (code(error), words(error));
        tracing::error!(code, error, "the host ends with an error");
    }
    logging::end(ended.as_ref().err().map(complaint).as_deref());
    Ok(ended.unwrap_or(ExitCode::FAILURE))
}

fn start(config: Config, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    // Signal handlers come first: process 1 of a container ignores signals that
    // have no handler.
    let reload = shutdown::watch(shutdown).or_fail("start-failed", "signals cannot be handled")?;
    super::block_on(serve(config, shutdown, reload))?
}

async fn serve(
    config: Config,
    shutdown: &Shutdown,
    reload: watch::Receiver<()>,
) -> anyhow::Result<ExitCode> {
    process_usage::started();
    let metrics = worker::metrics::BUCKETS
        .iter()
        .try_fold(http::prometheus()?, |builder, (name, buckets)| {
            builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)
        })?
        .install_recorder()
        .or_fail("start-failed", "the metrics cannot start")?;
    http::describe();
    worker::metrics::describe();
    dead_letters::describe();
    // The address is bound first, because an address that is taken is the most
    // frequent mistake.
    let listener = http::bind(config.http.listen).await.map_err(Failure::of)?;
    let address = listener.local_addr()?;
    let files = waits::begin("files of tokens and certificates");
    let access = http::Access::open(&config.access).map_err(Failure::of)?;
    let tls = http::Tls::open(&config.http.tls).map_err(Failure::of)?;
    drop(files);
    let (config_of_host, given_up) = (config.clone(), shutdown.token().clone());
    let mut starting = tokio::task::spawn_blocking(move || {
        let _wait = waits::begin("start of the host");
        Host::start(&config_of_host, &given_up)
    });
    let host = tokio::select! {
        started = &mut starting => started??,
        () = shutdown.token().cancelled() => return give_up(shutdown, starting).await,
    };
    let server = http::App {
        log: host.log(),
        ingest: Arc::clone(&host.ingest),
        scoreboard: Arc::clone(&host.scoreboard),
        operator: host.operator(),
        metrics,
        config: config.http.clone(),
        access,
        tls,
        reload,
    };
    let mut server = tokio::spawn(http::serve(listener, server, shutdown.token().clone()));
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    if config.logging.format == LogFormat::Text {
        let greeting = greeting(address, &config);
        // Standard output may be a pipe that nobody reads.
        std::thread::Builder::new()
            .name("greeting".to_owned())
            .spawn(move || write_out(greeting.as_bytes()))
            .or_fail("start-failed", "the thread of the greeting cannot start")?;
    }

    let ended = until_end(shutdown.token(), host.failed(), &mut server).await;
    stop(host, server, shutdown).await?;
    ended.map(|()| ExitCode::SUCCESS)
}

/// Waits until the host is told to stop, or until one of its parts ends by itself.
async fn until_end(
    stop: &CancellationToken,
    failed: impl Future<Output = anyhow::Error>,
    server: impl Future,
) -> anyhow::Result<()> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        error = failed => Err(error),
        // An order to stop closes the server on another thread, maybe after this
        // poll has looked at `stop`.
        _ = server => if stop.is_cancelled() {
            Ok(())
        } else {
            Err(coded!("doors-closed", "the HTTP server ended by itself"))
        },
    }
}

/// Ends a host: requests under way are answered, workers commit, the log is
/// closed. If one of these does not end in time, the process ends here.
async fn stop(mut host: Host, server: JoinHandle<()>, shutdown: &Shutdown) -> anyhow::Result<()> {
    shutdown.begin(None);
    tracing::info!(signal = shutdown.signal(), "stopping");
    let started = Instant::now();
    let mut server = tokio::spawn(close_server(server));
    tokio::select! {
        _ = &mut server => {}
        () = tokio::time::sleep(HEAD_START) => {}
    }
    let by = shutdown.end_by();
    let draining = tokio::task::spawn_blocking(move || {
        let ends = host.drain(by);
        (host, ends)
    });
    let (mut host, drained) = draining.await?;
    if !server.is_finished() {
        drop(server.await);
    }
    let by = shutdown.close_by();
    let closing = tokio::task::spawn_blocking(move || {
        let ends = host.close(by);
        (host, ends)
    });
    let (host, closed) = closing.await?;
    if drained.overdue || closed.overdue {
        let left = waits::open().join(", ");
        tracing::error!(
            code = OVERDUE,
            left,
            "the host ends before all its parts have ended"
        );
        shutdown::end_process(STATUS_OVERDUE);
    }
    tracing::info!(
        took_ms = started.elapsed().as_secs_f64() * 1000.0,
        "stopped"
    );
    free(host, drained)
}

/// Frees the resources of a host that has ended, as far as that takes no time.
fn free(host: Host, ends: Ends) -> anyhow::Result<()> {
    let is_freed = waits::drop_within("clients of the record log", FREE_TIME_MAX, host);
    if ends.panicked {
        return Err(coded!(
            "worker-panicked",
            "a worker ended before it was told to"
        ));
    }
    // A thread may still run, for instance that of a membership that the brokers
    // do not answer.
    if !is_freed || !waits::open().is_empty() {
        tracing::debug!(
            left = waits::open().join(", "),
            "the process ends without waiting for these"
        );
        shutdown::end_process(0);
    }
    Ok(())
}

/// Waits until the requests under way are answered, or cut.
async fn close_server(server: JoinHandle<()>) {
    let _wait = waits::begin("requests under way");
    if !server.is_finished()
        && let Err(error) = server.await
    {
        tracing::error!(%error, "the HTTP server did not close cleanly");
    }
}

/// Ends a host that was told to stop before it had started.
async fn give_up(
    shutdown: &Shutdown,
    starting: JoinHandle<anyhow::Result<Host>>,
) -> anyhow::Result<ExitCode> {
    match timeout_at(shutdown.give_up_by().into(), starting).await {
        Ok(started) => match started? {
            Ok(host) => stop(host, tokio::spawn(async {}), shutdown).await?,
            Err(error) => tracing::info!(%error, "the host was stopped before it had started"),
        },
        Err(_) => {
            // The host has not taken any event yet that a kill could lose.
            let left = waits::open().join(", ");
            tracing::warn!(left, "the host was stopped before it had started");
            shutdown::end_process(0);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells a person what to do next.
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
    let courtside = usage::words().next();
    let courtside = courtside.unwrap_or_else(|| "courtside".into());
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

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use super::*;

    fn never() -> impl Future<Output = anyhow::Error> {
        std::future::pending()
    }

    #[tokio::test]
    async fn a_stop_during_a_look_at_the_parts_is_no_failure() {
        let stop = CancellationToken::new();
        let server = poll_fn(|_| {
            stop.cancel();
            Poll::Ready(())
        });
        until_end(&stop, never(), server).await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_ends_by_itself_ends_the_host_with_an_error() {
        let stop = CancellationToken::new();
        let server = std::future::ready(());
        let error = until_end(&stop, never(), server).await.unwrap_err();
        assert_eq!(code(&error), Some("doors-closed"));
    }
}
