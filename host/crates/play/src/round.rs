//! One round: every game once, from the first event to the scores.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::Semaphore;

use super::{
    Games, PlayArgs, PlayEnd, Terminal,
    client::PlayClient,
    ledger::Ledger,
    progress::{Progress, Total, rate},
    report::Report,
    retry::{GaveUp, Tuning},
    send::{self, Lines, Sending},
    show::Questions,
};

/// Most games that are on their way at once. At their own pace, most of these
/// wait for their next event.
const GAMES_AT_ONCE_MAX: usize = 4096;

/// How many reasons for failed games are told, and how many games are named
/// for each.
const REASONS_TOLD_MAX: usize = 10;
const GAMES_NAMED_MAX: usize = 3;

/// One game to play.
pub(super) struct Script {
    pub(super) id: Arc<str>,
    pub(super) lines: Lines,
}

pub(super) struct Round<'a> {
    pub(super) args: &'a PlayArgs,
    pub(super) client: &'a PlayClient,
    pub(super) tuning: &'a Tuning,
    /// Prefix of each `Idempotency-Key`, which no other run or round has.
    pub(super) name: String,
}

impl Round<'_> {
    pub(super) async fn play<I>(
        &self,
        games: Games,
        total: Total,
        terminal: &mut Terminal<'_>,
        interrupted: Pin<&mut I>,
    ) -> anyhow::Result<PlayEnd>
    where
        I: Future<Output = ()>,
    {
        let ledger = Ledger::new();
        let progress = Progress::new(total, terminal.attended);
        let mut report = Report::new(terminal.out, self.args.output);
        let end = tokio::select! {
            biased;
            () = interrupted => RoundEnd::Interrupted,
            never = progress.tell(&ledger, terminal.err) => match never {},
            end = self.to_the_end(games, total, &ledger, &progress, &mut report) => end?,
        };
        progress.clear();
        rest(&ledger, &mut report)?;
        let (ended, lines) = verdict(&end, &ledger, total, &progress);
        for line in lines {
            writeln!(terminal.err, "{line}")?;
        }
        Ok(ended)
    }

    async fn to_the_end(
        &self,
        games: Games,
        total: Total,
        ledger: &Ledger,
        progress: &Progress,
        report: &mut Report<'_>,
    ) -> anyhow::Result<RoundEnd> {
        if let Err(gave_up) = self.send(games, total, ledger).await {
            return Ok(RoundEnd::GaveUp(gave_up));
        }
        let questions = Questions {
            client: self.client,
            ledger,
            tuning: self.tuning,
            connections: usize::from(self.args.connections),
        };
        questions.show_all(progress, report).await
    }

    /// Sends every game. The first game that gives up ends the round for all,
    /// because by then no other game has made progress either.
    async fn send(&self, games: Games, total: Total, ledger: &Ledger) -> Result<(), GaveUp> {
        let connections = Semaphore::new(usize::from(self.args.connections));
        let sending = Sending {
            client: self.client,
            ledger,
            tuning: self.tuning,
            connections: &connections,
            name: &self.name,
            speed: self.args.speed,
            events_per_request_max: usize::from(self.args.batch),
        };
        // Recorded games take turns from the start, as they did in life. There
        // may be any number of invented games: without a pace to wait for, more
        // of them than connections would only cost memory.
        let at_once = match (total, self.args.speed) {
            (Total::Games(_), None) => usize::from(self.args.connections),
            _ => GAMES_AT_ONCE_MAX,
        };
        let mut games = games.fuse();
        let mut active = FuturesUnordered::new();
        loop {
            while active.len() < at_once
                && let Some(script) = games.next()
            {
                let number = ledger.begin(script.id);
                active.push(send::game(&sending, number, script.lines));
            }
            match active.next().await {
                Some(sent) => sent?,
                None => return Ok(()),
            }
        }
    }
}

/// How a round came to its end.
pub(super) enum RoundEnd {
    /// Every game was sent, or refused, and then shown.
    Through,
    GaveUp(GaveUp),
    Interrupted,
}

/// Reports the games that were no longer shown.
fn rest(ledger: &Ledger, report: &mut Report<'_>) -> std::io::Result<()> {
    report.set_id_width(ledger.id_width());
    while let Some(entry) = ledger.entry(report.rows()) {
        report.row(&entry, None)?;
    }
    report.finish()
}

fn verdict(
    end: &RoundEnd,
    ledger: &Ledger,
    total: Total,
    progress: &Progress,
) -> (PlayEnd, Vec<String>) {
    let sums = ledger.sums();
    let (elapsed, acknowledged) = (progress.elapsed(), sums.acknowledged);
    let time = format!(
        "in {:.1} s ({}/s)",
        elapsed.as_secs_f64(),
        rate(acknowledged, elapsed)
    );
    let mut lines = failures(ledger);
    if let RoundEnd::GaveUp(gave_up) = end {
        lines.push(gave_up.to_string());
    }
    let mut lines: Vec<_> = lines
        .iter()
        .map(|line| format!("courtside: {line}"))
        .collect();
    let (expected, games) = match total {
        Total::Events(events) => (format!("{acknowledged} of {events} events"), sums.games),
        Total::Games(games) => (format!("{acknowledged} events"), games),
    };
    let complete = sums.games_complete == games;
    let ended = match end {
        RoundEnd::Interrupted => PlayEnd::Interrupted,
        RoundEnd::Through if lines.is_empty() => PlayEnd::Complete,
        RoundEnd::Through | RoundEnd::GaveUp(_) => PlayEnd::Incomplete,
    };
    let interrupted = if ended == PlayEnd::Interrupted {
        "interrupted: "
    } else {
        ""
    };
    lines.push(if complete {
        format!("{interrupted}all {acknowledged} events of {games} games acknowledged {time}")
    } else {
        format!(
            "{interrupted}{expected} acknowledged, {} of {games} games complete, {time}",
            sums.games_complete
        )
    });
    (ended, lines)
}

/// The failed games, by reason: a host that refuses one thing often refuses it
/// of all games.
fn failures(ledger: &Ledger) -> Vec<String> {
    let mut reasons = BTreeMap::<String, Vec<Arc<str>>>::new();
    for number in 0..ledger.len() {
        if let Some(entry) = ledger.entry(number)
            && let Some(failure) = entry.failure
        {
            reasons.entry(failure).or_default().push(entry.id);
        }
    }
    let untold = reasons.len().saturating_sub(REASONS_TOLD_MAX);
    let mut lines: Vec<_> = reasons
        .into_iter()
        .take(REASONS_TOLD_MAX)
        .map(|(reason, ids)| {
            let mut named = ids
                .iter()
                .take(GAMES_NAMED_MAX)
                .map(|id| id.escape_debug().to_string())
                .collect::<Vec<_>>()
                .join(", ");
            if ids.len() > GAMES_NAMED_MAX {
                named.push_str(&format!(" and {} more", ids.len() - GAMES_NAMED_MAX));
            }
            format!("{reason} ({named})")
        })
        .collect();
    if untold > 0 {
        lines.push(format!("and games that failed for {untold} other reasons"));
    }
    lines
}
