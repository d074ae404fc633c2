//! `courtside play`: plays game files, or invented games, into a host.
//!
//! A round is every game once. It has two halves: [`send`] the events until
//! every one is acknowledged, then [`show`] each game as the host has it, once
//! the host has processed its last event. Many games are on their way at once,
//! each with at most one request in flight. Memory: files stay in memory,
//! invented games cost a few kilobytes while they are played, and every game
//! of a round has an entry in the round's [`ledger`].

mod client;
mod error;
mod input;
mod ledger;
mod pace;
mod progress;
mod report;
mod retry;
mod round;
mod send;
mod show;
pub mod simulate;

use std::{
    future::Future,
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use courtside_client::{
    HostArgs,
    terminal::{Answer, Words},
};
pub use error::PlayError;
use input::RecordedGame;
pub use pace::Speed;
use progress::Total;
pub use report::OutputFormat;
use retry::Tuning;
use round::Script;
use simulate::Season;

/// The arguments of `courtside play`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Ends with each game's score as the host has it. Exits with 0 if every event was
acknowledged and processed, with 1 if not, with 130 when interrupted.")]
pub struct PlayArgs {
    /// Game files, an event a line (NDJSON); - is standard input
    ///
    /// A file may hold several games. Every line is checked to be a JSON
    /// object with a game_id before anything is sent.
    #[arg(
        value_name = "FILE",
        required_unless_present = "simulate",
        conflicts_with = "simulate"
    )]
    pub files: Vec<PathBuf>,

    /// Invent that many games instead of reading files
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub simulate: Option<u64>,

    /// Seed of the invented games: equal seeds give equal games. Printed, and
    /// drawn by chance if not given
    #[arg(long, value_name = "S", conflicts_with = "files")]
    pub seed: Option<u64>,

    #[command(flatten)]
    pub host: HostArgs,

    /// Play each game at its own pace, this many times faster than its clock
    /// (1 is real time; breaks are skipped). Without it, as fast as the host
    /// takes the events
    #[arg(long, value_name = "X")]
    pub speed: Option<Speed>,

    /// Play the games again and again, from the second round on under fresh
    /// game ids (…-r2, …-r3), until interrupted or an event is not acknowledged
    #[arg(long = "loop")]
    pub repeat: bool,

    /// Give up when the host has acknowledged nothing for so long
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,

    /// Requests in flight at once (at most one of each game)
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,

    /// Events in one request at most
    ///
    /// Over 128, a host does not know every event of a retried request by its
    /// Idempotency-Key any more, and the plugin must know it by its seq.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub batch: u16,

    /// How the scores are written to standard output
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: OutputFormat,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime_serde::re::humantime::parse_duration(text)
        .map_err(|error| format!("{error} (for instance 60s or 5m)"))?;
    if duration < Duration::from_millis(100) || duration > Duration::from_secs(24 * 60 * 60) {
        return Err("must be from 100ms to 24h".to_owned());
    }
    Ok(duration)
}

/// How a play ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlayEnd {
    /// Every event was acknowledged, and processed.
    Complete,
    /// Some events were not, and play has said which and why.
    Incomplete,
    /// Ctrl-C ended the play.
    Interrupted,
}

impl PlayEnd {
    const fn exit_code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Incomplete => 1,
            Self::Interrupted => 130,
        }
    }
}

/// Plays until all is done, until the patience is over, or until Ctrl-C. An
/// error is one of the input (a [`PlayError`]) or of standard output.
pub async fn run(args: PlayArgs) -> anyhow::Result<ExitCode> {
    let (mut out, mut err) = (Answer::new(io::stdout()), Words);
    let mut terminal = Terminal {
        attended: io::stderr().is_terminal(),
        out: &mut out,
        err: &mut err,
    };
    let interrupted = async {
        // If the signal cannot be caught, it ends the process, as it does by
        // default.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let ended = play(&args, &Tuning::default(), &mut terminal, interrupted).await?;
    Ok(ExitCode::from(ended.exit_code()))
}

/// The streams that a play writes to.
struct Terminal<'a> {
    out: &'a mut (dyn Write + Send),
    err: &'a mut (dyn Write + Send),
    /// Whether somebody watches `err`.
    attended: bool,
}

async fn play(
    args: &PlayArgs,
    tuning: &Tuning,
    terminal: &mut Terminal<'_>,
    interrupted: impl Future<Output = ()> + Send,
) -> anyhow::Result<PlayEnd> {
    let tuning = tuning.clone().with_patience(args.timeout);
    let client = client::PlayClient::new(&args.host, &tuning)?;
    let programme = Programme::new(args)?;
    if let Programme::Invented { season, .. } = &programme {
        writeln!(terminal.err, "seed {}", season.seed())?;
    }
    // Each `Idempotency-Key` begins with this number, so that no other run on
    // any host has the key.
    let run = rand::random::<u128>();
    let mut interrupted = pin!(interrupted);
    for number in 1_u64.. {
        let round = round::Round {
            args,
            client: &client,
            tuning: &tuning,
            name: format!("play-{run:032x}-{number}"),
        };
        let games = programme.games(number)?;
        let ended = round
            .play(games, programme.total(), terminal, interrupted.as_mut())
            .await?;
        if !args.repeat || ended != PlayEnd::Complete {
            return Ok(ended);
        }
    }
    Ok(PlayEnd::Complete)
}

/// The games that are played each round.
enum Programme {
    Recorded(Vec<Arc<RecordedGame>>),
    Invented { season: Season, games: u64 },
}

type Games = Box<dyn Iterator<Item = Script> + Send>;

impl Programme {
    fn new(args: &PlayArgs) -> Result<Self, PlayError> {
        Ok(match args.simulate {
            Some(games) => Self::Invented {
                season: Season::new(args.seed.unwrap_or_else(rand::random)),
                games,
            },
            None => {
                let games = input::read(&args.files)?;
                Self::Recorded(games.into_iter().map(Arc::new).collect())
            }
        })
    }

    fn total(&self) -> Total {
        match self {
            Self::Recorded(games) => {
                Total::Events(games.iter().map(|game| game.len() as u64).sum())
            }
            Self::Invented { games, .. } => Total::Games(*games),
        }
    }

    /// The games of a round, each made when its turn comes.
    fn games(&self, round: u64) -> anyhow::Result<Games> {
        let renamed = move |id: &Arc<str>| -> Arc<str> {
            if round == 1 {
                Arc::clone(id)
            } else {
                format!("{id}-r{round}").into()
            }
        };
        match self {
            Self::Recorded(games) => {
                let mut scripts = Vec::with_capacity(games.len());
                for game in games {
                    let id = renamed(&game.id);
                    let lines = Box::new(game.lines(&id)?.map(Ok));
                    scripts.push(Script { id, lines });
                }
                Ok(Box::new(scripts.into_iter()))
            }
            Self::Invented { season, games } => {
                let count = usize::try_from(*games)?;
                Ok(Box::new(season.clone().take(count).map(move |game| {
                    let id = renamed(game.id());
                    let lines = Box::new(game.with_id(Arc::clone(&id)).map(|event| event.line()));
                    Script { id, lines }
                })))
            }
        }
    }
}

#[cfg(test)]
mod tests;
