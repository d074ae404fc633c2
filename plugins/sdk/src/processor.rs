//! The trait that a plugin implements, and the types that its methods take.

use crate::{Decode, Output, State, contract::courtside::plugin::types::Header};

/// The processing of one record key. The implementor *is* the state: what a
/// checkpoint holds and a later instance opens again.
pub trait Processor: State + 'static {
    /// The plugin's name. With [`FORMAT`](Self::FORMAT) it names the checkpoint
    /// format: `<NAME>/<FORMAT>`.
    const NAME: &'static str;

    /// The plugin's semantic version: `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str;

    /// The number of the format that [`State::encode`] writes. Raise it when
    /// the state becomes one that the previous version of the plugin could not
    /// decode.
    const FORMAT: u32 = 1;

    /// The formats besides its own that [`migrate`](Self::migrate) opens, in
    /// full: `["tally/1", "tally/2"]`. They may be another plugin's, and they
    /// may be newer than its own, so that a swap can be taken back.
    const READS: &'static [&'static str] = &[];

    /// The type that an event's value is decoded into. An event that cannot be
    /// decoded is refused.
    type Event: Decode;

    /// The state of a key never seen before.
    fn open(key: &str) -> Self;

    /// Refuses an event that [`apply`](Self::apply) could not process. The
    /// event then goes to the dead-letter topic, with the reason.
    ///
    /// # Errors
    /// The refusal.
    fn check(&self, event: &Self::Event, meta: &Meta<'_>) -> Result<(), Refusal> {
        let _ = (event, meta);
        Ok(())
    }

    /// Processes an event that was not refused.
    fn apply(&mut self, event: Self::Event, meta: &Meta<'_>, out: &mut Output);

    /// Whether there is nothing left to remember. The SDK asks after each
    /// event: on `true` the state is dropped and its checkpoint deleted, and
    /// the key's next event starts from [`open`](Self::open).
    fn is_done(&self) -> bool {
        false
    }

    /// The state from a checkpoint in one of the formats of
    /// [`READS`](Self::READS): the place for migrations, and the only one.
    ///
    /// # Errors
    /// Why the checkpoint cannot be read. A swap to this plugin is then
    /// rejected, and the plugin that runs goes on.
    fn migrate(key: &str, format: &str, state: &[u8]) -> Result<Self, String> {
        let _ = (key, state);
        Err(format!(
            "{} lists {format} and has no migration from it",
            Self::NAME
        ))
    }
}

/// The facts about an event besides its value.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    /// The record key.
    pub key: &'a str,
    /// Offset in the key's partition; grows strictly, with gaps.
    pub offset: u64,
    /// The record's timestamp, in milliseconds since the Unix epoch. It is the
    /// only time there is: the system's clocks stand still in a plugin.
    pub timestamp_ms: u64,
    /// Derived from the record's place in the log. The seed is the only source
    /// of chance: the system's random numbers are constant in a plugin.
    pub seed: u64,
    pub headers: &'a [Header],
}

impl<'a> Meta<'a> {
    /// The value of the first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers
            .iter()
            .find(|header| header.name == name)
            .and_then(|header| header.value.as_deref())
    }
}

/// Why an event cannot be processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    reason: String,
}

impl Refusal {
    /// A reason may quote the event and travels in a record header, so it is
    /// cut here.
    const REASON_BYTES_MAX: usize = 512;

    pub fn new(reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if reason.len() > Self::REASON_BYTES_MAX {
            reason.truncate(reason.floor_char_boundary(Self::REASON_BYTES_MAX));
            reason.push('…');
        }
        Self { reason }
    }

    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    pub(crate) fn into_reason(self) -> String {
        self.reason
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::new(reason)
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        Self::new(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let refusal = Refusal::new("ä".repeat(400));
        assert_eq!(refusal.reason(), format!("{}…", "ä".repeat(256)));
        let refusal = Refusal::new(format!("a{}", "ä".repeat(400)));
        assert_eq!(refusal.reason(), format!("a{}…", "ä".repeat(255)));
        assert_eq!(Refusal::from("short").reason(), "short");
    }
}
