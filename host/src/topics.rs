//! The topics of the configured pipelines: what each is for, and how it is
//! created. A host makes them at its start, and `courtside topics create` before.

use courtside_engine::{
    dead_letters::{self, notes},
    pipeline::{
        kept::{Keep, KeptTopic},
        layout,
    },
    slots,
};
use courtside_log::{Cleanup, LogError, RecordLog, TopicSpec, admin::Admin};
use courtside_types::{Topic, failure::Failure};

use crate::config::{Config, PipelineConfig};

/// The purpose of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Input,
    Output,
    DeadLetter,
    Checkpoints,
    /// The layout that the group was created with.
    Layout,
    /// Which plugins took over where, and their bytes.
    Plugins,
    /// Which dead letters were redriven.
    Redrive,
}

impl Role {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::DeadLetter => "dead-letter",
            Self::Checkpoints => "checkpoints",
            Self::Layout => "layout",
            Self::Plugins => "plugins",
            Self::Redrive => "redrive",
        }
    }
}

/// A topic that a pipeline reads or writes.
#[derive(Clone, Debug)]
pub struct PipelineTopic {
    pub pipeline: String,
    pub group: String,
    pub role: Role,
    /// The topic's settings. Its partitions are as configured; `None` where other
    /// topics decide.
    pub spec: TopicSpec,
}

/// The topics of all pipelines. A topic that is one pipeline's output and another's
/// input is there twice.
#[must_use]
pub fn all(config: &Config, log: &dyn Admin) -> Vec<PipelineTopic> {
    let mut topics = Vec::new();
    for (name, settings) in &config.pipelines {
        let group = config.group(name);
        let mut add = |role, spec| {
            topics.push(PipelineTopic {
                pipeline: name.clone(),
                group: group.clone(),
                role,
                spec,
            });
        };
        add(Role::Input, input(config, settings));
        for output in settings.written() {
            add(Role::Output, kept(config, output, None));
        }
        let dead_letter = dead_letters::topic(&group);
        add(Role::DeadLetter, spec(dead_letter, None, deleted(config)));
        if let Some(checkpoints) = log.checkpoints_topic(&group) {
            add(Role::Checkpoints, checkpoints);
        }
        add(Role::Layout, layout::topic(&group));
        add(Role::Plugins, plugins(config, &group));
        add(Role::Redrive, redrive(config, &group, None));
    }
    topics
}

/// The settings, partitions included, that the pipelines need of a topic that is about
/// to be created; `None` where no pipeline has it. `wanted` partitions are refused
/// where a host would not start with them.
pub fn needs(
    known: &[PipelineTopic],
    log: &dyn RecordLog,
    topic: &str,
    wanted: Option<u32>,
) -> Result<Option<TopicSpec>, LogError> {
    let mut needs: Option<TopicSpec> = None;
    for one in known.iter().filter(|one| &*one.spec.name == topic) {
        let partitions = match one.spec.partitions {
            Some(partitions) => Some(partitions),
            None => input_partitions(known, log, one)?,
        };
        // An output may have as many partitions as its readers like.
        if let (Some(partitions), Some(wanted)) = (partitions, wanted)
            && partitions != wanted
            && one.role != Role::Output
        {
            return Err(LogError::Mismatch {
                topic: one.spec.name.clone(),
                what: "partitions",
                actual: wanted.to_string(),
                wanted: partitions.to_string(),
                remedy: "leave out --partitions".to_owned(),
            });
        }
        let spec = needs.get_or_insert_with(|| one.spec.clone());
        // A role that must have this number of partitions goes before an output.
        if spec.partitions.is_none() || one.role != Role::Output {
            spec.partitions = partitions.or(spec.partitions);
        }
    }
    Ok(needs)
}

/// The partitions that the input of a topic's pipeline has, or will have.
fn input_partitions(
    known: &[PipelineTopic],
    log: &dyn RecordLog,
    of: &PipelineTopic,
) -> Result<Option<u32>, LogError> {
    let mut inputs = known
        .iter()
        .filter(|one| one.role == Role::Input && one.pipeline == of.pipeline);
    let Some(input) = inputs.next().filter(|_| of.role != Role::Input) else {
        return Ok(None);
    };
    match log.partitions(&input.spec.name) {
        Ok(partitions) => Ok(Some(partitions)),
        Err(LogError::NoSuchTopic { .. }) => Ok(input.spec.partitions),
        Err(error) => Err(error),
    }
}

/// Creates a pipeline's input where it is missing; an input that is there must be as
/// configured. Returns its number of partitions.
pub fn ensure_input(
    config: &Config,
    settings: &PipelineConfig,
    log: &dyn RecordLog,
) -> anyhow::Result<u32> {
    create_input(config, settings, log).map_err(|error| Failure::of(error).into())
}

/// Creates the topics that a pipeline writes where they are missing, once its input is
/// there; topics that are there must be as configured.
pub fn ensure_others(
    config: &Config,
    pipeline: &str,
    settings: &PipelineConfig,
    log: &dyn RecordLog,
) -> anyhow::Result<()> {
    create_others(config, pipeline, settings, log).map_err(|error| Failure::of(error).into())
}

/// The pipelines' names, the writers of a topic before its readers, so that the
/// pipeline that makes a topic is the one that decides its number of partitions.
#[must_use]
pub fn in_order(config: &Config) -> Vec<&str> {
    let mut waiting: Vec<(&str, &PipelineConfig)> = config
        .pipelines
        .iter()
        .map(|(name, pipeline)| (name.as_str(), pipeline))
        .collect();
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let free = waiting.iter().position(|(_, reader)| {
            !waiting
                .iter()
                .any(|(_, writer)| writer.writes(&reader.input.topic))
        });
        // In a ring no pipeline is first, so any may be.
        let (name, _) = waiting.remove(free.unwrap_or(0));
        ordered.push(name);
    }
    ordered
}

