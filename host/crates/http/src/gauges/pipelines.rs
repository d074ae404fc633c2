//! The figures of pipelines: their groups, the partitions that this host has, their
//! slots.
//!
//! Every host has the same figures of a group's members and of the partitions that
//! nobody has. All other figures are of this host alone, so that sums over hosts are
//! right.

use courtside_engine::{
    dead_letters::{DeadLetters, view::RedriveState},
    pipeline::Pipeline,
    slots::{
        manager::SlotViews,
        view::{FileState, SlotState, SlotView},
    },
    worker::status::{PartitionState, PipelineStatus},
};
use courtside_plugin_host::FailureKind;
use courtside_process::exposition::{Exposition, Metric};
use courtside_types::PartitionId;

use super::log_gauges::LogAnswer;

static COMMITTED: Metric = Metric::gauge(
    "courtside_committed_offset",
    "The offset of the next record to process, by partition.",
);
static END: Metric = Metric::gauge(
    "courtside_end_offset",
    "The offset of the next record to be appended, by partition.",
);
static LAG: Metric = Metric::gauge(
    "courtside_lag",
    "Records appended and not processed, by partition.",
);
static EVENTS: Metric = Metric::counter(
    "courtside_events_processed_total",
    "Events whose processing is committed, duplicates and dead letters among them.",
);
static COMMITS: Metric = Metric::counter(
    "courtside_partition_commits_total",
    "Commits that moved a partition's offset.",
);
static PARTITIONS: Metric = Metric::gauge(
    "courtside_partitions",
    "Partitions that this host has, by state.",
);
static BLOCKED: Metric = Metric::gauge(
    "courtside_partition_blocked",
    "1 for a partition of this host that is not processed, with its state and the code of the reason.",
);
static MEMBERS: Metric = Metric::gauge(
    "courtside_group_members",
    "Members of the group, which are workers of all hosts.",
);
static UNASSIGNED: Metric = Metric::gauge(
    "courtside_partitions_unassigned",
    "Partitions of the input that no member of the group has.",
);
static LOG_ANSWERS: Metric = Metric::gauge(
    "courtside_log_answers",
    "1 if the log could just now describe the group and the input, otherwise 0.",
);
static SLOT_STATE: Metric = Metric::gauge(
    "courtside_slot_state",
    "1 for the state that a slot is in, 0 for the others.",
);
static SLOT_FILE: Metric = Metric::gauge(
    "courtside_slot_file",
    "1 for the state of the slot's file in the plugin directory, 0 for the others.",
);
static SLOT_AGREED: Metric = Metric::gauge(
    "courtside_slot_agreed",
    "1 where all hosts run the same plugin in a slot.",
);
static PLUGIN: Metric = Metric::gauge(
    "courtside_plugin_info",
    "1, with the plugin that runs in a slot as labels.",
);
static CALLS: Metric = Metric::counter(
    "courtside_plugin_calls_total",
    "Calls of plugins with events.",
);
static CALL_TIME: Metric = Metric::counter(
    "courtside_plugin_call_seconds_total",
    "Time that these calls took.",
);
static CALL_EVENTS: Metric = Metric::counter(
    "courtside_plugin_events_total",
    "Events that plugins were called with, those that were tried again among them.",
);
static REFUSALS: Metric = Metric::counter(
    "courtside_plugin_refusals_total",
    "Events that plugins refused.",
);
static FAILURES: Metric = Metric::counter(
    "courtside_plugin_failures_total",
    "Calls of plugins that failed, by code: traps, deadlines, limits.",
);
static SLOT_INSTANCES: Metric =
    Metric::gauge("courtside_slot_instances", "Plugin instances of a slot.");
static MEMORY: Metric = Metric::gauge(
    "courtside_plugin_memory_bytes",
    "Linear memory of the instances of a slot's plugin.",
);
static WORKER_CPU: Metric = Metric::counter(
    "courtside_worker_cpu_seconds_total",
    "CPU time of a worker's thread.",
);
static REDRIVING: Metric = Metric::gauge(
    "courtside_redrive_running",
    "1 while this host redrives dead letters.",
);

/// The parts of one pipeline that its figures come from.
pub struct PipelineReport<'a> {
    pub pipeline: &'a Pipeline,
    pub status: &'a PipelineStatus,
    pub slots: &'a SlotViews,
    pub letters: &'a DeadLetters,
    pub log_answer: LogAnswer,
}

impl std::fmt::Debug for PipelineReport<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PipelineReport({})", self.pipeline.name)
    }
}

