//! Plugins of the group's topic that nobody needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use courtside_types::Digest;

/// How often the manager looks for plugins that nobody needs.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A plugin that nobody has needed for this long goes.
const UNUSED_FOR: Duration = Duration::from_secs(60 * 60);
/// Where the topic has more plugins than this, those that nobody needs go sooner.
const SHARED_MAX: usize = 256;

pub(super) struct UnusedPlugins {
    /// The time since which nobody has named each plugin.
    since: BTreeMap<Digest, Instant>,
    looked_at: Instant,
}

impl UnusedPlugins {
    pub const fn new(now: Instant) -> Self {
        Self {
            since: BTreeMap::new(),
            looked_at: now,
        }
    }

    /// Begins the next look, if it is due.
    pub fn begin_look(&mut self, now: Instant) -> bool {
        let is_due = now.saturating_duration_since(self.looked_at) >= LOOK_EVERY;
        if is_due {
            self.looked_at = now;
        }
        is_due
    }

    /// The shared plugins that nobody has named for long. Where there are too many
    /// plugins, those that nobody has named for the longest are due sooner.
    pub fn due(
        &mut self,
        shared: &BTreeSet<Digest>,
        named: &BTreeSet<Digest>,
        now: Instant,
    ) -> Vec<Digest> {
        self.since
            .retain(|digest, _| shared.contains(digest) && !named.contains(digest));
        for digest in shared.difference(named) {
            self.since.entry(*digest).or_insert(now);
        }
        let since = self.since.iter();
        let mut oldest: Vec<_> = since.map(|(digest, at)| (*at, *digest)).collect();
        oldest.sort_unstable();
        let too_many = shared.len().saturating_sub(SHARED_MAX);
        oldest
            .into_iter()
            .enumerate()
            .filter(|(place, (at, _))| {
                *place < too_many || now.saturating_duration_since(*at) >= UNUSED_FOR
            })
            .map(|(_, (_, digest))| digest)
            .collect()
    }

    /// Counts a plugin as named until now, since something else needs it.
    pub fn renew(&mut self, digest: Digest, now: Instant) {
        self.since.insert(digest, now);
    }
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
        let now = Instant::now();
        let mut unused = UnusedPlugins::new(now);
        assert!(unused.due(&shared, &named, now).is_empty());
        assert_eq!(unused.due(&shared, &named, now + UNUSED_FOR), gone);
        // A plugin that was named again in between is as new.
        assert!(unused.due(&shared, &shared, now + UNUSED_FOR).is_empty());
        assert!(unused.due(&shared, &named, now + UNUSED_FOR).is_empty());
        // A plugin that is no longer shared is forgotten.
        assert!(unused.due(&named, &named, now).is_empty());
        assert!(unused.since.is_empty());
    }

    #[test]
    fn a_plugin_that_something_else_needs_stays_for_another_hour() {
        let (shared, named) = (digests(0..1), BTreeSet::new());
        let now = Instant::now();
        let mut unused = UnusedPlugins::new(now);
        unused.due(&shared, &named, now);
        let later = now + UNUSED_FOR;
        let due = unused.due(&shared, &named, later);
        assert_eq!(due.len(), 1);
        unused.renew(due[0], later);
        assert!(unused.due(&shared, &named, later).is_empty());
        assert_eq!(unused.due(&shared, &named, later + UNUSED_FOR), due);
    }

    #[test]
    fn of_too_many_plugins_some_go_at_once() {
        let (shared, named) = (digests(0..SHARED_MAX + 10), digests(0..1));
        let now = Instant::now();
        let due = UnusedPlugins::new(now).due(&shared, &named, now);
        assert_eq!(due.len(), 10);
        assert!(due.iter().all(|digest| !named.contains(digest)));
    }

    #[test]
    fn a_look_is_due_once_a_minute() {
        let now = Instant::now();
        let mut unused = UnusedPlugins::new(now);
        assert!(!unused.begin_look(now));
        assert!(unused.begin_look(now + LOOK_EVERY));
        assert!(!unused.begin_look(now + LOOK_EVERY));
    }
}
