//! Shows how far a round is: by a bar on a terminal, otherwise by a line every
//! few seconds if there is anything new.

use std::{convert::Infallible, io::Write, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::ledger::{Ledger, Sums};

const BAR_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How much there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Total {
    Events(u64),
    /// Number of games; the number of events shows only as they are made.
    Games(u64),
}

#[derive(Debug)]
pub(super) struct Progress {
    /// The bar; None if nobody watches.
    bar: Option<ProgressBar>,
    total: Total,
    began: Instant,
}

impl Progress {
    pub(super) fn new(total: Total, terminal: bool) -> Self {
        let bar = terminal.then(|| {
            let (Total::Events(length) | Total::Games(length)) = total;
            let bar = ProgressBar::new(length);
            // The template is fixed; were it wrong, the default style stays.
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3}% {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            total,
            began: Instant::now(),
        }
    }

    /// Shows the progress until the future is dropped.
    pub(super) async fn tell(&self, ledger: &Ledger, err: &mut (dyn Write + Send)) -> Infallible {
        let every = if self.bar.is_some() {
            BAR_EVERY
        } else {
            LINE_EVERY
        };
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = None;
        loop {
            ticks.tick().await;
            let sums = ledger.sums();
            let text = line(self.total, &sums, self.began.elapsed());
            let is_news = reported.as_ref() != Some(&sums);
            match &self.bar {
                Some(bar) => {
                    bar.set_position(match self.total {
                        Total::Events(_) => sums.acknowledged,
                        Total::Games(_) => sums.games_complete,
                    });
                    bar.set_message(text);
                }
                // Play goes on if a line cannot be written.
                None if is_news => {
                    let _ = writeln!(err, "{text}");
                }
                None => {}
            }
            reported = Some(sums);
        }
    }

    /// Writes to the terminal without cutting the bar in two.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(total: Total, sums: &Sums, elapsed: Duration) -> String {
    let mut text = match total {
        Total::Events(events) => format!("{}/{events} events", sums.acknowledged),
        Total::Games(_) => format!("{} events", sums.acknowledged),
    };
    text.push_str(" acknowledged");
    let games = match total {
        Total::Events(_) => sums.games,
        Total::Games(games) => games,
    };
    text.push_str(&format!(", {}/{games} games complete", sums.games_complete));
    if sums.games_processed > 0 {
        text.push_str(&format!(", {} processed", sums.games_processed));
    }
    text.push_str(&format!(", {}/s", rate(sums.acknowledged, elapsed)));
    if let Some(reason) = &sums.away {
        text.push_str(&format!(", waiting for the host: {reason}"));
    }
    text
}

/// Events a second.
pub(super) fn rate(events: u64, elapsed: Duration) -> u64 {
    let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    events.saturating_mul(1000) / ms.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_done_and_what_is_waited_for() {
        let mut sums = Sums {
            acknowledged: 500,
            games: 4,
            games_complete: 1,
            ..Sums::default()
        };
        let elapsed = Duration::from_secs(2);
        assert_eq!(
            line(Total::Events(900), &sums, elapsed),
            "500/900 events acknowledged, 1/4 games complete, 250/s"
        );
        sums.away = Some("Connection refused".to_owned());
        sums.games_processed = 1;
        assert_eq!(
            line(Total::Games(10), &sums, elapsed),
            "500 events acknowledged, 1/10 games complete, 1 processed, 250/s, \
             waiting for the host: Connection refused"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_terminal_a_line_for_what_is_new_every_few_seconds() {
        let ledger = Ledger::new();
        let progress = Progress::new(Total::Games(2), false);
        let mut err = Vec::new();
        let tell = progress.tell(&ledger, &mut err);
        let played = async {
            tokio::time::sleep(Duration::from_secs(6)).await;
            ledger.away("Connection refused");
            tokio::time::sleep(Duration::from_secs(60)).await;
        };
        tokio::select! {
            never = tell => match never {},
            () = played => {}
        }
        let text = String::from_utf8(err).unwrap();
        // A line that would say nothing new is not written.
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            text.ends_with("waiting for the host: Connection refused\n"),
            "{text}"
        );
        assert!(!text.contains('\r') && !text.contains('\x1b'), "{text}");
    }
}
