//! Game files, read and checked whole before anything is sent.
//!
//! Files stay in memory while they are played, because `--loop` and a check of
//! everything beforehand both need them. Lines are slices of the bytes that
//! were read.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    error::PlayError,
    pace::{GameTime, Line},
};

/// The events of one game, in the order of the files.
#[derive(Clone, Debug)]
pub(super) struct RecordedGame {
    pub(super) id: Arc<str>,
    events: Vec<Recorded>,
}

#[derive(Clone, Debug)]
struct Recorded {
    line: Bytes,
    /// Range of the value of `game_id` in the line, quotes included.
    game_id: Range<usize>,
    at: Option<GameTime>,
}

/// The fields of an event that play itself needs. The host judges the rest.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    game_id: &'a RawValue,
    #[serde(borrow)]
    period: Option<&'a RawValue>,
    #[serde(borrow)]
    clock: Option<&'a RawValue>,
}

/// Reads files (`-` is standard input) into games, in order of appearance.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<RecordedGame>, PlayError> {
    let mut games = Games::default();
    for path in paths {
        let (name, bytes) = contents(path)?;
        games.add(&name, &bytes)?;
    }
    if games.games.is_empty() {
        return Err(PlayError::Nothing);
    }
    Ok(games.games)
}

fn contents(path: &Path) -> Result<(String, Bytes), PlayError> {
    let unreadable = |source| PlayError::Unreadable {
        path: path.to_owned(),
        source,
    };
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map_err(unreadable)?;
        return Ok(("standard input".to_owned(), bytes.into()));
    }
    if path.is_dir() {
        return Err(PlayError::Directory {
            path: path.to_owned(),
        });
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    Ok((path.display().to_string(), bytes.into()))
}

#[derive(Default)]
struct Games {
    games: Vec<RecordedGame>,
    places: HashMap<Arc<str>, usize>,
}

impl Games {
    fn add(&mut self, file: &str, bytes: &Bytes) -> Result<(), PlayError> {
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let line = bytes.slice_ref(line);
            let (id, event) = parse(line).map_err(|reason| PlayError::BrokenLine {
                file: file.to_owned(),
                line: index + 1,
                reason,
            })?;
            self.push(id, event);
        }
        Ok(())
    }

    fn push(&mut self, id: String, event: Recorded) {
        let place = self.places.get(id.as_str()).copied();
        match place.and_then(|place| self.games.get_mut(place)) {
            Some(game) => game.events.push(event),
            None => {
                let id: Arc<str> = id.into();
                self.places.insert(Arc::clone(&id), self.games.len());
                self.games.push(RecordedGame {
                    id,
                    events: vec![event],
                });
            }
        }
    }
}

fn parse(line: Bytes) -> Result<(String, Recorded), String> {
    if line.first() != Some(&b'{') {
        return Err("not a JSON object".to_owned());
    }
    let head: Head<'_> = serde_json::from_slice(&line).map_err(|error| without_line(&error))?;
    let id: String = serde_json::from_str(head.game_id.get())
        .map_err(|_| "game_id is not a string".to_owned())?;
    if id.is_empty() {
        return Err("game_id is empty".to_owned());
    }
    // A period or clock of another shape is for the host to refuse.
    let at = head.period.zip(head.clock).and_then(|(period, clock)| {
        let period: u32 = serde_json::from_str(period.get()).ok()?;
        let clock: String = serde_json::from_str(clock.get()).ok()?;
        GameTime::at(period, &clock)
    });
    let raw = head.game_id.get();
    let start = (raw.as_ptr() as usize).saturating_sub(line.as_ptr() as usize);
    let game_id = start..start + raw.len();
    Ok((id, Recorded { line, game_id, at }))
}

/// The file's line number is named already; serde's is always 1.
fn without_line(error: &serde_json::Error) -> String {
    error
        .to_string()
        .replace(" at line 1 column ", " at column ")
}

