//! A host with a log in memory, asked in process or over a socket.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, HeaderValue, Request, StatusCode, header::HOST},
    middleware::map_request,
};
use bytes::Bytes;
use courtside_engine::{
    backup::source::Source,
    dead_letters::DeadLetters,
    pipeline::identity::Identity,
    replay::trace::EntityHistory,
    slots::{
        request::{RequestError, RequestKind, RequestResult},
        view::{GroupsView, PluginsView},
    },
};
use courtside_log::{
    LogError,
    backup::{BackupRows, TakeRow},
};
use courtside_process::exposition::Exposition;
use courtside_types::{
    Header, NewRecord, NotReady, Offset, PLUGIN_HEADER, PartitionId, SOURCE_HEADER,
    slot_name::SlotName,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate as http;
use crate::operator::Operator;
use crate::{
    App, HttpConfig,
    ingest::{
        Endpoint, GAME_ID_POINTER, Ingest, IngestConfig, KeyRule, SCORES, Schema,
        testing::{MemoryLog, eventually},
    },
    router,
    scoreboard::{BoardSpec, Scoreboard, ScoreboardConfig},
};

pub const INPUT: &str = "NBA-Games";
pub const OUTPUT: &str = "NBA-Scores";
pub const GOOD: &str = r#"{"game_id":"LAL-BOS","seq":1,"type":"miss","period":1,"clock":"9:42"}"#;

/// The largest plugin that `scores` takes.
pub const PLUGIN_BYTES_MAX: usize = 1000;

#[derive(Debug, Default)]
pub struct FakeOperator {
    pub not_ready: Mutex<Vec<NotReady>>,
    /// None makes a handler panic that asks for groups, as one test wants it.
    pub groups: Mutex<Option<GroupsView>>,
    /// The only pipeline whose entities can be asked for.
    pub traced: Mutex<Option<Arc<EntityHistory>>>,
    pub asked: Mutex<Vec<(String, SlotName, RequestKind)>>,
    /// Answer to the next question; without one the question waits.
    pub answer: Mutex<Option<RequestResult>>,
    unanswered: Mutex<Vec<oneshot::Sender<RequestResult>>>,
    /// Whether there is a log to back up, which never ends.
    pub endless: AtomicBool,
}

struct Endless;

impl BackupRows for Endless {
    fn next(&mut self, take: &mut TakeRow<'_>) -> Result<bool, LogError> {
        take(0, b"key", &[7; 1000]).map(|()| true)
    }
}

impl Operator for FakeOperator {
    fn ask(
        &self,
        pipeline: &str,
        slot: SlotName,
        kind: RequestKind,
    ) -> Result<oneshot::Receiver<RequestResult>, RequestError> {
        let (answer, answered) = oneshot::channel();
        let asked = (pipeline.to_owned(), slot, kind);
        self.asked.lock().push(asked);
        match self.answer.lock().take() {
            Some(said) => answer.send(said).expect("somebody who asks"),
            // The sender is kept, because the question would fail without it.
            None => self.unanswered.lock().push(answer),
        }
        Ok(answered)
    }

    fn plugin_bytes_max(&self, pipeline: &str, _: &SlotName) -> Option<usize> {
        (pipeline == SCORES).then_some(PLUGIN_BYTES_MAX)
    }

    fn plugins(&self) -> PluginsView {
        PluginsView { slots: Vec::new() }
    }

    fn groups(&self) -> GroupsView {
        self.groups.lock().clone().expect("groups to tell of")
    }

    fn not_ready(&self) -> Vec<NotReady> {
        self.not_ready.lock().clone()
    }

    fn gauges(&self, _: &mut Exposition) {}

    fn traced(&self, pipeline: &str) -> Option<Arc<EntityHistory>> {
        let traced = self.traced.lock();
        traced
            .clone()
            .filter(|traced| *traced.pipeline.name == *pipeline)
    }

    fn backup(&self) -> Result<Source, LogError> {
        if self.endless.load(Ordering::Relaxed) {
            return Ok(Source::new(Path::new("nowhere"), Box::new(Endless)));
        }
        Err(LogError::BackupElsewhere)
    }

    fn letters(&self, _: &str) -> Option<Arc<DeadLetters>> {
        None
    }
}

pub struct TestHost {
    pub log: Arc<MemoryLog>,
    pub operator: Arc<FakeOperator>,
    pub host: App,
    pub shutdown: CancellationToken,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Checks that the answer is a problem with this status and code.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str) -> serde_json::Value {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status.as_u16(), status, "{text}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{text}"
        );
        let problem = self.json();
        assert_eq!(problem["code"], code, "{text}");
        assert_eq!(problem["type"], format!("urn:courtside:problem:{code}"));
        assert_eq!(problem["status"], status);
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        problem
    }
}

impl TestHost {
    pub fn new() -> Self {
        Self::with(|_, _| {})
    }

