//! A host with tokens: who gets in, by the commands that people use, and what the
//! log says of it. The unit tests of HTTP have every route and every token.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
};

use courtside_tests::{
    Engine, Host, Place, built,
    place::{courtside, output},
    suite::Suite,
    tests, until,
};
use reqwest::{Method, StatusCode};
use serde_json::Value;

const GAME: &str = r#"{"game_id":"LAL-BOS","seq":1,"type":"miss","period":1,"clock":"9:42"}"#;

/// Tokens, each in a file, and the file of their entries that the host reads.
struct Keys {
    dir: tempfile::TempDir,
    entries: Vec<String>,
}

impl Keys {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            entries: Vec::new(),
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("tokens.toml")
    }

    /// Makes a token as a user does, with
    /// `courtside token NAME --scope … >> tokens.toml`.
    fn make(&mut self, name: &str, scopes: &str) -> PathBuf {
        let said = output(courtside("token").args([name, "--scope", scopes]));
        assert!(said.status.success(), "{said:?}");
        let words = String::from_utf8(said.stderr).unwrap();
        let secret = words
            .split_whitespace()
            .find(|word| word.starts_with("courtside_"));
        let path = self.dir.path().join(name);
        fs::write(&path, secret.unwrap()).unwrap();
        self.entries.push(String::from_utf8(said.stdout).unwrap());
        self.write(&self.entries.concat());
        path
    }

    /// Replaces the file at once, as Kubernetes does.
    fn write(&self, text: &str) {
        let new = self.dir.path().join("tokens.new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.file()).unwrap();
    }
}

fn secret(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

async fn start(engine: Engine, keys: &Keys) -> (Place, Host) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let file = keys.file();
    let place = place
        .set("access.tokens_file", file.to_str().unwrap())
        .set("logging.filter", "info,courtside_http=debug");
    let host = place.start().await;
    host.is_ready().await;
    (place, host)
}

fn ask(host: &Host, words: &str, token: Option<&Path>) -> Output {
    let (command, rest) = words.split_once(' ').unwrap();
    let mut command: Command = courtside(command);
    command
        .args(rest.split(' '))
        .args(["--url", &host.url()])
        .env_remove("COURTSIDE_TOKEN");
    if let Some(token) = token {
        // Every command takes a token either way, so the test uses both.
        if words.contains("list") {
            command.env("COURTSIDE_TOKEN", secret(token));
        } else {
            command.arg("--token-file").arg(token);
        }
    }
    output(&mut command)
}

fn words(said: &Output) -> String {
    String::from_utf8_lossy(&said.stderr).into_owned()
}

async fn status(host: &Host, method: Method, path: &str, token: &str) -> StatusCode {
    let request = host.request(method, path).bearer_auth(token);
    let request = request
        .header("content-type", "application/json")
        .body(GAME);
    request.send().await.unwrap().status()
}

