//! The place where a host lives: its directories, its settings, its address.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{Engine, Host, built};

const CONFIG: &str = "courtside.toml";

/// Directories and settings that one host after another runs with.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
    data: PathBuf,
    settings: Vec<(String, String)>,
    config: Option<String>,
    listen: String,
    engine: Engine,
    /// The prefix of the names of topics and groups, because tests share brokers.
    prefix: String,
}

/// The pipeline that a host has by default.
const SCORES: &str = r#"
[pipelines.scores]
input = "NBA-Games"
output = "NBA-Scores"
key = "/game_id"
"#;

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// An empty place. Its hosts look at their plugins more often than by default,
    /// and leave the log's old records alone, so that tests can read them.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let place = Self {
            data: dir.path().join("data"),
            dir,
            settings: Vec::new(),
            config: None,
            listen: "127.0.0.1:0".to_owned(),
            engine: Engine::Embedded,
            prefix: String::new(),
        };
        fs::create_dir_all(&place.data).expect("a data directory");
        fs::create_dir_all(place.plugin_dir()).expect("a plugin directory");
        place.share_compiled();
        place
            .set("logging.format", "json")
            .set("slots.settle", "20ms")
            .set("slots.poll_interval", "50ms")
            .set("log.cleanup_interval", "1h")
            .set("log.disk_free_min", "1MiB")
    }

    /// A place whose pipeline `scores` has a plugin.
    #[must_use]
    pub fn with_plugin(plugin: &[u8]) -> Self {
        let place = Self::new();
        place.put("scores/default", plugin);
        place
    }

    #[must_use]
    pub fn set(mut self, path: &str, value: &str) -> Self {
        self.settings.push((path.to_owned(), value.to_owned()));
        self
    }

    /// Changes the engine. On the brokers that all tests share, topics and groups
    /// have names of this place alone ([`topic`](Self::topic)). A session is short,
    /// so that a host that comes back after a crash soon has its own partitions
    /// again. Topics have few partitions and requests have much time, because many
    /// tests ask a broker that has just started for topics at once.
    #[must_use]
    pub fn on(mut self, engine: Engine) -> Self {
        self.engine = engine;
        let Some(cluster) = engine.cluster() else {
            return self;
        };
        self.prefix = format!("t{:08x}-", rand::random::<u32>());
        self.write_config();
        self.set("kafka.brokers", cluster.brokers())
            .set("log.partitions", "3")
            .set("kafka.request_timeout", "30s")
            .set("kafka.session_timeout", "6s")
            .set("worker.drain_deadline", "4s")
            .set("kafka.heartbeat_interval", "500ms")
    }

    /// A place for another host of the same groups: directories of its own, and
    /// the settings of this one.
    #[must_use]
    pub fn beside(&self) -> Self {
        let mut other = Self::new();
        other.engine = self.engine;
        self.prefix.clone_into(&mut other.prefix);
        self.settings.clone_into(&mut other.settings);
        self.config.clone_into(&mut other.config);
        if self.path(CONFIG).exists() {
            other.write_config();
        }
        other
    }

    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// The name of a topic or a group in this place.
    #[must_use]
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Sets the text of `courtside.toml`.
    #[must_use]
    pub fn configured(mut self, toml: &str) -> Self {
        self.config = Some(toml.to_owned());
        self.write_config();
        self
    }

    fn write_config(&self) {
        let text = match &self.config {
            Some(text) if self.prefix.is_empty() => text.clone(),
            Some(text) => self.with_names(text),
            None => self.with_names(SCORES),
        };
        fs::write(self.path(CONFIG), text).expect("a configuration file");
    }

    /// A configuration with the names that this place has for its topics and groups.
    fn with_names(&self, text: &str) -> String {
        let mut config: toml::Table = toml::from_str(text).expect("a configuration");
        let pipelines = config
            .get_mut("pipelines")
            .and_then(|all| all.as_table_mut());
        for (name, pipeline) in pipelines.expect("pipelines") {
            let pipeline = pipeline.as_table_mut().expect("a pipeline");
            let group = toml::Value::from(format!("courtside-{name}"));
            pipeline.entry("group").or_insert(group);
            for (setting, value) in pipeline {
                match &**setting {
                    "input" | "output" => self.name(value),
                    "group" => *value = self.topic(value.as_str().expect("a group")).into(),
                    "outputs" => {
                        let outputs = value.as_table_mut().expect("outputs");
                        outputs.iter_mut().for_each(|(_, output)| self.name(output));
                    }
                    _ => {}
                }
            }
        }
        config.to_string()
    }

    /// Gives a topic of a configuration the name that it has here.
    fn name(&self, topic: &mut toml::Value) {
        match topic {
            toml::Value::Table(table) => {
                self.name(table.get_mut("topic").expect("a topic's name"));
            }
            name => *name = self.topic(name.as_str().expect("a topic")).into(),
        }
    }

    #[must_use]
    pub fn with_data_dir(mut self, data: impl Into<PathBuf>) -> Self {
        self.data = data.into();
        self
    }

    #[must_use]
    pub fn listening_at(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// Lets all hosts of this place listen at one address. Its port is below those
    /// that the system gives for port 0, so that nobody takes it while a host is
    /// down.
    #[must_use]
    pub fn with_fixed_port(mut self) -> Self {
        self.listen = loop {
            let port = rand::random_range(10_000..30_000_u16);
            let address = format!("127.0.0.1:{port}");
            if std::net::TcpListener::bind(&address).is_ok() {
                break address;
            }
        };
        self
    }

    /// Compiled plugins are shared by all tests, for most run the same few.
    fn share_compiled(&self) {
        let shared = built::scratch_dir().join("courtside-compiled");
        fs::create_dir_all(&shared).expect("a directory for compiled plugins");
        symlink(shared, self.data.join("compiled")).expect("a link to compiled plugins");
    }

    /// The path of a name in the place's own directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    #[must_use]
    pub fn plugin_dir(&self) -> PathBuf {
        self.path("plugins.d")
    }

    /// The host's URL, if its port is fixed.
    #[must_use]
    pub fn url(&self) -> String {
        assert!(!self.listen.ends_with(":0"), "the port is not fixed");
        format!("http://{}", self.listen)
    }

    /// The file of a slot: `scores/default`, `scores/keys/LAL-BOS`.
    #[must_use]
    pub fn slot_file(&self, slot: &str) -> PathBuf {
        let path = self.plugin_dir().join(format!("{slot}.wasm"));
        fs::create_dir_all(path.parent().expect("a directory")).expect("a slot's directory");
        path
    }

    /// Puts a file into a slot, which is complete from its first moment.
    pub fn put(&self, slot: &str, bytes: &[u8]) {
        let path = self.slot_file(slot);
        let draft = path.with_extension("wasm.draft");
        fs::write(&draft, bytes).expect("a plugin's file");
        fs::rename(draft, path).expect("a plugin's file in its place");
    }

    /// Puts what `make` makes (a link, a pipe, a directory, a file) into a slot, in one
    /// step: the slot is never empty in between.
    ///
    /// # Panics
    /// If the slot is empty.
    pub fn exchange(&self, slot: &str, make: impl FnOnce(&Path)) {
        let draft = self.path("draft");
        make(&draft);
        let (here, path) = (rustix::fs::CWD, self.slot_file(slot));
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(here, &draft, here, path, exchange).expect("an exchange");
        if draft
            .symlink_metadata()
            .expect("the slot's old file")
            .is_dir()
        {
            fs::remove_dir(draft).expect("the old directory");
        } else {
            fs::remove_file(draft).expect("the old file");
        }
    }

    /// Writes a first part into a slot's file in place, and leaves the file open for
    /// more.
    #[must_use]
    pub fn begin(&self, slot: &str, bytes: &[u8]) -> fs::File {
        let mut file = fs::File::create(self.slot_file(slot)).expect("a plugin's file");
        file.write_all(bytes).expect("a part of a plugin");
        file.sync_all().expect("a part of a plugin on disk");
        file
    }

    pub fn remove(&self, slot: &str) {
        fs::remove_file(self.slot_file(slot)).expect("a plugin's file to remove");
    }

    /// The command `courtside serve` for this place, not started.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = courtside("serve");
        command
            .current_dir(self.dir.path())
            .args(["--listen", &self.listen])
            .arg("--data-dir")
            .arg(&self.data)
            .arg("--plugin-dir")
            .arg(self.plugin_dir());
        self.add_settings(&mut command);
        command
    }

    fn add_settings(&self, command: &mut Command) {
        if self.path(CONFIG).exists() {
            command.arg("--config").arg(self.path(CONFIG));
        }
        for (path, value) in &self.settings {
            command.args(["--set", &format!("{path}={value}")]);
        }
    }

    /// An operator's command, and its arguments, with the settings of the hosts here.
    ///
    /// # Panics
    /// If `words` is empty.
    #[must_use]
    pub fn operate(&self, words: &[&str]) -> Command {
        let (command, arguments) = words.split_first().expect("a command");
        let mut command = courtside(command);
        command
            .current_dir(self.dir.path())
            .args(arguments)
            .arg("--data-dir")
            .arg(&self.data);
        self.add_settings(&mut command);
        command
    }

    /// Starts a host, and does not wait until it listens.
    #[must_use]
    pub fn spawn(&self) -> Host {
        Host::spawn(self.command())
    }

    /// Starts a host that writes its standard output and log where the caller says.
    /// The place needs a fixed address.
    #[must_use]
    pub fn spawn_onto(&self, stdout: Stdio, stderr: Stdio) -> Host {
        Host::spawn_onto(self.command(), &self.listen, stdout, stderr)
    }

    /// Starts a host that listens.
    pub async fn start(&self) -> Host {
        let mut host = self.spawn();
        host.listens().await;
        host
    }

    /// Starts a host that has its plugins and takes events.
    pub async fn start_ready(&self) -> Host {
        let host = self.start().await;
        host.is_ready().await;
        host
    }
}

/// A command of the binary, without the environment variables that would configure
/// it.
#[must_use]
pub fn courtside(command: &str) -> Command {
    let mut process = Command::new(built::courtside());
    process.arg(command).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COURTSIDE_") {
            process.env_remove(name);
        }
    }
    process
}

/// Runs a command to its end, which must come by itself.
#[must_use]
pub fn output(command: &mut Command) -> Output {
    command.output().expect("the binary runs")
}
