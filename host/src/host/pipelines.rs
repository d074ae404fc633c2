//! The start of a pipeline: its topics and group in the log, its workers, and its
//! slots.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_engine::{
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
        library::Library,
        manager::{Manager, Setup},
        store::PluginStore,
    },
    worker::{status::PipelineStatus, thread::Worker},
};
use courtside_http::ingest::{Endpoint, KeyRule, Schema};
use courtside_log::{LogError, RecordLog, partitioner::Method};
use courtside_plugin_host::Compiler;
use courtside_types::{
    PartitionId, Topic, coded,
    failure::{ErrorCode as _, Failure, OrFail as _},
    usize_of,
};
use tokio_util::sync::CancellationToken;

use super::overview::Working;
use crate::{
    config::{Config, PipelineConfig, PluginConfig, SCORES},
    topics,
};

/// How long a host that has reached its log once waits for it while it starts.
const START_PATIENCE: Duration = Duration::from_secs(120);
const START_RETRY: Duration = Duration::from_secs(1);

/// The parts of the host that a pipeline is started with.
pub struct Starter<'a> {
    pub config: &'a Config,
    pub log: Arc<dyn RecordLog>,
    pub compiler: Arc<dyn Compiler>,
    pub stop: &'a CancellationToken,
}

/// A pipeline whose threads have started.
pub struct Started {
    pub working: Working,
    pub workers: Vec<Worker>,
    pub manager: Manager,
}

impl Starter<'_> {
    /// Prepares a pipeline's layout, topics and group in the log.
    pub fn prepare(
        &self,
        name: &str,
        settings: &PipelineConfig,
    ) -> anyhow::Result<(Arc<Pipeline>, Layout)> {
        patiently(self.stop, || {
            pipeline(self.config, name, settings, &*self.log)
        })
    }

    /// Starts the workers and the slots of a pipeline.
    pub fn start(&self, pipeline: Arc<Pipeline>, layout: Layout) -> anyhow::Result<Started> {
        let log = &self.log;
        let status = Arc::new(PipelineStatus::default());
        let mut workers = Vec::new();
        for number in 0..pipeline.settings.workers {
            workers.push(patiently(self.stop, || {
                Ok(Worker::start(log, &pipeline, &status, number).map_err(Failure::of)?)
            })?);
        }
        let store = self.config.data_dir.join("plugins").join(&*pipeline.name);
        let topic = slots::topic::place(&pipeline.group);
        let checkpoints = log.checkpoints(&pipeline.group).map_err(Failure::of)?;
        let store = PluginStore::open(&store).or_fail_with("plugin-store-failed", || {
            format!("{} cannot be used", store.display())
        })?;
        let library = Arc::new(Library::new(store, Arc::clone(log), topic.topic.clone()));
        let manager = Manager::start(Setup {
            compiler: Arc::clone(&self.compiler),
            checkpoints: Arc::clone(&checkpoints),
            partitions: (0..pipeline.partitions).map(PartitionId).collect(),
            workers: workers
                .iter()
                .map(|worker| worker.orders().clone())
                .collect(),
            dir: self.config.plugin_dir.join(&*pipeline.name),
            library: Arc::clone(&library),
            log: Arc::clone(log),
            topic,
            status: Arc::clone(&status),
            config: self.config.slots.clone(),
            pipeline: Arc::clone(&pipeline),
        })
        .or_fail("start-failed", "the thread of the slots cannot start")?;
        let traced = EntityHistory {
            partitioner: layout.partitioner.clone(),
            checkpoints,
            status: Arc::clone(&status),
            slots: manager.views(),
            pipeline: Arc::clone(&pipeline),
            library,
        };
        Ok(Started {
            working: Working {
                traced: Arc::new(traced),
                layout: layout::Watch::new(&pipeline.group, layout),
                letters: DeadLetters::new(Arc::clone(log), Arc::clone(&pipeline)),
                pipeline,
                status,
                slots: manager.views(),
                requests: manager.requests(),
            },
            workers,
            manager,
        })
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
    let plugins = slots::topic::place(&group);
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
        commit_bytes_max: usize_of(worker.commit_bytes_max),
        poll_bytes_max: usize_of(worker.poll_bytes_max),
        call_events_max: worker.call_events_max,
        call_bytes_max: usize_of(worker.call_bytes_max),
        entities_per_instance: plugin.entities_per_instance,
        entities_open_max: worker.entities_open_max.div_ceil(workers as usize),
        entity_idle: worker.entity_idle,
        drain_deadline: worker.drain_deadline,
        confirm_after: config.slots.confirm_after,
    }
}

pub fn endpoint(pipeline: &Pipeline, settings: &PipelineConfig) -> anyhow::Result<Endpoint> {
    let name = &*pipeline.name;
    Ok(Endpoint {
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
