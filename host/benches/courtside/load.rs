//! Input for the benchmarks: the events of invented games, mixed as live games bring
//! them.

use std::sync::Arc;

use bytes::Bytes;
use courtside_play::simulate::Season;

/// An event of a game, ready to be appended.
#[derive(Clone)]
pub struct Line {
    pub game: Arc<str>,
    pub json: Bytes,
}

/// The first `events_each` events of `games` games, one of each in turn.
pub fn interleaved(games: u64, events_each: usize) -> Vec<Line> {
    let season = Season::new(1);
    let mut by_game: Vec<_> = (0..games)
        .filter_map(|number| season.game(number))
        .map(|game| game.take(events_each))
        .collect();
    let mut lines = Vec::new();
    loop {
        let before = lines.len();
        for game in &mut by_game {
            lines.extend(game.next().map(|event| {
                Line {
                    game: Arc::clone(&event.game_id),
                    json: serde_json::to_vec(&event)
                        .expect("an event is plain data")
                        .into(),
                }
            }));
        }
        if lines.len() == before {
            return lines;
        }
    }
}

pub fn mean_bytes(lines: &[Line]) -> usize {
    lines.iter().map(|line| line.json.len()).sum::<usize>() / lines.len().max(1)
}
