//! Messages of the group's hosts, and of this host to them: the plugin that it runs,
//! and the plugins themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_log::LogError;
use courtside_process::clock::now_ms;
use courtside_types::{Digest, Key, slot_name::SlotName};
use jiff::Timestamp;

use super::{Setup, manager_loop::ManagerLoop};
use crate::worker::status::PartitionState;
use crate::{
    pipeline::Pipeline,
    slots::{
        group::{
            records::GroupRecords,
            swaps::{Swap, SwapHistory},
        },
        rehearsal::digest_of,
        slot::Slot,
        time::timestamp,
        topic::{Presence, tail::Tail},
        view::{HostView, LimitsView, SlotView, SwapKind, SwapView},
    },
    worker::takeover::history::Kind,
};

/// How often a host says what it runs, where nothing changes.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How often the manager looks for plugins that nobody needs any more.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// A plugin that nobody has needed for this long goes.
const UNWANTED_FOR: Duration = Duration::from_secs(60 * 60);
/// Where the topic has more plugins than this, those that nobody needs go sooner.
const SHARED_MAX: usize = 256;
/// Where the host has more copies than this, the manager looks which are needed.
const COPIES_MAX: usize = 64;
/// Swaps of a slot that are shown.
const SWAPS_SHOWN: usize = 32;
const PAGE: usize = 256;

pub(super) struct Group {
    tail: Tail,
    known: GroupRecords,
    /// The last message that this host sent of each slot, and when.
    said: BTreeMap<SlotName, (Presence, Instant)>,
    /// Whether the hosts agreed on each slot at the last look.
    agreed: BTreeMap<SlotName, bool>,
    /// Plugins that nobody needs, and since when.
    unwanted: BTreeMap<Digest, Instant>,
    tidied: Instant,
    pipeline: Arc<Pipeline>,
    fails: bool,
}

impl Group {
    pub fn new(setup: &Setup, now: Instant) -> Self {
        Self {
            tail: Tail::new(Arc::clone(&setup.log), setup.topic.topic.clone()),
            known: GroupRecords::new(setup.config.confirm_after),
            said: BTreeMap::new(),
            agreed: BTreeMap::new(),
            unwanted: BTreeMap::new(),
            tidied: now,
            pipeline: Arc::clone(&setup.pipeline),
            fails: false,
        }
    }

    /// Whether this host has read all messages from before its start.
    pub const fn is_known(&self) -> bool {
        self.tail.is_caught_up()
    }

    pub const fn known(&self) -> &GroupRecords {
        &self.known
    }

    pub const fn known_mut(&mut self) -> &mut GroupRecords {
        &mut self.known
    }

    pub const fn tail(&self) -> &Tail {
        &self.tail
    }

    /// The plugins that a rollback would need.
    pub fn on_trial(&self) -> BTreeSet<Digest> {
        self.known.on_trial(now_ms())
    }

    /// A slot as operators see it.
    pub fn view(&self, name: &SlotName, slot: &Slot) -> SlotView {
        let now = Timestamp::now();
        let mut view = slot.view(LimitsView::of(&self.pipeline, name));
        view.agreed = self.known.is_agreed(name, now);
        let until = slot
            .digest()
            .and_then(|digest| match slot.trial_began_ms() {
                Some(began_ms) => self.known.trial_since(name, Some(digest), began_ms),
                None => self.known.trial_until(name, Some(digest)),
            });
        view.trial_until = until.map(timestamp).filter(|until| *until > now);
        view.hosts = self.known.present(name, now).map(host).collect();
        let swaps = self
            .known
            .swaps(name)
            .into_iter()
            .flat_map(SwapHistory::iter);
        let first = swaps.clone().count().saturating_sub(SWAPS_SHOWN);
        view.swaps_of_group = swaps.skip(first).map(swap).collect();
        view
    }

