//! Plays of recorded games, and their outputs.

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: PlayArgs,
}

pub(super) fn parse(args: &[&str]) -> Result<PlayArgs, clap::Error> {
    let args = ["play"].iter().chain(args);
    Cli::try_parse_from(args).map(|cli| cli.args)
}

/// Waits are short, but for the patience: a busy machine must not run out of
/// it.
pub(super) fn quick() -> Tuning {
    Tuning {
        delay_min: Duration::from_millis(1),
        delay_max: Duration::from_millis(20),
        post_timeout: Duration::from_secs(2),
        ..Tuning::default()
    }
}

pub(super) struct Played {
    pub(super) ended: PlayEnd,
    pub(super) out: String,
    pub(super) err: String,
}

impl Played {
    pub(super) fn rows(&self) -> BTreeMap<String, Value> {
        let rows: Vec<Value> = serde_json::from_str(&self.out).unwrap();
        rows.into_iter()
            .map(|row| (row["game_id"].as_str().unwrap().to_owned(), row))
            .collect()
    }
}

pub(super) async fn play_until(
    args: &PlayArgs,
    tuning: &Tuning,
    interrupted: impl Future<Output = ()> + Send,
) -> Played {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut terminal = Terminal {
        out: &mut out,
        err: &mut err,
        attended: false,
    };
    let ended = play(args, tuning, &mut terminal, interrupted).await;
    Played {
        ended: ended.unwrap(),
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
    }
}

pub(super) async fn play_through(args: &PlayArgs) -> Played {
    play_until(args, &quick(), pending()).await
}

/// Files of games of that many events, and the arguments to play them.
pub(super) fn files(
    games: &BTreeMap<String, u64>,
    url: &str,
    more: &[&str],
) -> (TempDir, PlayArgs) {
    let directory = tempfile::tempdir().unwrap();
    let mut args: Vec<String> = Vec::new();
    for (game, events) in games {
        let lines: String = (1..=*events)
            .map(|seq| {
                let seconds = 719 - seq;
                let clock = format!("{}:{:02}", seconds / 60, seconds % 60);
                format!(
                    "{{\"game_id\":\"{game}\",\"seq\":{seq},\"points\":2,\"period\":1,\
                     \"clock\":\"{clock}\"}}\n"
                )
            })
            .collect();
        let path = directory.path().join(game);
        fs::write(&path, lines).unwrap();
        args.push(path.display().to_string());
    }
    args.extend(["--output=json".to_owned(), format!("--url={url}")]);
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let args = parse(&args).unwrap();
    (directory, args)
}

pub(super) fn games(games: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let games = games.iter();
    games
        .map(|(id, events)| ((*id).to_owned(), *events))
        .collect()
}
