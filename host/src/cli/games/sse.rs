//! Server-sent events, as they come over the wire.

use courtside_types::failure::ErrorCode;

/// A host's events are far smaller; a larger event does not come from a host.
const EVENT_BYTES_MAX: usize = 32 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

/// Parser of a stream, which may be cut into chunks at any byte.
#[derive(Debug, Default)]
pub struct Parser {
    rest: Vec<u8>,
    event: Event,
    id: Option<String>,
    /// The id of the last event that came whole.
    last_id: Option<String>,
    /// The last line ended with a carriage return: a line feed belongs to it.
    after_return: bool,
}

/// An event larger than any that a host sends.
#[derive(Debug, thiserror::Error)]
#[error("an event of the stream is larger than {EVENT_BYTES_MAX} bytes")]
pub struct TooLarge;

impl ErrorCode for TooLarge {
    fn code(&self) -> &'static str {
        "host-unreachable"
    }
}

impl Parser {
    /// The id of the event to go on after, once the stream was cut.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// Drops a partial event after a cut, because the host sends that event again.
    pub fn cut(&mut self) {
        *self = Self {
            last_id: self.last_id.take(),
            ..Self::default()
        };
    }

    /// Takes the next bytes, and returns the events that are whole with them.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            let follows_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if follows_return => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.rest);
                    self.line(&String::from_utf8_lossy(&line), &mut events);
                }
                byte => self.rest.push(byte),
            }
        }
        if self.rest.len() + self.event.data.len() > EVENT_BYTES_MAX {
            return Err(TooLarge);
        }
        Ok(events)
    }

    fn line(&mut self, line: &str, events: &mut Vec<Event>) {
        if line.is_empty() {
            let mut event = std::mem::take(&mut self.event);
            if let Some(id) = self.id.take() {
                self.last_id = Some(id);
            }
            if event.data.pop().is_some() {
                events.push(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                self.event.data.push_str(value);
                self.event.data.push('\n');
            }
            "id" => self.id = Some(value.to_owned()),
            // Comments, and fields that hosts may add one day.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": courtside\nretry: 1000\n\nevent: game\nid: 2:17,3:0\ndata: {\"a\":\r\ndata: 1}\r\n\r\n:\n\nevent: deleted\nid: 2:18,3:0\ndata: {}\n\n";

    #[test]
    fn events_are_the_same_however_they_are_cut_up() {
        let expected = [("game", "{\"a\":\n1}"), ("deleted", "{}")].map(|(name, data)| Event {
            name: name.to_owned(),
            data: data.to_owned(),
        });
        for size in 1..STREAM.len() {
            let mut parser = Parser::default();
            let chunks = STREAM.as_bytes().chunks(size);
            let events: Vec<_> = chunks
                .flat_map(|chunk| parser.take(chunk).unwrap())
                .collect();
            assert_eq!(events, expected, "in pieces of {size}");
            assert_eq!(parser.last_id(), Some("2:18,3:0"));
        }
    }

    #[test]
    fn what_was_cut_is_asked_for_again() {
        let mut parser = Parser::default();
        assert_eq!(
            parser
                .take(b"id: 0:1\ndata: a\n\nid: 0:2\ndata: b")
                .unwrap()
                .len(),
            1
        );
        assert_eq!(parser.last_id(), Some("0:1"));
        parser.cut();
        assert_eq!(parser.last_id(), Some("0:1"));
        let again = parser.take(b"id: 0:2\ndata: b\n\n").unwrap();
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].data, "b");
    }
}
