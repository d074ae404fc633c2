//! A board that is drawn over the one before it, in a terminal.

use std::{collections::BTreeMap, fmt::Write as _};

use courtside_client::terminal::write_out;
use rustix::termios::tcgetwinsize;

use super::game::{Game, board};
use crate::cli::plain;

/// Size to assume if the terminal does not report its own.
const SIZE: (usize, usize) = (80, 24);

/// The last output of each game on the board.
#[derive(Debug, Default)]
pub struct Screen {
    games: BTreeMap<String, String>,
    /// The last output that names no game.
    other: Option<String>,
    /// Number of lines drawn last.
    drawn: usize,
}

impl Screen {
    /// Stores a game's output, or removes the game if there is none.
    pub fn put(&mut self, key: Option<String>, output: Option<String>) {
        match (key, output) {
            (Some(key), Some(output)) => drop(self.games.insert(key, output)),
            (Some(key), None) => drop(self.games.remove(&key)),
            (None, output) => self.other = output,
        }
    }

    /// Removes the games that are not there.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.games.retain(|key, _| is_there(key));
    }

    /// Draws the whole board, or all details of one game.
    pub fn draw(&mut self, only: Option<&str>, note: &str) -> anyhow::Result<()> {
        let (columns, rows) = size();
        let text = self.text(only, note, columns, rows);
        let mut frame = String::new();
        if self.drawn > 0 {
            // Moves up to the first line, so that the new lines overwrite the
            // old ones.
            let _ = write!(frame, "\x1b[{}A\r", self.drawn);
        }
        for line in &text {
            let _ = write!(frame, "{line}\x1b[K\r\n");
        }
        frame.push_str("\x1b[J");
        self.drawn = text.len();
        write_out(frame.as_bytes())
    }

    pub(super) fn text(
        &self,
        only: Option<&str>,
        note: &str,
        columns: usize,
        rows: usize,
    ) -> Vec<String> {
        let mut lines: Vec<String> = match only {
            Some(key) => match self.games.get(key) {
                Some(output) => super::game::details(key, output)
                    .lines()
                    .map(ToOwned::to_owned)
                    .collect(),
                None => vec![key.to_owned()],
            },
            None => {
                let mut games: Vec<_> = self.games.iter().collect();
                let rank = |output: &str| Game::of(output).map_or(3, |game| game.rank());
                games.sort_by_cached_key(|(key, output)| (rank(output), (*key).clone()));
                board(games.into_iter().map(|(key, output)| (&**key, &**output)))
            }
        };
        lines.extend(self.other.as_deref().map(plain::json));
        // One line is for the note, and one for the cursor.
        let room = rows.saturating_sub(2).max(1);
        if lines.len() > room {
            let hidden = lines.len() - room + 1;
            lines.truncate(room - 1);
            lines.push(format!("… and {hidden} more"));
        }
        lines.push(note.to_owned());
        let cut = |line: &String| plain::cut(&plain::line(line.trim_end()), columns).into_owned();
        lines.iter().map(cut).collect()
    }
}

fn size() -> (usize, usize) {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => SIZE,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn output(id: &str, status: &str) -> String {
        json!({"game_id": id, "status": status, "period": 1, "clock": "9:42", "points": {}})
            .to_string()
    }

    #[test]
    fn a_board_fits_its_terminal_and_has_live_games_first() {
        let mut screen = Screen::default();
        for (id, status) in [
            ("a", "final"),
            ("b", "live"),
            ("c", "scheduled"),
            ("d", "live"),
        ] {
            screen.put(Some(id.to_owned()), Some(output(id, status)));
        }
        let lines = screen.text(None, "note", 80, 24);
        let first: Vec<_> = lines.iter().map(|line| line.chars().next()).collect();
        let expected = ['G', 'b', 'd', 'c', 'a', 'n'].map(Some);
        assert_eq!(first, expected, "{lines:?}");

        let lines = screen.text(None, "note", 8, 5);
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert_eq!(lines[2], "… and 3…");
        assert!(
            lines.iter().all(|line| plain::width(line) <= 8),
            "{lines:?}"
        );

        screen.put(Some("b".to_owned()), None);
        screen.put(None, Some("{\"x\":\"\u{9b}\"}".to_owned()));
        let lines = screen.text(None, "note", 80, 24);
        assert_eq!(lines.len(), 6);
        assert_eq!(lines[4], r#"{"x":"\u009b"}"#);
        screen.keep(|key| key == "c");
        let lines = screen.text(None, "note", 80, 24);
        assert!(lines[1].starts_with("c "), "{lines:?}");
        assert_eq!(lines.len(), 4, "{lines:?}");
        let none = Screen::default().text(Some("z"), "note", 80, 24);
        assert_eq!(none, ["z", "note"]);
    }
}
