//! One slot: its file at the last look, the plugin that runs, and the latest events. A
//! slot decides, and does nothing itself; the manager asks it for the next step.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_plugin_host::Plugin;
use courtside_types::{Digest, slot_name::SlotName};
use jiff::Timestamp;

use super::{
    files::{AMBIGUOUS, Entry},
    view::{FileState, FileView, LimitsView, PluginView, SlotEvent, SlotState, SlotView},
};
use crate::worker::{instances::Active, thread::Takeover};

const HISTORY_MAX: usize = 50;

/// A plugin in force.
#[derive(Clone)]
pub struct RunningPlugin {
    pub active: Arc<Active>,
    pub size_bytes: u64,
    pub since: Timestamp,
    pub takeover: Takeover,
}

impl RunningPlugin {
    /// A plugin that has not taken over in any partition yet.
    #[must_use]
    pub fn new(slot: &SlotName, plugin: Arc<dyn Plugin>, size_bytes: u64) -> Self {
        Self {
            active: Active::new(slot.clone(), plugin),
            size_bytes,
            since: Timestamp::now(),
            takeover: Takeover::new(),
        }
    }
}

/// The next step that a slot needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, for now.
    Wait,
    /// Read this file, and swap to it if it is another plugin.
    Take(PathBuf),
    /// Reject the file, which cannot be looked at for this reason.
    Unreadable(String),
    /// The file is gone: swap to no plugin.
    Remove,
}

/// A slot of one pipeline.
pub struct Slot {
    pub pipeline: String,
    pub name: SlotName,
    pub running: Option<RunningPlugin>,
    state: SlotState,
    entry: Option<Entry>,
    /// Since when the file has been as it is now.
    unchanged_since: Instant,
    /// Whether the manager has acted on the file as it is.
    is_handled: bool,
    /// The decision about the file.
    file: FileView,
    swaps: u64,
    /// When this host began the swap to the plugin that runs, in milliseconds since
    /// 1970. None where the swap cannot be taken back, or happened before the host
    /// started.
    trial_began_ms: Option<u64>,
    history: VecDeque<SlotEvent>,
}