impl RecordedGame {
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The game's lines, with `id` in the place of its own where it differs;
    /// all other bytes are as they were read.
    pub(super) fn lines(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<impl Iterator<Item = Line> + Send + use<>, serde_json::Error> {
        let other_id = if id == &*self.id {
            None
        } else {
            Some(serde_json::to_string(id)?)
        };
        let game = Arc::clone(self);
        Ok((0..self.len()).map_while(move |index| {
            let event = game.events.get(index)?;
            let bytes = match &other_id {
                None => event.line.clone(),
                Some(id) => event.renamed(id),
            };
            Some(Line {
                bytes,
                at: event.at,
            })
        }))
    }
}

impl Recorded {
    fn renamed(&self, id: &str) -> Bytes {
        let before = self.line.get(..self.game_id.start).unwrap_or_default();
        let after = self.line.get(self.game_id.end..).unwrap_or_default();
        [before, id.as_bytes(), after].concat().into()
    }
}

#[cfg(test)]
mod tests {
    use courtside_types::failure::ErrorCode as _;

    use super::*;

    fn games(text: &str) -> Result<Vec<RecordedGame>, PlayError> {
        let mut games = Games::default();
        games.add("a.ndjson", &Bytes::copy_from_slice(text.as_bytes()))?;
        Ok(games.games)
    }

    fn texts(game: &RecordedGame, id: &str) -> Vec<String> {
        Arc::new(game.clone())
            .lines(id)
            .unwrap()
            .map(|line| String::from_utf8(line.bytes.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn events_are_grouped_by_game_in_order() {
        let games = games(concat!(
            "{\"game_id\":\"a\",\"seq\":1}\r\n",
            "\n",
            "{\"seq\":1, \"game_id\" : \"b\"}\n",
            "  {\"game_id\":\"\\u0061\",\"seq\":2}",
        ))
        .unwrap();
        let ids: Vec<_> = games.iter().map(|game| &*game.id).collect();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(
            texts(&games[0], "a"),
            [
                r#"{"game_id":"a","seq":1}"#,
                r#"{"game_id":"\u0061","seq":2}"#
            ]
        );
    }

    #[test]
    fn another_id_changes_nothing_else() {
        let games = games("{\"x\":1.10,\"game_id\" : \"a\",\"b\":\"game_id\"}\n").unwrap();
        assert_eq!(
            texts(&games[0], "a-r\"2"),
            [r#"{"x":1.10,"game_id" : "a-r\"2","b":"game_id"}"#]
        );
    }

    #[test]
    fn a_broken_line_is_named() {
        for (text, reason) in [
            ("[1]", "not a JSON object"),
            (
                "{\"game_id\":\"a\"",
                "EOF while parsing an object at column 14",
            ),
            ("{\"seq\":1}", "missing field `game_id` at column 9"),
            ("{\"game_id\":7}", "game_id is not a string"),
            ("{\"game_id\":\"\"}", "game_id is empty"),
            ("{\"game_id\":\"a\"} x", "trailing characters at column 17"),
        ] {
            let text = format!("{{\"game_id\":\"ok\"}}\n\n{text}\n");
            let error = games(&text).unwrap_err();
            assert_eq!(error.code(), "play-broken-line");
            assert_eq!(
                error.to_string(),
                format!("play-broken-line: a.ndjson:3: {reason}")
            );
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_a_broken_line() {
        let mut games = Games::default();
        let bytes = Bytes::from_static(b"{\"game_id\":\"\xff\"}");
        let error = games.add("a", &bytes).unwrap_err();
        assert_eq!(error.code(), "play-broken-line");
    }

    #[test]
    fn odd_periods_and_clocks_are_for_the_host_to_judge() {
        let games = games("{\"game_id\":\"a\",\"period\":\"x\",\"clock\":[]}").unwrap();
        assert_eq!(games[0].events[0].at, None);
    }

    #[test]
    fn directories_missing_files_and_empty_files_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let error = read(&[directory.path().to_owned()]).unwrap_err();
        assert_eq!(error.code(), "play-file-is-directory");
        assert!(error.to_string().contains("/*.ndjson"), "{error}");

        let file = directory.path().join("game.ndjson");
        let error = read(std::slice::from_ref(&file)).unwrap_err();
        assert_eq!(error.code(), "play-file-unreadable");

        fs::write(&file, "\n").unwrap();
        let error = read(&[file]).unwrap_err();
        assert_eq!(error.code(), "play-nothing");
    }
}
