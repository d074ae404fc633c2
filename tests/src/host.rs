//! A running host, as its operator and its clients see it.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::until;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const LOG_LINES_MAX: usize = 200;

/// The host's process. A drop kills it, and in a test that fails also shows the
/// end of its log.
#[derive(Debug)]
pub struct Host {
    process: Child,
    log: Log,
    address: Option<String>,
    http: reqwest::Client,
}

/// An answer of a host.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub content_type: String,
    pub retry_after: Option<String>,
    pub body: String,
}

impl Answer {
    /// # Panics
    /// If the body is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The stable code of a problem document.
    #[must_use]
    pub fn code(&self) -> String {
        assert_eq!(self.content_type, "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16(), "{self:?}");
        let code = problem["code"].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            problem["type"],
            format!("urn:courtside:problem:{code}"),
            "{self:?}"
        );
        code
    }
}

impl Host {
    pub(crate) fn spawn(command: Command) -> Self {
        let mut host = Self::of(command, Stdio::null(), Stdio::piped());
        let stderr = host.process.stderr.take();
        host.log.follow(stderr.expect("a pipe from the host's log"));
        host
    }

    /// Starts a host at a known address, whose log nobody follows here.
    pub(crate) fn spawn_onto(
        command: Command,
        address: &str,
        stdout: Stdio,
        stderr: Stdio,
    ) -> Self {
        let mut host = Self::of(command, stdout, stderr);
        host.log.tail().is_complete = true;
        host.address = Some(address.to_owned());
        host
    }

    fn of(mut command: Command, stdout: Stdio, stderr: Stdio) -> Self {
        let process = command.stdout(stdout).stderr(stderr).spawn();
        Self {
            process: process.expect("the binary starts"),
            log: Log::default(),
            address: None,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(REQUEST_TIMEOUT)
                .build()
                .expect("an http client"),
        }
    }

    /// Waits until the host listens.
    pub async fn listens(&mut self) {
        let address = {
            let log = self.log.clone();
            let process = &mut self.process;
            until("the host to listen", move || {
                let ended = process.try_wait().expect("the host's status");
                assert!(
                    ended.is_none(),
                    "the host ended, {ended:?}: {}",
                    log.settled()
                );
                let found = log.find("listening", "address");
                async { found.ok_or_else(|| "it does not yet".to_owned()) }
            })
            .await
        };
        self.address = Some(address);
    }

    /// Waits until the host answers, for hosts whose log does not tell that they
    /// listen.
    pub async fn answers(&self) {
        until("the host to answer", || async {
            let answer = self.send(self.request(Method::GET, "/healthz")).await;
            answer.map(|_| ()).map_err(|error| format!("{error:?}"))
        })
        .await;
    }

    /// Waits until the host has its plugins and takes events.
    pub async fn is_ready(&self) {
        until("readiness", || async {
            let answer = self.get("/readyz").await;
            if answer.status == StatusCode::OK {
                Ok(())
            } else {
                Err(answer.body)
            }
        })
        .await;
    }

    #[must_use]
    pub fn address(&self) -> &str {
        self.address.as_deref().expect("the host listens")
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Whether the process that was started still runs.
    pub fn is_running(&mut self) -> bool {
        self.process
            .try_wait()
            .expect("the host's status")
            .is_none()
    }

    /// The last lines of the host's log.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// The id of the host's process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The host's resident memory, in bytes.
    ///
    /// # Panics
    /// If the host does not run.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        let kb: u64 = number.and_then(|kb| kb.parse().ok()).expect("a figure");
        kb * 1024
    }

    // Endings.

    /// Kills the host as a crash would: at once, and without a word.
    pub fn kill(mut self) {
        self.process.kill().expect("a host to kill");
        self.process.wait().expect("the host's end");
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGSTOP: the host stands still, and its connections stay.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Sends SIGCONT: the host goes on, as if no time had passed.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends any other signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("a host that takes a signal");
    }

