//! Asks the host for each game, as it is once the last event is processed.

use courtside_types::{Offset, PartitionId};
use futures_util::{StreamExt as _, stream};
use serde_json::value::RawValue;

use super::{
    client::{Client, Shown},
    ledger::{Entry, GameNumber, Ledger},
    progress::Progress,
    report::Report,
    retry::{GaveUp, Retry, Tuning},
};

/// Shows every game in the order they began, as soon as the host has it. The
/// outer error is one of writing the report.
pub(super) async fn all(
    client: &Client,
    ledger: &Ledger,
    tuning: &Tuning,
    connections: usize,
    progress: &Progress,
    report: &mut Report<'_>,
) -> anyhow::Result<Result<(), GaveUp>> {
    report.set_id_width(ledger.id_width());
    let mut shown = stream::iter(0..ledger.len())
        .map(|number| one(client, ledger, tuning, GameNumber(number)))
        .buffered(connections);
    while let Some(one) = shown.next().await {
        match one {
            Ok(Some((entry, output))) => {
                progress.suspend(|| report.row(&entry, output.as_deref()))?;
            }
            Ok(None) => {}
            Err(gave_up) => return Ok(Err(gave_up)),
        }
    }
    Ok(Ok(()))
}

/// The game's entry and output, as the report wants them.
async fn one(
    client: &Client,
    ledger: &Ledger,
    tuning: &Tuning,
    number: GameNumber,
) -> Result<Option<(Entry, Option<Box<RawValue>>)>, GaveUp> {
    // The host knows nothing of a game that it refused from the first event on.
    let output = match ledger.entry(number.0) {
        Some(Entry {
            id,
            last: Some((partition, offset)),
            ..
        }) => ask(client, ledger, tuning, number, &id, partition, offset).await?,
        _ => None,
    };
    Ok(ledger.entry(number.0).map(|entry| (entry, output)))
}

async fn ask(
    client: &Client,
    ledger: &Ledger,
    tuning: &Tuning,
    number: GameNumber,
    id: &str,
    partition: PartitionId,
    offset: Offset,
) -> Result<Option<Box<RawValue>>, GaveUp> {
    let mut retry = Retry::new(ledger, tuning);
    let output = loop {
        match client.game(id, partition, offset).await {
            Shown::Output(output) => break Some(output),
            Shown::NoOutput => break None,
            Shown::NotYet(away) => retry.pause(&away).await?,
            Shown::Refused(refused) => {
                ledger.fail(number, refused.to_string());
                return Ok(None);
            }
        }
    };
    ledger.processed(number);
    Ok(output)
}
