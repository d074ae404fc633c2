//! The real `courtside play`.

use std::{
    io::Read as _,
    process::{Child, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{games::Game, place::courtside};

/// A player at work. Dropped, it is killed.
#[derive(Debug)]
pub struct Player {
    process: Child,
    _files: tempfile::TempDir,
}

/// The output of a player that has ended.
#[derive(Clone, Debug)]
pub struct Played {
    pub is_success: bool,
    /// One row for each game, as `--output json` prints it.
    pub games: Vec<Value>,
    pub said: String,
}

impl Player {
    /// Starts to play games into the host at a URL.
    #[must_use]
    pub fn start(url: &str, games: &[Game], arguments: &[&str]) -> Self {
        let files = tempfile::tempdir().expect("a directory for games");
        let mut command = courtside("play");
        command
            .args(games.iter().map(|game| game.write(files.path())))
            .args(["--url", url, "--output", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self {
            process: command.spawn().expect("the player starts"),
            _files: files,
        }
    }

    pub fn has_ended(&mut self) -> bool {
        let status = self.process.try_wait().expect("the player's status");
        status.is_some()
    }

    /// Waits for the player's end, which comes at the latest with its own
    /// timeout.
    pub async fn ended(mut self) -> Played {
        let (mut out, mut err) = (self.process.stdout.take(), self.process.stderr.take());
        let said = tokio::task::spawn_blocking(move || {
            let mut said = String::new();
            if let Some(err) = &mut err {
                err.read_to_string(&mut said).expect("what the player says");
            }
            said
        });
        let rows = tokio::task::spawn_blocking(move || {
            let mut rows = String::new();
            if let Some(out) = &mut out {
                out.read_to_string(&mut rows).expect("what it prints");
            }
            rows
        });
        let (said, rows) = (said.await.expect("a reader"), rows.await.expect("a reader"));
        while !self.has_ended() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let status = self.process.wait().expect("the player's end");
        Played {
            is_success: status.success(),
            games: serde_json::from_str(&rows).unwrap_or_default(),
            said,
        }
    }

    /// Waits for the player's end, and checks that every event was acknowledged
    /// and every game has its true score.
    pub async fn succeeds(self, games: &[Game]) {
        let played = self.ended().await;
        assert!(played.is_success, "{played:?}");
        assert_eq!(played.games.len(), games.len(), "{played:?}");
        for (game, row) in games.iter().zip(&played.games) {
            assert_eq!(row["game_id"], *game.id);
            assert_eq!(row["acknowledged"], game.lines.len(), "{row}");
            game.check(&row["output"]);
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // The process may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
