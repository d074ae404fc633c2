//! Follows games live. The host's stream of events is taken up again after a cut,
//! for as long as somebody looks.

use std::{
    collections::HashSet,
    io::IsTerminal as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use courtside_client::{
    root,
    terminal::{say_line, try_write},
};
use courtside_process::backoff::Backoff;
use courtside_types::failure::Failure;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    each_page,
    game::Game,
    screen::Screen,
    sse::{Event, Parser},
};
use crate::cli::{
    client::{Client, Opened},
    operator::OutputArgs,
    plain,
};

/// A host says something at least every `http.heartbeat` (15 s).
const SILENCE_MAX: Duration = Duration::from_secs(60);
const AGAIN_MIN: Duration = Duration::from_millis(250);
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// Shortest time between two draws of a board.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Exit status that shells give to a command ended by SIGINT.
const INTERRUPTED: u8 = 130;

/// The field of an output that names its game.
#[derive(Deserialize)]
struct Named {
    game_id: Option<String>,
}

/// A change, written as a line of JSON.
#[derive(Serialize)]
struct Change<'a> {
    event: &'a str,
    key: Option<&'a str>,
    /// The game's output; None for a game that was deleted.
    output: Option<&'a RawValue>,
}

/// How changes are shown.
enum View {
    Board(Box<Screen>),
    Lines,
    Json,
}

/// The games to follow.
pub struct Followed<'a> {
    /// Path of the stream.
    pub path: String,
    /// The one game to follow; None follows all.
    pub only: Option<&'a str>,
    pub pipeline: Option<&'a str>,
}

struct Following<'a> {
    followed: &'a Followed<'a>,
    view: View,
    /// When the board is drawn next; None as long as nothing has changed.
    draw_at: Option<Instant>,
    note: String,
}

