//! Server-sent events, as they come over the wire.

/// A host's events are far smaller; whoever sends more is none.
const EVENT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

/// What has come of a stream, up to the end of its last whole line.
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

/// An event that is larger than any of a host.
#[derive(Debug, thiserror::Error)]
#[error("host-unreachable: an event of the stream is larger than {EVENT_BYTES_MAX} bytes")]
pub struct TooLarge;

impl Parser {
    /// Where to go on after a cut.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The stream was cut: what had come of an event that is not whole comes again.
    pub fn cut(&mut self) {
        *self = Self {
            last_id: self.last_id.take(),
            ..Self::default()
        };
    }

    /// The events that are whole with this.
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
            // Comments, and what a host may say one day.
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