    pub fn with(configure: impl FnOnce(&mut HttpConfig, &mut IngestConfig)) -> Self {
        let log = MemoryLog::new(&[
            (INPUT, 3),
            (OUTPUT, 2),
            ("Bets", 1),
            ("Bets-Out", 1),
            ("courtside-scores.dead-letter", 3),
            ("courtside-scores.plugins", 1),
        ]);
        let mut config = HttpConfig::default();
        let mut ingest = IngestConfig::default();
        configure(&mut config, &mut ingest);
        let endpoint = |pipeline: &str, topic: &str, partitions, pointer: &str, schema| Endpoint {
            pipeline: pipeline.into(),
            topic: topic.into(),
            partitions,
            partitioner: Arc::default(),
            key: KeyRule::new(pointer).unwrap(),
            schema,
            mark: Identity::default().mark(),
        };
        let spec = |pipeline: &str, input: &str, output: &str| BoardSpec {
            pipeline: pipeline.into(),
            group: pipeline.into(),
            input: input.into(),
            output: output.into(),
        };
        let endpoints = [
            endpoint(SCORES, INPUT, 2, GAME_ID_POINTER, Some(Schema::Score)),
            endpoint("bets", "Bets", 1, "/bet/id", None),
        ];
        let boards = vec![
            spec(SCORES, INPUT, OUTPUT),
            spec("bets", "Bets", "Bets-Out"),
        ];
        let operator = Arc::new(FakeOperator::default());
        let metrics = http::prometheus().unwrap().build_recorder().handle();
        let host = App {
            log: log.clone(),
            ingest: Arc::new(Ingest::new(log.clone(), ingest, endpoints)),
            scoreboard: Scoreboard::start(log.clone(), ScoreboardConfig::default(), boards)
                .unwrap(),
            operator: operator.clone(),
            metrics,
            config,
            access: http::Access::default(),
            tls: None,
            reload: tokio::sync::watch::channel(()).1,
        };
        Self {
            log,
            operator,
            host,
            shutdown: CancellationToken::new(),
        }
    }

    pub fn router(&self) -> Router {
        router(self.host.clone(), self.shutdown.clone()).layer(map_request(named))
    }

    pub async fn ask(&self, request: Request<Body>) -> Answer {
        let response = self.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: to_bytes(body, usize::MAX).await.unwrap(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    pub async fn post(&self, path: &str, content_type: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(path)
            .header("content-type", content_type)
            .body(body.into())
            .unwrap();
        self.ask(request).await
    }

    pub fn put(&self, partition: u32, key: &str, value: Option<&str>) -> Offset {
        let record = NewRecord {
            timestamp_ms: 7,
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            headers: vec![
                Header::new(PLUGIN_HEADER, "nba-scoring/0.1.0".as_bytes()),
                Header::new(SOURCE_HEADER, "NBA-Games/0/5".as_bytes()),
            ],
            value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        };
        self.log.put(OUTPUT, partition, record)
    }

    /// Waits until readers see all outputs that were put.
    pub async fn caught_up(&self) {
        eventually("caught up", || self.host.scoreboard.not_ready().is_empty()).await;
        // No key goes to partition 2 of the input.
        self.log.commit(2, 1);
        let board = self.host.scoreboard.board(SCORES).unwrap();
        let timeout = Duration::from_secs(30);
        board
            .wait_for(PartitionId(2), Offset(0), timeout)
            .await
            .unwrap();
    }

    /// Waits until readers see this value of a game.
    pub async fn sees(&self, key: &str, value: &str) {
        for _ in 0..3_000 {
            if self.get(&format!("/games/{key}")).await.body == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {key} is {value}");
    }

    /// Listens on a port of its own.
    pub async fn listen(&self) -> (SocketAddr, JoinHandle<()>) {
        let listener = http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = http::serve(listener, self.host.clone(), self.shutdown.clone());
        (address, tokio::spawn(serve))
    }
}

/// Adds the `Host` header, which every client sends.
async fn named(mut request: Request<Body>) -> Request<Body> {
    let host = HeaderValue::from_static("localhost:8080");
    request.headers_mut().entry(HOST).or_insert(host);
    request
}

/// A raw connection.
pub struct Wire {
    pub stream: TcpStream,
    pub read: String,
}

/// No answer takes so long; the bound only lets a failed test end.
const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(60);

impl Wire {
    pub async fn open(address: SocketAddr, request: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        Self {
            stream,
            read: String::new(),
        }
    }

    /// Reads until the text has come, and returns all that came up to it.
    pub async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.read.find(text) {
                let rest = self.read.split_off(at + text.len());
                return std::mem::replace(&mut self.read, rest);
            }
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(WAIT_MAX, self.stream.read(&mut bytes)).await;
            let count = read
                .unwrap_or_else(|_| panic!("no {text:?} after {:?}", self.read))
                .unwrap();
            assert!(count > 0, "cut before {text:?}, after {:?}", self.read);
            self.read
                .push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    /// Reads to the end of the connection.
    pub async fn rest(mut self) -> String {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = self.stream.read_to_end(&mut rest).await;
        self.read + &String::from_utf8_lossy(&rest)
    }
}
