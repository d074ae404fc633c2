//! A running host: the parts put together, and taken apart again.
//!
//! Only this module knows which engine the record log has.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_engine::{
    backup::source::Source,
    dead_letters::{self, DeadLetters},
    pipeline::{
        Output, Pipeline, SlotLimits, WorkerSettings,
        identity::Identity,
        kept::KeptTopic,
        layout::{self, Layout, LayoutError, Writes},
        missing::refuse_missing,
    },
    replay::trace::EntityHistory,
    slots::{
        self,
        ask::{AskError, RequestResult, What},
        library::Library,
        manager::{Asks, Manager, Setup, SlotViews},
        store::PluginStore,
        view::{GroupView, GroupsView, MemberView, PartitionView, PluginsView, SlotState},
    },
    worker::{
        status::{PartitionState, PipelineStatus},
        thread::{Order, Worker},
    },
};
use courtside_http::{
    Operator,
    gauges::{asked::Asked, pipelines::Seen},
    ingest::{Door, Ingest, KeyRule, Schema},
    scoreboard::{BoardSpec, Scoreboard},
};
use courtside_log::{
    LogError, RecordLog,
    admin::Admin,
    embedded::{Embedded, EmbeddedConfig},
    kafka::{self, Kafka},
    partitioner::Method,
};
use courtside_plugin_host::{
    Compiler,
    wasm::{Engine, EngineConfig},
};
use courtside_process::{
    exposition::Exposition,
    shutdown::{End, waits},
    usage,
};
use courtside_types::{
    NotReady, PartitionId, Topic, TopicPartition, coded,
    failure::{ErrorCode as _, Failure, OrFail as _},
    slot_name::SlotName,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, PipelineConfig, PluginConfig, SCORES, bytes},
    topics,
};

/// How long a host that has reached its log once waits for it while it starts.
const START_PATIENCE: Duration = Duration::from_secs(120);
const START_RETRY: Duration = Duration::from_secs(1);
/// How often the host looks whether its workers are still there.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// How often the host looks whether the topics it reads still have the partitions,
/// and its groups the layouts, that they had.
const LAYOUT_INTERVAL: Duration = Duration::from_secs(5);
/// How long a host that ends waits for a read of the scoreboard.
const SCOREBOARD_TIME_MAX: Duration = Duration::from_secs(1);

/// A pipeline at work.
struct Working {
    pipeline: Arc<Pipeline>,
    status: Arc<PipelineStatus>,
    slots: SlotViews,
    letters: Arc<DeadLetters>,
    asks: Asks,
    layout: layout::Watch,
    traced: Arc<EntityHistory>,
}

/// The parts of a host that its doors may ask.
struct Overview {
    log: Arc<dyn RecordLog>,
    /// Asks the log for the figures of `/metrics`.
    asked: Arc<Asked>,
    data_dir: PathBuf,
    pipelines: Vec<Working>,
}