/// Follows until Ctrl-C, or until the reader of the output has closed it.
pub async fn run(
    client: &Client,
    followed: &Followed<'_>,
    output: &OutputArgs,
) -> anyhow::Result<ExitCode> {
    let view = if output.is_json() {
        View::Json
    } else if std::io::stdout().is_terminal() {
        View::Board(Box::default())
    } else {
        View::Lines
    };
    let mut following = Following {
        followed,
        view,
        draw_at: None,
        note: String::new(),
    };
    tokio::select! {
        ended = following.run(client) => ended.map(|()| ExitCode::SUCCESS),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

impl Following<'_> {
    async fn run(&mut self, client: &Client) -> anyhow::Result<()> {
        let mut parser = Parser::default();
        let mut backoff = Backoff::new(AGAIN_MIN, AGAIN_MAX);
        let mut was_there = false;
        loop {
            let why = match client.stream(&self.followed.path, parser.last_id()).await {
                Opened::Stream(mut stream) => {
                    if std::mem::replace(&mut was_there, true) {
                        self.drop_gone(client).await;
                    }
                    self.say(&format!("following {}, Ctrl-C to end", client.url()))?;
                    loop {
                        let chunk = tokio::select! {
                            chunk = tokio::time::timeout(SILENCE_MAX, stream.chunk()) => chunk,
                            () = at(self.draw_at) => {
                                self.draw()?;
                                continue;
                            }
                        };
                        match chunk {
                            Ok(Ok(Some(bytes))) => {
                                backoff.reset();
                                for event in parser.take(&bytes).map_err(Failure::of)? {
                                    if !self.take(&event)? {
                                        return Ok(());
                                    }
                                }
                            }
                            Ok(Ok(None)) => break "the stream ended".to_owned(),
                            Ok(Err(error)) => {
                                break format!("the stream was cut: {}", root(&error));
                            }
                            Err(_) => {
                                break "the host sends nothing, not even heartbeats".to_owned();
                            }
                        }
                    }
                }
                // A wrong address is a mistake, not an outage.
                Opened::Later(error) if !was_there => return Err(error),
                Opened::Later(error) => format!("{error:#}"),
                Opened::Refused(error) => return Err(error),
            };
            parser.cut();
            self.lost(&plain::line(&why))?;
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Removes games that were deleted while the stream was cut, because the new
    /// stream may not mention them. Its events are applied after the list, so
    /// they win.
    async fn drop_gone(&mut self, client: &Client) {
        let View::Board(screen) = &mut self.view else {
            return;
        };
        if self.followed.only.is_some() {
            return;
        }
        let mut there = HashSet::new();
        let listed = each_page(client, self.followed.pipeline, |page| {
            there.extend(page.games.iter().filter_map(|output| game_id(output.get())));
        });
        // Without a list nothing is known to be gone.
        if listed.await.is_ok() {
            screen.keep(|key| there.contains(key));
        }
    }

    /// Returns false once nobody reads the output any longer.
    fn take(&mut self, event: &Event) -> anyhow::Result<bool> {
        let only = self.followed.only;
        let key = only.map(ToOwned::to_owned);
        let key = key.or_else(|| game_id(&event.data));
        let is_deleted = event.name == "deleted";
        let line = match &mut self.view {
            View::Board(screen) => {
                screen.put(key, (!is_deleted).then(|| event.data.clone()));
                self.draw_at.get_or_insert(Instant::now() + DRAW_EVERY);
                return Ok(true);
            }
            View::Json => {
                let output: Option<&RawValue> = serde_json::from_str(&event.data).ok();
                let change = Change {
                    event: &event.name,
                    key: key.as_deref(),
                    output: output.filter(|_| !is_deleted),
                };
                plain::json(&serde_json::to_string(&change)?)
            }
            View::Lines => match (Game::of(&event.data), key) {
                (_, Some(key)) if is_deleted => plain::line(&format!("{key}  deleted")).into(),
                (Some(game), _) => plain::line(&game.headline()).into(),
                (None, Some(key)) if only.is_some() => {
                    format!("{}  {}", plain::line(&key), plain::json(&event.data))
                }
                _ => plain::json(&event.data),
            },
        };
        try_write((line + "\n").as_bytes())
    }

    fn draw(&mut self) -> anyhow::Result<()> {
        self.draw_at = None;
        match &mut self.view {
            View::Board(screen) => screen.draw(self.followed.only, &self.note),
            View::Lines | View::Json => Ok(()),
        }
    }

    /// Shows a note below the games of a board.
    fn say(&mut self, note: &str) -> anyhow::Result<()> {
        note.clone_into(&mut self.note);
        self.draw()
    }

    fn lost(&mut self, why: &str) -> anyhow::Result<()> {
        match self.view {
            View::Board(_) => self.say(&format!("{why}; trying again")),
            View::Lines | View::Json => {
                if self.note != why {
                    say_line(&format!("courtside: {why}; trying again"));
                    why.clone_into(&mut self.note);
                }
                Ok(())
            }
        }
    }
}

fn game_id(output: &str) -> Option<String> {
    let named: Named = serde_json::from_str(output).ok()?;
    named.game_id
}

/// Waits until that moment, or without end if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use axum::{Json, Router, extract::Query, routing::get};
    use serde_json::json;

    use super::*;
    use crate::cli::client::HostArgs;

    fn client(url: String) -> Client {
        let args = HostArgs {
            url,
            token_file: None,
            cacert: None,
        };
        Client::new(&args).unwrap()
    }

    #[tokio::test]
    async fn games_that_went_while_nobody_listened_go_from_the_board() {
        let followed = Followed {
            path: "/events".to_owned(),
            only: None,
            pipeline: None,
        };
        let mut following = Following {
            followed: &followed,
            view: View::Board(Box::default()),
            draw_at: None,
            note: String::new(),
        };
        for id in ["a", "b", "gone"] {
            let event = Event {
                name: "game".to_owned(),
                data: json!({ "game_id": id }).to_string(),
            };
            assert!(following.take(&event).unwrap());
        }
        let shown = |following: &Following<'_>| {
            let View::Board(screen) = &following.view else {
                panic!("no board");
            };
            let lines = screen.text(None, "note", 80, 24);
            let words = lines.iter().filter_map(|line| line.split(' ').next());
            words.map(ToOwned::to_owned).collect::<Vec<_>>()
        };

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let list = |Query(query): Query<HashMap<String, String>>| async move {
            let (id, next) = match query.get("cursor").map(String::as_str) {
                Some("a/1") => ("b", None),
                _ => ("a", Some("a/1")),
            };
            Json(json!({ "games": [{ "game_id": id }], "keys": [id], "next": next }))
        };
        let router = Router::new().route("/games", get(list));
        tokio::spawn(async move { axum::serve(listener, router).await });
        following
            .drop_gone(&client(format!("{url}/elsewhere")))
            .await;
        assert_eq!(shown(&following), ["KEY", "a", "b", "gone", "note"]);
        following.drop_gone(&client(url)).await;
        assert_eq!(shown(&following), ["KEY", "a", "b", "note"]);
    }
}
