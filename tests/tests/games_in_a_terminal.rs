//! `courtside games` as a person and a script run it: the real binary, asked of
//! real hosts, in a pipe and in a terminal.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use courtside_tests::{
    Engine, Host, Place, built,
    games::{self, Game},
    place::{courtside, output},
    suite::Suite,
    tests, until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn games(url: &str, words: &[&str]) -> Command {
    let mut command = courtside("games");
    command.args(words).args(["--url", url]);
    command
}

/// The status and the words of the command in a script.
fn said(host: &Host, words: &[&str]) -> (Option<i32>, String, String) {
    let said = output(&mut games(&host.url(), words));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (said.status.code(), text(said.stdout), text(said.stderr))
}

/// A command that goes on, and its output so far.
struct Following {
    process: Child,
    said: Arc<Mutex<String>>,
}

impl Following {
    fn start(mut command: Command) -> Self {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let said = Arc::<Mutex<String>>::default();
        let mut stdout = process.stdout.take().expect("a pipe");
        let heard = Arc::clone(&said);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                heard.lock().expect("no panic").push_str(&text);
            }
        });
        // The test reads standard error, so that the command never waits for
        // it.
        let stderr = process.stderr.take().expect("a pipe");
        thread::spawn(move || BufReader::new(stderr).lines().for_each(drop));
        Self { process, said }
    }

    fn text(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    async fn says(&self, what: &str, is_it: impl Fn(&str) -> bool) {
        until(what, || async {
            let text = self.text();
            if is_it(&text) { Ok(()) } else { Err(text) }
        })
        .await;
    }

    /// Sends the signal of Ctrl-C, and returns the status.
    fn interrupt(mut self) -> Option<i32> {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), Signal::INT).expect("a process");
        self.process.wait().expect("its end").code()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // The process may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

async fn post(host: &Host, games: &[Game]) {
    for game in games {
        host.accepts_all("/score", &game.lines).await;
    }
    host.has_processed_all().await;
}

async fn games_are_shown_to_people_and_scripts(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let host = place.start_ready().await;
    let (code, table, _) = said(&host, &[]);
    assert_eq!((code, table.lines().count()), (Some(0), 1), "{table}");

    let played = games::invented(5);
    post(&host, &played).await;
    let (code, table, _) = said(&host, &[]);
    assert_eq!(code, Some(0));
    assert_eq!(table.lines().count(), 6, "{table}");
    let (code, listed, _) = said(&host, &["--output", "json"]);
    assert_eq!(code, Some(0));
    let listed: Value = serde_json::from_str(&listed).expect("one document");
    let listed = listed.as_array().expect("games");
    for game in &played {
        let one = listed.iter().find(|one| one["key"] == game.id);
        game.check(&one.expect("the game")["output"]);
        let points = game.points();
        let (away, home) = {
            let mut teams = game.id.rsplit('-');
            let home = teams.next().unwrap();
            (teams.next().unwrap(), home)
        };
        let score = |team: &str| points[&team.to_owned()];
        let line = table.lines().find(|line| line.starts_with(&game.id));
        let line: Vec<_> = line.expect("a line").split("  ").map(str::trim).collect();
        let line: Vec<_> = line.into_iter().filter(|cell| !cell.is_empty()).collect();
        let matchup = format!("{away} @ {home}");
        let points = format!("{}-{}", score(away), score(home));
        assert_eq!(line[1..3], [&*matchup, &*points], "{table}");
        assert_eq!(line[5], "final", "{table}");
        let (code, text, _) = said(&host, &[&game.id, "--output", "text"]);
        assert_eq!(code, Some(0));
        let total = score(home).to_string();
        let home = text
            .lines()
            .find(|line| line.starts_with(&format!("{home} ")));
        assert_eq!(
            home.expect("a line").split(' ').next_back(),
            Some(&*total),
            "{text}"
        );
    }
    let (code, one, _) = said(&host, &[&played[0].id, "--output", "json"]);
    assert_eq!(code, Some(0));
    let one: Value = serde_json::from_str(&one).expect("one document");
    assert_eq!(one["key"], played[0].id);
    played[0].check(&one["output"]);

    for (words, code) in [
        (["NYK-MIA", "--output=json"], "game-not-found"),
        (["--pipeline=bets", "--output=json"], "pipeline-not-found"),
        (["--pipeline=bets", "--follow"], "pipeline-not-found"),
    ] {
        let (status, out, err) = said(&host, &words);
        assert_eq!((status, &*out), (Some(1), ""), "{words:?}");
        assert!(err.starts_with(&format!("courtside: {code}: ")), "{err}");
    }
    let url = host.url();
    host.stop().await;
    let gone = output(&mut games(&url, &["--follow"]));
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    let err = String::from_utf8(gone.stderr).expect("text");
    assert!(err.starts_with("courtside: host-unreachable: "), "{err}");
}

