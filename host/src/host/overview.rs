//! The running host, as requests over HTTP see it.

use std::{path::PathBuf, sync::Arc};

use courtside_engine::{
    backup::source::Source,
    dead_letters::DeadLetters,
    pipeline::{Pipeline, layout},
    replay::trace::EntityHistory,
    slots::{
        manager::{RequestSender, SlotViews},
        request::{RequestError, RequestKind, RequestResult},
        view::{GroupView, GroupsView, MemberView, PartitionView, PluginsView, SlotState},
    },
    worker::status::{PartitionState, PipelineStatus},
};
use courtside_http::{
    Operator,
    gauges::{log_gauges::LogGauges, pipelines::PipelineReport},
};
use courtside_log::{LogError, RecordLog};
use courtside_process::{exposition::Exposition, usage};
use courtside_types::{NotReady, PartitionId, slot_name::SlotName};
use tokio::sync::oneshot;

/// A pipeline at work.
pub struct Working {
    pub pipeline: Arc<Pipeline>,
    pub status: Arc<PipelineStatus>,
    pub slots: SlotViews,
    pub letters: Arc<DeadLetters>,
    pub requests: RequestSender,
    pub layout: layout::Watch,
    pub traced: Arc<EntityHistory>,
}

/// The parts of a host that its HTTP server may ask.
pub struct Overview {
    pub log: Arc<dyn RecordLog>,
    /// Asks the log for the figures of `/metrics`.
    pub log_gauges: Arc<LogGauges>,
    pub data_dir: PathBuf,
    pub pipelines: Vec<Working>,
}

impl Operator for Overview {
    fn ask(
        &self,
        pipeline: &str,
        slot: SlotName,
        kind: RequestKind,
    ) -> Result<oneshot::Receiver<RequestResult>, RequestError> {
        let working = self.working(pipeline);
        let working = working.ok_or_else(|| RequestError::NoSuchPipeline(pipeline.to_owned()))?;
        working.requests.send(slot, kind)
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

    fn gauges(&self, out: &mut Exposition) {
        usage::disk(&self.data_dir, out);
        for (working, log_answer) in self.pipelines.iter().zip(self.log_gauges.ask()) {
            let report = PipelineReport {
                pipeline: &working.pipeline,
                status: &working.status,
                slots: &working.slots,
                letters: &working.letters,
                log_answer,
            };
            report.collect(out);
        }
    }

    fn traced(&self, pipeline: &str) -> Option<Arc<EntityHistory>> {
        Some(Arc::clone(&self.working(pipeline)?.traced))
    }

    fn backup(&self) -> Result<Source, LogError> {
        Ok(Source::new(&self.data_dir, self.log.backup()?))
    }

    fn letters(&self, pipeline: &str) -> Option<Arc<DeadLetters>> {
        Some(Arc::clone(&self.working(pipeline)?.letters))
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
    pub fn other_layout(&self) -> Option<String> {
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