/// A host without its doors.
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
    /// does not answer is tried again, until `stop` is cancelled or
    /// `START_PATIENCE` is over.
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
        let mut doors = Vec::new();
        let mut boards = Vec::new();
        let mut pipelines = Vec::new();
        for name in topics::in_order(config) {
            let Some(settings) = config.pipelines.get(name) else {
                continue;
            };
            let (pipeline, layout) = patiently(stop, || pipeline(config, name, settings, &*log))?;
            doors.push(door(&pipeline, name, settings)?);
            boards.push(BoardSpec {
                pipeline: pipeline.name.clone(),
                group: pipeline.group.clone(),
                input: pipeline.input.clone(),
                output: pipeline.output.topic.clone(),
            });
            pipelines.push((pipeline, layout));
        }
        let ingest = Ingest::new(Arc::clone(&log), config.ingest.clone(), doors);
        let scoreboard = Scoreboard::start(Arc::clone(&log), config.scoreboard.clone(), boards)
            .or_fail("start-failed", "the scoreboard cannot start")?;

        let mut working = Vec::new();
        let mut workers = Vec::new();
        let mut managers = Vec::new();
        for (pipeline, layout) in pipelines {
            let status = Arc::new(PipelineStatus::default());
            let mut orders = Vec::new();
            for number in 0..pipeline.settings.workers {
                let worker = patiently(stop, || {
                    Ok(Worker::start(&log, &pipeline, &status, number).map_err(Failure::of)?)
                })?;
                orders.push(worker.orders().clone());
                workers.push(worker);
            }
            let store = config.data_dir.join("plugins").join(&*pipeline.name);
            let topic = TopicPartition {
                topic: slots::topic::name(&pipeline.group),
                partition: slots::topic::ONLY,
            };
            let store = PluginStore::open(&store).or_fail_with("plugin-store-failed", || {
                format!("{} cannot be used", store.display())
            })?;
            let library = Arc::new(Library::new(store, Arc::clone(&log), topic.topic.clone()));
            let manager = Manager::start(Setup {
                compiler: Arc::clone(&compiler),
                checkpoints: log.checkpoints(&pipeline.group).map_err(Failure::of)?,
                partitions: (0..pipeline.partitions).map(PartitionId).collect(),
                workers: orders,
                dir: config.plugin_dir.join(&*pipeline.name),
                library: Arc::clone(&library),
                log: Arc::clone(&log),
                topic,
                status: Arc::clone(&status),
                config: config.slots.clone(),
                pipeline: Arc::clone(&pipeline),
            })
            .or_fail("start-failed", "the thread of the slots cannot start")?;
            let traced = EntityHistory {
                partitioner: layout.partitioner.clone(),
                checkpoints: log.checkpoints(&pipeline.group).map_err(Failure::of)?,
                status: Arc::clone(&status),
                slots: manager.views(),
                pipeline: Arc::clone(&pipeline),
                library,
            };
            working.push(Working {
                traced: Arc::new(traced),
                layout: layout::Watch::new(&pipeline.group, layout),
                letters: DeadLetters::new(Arc::clone(&log), Arc::clone(&pipeline)),
                pipeline,
                status,
                slots: manager.views(),
                asks: manager.asks(),
            });
            managers.push(manager);
        }
        let overview = Arc::new(Overview {
            log: Arc::clone(&log),
            asked: Asked::new(
                Arc::clone(&log),
                working
                    .iter()
                    .map(|one| Arc::clone(&one.pipeline))
                    .collect(),
            ),
            data_dir: config.data_dir.clone(),
            pipelines: working,
        });
        Ok(Self {
            log,
            overview,
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

    /// The host as its doors see it.
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

    /// Closes the log, once nobody processes and the doors are closed.
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

/// Opens the record log that the configuration names.
pub fn open_log(config: &Config) -> anyhow::Result<Arc<dyn RecordLog>> {
    std::fs::create_dir_all(&config.data_dir).or_fail_with("data-dir-unusable", || {
        format!("{} cannot be made", config.data_dir.display())
    })?;
    if config.kafka.is_set() {
        let dir = config.data_dir.join("kafka");
        let log = Kafka::open(dir, config.kafka.clone(), &limits(config)).map_err(Failure::of)?;
        return Ok(log);
    }
    let log =
        Embedded::open(config.data_dir.join("log"), config.log.clone()).map_err(Failure::of)?;
    Ok(log)
}

/// Opens the log of a data directory that no host has open, to be copied.
pub fn open_backup(config: &Config) -> anyhow::Result<Arc<dyn Admin>> {
    if config.kafka.is_set() {
        let error = LogError::BackupElsewhere;
        return Err(Failure::of(error).into());
    }
    open_admin(config, false)
}

/// Opens the log for a command of an operator. On Kafka the command works beside the
/// hosts; otherwise no host may run. A missing log is made only where `create` says so.
/// The command's log cleans nothing: only a host's groups say which events they still
/// need, and none of them has members now.
pub fn open_admin(config: &Config, create: bool) -> anyhow::Result<Arc<dyn Admin>> {
    if config.kafka.is_set() {
        let log = Kafka::beside(config.kafka.clone(), &limits(config)).map_err(Failure::of)?;
        return Ok(log);
    }
    if !create && !config.data_dir.join("log").is_dir() {
        return Err(coded!(
            "no-record-log",
            "{} holds no record log; name its data directory with --data-dir, or the brokers with --kafka",
            config.data_dir.display()
        ));
    }
    let settings = EmbeddedConfig {
        cleanup_interval: Duration::MAX,
        ..config.log.clone()
    };
    let log = Embedded::open(config.data_dir.join("log"), settings);
    log.map(|log| log as _).map_err(|error| match error {
        LogError::InUse { .. } => coded!(
            error.code(),
            "{error}: stop its host first, or ask the running host: `courtside backup` and `courtside groups --live` do so"
        ),
        error => Failure::of(error).into(),
    })
}

fn limits(config: &Config) -> kafka::Limits {
    kafka::Limits {
        partitions: config.log.partitions,
        record_bytes_max: bytes(config.log.record_bytes_max),
        queue_bytes_max: bytes(config.log.queue_bytes_max),
        tombstone_retention: config.topics.tombstone_retention,
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

fn pipeline(
    config: &Config,
    name: &str,
    settings: &PipelineConfig,
    log: &dyn RecordLog,
) -> anyhow::Result<(Arc<Pipeline>, Layout)> {
    let group = config.group(name);
    let input: Topic = settings.input.topic.as_str().into();
    refuse_missing(log, &group, &input).map_err(Failure::of)?;
    let partitions = topics::ensure_input(config, settings, log)?;
    check_partitioner(name, settings, partitions)?;
    let layout = Layout {
        input: settings.input.topic.clone(),
        partitions,
        partitioner: settings.partitioner.clone(),
        writes: Writes {
            output: settings.output.clone(),
            outputs: settings.outputs.clone(),
        },
    };
    layout::settle(log, &group, &layout).map_err(|error| match error {
        LayoutError::Log(error) => Failure::of(error).into(),
        error => coded!(error.code().to_owned(), "pipeline {name}: {error}"),
    })?;
    topics::ensure_others(config, name, settings, log)?;
    log.ensure_group(&group, &input).map_err(Failure::of)?;
    let identity = Identity::of(log, &group, &input).map_err(Failure::of)?;
    let dead_letter = dead_letters::topic(&group);
    let plugins = TopicPartition {
        topic: slots::topic::name(&group),
        partition: slots::topic::ONLY,
    };
    let output = |kept: &KeptTopic| -> anyhow::Result<Output> {
        let topic: Topic = kept.topic.as_str().into();
        let partitions = log.partitions(&topic)?;
        Ok(Output { topic, partitions })
    };
    let plugin = config.plugin_of(name);
    let of_slots = config.plugins_of_slots(name).into_iter();
    let pipeline = Pipeline {
        name: name.into(),
        group: group.into(),
        input,
        identity,
        partitions,
        output: output(&settings.output)?,
        outputs: settings
            .outputs
            .iter()
            .map(|(name, kept)| Ok((name.as_str().into(), output(kept)?)))
            .collect::<anyhow::Result<_>>()?,
        dead_letter,
        plugins: Some(plugins),
        host: log.host(),
        settings: processing(config, &plugin),
        limits: plugin.limits(),
        slot_limits: of_slots
            .map(|(slot, plugin)| {
                let limits = SlotLimits {
                    limits: plugin.limits(),
                    entities_per_instance: plugin.entities_per_instance,
                };
                (slot, limits)
            })
            .collect(),
        record_bytes_max: log.record_bytes_max(),
    };
    Ok((Arc::new(pipeline), layout))
}

/// Tries a step again that failed because the log does not answer: brokers that
/// were there a moment ago may be about to elect leaders.
fn patiently<T>(
    stop: &CancellationToken,
    mut step: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        let error = match step() {
            Err(error) if may_pass(&error) => error,
            done => return done,
        };
        if stop.is_cancelled() || started.elapsed() >= START_PATIENCE {
            return Err(error);
        }
        tracing::warn!(code = "log-unavailable", %error, "record log not available at the start, trying again");
        std::thread::sleep(START_RETRY);
    }
}

fn may_pass(error: &anyhow::Error) -> bool {
    let mut of_log = error.chain().filter_map(|cause| cause.downcast_ref());
    matches!(of_log.next(), Some(LogError::Unavailable { .. }))
}

fn check_partitioner(name: &str, settings: &PipelineConfig, partitions: u32) -> anyhow::Result<()> {
    let partitioner = &settings.partitioner;
    partitioner
        .check(partitions)
        .map_err(|problem| coded!("config-invalid", "pipelines.{name}.partitioner: {problem}"))?;
    if partitioner.fallback == Method::Random && partitions > 1 {
        tracing::warn!(
            pipeline = name,
            "the partitioner is random: events of one key have no order, each partition has its own entity of the key, and retries are not recognized"
        );
    }
    Ok(())
}

fn processing(config: &Config, plugin: &PluginConfig) -> WorkerSettings {
    let worker = &config.worker;
    let workers = if worker.workers > 0 {
        worker.workers
    } else {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u32::try_from(cores).unwrap_or(1)
    };
    WorkerSettings {
        workers,
        commit_interval: worker.commit_interval,
        commit_bytes_max: bytes(worker.commit_bytes_max),
        poll_bytes_max: bytes(worker.poll_bytes_max),
        call_events_max: worker.call_events_max,
        call_bytes_max: bytes(worker.call_bytes_max),
        entities_per_instance: plugin.entities_per_instance,
        entities_open_max: worker.entities_open_max.div_ceil(workers as usize),
        entity_idle: worker.entity_idle,
        drain_deadline: worker.drain_deadline,
        confirm_after: config.slots.confirm_after,
    }
}

fn door(pipeline: &Pipeline, name: &str, settings: &PipelineConfig) -> anyhow::Result<Door> {
    Ok(Door {
        pipeline: pipeline.name.clone(),
        topic: pipeline.input.clone(),
        partitions: pipeline.partitions,
        partitioner: Arc::new(settings.partitioner.clone()),
        key: KeyRule::new(settings.key.as_str())
            .or_fail_with("config-invalid", || format!("pipelines.{name}.key"))?,
        schema: (name == SCORES).then_some(Schema::Score),
        mark: pipeline.identity.mark(),
    })
}

impl Operator for Overview {
    fn ask(
        &self,
        pipeline: &str,
        slot: SlotName,
        what: What,
    ) -> Result<oneshot::Receiver<RequestResult>, AskError> {
        let working = self.working(pipeline);
        let working = working.ok_or_else(|| AskError::NoSuchPipeline(pipeline.to_owned()))?;
        working.asks.ask(slot, what)
    }

    fn plugin_bytes_max(&self, pipeline: &str, slot: &SlotName) -> Option<usize> {
        let working = self.working(pipeline)?;
        Some(working.pipeline.limits_of(slot).plugin_bytes_max)
    }

    fn plugins(&self) -> PluginsView {
        PluginsView {
            slots: self
                .pipelines
                .iter()
                .flat_map(|working| working.slots.lock().values().cloned().collect::<Vec<_>>())
                .collect(),
        }
    }

    fn groups(&self) -> GroupsView {
        GroupsView {
            groups: self
                .pipelines
                .iter()
                .map(|working| self.group(working))
                .collect(),
        }
    }

    fn figures(&self, out: &mut Exposition) {
        usage::disk(&self.data_dir, out);
        for (working, told) in self.pipelines.iter().zip(self.asked.ask()) {
            let seen = Seen {
                pipeline: &working.pipeline,
                status: &working.status,
                slots: &working.slots,
                letters: &working.letters,
                told,
            };
            seen.collect(out);
        }
    }

    fn traced(&self, pipeline: &str) -> Option<Arc<EntityHistory>> {
        let mut all = self.pipelines.iter();
        let working = all.find(|working| *working.pipeline.name == *pipeline)?;
        Some(Arc::clone(&working.traced))
    }

    fn backup(&self) -> Result<Source, LogError> {
        Ok(Source::new(&self.data_dir, self.log.backup()?))
    }

    fn letters(&self, pipeline: &str) -> Option<Arc<DeadLetters>> {
        let mut pipelines = self.pipelines.iter();
        let working = pipelines.find(|working| &*working.pipeline.name == pipeline)?;
        Some(Arc::clone(&working.letters))
    }

    fn not_ready(&self) -> Vec<NotReady> {
        let mut reasons = Vec::new();
        for working in &self.pipelines {
            let waits = working.slots.lock().values().any(|slot| {
                slot.key.is_none() && slot.plugin.is_none() && slot.state != SlotState::Active
            });
            let name = &working.pipeline.name;
            if waits {
                reasons.push(NotReady {
                    code: "plugin-missing".into(),
                    reason: format!("pipeline {name} waits for its plugin, default.wasm"),
                });
                continue;
            }
            if let Some((code, reason)) = working.status.topics_gone() {
                reasons.push(NotReady {
                    code: code.into(),
                    reason: format!("pipeline {name}: {reason}"),
                });
                continue;
            }
            for (partition, status) in working.status.all() {
                // A partition that processes events again is at work, too.
                let is_at_work = matches!(
                    status.state,
                    PartitionState::Running | PartitionState::Redoing
                );
                if !is_at_work || status.code.is_some() {
                    reasons.push(NotReady {
                        code: status.code.unwrap_or("partition-stopped").into(),
                        reason: format!(
                            "pipeline {name}, partition {partition}: {}",
                            status.reason.unwrap_or_default()
                        ),
                    });
                }
            }
        }
        reasons
    }
}

impl Overview {
    fn working(&self, pipeline: &str) -> Option<&Working> {
        let mut pipelines = self.pipelines.iter();
        pipelines.find(|working| &*working.pipeline.name == pipeline)
    }

    /// The pipeline whose input has other partitions than it started with, or
    /// whose group has another layout, in words. Where the log does not answer, the
    /// next look asks again.
    fn other_layout(&self) -> Option<String> {
        self.pipelines.iter().find_map(|working| {
            let Pipeline {
                name,
                input,
                partitions,
                ..
            } = &*working.pipeline;
            if let Ok(now) = self.log.partitions(input)
                && now != *partitions
            {
                return Some(format!(
                    "pipeline {name}: topic {input} had {partitions} partitions, and has {now}"
                ));
            }
            let reason = working.layout.other(&*self.log).ok().flatten()?;
            Some(format!(
                "pipeline {name}: another host has given its group another layout: {reason}"
            ))
        })
    }

    fn group(&self, working: &Working) -> GroupView {
        let pipeline = &working.pipeline;
        let status = self
            .log
            .group_status(&pipeline.group, &pipeline.input)
            .unwrap_or_default();
        let bounds = self.log.bounds(&pipeline.input).unwrap_or_default();
        let held = working.status.all();
        let partitions: Vec<PartitionView> = bounds
            .iter()
            .zip(0_u32..)
            .map(|(bounds, number)| {
                let id = PartitionId(number);
                let committed = status.committed.get(&id).copied();
                let next = committed.unwrap_or(bounds.start);
                let here = held.get(&id);
                PartitionView {
                    partition: number,
                    state: here.map_or(PartitionState::Elsewhere, |here| here.state),
                    code: here.and_then(|here| here.code.map(Into::into)),
                    reason: here.and_then(|here| here.reason.clone()),
                    committed: committed.map(|offset| offset.0),
                    end: bounds.end.0,
                    lag: bounds.end.0.saturating_sub(next.0),
                    member: status
                        .members
                        .iter()
                        .find(|member| member.partitions.contains(&id))
                        .map(|member| member.member.clone()),
                }
            })
            .collect();
        GroupView {
            pipeline: pipeline.name.to_string(),
            group: pipeline.group.to_string(),
            input: pipeline.input.to_string(),
            members: status
                .members
                .into_iter()
                .map(|member| MemberView {
                    member: member.member,
                    host: member.host,
                    partitions: member.partitions.iter().map(|id| id.0).collect(),
                })
                .collect(),
            lag: partitions.iter().map(|partition| partition.lag).sum(),
            partitions,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use courtside_log::{
        Cleanup, TopicSpec,
        conformance::{record, wait},
    };
    use courtside_types::{NewRecord, Offset, PartitionId, Topic};

    use super::*;

    /// A stopped host's group still needs events, though its last commit is old.
    #[test]
    fn a_command_that_opens_the_log_deletes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: dir.path().to_owned(),
            ..Config::default()
        };
        config.log.cleanup_interval = Duration::from_millis(10);
        let topic: Topic = "scores".into();
        let log = open_admin(&config, true).unwrap();
        let cleanup = Cleanup::Delete {
            retention: Some(Duration::from_secs(1)),
            retention_bytes: None,
        };
        log.ensure_topics(&[TopicSpec {
            name: topic.clone(),
            partitions: Some(1),
            cleanup,
        }])
        .unwrap();
        let old = NewRecord {
            timestamp_ms: 1,
            ..record("k", "old")
        };
        for position in wait(log.append(&topic, vec![(PartitionId(0), old)]).unwrap()) {
            position.unwrap();
        }

        let start = |log: &dyn RecordLog| log.bounds(&topic).unwrap()[0].start;
        thread::sleep(config.log.cleanup_interval * 50);
        assert_eq!(start(&*log), Offset(0));
        log.close();

        let log = open_log(&config).unwrap();
        while start(&*log) == Offset(0) {
            thread::sleep(config.log.cleanup_interval);
        }
        log.close();
    }
}