impl Slot {
    #[must_use]
    pub fn new(pipeline: &str, name: SlotName, now: Instant) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            name,
            running: None,
            state: SlotState::Waiting,
            entry: None,
            unchanged_since: now,
            // The manager acts on a missing file only where a plugin runs.
            is_handled: false,
            file: FileView::default(),
            swaps: 0,
            trial_began_ms: None,
            history: VecDeque::new(),
        }
    }

    /// `<pipeline>/default` or `<pipeline>/keys/<key>`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.pipeline, self.name)
    }

    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.running
            .as_ref()
            .map(|running| running.active.plugin.digest())
    }

    /// Whether the slot has neither a plugin nor a file, so that nobody needs to hear
    /// of it.
    #[must_use]
    pub const fn is_vacant(&self) -> bool {
        self.running.is_none() && self.entry.is_none()
    }

    #[must_use]
    pub const fn state(&self) -> SlotState {
        self.state
    }

    /// The directory's entry for the slot.
    #[must_use]
    pub const fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    #[must_use]
    pub const fn has_file(&self) -> bool {
        self.entry.is_some()
    }

    /// Takes note of the directory's entry for the slot.
    pub fn observe(&mut self, entry: Option<Entry>, now: Instant) {
        if self.entry != entry {
            self.entry = entry;
            self.unchanged_since = now;
            self.reset_decision();
        }
    }

    fn reset_decision(&mut self) {
        self.is_handled = false;
        let state = match self.entry {
            Some(_) => FileState::New,
            None => FileState::None,
        };
        self.file = FileView {
            state,
            ..FileView::default()
        };
    }

    /// The next step, once the file has been as it is for `settle`.
    #[must_use]
    pub fn next_step(&self, now: Instant, settle: Duration) -> Step {
        if self.is_handled || now.saturating_duration_since(self.unchanged_since) < settle {
            return Step::Wait;
        }
        match &self.entry {
            Some(Entry::File(_, path)) => Step::Take(path.clone()),
            Some(Entry::Unreadable(why)) => Step::Unreadable(why.clone()),
            Some(Entry::Ambiguous) => Step::Unreadable(AMBIGUOUS.to_owned()),
            None if self.running.is_some() => Step::Remove,
            None => Step::Wait,
        }
    }

    /// Notes that the manager has acted on the file as it is. A change of the
    /// file calls for another step.
    pub const fn mark_handled(&mut self) {
        self.is_handled = true;
    }

    /// Lets the removal of a plugin be tried again, now that something has changed: the
    /// file is gone, but the removal was rejected.
    pub const fn reconsider_removal(&mut self) {
        if self.entry.is_none() {
            self.is_handled = false;
        }
    }

    /// Judges the file anew, since it means something else now. A file that was
    /// rejected stays rejected until it changes: nobody offers it anew.
    pub fn reconsider_file(&mut self) {
        if self.file.state != FileState::Rejected {
            self.reset_decision();
        }
    }

    /// Notes that the file changed while it was read: it has to lie still again.
    pub const fn file_changed(&mut self, now: Instant) {
        self.unchanged_since = now;
    }

    pub fn enter(&mut self, state: SlotState, digest: Option<Digest>) {
        self.state = state;
        self.remember(digest, None);
    }

    /// Whether the slot is loading this plugin, and has not compiled it yet.
    #[must_use]
    pub fn is_loading(&self, digest: Digest) -> bool {
        let latest = self
            .history
            .back()
            .and_then(|latest| latest.digest.as_ref());
        self.state == SlotState::Loading
            && latest.is_some_and(|latest| *latest == digest.to_string())
    }

    /// Rejects the file that was offered.
    pub fn reject(&mut self, digest: Option<Digest>, code: &str, reason: &str) {
        self.state = SlotState::Rejected;
        self.leave_file(FileState::Rejected, digest, code, reason);
        self.remember(digest, Some((code, reason)));
    }

    /// Leaves the file where it is, without effect: the plugin that runs is the one
    /// that was ordered.
    pub fn leave_file(
        &mut self,
        state: FileState,
        digest: Option<Digest>,
        code: &str,
        reason: &str,
    ) {
        // There is no file to describe where a removal was rejected.
        if self.entry.is_some() {
            self.file = FileView {
                state,
                digest: digest.map(|digest| digest.to_string()),
                code: Some(code.to_owned()),
                reason: Some(reason.to_owned()),
            };
        }
    }

    /// Notes that the file is the plugin that runs.
    pub fn file_runs(&mut self) {
        if self.entry.is_some() {
            self.file = FileView {
                state: FileState::Runs,
                digest: self.digest().map(|digest| digest.to_string()),
                ..FileView::default()
            };
        }
    }

    /// Notes that the running plugin is on trial since `began_ms`.
    pub const fn begin_trial(&mut self, began_ms: u64) {
        self.trial_began_ms = Some(began_ms);
    }

    #[must_use]
    pub const fn trial_began_ms(&self) -> Option<u64> {
        self.trial_began_ms
    }

    #[must_use]
    pub const fn file(&self) -> &FileView {
        &self.file
    }

    /// Notes that the file is again the plugin that runs; true if the slot was not
    /// active before.
    pub fn confirm_file(&mut self) -> bool {
        self.file_runs();
        let was_not = self.running.is_some() && self.state != SlotState::Active;
        if was_not {
            self.enter(SlotState::Active, self.digest());
        }
        was_not
    }

    /// Notes that another plugin (or none) is in force.
    pub fn activated(&mut self, running: Option<RunningPlugin>) {
        self.swaps += 1;
        self.trial_began_ms = None;
        self.running = running;
        let state = if self.running.is_some() {
            SlotState::Active
        } else {
            SlotState::Waiting
        };
        self.enter(state, self.digest());
    }

    fn remember(&mut self, digest: Option<Digest>, rejection: Option<(&str, &str)>) {
        if self.history.len() >= HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(SlotEvent {
            at: Timestamp::now(),
            state: self.state,
            digest: digest.map(|digest| digest.to_string()),
            code: rejection.map(|(code, _)| code.to_owned()),
            reason: rejection.map(|(_, reason)| reason.to_owned()),
        });
    }

    #[must_use]
    pub fn view(&self, limits: LimitsView) -> SlotView {
        let running = self.running.as_ref();
        SlotView {
            slot: self.full_name(),
            pipeline: self.pipeline.clone(),
            key: match &self.name {
                SlotName::Default => None,
                SlotName::Key(key) => Some(String::from_utf8_lossy(key).into_owned()),
                SlotName::Hashed(digest) => Some(format!("sha256-{digest}")),
            },
            state: self.state,
            limits,
            plugin: running.map(|running| {
                let description = running.active.plugin.description();
                PluginView {
                    name: description.name.clone(),
                    version: description.version.clone(),
                    digest: running.active.plugin.digest().to_string(),
                    writes: description.writes.clone(),
                    reads: description.reads.clone(),
                    size_bytes: running.size_bytes,
                }
            }),
            since: running.map(|running| running.since),
            takeover: running.map_or_else(BTreeMap::new, |running| {
                running
                    .takeover
                    .iter()
                    .map(|(partition, offset)| (partition.to_string(), offset.0))
                    .collect()
            }),
            file: self.file.clone(),
            swaps: self.swaps,
            // `ViewWriter::view` adds what the group says.
            trial_until: None,
            agreed: true,
            hosts: Vec::new(),
            history: self.history.iter().cloned().collect(),
            swaps_of_group: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_millis(200);

    fn slot() -> (Slot, Instant) {
        let now = Instant::now();
        (Slot::new("scores", SlotName::Default, now), now)
    }

    fn unreadable(why: &str) -> Option<Entry> {
        Some(Entry::Unreadable(why.into()))
    }

    #[test]
    fn a_slot_with_no_file_and_no_plugin_waits() {
        let (slot, now) = slot();
        assert_eq!(slot.next_step(now + SETTLE, SETTLE), Step::Wait);
        assert!(slot.is_vacant());
    }

    #[test]
    fn a_file_must_lie_still_first() {
        let (mut slot, now) = slot();
        slot.observe(unreadable("a"), now);
        assert_eq!(slot.next_step(now, SETTLE), Step::Wait);
        let later = now + SETTLE / 2;
        slot.observe(unreadable("b"), later);
        assert_eq!(slot.next_step(now + SETTLE, SETTLE), Step::Wait);
        assert_eq!(
            slot.next_step(later + SETTLE, SETTLE),
            Step::Unreadable("b".into())
        );
    }

    #[test]
    fn a_handled_file_is_not_handled_again() {
        let (mut slot, now) = slot();
        slot.observe(unreadable("a"), now);
        slot.mark_handled();
        slot.observe(unreadable("a"), now);
        assert_eq!(slot.next_step(now + SETTLE, SETTLE), Step::Wait);
        slot.observe(unreadable("c"), now + SETTLE);
        assert_ne!(slot.next_step(now + SETTLE * 2, SETTLE), Step::Wait);
    }

    #[test]
    fn a_rejected_file_is_looked_at_again_only_when_it_changes() {
        let (mut slot, now) = slot();
        slot.observe(unreadable("a"), now);
        let later = now + SETTLE;
        for (state, is_looked_at) in [
            (FileState::Rejected, false),
            (FileState::RolledBack, true),
            (FileState::Runs, true),
        ] {
            slot.leave_file(state, None, "code", "reason");
            slot.mark_handled();
            slot.reconsider_file();
            let is_to_be_read = slot.next_step(later, SETTLE) != Step::Wait;
            assert_eq!(is_to_be_read, is_looked_at, "{state:?}");
        }
        slot.reject(None, "plugin-empty", "the file is empty");
        slot.observe(unreadable("b"), later);
        assert_ne!(slot.next_step(later + SETTLE, SETTLE), Step::Wait);
    }

    #[test]
    fn history_is_bounded() {
        let (mut slot, _) = slot();
        for _ in 0..1000 {
            slot.reject(None, "plugin-empty", "the file is empty");
        }
        assert_eq!(slot.view(LimitsView::default()).history.len(), HISTORY_MAX);
    }
}