/// A key, a team and a name that would clear a screen, or write backwards.
async fn nothing_of_an_event_commands_a_terminal(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let host = place.start_ready().await;
    let (game, team, player) = ("x\u{202e}y", "\u{9b}2J", "A\u{1b}[31m\u{7}B");
    let event = json!({
        "game_id": game, "seq": 1, "type": "free_throw", "team": team,
        "player": player, "points": 1, "period": 1, "clock": "9:42",
    });
    host.accepts("/score", &event).await;
    host.has_processed_all().await;
    let shown = host.game("x%E2%80%AEy").await.expect("an output");
    assert_eq!(shown["points"][team], 1, "{shown}");
    for words in [
        &[][..],
        &[game],
        &["--output", "json"],
        &[game, "--output", "json"],
    ] {
        let (code, text, err) = said(&host, words);
        assert_eq!(code, Some(0), "{err}");
        let active = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!text.contains(active), "{words:?}: {text:?}");
        assert!(text.contains("202e"), "{words:?}: {text:?}");
    }
    let (_, text, _) = said(&host, &[game, "--output", "json"]);
    let same: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(same, json!({ "key": game, "output": shown }));
    let mut letters = courtside("dead-letter");
    let letters = output(letters.args(["list", "--url", &host.url()]));
    assert!(letters.status.success(), "{letters:?}");
    host.stop().await;
}

/// Outputs of a plugin that scores no games are shown as they are.
async fn what_is_no_game_is_shown_as_json(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("misbehaving")).on(engine);
    let host = place.start_ready().await;
    host.accepts(
        "/score",
        &json!({
            "game_id": "LAL-BOS", "seq": 1, "type": "miss", "team": "BOS",
            "player": null, "period": 1, "clock": "9:42",
        }),
    )
    .await;
    host.has_processed_all().await;
    let shown = host.game("LAL-BOS").await.expect("an output");
    let (code, text, _) = said(&host, &["LAL-BOS"]);
    assert_eq!(code, Some(0));
    let (key, json) = text.split_once('\n').expect("two lines");
    assert_eq!(key, "LAL-BOS");
    assert_eq!(serde_json::from_str::<Value>(json).expect("JSON"), shown);
    let (code, text, _) = said(&host, &[]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("KEY"), "{text}");
    host.stop().await;
}

/// The host goes and comes back while a script and a person look.
async fn followers_go_on_after_a_restart(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring"))
        .on(engine)
        .with_fixed_port();
    let mut host = place.start_ready().await;
    let played = games::invented(4);
    post(&host, &played[..2]).await;
    let url = place.url();
    let lines = Following::start(games(&url, &["--follow", "--output", "json"]));
    let text = Following::start(games(&url, &["--follow"]));
    let one = Following::start(games(&url, &["--follow", &played[1].id]));
    // `script` makes a terminal of 24 lines, where it is installed.
    let mut screen = Command::new("script");
    let binary = built::courtside();
    let command = format!(
        "stty rows 24 cols 100; {} games --follow --url {url}",
        binary.display()
    );
    screen
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::null());
    let board = Command::new("script")
        .arg("--version")
        .output()
        .is_ok()
        .then(|| Following::start(screen));
    for game in &played[..2] {
        let is_there = |text: &str| text.contains(&game.id);
        lines.says("the first games", is_there).await;
        text.says("the first games", is_there).await;
        if let Some(board) = &board {
            board.says("the first games", is_there).await;
        }
    }
    one.says("its game", |text| text.contains("final")).await;
    host.stop().await;
    host = place.start_ready().await;
    post(&host, &played[2..]).await;
    let is_whole = |text: &str| {
        let mut games = played[2..].iter();
        games.all(|game| {
            let mut lines = text.lines();
            lines.any(|line| line.contains(&game.id) && line.contains("final"))
        })
    };
    lines.says("the games since", is_whole).await;
    text.says("the games since", is_whole).await;
    if let Some(board) = board {
        board.says("the games since", is_whole).await;
        let text = board.text();
        assert!(text.contains("\x1b["), "it is drawn over: {text:?}");
    }
    // Each line is a document, and the last one of a game has its end.
    let text_of_lines = lines.text();
    for game in &played {
        let of_game = text_of_lines.lines().filter_map(|line| {
            let change: Value = serde_json::from_str(line).expect("a line of JSON");
            assert_eq!(change["event"], "game", "{line}");
            (change["key"] == game.id).then(|| change["output"].clone())
        });
        game.check(&of_game.fold(None, |_, last| Some(last)).expect("the game"));
    }
    // A game that has not changed was not shown again.
    let first = text.text();
    let told = first.lines().filter(|line| line.starts_with(&played[0].id));
    let told: Vec<_> = told.filter(|line| line.ends_with("final")).collect();
    assert_eq!(told.len(), 1, "{first}");
    assert_eq!(lines.interrupt(), Some(130));
    assert_eq!(text.interrupt(), Some(130));
    assert_eq!(one.interrupt(), Some(130));
    host.stop().await;
}

fn main() -> ExitCode {
    let tests = || {
        tests![
            games_are_shown_to_people_and_scripts,
            nothing_of_an_event_commands_a_terminal,
            what_is_no_game_is_shown_as_json,
            followers_go_on_after_a_restart,
        ]
    };
    Suite::new().on_both(tests).run()
}
