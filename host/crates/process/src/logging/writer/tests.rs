use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// The longest wait of a test; a test that comes near it fails.
const LIMIT: Duration = Duration::from_secs(60);

/// How the next write ends.
enum Outcome {
    Takes(usize),
    Fails(io::ErrorKind),
}

/// A descriptor whose writes wait until the test says how they end.
struct Played {
    outcomes: Receiver<Outcome>,
    written: Sender<Vec<u8>>,
}

impl Write for Played {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Once the test has dropped its end, every write succeeds.
        match self.outcomes.recv() {
            Ok(Outcome::Fails(kind)) => Err(kind.into()),
            Ok(Outcome::Takes(count)) => {
                let count = count.min(bytes.len());
                let _ = self.written.send(bytes[..count].to_vec());
                Ok(count)
            }
            Err(_) => {
                let _ = self.written.send(bytes.to_vec());
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct World {
    queue: Arc<LogQueue>,
    outcomes: Sender<Outcome>,
    written: Receiver<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let ((outcomes, played), (writes, written)) = (channel(), channel());
        let sink = Played {
            outcomes: played,
            written: writes,
        };
        let notice = |lines: u64| format!("{lines} missing\n").into_bytes();
        let queue = LogQueue::start(sink, notice).unwrap();
        Self {
            queue,
            outcomes,
            written,
        }
    }

    fn takes_a_line(&self) {
        self.outcomes.send(Outcome::Takes(usize::MAX)).unwrap();
    }

    fn fails(&self, kind: io::ErrorKind) {
        self.outcomes.send(Outcome::Fails(kind)).unwrap();
    }

    fn next(&self) -> String {
        let bytes = self.written.recv_timeout(LIMIT).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// All lines that are written, where every write succeeds from now on.
    fn rest(self) -> Vec<String> {
        let Self {
            queue,
            outcomes,
            written,
        } = self;
        drop(outcomes);
        queue.flush(LIMIT);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        written.try_iter().map(text).collect()
    }
}

#[test]
fn lines_are_written_whole_and_in_order() {
    let world = World::new();
    for line in ["one\n", "two\n", "three\n"] {
        world.queue.push(line.as_bytes());
    }
    assert_eq!(world.rest(), ["one\n", "two\n", "three\n"]);
}

#[test]
fn a_descriptor_that_hangs_holds_nobody_up_and_costs_bounded_bytes() {
    let world = World::new();
    let line = [vec![b'x'; 1_000 - LINE_OVERHEAD_BYTES - 1], b"\n".to_vec()].concat();
    let pushed = 3 * QUEUE_BYTES_MAX as u64 / 1_000;
    world.queue.push(&line);
    // A writer that took its first line later would make room behind the gap.
    while !world.queue.queue.lock().is_writing {
        std::thread::yield_now();
    }
    for _ in 1..pushed {
        world.queue.push(&line);
    }
    {
        let queue = world.queue.queue.lock();
        assert!(queue.bytes <= QUEUE_BYTES_MAX);
        let held: usize = queue
            .entries
            .iter()
            .map(|entry| match entry {
                Entry::Line(line) => cost(line),
                Entry::Gap => 0,
            })
            .sum();
        assert_eq!(held, queue.bytes);
    }
    let dropped = world.queue.dropped();
    assert!(
        dropped.queue_full >= 2 * QUEUE_BYTES_MAX as u64 / 1_000 - 1,
        "{dropped:?}"
    );
    // The end of the process waits no longer than it wants to.
    world.queue.flush(Duration::from_millis(1));

    let written = world.rest();
    let notices: Vec<_> = written
        .iter()
        .filter(|line| line.ends_with("missing\n"))
        .collect();
    assert_eq!(notices, [&format!("{} missing\n", dropped.queue_full)]);
    assert_eq!(written.len() as u64 - 1, pushed - dropped.queue_full);
    assert!(
        written.last().unwrap().ends_with("missing\n"),
        "the gap is at the end"
    );
}

#[test]
fn a_gap_is_told_of_where_it_is() {
    let world = World::new();
    let large = vec![b'x'; QUEUE_BYTES_MAX - LINE_OVERHEAD_BYTES];
    world.queue.push(b"first\n");
    // The writer must have the first line before the next one needs all the room.
    while !world.queue.queue.lock().is_writing {
        std::thread::yield_now();
    }
    world.queue.push(&large);
    world.queue.push(b"lost\n");
    world.queue.push(b"lost\n");
    world.takes_a_line();
    assert_eq!(world.next(), "first\n");
    world.takes_a_line();
    assert_eq!(world.next().len(), large.len());
    world.queue.push(b"last\n");
    assert_eq!(world.rest(), ["2 missing\n", "last\n"]);
}

#[test]
fn what_cannot_be_written_is_counted_and_told_of_once_there_is_room() {
    let world = World::new();
    world.queue.push(b"lost\n");
    world.queue.push(b"lost\n");
    world.fails(io::ErrorKind::StorageFull);
    world.fails(io::ErrorKind::BrokenPipe);
    // The first notice fails as well, and does not count as a line of the log.
    world.fails(io::ErrorKind::StorageFull);
    world.takes_a_line();
    assert_eq!(world.next(), "2 missing\n");
    let expected = DroppedLines {
        queue_full: 0,
        write_failed: 2,
    };
    assert_eq!(world.queue.dropped(), expected);
    world.queue.push(b"found\n");
    assert_eq!(world.rest(), ["found\n"], "it is told once");
}

#[test]
fn half_a_line_ends_before_the_next_begins() {
    let world = World::new();
    world.queue.push(b"a torn line\n");
    world.queue.push(b"whole\n");
    world.outcomes.send(Outcome::Takes(4)).unwrap();
    world.fails(io::ErrorKind::StorageFull);
    assert_eq!(world.next(), "a to");
    while world.queue.dropped().write_failed == 0 {
        std::thread::yield_now();
    }
    let written = world.rest();
    assert_eq!(written[0], "\n");
    assert!(written.contains(&"whole\n".to_owned()), "{written:?}");
    assert!(written.contains(&"1 missing\n".to_owned()), "{written:?}");
}

#[test]
fn an_interrupted_write_is_tried_again() {
    let world = World::new();
    world.queue.push(b"line\n");
    world.fails(io::ErrorKind::Interrupted);
    assert_eq!(world.rest(), ["line\n"]);
}

#[test]
fn the_end_tells_what_is_missing_without_waiting_for_the_next_try() {
    let world = World::new();
    world.queue.push(b"lost\n");
    world.fails(io::ErrorKind::StorageFull);
    while world.queue.dropped().write_failed == 0 {
        std::thread::yield_now();
    }
    assert_eq!(world.rest(), ["1 missing\n"]);
}
