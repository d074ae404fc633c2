//! The removal of plugins that nobody needs: from the topic, and from the disk.

use std::{collections::BTreeSet, time::Instant};

use courtside_log::LogError;
use courtside_process::clock::now_ms;
use courtside_types::{Digest, Key};
use jiff::Timestamp;

use super::ManagerLoop;
use crate::slots::{rehearsal::digest_of, topic::Presence};

/// Where the host has more copies than this, the manager looks which are needed.
const COPIES_MAX: usize = 64;
const PAGE: usize = 256;

impl ManagerLoop {
    /// Takes plugins that nobody needs out of the topic, and their copies off the disk.
    pub(super) fn tidy(&mut self) {
        let now = Instant::now();
        if !self.group.is_caught_up() || !self.unused.begin_look(now) {
            return;
        }
        self.forget_hosts();
        let mut named = self.group.records().named();
        named.extend(self.slots.digests());
        let shared: BTreeSet<Digest> = self.setup.library.shared().into_iter().collect();
        let due = self.unused.due(&shared, &named, now);
        let copies = self.setup.library.store.count().unwrap_or(0);
        if due.is_empty() && copies <= COPIES_MAX {
            return;
        }
        let in_checkpoints = match self.named_by_checkpoints() {
            Ok(in_checkpoints) => in_checkpoints,
            Err(error) => {
                tracing::debug!(code = error.code(), %error, "checkpoints cannot be read, so unused plugins are kept");
                return;
            }
        };
        for digest in due {
            if in_checkpoints.contains(&digest) {
                self.unused.renew(digest, now);
            } else if let Err(error) = self.setup.library.unshare(digest) {
                tracing::debug!(digest = %digest.short(), %error, "unused plugin cannot be removed from the group's topic");
            } else {
                tracing::info!(topic = %self.group.topic(), digest = %digest.short(), "unused plugin removed from the group's topic");
            }
        }
        if copies > COPIES_MAX {
            self.keep_copies(in_checkpoints);
        }
    }

    /// Keeps only the copies of plugins that run, that checkpoints name, or that a
    /// rollback would need.
    pub(super) fn keep_copies(&self, mut named: BTreeSet<Digest>) {
        named.extend(self.slots.digests());
        named.extend(self.group.records().on_trial(now_ms()));
        if let Err(error) = self.setup.library.store.retain(&named) {
            tracing::warn!(pipeline = %self.setup.pipeline.name, %error, "old copies of plugins cannot be removed");
        }
    }

    /// Takes the last messages of hosts that are long gone out of the topic.
    fn forget_hosts(&self) {
        let gone = self.group.records().long_gone(Timestamp::now());
        for (host, slot) in gone {
            if let Err(error) = self.group.write(Presence::withdrawn(&host, &slot)) {
                tracing::debug!(%host, %error, "record of a stopped host cannot be removed from the group's topic");
            }
        }
    }

    /// The plugins that the checkpoints of this host's partitions name.
    fn named_by_checkpoints(&self) -> Result<BTreeSet<Digest>, LogError> {
        let mut named = BTreeSet::new();
        for partition in &self.setup.partitions {
            let mut after: Option<Key> = None;
            loop {
                if self.is_stopping() {
                    return Err(LogError::Unavailable {
                        reason: "the host stops".to_owned(),
                    });
                }
                let page = self
                    .setup
                    .checkpoints
                    .scan(*partition, after.as_deref(), PAGE)?;
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                named.extend(page.iter().filter_map(|(key, bytes)| digest_of(key, bytes)));
            }
        }
        Ok(named)
    }
}