    /// Logs where hosts have come to agree, or no longer agree.
    fn tell_agreement(&mut self, pipeline: &str, slots: &BTreeMap<SlotName, Slot>) {
        let now = Timestamp::now();
        let hosts = self.known.hosts(now).len();
        for (name, slot) in slots {
            let agree = self.known.is_agreed(name, now);
            let before = self.agreed.insert(name.clone(), agree);
            if hosts < 2 || before == Some(agree) {
                continue;
            }
            let digest = slot.digest().map(|digest| digest.short());
            if agree {
                tracing::info!(slot = %format!("{pipeline}/{name}"), hosts, digest, "all hosts run the same plugin");
            } else {
                tracing::info!(slot = %format!("{pipeline}/{name}"), hosts, digest, "hosts run different plugins");
            }
        }
        self.agreed.retain(|name, _| slots.contains_key(name));
    }
}

fn host(presence: &Presence) -> HostView {
    HostView {
        host: presence.host.to_string(),
        digest: presence.digest.map(|digest| digest.to_string()),
        state: presence.state,
        file: presence.file,
        redoing: presence.redoing,
        at: presence.at,
    }
}

fn swap(swap: &Swap) -> SwapView {
    SwapView {
        kind: match swap.kind {
            Kind::Swap => SwapKind::Swap,
            Kind::Rollback => SwapKind::Rollback,
            Kind::Return => SwapKind::Return,
        },
        digest: swap.digest.map(|digest| digest.to_string()),
        plugin: swap.plugin.to_string(),
        previous: swap.previous.map(|digest| digest.to_string()),
        attempt: swap.attempt,
        at: timestamp(swap.at_ms()),
        partitions: swap
            .places
            .iter()
            .map(|(partition, place)| (partition.to_string(), place.offset.0))
            .collect(),
    }
}

impl ManagerLoop {
    /// Reads the new messages of the group.
    pub fn listen(&mut self) {
        let Group { tail, known, .. } = &mut self.group;
        let (library, stopping) = (&self.setup.library, &self.stopping);
        let stops = || stopping.load(std::sync::atomic::Ordering::Relaxed);
        let read = tail.read(stops, |offset, said| {
            library.hear(offset, &said);
            known.record(said);
        });
        let failed = std::mem::replace(&mut self.group.fails, read.is_err());
        match read {
            Err(error) if !failed => {
                tracing::warn!(topic = %self.setup.topic.topic, code = error.code(), %error, "records of other hosts about plugins cannot be read");
            }
            _ => {}
        }
    }

    /// Tells the group what this host runs, and gives it the plugins that it lacks.
    pub fn speak(&mut self) {
        let now = Instant::now();
        let status = self.setup.status.all();
        let redoing = status
            .values()
            .filter(|status| status.state == PartitionState::Redoing)
            .count();
        for (name, slot) in &self.slots {
            let presence = Presence {
                host: self.setup.pipeline.host.clone(),
                slot: name.clone(),
                digest: slot.digest(),
                state: slot.state(),
                file: slot.file().state,
                redoing: u32::try_from(redoing).unwrap_or(u32::MAX),
                at: Timestamp::now(),
            };
            let is_old = self.group.said.get(name).is_none_or(|(said, at)| {
                let as_before = Presence {
                    at: said.at,
                    ..presence.clone()
                };
                as_before != *said || now.saturating_duration_since(*at) >= SAY_AGAIN_AFTER
            });
            // A message that cannot be sent now is sent at the next look.
            if is_old && self.group.tail.say(presence.record()).is_ok() {
                self.group.said.insert(name.clone(), (presence, now));
            }
        }
        let gone: Vec<SlotName> = self
            .group
            .said
            .keys()
            .filter(|name| !self.slots.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.unsay(&name);
        }
        self.group
            .tell_agreement(&self.setup.pipeline.name, &self.slots);
        if !self.group.is_known() {
            return;
        }
        for digest in self.slots.values().filter_map(Slot::digest) {
            match self.setup.library.share(digest, now) {
                Ok(true) => {}
                // The rest follows at the next look.
                Ok(false) => break,
                Err(error) => {
                    tracing::debug!(digest = %digest.short(), %error, "plugin cannot be written to the group's topic yet");
                    break;
                }
            }
        }
    }

    fn unsay(&mut self, name: &SlotName) {
        let host = &self.setup.pipeline.host;
        if self.group.tail.say(Presence::withdrawn(host, name)).is_ok() {
            self.group.said.remove(name);
        }
    }

