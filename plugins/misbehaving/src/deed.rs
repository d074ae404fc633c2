//! The deeds that an event can ask for.

use std::{
    cell::RefMut,
    collections::hash_map::RandomState,
    hash::BuildHasher,
    hint::black_box,
    net::TcpStream,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use courtside_plugin::native::{Emission, Header, Outcome, Refusal};
use serde::Deserialize;
use serde_json::json;

use crate::Kept;

/// A deed, such as `{"do":"trap"}` or `{"do":"emit-much","bytes":5000000}`. Any
/// other event is counted and leads to an output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Deed {
    #[default]
    Count,
    Refuse,
    /// Panics.
    Trap,
    /// Panics unless it is alone in its call.
    TrapInCompany,
    /// Recurses without end.
    Recurse,
    /// Never returns, and burns its time.
    Loop,
    /// Sleeps for a day, so that in effect it never returns.
    Sleep,
    Exit,
    /// Allocates until there is no memory left.
    EatMemory,
    /// Emits that many bytes, in values of a megabyte.
    EmitMuch {
        #[serde(default = "a_hundred_megabytes")]
        bytes: usize,
    },
    /// Emits for an event that the call does not have.
    EmitForNobody,
    /// Refuses an event that the call does not have.
    RefuseNobody,
    EmitElsewhere,
    /// Emits with a header that is the host's own.
    EmitHostHeader {
        #[serde(default = "digest_header")]
        name: String,
    },
    /// Makes the state that large.
    Grow {
        #[serde(default = "a_hundred_megabytes")]
        bytes: usize,
    },
    /// Traps at the next checkpoint.
    TrapInCheckpoint,
    /// Prints that many lines, to each of stdout and stderr.
    Print {
        #[serde(default = "ten_thousand")]
        lines: u32,
    },
    /// Looks for files, variables, time and chance, and emits what it sees.
    Look,
    /// Connects to a server, and emits the outcome.
    Connect,
}

fn a_hundred_megabytes() -> usize {
    100_000_000
}

fn digest_header() -> String {
    "courtside-digest".to_owned()
}

fn ten_thousand() -> u32 {
    10_000
}

impl Deed {
    pub(crate) fn of(value: &[u8]) -> Self {
        serde_json::from_slice(value).unwrap_or_default()
    }
}

/// One call of `process`.
pub(crate) struct Call<'a> {
    key: &'a str,
    kept: RefMut<'a, Kept>,
    events: usize,
    emissions: Vec<Emission>,
    refused: Option<Refusal>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(key: &'a str, kept: RefMut<'a, Kept>, events: usize) -> Self {
        Self {
            key,
            kept,
            events,
            emissions: Vec::new(),
            refused: None,
        }
    }

    pub(crate) fn end(self) -> Outcome {
        Outcome {
            emissions: self.emissions,
            refused: self.refused,
        }
    }

    pub(crate) fn refuse(mut self, index: u32) -> Outcome {
        self.refused = Some(Refusal {
            index,
            reason: "refused, as asked".to_owned(),
        });
        self.end()
    }

    /// Counts the event, does what it asks, and emits.
    pub(crate) fn perform(&mut self, index: u32, deed: Deed) {
        self.kept.events += 1;
        let mut emitted = json!({"key": self.key, "events": self.kept.events});
        match deed {
            Deed::Count | Deed::Refuse => {}
            Deed::Trap => panic!("trapped, as asked"),
            Deed::TrapInCompany if self.events > 1 => panic!("trapped in company, as asked"),
            Deed::TrapInCompany => {}
            Deed::Recurse => {
                black_box(recurse(0));
            }
            Deed::Loop => spin(),
            Deed::Sleep => std::thread::sleep(Duration::from_secs(24 * 60 * 60)),
            Deed::Exit => std::process::exit(0),
            Deed::EatMemory => eat_memory(),
            Deed::EmitMuch { bytes } => self.emit_much(index, bytes),
            Deed::EmitForNobody => return self.emit(u32::MAX, None, emitted.to_string()),
            Deed::RefuseNobody => {
                self.refused = Some(Refusal {
                    index: u32::MAX,
                    reason: "refused nobody, as asked".to_owned(),
                });
            }
            Deed::EmitElsewhere => {
                let nowhere = Some("no-such-output".to_owned());
                return self.emit(index, nowhere, emitted.to_string());
            }
            Deed::EmitHostHeader { name } => {
                self.emit(index, None, emitted.to_string());
                if let Some(emission) = self.emissions.last_mut() {
                    emission.headers.push(Header {
                        name,
                        value: Some(b"forged".to_vec()),
                    });
                }
                return;
            }
            Deed::Grow { bytes } => self.kept.ballast = "x".repeat(bytes),
            Deed::TrapInCheckpoint => self.kept.trap_in_checkpoint = true,
            Deed::Print { lines } => print(lines),
            Deed::Look => emitted = look(),
            Deed::Connect => emitted = connect(),
        }
        self.emit(index, None, emitted.to_string());
    }

    fn emit(&mut self, event: u32, output: Option<String>, value: impl Into<Vec<u8>>) {
        self.emissions.push(Emission {
            event,
            output,
            key: None,
            headers: Vec::new(),
            value: Some(value.into()),
        });
    }

    fn emit_much(&mut self, event: u32, bytes: usize) {
        const VALUE_BYTES: usize = 1_000_000;
        for start in (0..bytes).step_by(VALUE_BYTES) {
            self.emit(event, None, vec![b'x'; VALUE_BYTES.min(bytes - start)]);
        }
    }
}

