//! Answers and streams as gzip, for clients that ask for it.

use std::io::Read as _;

use axum::{
    body::Body,
    http::{Request, header::ACCEPT_ENCODING},
};
use flate2::{Decompress, FlushDecompress, read::GzDecoder};
use futures_util::StreamExt as _;

use super::host::{Answer, TestHost};

/// An output that is worth compressing, in one line or two.
fn output(n: u32, lines: usize) -> String {
    let players: Vec<_> = (0..40)
        .map(|player| format!(r#""Player {player}":{player}"#))
        .collect();
    let line_break = if lines > 1 { "\n" } else { "" };
    format!(
        r#"{{"n":{n},{line_break}"players":{{{}}}}}"#,
        players.join(",")
    )
}

fn inflated(body: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(body).read_to_string(&mut text).unwrap();
    text
}

async fn get(host: &TestHost, path: &str, encodings: &str, known: &str) -> Answer {
    let request = Request::get(path)
        .header(ACCEPT_ENCODING, encodings)
        .header("if-none-match", known)
        .body(Body::empty())
        .unwrap();
    host.ask(request).await
}

#[tokio::test]
async fn a_game_is_compressed_where_that_is_asked_for() {
    let host = TestHost::new();
    host.put(0, "a", Some(&output(1, 2)));
    host.put(0, "small", Some("1"));
    host.caught_up().await;
    let plain = get(&host, "/games/a", "identity", "").await;
    assert_eq!(plain.body, output(1, 2));
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(plain.header("vary"), Some("accept-encoding"));
    assert_eq!(plain.header("etag"), Some("\"0:0\""));

    // The first request compresses the output, and the second finds it compressed.
    for _ in 0..2 {
        let gzip = get(&host, "/games/a", "zstd, gzip;q=0.9", "").await;
        assert_eq!(gzip.header("content-encoding"), Some("gzip"));
        assert_eq!(gzip.header("content-type"), Some("application/json"));
        assert_eq!(gzip.header("vary"), Some("accept-encoding"));
        // A strong tag cannot stand for other bytes.
        assert_eq!(gzip.header("etag"), Some("W/\"0:0\""));
        assert!(gzip.body.len() < plain.body.len() / 2);
        assert_eq!(inflated(&gzip.body), output(1, 2));
    }
    for (tag, etag) in [("\"0:0\"", "W/\"0:0\""), ("W/\"0:0\"", "W/\"0:0\"")] {
        let known = get(&host, "/games/a", "gzip", tag).await;
        assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
        assert_eq!(known.header("etag"), Some(etag));
        assert_eq!(known.header("vary"), Some("accept-encoding"));
        assert_eq!(known.header("content-encoding"), None);
    }
    let small = get(&host, "/games/small", "gzip", "").await;
    assert_eq!(small.body, "1");
    assert_eq!(small.header("content-encoding"), None);
    assert_eq!(small.header("vary"), Some("accept-encoding"));
}

#[tokio::test]
async fn lists_and_the_page_are_compressed_where_that_is_asked_for() {
    let host = TestHost::new();
    host.put(0, "a", Some(&output(1, 1)));
    host.caught_up().await;
    for path in ["/games", "/app.js", "/openapi.json"] {
        let plain = get(&host, path, "", "").await;
        assert_eq!(plain.header("content-encoding"), None, "{path}");
        assert_eq!(plain.header("vary"), Some("accept-encoding"), "{path}");
        let gzip = get(&host, path, "gzip", "").await;
        assert_eq!(gzip.header("content-encoding"), Some("gzip"), "{path}");
        assert_eq!(gzip.header("vary"), Some("accept-encoding"), "{path}");
        assert!(
            gzip.header("etag").is_none_or(|tag| tag.starts_with("W/")),
            "{path}"
        );
        assert_eq!(inflated(&gzip.body).as_bytes(), plain.body, "{path}");
    }
}

/// A stream that is read as it comes.
struct Inflating {
    body: axum::body::BodyDataStream,
    inflater: Decompress,
    text: Vec<u8>,
    compressed: Vec<u8>,
}

impl Inflating {
    async fn open(host: &TestHost, path: &str) -> Self {
        use tower::ServiceExt as _;
        let request = Request::get(path)
            .header(ACCEPT_ENCODING, "gzip, deflate, br, zstd")
            .body(Body::empty())
            .unwrap();
        let response = host.router().oneshot(request).await.unwrap();
        let header = |name| response.headers().get(name).unwrap().to_str().unwrap();
        assert_eq!(header("content-encoding"), "gzip");
        assert_eq!(header("content-type"), "text/event-stream");
        assert_eq!(header("vary"), "accept-encoding");
        Self {
            body: response.into_body().into_data_stream(),
            inflater: Decompress::new(false),
            text: Vec::new(),
            compressed: Vec::new(),
        }
    }

    /// Reads chunks until the text ends with `end`. The text must not need bytes of a
    /// later chunk.
    async fn until(&mut self, end: &str) -> String {
        const GZIP_HEAD: usize = 10;
        while !self.text.ends_with(end.as_bytes()) {
            let chunk = self.body.next().await.expect("more to come").unwrap();
            let head = GZIP_HEAD.saturating_sub(self.compressed.len());
            self.compressed.extend_from_slice(&chunk);
            self.text.reserve(1 << 20);
            self.inflater
                .decompress_vec(&chunk[head..], &mut self.text, FlushDecompress::Sync)
                .unwrap();
        }
        String::from_utf8(std::mem::take(&mut self.text)).unwrap()
    }
}

#[tokio::test]
async fn each_event_of_a_compressed_stream_comes_at_once() {
    let host = TestHost::new();
    host.put(0, "a", Some(&output(0, 1)));
    host.caught_up().await;
    let mut stream = Inflating::open(&host, "/events").await;
    let mut all = stream.until("retry: 1000\n\n").await;
    for n in 0..50 {
        if n > 0 {
            // The values take turns: one line, two lines, and too small to compress.
            let value = match n % 3 {
                0 => output(n, 1),
                1 => output(n, 2),
                _ => n.to_string(),
            };
            host.put(0, "a", Some(&value));
        }
        let event = stream.until("\n\n").await;
        assert!(
            event.starts_with(&format!("event: game\nid: 0:{n}\ndata: ")),
            "{event}"
        );
        let data: Vec<_> = event
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .collect();
        let data = data.join("\n");
        assert!(data == output(n, 1) || data == output(n, 2) || data == n.to_string());
        all.push_str(&event);
    }
    assert!(stream.compressed.len() < all.len() / 2);
    host.put(0, "a", None);
    let deleted = "event: deleted\nid: 0:50\ndata: {\"game_id\":\"a\"}\n\n";
    assert_eq!(stream.until("\n\n").await, deleted);
    all.push_str(deleted);
    // The stream ends as gzip does, with the checksum of the whole text.
    host.shutdown.cancel();
    while let Some(chunk) = stream.body.next().await {
        stream.compressed.extend_from_slice(&chunk.unwrap());
    }
    assert_eq!(inflated(&stream.compressed), all);
}

#[tokio::test]
async fn a_compressed_stream_has_heartbeats() {
    let host = TestHost::with(|http, _| {
        http.heartbeat = std::time::Duration::from_millis(10);
    });
    host.caught_up().await;
    let mut stream = Inflating::open(&host, "/games/none/events").await;
    stream.until("retry: 1000\n\n").await;
    stream.until(":\n\n").await;
    stream.until(":\n\n").await;
}
