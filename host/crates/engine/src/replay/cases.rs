//! The replays that a recording allows: with the plugins that ran, or with another.

use std::{collections::BTreeMap, sync::Arc};

use courtside_plugin_host::{Compiler, Plugin};
use courtside_types::{Digest, Key, Offset, Record};

use super::{
    error::ReplayError,
    line::{Line, Malformed},
    recording::Recording,
    redone,
    run::Case,
    timeline::Stretch,
};

impl Recording {
    /// The replay with the plugins that ran.
    pub fn case(&self, compiler: &dyn Compiler) -> Result<Case, ReplayError> {
        let stretches = self.timeline().0;
        if stretches.is_empty() && !self.events.is_empty() {
            return Err(ReplayError::PluginUnknown {
                key: self.key.clone(),
            });
        }
        let mut compiled: BTreeMap<Digest, Arc<dyn Plugin>> = BTreeMap::new();
        let mut plugins = Vec::new();
        for Stretch { from, digest } in stretches {
            let plugin = match compiled.get(&digest) {
                Some(plugin) => Arc::clone(plugin),
                None => {
                    let bytes = self
                        .plugins
                        .get(&digest)
                        .ok_or(ReplayError::PluginUnavailable { digest, from })?;
                    let plugin = compiler.compile(bytes, &self.pipeline.limits.limits())?;
                    compiled.insert(digest, Arc::clone(&plugin));
                    plugin
                }
            };
            plugins.push((from, plugin));
        }
        self.with(plugins)
    }

    /// The replay with one plugin all along.
    pub fn case_with(&self, plugin: &Arc<dyn Plugin>) -> Result<Case, ReplayError> {
        self.with(vec![(Offset(0), Arc::clone(plugin))])
    }

    fn with(&self, plugins: Vec<(Offset, Arc<dyn Plugin>)>) -> Result<Case, ReplayError> {
        let events: Result<Vec<Record>, Malformed> =
            self.events.iter().map(Line::to_record).collect();
        Ok(Case {
            pipeline: Arc::new(self.pipeline.to_pipeline()?),
            partition: self.partition(),
            key: Key::copy_from_slice(self.key.as_bytes()),
            plugins,
            redone: redone::of(self),
            events: events?,
        })
    }
}