/// Each command gets in with the token that it needs, and with no other.
async fn commands_show_their_tokens(engine: Engine) {
    let mut keys = Keys::new();
    let reader = keys.make("reader", "read");
    let player = keys.make("player", "write,read");
    let operator = keys.make("operator", "operate,read");
    let (_place, host) = start(engine, &keys).await;

    let games = "play --simulate 1 --seed 7 --timeout 30s";
    let none = ask(&host, games, None);
    assert!(words(&none).contains("401 Unauthorized"), "{none:?}");
    let wrong = ask(&host, games, Some(&reader));
    assert!(words(&wrong).contains("403 Forbidden"), "{wrong:?}");
    let played = ask(&host, games, Some(&player));
    assert!(played.status.success(), "{played:?}");

    // A command that gets in succeeds, or says why there is nothing to do.
    for (command, token, expected) in [
        ("plugins list", &reader, None),
        ("plugins history", &reader, None),
        ("dead-letter list", &reader, None),
        (
            "plugins rollback scores/default --dry-run",
            &operator,
            Some("nothing-to-roll-back"),
        ),
        ("dead-letter redrive --all --yes", &operator, None),
        ("plugins confirm scores/default", &operator, None),
    ] {
        let none = ask(&host, command, None);
        assert!(
            words(&none).contains("token-required"),
            "{command}: {none:?}"
        );
        let said = ask(&host, command, Some(token));
        match expected {
            None => assert!(said.status.success(), "{command}: {said:?}"),
            Some(code) => assert!(words(&said).contains(code), "{command}: {said:?}"),
        }
    }
    let denied = ask(&host, "plugins confirm scores/default", Some(&reader));
    assert!(words(&denied).contains("scope-missing"), "{denied:?}");
    let health = output(courtside("health").args(["--ready", "--url", &host.url()]));
    assert!(health.status.success(), "{health:?}");

    // The log has the names of the tokens, and not the tokens themselves.
    let log = host.log();
    let operated: Vec<Value> = log
        .lines()
        .filter(|line| line.contains("operator's request answered"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let line = |path: &str| {
        let line = operated
            .iter()
            .find(|line| line["path"] == path && line["token"] == "operator");
        line.expect(path).clone()
    };
    let confirmed = line("/plugins/scores/default/confirm");
    assert_eq!(confirmed["status"], 200, "{operated:?}");
    // The log tells a dry run from a real one.
    let tried = line("/plugins/scores/default/rollback");
    assert_eq!(tried["query"], "dry_run=true", "{operated:?}");
    for token in [&reader, &player, &operator] {
        assert!(!log.contains(&secret(token)));
    }
    host.stop().await;
}

/// A client that hangs up before the answer is in the log all the same, because its
/// order goes on.
async fn who_hangs_up_is_in_the_log(engine: Engine) {
    let mut keys = Keys::new();
    let operator = secret(&keys.make("operator", "operate"));
    let (_place, host) = start(engine, &keys).await;
    let url = host.url();
    let address = url.strip_prefix("http://").unwrap();
    // The body never comes, so the answer cannot come either.
    let request = format!(
        "PUT /plugins/scores/default?gone HTTP/1.1\r\nhost: {address}\r\n\
         authorization: Bearer {operator}\r\ncontent-length: 10\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    drop(stream);
    until("the log to say so", || async {
        let log = host.log();
        let mut lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let said = lines.any(|line: Value| {
            line["message"] == "operator's request begins"
                && line["token"] == "operator"
                && line["method"] == "PUT"
                && line["query"] == "gone"
        });
        said.then_some(()).ok_or(log)
    })
    .await;
    host.stop().await;
}

/// A token that is taken out of the file no longer gets in, a new one does, and a
/// broken file changes nothing.
async fn tokens_come_and_go_while_the_host_runs(engine: Engine) {
    let mut keys = Keys::new();
    let old = secret(&keys.make("old", "read,write"));
    let (_place, host) = start(engine, &keys).await;
    let get = |token: String| {
        let host = &host;
        async move { status(host, Method::GET, "/games", &token).await }
    };
    assert_eq!(get(old.clone()).await, StatusCode::OK);
    assert_eq!(
        status(&host, Method::POST, "/score", &old).await,
        StatusCode::OK
    );

    let new = secret(&keys.make("new", "read"));
    until("the new token to be known", || async {
        let status = get(new.clone()).await;
        (status == StatusCode::OK)
            .then_some(())
            .ok_or(status.to_string())
    })
    .await;
    assert_eq!(get(old.clone()).await, StatusCode::OK, "both, for a while");

    let entry = keys.entries[1].clone();
    keys.write(&format!("{entry}[[tokens"));
    until("the log to say so", || async {
        let log = host.log();
        log.contains("reload-failed").then_some(()).ok_or(log)
    })
    .await;
    assert_eq!(get(old.clone()).await, StatusCode::OK);

    keys.write(&entry);
    until("the old token to be forgotten", || async {
        let status = get(old.clone()).await;
        (status == StatusCode::UNAUTHORIZED)
            .then_some(())
            .ok_or(status.to_string())
    })
    .await;
    assert_eq!(get(new).await, StatusCode::OK);
    host.stop().await;
}

async fn a_host_does_not_start_with_tokens_it_cannot_read(engine: Engine) {
    let place = Place::new()
        .on(engine)
        .set("access.tokens_file", "/nowhere/tokens.toml");
    let said = place.spawn().refuses_to_start().await;
    assert!(said.contains("tokens-invalid"), "{said}");
    let place = Place::new()
        .on(engine)
        .set("http.tls.certificate", "/nowhere/tls.crt")
        .set("http.tls.key", "/nowhere/tls.key");
    let said = place.spawn().refuses_to_start().await;
    assert!(said.contains("certificate-invalid"), "{said}");
}

fn main() -> ExitCode {
    let both = || {
        tests![
            commands_show_their_tokens,
            who_hangs_up_is_in_the_log,
            tokens_come_and_go_while_the_host_runs,
            a_host_does_not_start_with_tokens_it_cannot_read,
        ]
    };
    Suite::new().on_both(both).run()
}