pub(crate) fn spin() -> ! {
    loop {
        black_box(());
    }
}

#[allow(unconditional_recursion, reason = "as asked")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame.iter().sum::<u64>()
}

fn eat_memory() {
    let mut eaten = Vec::new();
    loop {
        eaten.push(black_box(vec![1_u8; 1 << 20]));
    }
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "as asked")]
fn print(lines: u32) {
    for line in 0..lines {
        println!("line {line} to stdout");
        eprintln!("line {line} to stderr");
    }
}

/// Looks at files, variables, time and chance. If the host keeps its promise,
/// the result is always the same.
fn look() -> serde_json::Value {
    let started = Instant::now();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut burnt = 0_u64;
    for number in 0..100_000 {
        burnt = black_box(burnt.wrapping_add(number));
    }
    let read = |path: &str| {
        std::fs::read(path).map_or_else(said, |bytes| format!("{} bytes", bytes.len()))
    };
    json!({
        "args": std::env::args().collect::<Vec<_>>(),
        "env": std::env::vars().map(|(name, _)| name).collect::<Vec<_>>(),
        "file": read("/etc/passwd"),
        "file_here": read("courtside.toml"),
        "dir": std::fs::read_dir("/").map_or_else(said, |entries| format!("{} entries", entries.count())),
        "write": std::fs::write("/tmp/courtside-was-here", "x").map_or_else(said, |()| "written".to_owned()),
        "wall_ns": wall.map_or(0, |since| since.as_nanos() as u64),
        "elapsed_ns": started.elapsed().as_nanos() as u64,
        "chance": RandomState::new().hash_one(0),
        "stdin": std::io::read_to_string(std::io::stdin()).unwrap_or_else(said),
    })
}

/// Tries the host's own machine, and a name that would have to be resolved.
fn connect() -> serde_json::Value {
    let to =
        |address: &str| TcpStream::connect(address).map_or_else(said, |_| "connected".to_owned());
    json!({
        "tcp": to("127.0.0.1:80"),
        "name": to("localhost:80"),
        "listen": std::net::TcpListener::bind("127.0.0.1:0").map_or_else(said, |_| "listening".to_owned()),
        "udp": std::net::UdpSocket::bind("127.0.0.1:0").map_or_else(said, |_| "bound".to_owned()),
    })
}

#[allow(clippy::needless_pass_by_value, reason = "for map_or_else")]
fn said(error: std::io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::Deed;

    #[test]
    fn an_event_asks_for_a_deed_or_counts() {
        for (value, deed) in [
            (
                r#"{"do":"trap-in-company","game_id":"k"}"#,
                Deed::TrapInCompany,
            ),
            (
                r#"{"do":"emit-much"}"#,
                Deed::EmitMuch { bytes: 100_000_000 },
            ),
            (
                r#"{"do":"emit-much","bytes":7}"#,
                Deed::EmitMuch { bytes: 7 },
            ),
            (r#"{"do":"print","lines":2}"#, Deed::Print { lines: 2 }),
            (r#"{"do":"nothing known"}"#, Deed::Count),
            (r#"{"game_id":"k"}"#, Deed::Count),
            ("not json", Deed::Count),
        ] {
            assert_eq!(Deed::of(value.as_bytes()), deed, "{value}");
        }
    }
}