    /// Waits for the host's end.
    pub async fn ended(&mut self) -> ExitStatus {
        let process = &mut self.process;
        until("the host's end", move || {
            let status = process.try_wait().expect("the host's status");
            async move { status.ok_or_else(|| "it runs".to_owned()) }
        })
        .await
    }

    /// Stops the host cleanly.
    pub async fn stop(mut self) {
        self.terminate();
        let status = self.ended().await;
        assert!(
            status.success(),
            "after SIGTERM the host ended with {status}"
        );
    }

    /// Waits for the end of a host that cannot start, and returns its log.
    pub async fn refuses_to_start(mut self) -> String {
        let status = self.ended().await;
        let said = self.log.settled();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    // Requests.

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().expect("a header in ASCII").to_owned())
        };
        Ok(Answer {
            status: response.status(),
            content_type: header("content-type").unwrap_or_default(),
            retry_after: header("retry-after"),
            body: response.text().await?,
        })
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url()))
    }

    /// # Panics
    /// If there is no answer.
    pub async fn get(&self, path: &str) -> Answer {
        let answer = self.send(self.request(Method::GET, path)).await;
        answer.unwrap_or_else(|error| panic!("GET {path}: {error:?}"))
    }

    /// Posts a body; an error means that the host is away.
    pub async fn try_post(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer, reqwest::Error> {
        let request = self.request(Method::POST, path);
        let request = request.header(CONTENT_TYPE, content_type).body(body);
        self.send(request).await
    }

    /// # Panics
    /// If there is no answer.
    pub async fn post(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let answer = self.try_post(path, content_type, body).await;
        answer.unwrap_or_else(|error| panic!("POST {path}: {error:?}"))
    }

    /// Asks for a change of the host itself.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn operate(
        &self,
        method: Method,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let request = self.request(method.clone(), path).body(body);
        let answer = self.send(request).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"))
    }

    /// Posts an event that must be taken, and returns its place as
    /// `PARTITION:OFFSET`.
    pub async fn accepts(&self, path: &str, event: &Value) -> String {
        let body = event.to_string();
        let answer = self.post(path, "application/json", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{event}: {answer:?}");
        let place = answer.json();
        format!("{}:{}", place["partition"], place["offset"])
    }

    /// Posts events in one request, which must be taken.
    pub async fn accepts_all<L: AsRef<str>>(&self, path: &str, lines: &[L]) {
        let body: String = lines
            .iter()
            .flat_map(|line| [line.as_ref(), "\n"])
            .collect();
        let answer = self.post(path, "application/x-ndjson", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let places = answer.json().as_array().map_or(0, Vec::len);
        assert_eq!(places, lines.len(), "{answer:?}");
    }

    // Views.

    /// The latest output of a game, once the event at `PARTITION:OFFSET` was
    /// processed; `None` if the game never had an output.
    pub async fn game_after(&self, game: &str, pipeline: &str, place: &str) -> Option<Value> {
        let path = format!("/games/{game}?pipeline={pipeline}&after={place}");
        until(&format!("{path} to be processed"), || async {
            let answer = self.get(&path).await;
            match answer.status {
                StatusCode::OK => Ok(Some(answer.json())),
                StatusCode::NOT_FOUND => Ok(None),
                _ => Err(format!("{answer:?}\n{}", self.get("/group").await.body)),
            }
        })
        .await
    }

    /// The latest output of a game of the pipeline `scores`.
    pub async fn game(&self, game: &str) -> Option<Value> {
        let answer = self.get(&format!("/games/{game}")).await;
        match answer.status {
            StatusCode::OK => Some(answer.json()),
            StatusCode::NOT_FOUND => None,
            _ => panic!("game {game}: {answer:?}"),
        }
    }

    /// Waits until every group has processed all there is, and readers see it.
    pub async fn has_processed_all(&self) {
        until("all events to be processed", || async {
            let view = self.get("/group").await.json();
            let groups = view["groups"].as_array().expect("groups").clone();
            if groups.iter().all(|group| group["lag"] == 0) {
                Ok(groups)
            } else {
                Err(view.to_string())
            }
        })
        .await;
        // With `after`, a scoreboard answers once it has read all that was
        // committed by then.
        for group in self.get("/group").await.json()["groups"]
            .as_array()
            .expect("groups")
        {
            for partition in group["partitions"].as_array().expect("partitions") {
                let Some(last) = partition["end"].as_u64().and_then(|end| end.checked_sub(1))
                else {
                    continue;
                };
                let pipeline = group["pipeline"].as_str().expect("a pipeline");
                let place = format!("{}:{last}", partition["partition"]);
                self.game_after("nobody", pipeline, &place).await;
            }
        }
    }

    /// A slot as `GET /plugins` shows it, if it is there.
    pub async fn slot(&self, slot: &str) -> Option<Value> {
        let view = self.get("/plugins").await.json();
        let slots = view["slots"].as_array().expect("slots");
        slots.iter().find(|view| view["slot"] == slot).cloned()
    }

    /// Waits until a slot is as it should be.
    pub async fn slot_is(&self, slot: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{slot} to be {what}"), || async {
            match self.slot(slot).await {
                Some(view) if is(&view) => Ok(view),
                seen => Err(format!("{seen:?}")),
            }
        })
        .await
    }

    /// Waits until a plugin with these bytes is in force in a slot.
    pub async fn runs(&self, slot: &str, bytes: &[u8]) -> Value {
        let digest = courtside_types::Digest::of(bytes).to_string();
        self.slot_is(slot, &format!("active with {digest}"), |view| {
            view["state"] == "active" && view["plugin"]["digest"] == *digest
        })
        .await
    }

    /// Waits until the last file offered to a slot was rejected with a code, and
    /// returns the reason.
    pub async fn rejects(&self, slot: &str, code: &str) -> String {
        let view = self
            .slot_is(slot, &format!("rejected with {code}"), |view| {
                view["state"] == "rejected" && last_event(view)["code"] == code
            })
            .await;
        let reason = last_event(&view)["reason"].as_str().unwrap_or_default();
        assert!(!reason.is_empty(), "no reason in {view}");
        reason.to_owned()
    }
}