/// Creates the missing topics of all pipelines.
pub fn ensure_of_all(config: &Config, log: &dyn Admin) -> Result<(), LogError> {
    for name in in_order(config) {
        if let Some(settings) = config.pipelines.get(name) {
            create_input(config, settings, log)?;
            create_others(config, name, settings, log)?;
            let group = config.group(name);
            log.ensure_group(&group, &settings.input.topic.as_str().into())?;
            log.ensure_topics(&[layout::topic(&group)])?;
        }
    }
    Ok(())
}

fn create_input(
    config: &Config,
    settings: &PipelineConfig,
    log: &dyn RecordLog,
) -> Result<u32, LogError> {
    let input = input(config, settings);
    log.ensure_topics(std::slice::from_ref(&input))?;
    log.partitions(&input.name)
}

fn create_others(
    config: &Config,
    pipeline: &str,
    settings: &PipelineConfig,
    log: &dyn RecordLog,
) -> Result<(), LogError> {
    let partitions = log.partitions(&settings.input.topic.as_str().into())?;
    let group = config.group(pipeline);
    let letters = dead_letters::topic(&group);
    let mut specs = vec![
        spec(letters, Some(partitions), deleted(config)),
        plugins(config, &group),
        redrive(config, &group, Some(partitions)),
    ];
    for output in settings.written() {
        // An output that is there (another pipeline's input, say) has its partitions.
        let missing = match log.partitions(&output.topic.as_str().into()) {
            Ok(_) => false,
            Err(LogError::NoSuchTopic { .. }) => true,
            Err(error) => return Err(error),
        };
        specs.push(kept(config, output, missing.then_some(partitions)));
    }
    log.ensure_topics(&specs)
}

fn plugins(config: &Config, group: &str) -> TopicSpec {
    spec(slots::topic::name(group), Some(1), compacted(config))
}

fn redrive(config: &Config, group: &str, partitions: Option<u32>) -> TopicSpec {
    spec(notes::topic(group), partitions, compacted(config))
}

fn input(config: &Config, settings: &PipelineConfig) -> TopicSpec {
    kept(config, &settings.input, settings.partitions)
}

fn kept(config: &Config, topic: &KeptTopic, partitions: Option<u32>) -> TopicSpec {
    let cleanup = match topic.keep {
        Keep::Latest => compacted(config),
        Keep::All => deleted(config),
    };
    spec(topic.topic.as_str().into(), partitions, cleanup)
}

fn spec(name: Topic, partitions: Option<u32>, cleanup: Cleanup) -> TopicSpec {
    TopicSpec {
        name,
        partitions,
        cleanup,
    }
}

fn deleted(config: &Config) -> Cleanup {
    Cleanup::Delete {
        retention: Some(config.topics.retention),
        retention_bytes: Some(config.topics.retention_bytes.as_u64()).filter(|bytes| *bytes > 0),
    }
}

fn compacted(config: &Config) -> Cleanup {
    Cleanup::Compact {
        tombstone_retention: config.topics.tombstone_retention,
    }
}

#[cfg(test)]
mod tests {
    use courtside_log::{
        conformance::deleted,
        embedded::{Embedded, EmbeddedConfig},
    };

    use super::*;

    #[test]
    fn what_is_created_by_name_has_the_partitions_of_its_input() {
        let dir = tempfile::tempdir().unwrap();
        let log = Embedded::open(dir.path(), EmbeddedConfig::default()).unwrap();
        let of = |name: &str, role, partitions| PipelineTopic {
            pipeline: "p".to_owned(),
            group: "g".to_owned(),
            role,
            spec: TopicSpec {
                partitions,
                ..deleted(&name.into(), 1)
            },
        };
        let known = [
            of("in", Role::Input, Some(3)),
            of("out", Role::Output, None),
            of("g.dead-letter", Role::DeadLetter, None),
            of("g.checkpoints", Role::Checkpoints, None),
            of("g.pipeline", Role::Layout, Some(1)),
            of("g.plugins", Role::Plugins, Some(1)),
            of("g.redrive", Role::Redrive, None),
        ];
        let asked = |topic: &str, wanted| {
            let needs = needs(&known, &*log, topic, wanted);
            needs.map(|needs| needs.unwrap().partitions)
        };
        assert_eq!(needs(&known, &*log, "audit", Some(2)), Ok(None));
        // The input will have 3 partitions, and is then created with 5.
        assert_eq!(asked("g.checkpoints", None), Ok(Some(3)));
        log.ensure_topics(&[deleted(&"in".into(), 5)]).unwrap();
        for topic in ["out", "g.dead-letter", "g.checkpoints"] {
            assert_eq!(asked(topic, None), Ok(Some(5)), "{topic}");
            assert_eq!(asked(topic, Some(5)), Ok(Some(5)), "{topic}");
        }
        assert_eq!(asked("out", Some(7)), Ok(Some(5)));
        for topic in [
            "in",
            "g.dead-letter",
            "g.checkpoints",
            "g.pipeline",
            "g.plugins",
            "g.redrive",
        ] {
            let error = asked(topic, Some(7)).unwrap_err();
            assert_eq!(error.code(), "topic-mismatch", "{topic}");
        }
    }
}