impl PipelineReport<'_> {
    /// Adds all figures of the pipeline.
    pub fn collect(&self, out: &mut Exposition) {
        let pipeline = ("pipeline", &*self.pipeline.name);
        let redriving = self.letters.progress().state == RedriveState::Running;
        out.flag(&REDRIVING, &[pipeline], redriving);
        for (worker, cpu_time) in self.status.gauges().workers() {
            let labels = [pipeline, ("worker", &worker.to_string())];
            out.add(&WORKER_CPU, &labels, cpu_time.as_secs_f64());
        }
        self.group(out);
        self.partitions(out);
        self.slots(out);
    }

    fn group(&self, out: &mut Exposition) {
        let pipeline = ("pipeline", &*self.pipeline.name);
        let LogAnswer { group, bounds } = &self.log_answer;
        let answers = group.is_some() && bounds.is_some();
        out.flag(&LOG_ANSWERS, &[pipeline], answers);
        let Some(group) = group else {
            return;
        };
        out.count(&MEMBERS, &[pipeline], group.members.len() as u64);
        let is_free = |id: &PartitionId| {
            let mut members = group.members.iter();
            !members.any(|member| member.partitions.contains(id))
        };
        let all = (0..self.pipeline.partitions).map(PartitionId);
        let free = all.filter(is_free).count();
        out.count(&UNASSIGNED, &[pipeline], free as u64);
    }

    fn partitions(&self, out: &mut Exposition) {
        let pipeline = ("pipeline", &*self.pipeline.name);
        let held = self.status.all();
        for state in [
            PartitionState::Running,
            PartitionState::Waiting,
            PartitionState::Redoing,
            PartitionState::Stalled,
            PartitionState::Stopped,
        ] {
            let count = held.values().filter(|one| one.state == state).count();
            let labels = [pipeline, ("state", state.word())];
            out.count(&PARTITIONS, &labels, count as u64);
        }
        for (id, status) in &held {
            if let Some(code) = status.code {
                let labels = [
                    pipeline,
                    ("partition", &id.to_string()),
                    ("state", status.state.word()),
                    ("code", code),
                ];
                out.flag(&BLOCKED, &labels, true);
            }
        }
        for (id, gauges) in self.status.gauges().partitions() {
            let number = id.to_string();
            let labels = [pipeline, ("partition", &number)];
            out.count(&COMMITTED, &labels, gauges.committed.0);
            out.count(&EVENTS, &labels, gauges.events);
            out.count(&COMMITS, &labels, gauges.commits);
            let bounds = self.log_answer.bounds.as_ref();
            if let Some(bounds) = bounds.and_then(|all| all.get(id.0 as usize)) {
                // Records that retention deleted before the commit are no lag.
                let next = gauges.committed.0.max(bounds.start.0);
                out.count(&END, &labels, bounds.end.0);
                out.count(&LAG, &labels, bounds.end.0.saturating_sub(next));
            }
        }
    }

    fn slots(&self, out: &mut Exposition) {
        let pipeline = ("pipeline", &*self.pipeline.name);
        let views = self.slots.lock().clone();
        for (name, view) in &views {
            let slot = name.to_string();
            self.slot(&[pipeline, ("slot", &slot)], view, out);
        }
        let counted = self.status.gauges();
        let mut counted = counted.slots(|name| views.contains_key(name));
        // A slot whose first instance is not made yet has no counters, and gets
        // zeros: a series that began with its first failure would show no increase.
        for name in views.keys() {
            let sums = counted.remove(name).unwrap_or_default();
            let slot = name.to_string();
            let labels = [pipeline, ("slot", &*slot)];
            out.count(&CALLS, &labels, sums.calls);
            out.add(&CALL_TIME, &labels, sums.call_time.as_secs_f64());
            out.count(&CALL_EVENTS, &labels, sums.events);
            out.count(&REFUSALS, &labels, sums.refusals);
            out.count(&SLOT_INSTANCES, &labels, sums.instances);
            out.count(&MEMORY, &labels, sums.memory_bytes);
            for (kind, count) in FailureKind::ALL.into_iter().zip(sums.failures) {
                let labels = [pipeline, ("slot", &*slot), ("code", kind.code())];
                out.count(&FAILURES, &labels, count);
            }
        }
    }

    fn slot(&self, labels: &[(&str, &str); 2], view: &SlotView, out: &mut Exposition) {
        let [pipeline, slot] = *labels;
        for (state, word) in [
            (SlotState::Waiting, "waiting"),
            (SlotState::Loading, "loading"),
            (SlotState::Rehearsing, "rehearsing"),
            (SlotState::Active, "active"),
            (SlotState::Rejected, "rejected"),
        ] {
            let labels = [pipeline, slot, ("state", word)];
            out.flag(&SLOT_STATE, &labels, view.state == state);
        }
        for state in FileState::ALL {
            let labels = [pipeline, slot, ("state", state.word())];
            out.flag(&SLOT_FILE, &labels, view.file.state == state);
        }
        out.flag(&SLOT_AGREED, labels, view.agreed);
        if let Some(plugin) = &view.plugin {
            let labels = [
                pipeline,
                slot,
                ("plugin", &*plugin.name),
                ("version", &*plugin.version),
                ("digest", &*plugin.digest),
            ];
            out.flag(&PLUGIN, &labels, true);
        }
    }
}