impl Host {
    /// Waits until a slot runs the plugin that was ordered, which may be none,
    /// while its file is a plugin that was rolled back.
    pub async fn has_file_rolled_back(&self, slot: &str) -> Value {
        self.slot_is(slot, "active with a file that was rolled back", |view| {
            let file = &view["file"];
            let state = match view["plugin"].is_null() {
                true => "waiting",
                false => "active",
            };
            view["state"] == state
                && file["state"] == "rolled-back"
                && file["code"] == "plugin-rolled-back"
        })
        .await
    }
}

fn last_event(slot: &Value) -> &Value {
    let history = slot["history"].as_array().expect("a history");
    history.last().unwrap_or(&Value::Null)
}

impl Drop for Host {
    fn drop(&mut self) {
        // The process may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
        if thread::panicking() {
            eprintln!("--- the host's log ends with\n{}---", self.log.settled());
        }
    }
}

/// The end of a host's log, filled by a thread that ends with the host.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Tail>>);

#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
    is_complete: bool,
}

impl Log {
    fn follow(&self, stderr: ChildStderr) {
        let log = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { break };
                let mut tail = log.tail();
                if tail.lines.len() == LOG_LINES_MAX {
                    tail.lines.pop_front();
                }
                tail.lines.push_back(line);
            }
            log.tail().is_complete = true;
        });
    }

    fn tail(&self) -> std::sync::MutexGuard<'_, Tail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A field of the first event with that message.
    fn find(&self, message: &str, field: &str) -> Option<String> {
        let tail = self.tail();
        tail.lines.iter().find_map(|line| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["message"] == message).then(|| event[field].as_str().map(str::to_owned))?
        })
    }

    fn text(&self) -> String {
        let tail = self.tail();
        tail.lines
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect()
    }

    /// The log of a host that has ended, once all its lines are read.
    fn settled(&self) -> String {
        for _ in 0..500 {
            if self.tail().is_complete {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.text()
    }
}
