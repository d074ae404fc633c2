//! A running host: the parts put together, and taken apart again.

mod overview;
mod pipelines;
mod record_log;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_engine::{
    slots::manager::Manager,
    worker::thread::{Order, Worker},
};
use courtside_http::{
    Operator,
    gauges::log_gauges::LogGauges,
    ingest::Ingest,
    scoreboard::{BoardSpec, Scoreboard},
};
use courtside_log::RecordLog;
use courtside_plugin_host::{
    Compiler,
    wasm::{Engine, EngineConfig},
};
use courtside_process::shutdown::{End, waits};
use courtside_types::{
    coded,
    failure::{Failure, OrFail as _},
};
use tokio_util::sync::CancellationToken;

pub use self::record_log::{open_admin, open_backup, open_log};
use self::{
    overview::Overview,
    pipelines::{Starter, endpoint},
};
use crate::{config::Config, topics};

/// How often the host looks whether its workers are still there.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// How often the host looks whether the topics it reads still have the partitions,
/// and its groups the layouts, that they had.
const LAYOUT_INTERVAL: Duration = Duration::from_secs(5);
/// How long a host that ends waits for a read of the scoreboard.
const SCOREBOARD_TIME_MAX: Duration = Duration::from_secs(1);

/// A host without its HTTP server.
pub struct Host {
    log: Arc<dyn RecordLog>,
    overview: Arc<Overview>,
    pub ingest: Arc<Ingest>,
    pub scoreboard: Arc<Scoreboard>,
    managers: Vec<Manager>,
    workers: Vec<Worker>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Host")
    }
}

impl Host {
    /// Opens the log and starts every pipeline. A step that fails because the log
    /// does not answer is tried again, until `stop` is cancelled or two minutes are
    /// over.
    pub fn start(config: &Config, stop: &CancellationToken) -> anyhow::Result<Self> {
        let log = open_log(config)?;
        let compiler = Engine::new(EngineConfig {
            cache_dir: Some(config.data_dir.join("compiled")),
            compile: config.plugin.compile_limits(),
        })
        .map_err(Failure::of)?;
        Self::start_with(config, log, compiler, stop)
    }

    /// Starts every pipeline on a log that is open, with plugins from the given
    /// compiler.
    pub fn start_with(
        config: &Config,
        log: Arc<dyn RecordLog>,
        compiler: Arc<dyn Compiler>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        warn_of_strangers(config);
        let starter = Starter {
            config,
            log: Arc::clone(&log),
            compiler,
            stop,
        };
        let mut endpoints = Vec::new();
        let mut boards = Vec::new();
        let mut pipelines = Vec::new();
        for name in topics::in_order(config) {
            let Some(settings) = config.pipelines.get(name) else {
                continue;
            };
            let (pipeline, layout) = starter.prepare(name, settings)?;
            endpoints.push(endpoint(&pipeline, settings)?);
            boards.push(BoardSpec {
                pipeline: pipeline.name.clone(),
                group: pipeline.group.clone(),
                input: pipeline.input.clone(),
                output: pipeline.output.topic.clone(),
            });
            pipelines.push((pipeline, layout));
        }
        let ingest = Ingest::new(Arc::clone(&log), config.ingest.clone(), endpoints);
        let scoreboard = Scoreboard::start(Arc::clone(&log), config.scoreboard.clone(), boards)
            .or_fail("start-failed", "the scoreboard cannot start")?;

        let (mut working, mut workers, mut managers) = (Vec::new(), Vec::new(), Vec::new());
        for (pipeline, layout) in pipelines {
            let started = starter.start(pipeline, layout)?;
            working.push(started.working);
            workers.extend(started.workers);
            managers.push(started.manager);
        }
        let of_pipelines = working.iter().map(|one| Arc::clone(&one.pipeline));
        let overview = Overview {
            log_gauges: LogGauges::new(Arc::clone(&log), of_pipelines.collect()),
            log: Arc::clone(&log),
            data_dir: config.data_dir.clone(),
            pipelines: working,
        };
        Ok(Self {
            log,
            overview: Arc::new(overview),
            ingest: Arc::new(ingest),
            scoreboard,
            managers,
            workers,
        })
    }

    #[must_use]
    pub fn log(&self) -> Arc<dyn RecordLog> {
        Arc::clone(&self.log)
    }

    /// The host as its HTTP server sees it.
    #[must_use]
    pub fn operator(&self) -> Arc<dyn Operator> {
        Arc::clone(&self.overview) as _
    }

    /// Waits for an error that ends the host, and returns it.
    pub async fn failed(&self) -> anyhow::Error {
        // The first look comes soon after the start, because another host may have
        // started meanwhile.
        let mut looked: Option<Instant> = None;
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            if self.workers.iter().any(Worker::has_ended) {
                return coded!("worker-panicked", "a worker ended");
            }
            if looked.is_some_and(|looked| looked.elapsed() < LAYOUT_INTERVAL) {
                continue;
            }
            let overview = Arc::clone(&self.overview);
            let look = tokio::task::spawn_blocking(move || overview.other_layout());
            if let Ok(Some(reason)) = look.await {
                return coded!("pipeline-mismatch", "{reason}");
            }
            looked = Some(Instant::now());
        }
    }

    /// Ends all parts that process. The workers process and commit the events they
    /// have read, as far as the drain deadline allows; the next host reads the
    /// rest again. A part that does not end until `by` is left behind.
    pub fn drain(&mut self, by: Instant) -> Ends {
        for working in &self.overview.pipelines {
            working.letters.stop();
        }
        self.managers.iter().for_each(Manager::stop);
        for worker in &self.workers {
            // A worker that has ended needs no order.
            let _ = worker.orders().give(Order::Stop(Instant::now()));
        }
        let mut ends = Ends::default();
        for worker in std::mem::take(&mut self.workers) {
            let end = worker.end(by);
            ends.panicked |= end == End::Panicked;
            ends.overdue |= end == End::Overdue;
        }
        for manager in std::mem::take(&mut self.managers) {
            ends.note("the slot manager panicked", manager.end(by));
        }
        for working in &self.overview.pipelines {
            ends.note("a redrive panicked", working.letters.end_by(by));
        }
        ends
    }

    /// Closes the log, once no worker runs and the HTTP server has ended.
    pub fn close(&mut self, by: Instant) -> Ends {
        let mut ends = Ends::default();
        // A scoreboard that still reads has nothing to lose.
        let scoreboard_by = by.min(Instant::now() + SCOREBOARD_TIME_MAX);
        if self.scoreboard.end(scoreboard_by) == End::Panicked {
            tracing::error!("the scoreboard panicked");
        }
        let log = Arc::clone(&self.log);
        let left = by.saturating_duration_since(Instant::now());
        ends.overdue =
            waits::within("close of the record log", left, move || log.close()).is_none();
        ends
    }
}

/// How the parts of a host ended.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Ends {
    /// A worker had ended before it was told to.
    pub panicked: bool,
    /// A part has not ended.
    pub overdue: bool,
}

impl Ends {
    fn note(&mut self, panicked: &'static str, end: End) {
        if end == End::Panicked {
            tracing::error!("{panicked}");
        }
        self.overdue |= end == End::Overdue;
    }
}

/// A folder that is no pipeline's is a mistake in its name, most of the time.
fn warn_of_strangers(config: &Config) {
    let Ok(entries) = std::fs::read_dir(&config.plugin_dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !config.pipelines.contains_key(&name) {
            tracing::warn!(path = %entry.path().display(), "no pipeline has the name of this directory, so its plugins are not used");
        }
    }
}