    /// Withdraws this host's messages, since the host ends.
    pub fn leave(&mut self) {
        let names: Vec<SlotName> = self.group.said.keys().cloned().collect();
        for name in names {
            self.unsay(&name);
        }
    }

    /// Takes plugins that nobody needs out of the topic, and their copies off the disk.
    pub fn tidy(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.group.tidied) < TIDY_EVERY || !self.group.is_known() {
            return;
        }
        self.group.tidied = now;
        self.forget_hosts();
        let mut named = self.group.known.named();
        named.extend(self.slots.values().filter_map(Slot::digest));
        let shared: BTreeSet<Digest> = self.setup.library.shared().into_iter().collect();
        let due = due(&mut self.group.unwanted, &shared, &named, now);
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
                self.group.unwanted.insert(digest, now);
            } else if let Err(error) = self.setup.library.unshare(digest) {
                tracing::debug!(digest = %digest.short(), %error, "unused plugin cannot be removed from the group's topic");
            } else {
                tracing::info!(topic = %self.setup.topic.topic, digest = %digest.short(), "unused plugin removed from the group's topic");
            }
        }
        if copies > COPIES_MAX {
            self.keep_copies(in_checkpoints);
        }
    }

    /// Takes the last words of hosts that are long gone out of the topic.
    fn forget_hosts(&self) {
        let gone = self.group.known.long_gone(Timestamp::now());
        for (host, slot) in gone {
            if let Err(error) = self.group.tail.say(Presence::withdrawn(&host, &slot)) {
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

/// The shared plugins that nobody has named for long. Where there are too many plugins,
/// those that nobody has named for the longest are due sooner.
fn due(
    unwanted: &mut BTreeMap<Digest, Instant>,
    shared: &BTreeSet<Digest>,
    named: &BTreeSet<Digest>,
    now: Instant,
) -> Vec<Digest> {
    unwanted.retain(|digest, _| shared.contains(digest) && !named.contains(digest));
    for digest in shared.difference(named) {
        unwanted.entry(*digest).or_insert(now);
    }
    let mut oldest: Vec<_> = unwanted.iter().map(|(digest, at)| (*at, *digest)).collect();
    oldest.sort_unstable();
    let too_many = shared.len().saturating_sub(SHARED_MAX);
    oldest
        .into_iter()
        .enumerate()
        .filter(|(place, (at, _))| {
            *place < too_many || now.saturating_duration_since(*at) >= UNWANTED_FOR
        })
        .map(|(_, (_, digest))| digest)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(range: std::ops::Range<usize>) -> BTreeSet<Digest> {
        range
            .map(|number| Digest::of(number.to_string().as_bytes()))
            .collect()
    }

    #[test]
    fn a_plugin_goes_when_nobody_has_named_it_for_an_hour() {
        let (shared, named) = (digests(0..3), digests(0..2));
        let gone: Vec<Digest> = digests(2..3).into_iter().collect();
        let mut unwanted = BTreeMap::new();
        let now = Instant::now();
        assert!(due(&mut unwanted, &shared, &named, now).is_empty());
        assert_eq!(
            due(&mut unwanted, &shared, &named, now + UNWANTED_FOR),
            gone
        );
        // A plugin that was named again in between is as new.
        assert!(due(&mut unwanted, &shared, &shared, now + UNWANTED_FOR).is_empty());
        assert!(due(&mut unwanted, &shared, &named, now + UNWANTED_FOR).is_empty());
        // A plugin that is no longer shared is forgotten.
        assert!(due(&mut unwanted, &named, &named, now).is_empty());
        assert!(unwanted.is_empty());
    }

    #[test]
    fn of_too_many_plugins_some_go_at_once() {
        let (shared, named) = (digests(0..SHARED_MAX + 10), digests(0..1));
        let mut unwanted = BTreeMap::new();
        let due = due(&mut unwanted, &shared, &named, Instant::now());
        assert_eq!(due.len(), 10);
        assert!(due.iter().all(|digest| !named.contains(digest)));
    }
}
