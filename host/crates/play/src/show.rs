//! Asks the host for each game, as it is once the last event is processed.

use courtside_types::{Offset, PartitionId};
use futures_util::{StreamExt as _, stream};
use serde_json::value::RawValue;

use super::{
    client::{GameOutcome, PlayClient},
    ledger::{Entry, GameNumber, Ledger},
    progress::Progress,
    report::Report,
    retry::{GaveUp, Retry, Tuning},
    round::RoundEnd,
};

/// The questions for the games of a round, and their bounds.
pub(super) struct Questions<'a> {
    pub(super) client: &'a PlayClient,
    pub(super) ledger: &'a Ledger,
    pub(super) tuning: &'a Tuning,
    /// The most questions at a time.
    pub(super) connections: usize,
}

impl Questions<'_> {
    /// Shows every game in the order they began, as soon as the host has it. An error
    /// says that the report could not be written.
    pub(super) async fn show_all(
        &self,
        progress: &Progress,
        report: &mut Report<'_>,
    ) -> anyhow::Result<RoundEnd> {
        report.set_id_width(self.ledger.id_width());
        let mut shown = stream::iter(0..self.ledger.len())
            .map(|number| self.one(GameNumber(number)))
            .buffered(self.connections);
        while let Some(one) = shown.next().await {
            match one {
                Ok(Some((entry, output))) => {
                    progress.suspend(|| report.row(&entry, output.as_deref()))?;
                }
                Ok(None) => {}
                Err(gave_up) => return Ok(RoundEnd::GaveUp(gave_up)),
            }
        }
        Ok(RoundEnd::Through)
    }

    /// The game's entry and output, as the report wants them.
    async fn one(
        &self,
        number: GameNumber,
    ) -> Result<Option<(Entry, Option<Box<RawValue>>)>, GaveUp> {
        // The host knows nothing of a game that it refused from the first event on.
        let output = match self.ledger.entry(number.0) {
            Some(Entry {
                id,
                last: Some((partition, offset)),
                ..
            }) => self.ask(number, &id, partition, offset).await?,
            _ => None,
        };
        Ok(self.ledger.entry(number.0).map(|entry| (entry, output)))
    }

    async fn ask(
        &self,
        number: GameNumber,
        id: &str,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Option<Box<RawValue>>, GaveUp> {
        let mut retry = Retry::new(self.ledger, self.tuning);
        let output = loop {
            match self.client.game(id, partition, offset).await {
                GameOutcome::Output(output) => break Some(output),
                GameOutcome::NoOutput => break None,
                GameOutcome::NotYet(away) => retry.pause(&away).await?,
                GameOutcome::Refused(refused) => {
                    self.ledger.fail(number, refused.to_string());
                    return Ok(None);
                }
            }
        };
        self.ledger.processed(number);
        Ok(output)
    }
}
